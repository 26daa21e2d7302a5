"""Files that are not videos, or incomplete, raise DecodeError with a code and the file."""

import io
import pickle
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import reference_clip, write_sound, write_video

from kineray.errors import DecodeError
from kineray.video import container, index, index_video, open_video, probe, read_clip


def failure(source, times=(0.0, 0.5, 99.0)):
    with pytest.raises(DecodeError) as caught:
        read_clip(source, list(times))
    assert "\n" not in str(caught.value)
    assert caught.value.key == ("the upload" if isinstance(source, io.BytesIO) else str(source))
    return caught.value


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "video.mp4", container_options={"movflags": "faststart"})


def test_a_missing_file_and_a_folder_are_not_found(tmp_path):
    missing = failure(tmp_path / "nowhere.mp4")
    assert missing.code == "not_found" and str(missing) == f"{tmp_path}/nowhere.mp4: no such file"
    assert failure(tmp_path).code == "not_found"
    with pytest.raises(DecodeError):
        probe(tmp_path / "nowhere.mp4")


def test_a_file_of_zero_bytes_is_empty(tmp_path):
    (tmp_path / "zero.mp4").touch()
    assert failure(tmp_path / "zero.mp4").code == "empty"
    assert failure(io.BytesIO()).code == "empty"


@pytest.mark.parametrize("name", ["text.mp4", "text.txt", "text"])
def test_text_is_not_a_video(tmp_path, name):
    (tmp_path / name).write_text("Dear diary,\n" * 200)
    assert failure(tmp_path / name).code == "not_a_video"
    assert failure(io.BytesIO(b"Dear diary,\n" * 200)).code == "not_a_video"


def test_an_image_is_not_a_video(tmp_path):
    with av.open(str(tmp_path / "image.png"), "w", format="image2") as made:
        stream = made.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgb24"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        made.mux(stream.encode(frame))
    assert failure(tmp_path / "image.png").code == "not_a_video"


def test_a_playlist_is_not_followed(tmp_path, video):
    """An upload must not make the decoder open other files or hosts."""
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{video}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    assert failure(tmp_path / "list.m3u8").code == "not_a_video"
    assert failure(io.BytesIO(f"ffconcat version 1.0\nfile '{video}'\n".encode())).code == "not_a_video"
    assert failure(f"concat:{video}").code == "not_found"


def test_a_name_is_not_taken_for_a_protocol(tmp_path, monkeypatch, video):
    monkeypatch.chdir(tmp_path)
    for name in ("concat:clip.mp4", "http:clip.mp4"):
        (tmp_path / name).write_bytes(video.read_bytes())
        np.testing.assert_array_equal(read_clip(name, [0.5]), reference_clip(video, [0.5]))


@pytest.mark.parametrize("suffix", ["m4a", "mkv"])
def test_a_file_with_sound_alone_is_refused(tmp_path, suffix):
    assert failure(write_sound(tmp_path / f"sound.{suffix}")).code == "no_video_stream"


def test_an_unknown_codec_is_named_as_the_reason(tmp_path):
    path = write_video(tmp_path / "video.mkv")
    data = path.read_bytes()
    assert b"V_MPEG4/ISO/AVC" in data
    path.write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))
    assert failure(path).code == "codec_unsupported"


def test_a_cut_file_with_its_index_at_the_end_is_truncated(tmp_path):
    path = write_video(tmp_path / "video.mp4")
    path.write_bytes(path.read_bytes()[:-2000])
    assert failure(path).code == "truncated"


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_cut_file_with_its_index_in_front_is_read_up_to_the_cut(tmp_path, suffix):
    options = {"movflags": "faststart"} if suffix == "mp4" else {}
    path = write_video(tmp_path / f"video.{suffix}", frames=100, container_options=options)
    whole = reference_clip(path, [0.1, 0.4])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert failure(path).code == "truncated"
    # What is there is still read, and is right.
    np.testing.assert_array_equal(read_clip(path, [0.1, 0.4]), whole)


def test_a_file_that_is_cut_before_its_first_frame_is_truncated(video):
    data = video.read_bytes()
    video.write_bytes(data[: data.index(b"mdat") + 4])
    assert failure(video).code == "truncated"


def test_frames_too_large_for_memory_are_refused(tmp_path, video, monkeypatch):
    jpeg = write_video(tmp_path / "jpeg.mkv", codec="mjpeg", pix_fmt="yuvj420p")
    size = struct.pack(">HH", 48, 64)
    assert size in jpeg.read_bytes()
    vast = io.BytesIO(jpeg.read_bytes().replace(size, struct.pack(">HH", 65000, 65000)))
    assert failure(vast).code in {"too_large", "truncated"}

    monkeypatch.setattr(container, "MAX_PIXELS", 64 * 48 - 1)
    for codec, suffix in (("libx264", "mp4"), ("libx264", "ts"), ("mpeg4", "avi"), ("libvpx-vp9", "webm")):
        path = write_video(tmp_path / f"large.{suffix}", codec=codec)
        error = failure(path)
        assert error.code == "too_large" and "64x48" in str(error)
    monkeypatch.setattr(container, "MAX_PIXELS", 64 * 48)
    assert len(read_clip(video, [0.0])) == 1


def test_frames_that_become_too_large_are_refused(tmp_path, monkeypatch):
    """The size may change after the header and the first frame were looked at."""
    path = tmp_path / "growing.mkv"
    with av.open(str(path), "w") as made:
        stream = made.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index, (width, height) in enumerate([(64, 48)] * 5 + [(256, 256)] * 5):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
            encoder.time_base = Fraction(1, 25)
            frame = av.VideoFrame(width, height, "yuvj420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.stream = stream
                made.mux(packet)
    assert len(read_clip(path, [0.0, 0.3])) == 2
    monkeypatch.setattr(container, "MAX_PIXELS", 64 * 64)
    assert failure(path).code in {"too_large", "truncated"}


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_video_that_lasts_for_days_is_refused(tmp_path, suffix, monkeypatch):
    hourly = [hour * 3600 * 25 for hour in range(26)]
    path = write_video(tmp_path / f"days.{suffix}", frames=26, times=hourly)
    error = failure(path)
    assert error.code == "too_long" and "24 hours" in str(error)
    short = write_video(tmp_path / f"short.{suffix}", frames=100)
    monkeypatch.setattr(index, "MAX_DURATION_S", 3)
    assert failure(short).code == "too_long"
    monkeypatch.setattr(index, "MAX_DURATION_S", 4)
    assert len(read_clip(short, [99.0])) == 1


DAMAGED = {
    "mp4": {},
    "mkv": {},
    "ts": {},
    "flv": {},
    "avi": {"codec": "mpeg4"},
    "mpg": {"codec": "mpeg2video"},
    "webm": {"codec": "libvpx-vp9"},
    "av1.mp4": {"codec": "libsvtav1"},
}
CODES = {
    "not_a_video",
    "no_video_stream",
    "codec_unsupported",
    "truncated",
    "empty",
    "too_large",
    "too_long",
    "wrong_frame_count",
}


@settings(max_examples=50, deadline=None)
@given(data=st.data(), is_indexed=st.booleans())
@pytest.mark.parametrize("suffix", DAMAGED)
def test_damage_always_ends_in_a_decode_error(tmp_path_factory, suffix, is_indexed, data):
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    if not path.exists():
        write_video(path, **DAMAGED[suffix])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    whole = st.just(len(content))
    cut = data.draw(whole if is_indexed else st.integers(0, len(content)) | whole)
    known = index_video(path) if is_indexed else None
    try:
        with open_video(io.BytesIO(bytes(content[:cut])), index=known) as video:
            clip = video.read([0.0, 0.7, 5.0])
    except DecodeError as error:
        assert error.code in CODES
        assert error.key == "the upload" and "\n" not in str(error)
    else:
        assert clip.dtype == np.uint8 and len(clip) == 3


def test_the_error_survives_a_process_boundary(tmp_path):
    error = failure(tmp_path / "nowhere.mp4")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DecodeError and str(again) == str(error)
    assert vars(again) == vars(error)
