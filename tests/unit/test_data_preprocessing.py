"""Clip sampling, scaling, cropping and normalisation as one value."""

import io
import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from video_files import write_video

from kineray.config import DataConfig
from kineray.config.data import ClipSection
from kineray.data import Preprocessing, Sample, sample_rng
from kineray.data.clips.geometry import Geometry
from kineray.data.clips.preprocessing import balance_of, trained_heads
from kineray.data.clips.samplers import eval_times
from kineray.errors import ConfigError, DecodeError
from kineray.video import Video, VideoInfo, frames_uri, index_video, probe, read_clip, scaled_size

LABELS = {"verb": ("cut", "wash"), "noun": ("café", "pan")}
SAMPLE = Sample("a", "a.mp4", 0.0, None, {"verb": 0, "noun": 1}, "a", "train")
FPS = 25


def a_preprocessing(**changes):
    config = {"frames": 4, "stride": 2, "fps": FPS, "short_side": (24, 32), "crop": 24}
    config |= {"eval_short_side": 32, "eval_crop": 28, "flip": True}
    return Preprocessing.from_config(DataConfig(**(config | changes)), LABELS)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """50 frames of 64 x 48, 2 seconds."""
    return write_video(tmp_path_factory.mktemp("clips") / "video.mp4", frames=50)


@contextmanager
def refused(code, source):
    """Expect a ConfigError about a video or flow."""
    with pytest.raises(ConfigError) as error:
        yield
    assert (error.value.code, error.value.key) == (code, str(source))


def test_json_round_trip():
    value = a_preprocessing(mean=(0.4, 0.45, 0.5), std=(0.2, 0.225, 0.3))
    assert Preprocessing.from_json(value.to_json()) == value
    assert json.loads(value.to_json())["labels"] == {head: list(names) for head, names in LABELS.items()}
    with pytest.raises(ValueError, match="frozen"):
        value.crop = 3


@given(
    frames=st.integers(1, 64),
    stride=st.integers(1, 16),
    fps=st.floats(0.1, 240),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.01, 1)] * 3),
    names=st.lists(st.text(max_size=5), max_size=4),
)
def test_any_value_survives_json(frames, stride, fps, mean, std, names):
    config = DataConfig(frames=frames, stride=stride, fps=fps, mean=mean, std=std)
    value = Preprocessing.from_config(config, {"action": tuple(names)})
    assert Preprocessing.from_json(value.to_json()) == value


def test_json_without_a_field_is_refused():
    """A default may not be what the model was trained with."""
    whole = json.loads(a_preprocessing().to_json())
    assert list(whole) == [*ClipSection.model_fields, "labels"]
    added = {"crop_area", "crop_aspect"}  # whose defaults are what was done before
    older = json.dumps({key: value for key, value in whole.items() if key not in added})
    assert Preprocessing.from_json(older) == a_preprocessing()
    for name in whole.keys() - added:
        with pytest.raises(ConfigError) as error:
            Preprocessing.from_json(json.dumps({key: value for key, value in whole.items() if key != name}))
        if name in ("crop", "short_side", "eval_crop", "eval_short_side"):  # they are checked together
            assert error.value.key.startswith("preprocessing")
        else:
            assert (error.value.code, error.value.key) == ("not_set", f"preprocessing.{name}")


def test_a_decoding_process_starts_without_torch():
    code = (
        "import sys, kineray.data.clips.preprocessing;"
        "print([name for name in ('torch', 'torchvision', 'pyarrow', 'boto3') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("old", "new", "code", "key"),
    [
        (None, "not json", "bad_value", "preprocessing"),
        (None, "{}", "not_set", "preprocessing.labels"),
        ('"frames"', '"framez"', "bad_value", "preprocessing.framez"),
        ('"crop": 24', '"crop": "x"', "bad_value", "preprocessing.crop"),
        ('"crop": 24', '"crop": 25', "bad_value", "preprocessing"),
        ('"eval_crop": 28', '"eval_crop": 33', "bad_value", "preprocessing"),
        ('"stride": 2', '"stride": 0', "bad_value", "preprocessing.stride"),
        ("0.225", "0", "bad_value", "preprocessing"),
    ],
)
def test_wrong_json_is_refused_in_one_line(old, new, code, key):
    text = a_preprocessing().to_json().replace(old, new) if old else new
    with pytest.raises(ConfigError) as error:
        Preprocessing.from_json(text)
    assert (error.value.code, error.value.key) == (code, key)
    assert str(error.value).startswith(f"{key}: ") and "\n" not in str(error.value)


# -- training ---------------------------------------------------------------------------------------


def write_smooth_video(path, *, frames=50, width=64, height=48):
    """Random smooth images, so that resampling them in two ways gives nearly the same."""
    noise = 60 + 140 * torch.rand(frames, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "8"}
        for image_chw in images.to(torch.uint8).numpy():
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(image_chw.transpose(1, 2, 0)), format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def smooth(tmp_path_factory):
    """50 frames of 64 x 48, 2 seconds, without sharp edges."""
    return write_smooth_video(tmp_path_factory.mktemp("smooth") / "video.mp4")


@pytest.fixture(scope="module")
def scaled(smooth):
    """Every frame at every size: short side -> int [50, H, W, 3]."""
    return {
        side: read_clip(smooth, np.arange(50) / FPS, short_side=side).astype(int) for side in range(24, 33)
    }


def place_of(image_hwc, scaled):
    """The (frame, short side, top, left, mirrored) at which the image lies in the scaled video."""
    found = []
    for side, frames in scaled.items():
        windows = np.lib.stride_tricks.sliding_window_view(frames, (24, 24), axis=(1, 2))[..., ::5, ::5]
        for mirrored in (False, True):
            wanted = (image_hwc[:, ::-1] if mirrored else image_hwc)[::5, ::5].transpose(2, 0, 1)
            errors = np.abs(windows - wanted).mean((3, 4, 5))
            index, top, left = np.unravel_index(errors.argmin(), errors.shape)
            found.append((errors.min(), int(index), side, int(top), int(left), mirrored))
    error, *place = min(found)
    assert error < 6
    return place


def cut(frames_thwc, top, left, mirrored):
    crop = frames_thwc[:, top : top + 24, left : left + 24]
    return crop[:, :, ::-1] if mirrored else crop


def test_a_train_clip_is_cut_from_the_video(smooth, scaled):
    """Every clip is found in the video, at one place, scale and direction, with the wanted spacing."""
    seen = []
    for seed in range(40):
        clip = a_preprocessing().train_clips(smooth, SAMPLE, [sample_rng(seed, 0, "a")])[0]
        assert clip.shape == (4, 24, 24, 3) and clip.dtype == np.uint8 and clip.flags.c_contiguous
        first, side, *place = place_of(clip[0], scaled)
        wanted = cut(scaled[side][first : first + 8 : 2], *place)
        assert np.abs(wanted - clip).mean() < 6
        assert np.abs(wanted[::-1] - clip).mean() > 20
        seen.append((first, side, *place))
    starts, sides, tops, lefts, mirrored = (set(values) for values in zip(*seen, strict=True))
    assert max(starts) <= 42 and min(starts) < 8 and max(starts) > 34  # 8 of 50 frames are the clip's span
    assert max(sides) - min(sides) > 5 and len(sides) > 5
    assert len(tops) > 3 and len(lefts) > 5 and mirrored == {False, True}


def test_random_numbers_are_drawn_in_a_fixed_order(smooth):
    """Start, short side, top, left, mirror: changing the order would change every published run."""
    for seed in range(8):
        clip = a_preprocessing().train_clips(smooth, SAMPLE, [sample_rng(seed, 0, "a")])[0]
        rng = sample_rng(seed, 0, "a")
        start = rng.random() * (2.0 - 8 / FPS)
        side = int(rng.integers(24, 32, endpoint=True))
        frames = read_clip(smooth, start + np.arange(4) * 2 / FPS, short_side=side).astype(int)
        top = int(rng.integers(0, frames.shape[1] - 24, endpoint=True))
        left = int(rng.integers(0, frames.shape[2] - 24, endpoint=True))
        assert np.abs(cut(frames, top, left, rng.random() < 0.5) - clip).mean() < 6


a_side = st.integers(1, 4000)


@given(height=a_side, width=a_side, low=st.integers(1, 600), data=st.data())
def test_the_crop_in_the_source(height, width, low, data):
    """Its edges are the nearest pixels, and all of it is in the frame."""
    scaled_height, scaled_width = scaled_size(height, width, low)
    side = data.draw(st.integers(1, low))
    top = data.draw(st.integers(0, scaled_height - side))
    left = data.draw(st.integers(0, scaled_width - side))
    info = VideoInfo(1.0, 25.0, width, height, 0, "h264", 25)
    box = Geometry((scaled_height, scaled_width), (top, left), side).source_box(info.height, info.width)
    for first, length, source, size, start in (
        (box[0], box[2], width, scaled_width, left),
        (box[1], box[3], height, scaled_height, top),
    ):
        assert first >= 0 and length >= 1 and first + length <= source
        exact = start * source / size, (start + side) * source / size
        assert abs(first - exact[0]) <= 1 and abs(first + length - exact[1]) <= 1


def test_a_clip_is_written_into_the_given_array(video):
    shapes = []

    def allocate(shape):
        shapes.append(shape)
        return np.full(shape, 7, np.uint8)

    preprocessing = a_preprocessing()
    clips = preprocessing.train_clips(video, SAMPLE, [sample_rng(0, 0, "a")], allocate=allocate)
    np.testing.assert_array_equal(clips, preprocessing.train_clips(video, SAMPLE, [sample_rng(0, 0, "a")]))
    views, times = preprocessing.eval_views(video, views=2, crops=3, allocate=allocate)
    for one, other in zip((views, times), preprocessing.eval_views(video, views=2, crops=3), strict=True):
        np.testing.assert_array_equal(one, other)
    assert shapes == [clips.shape, views.shape]


@pytest.mark.parametrize("sampling", ["dense", "uniform", "segments", "sequences"])
@pytest.mark.parametrize("modality", ["rgb", "flow", "flow_stack", "rgb_flow_stack"])
def test_clips_of_one_decoding_pass_are_those_of_many(video, flow, modality, sampling):
    changes = {"rgb": {}, "rgb_flow_stack": BOTH}.get(modality, TSN)
    preprocessing = a_preprocessing(modality=modality, sampling=sampling, **changes)
    source, beside = preprocessing.sources(replace(SAMPLE, uri=video, flow=flow))
    rngs = [sample_rng(0, 0, "a", 0, n) for n in range(5)]
    together = preprocessing.train_clips(source, SAMPLE, rngs, flow=beside)
    assert together.shape == (5, 4, 24, 24, preprocessing.channels) and together.dtype == np.uint8
    for n, clip in enumerate(together):
        np.testing.assert_array_equal(
            clip, preprocessing.train_clips(source, SAMPLE, [sample_rng(0, 0, "a", 0, n)], flow=beside)[0]
        )


def test_a_frame_is_decoded_once_for_all_clips(video, monkeypatch):
    given = []
    frames_at = Video.frames_at

    def counted(*args):
        for rows, frame in frames_at(*args):
            given.append(len(rows))
            yield rows, frame

    monkeypatch.setattr(Video, "frames_at", counted)
    preprocessing = a_preprocessing(stride=1, frames=40)
    preprocessing.train_clips(video, SAMPLE, [sample_rng(0, 0, "a", 0, n) for n in range(8)])
    assert sum(given) == 8 * 40 and 40 < len(given) <= 50


def test_a_known_index_changes_nothing(video):
    preprocessing, index = a_preprocessing(), index_video(video)
    clips = [
        preprocessing.train_clips(video, SAMPLE, [sample_rng(0, 0, "a")], index=known)[0]
        for known in (None, index)
    ]
    np.testing.assert_array_equal(*clips)
    views = [preprocessing.eval_views(video, index=known)[0] for known in (None, index)]
    np.testing.assert_array_equal(*views)


def test_without_flip_nothing_is_mirrored(video):
    pair = a_preprocessing(flip=True), a_preprocessing(flip=False)
    differ = 0
    for seed in range(12):
        mirrored, plain = (value.train_clips(video, SAMPLE, [sample_rng(seed, 0, "a")])[0] for value in pair)
        assert np.array_equal(mirrored, plain) or np.array_equal(mirrored[:, :, ::-1], plain)
        differ += not np.array_equal(mirrored, plain)
    assert 0 < differ < 12


def test_the_same_randomness_gives_the_same_clip(video):
    preprocessing = a_preprocessing()
    clips = [preprocessing.train_clips(video, SAMPLE, [sample_rng(0, epoch, "a")])[0] for epoch in (0, 0, 1)]
    assert np.array_equal(clips[0], clips[1]) and not np.array_equal(clips[0], clips[2])


@pytest.mark.parametrize("sampling", ["dense", "uniform", "segments", "sequences"])
def test_a_train_clip_stays_in_its_span(smooth, scaled, sampling):
    """Frames 20 to 29: frame 30 begins where the span ends, and may be another clip's first."""
    preprocessing = a_preprocessing(short_side=(24, 24), flip=False, sampling=sampling)
    span = Sample("a", "", 0.8, 1.2, {}, "a", "train")
    shown = set()
    for seed in range(12):
        clip = preprocessing.train_clips(smooth, span, [sample_rng(seed, 0, "a")])[0]
        numbers = [place_of(image, {24: scaled[24]})[0] for image in clip]
        assert min(numbers) >= 20 and max(numbers) < 30 and numbers == sorted(numbers)
        shown |= set(numbers)
    assert len(shown) > (3 if sampling == "sequences" else 7)


# -- evaluation -------------------------------------------------------------------------------------


def test_views_start_where_pyslowfast_puts_them(video):
    clips, times = a_preprocessing().eval_views(video, views=4)
    latest = 2.0 - 4 * 2 / FPS
    np.testing.assert_allclose(times[:, 0], [0, latest / 4, latest / 2, latest * 3 / 4])
    np.testing.assert_allclose(np.diff(times), 2 / FPS)
    assert clips.shape == (4, 4, 28, 28, 3) and times.dtype == np.float64
    frames = read_clip(video, times.ravel(), short_side=32)
    width = frames.shape[2]
    left = -(-(width - 28) // 2)
    np.testing.assert_array_equal(clips.reshape(16, 28, 28, 3), frames[:, 2:30, left : left + 28])


def test_a_single_view_lies_in_the_middle(video):
    _, times = a_preprocessing().eval_views(video)
    assert times.shape == (1, 4)
    np.testing.assert_allclose(times[0, 0], (2.0 - 8 / FPS) / 2)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (48, 48)])
def test_three_crops_cover_the_long_side(tmp_path, width, height):
    path = write_video(tmp_path / "video.mp4", width=width, height=height, frames=20)
    clips, times = a_preprocessing().eval_views(path, views=2, crops=3)
    assert clips.shape == (6, 4, 28, 28, 3)
    frames = read_clip(path, times.ravel(), short_side=32)
    frames = frames.reshape(2, 4, *frames.shape[1:])
    tall = height > width
    long = max(frames.shape[2:4])
    for view in range(2):
        for crop, start in enumerate((0, -(-(long - 28) // 2), long - 28)):
            wanted = (
                frames[view, :, start : start + 28, 2:30]
                if tall
                else frames[view, :, 2:30, start : start + 28]
            )
            np.testing.assert_array_equal(clips[view * 3 + crop], wanted)
    centre, _ = a_preprocessing().eval_views(path, views=2, crops=1)
    np.testing.assert_array_equal(centre, clips[1::3])


def test_a_clip_longer_than_the_video_repeats_the_last_frame(video):
    preprocessing = a_preprocessing(frames=8, stride=25, eval_crop=32)
    clips, times = preprocessing.eval_views(video, views=2)
    np.testing.assert_array_equal(clips[0], clips[1])
    assert times.max() <= 2.0
    np.testing.assert_array_equal(clips[0, 3:], np.repeat(clips[0, 2:3], 5, axis=0))
    train = preprocessing.train_clips(video, SAMPLE, [sample_rng(0, 0, "a")])[0]
    np.testing.assert_array_equal(train[3:], np.repeat(train[2:3], 5, axis=0))


@settings(max_examples=30, deadline=None)
@given(start=st.floats(0, 3), length=st.none() | st.floats(0, 3), views=st.integers(1, 5))
def test_views_stay_in_their_span(video, start, length, views):
    end = None if length is None else start + length
    clips, times = a_preprocessing().eval_views(video, start, end, views)
    assert len(clips) == views and np.isfinite(times).all()
    assert times.min() >= start
    assert times.max() <= max(start, min(2.0 if end is None else end, 2.0))
    assert (np.diff(times[:, 0]) >= 0).all()


@pytest.mark.parametrize("sampling", ["uniform", "segments", "sequences"])
def test_views_of_other_samplers(video, sampling):
    """The frames are those of the video at the timestamps of the sampler."""
    preprocessing = a_preprocessing(sampling=sampling)
    clips, times = preprocessing.eval_views(video, 0.4, 1.4, views=2, crops=3)
    wanted = eval_times(sampling, 0.4, 1.4, frames=4, stride=2, fps=FPS, source_fps=FPS, views=2)
    np.testing.assert_array_equal(times, wanted)
    frames = read_clip(video, times.ravel(), short_side=32)
    np.testing.assert_array_equal(clips[::3].reshape(8, 28, 28, 3), frames[:, 2:30, :28])


def test_sequences_may_give_fewer_views(video):
    """1 second has 25 frames, of which every second one is used, 13: three sequences of 4."""
    preprocessing = a_preprocessing(sampling="sequences")
    for views, given_ in ((2, 2), (3, 3), (10, 3)):
        clips, times = preprocessing.eval_views(video, 0.0, 1.0, views=views)
        assert len(clips) == len(times) == given_


def test_files_in_memory_and_variable_rates(tmp_path, video):
    file = io.BytesIO(video.read_bytes())
    for one, other in zip(
        a_preprocessing().eval_views(file), a_preprocessing().eval_views(video), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    path = write_video(tmp_path / "vfr.mp4", frames=4, times=[0, 300, 310, 600], time_base=Fraction(1, 600))
    clips, times = a_preprocessing().eval_views(path)
    assert probe(path).duration_s >= 1.0 and len(clips) == 1 and (times >= 0).all()


@pytest.mark.parametrize(("views", "crops", "key"), [(0, 1, "views"), (1, 2, "crops"), (1, 0, "crops")])
def test_wrong_views_and_crops_are_refused(video, views, crops, key):
    with pytest.raises(ConfigError) as error:
        a_preprocessing().eval_views(video, views=views, crops=crops)
    assert (error.value.code, error.value.key) == ("out_of_range", key)


def test_a_bad_file_is_a_decode_error(tmp_path):
    with pytest.raises(DecodeError):
        a_preprocessing().eval_views(tmp_path / "nowhere.mp4")
    with pytest.raises(DecodeError):
        a_preprocessing().train_clips(tmp_path / "nowhere.mp4", SAMPLE, [sample_rng(0, 0, "a")])[0]


# -- optical flow -----------------------------------------------------------------------------------

TSN = {"mean": (0.5, 0.5), "std": (0.226, 0.226)}


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """40 frames of flow at 25 per second, bound 20: u is the number of the frame, v is 100 more."""
    folder = tmp_path_factory.mktemp("flow")
    for number in range(1, 41):
        for name, value in (("u", number), ("v", 100 + number)):
            path = folder / name / f"frame_{number:05d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((40, 48), value, np.uint8)).save(path)
    return frames_uri(folder / "{u,v}" / "frame_%05d.png", fps=FPS, bound=20)


def numbers_of(clip_thwc):
    """The numbers of the frames of flow in a clip: int [T, stack]; checks that u, v take turns."""
    assert (clip_thwc == clip_thwc[:, :1, :1]).all()
    pairs = clip_thwc[:, 0, 0].reshape(len(clip_thwc), -1, 2).astype(int)
    numbers = pairs[..., 1] - 100
    mirrored = pairs[..., 0] != numbers
    assert mirrored.all() or not mirrored.any()
    np.testing.assert_array_equal(pairs[..., 0], 255 - numbers if mirrored.any() else numbers)
    return numbers, bool(mirrored.any())


def test_flow_clips(flow):
    preprocessing = a_preprocessing(modality="flow", **TSN)
    assert preprocessing.channels == 2
    mirrors = set()
    for seed in range(10):
        clip = preprocessing.train_clips(flow, SAMPLE, [sample_rng(seed, 0, "a")])[0]
        assert clip.shape == (4, 24, 24, 2)
        numbers, mirrored = numbers_of(clip)
        assert (np.diff(numbers[:, 0]) == 2).all()
        mirrors.add(mirrored)
    assert mirrors == {False, True}
    clips, times = preprocessing.eval_views(flow, views=2, crops=3)
    assert clips.shape == (6, 4, 28, 28, 2)
    for view in range(2):
        numbers, mirrored = numbers_of(clips[3 * view])
        assert not mirrored and numbers[:, 0].tolist() == (np.floor(times[view] * FPS + 1e-6) + 1).tolist()


@pytest.mark.parametrize("sampling", ["dense", "uniform", "segments", "sequences"])
def test_stacked_flow(flow, sampling):
    """The input of TSN: 5 consecutive frames of flow at each timestamp, all of them in the span."""
    preprocessing = a_preprocessing(modality="flow_stack", sampling=sampling, **TSN)
    assert preprocessing.channels == 10
    span = Sample("a", "", 10 / FPS, 26 / FPS, {}, "a", "train")  # numbers 11 to 26
    shown = set()
    for seed in range(10):
        clip = preprocessing.train_clips(flow, span, [sample_rng(seed, 0, "a")])[0]
        assert clip.shape == (4, 24, 24, 10)
        numbers, _ = numbers_of(clip)
        assert (np.diff(numbers, axis=1) == 1).all()
        shown |= set(numbers.ravel().tolist())
    assert min(shown) >= 11 and max(shown) <= 26 and len(shown) >= 7
    clips, times = preprocessing.eval_views(flow, span.start_s, span.end_s, views=2, crops=3)
    assert clips.shape[1:] == (4, 28, 28, 10) and times.shape[1] == 4
    numbers, _ = numbers_of(clips[0])
    np.testing.assert_array_equal(numbers[:, 0], np.floor(times[0] * FPS + 1e-6) + 1)


def test_a_span_shorter_than_a_stack_repeats_its_last_frame(flow):
    preprocessing = a_preprocessing(modality="flow_stack", sampling="segments", **TSN)
    clips, _ = preprocessing.eval_views(flow, 10 / FPS, 13 / FPS)
    numbers, _ = numbers_of(clips[0])
    assert numbers.tolist() == [[11, 12, 13, 13, 13]] * 4


@given(stored=st.floats(1, 50), wanted=st.floats(1, 50))
def test_flow_of_another_bound_keeps_its_pixels(flow, stored, wanted):
    """Motion in pixels is the same before and after, to half a grey step, or is cut at the new bound."""
    uri = frames_uri(flow.partition("#")[0], fps=FPS, bound=stored)
    clips, _ = a_preprocessing(modality="flow", flow_bound=wanted, **TSN).eval_views(uri)
    plain, _ = a_preprocessing(modality="flow", **TSN).eval_views(uri)
    before = (plain / 255.0 * 2 - 1) * stored
    after = (clips / 255.0 * 2 - 1) * wanted
    assert np.abs(after - before.clip(-wanted, wanted)).max() <= wanted / 255 + 1e-6


def test_sources_of_another_modality_are_refused(video, flow):
    with refused("wrong_modality", flow):
        a_preprocessing().eval_views(flow)
    with refused("wrong_modality", video):
        a_preprocessing(modality="flow_stack", **TSN).train_clips(video, SAMPLE, [sample_rng(0, 0, "a")])[0]


# -- RGB and optical flow ---------------------------------------------------------------------------

BOTH = {"mean": (0.4, 0.45, 0.5, 0.5, 0.6), "std": (0.2, 0.225, 0.25, 0.226, 0.3)}


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """Flow of ``video``: of its size and rate, with one frame fewer; all images are different."""
    return write_flow(
        tmp_path_factory.mktemp("beside"),
        np.random.default_rng(0).integers(0, 256, (49, 2, 48, 64), np.uint8),
    )


def write_flow(folder, images_tchw, fps=FPS):
    for number, image_chw in enumerate(images_tchw, 1):
        for name, image_hw in zip("uv", image_chw, strict=True):
            path = folder / name / f"frame_{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image_hw).save(path)
    return frames_uri(folder / "{u,v}" / "frame_%05d.png", fps=fps, bound=20)


def test_what_a_sample_is_read_from():
    both = replace(SAMPLE, uri="a.mp4", flow="a/{u,v}/%d.jpg#fps=25&bound=8")
    alone = replace(SAMPLE, uri=both.flow)

    def sources(modality, sample):
        changes = {"rgb": {}, "flow": TSN, "flow_stack": TSN}.get(modality, BOTH)
        return a_preprocessing(modality=modality, **changes).sources(sample)

    for modality in ("flow", "flow_stack"):
        assert sources(modality, both) == sources(modality, alone) == (both.flow, None)
    for modality in ("rgb_flow", "rgb_flow_stack"):
        assert sources(modality, both) == ("a.mp4", both.flow)
        assert sources(modality, SAMPLE) == (SAMPLE.uri, None)
    assert sources("rgb", both) == ("a.mp4", None)


@pytest.mark.parametrize("sampling", ["dense", "uniform", "segments", "sequences"])
@pytest.mark.parametrize("flip", [False, True])
def test_rgb_and_flow_are_those_of_each_alone(video, beside, sampling, flip):
    """The same timestamps, position, size and direction, and no further random numbers."""
    common = {"sampling": sampling, "flip": flip, "flow_bound": 30.0}
    rgb, flow = a_preprocessing(**common), a_preprocessing(modality="flow", **common, **TSN)
    both = a_preprocessing(modality="rgb_flow", **common, **BOTH)
    assert both.channels == 5
    span = Sample("a", "", 0.2, 1.8, {}, "a", "train")
    rngs = [[sample_rng(seed, 0, "a") for seed in range(6)] for _ in range(3)]
    clips = both.train_clips(video, span, rngs[0], flow=beside)
    assert clips.shape == (6, 4, 24, 24, 5) and clips.dtype == np.uint8
    np.testing.assert_array_equal(clips[..., :3], rgb.train_clips(video, span, rngs[1]))
    np.testing.assert_array_equal(clips[..., 3:], flow.train_clips(beside, span, rngs[2]))
    assert [rng.random() for rng in rngs[0]] == [rng.random() for rng in rngs[1]]

    views, times = both.eval_views(video, 0.2, 1.8, 2, 3, flow=beside)
    assert views.shape[1:] == (4, 28, 28, 5)
    for part, alone, source in ((views[..., :3], rgb, video), (views[..., 3:], flow, beside)):
        own, own_times = alone.eval_views(source, 0.2, 1.8, 2, 3)
        np.testing.assert_array_equal(part, own)
        np.testing.assert_array_equal(times, own_times)


@pytest.mark.parametrize("sampling", ["dense", "uniform", "segments", "sequences"])
def test_rgb_and_stacked_flow(video, beside, sampling):
    """The flow is that of flow_stack, whose timestamps leave room for it; RGB has the same timestamps."""
    stacked = a_preprocessing(modality="flow_stack", sampling=sampling, stack=3, flip=False, **TSN)
    both = a_preprocessing(modality="rgb_flow_stack", sampling=sampling, stack=3, flip=False, **BOTH)
    assert both.channels == 9
    span = Sample("a", "", 0.2, 1.8, {}, "a", "train")
    rngs = [[sample_rng(seed, 0, "a") for seed in range(4)] for _ in range(2)]
    clips = both.train_clips(video, span, rngs[0], flow=beside)
    np.testing.assert_array_equal(clips[..., 3:], stacked.train_clips(beside, span, rngs[1]))
    views, times = both.eval_views(video, 0.2, 1.8, views=2, flow=beside)
    own, own_times = stacked.eval_views(beside, 0.2, 1.8, views=2)
    np.testing.assert_array_equal(views[..., 3:], own)
    np.testing.assert_array_equal(times, own_times)
    frames = read_clip(video, times.ravel(), short_side=32)
    left = -(-(frames.shape[2] - 28) // 2)
    np.testing.assert_array_equal(views[..., :3].reshape(-1, 28, 28, 3), frames[:, 2:30, left : left + 28])


@pytest.mark.parametrize("rate", [1, 2])
def test_flow_at_half_the_rate_and_of_another_size(video, tmp_path, rate):
    """As that of EPIC's old videos: the flow frame of an RGB frame is (frame - 1) // 2 + 1."""
    count = 48 // rate
    numbers = np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(numbers + np.array([0, 100], np.uint8)[:, None, None], (count, 2, 20, 30))
    flow = write_flow(tmp_path, images, fps=FPS / rate)
    both = a_preprocessing(modality="rgb_flow_stack", stack=2, sampling="segments", **BOTH)
    span = Sample("a", "", 10 / FPS, 34 / FPS, {}, "a", "train")
    shown = set()
    for seed in range(12):
        clip = both.train_clips(video, span, [sample_rng(seed, 0, "a")], flow=flow)[0]
        of_flow, _ = numbers_of(clip[..., 3:])
        assert (np.diff(of_flow, axis=1) == 1).all()
        shown |= set(of_flow.ravel().tolist())
    assert min(shown) >= 10 // rate + 1 and max(shown) <= 34 // rate
    views, times = both.eval_views(video, span.start_s, span.end_s, flow=flow)
    of_flow, _ = numbers_of(views[0, ..., 3:])
    frames = np.floor(times[0] * FPS + 1e-6) + 1
    assert of_flow[:, 0].tolist() == ((frames - 1) // rate + 1).tolist()


@pytest.mark.parametrize("size", [(48, 64), (24, 32), (96, 128), (30, 30)])
def test_flow_shows_the_same_part_of_the_frame(tmp_path, size):
    """Images that encode the position: green and v from top to bottom, red and u from left to right."""

    def ramps(height, width):
        down, right = np.mgrid[:height, :width]
        return [255 * (right + 0.5) / width, 255 * (down + 0.5) / height]

    flow = write_flow(tmp_path / "flow", np.array([ramps(*size)] * 4).astype(np.uint8))
    (tmp_path / "rgb").mkdir()
    red, green = ramps(48, 64)
    for number in range(1, 5):
        image = np.stack([red, green, np.zeros((48, 64))], axis=-1).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "rgb" / f"{number}.png")
    rgb = frames_uri(tmp_path / "rgb" / "%d.png", fps=FPS)
    both = a_preprocessing(modality="rgb_flow", stride=1, **BOTH)
    limit = 255 / min(size) + 2  # crops are cut at whole pixels
    mirrors = set()
    for seed in range(16):
        clip = both.train_clips(rgb, SAMPLE, [sample_rng(seed, 0, "a")], flow=flow)[0].astype(int)
        mirrored = bool(clip[0, 0, 0, 0] > clip[0, 0, -1, 0])
        mirrors.add(mirrored)
        u = 255 - clip[..., 3] if mirrored else clip[..., 3]
        assert np.abs(clip[..., 0] - u).max() <= limit
        assert np.abs(clip[..., 1] - clip[..., 4]).max() <= limit
    assert mirrors == {False, True}
    views = both.eval_views(rgb, crops=3, flow=flow)[0].astype(int)
    assert np.abs(views[..., :2] - views[..., 3:]).max() <= limit
    assert views[0, 0, 0, 0, 3] + 20 < views[2, 0, 0, 0, 3]


def test_missing_rgb_or_flow_is_refused(video, flow):
    both = a_preprocessing(modality="rgb_flow", **BOTH)
    for source, beside, code in [
        (video, None, "no_flow"),
        (flow, None, "wrong_modality"),
        (video, video, "wrong_modality"),
    ]:
        with refused(code, source):
            both.eval_views(source, flow=beside)
        with refused(code, source):
            both.train_clips(source, SAMPLE, [sample_rng(0, 0, "a")], flow=beside)
    with refused("no_flow", "the upload"):
        both.eval_views(io.BytesIO(video.read_bytes()))
    with pytest.raises(DecodeError) as error:
        both.eval_views(video, flow="/nowhere/{u,v}/%d.png#fps=25&bound=20")
    assert error.value.code == "not_found" and "/nowhere" in str(error.value)


# -- heads ------------------------------------------------------------------------------------------


def test_only_the_named_heads_are_trained():
    heads = {"noun": ("pan",), "verb": ("cut", "wash"), "category": ("a", "b", "c")}
    value = Preprocessing.from_config(DataConfig(heads=("verb", "noun")), heads)
    assert list(value.labels) == ["noun", "verb"]  # in the manifest's order, however they are named
    assert list(Preprocessing.from_config(DataConfig(), heads).labels) == list(heads)
    with pytest.raises(ConfigError) as error:
        trained_heads(DataConfig(heads=("verb", "action")), heads)
    assert (error.value.code, error.value.key) == ("unknown_value", "data.heads")
    assert str(error.value).startswith("data.heads=action: ")


def test_the_head_whose_classes_are_balanced():
    both = ("verb", "noun")
    assert balance_of(DataConfig(balance_head="verb"), both) is None
    assert balance_of(DataConfig(balance="sqrt"), ("action",)) == ("action", 0.5)
    assert balance_of(DataConfig(balance="class", balance_head="noun"), both) == ("noun", 0.0)
    for data, code in [
        (DataConfig(balance="sqrt"), "not_set"),
        (DataConfig(balance="class", balance_head="nuon"), "unknown_value"),
    ]:
        with pytest.raises(ConfigError) as error:
            balance_of(data, both)
        assert (error.value.code, error.value.key) == (code, "data.balance_head")
        assert error.value.remedy == "set it to one of verb, noun"


# -- normalisation ----------------------------------------------------------------------------------


def test_stacked_flow_is_normalised_by_component():
    preprocessing = a_preprocessing(modality="flow_stack", stack=2, mean=(0.5, 0.4), std=(0.2, 0.1))
    clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 2, 3, 4, 4), np.uint8))
    wanted = (clips.double() / 255 - torch.tensor([0.5, 0.4, 0.5, 0.4])) / torch.tensor([0.2, 0.1, 0.2, 0.1])
    result = preprocessing.normalise(clips)
    assert result.shape == (1, 4, 2, 3, 4)
    torch.testing.assert_close(result, wanted.permute(0, 4, 1, 2, 3).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stack", [1, 3])
def test_rgb_and_stacked_flow_are_normalised_by_component(stack):
    preprocessing = a_preprocessing(modality="rgb_flow_stack", stack=stack, **BOTH)
    clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 2, 3, 4, 3 + 2 * stack), np.uint8))
    mean, std = (torch.tensor([*values[:3], *values[3:] * stack]) for values in BOTH.values())
    wanted = (clips.double() / 255 - mean) / std
    result = preprocessing.normalise(clips)
    assert result.shape == (1, 3 + 2 * stack, 2, 3, 4)
    torch.testing.assert_close(result, wanted.permute(0, 4, 1, 2, 3).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mean", [(0.45, 0.45, 0.45), (0.4, 0.5, 0.6)])
def test_normalise(mean):
    preprocessing = a_preprocessing(mean=mean, std=(0.225, 0.2, 0.25))
    clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), np.uint8))
    before = clips.clone()
    result = preprocessing.normalise(clips)
    assert result.shape == (2, 3, 3, 4, 5) and result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last_3d)  # as the clips came
    wanted = (clips.double() / 255 - torch.tensor(mean).double()) / torch.tensor([0.225, 0.2, 0.25]).double()
    torch.testing.assert_close(result.double(), wanted.permute(0, 4, 1, 2, 3), rtol=1e-6, atol=1e-6)
    assert torch.equal(clips, before)
