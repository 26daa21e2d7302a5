"""Evaluation of a checkpoint on a manifest: scores, protocol, missing videos, joined labels."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from kineray.data import Manifest, load_manifest, synthesize
from kineray.errors import ManifestError
from kineray.evaluation import evaluate, predict, write_table
from kineray.training import load_checkpoint
from small_checkpoint import CLASSES, save_small_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return load_manifest(synthesize(tmp_path_factory.mktemp("videos"), train=2, val=7, size=48))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(save_small_checkpoint(tmp_path_factory.mktemp("run"), seed=3))


@pytest.fixture(scope="module")
def evaluation(checkpoint, manifest):
    return evaluate(checkpoint, manifest, views=2, crops=3, decoders=2)


def test_every_video_scores_as_it_is_predicted_alone(evaluation, checkpoint, manifest):
    samples = manifest.split("val")
    rows = evaluation.predictions.to_pylist()
    assert [row["id"] for row in rows] == [sample.id for sample in samples]
    right = []
    for sample, row in zip(samples, rows, strict=True):
        alone = predict(checkpoint, sample.uri, views=2, crops=3)["predictions"]["action"]
        expected = {entry["label"]: entry["score"] for entry in alone}
        assert dict(zip(CLASSES, row["action/probabilities"], strict=True)) == pytest.approx(
            expected, abs=1e-5
        )
        right.append(CLASSES[row["action/label"]] == alone[0]["label"])
    assert evaluation.metrics["action/top1"] == pytest.approx(np.mean(right))
    truth = [row["action/label"] for row in rows]
    assert [row["action/class"] for row in rows] == [CLASSES[index] for index in truth]
    predicted = [CLASSES[int(np.argmax(row["action/probabilities"]))] for row in rows]
    assert [row["action/predicted"] for row in rows] == predicted
    assert evaluation.to_json()["classes"] == {"action": list(CLASSES)}
    for index, name in enumerate(CLASSES):
        of_class = [hit for hit, label in zip(right, truth, strict=True) if label == index]
        assert evaluation.per_class["action"][name] == pytest.approx(np.mean(of_class))
    mean = np.mean(list(evaluation.per_class["action"].values()))
    assert evaluation.metrics["action/mean_class"] == pytest.approx(mean)


def test_the_protocol_says_how_it_was_measured(evaluation, manifest, checkpoint):
    assert evaluation.protocol == {
        "dataset": "synthetic-drift",
        "manifest_hash": manifest.content_hash,
        "split": "val",
        "views": 2,
        "crops": 3,
        "aggregation": "mean of softmax",
        "modality": "rgb",
        "sampling": "dense",
        "frames": 8,
        "stride": 1,
        "fps": 15,
        "eval_short_side": 36,
        "eval_crop": 32,
        "precision": "float32",
        "absent": "not scored",
        "undecodable": "wrong",
        "listed": 7,
        "found": 7,
    }
    short = Manifest(manifest.name, manifest.samples, manifest.vocabularies, {"val": ("lost", "gone")})
    protocol = evaluate(checkpoint, short, views=1, crops=1).protocol
    assert (protocol["listed"], protocol["found"]) == (9, 7)


def test_saved_predictions_carry_protocol_and_classes(evaluation, checkpoint, tmp_path):
    path = tmp_path / "deep" / "predictions.parquet"
    write_table(evaluation.predictions, str(path))
    table = pq.read_table(path)
    assert table.equals(evaluation.predictions)
    about = json.loads(table.schema.metadata[b"kineray.evaluation"])
    assert about["protocol"] == evaluation.protocol
    assert about["metrics"] == evaluation.metrics
    assert about["classes"] == {"action": list(CLASSES)}
    assert about["weights_sha256"] == checkpoint.weights_sha256


def test_a_video_that_cannot_be_decoded_counts_as_wrong_and_is_named(checkpoint, manifest, tmp_path):
    samples = list(manifest.split("val"))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(Path(samples[0].uri).read_bytes()[:500])
    samples[2] = dataclasses.replace(samples[2], uri=str(broken))
    samples[6] = dataclasses.replace(samples[6], uri=str(tmp_path / "absent.mp4"))
    damaged = Manifest(manifest.name, tuple(samples), manifest.vocabularies)
    seen = []
    whole = evaluate(checkpoint, manifest, views=1, crops=1)
    result = evaluate(
        checkpoint,
        damaged,
        views=1,
        crops=1,
        decoders=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [(f.id, f.code) for f in result.failures] == [
        (samples[2].id, "truncated"),
        (samples[6].id, "not_found"),
    ]
    rows, good = result.predictions.to_pylist(), whole.predictions.to_pylist()
    assert [index for index, row in enumerate(rows) if row["action/probabilities"] is None] == [2, 6]
    assert [index for index, row in enumerate(rows) if row["error"]] == [2, 6]
    assert [index for index, row in enumerate(rows) if row["action/predicted"] is None] == [2, 6]
    kept = [index for index in range(7) if index not in (2, 6)]
    for index in kept:
        assert rows[index]["action/probabilities"] == pytest.approx(
            good[index]["action/probabilities"], abs=1e-5
        )
    right = [np.argmax(good[index]["action/probabilities"]) == good[index]["action/label"] for index in kept]
    assert result.metrics["action/top1"] == pytest.approx(sum(right) / 7)
    assert seen == [(done, 7) for done in range(1, 8)]


def test_labels_are_joined_by_name(evaluation, checkpoint, manifest):
    order = (2, 0, 3, 1)
    names = tuple(CLASSES[index] for index in order)
    samples = tuple(
        dataclasses.replace(sample, labels={"action": order.index(sample.labels["action"])})
        for sample in manifest
    )
    shuffled = evaluate(checkpoint, Manifest("shuffled", samples, {"action": names}), views=2, crops=3)
    assert shuffled.metrics == pytest.approx(evaluation.metrics)
    assert shuffled.per_class["action"] == pytest.approx(evaluation.per_class["action"])
    assert shuffled.predictions["action/label"] == evaluation.predictions["action/label"]


def test_a_label_that_is_not_known_is_left_out_of_its_head(manifest, tmp_path):
    heads = {"action": CLASSES, "axis": ("horizontal", "vertical")}
    checkpoint = load_checkpoint(save_small_checkpoint(tmp_path / "run", heads=heads))
    samples = tuple(
        dataclasses.replace(s, labels={**s.labels, "axis": s.labels["action"] // 2 if index % 2 else -1})
        for index, s in enumerate(manifest.split("val"))
    )
    result = evaluate(checkpoint, Manifest("two", samples, heads), views=1, crops=1)
    rows = result.predictions.to_pylist()
    known = [row for row in rows if row["axis/label"] >= 0]
    assert len(known) == 3
    right = [np.argmax(row["axis/probabilities"]) == row["axis/label"] for row in known]
    assert result.metrics["axis/top1"] == pytest.approx(np.mean(right))
    assert set(result.metrics) == {f"{head}/{name}" for head in heads for name in ("top1", "mean_class")}


def test_what_does_not_fit_the_checkpoint_is_one_clear_error(checkpoint, manifest):
    verbs = tuple(dataclasses.replace(sample, labels={"verb": 0}) for sample in manifest)
    unlabelled = tuple(dataclasses.replace(sample, labels={"action": -1}) for sample in manifest)
    flow = {"modality": "flow", "mean": (0.5, 0.5), "std": (0.2, 0.2)}
    of_flow = dataclasses.replace(checkpoint, preprocessing=checkpoint.preprocessing.model_copy(update=flow))
    for code, evaluated, name, samples, classes in [
        ("unknown_value", checkpoint, "other", manifest.samples, {"action": (*CLASSES[:3], "jumps")}),
        ("unknown_value", checkpoint, "verbs", verbs, {"verb": CLASSES}),
        ("no_labels", checkpoint, "none", unlabelled, {"action": CLASSES}),
    ]:
        with pytest.raises(ManifestError) as error:
            evaluate(evaluated, Manifest(name, samples, classes), views=1, crops=1)
        assert (error.value.code, error.value.key) == (code, name)
    with pytest.raises(ManifestError) as error:
        evaluate(of_flow, manifest, views=1, crops=1)
    assert (error.value.code, error.value.key) == ("no_flow", manifest.name)
    with pytest.raises(ManifestError) as error:
        evaluate(checkpoint, manifest, "test", views=1, crops=1)
    assert (error.value.code, error.value.key) == ("empty_split", manifest.name)
