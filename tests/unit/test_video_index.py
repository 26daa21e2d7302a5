"""The packet index: it describes its file, is small, and is never trusted blindly."""

import io
import json
import zlib
from dataclasses import fields, replace
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import decode_all, numbered_image, reference_clip, write_video

from kineray.errors import DecodeError
from kineray.video import PacketIndex, index_video, open_video, read_clip
from kineray.video.encode import Settings, encode

VARIABLE = list(np.cumsum(np.random.default_rng(0).integers(1, 60, 40)))
FILES = {
    "plain.mp4": {},
    "plain.mkv": {},
    "plain.ts": {},
    "plain.flv": {},
    "open_gop.mp4": {"params": "open-gop=1:scenecut=0"},
    "start.mp4": {"start": 31},
    "edit_list.mp4": {"start": -15},
    "variable.mp4": {"times": VARIABLE, "time_base": Fraction(1, 600)},
    "variable.mkv": {"times": VARIABLE, "time_base": Fraction(1, 600)},
    "turned.mp4": {"rotation": 90},
    "hevc.mkv": {"codec": "libx265", "params": "open-gop=1"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp9.flv": {"codec": "libvpx-vp9"},
    "av1.mp4": {"codec": "libsvtav1"},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "jpeg.mkv": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "one_frame.mp4": {"frames": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexed")
    for name, options in FILES.items():
        write_video(folder / name, **options)
    return folder


def again(index):
    return PacketIndex.from_bytes(index.to_bytes())


@pytest.mark.parametrize("name", FILES)
def test_the_index_survives_being_stored(folder, name):
    index = index_video(folder / name)
    stored = again(index)
    for field in fields(PacketIndex):
        np.testing.assert_array_equal(getattr(stored, field.name), getattr(index, field.name))
    assert stored.to_bytes() == index.to_bytes()
    assert index.size_bytes == (folder / name).stat().st_size


@pytest.mark.parametrize("name", FILES)
def test_the_index_agrees_with_a_full_decode(folder, name):
    index = again(index_video(folder / name))
    times, images = decode_all(folder / name)
    with av.open(str(folder / name)) as container:
        frames = list(container.decode(video=0))
        stream = container.streams.video[0]
        last_s = float((stream.duration or 0) * stream.time_base - times[-1])
    assert (index.frames, len(index.times_s)) == (len(images), len(images))
    np.testing.assert_allclose(index.times_s, [float(time) for time in times], atol=1e-6)
    if "times" not in FILES[name]:
        last_s = 1 / 25
    elif name.endswith("mkv"):  # Matroska stores no durations: the last frame gets that of the previous one
        last_s = float(times[-1] - times[-2])
    assert index.duration_s == pytest.approx(float(times[-1]) + last_s, abs=0.0011)
    if not index.counted:
        keys = [float(time) for frame, time in zip(frames, times, strict=True) if frame.key_frame]
        np.testing.assert_allclose(index.key_frame_times_s[index.key_frame_times_s >= 0], keys, atol=1e-6)
    assert (index.height, index.width) == images.shape[1:3]
    assert not index.truncated


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(
    "options", [{}, {"gop": 250}, {"gop": 30, "bframes": 8, "params": "b-pyramid=normal:open-gop=1"}]
)
def test_the_index_is_small(tmp_path, suffix, options):
    path = write_video(tmp_path / f"long.{suffix}", frames=300, width=32, height=32, **options)
    assert len(index_video(path).to_bytes()) < 600


@pytest.mark.parametrize("name", ["open_gop.mp4", "hevc.mkv", "plain.mp4", "mpeg2.ts", "edit_list.mp4"])
def test_decoding_starts_at_the_previous_key_frame(folder, name):
    index = index_video(folder / name)
    keys = [position for position, flag in enumerate(index.flags) if flag & 1]
    leading = 0
    for position, pts in enumerate(index.pts):
        enough = [key for key in keys if key <= position and index.pts[key] <= pts]
        assert index.key_frame_before(position) == max(enough, default=0)
        leading += index.key_frame_before(position) < max(key for key in keys if key <= position)
    assert (leading > 0) == (name in ("open_gop.mp4", "hevc.mkv", "mpeg2.ts"))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_refused(data):
    for text in (data, zlib.compress(data), zlib.compress(b'{"version": 6}\n' + data)):
        with pytest.raises(ValueError):
            PacketIndex.from_bytes(text)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_index_is_refused_or_usable(folder, data):
    stored = index_video(folder / "plain.mp4").to_bytes()
    if data.draw(st.booleans()):
        with pytest.raises(ValueError):
            PacketIndex.from_bytes(stored[: data.draw(st.integers(0, len(stored) - 1))])
        return
    head, _, arrays = zlib.decompress(stored).partition(b"\n")
    fields = json.loads(head)
    key = data.draw(st.sampled_from(sorted(fields)))
    value = st.none() | st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.integers(-1, 1), max_size=3)
    fields[key] = data.draw(value)
    if data.draw(st.booleans()):
        del fields[key]
    try:
        index = PacketIndex.from_bytes(zlib.compress(json.dumps(fields).encode() + b"\n" + arrays))
    except ValueError:
        return
    assert index.frames > 0 and np.isfinite(index.duration_s)


def test_an_index_of_another_file_is_refused(tmp_path):
    path = write_video(tmp_path / "video.mp4")
    index = index_video(path)
    write_video(path, frames=41)
    with (
        pytest.raises(DecodeError) as caught,
        open_video(path, index=index),
    ):
        pass
    assert (caught.value.code, caught.value.key) == ("wrong_frame_count", str(path))
    path.unlink()
    with pytest.raises(DecodeError) as caught, open_video(path, index=index):
        pass
    assert caught.value.code == "not_found"


OTHERS = {
    "frames": {"frames": 30},
    "longer": {"frames": 90},
    "gop": {"gop": 7},
    "no_b_frames": {"bframes": 0},
    "pyramid": {"bframes": 6, "params": "b-pyramid=normal"},
    "later": {"start": 9},
    "slower": {"time_base": Fraction(1, 10)},
    "faster": {"fps": 50},
    "variable": {"frames": 40, "times": VARIABLE, "time_base": Fraction(1, 600)},
    "larger": {"width": 96, "height": 80},
    "turned": {"rotation": 90},
    "upside_down": {"rotation": 180},
    "hevc": {"codec": "libx265"},
    "vp9": {"codec": "libvpx-vp9"},
    "mpeg4": {"codec": "mpeg4"},
}
DIFFERENT = {"larger", "turned", "upside_down", "hevc", "vp9", "mpeg4", "slower", "variable"}


@pytest.mark.parametrize("other", OTHERS)
def test_an_index_of_another_file_of_the_same_size_is_not_trusted(tmp_path, other):
    given_file = write_video(tmp_path / "given.mp4", frames=60)
    path = write_video(tmp_path / "other.mp4", **({"frames": 60} | OTHERS[other]))
    size = max(path.stat().st_size, given_file.stat().st_size) + 8
    for file in (path, given_file):
        pad = size - file.stat().st_size
        file.write_bytes(file.read_bytes() + pad.to_bytes(4, "big") + b"free" + bytes(pad - 8))
    index = again(index_video(given_file))
    turns = index_video(path).rotation // 90
    for times in ([0.0], [1.3], [0.5, 2.2], [2.0, 0.1], [99.0], [0.3, 0.34, 0.38]):
        try:
            with open_video(path, index=index) as video:
                clip = video.read(times)
        except DecodeError as error:
            assert error.code == "wrong_frame_count" and other in DIFFERENT
        else:
            assert other not in DIFFERENT
            wanted = reference_clip(path, times, turns)
            if times == [99.0] and other == "longer":
                wanted = reference_clip(path, [index.times_s[-1]])  # the end of the one that was indexed
            np.testing.assert_array_equal(clip, wanted)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
def test_wrong_packets_in_the_index_never_give_broken_frames(folder, suffix, data):
    """A packet is used only if it is where it should be, and decoding starts only at a real key frame."""
    path = folder / f"plain.{suffix}"
    index = index_video(path)
    pts, flags = index.pts.copy(), index.flags.copy()
    step = round(1 / 25 / index.time_base)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(pts) - 1))
        pts[position] += data.draw(st.sampled_from([-(10**12), -step, -1, 1, step, 7 * step, 10**12]))
        flags[data.draw(st.integers(0, len(pts) - 1))] ^= 1
    times = data.draw(st.lists(st.floats(0, 1.7), min_size=1, max_size=3))
    with open_video(path, index=replace(index, pts=pts, flags=flags)) as video:
        clip = video.read(times)
    _, images = decode_all(path)
    for row in clip:
        assert (images == row).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mp4"])
@pytest.mark.parametrize("last", [0.04, 5.0])
def test_the_last_frame_may_stay_longer_than_the_others(tmp_path, name, last):
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    given_file = write_video(tmp_path / f"given.{name[2:]}", codec=codec, frames=25)
    with av.open(str(given_file)) as given, av.open(str(tmp_path / name), "w") as made:
        copy = made.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.size]
        latest = max(packets, key=lambda packet: packet.pts)
        latest.duration = int(last / latest.time_base)
        if packets[-1] is not latest and name.endswith("mp4"):
            packets[-1].duration = latest.duration  # MP4 stores durations in decoding order
        for packet in packets:
            packet.stream = copy
            made.mux(packet)
    index = index_video(tmp_path / name)
    assert (index.frames, index.truncated) == (25, False)
    if not name.endswith("mp4"):
        assert index.duration_s == pytest.approx(0.96 + last, abs=0.001)
    np.testing.assert_array_equal(
        read_clip(tmp_path / name, [0.96, 3.0])[0], decode_all(tmp_path / name)[1][-1]
    )


def without_rate(path, times_ms):
    """A recording of a browser: VP8 whose container names no frame rate."""
    write_video(
        path, codec="libvpx", frames=len(times_ms), times=times_ms, time_base=Fraction(1, 1000), bframes=0
    )
    data = bytearray(path.read_bytes())
    at = data.find(b"\x23\xe3\x83")  # DefaultDuration becomes a void element of the same size
    if at >= 0:
        data[at : at + 4] = b"\xec" + bytes([0x80 | (data[at + 3] & 0x7F) + 2]) + data[at + 2 : at + 4]
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("step", [33, 40, 100, 2000])
def test_the_rate_of_a_stream_without_one_is_that_of_its_timestamps(tmp_path, step):
    jitter = np.random.default_rng(step).integers(-step // 4, step // 4, 60)
    times = [int(time) for time in np.arange(60) * step + jitter - jitter[0]]
    path = without_rate(tmp_path / "browser.webm", times)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate is None
    index = index_video(path)
    assert index.fps == pytest.approx(59 / (times[-1] / 1000), rel=1e-6)
    assert (index.frames, index.truncated) == (60, False)


JOINED = {
    "a.ts": {},
    "hevc.ts": {"codec": "libx265"},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "a.mkv": {},
    "a.webm": {"codec": "libvpx-vp9"},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
}


def write_joined(folder, name, starts=(0, 0), **options):
    """Two files, one after the other: frames 0 to 29 and 30 to 59 of ``numbered_image``."""
    data = b""
    for part, start in enumerate(starts):
        images = [numbered_image(30 * part + frame, 64, 48) for frame in range(30)]
        path = write_video(folder / f"{part}.{name}", frames=30, images=images, start=start, **options)
        data += path.read_bytes()
    (folder / name).write_bytes(data)
    return folder / name


def shows_sixty_frames(path, times):
    """Whether the n-th time shows frame n."""
    images = np.stack([numbered_image(frame, 64, 48) for frame in range(60)]).astype(int)
    clip = read_clip(path, times)
    return [int(np.abs(images - frame).mean(axis=(1, 2, 3)).argmin()) for frame in clip] == list(range(60))


@pytest.mark.parametrize("name", JOINED)
def test_a_file_that_was_joined_goes_on_where_its_clock_starts_anew(tmp_path, name):
    path = write_joined(tmp_path, name, **JOINED[name])
    index = again(index_video(path))
    assert (index.frames, index.joined, index.truncated) == (60, True, False)
    np.testing.assert_allclose(index.times_s, np.arange(60) / 25, atol=0.0011)
    assert index.duration_s == pytest.approx(2.4, abs=0.002)
    assert shows_sixty_frames(path, index.times_s)
    with open_video(path, index=index) as video:
        assert np.array_equal(video.read([2.0]), read_clip(path, index.times_s[50:51]))
    _, copy = encode(path, tmp_path / "copy.mp4", Settings(crf=1))
    assert copy.frames == 60 and not copy.joined
    assert shows_sixty_frames(tmp_path / "copy.mp4", copy.times_s)


@pytest.mark.parametrize(("name", "gap_s"), [("a.ts", 0), ("a.mkv", 1000)])
def test_a_long_gap_in_a_broadcast_is_a_new_start(tmp_path, name, gap_s):
    """As in ffmpeg; other formats mean what they say."""
    path = write_joined(tmp_path, name, starts=(0, 25 * 1000 + 30))
    index = index_video(path)
    assert (index.frames, index.joined) == (60, gap_s == 0)
    assert index.duration_s == pytest.approx(2.4 + gap_s, abs=0.002)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.flv", "libx264"), ("a.wmv", "wmv2")])
def test_a_second_file_that_libav_leaves_out_is_refused(tmp_path, name, codec):
    path = write_joined(tmp_path, name, codec=codec)
    for file in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(DecodeError) as caught:
            index_video(file)
        assert caught.value.code == "joined"
    assert index_video(tmp_path / f"0.{name}").frames == 30


def test_a_pause_does_not_change_the_rate(tmp_path):
    """Of a header that says 25 frames per second, and steps that confirm it."""
    times = [*range(20), *range(520, 540)]
    path = write_video(tmp_path / "pause.mkv", times=times)
    assert index_video(path).fps == pytest.approx(25)


def test_a_rate_that_the_timestamps_deny_is_not_used(tmp_path):
    path = write_video(tmp_path / "lies.mkv", fps=25, times=[3 * n for n in range(40)])
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 25
    assert index_video(path).fps == pytest.approx(25 / 3, rel=1e-3)


def test_frames_of_a_stream_without_times_are_counted(tmp_path):
    """MPEG program streams give a time only to some H.264 frames."""
    path = write_video(tmp_path / "video.mpg", frames=50)
    index = index_video(path)
    assert (index.counted, index.frames) == (True, 50)
    np.testing.assert_allclose(index.times_s, np.arange(50) / 25, atol=1e-4)
    with av.open(str(path)) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(read_clip(path, [0.0, 99.0]), [images[0], images[-1]])
