"""Every piece of a recipe is exact on any number of workers, and does what its paper says."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from gloo import run_workers
from test_training_loop import run
from test_training_plan import assert_equal_state, last_state
from torch.nn import functional as F

from kineray.config import ClipAugmentation, RecipePiece, apply_overrides, variants
from kineray.config.recipe.clip_gradients import ClipGradientsConfig
from kineray.config.recipe.ema import EmaConfig
from kineray.config.recipe.label_smoothing import LabelSmoothingConfig
from kineray.config.recipe.mixup import MixupConfig
from kineray.config.tasks.classification import ClassificationConfig
from kineray.data import ClipShape
from kineray.errors import CheckpointError, ConfigError
from kineray.training import CheckpointStore, Step, StepPlan, ValidationEvent, load_checkpoint, plan_of
from kineray.training.checkpoint import load_training_state
from kineray.training.recipe import Piece, Recipe

PIECES = list(variants(RecipePiece))
RECIPES = [*PIECES, "all", "repeated"]
SHAPES = [(1, 2), (1, 1), (2, 1), (2, 2), (3, 2), (3, 1)]  # workers, and batch-norm groups in a micro-batch
GROUP = 4


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    """4 steps of 3 batch-norm groups."""
    torch.set_num_threads(1)
    changes = {"train.epochs": 1, "train.global_batch": 12, "schedule.warmup_epochs": 0, "model.dropout": 0.5}
    return apply_overrides(tiny_experiment, changes)


# Two clips of each sample, with all techniques at once.
REPEATED = [
    "data.clips_per_sample=2",
    "train.global_batch=24",
    "data.crop_area=0.3,1",
    *(f"data.augment.{name}=on" for name in variants(ClipAugmentation)),
]
# Two epochs with a batch of 24 and one of 12 clips, instead of one with four of 12. (On smaller frames the
# statistics of a group are those of so few values that rounding grows too much.)
FIELDS = {
    "multigrid": [
        *(f"data.{side}=48" for side in ("eval_short_side", "crop", "eval_crop")),
        "data.short_side=48,52",
        *(f"recipe.multigrid.{part}=1" for part in ("long_frames", "long_crops")),
        "recipe.multigrid.short_crops=0.7",
        "recipe.multigrid.epoch_factor=2",
    ]
}


def with_recipe(experiment, recipe):
    names = {"all": PIECES, "repeated": PIECES, "none": []}.get(recipe, [recipe])
    changes = [*(REPEATED if recipe == "repeated" else [])]
    changes += [change for name in names for change in FIELDS.get(name, [f"recipe.{name}=on"])]
    return apply_overrides(experiment, changes)


@dataclass(frozen=True)
class Beginning:
    """The first ``total_steps`` steps of a plan: all workers stop there."""

    plan: StepPlan
    total_steps: int

    def at(self, index):
        return self.plan.at(index)


def whole_and_resumed(rank, size, experiment, folder, micro_batch):
    """Uninterrupted, and interrupted after the first and the third of four steps."""
    options = {"rank": rank, "world_size": size, "micro_batch": micro_batch, "checkpoint_every": 1}
    plan = plan_of(experiment, 48)
    run(experiment, folder / "whole", **options)
    for steps in (1, 3, 4):
        run(experiment, folder / "resumed", plan=Beginning(plan, steps), resume=steps > 1, **options)


@pytest.fixture(scope="module")
def alone(experiment, tmp_path_factory):
    """What a single worker computes, a group at a time, with the recipe of a name."""
    states = {}

    def compute(recipe):
        if recipe not in states:
            folder = tmp_path_factory.mktemp(recipe)
            run(with_recipe(experiment, recipe), folder, micro_batch=GROUP)
            states[recipe] = folder, last_state(folder)
        return states[recipe]

    return compute


@pytest.mark.parametrize(
    ("recipe", "size", "groups"),
    [
        pytest.param(recipe, *shape, marks=[] if (recipe, shape) == ("all", (1, 2)) else [pytest.mark.slow])
        for recipe in RECIPES
        for shape in (SHAPES if recipe == "all" else SHAPES[:1])
    ],
)
def test_interrupted_and_resumed_twice_equals_uninterrupted(
    recipe, size, groups, experiment, alone, tmp_path
):
    """To the bit for equal workers; up to rounding for any workers and micro-batches."""
    arguments = (with_recipe(experiment, recipe), tmp_path, groups * GROUP)
    if size == 1:
        whole_and_resumed(0, 1, *arguments)
    else:
        assert run_workers(whole_and_resumed, size, tmp_path, *arguments) == [None] * size
    whole = last_state(tmp_path / "whole")
    assert_equal_state(last_state(tmp_path / "resumed"), whole)
    reference = alone(recipe)[1]
    assert reference.keys() == whole.keys()
    for name, value in reference.items():
        assert torch.allclose(value.double(), whole[name].double(), rtol=0.02, atol=2e-3), name


# One epoch is too short for early stopping: test_training_early_stopping.py
@pytest.mark.parametrize("recipe", [name for name in PIECES if name != "early_stopping"])
def test_every_piece_makes_a_difference(recipe, alone):
    without, with_piece = (
        load_checkpoint(str(alone(name)[0])).model.state_dict() for name in ("none", recipe)
    )
    assert not all(torch.equal(value, with_piece[name]) for name, value in without.items())


def step_of(**changes):
    fields = {"index": 3, "epoch": 0, "first": 0, "global_batch": 12, "bn_group": 4, "lr": 0.1}
    return Step(clip=ClipShape(8, 2, (36, 40), 32), epochs_done=1.0, **(fields | changes))


def group(size=4, classes=5):
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn((size, 3, 2, 4, 4), generator=generator)
    return clips, {"action": F.one_hot(torch.arange(size) % classes, classes).float()}


def test_mixup_mixes_each_clip_with_another_of_its_group_in_one_proportion():
    piece = MixupConfig(alpha=1.0).build()
    clips, targets = group()
    shares, distances = [], set()
    for seed in range(200):
        mixed, mixed_targets = piece.transform_group(clips, targets, np.random.default_rng(seed))
        of_class = mixed_targets["action"]
        torch.testing.assert_close(of_class.sum(1), torch.ones(4))
        share = of_class[0, 0].item()
        partner = next(i for i in range(1, 4) if of_class[0, i] > 0)
        for clip in range(4):
            other = (clip + partner) % 4
            torch.testing.assert_close(mixed[clip], share * clips[clip] + (1 - share) * clips[other])
            assert of_class[clip, other].item() == pytest.approx(1 - share, abs=1e-6)
        shares.append(share)
        distances.add(partner)
    assert distances == {1, 2, 3}
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06) and np.std(shares) == pytest.approx(
        1 / np.sqrt(12), abs=0.05
    )
    one, of_one = group(size=1)
    assert piece.transform_group(one, of_one, np.random.default_rng(0)) == (one, of_one)


def test_label_smoothing_spreads_a_part_of_what_is_known():
    piece = LabelSmoothingConfig(smoothing=0.2).build()
    clips = torch.zeros(3, 3, 1, 1, 1)
    targets = {"action": torch.tensor([[1.0, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 0]])}
    same, smooth = piece.transform_group(clips, targets, np.random.default_rng(0))
    assert same is clips
    expected = [[0.85, 0.05, 0.05, 0.05], [0.45, 0.05, 0.45, 0.05], [0, 0, 0, 0]]
    torch.testing.assert_close(smooth["action"], torch.tensor(expected))
    # torch's own formula, by which the loss is the same.
    logits, labels = torch.randn(3, 4), torch.tensor([2, 0, -1])
    task = ClassificationConfig().build({"action": "abcd"})
    soft = task.soften({"action": labels})
    _, smooth = piece.transform_group(clips, soft, np.random.default_rng(0))
    wanted = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(task.loss({"action": logits}, smooth), wanted)


def test_gradients_are_scaled_to_the_largest_norm_together():
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    piece = ClipGradientsConfig(max_norm=2.5).build()
    for scale, expected in ((1.0, 0.5), (0.1, 1.0)):
        parameters[0].grad, parameters[1].grad = (
            torch.tensor([3.0, 0]) * scale,
            torch.tensor([0, -4.0]) * scale,
        )
        piece.transform_gradients(parameters)
        torch.testing.assert_close(
            parameters[0].grad, torch.tensor([3.0 * scale * expected, 0]), rtol=1e-5, atol=0
        )
        torch.testing.assert_close(
            parameters[1].grad, torch.tensor([0, -4.0 * scale * expected]), rtol=1e-5, atol=0
        )


def test_the_average_of_weights_follows_its_formula():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    piece = EmaConfig(decay=0.3).build()
    piece.begin(model)
    expected = model[0].weight.item()
    for index in range(6):
        torch.nn.init.constant_(model[0].weight, index)
        torch.nn.init.constant_(model[1].running_mean, 2 * index)
        model[1].num_batches_tracked += 1
        piece.after_step(model, step_of(index=index))
        decay = min(0.3, (index + 1) / (index + 10))
        expected = decay * expected + (1 - decay) * index
    state = piece.state()
    assert state["0.weight"].item() == pytest.approx(expected)
    assert 6 < state["1.running_mean"].item() < 10 and state["1.num_batches_tracked"] == 6
    assert model[0].weight.item() == 5


def test_the_average_validates_and_is_what_a_checkpoint_loads(alone, experiment, tmp_path):
    result, events = run(with_recipe(experiment, "ema"), tmp_path)
    validation = next(event for event in events if isinstance(event, ValidationEvent))
    assert validation.weights == "ema"
    loaded = load_checkpoint(result.last_uri)
    assert loaded.state["weights"] == "ema"
    saved = load_training_state(result.last_uri)
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, saved.pieces["ema"][name]), name
    # The average does not influence training.
    plain = load_training_state(CheckpointStore(str(alone("none")[0] / "checkpoints")).last())
    for name, value in plain.weights.items():
        assert torch.equal(value, saved.weights[name]), name
    assert plain.state["weights"] == "model" and plain.pieces == {}


def test_a_state_that_appears_in_a_step_is_loaded_and_one_that_is_missing_is_an_error(
    experiment, own_plugins
):
    class CounterConfig(RecipePiece, type="counter_of_tests"):
        def build(self):
            return Counter(self)

    class Counter(Piece):
        count = None

        def after_step(self, model, step):
            self.count = (0 if self.count is None else self.count) + torch.ones(1)

        def state(self):
            return {} if self.count is None else {"count": self.count}

        def load_state(self, state):
            self.count = state["count"]

    first, second = (Recipe(apply_overrides(experiment, ["recipe.counter_of_tests=on"])) for _ in range(2))
    model = torch.nn.Linear(1, 1)
    for recipe in (first, second):
        recipe.begin(model)
    first.after_step(model, step_of(index=0))
    second.load_states(first.states())
    assert second.states() == {"counter_of_tests": {"count": torch.ones(1)}}
    with pytest.raises(KeyError):
        second.load_states({})


def test_initial_weights_are_those_that_evaluate(alone, experiment):
    folder, _ = alone("ema")
    uri = CheckpointStore(str(folder / "checkpoints")).last()
    from kineray.models import build_model, load_weights

    model = build_model(experiment.model, {"action": 4})
    load_weights(model, uri)
    average = load_training_state(uri).pieces["ema"]
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(value, average[name]), name


def test_a_damaged_piece_is_refused(experiment, tmp_path):
    result, _ = run(with_recipe(experiment, "ema"), tmp_path)
    path = f"{result.last_uri}/ema.safetensors"
    with Path(path).open("ab") as file:
        file.write(b"x")
    for load in (load_checkpoint, load_training_state):
        with pytest.raises(CheckpointError) as error:
            load(result.last_uri)
        assert (error.value.code, error.value.key) == ("damaged", path)


def test_batches_are_transformed_group_by_group(experiment):
    """What happens to a group depends on its place in the global batch, not on what is beside it."""
    recipe = Recipe(apply_overrides(with_recipe(experiment, "mixup"), {"recipe.mixup.alpha": 1.0}))
    clips, targets = group(12, classes=12)
    step = step_of()
    whole, whole_targets = recipe.transform(step, 0, clips, targets)
    parts = []
    for start, stop in ((0, 4), (4, 12)):
        part = {"action": targets["action"][start:stop]}
        parts.append(recipe.transform(step, start, clips[start:stop], part))
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), whole, rtol=0, atol=0)
    by_part = torch.cat([part[1]["action"] for part in parts])
    torch.testing.assert_close(by_part, whole_targets["action"], rtol=0, atol=0)
    for first in range(0, 12, 4):  # no partner is of another group
        assert whole_targets["action"][first : first + 4, first : first + 4].sum() == pytest.approx(4)
    shares = {round(whole_targets["action"][i, i].item(), 6) for i in (0, 4, 8)}
    assert len(shares) == 3
    again, _ = recipe.transform(step_of(index=4), 0, clips, targets)
    assert not torch.equal(again, whole)


def test_pieces_are_in_their_own_order_however_they_are_written(experiment):
    names = ["recipe.label_smoothing=on", "recipe.ema=on", "recipe.mixup=on"]
    one, other = (apply_overrides(experiment, given) for given in (names, names[::-1]))
    assert list(one.recipe) == list(other.recipe) and one == other
    order = list(one.recipe)
    assert order.index("mixup") < order.index("label_smoothing")


def test_two_pieces_cannot_both_give_the_weights(experiment, monkeypatch):
    monkeypatch.setattr(Piece, "gives_weights", True)
    with pytest.raises(ConfigError) as error:
        Recipe(with_recipe(experiment, "all"))
    assert error.value.code == "two_kinds_of_weights" and error.value.key.startswith("recipe.")
