"""Focal losses and class weights, against torchvision, scikit-learn and torch's own weights."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from test_training_loop import run
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from kineray.config.losses.binary_cross_entropy import BinaryCrossEntropyConfig
from kineray.config.losses.binary_focal import BinaryFocalConfig
from kineray.config.losses.focal import FocalConfig
from kineray.config.tasks.classification import ClassificationConfig
from kineray.data import Manifest, Sample, load_manifest
from kineray.tasks.classification import Classification

CLASSES = {"action": ("run", "jump", "swim", "fall")}


def random_logits(clips=6, classes=4, seed=0):
    return 3 * torch.randn(clips, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_cross_entropy_times_the_power_of_the_error(gamma):
    logits, targets = random_logits(), torch.tensor([0, 1, 2, 3, 0, 1])
    loss_b = FocalConfig(gamma=gamma).build()(logits, targets)
    p = logits.double().softmax(1)[torch.arange(6), targets]
    torch.testing.assert_close(loss_b, (-((1 - p) ** gamma) * p.log()).float())


def test_focal_loss_of_mixed_targets_is_the_mixed_loss():
    logits, loss = random_logits(), FocalConfig(gamma=1.5).build()
    one, other = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([3, 1, 0, 2, 2, 0])
    mixed = 0.3 * F.one_hot(one, 4) + 0.7 * F.one_hot(other, 4)
    torch.testing.assert_close(loss(logits, mixed), 0.3 * loss(logits, one) + 0.7 * loss(logits, other))


@pytest.mark.parametrize("alpha", [0.25, 0.6, None])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss_of_several_classes_is_that_of_torchvision(gamma, alpha):
    logits = random_logits()
    targets = (random_logits(seed=1) > 0).float()
    loss_b = BinaryFocalConfig(gamma=gamma, alpha=alpha).build()(logits, targets)
    expected_bk = sigmoid_focal_loss(logits, targets, -1 if alpha is None else alpha, gamma)
    torch.testing.assert_close(loss_b, expected_bk.mean(dim=1))
    if gamma == 0 and alpha is None:
        torch.testing.assert_close(loss_b, BinaryCrossEntropyConfig().build()(logits, targets))


@pytest.mark.parametrize("config", [FocalConfig(gamma=0.5), BinaryFocalConfig(gamma=0.5)])
def test_logits_without_any_error_or_hope_have_finite_gradients(config):
    logits = torch.tensor([[400.0, 0, -400], [-400.0, 0, 400]], requires_grad=True)
    loss_b = config.build()(logits, torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]))
    loss_b.sum().backward()
    assert loss_b.isfinite().all() and logits.grad.isfinite().all()
    assert loss_b[0] < 0.2 < loss_b[1]


def train_set(labels):
    samples = [
        Sample(f"{i}", "a.mp4", 0.0, 1.0, {"action": label}, "", "train") for i, label in enumerate(labels)
    ]
    return Manifest("a", samples, CLASSES)


def weighted(how, labels):
    task = ClassificationConfig(class_weights=how).build(CLASSES)
    task.begin(train_set(labels))
    return task


LABELS = [0] * 9 + [1] * 4 + [2] + [3] * 2 + [-1] * 5
KNOWN = np.array(LABELS[:-5])
TARGETS = torch.tensor([0, 1, 2, 3, -1, 2])


def test_class_weights_are_those_of_scikit_learn_and_torch():
    weights = torch.from_numpy(compute_class_weight("balanced", classes=np.arange(4), y=KNOWN)).float()
    logits = random_logits()
    loss_b = weighted("class", LABELS).loss({"action": logits}, {"action": TARGETS})
    expected_b = F.cross_entropy(logits, TARGETS, weights, ignore_index=-1, reduction="none")
    torch.testing.assert_close(loss_b, expected_b)


@pytest.mark.parametrize("how", ["none", "sqrt", "class"])
def test_class_weights_keep_the_size_of_the_loss_and_of_soft_targets(how):
    task, plain = weighted(how, LABELS), ClassificationConfig().build(CLASSES)
    same = torch.zeros(len(KNOWN), 4)  # all clips have a loss of log 4
    targets = {"action": torch.from_numpy(KNOWN)}
    loss_b = task.loss({"action": same}, targets)
    assert loss_b.mean().item() == pytest.approx(np.log(4))
    assert loss_b[-3].item() / loss_b[0].item() == pytest.approx({"none": 1, "sqrt": 3, "class": 9}[how])
    outputs, hard = {"action": random_logits(), "aux.action": random_logits(seed=1)}, {"action": TARGETS}
    soft = plain.soften(hard)
    torch.testing.assert_close(task.loss(outputs, soft), task.loss(outputs, hard))
    assert torch.equal(task.loss(outputs, hard), plain.loss(outputs, hard)) == (how == "none")
    # A mixed clip counts as much as its classes on average.
    mixed = {"action": torch.tensor([[0.25, 0, 0.75, 0]])}
    ratio = task.loss({"action": same[:1]}, mixed) / loss_b[0]
    assert ratio.item() == pytest.approx(0.25 + 0.75 * (loss_b[-3] / loss_b[0]).item())


def test_a_class_without_training_clips_counts_like_one_of_a_single_clip():
    task = weighted("class", [0, 0, 1])
    loss_b = task.loss({"action": torch.zeros(3, 4)}, {"action": torch.tensor([0, 1, 3])})
    assert (loss_b / loss_b[0]).tolist() == pytest.approx([1, 2, 2])


def test_training_shows_a_task_its_training_samples(tiny_experiment, tmp_path, monkeypatch):
    class Seen(Exception):  # noqa: N818 - ends the run, which is not needed any more
        pass

    def begin(task, train_set):
        raise Seen(train_set)

    monkeypatch.setattr(Classification, "begin", begin)
    manifest = load_manifest(tiny_experiment.data.manifest)
    with pytest.raises(Seen) as seen:
        run(tiny_experiment, tmp_path, manifest=manifest)
    (train_set,) = seen.value.args
    assert [sample.id for sample in train_set] == [sample.id for sample in manifest.split("train")]
