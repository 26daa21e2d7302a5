"""Clip sampling, scaling, cropping and normalisation as one value."""

import io
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import write_video

from kineray.config import DataConfig
from kineray.data import Preprocessing, Sample, sample_rng
from kineray.errors import ConfigError, DecodeError
from kineray.video import probe, read_clip

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "preprocessing: the document: invalid json"),
        ("{}", "preprocessing: frames: field required"),
        (a_preprocessing().to_json().replace('"frames"', '"framez"'), "preprocessing: frames"),
        (a_preprocessing().to_json().replace('"crop": 24', '"crop": "x"'), "preprocessing: crop: "),
        (
            a_preprocessing().to_json().replace('"crop": 24', '"crop": 25'),
            "preprocessing: the document: crop 25 is larger than the smallest short_side 24",
        ),
        (
            a_preprocessing().to_json().replace('"eval_crop": 28', '"eval_crop": 33'),
            "preprocessing: the document: eval_crop 33 is larger",
        ),
        (a_preprocessing().to_json().replace('"stride": 2', '"stride": 0'), "preprocessing: stride: "),
        (a_preprocessing().to_json().replace("0.225", "0"), "preprocessing: the document: std must be"),
    ],
)
def test_wrong_json_is_one_line(text, message):
    with pytest.raises(ConfigError) as caught:
        Preprocessing.from_json(text)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


# -- training ---------------------------------------------------------------------------------------


def places_of(picture_hwc, scaled):
    """Every (frame, short side, top, left, mirrored) at which the picture lies in the scaled video."""
    return [
        (int(index), side, top, left, mirrored)
        for side, frames in scaled.items()
        for top in range(frames.shape[1] - 23)
        for left in range(frames.shape[2] - 23)
        for mirrored in (False, True)
        for crop in [frames[:, top : top + 24, left : left + 24][:, :, :: -1 if mirrored else 1]]
        for index in np.flatnonzero((crop[:, ::8, ::8] == picture_hwc[::8, ::8]).all((1, 2, 3)))
        if np.array_equal(crop[index], picture_hwc)
    ]


def test_a_train_clip_is_cut_from_the_video(video):
    """Every clip is found in the video, at one place, scale and direction, with the wanted spacing."""
    scaled = {side: read_clip(video, np.arange(50) / FPS, short_side=side) for side in range(24, 33)}
    seen = []
    for seed in range(40):
        clip = a_preprocessing().train_clip(video, SAMPLE, sample_rng(seed, 0, "a"))
        assert clip.shape == (4, 24, 24, 3) and clip.dtype == np.uint8 and clip.flags.c_contiguous
        ((first, *cut),) = places_of(clip[0], scaled)
        for later in (1, 2, 3):
            assert (first + 2 * later, *cut) in places_of(clip[later], {cut[0]: scaled[cut[0]]})
        seen.append((first, *cut))
    starts, sides, tops, lefts, mirrored = (set(values) for values in zip(*seen, strict=True))
    assert max(starts) <= 42 and min(starts) < 8 and max(starts) > 34  # 8 of 50 frames are the clip's span
    assert sides >= {24, 32} and len(sides) > 5
    assert len(tops) > 3 and len(lefts) > 5 and mirrored == {False, True}


def test_without_flip_nothing_is_mirrored(video):
    pair = a_preprocessing(flip=True), a_preprocessing(flip=False)
    differ = 0
    for seed in range(12):
        mirrored, plain = (value.train_clip(video, SAMPLE, sample_rng(seed, 0, "a")) for value in pair)
        assert np.array_equal(mirrored, plain) or np.array_equal(mirrored[:, :, ::-1], plain)
        differ += not np.array_equal(mirrored, plain)
    assert 0 < differ < 12


def test_the_same_randomness_gives_the_same_clip(video):
    preprocessing = a_preprocessing()
    clips = [preprocessing.train_clip(video, SAMPLE, sample_rng(0, epoch, "a")) for epoch in (0, 0, 1)]
    assert np.array_equal(clips[0], clips[1]) and not np.array_equal(clips[0], clips[2])


def test_a_train_clip_stays_in_its_span(video):
    frames = read_clip(video, np.arange(50) / FPS, short_side=24)
    preprocessing = a_preprocessing(short_side=(24, 24), flip=False)
    span = Sample("a", "", 0.8, 1.2, {}, "a", "train")
    for seed in range(20):
        clip = preprocessing.train_clip(video, span, sample_rng(seed, 0, "a"))
        shown = [places_of(picture, {24: frames})[0][0] for picture in (clip[0], clip[-1])]
        assert 20 <= shown[0] <= shown[1] <= 30


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
    train = preprocessing.train_clip(video, SAMPLE, sample_rng(0, 0, "a"))
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
def test_wrong_views_and_crops(video, views, crops, key):
    with pytest.raises(ConfigError, match=f"^{key}: "):
        a_preprocessing().eval_views(video, views=views, crops=crops)


def test_a_bad_file_is_a_decode_error(tmp_path):
    with pytest.raises(DecodeError):
        a_preprocessing().eval_views(tmp_path / "nowhere.mp4")
    with pytest.raises(DecodeError):
        a_preprocessing().train_clip(tmp_path / "nowhere.mp4", SAMPLE, sample_rng(0, 0, "a"))


# -- normalisation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [(0.45, 0.45, 0.45), (0.4, 0.5, 0.6)])
def test_normalise(mean):
    preprocessing = a_preprocessing(mean=mean, std=(0.225, 0.2, 0.25))
    clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), np.uint8))
    before = clips.clone()
    result = preprocessing.normalise(clips)
    assert result.shape == (2, 3, 3, 4, 5) and result.dtype == torch.float32 and result.is_contiguous()
    wanted = (clips.double() / 255 - torch.tensor(mean).double()) / torch.tensor([0.225, 0.2, 0.25]).double()
    torch.testing.assert_close(result.double(), wanted.permute(0, 4, 1, 2, 3), rtol=1e-6, atol=1e-6)
    assert torch.equal(clips, before)
