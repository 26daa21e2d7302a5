"""A multi-label task through a network, validation, checkpoint, evaluation, prediction and export."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from gloo import run_workers

from kineray.config import apply_overrides, load_plugins
from kineray.data import Manifest, load_manifest, synthesize
from kineray.errors import ConfigError
from kineray.evaluation import evaluate, export, predict, write_table
from kineray.metrics import average_precision
from kineray.models import use_sigmoid
from kineray.models.heads import Head
from kineray.models.two_stream import AverageFusion, LinearFusion
from kineray.training import CheckpointStore, StepEvent, ValidationEvent, load_checkpoint, train
from kineray.training.synchronise import Workers
from kineray.training.validation import validate
from small_checkpoint import save_small_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

MOTIONS = ("sideways", "upright", "leftwards", "downwards", "none")
OF_DRIFT = ((0, 2), (0,), (1,), (1, 3))  # classes of a video that drifts left, right, up, down


@pytest.fixture(scope="module")
def drifting(tmp_path_factory):
    return load_manifest(synthesize(tmp_path_factory.mktemp("videos"), train=16, val=8, size=40))


@pytest.fixture(scope="module")
def motions(drifting):
    """The same videos, with several classes each; one is not known."""
    samples = [dataclasses.replace(s, labels={"motion": OF_DRIFT[s.labels["action"]]}) for s in drifting]
    samples[-1] = dataclasses.replace(samples[-1], labels={"motion": None})
    return Manifest("motions", samples, {"motion": MOTIONS}, multi_label=["motion"])


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    """4 epochs of 2 steps of 8 clips."""
    changes = ["task.type=multi_label", "train.epochs=4", "train.global_batch=8", "optim.reference_batch=8"]
    return apply_overrides(tiny_experiment, changes)


@pytest.fixture(scope="module")
def trained(experiment, motions, tmp_path_factory):
    """URI of the last checkpoint of a run, and its events."""
    store, events = CheckpointStore(str(tmp_path_factory.mktemp("run") / "checkpoints")), []
    result = train(
        experiment, motions.split("train"), motions.split("val"), checkpoints=store, on_event=events.append
    )
    return result.last_uri, events


@pytest.fixture(scope="module")
def checkpoint(trained):
    return load_checkpoint(trained[0])


@pytest.fixture(scope="module")
def evaluation(checkpoint, motions):
    return evaluate(checkpoint, motions, views=2, crops=1)


def test_the_loop_learns_several_classes_at_once_and_scores_them(trained, checkpoint):
    steps = [event for event in trained[1] if isinstance(event, StepEvent)]
    assert steps[-1].loss < 0.8 * steps[0].loss
    validations = [event for event in trained[1] if isinstance(event, ValidationEvent)]
    for event in validations:
        assert event.metrics.keys() == {"val/motion/map", "val/motion/map_classes", "val/loss"}
        assert (event.score, event.score_name) == (event.metrics["val/motion/map"], "motion/map")
    assert checkpoint.state["score"] == validations[-1].score


def test_evaluation_scores_the_sigmoid_averaged_over_views(evaluation, checkpoint, motions):
    samples = [sample for sample in motions.split("val") if sample.labels["motion"] is not None]
    assert len(samples) == 7
    scores, present = np.zeros((7, 5)), np.zeros((7, 5))
    for row, sample in enumerate(samples):
        alone = predict(checkpoint, sample.uri, views=2, top_k=5)["predictions"]["motion"]
        scores[row] = [next(e["score"] for e in alone if e["label"] == name) for name in MOTIONS]
        present[row, list(sample.labels["motion"])] = 1
        assert [entry["score"] for entry in alone] == sorted(scores[row], reverse=True)
    averages = average_precision(scores, present)
    occur = ~np.isnan(averages)
    assert evaluation.metrics["motion/map"] == pytest.approx(averages[occur].mean())
    assert evaluation.metrics["motion/map_classes"] == occur.sum() < 5
    named = {name: value for name, value in zip(MOTIONS, averages, strict=True) if not np.isnan(value)}
    assert evaluation.per_class["motion"] == pytest.approx(named)
    assert evaluation.class_score == "average_precision"
    assert evaluation.protocol["aggregation"] == "mean of sigmoid"
    assert evaluation.protocol["empty"] == "negative"


def test_predictions_contain_lists_of_labels_and_a_probability_for_each_class(evaluation, motions, tmp_path):
    write_table(evaluation.predictions, str(tmp_path / "predictions.parquet"))
    table = pq.read_table(tmp_path / "predictions.parquet")
    expected = [s.labels["motion"] for s in motions.split("val")]
    assert table["motion/label"].to_pylist() == [None if label is None else list(label) for label in expected]
    names = [None if label is None else [MOTIONS[index] for index in label] for label in expected]
    assert table["motion/class"].to_pylist() == names
    rows = table["motion/probabilities"].to_pylist()
    predicted = [[name for name, p in zip(MOTIONS, row, strict=True) if p >= 0.5] for row in rows]
    assert table["motion/predicted"].to_pylist() == predicted
    sums = [sum(row) for row in table["motion/probabilities"].to_pylist()]
    assert max(abs(total - 1) for total in sums) > 0.05  # no softmax
    assert json.loads(table.schema.metadata[b"kineray.evaluation"])["metrics"] == evaluation.metrics


def test_labels_of_several_classes_are_joined_by_name(evaluation, checkpoint, motions):
    order = (4, 2, 0, 1, 3)
    samples = [
        dataclasses.replace(s, labels={"motion": known and tuple(sorted(order.index(i) for i in known))})
        for s in motions
        for known in [s.labels["motion"]]
    ]
    names = tuple(MOTIONS[index] for index in order)
    shuffled = Manifest("shuffled", samples, {"motion": names}, multi_label=["motion"])
    result = evaluate(checkpoint, shuffled, views=2, crops=1)
    assert result.metrics == pytest.approx(evaluation.metrics)
    assert result.predictions["motion/label"] == evaluation.predictions["motion/label"]


def validate_alone(checkpoint, manifest, batch_size, rank=0, size=1):
    return validate(
        checkpoint.model,
        manifest,
        checkpoint.preprocessing,
        checkpoint.task,
        workers=Workers(rank, size),
        device=torch.device("cpu"),
        precision="float32",
        batch_size=batch_size,
        decoders=1,
        indexes=None,
    )


def validated(rank, size, checkpoint_uri, manifest):
    return validate_alone(load_checkpoint(checkpoint_uri), manifest, 4, rank, size)


def test_validation_and_evaluation_of_one_view_are_the_same_number(checkpoint, motions):
    metrics, score = validate_alone(checkpoint, motions.split("val"), batch_size=3)
    of_one_view = evaluate(checkpoint, motions, views=1, crops=1).metrics
    assert {f"val/{name}": value for name, value in of_one_view.items()} == {
        name: value for name, value in metrics.items() if name != "val/loss"
    }
    assert (checkpoint.task.score, score) == ("motion/map", metrics["val/motion/map"])


@pytest.mark.slow
def test_validation_over_three_workers_is_that_of_one(trained, motions, tmp_path):
    """One video cannot be decoded: it is a failure of the worker that has it."""
    samples = list(motions.split("val"))
    samples[4] = dataclasses.replace(samples[4], uri=str(tmp_path / "absent.mp4"))
    damaged = motions.with_samples(samples)
    alone = validated(0, 1, trained[0], damaged)
    whole = validated(0, 1, trained[0], motions.split("val"))
    assert alone[0]["val/undecodable"] == 1 and alone[0] != whole[0]
    for metrics, score in run_workers(validated, 3, tmp_path, trained[0], damaged):
        assert metrics == pytest.approx(alone[0])
        assert score == pytest.approx(alone[1])


def test_the_highest_score_of_the_views_is_taken_if_so_configured(checkpoint, motions):
    highest = apply_overrides(checkpoint.experiment, {"task.aggregation": "max"})
    changed = dataclasses.replace(checkpoint, experiment=highest)
    mean, best = (evaluate(c, motions, views=3, crops=1) for c in (checkpoint, changed))
    rows = [np.array(e.predictions["motion/probabilities"].to_pylist()) for e in (mean, best)]
    assert (rows[1] >= rows[0]).all() and (rows[1] > rows[0]).any()
    assert best.protocol["aggregation"] == "max of sigmoid"


@pytest.mark.slow
def test_logits_are_exported(checkpoint, tmp_path):
    assert export(checkpoint, str(tmp_path / "model.pt2")).heads == {"motion": 5}


def test_a_checkpoint_of_the_other_task_is_refused_for_these_labels(checkpoint, drifting, motions, tmp_path):
    single = load_checkpoint(save_small_checkpoint(tmp_path / "single", heads={"motion": MOTIONS}))
    of_one = Manifest(
        "one", [dataclasses.replace(s, labels={"motion": 0}) for s in drifting], {"motion": MOTIONS}
    )
    for model, manifest in [(single, motions), (checkpoint, of_one)]:
        with pytest.raises(ConfigError) as error:
            evaluate(model, manifest, views=1, crops=1)
        assert (error.value.code, error.value.key) == ("wrong_labels", "task.type")


def test_a_head_averages_sigmoids_over_positions():
    """Several positions, as of a larger crop, against the formula; a single one is not changed."""
    head = Head(6, {"motion": 4}, pool=2, dropout=0.0).eval()
    use_sigmoid(head)
    maps = torch.randn(3, 6, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    pooled = [maps[:, :, :, y : y + 2, x : x + 2].mean(dim=(2, 3, 4)) for y in range(2) for x in range(2)]
    apart = torch.stack([head.linear["motion"](features) for features in pooled])
    torch.testing.assert_close(head([maps])["motion"].sigmoid(), apart.sigmoid().mean(0))
    one = maps[..., :2, :2]
    torch.testing.assert_close(head([one])["motion"], head.linear["motion"](one.mean(dim=(2, 3, 4))))


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_streams_are_fused_by_the_mean_of_their_sigmoids(scale):
    rgb, flow = (scale * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    average = AverageFusion()
    use_sigmoid(average)
    fused = average({"motion": rgb}, {"motion": flow})["motion"]
    mean = (rgb.double().sigmoid() + flow.double().sigmoid()) / 2
    torch.testing.assert_close(fused.double().sigmoid(), mean, rtol=1e-5, atol=1e-6)
    assert fused.isfinite().all()


def test_a_linear_fusion_starts_as_the_sum_of_normalised_sigmoids():
    rgb, flow = (torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    linear = LinearFusion({"motion": 4})
    use_sigmoid(linear)
    unit = [x.sigmoid() / x.sigmoid().norm(dim=1, keepdim=True) for x in (rgb, flow)]
    torch.testing.assert_close(linear({"motion": rgb}, {"motion": flow})["motion"], unit[0] + unit[1])


PLUGIN = """
import numpy as np
import kineray


class LabelCountConfig(kineray.MetricSection, type="label_count"):
    labels = "multiple"
    threshold: float = 0.5

    def build(self):
        return lambda head: {
            "found": np.nanmean((head.scores_nc > self.threshold).sum(axis=1)),
            "count": head.labels.sum(axis=1).mean(),
        }
"""


def test_a_metric_of_a_plugin_is_computed_in_validation_and_evaluation_alike(
    checkpoint, motions, tmp_path, own_plugins
):
    (tmp_path / "label_count.py").write_text(PLUGIN)
    load_plugins(tmp_path / "label_count.py")
    experiment = apply_overrides(
        checkpoint.experiment, ["task.metrics.label_count.threshold=0.25", "task.score=count"]
    )
    changed = dataclasses.replace(checkpoint, experiment=experiment)
    metrics, score = validate_alone(changed, motions.split("val"), batch_size=8)
    result = evaluate(changed, motions, views=1, crops=1)
    rows = [row for row in result.predictions.to_pylist() if row["motion/label"] is not None]
    found = np.mean([sum(p > 0.25 for p in row["motion/probabilities"]) for row in rows])
    assert result.metrics["motion/found"] == metrics["val/motion/found"] == pytest.approx(found)
    count = np.mean([len(row["motion/label"]) for row in rows])
    assert score == result.metrics["motion/count"] == pytest.approx(count)
    assert result.metrics.keys() == {"motion/map", "motion/map_classes", "motion/found", "motion/count"}


def test_the_experiment_is_written_and_read_with_its_task(checkpoint, experiment):
    assert checkpoint.experiment == experiment
    assert checkpoint.task.classes == {"motion": MOTIONS}
