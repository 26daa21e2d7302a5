"""Prediction of one video, against the same computation written out by hand."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kineray import read_clip
from kineray.data import load_manifest, synthesize
from kineray.errors import ConfigError, DecodeError
from kineray.evaluation import answer, decode_views, predict, view_scores
from kineray.training import load_checkpoint
from small_checkpoint import CLASSES, save_small_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    manifest = load_manifest(synthesize(tmp_path_factory.mktemp("videos"), train=0, val=3, size=48))
    return [Path(sample.uri) for sample in manifest]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    heads = {"action": CLASSES, "axis": ("horizontal", "vertical")}
    return load_checkpoint(save_small_checkpoint(tmp_path_factory.mktemp("run"), heads=heads))


def test_one_view_is_the_middle_clip_as_cut_by_hand(checkpoint, videos):
    data = checkpoint.experiment.data
    span_s = data.frames * data.stride / data.fps
    times_s = (2.0 - span_s) / 2 + np.arange(data.frames) * data.stride / data.fps  # videos of 2 s
    frames = read_clip(videos[0], times_s, short_side=data.eval_short_side)
    margin = (data.eval_short_side - data.eval_crop) // 2
    frames = frames[:, margin : margin + data.eval_crop, margin : margin + data.eval_crop]
    pixels = (frames / 255.0 - np.array(data.mean)) / np.array(data.std)
    clip = torch.from_numpy(pixels.astype(np.float32)).permute(3, 0, 1, 2)[None]
    with torch.no_grad():
        logits = checkpoint.model(clip)

    result = predict(checkpoint, videos[0], top_k=10)
    assert result["timestamps_s"] == [pytest.approx(times_s, abs=1e-5)]
    for head, names in checkpoint.preprocessing.labels.items():
        expected = dict(zip(names, logits[head][0].softmax(0).tolist(), strict=True))
        got = {entry["label"]: entry["score"] for entry in result["predictions"][head]}
        assert got == pytest.approx(expected, abs=1e-5)
        assert [entry["label"] for entry in result["predictions"][head]] == sorted(names, key=expected.get)[
            ::-1
        ]
    assert result["weights_sha256"] == checkpoint.weights_sha256
    assert (result["model"], result["version"]) == ("small", None)
    assert min(result["timings_ms"].values()) >= 0


def test_views_and_crops_are_averaged(checkpoint, videos):
    clips, times_s = decode_views(videos[1], checkpoint.preprocessing, views=4, crops=3)
    assert clips.shape[0] == 12
    assert times_s.shape == (4, 8)
    separate = [view_scores(checkpoint, clip[None], "cpu") for clip in clips]
    mean = np.mean([one["action"][0] for one in separate], axis=0)
    result = predict(checkpoint, videos[1], views=4, crops=3, top_k=4)
    got = {entry["label"]: entry["score"] for entry in result["predictions"]["action"]}
    assert got == pytest.approx(dict(zip(CLASSES, mean, strict=True)), abs=1e-5)
    assert max(abs(one["action"] - mean).max() for one in separate) > 0.01  # the views do differ


def test_bytes_are_read_like_a_file(checkpoint, videos):
    from_path = predict(checkpoint, str(videos[2]))
    from_bytes = predict(checkpoint, io.BytesIO(videos[2].read_bytes()))
    for result in (from_path, from_bytes):
        del result["timings_ms"]
    assert from_path == from_bytes


def test_different_videos_have_different_scores(checkpoint, videos):
    scores = [predict(checkpoint, video)["predictions"]["action"] for video in videos]
    assert scores[0] != scores[1] != scores[2]


@given(st.integers(1, 6), st.integers(1, 5))
def test_the_answer_has_the_best_k_classes_of_the_mean(checkpoint, views, top_k):
    scores = np.random.default_rng(views).dirichlet(np.ones(len(CLASSES)), views)
    result = answer(
        checkpoint,
        {"action": scores.astype(np.float32)},
        np.zeros((views, 2)),
        top_k=top_k,
        model="m",
        version=3,
        timings_ms={},
    )
    entries = result["predictions"]["action"]
    mean = dict(zip(CLASSES, scores.mean(axis=0), strict=True))
    assert len(entries) == min(top_k, len(CLASSES))
    assert [entry["score"] for entry in entries] == pytest.approx(
        sorted(mean.values())[::-1][:top_k], abs=1e-6
    )
    assert all(entry["score"] == pytest.approx(mean[entry["label"]], abs=1e-6) for entry in entries)


def test_input_that_cannot_be_predicted_is_refused(checkpoint, videos, tmp_path):
    with pytest.raises(DecodeError) as error:
        predict(checkpoint, io.BytesIO(b"not a video at all"))
    assert error.value.code == "not_a_video"
    with pytest.raises(DecodeError) as error:
        predict(checkpoint, tmp_path / "none.mp4")
    assert error.value.code == "not_found"
    both = {"modality": "rgb_flow", "mean": (0.5,) * 5, "std": (0.2,) * 5}
    for file in (videos[0], io.BytesIO(videos[0].read_bytes())):
        with pytest.raises(ConfigError) as error:
            decode_views(file, checkpoint.preprocessing.model_copy(update=both), views=1, crops=1)
        assert error.value.code == "no_flow" and error.value.key
    with pytest.raises(ConfigError) as error:
        predict(checkpoint, videos[0], crops=2)
    assert (error.value.code, error.value.key) == ("out_of_range", "crops")
