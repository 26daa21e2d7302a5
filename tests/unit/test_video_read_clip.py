"""read_clip must equal a frame-by-frame decode of the whole file, for every kind of file."""

import io
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import decode_all, reference_clip, write_video

from kineray.video import PacketIndex, index_video, open_video, probe, read_clip

VARIABLE = list(np.cumsum(np.random.default_rng(0).integers(1, 60, 40)))
FILES = {
    "b_frames.mp4": {},
    "b_frames.mkv": {},
    "no_b_frames.mp4": {"bframes": 0},
    "one_gop.mp4": {"gop": 250, "bframes": 3},
    "all_key.mkv": {"gop": 1, "bframes": 0},
    "start.mp4": {"start": 31},
    "start.mkv": {"start": 31},
    "start.ts": {"start": 31},
    "edit_list.mp4": {"start": -15},
    "variable.mp4": {"times": VARIABLE, "time_base": Fraction(1, 600)},
    "variable.mkv": {"times": VARIABLE, "time_base": Fraction(1, 600)},
    "open_gop.mp4": {"params": "open-gop=1:scenecut=0"},
    "open_gop.mkv": {"params": "open-gop=1:scenecut=0"},
    "open_gop_hevc.mp4": {"codec": "libx265", "params": "open-gop=1:scenecut=0"},
    "gradual_refresh.mp4": {"params": "intra-refresh=1:scenecut=0", "bframes": 0, "frames": 60},
    "long.mkv": {"frames": 300, "gop": 25},
    "long.ts": {"frames": 300, "gop": 25},
    "long.flv": {"frames": 300, "gop": 25, "bframes": 3},
    "mpeg4.avi": {"codec": "mpeg4", "bframes": 0},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "with_sound.mp4": {"audio": True},
    "one_frame.mp4": {"frames": 1},
}


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
def test_equals_the_frame_by_frame_decode(folder, name):
    @settings(max_examples=25, deadline=None)
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
def test_random_files_and_random_times(tmp_path_factory, gaps, gop, bframes, start, suffix, data):
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


@pytest.mark.parametrize("options", [{}, {"gop": 50, "bframes": 3}, {"codec": "mpeg4"}])
def test_avi_counts_its_frames(tmp_path, options):
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


@pytest.mark.parametrize("params", ["", "open-gop=1:scenecut=0"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
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
    # 2 of 20 seconds, the rest of a group of pictures in front of them, and the file's own tables.
    assert middle.bytes_read < 0.25 * whole.bytes_read
    assert late.bytes_read < 0.15 * whole.bytes_read
    assert far_apart.bytes_read < 0.15 * whole.bytes_read


def test_wrong_arguments(folder):
    for times in ([], [float("nan")]):
        with pytest.raises(ValueError, match="timestamp"):
            read_clip(folder / "b_frames.mp4", times)
    with pytest.raises(ValueError, match="short_side"):
        read_clip(folder / "b_frames.mp4", [0.0], short_side=0)
    last = decode_all(folder / "b_frames.mp4")[1][-1]
    np.testing.assert_array_equal(read_clip(folder / "b_frames.mp4", [float("inf")])[0], last)


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
    assert info.codec == {"mpeg4.avi": "mpeg4", "open_gop_hevc.mp4": "hevc"}.get(name, "h264")
