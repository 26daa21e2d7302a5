"""read_clip must equal a frame-by-frame decode of the whole file, for every kind of file."""

import io
import struct
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_cases import slow_after
from video_files import (
    copy_packets,
    cut_copy,
    decode_all,
    moving,
    numbered_image,
    reference_clip,
    write_video,
)

from kineray.video import PacketIndex, decode, index_video, open_video, probe, read_clip
from kineray.video.encode import Settings, encode

MOVING = list(moving(60, 48, 32))
VARIABLE = list(np.cumsum(np.random.default_rng(0).integers(1, 60, 40)))
PYRAMID = "b-pyramid=normal:ref=4:weightp=2:scenecut=0"
STRICT_PYRAMID = "b-pyramid=strict:ref=4:weightp=2:scenecut=0"
OPEN = "open-gop=1:scenecut=0"
FILES = {
    "b_frames.mp4": {},
    "b_frames.mkv": {},
    "no_b_frames.mp4": {"bframes": 0},
    "one_gop.mp4": {"gop": 250, "bframes": 3},
    "all_key.mkv": {"gop": 1, "bframes": 0},
    "pyramid.mp4": {"params": PYRAMID, "bframes": 8, "gop": 30, "frames": 70},
    "pyramid.ts": {"params": STRICT_PYRAMID, "bframes": 8, "gop": 30, "frames": 70},
    "open_pyramid.mkv": {"params": f"{PYRAMID}:open-gop=1", "bframes": 8, "frames": 70},
    "interlaced.mp4": {"params": "tff=1:interlaced=1"},
    "start.mp4": {"start": 31},
    "start.mkv": {"start": 31},
    "start.ts": {"start": 31},
    "edit_list.mp4": {"start": -15},
    "variable.mp4": {"times": VARIABLE, "time_base": Fraction(1, 600)},
    "variable.mkv": {"times": VARIABLE, "time_base": Fraction(1, 600)},
    "open_gop.mp4": {"params": OPEN},
    "open_gop.mkv": {"params": OPEN},
    "open_gop.ts": {"params": OPEN},
    "gradual_refresh.mp4": {"params": "intra-refresh=1:scenecut=0", "bframes": 0, "frames": 60},
    "long.mkv": {"frames": 300, "gop": 25},
    "long.ts": {"frames": 300, "gop": 25},
    "long.flv": {"frames": 300, "gop": 25, "bframes": 3},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "with_sound.mp4": {"audio": True},
    "one_frame.mp4": {"frames": 1},
    "full_range.mp4": {"pix_fmt": "yuvj420p"},
    "colour.mp4": {"pix_fmt": "yuv444p"},
    "hevc.mp4": {"codec": "libx265", "params": "b-pyramid=1", "bframes": 4},
    "hevc.ts": {"codec": "libx265", "bframes": 4},
    "open_gop_hevc.mp4": {"codec": "libx265", "params": OPEN},
    "open_gop_hevc.mkv": {"codec": "libx265", "params": OPEN, "bframes": 4},
    "vp8.webm": {"codec": "libvpx"},
    "vp8_odd.mkv": {"codec": "libvpx", "width": 61, "height": 47},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp9.mp4": {"codec": "libvpx-vp9", "gop": 25, "frames": 60},
    "vp9_odd.webm": {"codec": "libvpx-vp9", "width": 61, "height": 47},
    "av1.mp4": {"codec": "libsvtav1"},
    "av1.webm": {"codec": "libsvtav1", "gop": 20},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4.mkv": {"codec": "mpeg4", "bframes": 3, "gop": 20},
    "mpeg4.avi": {"codec": "mpeg4", "bframes": 0},
    "b_frames.avi": {"codec": "mpeg4"},
    "mpeg4.wmv": {"codec": "mpeg4"},
    "h264.avi": {"bframes": 3, "gop": 30},
    "h264.wmv": {"bframes": 3},
    "mpeg2.mp4": {"codec": "mpeg2video"},
    "mpeg2.ts": {"codec": "mpeg2video", "bframes": 3},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "mpeg2_open.ts": {"codec": "mpeg2video", "options": {"flags": "-cgop"}},
    "mpeg1.mkv": {"codec": "mpeg1video"},
    "jpeg.mkv": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "jpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj422p"},
    "wmv2.wmv": {"codec": "wmv2"},
}
CODECS = {
    "hevc": ["hevc.mp4", "hevc.ts", "open_gop_hevc.mp4", "open_gop_hevc.mkv"],
    "vp8": ["vp8.webm", "vp8_odd.mkv"],
    "vp9": ["vp9.webm", "vp9.mp4", "vp9_odd.webm"],
    "av1": ["av1.mp4", "av1.webm"],
    "mpeg4": ["mpeg4.mp4", "mpeg4.mkv", "mpeg4.avi", "b_frames.avi", "mpeg4.wmv"],
    "mpeg2video": ["mpeg2.mp4", "mpeg2.ts", "mpeg2.mpg", "mpeg2_open.ts"],
    "mpeg1video": ["mpeg1.mkv"],
    "mjpeg": ["jpeg.mkv", "jpeg.avi"],
    "wmv2": ["wmv2.wmv"],
}
CODEC = {name: codec for codec, names in CODECS.items() for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, options in FILES.items():
        write_video(folder / name, **options)
    return folder


@st.composite
def requests(draw):
    """Timestamps in any order, repeated, on frames and between them, before the start and past the end."""
    span = draw(st.sampled_from([0.3, 2.0, 14.0]))
    anywhere = st.floats(-0.5, span, allow_nan=False)
    on_a_frame = st.integers(-3, int(span * 25)).map(lambda index: index / 25)
    times = draw(st.lists(anywhere | on_a_frame, min_size=1, max_size=8))
    return times + draw(st.lists(st.sampled_from(times), max_size=3))


@pytest.mark.parametrize("name", FILES)
def test_clips_equal_the_frame_by_frame_decode(folder, name):
    @settings(max_examples=15, deadline=None)
    @given(requests())
    def check(times):
        clip = read_clip(folder / name, times)
        assert clip.dtype == np.uint8 and clip.flags.c_contiguous
        np.testing.assert_array_equal(clip, reference_clip(folder / name, times))

    check()


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_found_at_its_own_time(folder, name):
    times, images = decode_all(folder / name)
    np.testing.assert_array_equal(read_clip(folder / name, [float(time) for time in times]), images)


@settings(max_examples=25, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 90), min_size=4, max_size=24),
    gop=st.integers(1, 12),
    bframes=st.integers(0, 3),
    start=st.integers(0, 500),
    suffix=st.sampled_from(["mp4", "mkv"]),
    data=st.data(),
)
def test_random_files_at_random_times_equal_the_reference(
    tmp_path_factory, gaps, gop, bframes, start, suffix, data
):
    path = write_video(
        tmp_path_factory.mktemp("random") / f"video.{suffix}",
        frames=len(gaps),
        width=32,
        height=32,
        times=list(np.cumsum(gaps)),
        time_base=Fraction(1, 300),
        start=start,
        gop=gop,
        bframes=bframes,
    )
    times = data.draw(st.lists(st.floats(-1, sum(gaps) / 300 + 1, allow_nan=False), min_size=1, max_size=6))
    np.testing.assert_array_equal(read_clip(path, times), reference_clip(path, times))


@settings(max_examples=60, deadline=None)
@given(
    codec=st.sampled_from(["libx264", "libx264", "libx264", "mpeg4", "mpeg2video"]),
    suffix=st.sampled_from(["mp4", "mkv", "ts"]),
    frames=st.integers(2, 60),
    gop=st.integers(2, 60),
    bframes=st.integers(0, 8),
    refs=st.integers(1, 5),
    pyramid=st.sampled_from(["none", "strict", "normal"]),
    weightp=st.integers(0, 2),
    open_gop=st.integers(0, 1),
    data=st.data(),
)
def test_skipped_frames_change_nothing(
    tmp_path_factory,
    codec,
    suffix,
    frames,
    gop,
    bframes,
    refs,
    pyramid,
    weightp,
    open_gop,
    data,
):
    """Frames to which no other refers are left out; whatever remains must be exact."""
    path = write_video(
        tmp_path_factory.mktemp("references") / f"video.{suffix}",
        codec=codec,
        frames=frames,
        width=48,
        height=32,
        gop=gop,
        bframes=bframes if codec == "libx264" else min(bframes, 4),
        params=f"ref={refs}:b-pyramid={pyramid}:weightp={weightp}:open-gop={open_gop}:scenecut=0:cabac=1",
        options={} if codec == "libx264" or open_gop else {"flags": "+cgop", "sc_threshold": "1000000000"},
        images=MOVING,
    )
    index = index_video(path)
    if data.draw(st.booleans(), label="cached index"):
        index = PacketIndex.from_bytes(index.to_bytes())
    with open_video(path, index=index) as video:
        for _ in range(2):
            chosen = data.draw(st.lists(st.integers(0, frames), min_size=1, max_size=6))
            times = [position / 25 for position in chosen]
            np.testing.assert_array_equal(video.read(times), reference_clip(path, times))


@pytest.fixture
def decoded_frames(monkeypatch):
    """Counts the frames that come out of the decoder."""
    count = Counter()
    decoded = decode._IndexedDecoder._decoded

    def counting(self, *args):
        for frame in decoded(self, *args):
            count["frames"] += 1
            yield frame

    monkeypatch.setattr(decode._IndexedDecoder, "_decoded", counting)
    return count


@pytest.mark.parametrize(
    ("codec", "bframes", "most"), [("libx264", 7, 30), ("mpeg4", 2, 35), ("mpeg2video", 2, 35)]
)
def test_few_frames_are_decoded(tmp_path, decoded_frames, codec, bframes, most):
    options = {"frames": 60, "width": 48, "height": 32, "bframes": bframes, "gop": 30}
    params = "b-pyramid=normal:scenecut=0"
    path = write_video(tmp_path / "video.mp4", codec=codec, params=params, images=MOVING, **options)
    times = np.arange(0, 60, 4) / 25
    np.testing.assert_array_equal(read_clip(path, times), reference_clip(path, times))
    assert 15 <= decoded_frames["frames"] <= most


def every(path):
    """All frames, checked against the reference; returns how many there are."""
    times, images = decode_all(path)
    index = index_video(path)
    assert index.frames == len(times)
    np.testing.assert_allclose(index.times_s, [float(time) for time in times], atol=1e-6)
    for given_index in (None, PacketIndex.from_bytes(index.to_bytes())):
        with open_video(path, index=given_index) as video:
            np.testing.assert_array_equal(video.read(index.times_s), images)
            for time_s in index.times_s[[len(times) // 2, -1, 0]]:
                np.testing.assert_array_equal(video.read([time_s]), reference_clip(path, [time_s]))
    return len(times)


def test_hidden_frames_of_vp8_are_not_shown(tmp_path, decoded_frames):
    """An encoder may hide a frame to which others then refer."""
    plain = write_video(tmp_path / "plain.webm", codec="libvpx", gop=40)
    hidden = (7, 20, 21)

    def hide(position, data):
        return bytes([data[0] & ~0x10]) + data[1:] if position in hidden else data

    path = copy_packets(plain, tmp_path / "hidden.webm", hide)
    assert every(path) == 37
    assert decoded_frames["frames"] > 37  # it went by the index, which left them out
    np.testing.assert_array_equal(decode_all(path)[1], np.delete(decode_all(plain)[1], hidden, axis=0))


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_hidden_frames_of_av1_share_packets_with_others(tmp_path, suffix):
    """A packet may hold several frames, of which one is shown."""
    images = [image.repeat(2, 0).repeat(2, 1) for image in MOVING]
    options = {"frames": 60, "width": 96, "height": 64, "gop": 32, "images": images}
    path = write_video(tmp_path / f"v.{suffix}", codec="libsvtav1", **options)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert len(packets) == 60 and max(map(av1_frames, packets)) > 1
    assert every(path) == 60


def av1_frames(packet):
    """How many frames the open bitstream units of a temporal unit hold."""
    frames = at = 0
    while at < len(packet):
        kind, extended = packet[at] >> 3 & 15, packet[at] >> 2 & 1
        at += 1 + extended
        size = shift = 0
        while True:
            size |= (packet[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if packet[at - 1] < 128:
                break
        frames += kind in (3, 6)  # a frame header, a frame
        at += size
    return frames


@pytest.mark.parametrize("suffix", ["ts", "mkv", "avi"])
def test_frames_may_change_their_size(tmp_path, suffix):
    """Frames are then scaled to the size of the first one."""
    codec = {"ts": "libx264", "mkv": "mjpeg", "avi": "mjpeg"}[suffix]
    path, pix_fmt = tmp_path / f"video.{suffix}", "yuvj420p" if codec == "mjpeg" else "yuv420p"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        for part, (width, height) in enumerate([(64, 48), (96, 80), (64, 48)]):
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, pix_fmt
            encoder.time_base, encoder.framerate, encoder.thread_count = Fraction(1, 25), Fraction(25), 1
            if codec == "libx264":
                encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "keyint=10"}
            if part == 0:
                stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            for index in range(20):
                frame = av.VideoFrame.from_ndarray(numbered_image(index % 5, width, height), format="rgb24")
                frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = 20 * part + index, Fraction(1, 25)
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    container.mux(packet)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(64, 48)] * 20 + [(96, 80)] * 20 + [
        (64, 48)
    ] * 20
    wanted = np.stack([frame.reformat(width=64, height=48).to_ndarray(format="rgb24") for frame in frames])
    index = PacketIndex.from_bytes(index_video(path).to_bytes())
    with open_video(path, index=index) as video:
        assert (video.info.width, video.info.height, video.info.frames) == (64, 48, 60)
        for chosen in ([25], range(60), [50, 3], [30, 10]):
            clip = video.read(np.array(chosen) / 25)
            np.testing.assert_array_equal(clip[0], wanted[chosen[0]])
            np.testing.assert_array_equal(clip, wanted[list(chosen)])


def cut_out(path, new_path, first):
    """A transport stream without its packets before ``first``, but for the tables at its start."""
    with av.open(str(path)) as container:
        offset = [packet.pos for packet in container.demux(video=0) if packet.size][first]
    data = path.read_bytes()
    new_path.write_bytes(data[: 3 * 188] + data[offset:])
    return new_path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"params": OPEN},
        {"codec": "mpeg2video"},
        {"codec": "mpeg2video", "options": {"flags": "-cgop"}},
        {"codec": "libx265", "params": OPEN},
    ],
    ids=["h264", "h264_open", "mpeg2", "mpeg2_open", "hevc_open"],
)
@pytest.mark.parametrize("first", [5, 12, 13, 30])
def test_a_video_that_was_cut_out_of_another_starts_at_its_first_decodable_frame(tmp_path, options, first):
    """A broadcast starts anywhere; the video starts at the first frame that can be decoded."""
    whole = write_video(tmp_path / "whole.ts", frames=60, gop=12, **options)
    assert 20 <= every(cut_out(whole, tmp_path / "part.ts", first)) < 60 - first + 1


@pytest.mark.parametrize("hidden", [1, 7, 20])
def test_an_edit_list_hides_frames_at_the_start(tmp_path, hidden):
    """A file that was cut without re-encoding starts at a key frame and shows later frames."""
    path = write_video(tmp_path / "whole.mp4", frames=60, gop=12)
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 4 + 8  # version and count, then: duration, media time, rate
    media_time = struct.unpack_from(">i", data, entry + 4)[0]
    with av.open(str(path)) as container:
        ticks = int(hidden / 25 / container.streams.video[0].time_base)
    struct.pack_into(">i", data, entry + 4, media_time + ticks)
    path.write_bytes(data)
    assert every(path) == 60 - hidden


CUTS = {
    "b_frames": {},
    "one_gop": {"gop": 250},
    "hevc": {"codec": "libx265"},
    "open_hevc": {"codec": "libx265", "params": OPEN},
    "mpeg4": {"codec": "mpeg4"},
    "turned": {"rotation": 90},
    "gradual_refresh": {"params": "intra-refresh=1:scenecut=0", "bframes": 0},
}


@pytest.mark.parametrize("options", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("shown", [3, 20, 29])
def test_a_cut_whose_key_frames_are_all_hidden_is_read(tmp_path, options, shown):
    """An edit list hides the only frames that can be decoded alone."""
    whole = write_video(tmp_path / "whole.mp4", frames=30, **({"gop": 15} | options))
    path = cut_copy(whole, tmp_path / "cut.mp4", 0, shown)
    index = index_video(path)
    images = decode_all(path)[1]
    assert index.frames == len(images) == 30 - shown
    turns = index.rotation // 90
    assert turns == ("rotation" in options)
    np.testing.assert_array_equal(read_clip(path, index.times_s), np.rot90(images, turns, axes=(1, 2)))
    assert index.duration_s == pytest.approx((30 - shown) / 25, abs=0.001)


@settings(max_examples=40, deadline=None)
@given(
    rotation=st.sampled_from([0, 90, 180, 270]),
    mirror=st.booleans(),
    corner=st.tuples(st.integers(0, 14), st.integers(0, 14)),
    side=st.integers(1, 9),
)
def test_rotation_mirror_and_box_are_applied_in_this_order(tmp_path_factory, rotation, mirror, corner, side):
    path = tmp_path_factory.getbasetemp() / f"rotated_{rotation}.mp4"
    if not path.exists():
        write_video(path, frames=10, rotation=rotation)
    times = [0.2, 0.0]
    upright = reference_clip(path, times, rotation // 90)
    left, top, side = 2 * corner[0], 2 * corner[1], 2 * side
    with open_video(path) as video:
        clip = video.read(times, box=(left, top, side, side), mirror=mirror)
        out = np.full((2, side, side, 3), 1, np.uint8)
        assert video.read(times, box=(left, top, side, side), mirror=mirror, out=out) is out
        whole = video.read(times, mirror=mirror)
    box = upright[:, top : top + side, left : left + side]
    np.testing.assert_array_equal(clip, box[:, :, ::-1] if mirror else box)
    np.testing.assert_array_equal(out, clip)
    np.testing.assert_array_equal(whole, upright[:, :, ::-1] if mirror else upright)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_ten_bit_video_is_converted_to_eight(tmp_path, codec):
    path = write_video(tmp_path / "deep.mp4", codec=codec, pix_fmt="yuv420p10le", frames=20, images=MOVING)
    with av.open(str(path)) as container:
        frames = [frame.reformat(format="gbrp") for frame in container.decode(video=0)]
    for chosen in ([2, 17, 12], range(20)):
        wanted = np.stack([frames[index].to_ndarray(format="rgb24") for index in chosen])
        np.testing.assert_array_equal(read_clip(path, np.array(chosen) / 25), wanted)


@pytest.mark.parametrize("options", [{}, {"gop": 50, "bframes": 3}, {"codec": "mpeg4"}])
def test_frames_of_avi_are_counted(tmp_path, options):
    """AVI holds no presentation times, and those that are guessed for B-frames are wrong."""
    path = write_video(tmp_path / "b_frames.avi", frames=200, **options)
    _, images = decode_all(path)
    assert len(images) == 200
    for indices in ([150, 3, 151, 150], [199], range(200), [120, 10]):
        clip = read_clip(path, [index / 25 for index in indices])
        np.testing.assert_array_equal(clip, images[list(indices)])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("rotation", "quarter_turns"), [(90, 1), (180, 2), (270, 3), (-90, 3)])
def test_rotation_is_applied(tmp_path, suffix, rotation, quarter_turns):
    path = write_video(tmp_path / f"r.{suffix}", rotation=rotation)
    times = [0.5, 0.0, 1.2]
    np.testing.assert_array_equal(read_clip(path, times), reference_clip(path, times, quarter_turns))
    info = probe(path)
    assert (info.width, info.height) == ((48, 64) if quarter_turns % 2 else (64, 48))
    assert info.rotation == 90 * quarter_turns
    scaled = read_clip(path, times, short_side=24)
    assert scaled.shape == ((3, 32, 24, 3) if quarter_turns % 2 else (3, 24, 32, 3))


def test_rotation_turns_the_way_quicktime_says(tmp_path):
    """The matrix (0 1; -1 0) of a phone sends x to y: a quarter turn clockwise, as y points down."""
    path = write_video(tmp_path / "phone.mp4")
    upright = read_clip(path, [0.0])[0]
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of fixed fields
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert bytes(data[matrix : matrix + 36]) == identity
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    turned = read_clip(io.BytesIO(bytes(data)), [0.0])[0]
    # Clockwise: the first row becomes the last column.
    np.testing.assert_array_equal(turned, upright.transpose(1, 0, 2)[:, ::-1])


def with_matrix(path, a, b, c, d):
    """An MP4 whose display matrix sends (x, y) to (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    made = path.with_name(f"{a}{b}{c}{d}.mp4")
    made.write_bytes(data)
    return made


MATRICES = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_a_display_matrix_is_an_angle_and_a_reflection(tmp_path, matrix):
    path = with_matrix(write_video(tmp_path / "plain.mp4", frames=10), *matrix)
    coded = decode_all(tmp_path / "plain.mp4")[1][[0, 5]]
    a, b, c, d = matrix
    y, x = np.mgrid[: coded.shape[1], : coded.shape[2]]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    wanted = np.zeros((2, to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    wanted[:, to_y, to_x] = coded
    times = [0.0, 0.2]
    np.testing.assert_array_equal(read_clip(path, times), wanted)
    index = PacketIndex.from_bytes(index_video(path).to_bytes())
    with open_video(path, index=index) as video:
        assert video.info.mirrored == (a * d < b * c)
        box = (8, 4, 20, 30)
        part = wanted[:, 4:34, 8:28]
        np.testing.assert_array_equal(video.read(times, box=box), part)
        np.testing.assert_array_equal(video.read(times, box=box, mirror=True), part[:, :, ::-1])
    encode(path, tmp_path / "copy.mp4", Settings(crf=1))
    copy = read_clip(tmp_path / "copy.mp4", times)
    assert copy.shape == wanted.shape and np.abs(copy.astype(int) - wanted).mean() < 2
    assert not probe(tmp_path / "copy.mp4").mirrored


def write_streams(path, *sizes, default=None):
    """A file with a video stream of 10 frames for each (width, height); ``default``: number of that one."""
    with av.open(str(path), "w") as container:
        streams = []
        for number, (width, height) in enumerate(sizes):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = Disposition.default if number == default else Disposition(0)
            streams.append(stream)
        for stream, (width, height) in zip(streams, sizes, strict=True):
            for index in range(10):
                frame = av.VideoFrame.from_ndarray(numbered_image(index, width, height), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("default", "shown"), [(None, (64, 48)), (0, (32, 24)), (1, (64, 48)), (2, (48, 32))]
)
def test_the_default_stream_or_the_largest_one_is_read(tmp_path, suffix, default, shown):
    if suffix == "mp4" and default is None:
        default = 1  # its writer marks one
    path = write_streams(tmp_path / f"a.{suffix}", (32, 24), (64, 48), (48, 32), default=default)
    info = probe(path)
    assert (info.width, info.height, info.frames) == (*shown, 10)
    images = [numbered_image(index, *shown) for index in range(10)]
    clip = read_clip(path, np.arange(10) / 25)
    assert np.abs(clip.astype(int) - np.stack(images)).mean() < 20
    with open_video(path, index=index_video(path)) as video:
        np.testing.assert_array_equal(video.read([0.3]), clip[7:8])


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_the_shape_of_pixels_is_said_and_kept_by_a_copy(tmp_path, suffix, rotation):
    if suffix == "ts" and rotation:
        return  # it holds no display matrix
    path = write_video(tmp_path / f"a.{suffix}", frames=10, rotation=rotation, params="sar=2/1")
    info = probe(path)
    assert (info.width, info.height) == ((48, 64) if rotation else (64, 48))
    assert info.pixel_aspect == (0.5 if rotation else 2.0)
    encode(path, tmp_path / "copy.mp4", Settings(32))
    assert probe(tmp_path / "copy.mp4").pixel_aspect == info.pixel_aspect
    assert probe(write_video(tmp_path / "square.mp4", frames=2)).pixel_aspect == 1.0


def test_short_side_scales_while_converting(tmp_path):
    path = write_video(tmp_path / "wide.mp4", width=128, height=64, frames=3, params="qp=1")
    assert read_clip(path, [0.0], short_side=16).shape == (1, 16, 32, 3)
    assert read_clip(path, [0.0], short_side=100).shape == (1, 100, 200, 3)
    # PyTorch's antialiased bilinear scaling of the whole frame is an independent reference.
    whole = torch.from_numpy(read_clip(path, [0.0])).permute(0, 3, 1, 2).float()
    for side in (16, 40):
        scaled = read_clip(path, [0.0], short_side=side)[0].astype(float)

        def distance(antialias, side=side, scaled=scaled):
            wanted = F.interpolate(whole, (side, 2 * side), mode="bilinear", antialias=antialias)[0]
            return np.abs(scaled - wanted.permute(1, 2, 0).numpy()).mean()

        # Chroma has half the resolution and is scaled by itself, so edges differ a little.
        assert distance(antialias=True) < 10
        assert distance(antialias=True) < 0.75 * distance(antialias=False)


def test_an_odd_size_keeps_its_shape(tmp_path):
    path = write_video(tmp_path / "odd.mp4", width=72, height=40)
    assert read_clip(path, [0.0], short_side=33).shape == (1, 33, round(72 * 33 / 40), 3)


def test_a_file_object_gives_the_same_and_may_be_read_twice(folder):
    file = io.BytesIO((folder / "b_frames.mp4").read_bytes())
    times = [1.3, 0.1]
    for _ in range(2):
        np.testing.assert_array_equal(read_clip(file, times), reference_clip(folder / "b_frames.mp4", times))


def test_one_open_video_serves_clips_in_any_order(folder):
    with open_video(folder / "long.mkv") as video:
        for times in ([11.0, 11.2], [0.5], [6.0, 2.0], [0.0], [99.0], [10.0]):
            np.testing.assert_array_equal(video.read(times), reference_clip(folder / "long.mkv", times))


def test_threads_may_decode_the_same_file_together(folder):
    times = [0.2, 1.4]
    wanted = reference_clip(folder / "b_frames.mp4", times)
    barrier = threading.Barrier(4)

    def decode(_):
        barrier.wait()
        return read_clip(folder / "b_frames.mp4", times)

    with ThreadPoolExecutor(4) as pool:
        for clip in pool.map(decode, range(8)):
            np.testing.assert_array_equal(clip, wanted)


class CountedFile(io.BytesIO):
    """A file in memory that counts the bytes that are read from it."""

    bytes_read = 0

    def read(self, size=-1):
        data = super().read(size)
        self.bytes_read += len(data)
        return data


@pytest.mark.parametrize("params", slow_after(1, ["open-gop=1:scenecut=0", ""]))
@pytest.mark.parametrize("suffix", slow_after(1, ["mp4", "mkv"]))
def test_only_the_wanted_part_of_a_long_file_is_read(tmp_path, suffix, params):
    path = write_video(tmp_path / f"long.{suffix}", frames=500, width=128, height=128, gop=25, params=params)
    index = PacketIndex.from_bytes(index_video(path).to_bytes())
    late, middle, far_apart, whole = (CountedFile(path.read_bytes()) for _ in range(4))
    for file, times in (
        (middle, 10.5 + np.arange(25) / 12.5),
        (late, [19.0]),
        (far_apart, [0.0, 19.0]),
        (whole, np.arange(500) / 25),
    ):
        with open_video(file, index=index) as video:
            np.testing.assert_array_equal(video.read(times), reference_clip(path, times))
    assert whole.bytes_read > 0.9 * path.stat().st_size
    # 2 of 20 seconds, the rest of the GOP before them, and the file's own tables.
    assert middle.bytes_read < 0.25 * whole.bytes_read
    assert late.bytes_read < 0.15 * whole.bytes_read
    assert far_apart.bytes_read < 0.15 * whole.bytes_read


@pytest.mark.parametrize("name", ["b_frames.mp4", "b_frames.avi"])
def test_a_reader_that_was_stopped_midway_can_read_again(folder, name):
    path = folder / name
    with open_video(path) as video:
        whole = video.read(np.arange(20) / 25)
        for taken in range(1, 6):
            frames = video.frames_at(np.arange(20) / 25)
            for _ in range(taken):
                rows, frame = next(frames)
            np.testing.assert_array_equal(frame.pixels(), whole[rows[0]])
            frames.close()
            np.testing.assert_array_equal(video.read(np.arange(20) / 25), whole)


def test_a_frame_gives_many_crops(folder):
    times = np.array([0.4, 0.0, 0.4])
    cuts = [
        {"box": (8, 4, 20, 20)},
        {"size": (24, 32)},
        {"box": (8, 4, 20, 20), "size": (10, 10), "mirror": True},
    ]
    with open_video(folder / "b_frames.mp4") as video:
        wanted = [video.read(times, **cut) for cut in cuts]
        for rows, frame in video.frames_at(times):
            for number in (0, 1, 2, 2, 1, 0):
                np.testing.assert_array_equal(frame.pixels(**cuts[number]), wanted[number][rows[0]])


def test_wrong_arguments_are_refused(folder):
    for times in ([], [float("nan")]):
        with pytest.raises(ValueError, match="timestamp"):
            read_clip(folder / "b_frames.mp4", times)
    with pytest.raises(ValueError, match="short_side"):
        read_clip(folder / "b_frames.mp4", [0.0], short_side=0)
    with open_video(folder / "b_frames.mp4") as video:
        for shape in ((1, 48, 64, 3), (3, 48, 64, 3), (2, 64, 48, 3)):
            with pytest.raises(ValueError, match="shape"):
                video.read([0.0, 1.0], out=np.empty(shape, np.uint8))
        for box in ((-2, 0, 10, 10), (0, 0, 66, 10), (0, 40, 10, 10)):
            with pytest.raises(ValueError, match="not inside the frame"):
                video.read([0.0], box=box)


@pytest.mark.parametrize(
    "name", ["b_frames.mp4", "start.mkv", "long.ts", "long.flv", "b_frames.avi", "h264.wmv"]
)
def test_times_outside_give_the_first_or_the_last_frame(folder, name):
    first, last = decode_all(folder / name)[1][[0, -1]]
    for times in ([-1e300, -1.0, 0.0], [float("-inf")], [-5e-324]):
        assert (read_clip(folder / name, times) == first).all()
    for times in ([1e5], [1e12, 1e300], [float("inf")]):
        assert (read_clip(folder / name, times) == last).all()
    clip = read_clip(folder / name, [1e18, 0.0, -1e18])
    np.testing.assert_array_equal(clip, np.stack([last, first, first]))


@pytest.mark.parametrize("name", FILES)
def test_probe_measures_the_file(folder, name):
    info = probe(folder / name)
    times, images = decode_all(folder / name)
    assert (info.height, info.width) == images.shape[1:3]
    assert info.rotation == 0
    assert info.frames == len(times)
    assert float(times[-1]) - 1e-3 <= info.duration_s <= float(times[-1]) + 0.2
    if "times" not in FILES[name]:
        assert info.fps == pytest.approx(25, rel=1e-3)
        assert info.duration_s == pytest.approx(len(times) / 25, abs=0.041)
    assert info.codec == CODEC.get(name, "h264")


def test_timestamps_outside_the_video_are_logged(folder, caplog):
    with caplog.at_level("INFO", logger="kineray.video"):
        read_clip(folder / "b_frames.mp4", [0.0, 1.5])
        assert not caplog.records
        read_clip(folder / "b_frames.mp4", [-1.0, 0.5, 99.0])
    (record,) = caplog.records
    assert "2 of 3 timestamps lie outside its 1.600 s" in record.getMessage()
