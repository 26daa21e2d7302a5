"""Tasks: targets, losses and metrics against written-out formulas; unknown and soft labels; plug-ins."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kineray.config import Experiment, apply_overrides
from kineray.config.losses.base import LossSection
from kineray.config.metrics.base import MetricSection
from kineray.config.metrics.map import MapConfig
from kineray.config.metrics.top_k import TopKConfig
from kineray.config.tasks.classification import ClassificationConfig
from kineray.config.tasks.multi_label import MultiLabelConfig
from kineray.config.variants import Pieces
from kineray.errors import ConfigError, ManifestError
from kineray.metrics import average_precision, mean_class_accuracy, pair_ranks, top_k_accuracy

EPIC = {"verb": ("take", "put", "open", "close", "wash", "cut"), "noun": ("cup", "door", "knife", "tap")}
EPIC_K = {"verb": (1, 3), "noun": (1,)}  # of 1, 3 and 5, those up to half of the classes
SCENES = {"scene": ("kitchen", "office", "street")}


def samples(**labels):
    """Samples with labels of every head, as far as a task looks at them."""
    rows = zip(*labels.values(), strict=True)
    return [SimpleNamespace(labels=dict(zip(labels, row, strict=True))) for row in rows]


@pytest.fixture
def epic():
    return ClassificationConfig().build(EPIC)


@pytest.fixture
def scenes():
    return MultiLabelConfig().build(SCENES)


def logits(task, clips, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {head: torch.randn(clips, len(names), generator=generator) for head, names in task.classes.items()}


def test_targets_of_one_class_are_indices(epic):
    targets = epic.targets(samples(verb=[3, -1], noun=[0, 2]))
    assert {head: of_head.tolist() for head, of_head in targets.items()} == {"verb": [3, -1], "noun": [0, 2]}
    assert {of_head.dtype for of_head in targets.values()} == {torch.int64}
    soft = epic.soften(targets)
    assert soft["verb"].tolist() == [[0, 0, 0, 1, 0, 0], [0] * 6]
    assert epic.soften(soft)["verb"] is soft["verb"]


def test_targets_of_several_classes_are_multi_hot(scenes):
    targets = scenes.targets(samples(scene=[(0, 2), (), None]))["scene"]
    assert targets.dtype == torch.float32
    assert targets[:2].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert targets[2].isnan().all()


def test_the_wrong_task_for_the_labels_is_named(epic, scenes):
    for task, found in [(epic, samples(verb=[(1,)], noun=[(0,)])), (scenes, samples(scene=[2]))]:
        with pytest.raises(ConfigError) as error:
            task.targets(found)
        assert (error.value.code, error.value.key) == ("wrong_labels", "task.type")


def test_cross_entropy_is_summed_over_heads_and_unknown_labels_add_nothing(epic):
    outputs = logits(epic, 3)
    losses = epic.loss(outputs, epic.targets(samples(verb=[3, -1, -1], noun=[1, 2, -1])))
    log_verb, log_noun = (outputs[head].log_softmax(1) for head in EPIC)
    expected = [-log_verb[0, 3] - log_noun[0, 1], -log_noun[1, 2], 0]
    assert losses.tolist() == pytest.approx([float(value) for value in expected])
    assert losses.dtype == torch.float32


def test_unknown_labels_have_no_gradient(epic, scenes):
    for task, unknown in [(epic, {"verb": [-1, 2], "noun": [-1, 1]}), (scenes, {"scene": [None, (0,)]})]:
        outputs = {head: values.requires_grad_() for head, values in logits(task, 2).items()}
        targets = task.targets(samples(**unknown))
        for form in (targets, task.soften(targets)):
            task.loss(outputs, form).sum().backward()
        for values in outputs.values():
            assert not values.grad[0].any() and values.grad[1].any() and values.grad.isfinite().all()


def test_soft_labels_of_one_class_have_the_loss_of_hard_ones_and_mixed_ones_the_mixed_loss(epic):
    outputs = logits(epic, 4)
    targets = epic.targets(samples(verb=[0, 1, 2, -1], noun=[3, 2, 1, 0]))
    soft = epic.soften(targets)
    assert epic.loss(outputs, soft).tolist() == pytest.approx(epic.loss(outputs, targets).tolist())
    flipped = {head: of_head.flip(0) for head, of_head in targets.items()}
    mixed = {head: 0.3 * of_head + 0.7 * of_head.flip(0) for head, of_head in soft.items()}
    expected = 0.3 * epic.loss(outputs, targets) + 0.7 * epic.loss(outputs, flipped)
    assert epic.loss(outputs, mixed).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_binary_cross_entropy_is_the_mean_over_classes(scenes):
    outputs = logits(scenes, 2)
    p = outputs["scene"].double().sigmoid()
    losses = scenes.loss(outputs, scenes.targets(samples(scene=[(0, 2), ()])))
    first = -(p[0, 0].log() + (1 - p[0, 1]).log() + p[0, 2].log()) / 3
    second = -(1 - p[1]).log().mean()
    assert losses.tolist() == pytest.approx([float(first), float(second)])


@pytest.mark.parametrize(("fields", "weight"), [({}, 0.4), ({"auxiliary_weight": 0.1}, 0.1)])
def test_auxiliary_classifiers_count_for_a_part(fields, weight):
    epic = ClassificationConfig(**fields).build(EPIC)
    outputs, inner = logits(epic, 2), logits(epic, 2, seed=1)
    targets = epic.targets(samples(verb=[1, 2], noun=[3, 3]))
    both = outputs | {f"aux.{head}": values for head, values in inner.items()}
    expected = epic.loss(outputs, targets) + weight * epic.loss(inner, targets)
    assert epic.loss(both, targets).tolist() == pytest.approx(expected.tolist())


def test_a_loss_in_bfloat16_is_computed_in_float32(epic):
    outputs = logits(epic, 2)
    targets = epic.targets(samples(verb=[1, 2], noun=[3, 3]))
    half = {head: values.bfloat16() for head, values in outputs.items()}
    again = {head: values.float() for head, values in half.items()}
    assert torch.equal(epic.loss(half, targets), epic.loss(again, targets))


def test_scores_are_probabilities(epic, scenes):
    assert epic.probabilities(torch.tensor([[0.0, 1.0]])).tolist() == [
        pytest.approx([0.2689, 0.7311], abs=1e-4)
    ]
    assert scenes.probabilities(torch.tensor([[0.0, 1.0]])).tolist() == [
        pytest.approx([0.5, 0.7311], abs=1e-4)
    ]


def measured(task, labels, clips=60):
    """Random scores of this many clips, labels, and the task's metrics of both."""
    scores = {head: task.probabilities(values).numpy() for head, values in logits(task, clips).items()}
    return scores, task.measure(scores, labels)


def test_metrics_of_classification_are_those_of_each_head_and_of_actions(epic):
    rng = np.random.default_rng(0)
    labels = {head: rng.integers(-1, len(names), 60) for head, names in EPIC.items()}
    scores, metrics = measured(epic, labels)
    for head in EPIC:
        known = labels[head] >= 0
        for k in EPIC_K[head]:
            assert metrics[f"{head}/top{k}"] == top_k_accuracy(scores[head][known], labels[head][known], k)
        assert metrics[f"{head}/mean_class"] == mean_class_accuracy(scores[head][known], labels[head][known])
    both = (labels["verb"] >= 0) & (labels["noun"] >= 0)
    ranks = pair_ranks(*(array[both] for head in EPIC for array in (scores[head], labels[head])))
    for k in (1, 3, 5):
        assert metrics[f"action/top{k}"] == np.mean(ranks < k)
    assert list(metrics) == [
        *(f"{head}/{name}" for head in EPIC for name in (*(f"top{k}" for k in EPIC_K[head]), "mean_class")),
        *(f"action/top{k}" for k in (1, 3, 5)),
    ]


def test_actions_are_left_out_where_a_head_has_their_name_or_one_is_missing():
    for classes in ({**EPIC, "action": ("take cup", "open door")}, {"verb": EPIC["verb"]}):
        task = ClassificationConfig().build(classes)
        _, metrics = measured(task, {head: np.zeros(60, int) for head in classes})
        assert {name.split("/")[0] for name in metrics} == classes.keys()


def test_metrics_of_several_classes_leave_out_classes_without_positives_and_report_how_many_count(scenes):
    labels = {"scene": (np.random.default_rng(0).random((60, 3)) < 0.3).astype(np.float32)}
    labels["scene"][:, 1] = 0
    labels["scene"][7] = np.nan
    scores, metrics = measured(scenes, labels)
    known = np.arange(60) != 7
    averages = average_precision(scores["scene"][known], labels["scene"][known])
    assert metrics == {"scene/map": pytest.approx((averages[0] + averages[2]) / 2), "scene/map_classes": 2}


def test_clips_without_any_class_can_be_skipped_as_charades_does():
    labels = {"scene": np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1]], np.float32)}
    scores = {"scene": np.array([[0.5, 0.5, 0.5], [0.9, 0.9, 0.9], [0.1, 0.6, 0.2]])}
    strict, charades = (MultiLabelConfig(skip_empty=skip).build(SCENES) for skip in (False, True))
    assert strict.measure(scores, labels)["scene/map"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)
    assert charades.measure(scores, labels)["scene/map"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert [task.protocol["empty"] for task in (strict, charades)] == ["negative", "skipped"]
    empty = charades.targets(samples(scene=[(0,), ()]))
    assert charades.indices(empty["scene"].numpy()) == [(0,), ()]
    assert (charades.loss(logits(charades, 2), empty) > 0).all()  # it is trained on all the same


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (ClassificationConfig().build(EPIC), {"verb": [0, 1, 5, -1, 2, 3], "noun": [3, 2, 1, 0, -1, 0]}),
        (MultiLabelConfig().build(SCENES), {"scene": [(0,), (1, 2), None, (), (0, 1, 2), (2,)]}),
    ],
)
@pytest.mark.parametrize("cuts", [(), (0, 2), (1, 1, 4)])
def test_a_meter_on_each_worker_gives_what_one_gives_failed_clips_included(task, labels, cuts):
    """Some workers have no clips at all; the last clip cannot be decoded."""
    found, outputs = samples(**labels), logits(task, 6)
    states = []
    for start, stop in zip((0, *cuts), (*cuts, 6), strict=True):
        meter = task.meter()
        for row in range(start, stop):
            targets = task.targets(found[row : row + 1])
            if row == 5:
                meter.failed(targets)
            else:
                auxiliary = {f"aux.{head}": -values[row : row + 1] for head, values in outputs.items()}
                meter.update(
                    {head: values[row : row + 1] for head, values in outputs.items()} | auxiliary, targets
                )
        states.append(meter.state())
    scores = {head: task.probabilities(values).numpy() for head, values in outputs.items()}
    for of_head in scores.values():
        of_head[5] = np.nan
    expected = task.measure(scores, {head: of_head.numpy() for head, of_head in task.targets(found).items()})
    assert task.meter().metrics(states) == expected


def test_the_score_is_the_mean_over_heads_or_the_metric_that_is_named(epic):
    values = {"verb/top1": 0.5, "noun/top1": 0.25, "action/top1": 0.125}
    assert (epic.score, epic.score_of(values)) == ("mean of verb/top1 and noun/top1", 0.375)
    assert epic.score_of({"noun/top1": 0.25}) == 0.25  # no verb is known
    of_actions = ClassificationConfig(score="action/top1").build(EPIC)
    assert (of_actions.score, of_actions.score_of(values)) == ("action/top1", 0.125)
    assert MultiLabelConfig().build(SCENES).score == "scene/map"


def test_a_score_that_no_metric_gives_is_refused_before_training(epic):
    val_set = samples(verb=[0, -1], noun=[-1, -1])
    epic.check(val_set)
    with pytest.raises(ConfigError) as error:
        ClassificationConfig(score="top2").build(EPIC).check(val_set)
    assert (error.value.code, error.value.key) == ("unknown_metric", "task.score")
    ClassificationConfig(score="top2", metrics=Pieces(TopKConfig(k=(2,)))).build(EPIC).check(val_set)


def test_the_check_of_a_validation_set_scores_only_as_many_clips_as_it_needs(own_plugins):
    scored = []

    class CountConfig(MetricSection, type="count_of_tests"):
        labels = "any"

        def build(self):
            return lambda head: {"count": scored.append(len(head.labels)) or float(len(head.labels))}

    config = MultiLabelConfig(metrics={"count_of_tests": {}}, score="count")
    config.build(SCENES).check(samples(scene=[(0,)] * 5000))
    assert 0 < sum(scored) < 500
    config.build(SCENES).check(samples(scene=[None] * 4999 + [(1, 2)]))
    assert scored[-1] == 1


def test_a_validation_set_without_labels_is_refused(epic, scenes):
    for task, val_set in [
        (epic, samples(verb=[-1, -1], noun=[-1, -1])),
        (scenes, samples(scene=[None, None])),
        (scenes, samples(scene=[(), ()])),
    ]:
        with pytest.raises(ManifestError) as error:
            task.check(val_set)
        assert (error.value.code, error.value.key) == ("no_labels", "data.manifest")


def test_losses_and_metrics_for_other_labels_are_refused():
    for section in (
        lambda: ClassificationConfig(metrics=Pieces(MapConfig())),
        lambda: MultiLabelConfig(metrics=Pieces(TopKConfig())),
        lambda: MultiLabelConfig(loss={"type": "cross_entropy"}),
        lambda: ClassificationConfig(loss={"type": "binary_cross_entropy"}),
    ):
        with pytest.raises(ConfigError, match="is for clips of") as error:
            section()
        assert error.value.code == "bad_value"


def test_only_clips_of_a_single_class_can_be_balanced():
    balanced = apply_overrides(Experiment(), {"data.balance": "sqrt"})
    with pytest.raises(ConfigError) as error:
        apply_overrides(balanced, {"task.type": "multi_label"})
    assert error.value.code == "bad_value"


def test_a_loss_and_a_metric_of_a_user_are_one_class_each(epic, own_plugins):
    class FocalConfig(LossSection, type="focal_of_tests"):
        gamma: float = 2.0

        def build(self):
            def focal(logits_bk, targets):
                loss_b = F.cross_entropy(logits_bk, targets, reduction="none")
                return (1 - (-loss_b).exp()) ** self.gamma * loss_b

            return focal

    class ConfidenceConfig(MetricSection, type="confidence_of_tests"):
        labels = "any"

        def build(self):
            return lambda head: {"confidence": np.nanmean(head.scores_nc.max(axis=1))}

    config = ClassificationConfig(
        loss={"type": "focal_of_tests", "gamma": 0.0}, metrics={"confidence_of_tests": {}}, score="confidence"
    )
    task = config.build(EPIC)
    outputs, targets = logits(task, 3), epic.targets(samples(verb=[3, -1, 0], noun=[1, 2, -1]))
    assert task.loss(outputs, targets).tolist() == pytest.approx(epic.loss(outputs, targets).tolist())
    meter = task.meter()
    meter.update(outputs, targets)
    metrics = meter.metrics([meter.state()])
    best = outputs["verb"].softmax(1).amax(1)[[0, 2]].mean().item()
    assert metrics.keys() == {"verb/confidence", "noun/confidence"}
    assert metrics["verb/confidence"] == pytest.approx(best)
    assert MultiLabelConfig(metrics={"confidence_of_tests": {}}).build(SCENES).score_of({"scene/map": 1}) == 1


@pytest.mark.parametrize("clips", [3, 4])
def test_a_users_loss_of_another_shape_is_refused(clips, own_plugins):
    name = f"per_class_of_tests_{clips}"

    class PerClassConfig(LossSection, type=name):
        def build(self):
            return lambda logits_bk, targets: -logits_bk.log_softmax(1)

    task = ClassificationConfig(loss={"type": name}).build({"action": "abcd"})
    with pytest.raises(ConfigError) as error:
        task.loss({"action": torch.zeros(clips, 4)}, {"action": torch.zeros(clips, dtype=torch.int64)})
    assert (error.value.code, error.value.key) == ("wrong_shape", f"task.loss.type={name}")


def test_views_are_averaged_or_the_highest_is_taken(epic):
    views = np.array([[0.9, 0.1, 0.4], [0.2, 0.3, 0.4]], np.float32)
    highest = MultiLabelConfig(aggregation="max").build(SCENES)
    assert epic.aggregate(views) == pytest.approx([0.55, 0.2, 0.4])
    assert highest.aggregate(views) == pytest.approx([0.9, 0.3, 0.4])
    assert [task.protocol["aggregation"] for task in (epic, highest)] == ["mean of softmax", "max of sigmoid"]


def test_the_best_classes_are_presented_in_the_order_that_ranks_them(epic):
    shown = epic.present(np.array([0.2, 0.4, 0.4]), ("a", "b", "c"), top_k=2)
    assert shown == [{"label": "b", "score": 0.4}, {"label": "c", "score": 0.4}]


def test_labels_are_indices_as_in_a_manifest_and_scores_predict_some(epic, scenes):
    assert epic.indices(np.array([2, -1])) == [2, -1]
    assert scenes.indices(np.array([[1, 0, 1], [0, 0, 0], [np.nan] * 3])) == [(0, 2), (), None]
    scores = np.array([[0.2, 0.5, 0.9], [0.1, 0.4, 0.2], [np.nan] * 3])
    assert epic.indices(epic.decide(scores)) == [2, 1, -1]
    assert scenes.indices(scenes.decide(scores)) == [(1, 2), (), None]
