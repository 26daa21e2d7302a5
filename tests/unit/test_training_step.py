"""One update, however the global batch is cut into micro-batches and over workers."""

import copy
import time

import pytest
import torch
from gloo import run_workers
from torch.nn import functional as F

from kineray.config import DataConfig, Experiment, SgdConfig, SlowFastConfig, TrainConfig
from kineray.data import Batch, ClipShape, Preprocessing
from kineray.errors import ConfigError, ManifestError, NonFiniteLossError
from kineray.models import build_model
from kineray.training import Step, build_optimizer
from kineray.training.recipe import Recipe
from kineray.training.step import Stepper
from kineray.training.synchronise import GradientSynchroniser, Workers

EXPERIMENT = Experiment(
    data=DataConfig(frames=4, short_side=(32, 32), crop=32, eval_short_side=32, eval_crop=32),
    model=SlowFastConfig(stage_blocks=(1, 1, 1, 1), width=8, alpha=2, beta_inv=4, head_pool=1, dropout=0.5),
    optim=SgdConfig(lr=0.1, reference_batch=8),
    train=TrainConfig(global_batch=8, bn_group=2),
)
VOCABULARIES = {"verb": ("a", "b", "c"), "noun": ("x", "y")}


def step_of(index, *, lr=0.1, **changes):
    """A step of 4 batch-norm groups."""
    fields = {"epoch": 0, "first": 0, "global_batch": 8, "bn_group": 2, "epochs_done": 1.0}
    return Step(index=index, clip=ClipShape.of(EXPERIMENT.data), lr=lr, **(fields | changes))


def global_batch(step):
    generator = torch.Generator().manual_seed(step)
    clips = torch.randint(0, 256, (8, 4, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = {
        "verb": torch.randint(0, 3, (8,), generator=generator),
        "noun": torch.tensor([0, 1, -1, 1, 0, -1, 1, 0]),
    }
    return clips, labels


def micro_batches(steps, positions, size):
    for step in range(steps):
        clips, labels = global_batch(step)
        for first in range(positions.start, positions.stop, size):
            part = slice(first, min(first + size, positions.stop))
            ids = tuple(f"clip{i}" for i in range(part.start, part.stop))
            yield Batch(step, clips[part], {h: x[part] for h, x in labels.items()}, ids, ())


PREPROCESSING = Preprocessing.from_config(EXPERIMENT.data, VOCABULARIES)
ALONE = Workers()


def new_stepper(workers=ALONE, *, experiment=EXPERIMENT, model=None, optim=EXPERIMENT.optim):
    """A model, by default the experiment's own, and a stepper that trains it on the CPU."""
    torch.manual_seed(0)
    if model is None:
        model = build_model(experiment.model, {head: len(names) for head, names in VOCABULARIES.items()})
    stepper = Stepper(
        experiment,
        model,
        build_optimizer(model, optim),
        PREPROCESSING,
        experiment.task.build(PREPROCESSING.labels),
        Recipe(experiment),
        workers=workers,
        device=torch.device("cpu"),
    )
    return model, stepper


def updated(rank, size, micro_batch, steps=2):
    """State and losses after some steps of this worker."""
    torch.set_num_threads(1)
    model, stepper = new_stepper(Workers(rank, size))
    positions = step_of(0).share(rank, size)
    batches = micro_batches(steps, positions, micro_batch)
    losses = [stepper.run(step_of(step), positions, batches).loss for step in range(steps)]
    return {key: value.numpy() for key, value in model.state_dict().items()}, losses


# The second step multiplies the rounding of the first, by how much depends on the processor; updates are of
# the order of 0.01.
ROUNDING = {"rtol": 1e-3, "atol": 5e-5}


def assert_same(left, right, **tolerance):
    assert left[0].keys() == right[0].keys()
    for name, value in left[0].items():
        other = torch.from_numpy(right[0][name])
        assert torch.allclose(torch.from_numpy(value), other, **tolerance), name
    assert left[1] == pytest.approx(right[1], rel=1e-4)


@pytest.fixture(scope="module")
def four_micro_batches():
    return updated(0, 1, 2)


def test_every_tensor_of_the_model_changes(four_micro_batches):
    model, _ = new_stepper()
    for name, value in model.state_dict().items():
        assert not torch.equal(value, torch.from_numpy(four_micro_batches[0][name])), name


@pytest.mark.parametrize("micro_batch", [4, 6, 8])
def test_larger_micro_batches_give_the_same_update(four_micro_batches, micro_batch):
    assert_same(updated(0, 1, micro_batch), four_micro_batches, **ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_workers_give_the_same_update(four_micro_batches, size, tmp_path):
    """Also three workers for four groups: their shares are 1, 1 and 2."""
    results = run_workers(updated, size, tmp_path, 2)
    for result in results:
        assert_same(result, four_micro_batches, **ROUNDING)
        assert_same(result, results[0], rtol=0, atol=0)


@pytest.mark.slow
def test_the_update_of_three_workers_is_reproducible_to_the_bit(tmp_path):
    first, second = (run_workers(updated, 3, tmp_path, 2) for _ in range(2))
    assert_same(first[0], second[0], rtol=0, atol=0)


def told(rank, size):
    """What each step says of all workers; clips of the last rank come late, and each asks for its own."""
    torch.set_num_threads(1)
    _, stepper = new_stepper(Workers(rank, size))
    positions = step_of(0).share(rank, size)

    def late():
        for batch in micro_batches(3, positions, 2):
            time.sleep(0.2 * (rank == size - 1))
            yield batch

    batches = late()
    results = [stepper.run(step_of(step), positions, batches, request=7 + rank) for step in range(3)]
    return [(result.request, result.parts) for result in results]


@pytest.mark.slow
def test_every_worker_learns_what_rank_0_asks_for_and_how_long_each_needed(tmp_path):
    """Two clips, one batch-norm group, wait for 0.2 s."""
    first, second = run_workers(told, 2, tmp_path)
    assert first == second and {request for request, _ in first} == {7}
    assert first[0][1] == [[0.0] * 3] * 2
    for _, parts in first[1:]:
        assert parts[1][0] >= 0.1 > parts[0][0]
        assert all(compute > 0 for _, _, compute in parts)


def test_loss_is_the_mean_over_the_global_batch(four_micro_batches):
    """Written out: one plain forward and backward over the groups, dropout aside."""
    no_dropout = EXPERIMENT.model_copy(update={"model": EXPERIMENT.model.model_copy(update={"dropout": 0.0})})
    model, stepper = new_stepper(experiment=no_dropout)
    plain = copy.deepcopy(model)
    result = stepper.run(step_of(0, lr=0.0), range(8), micro_batches(1, range(8), 4))

    clips, labels = global_batch(0)
    total = torch.zeros(())
    for i in range(0, 8, 2):
        logits = plain(PREPROCESSING.normalise(clips[i : i + 2]))
        for head, x in logits.items():
            total = total + F.cross_entropy(x, labels[head][i : i + 2], ignore_index=-1, reduction="sum")
    (total / 8).backward()
    assert result.loss == pytest.approx(total.item() / 8, rel=1e-5)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_bfloat16_is_close_to_float32():
    experiment = EXPERIMENT.model_copy(
        update={"train": EXPERIMENT.train.model_copy(update={"precision": "bfloat16"})}
    )
    losses = []
    for value in (EXPERIMENT, experiment):
        model, stepper = new_stepper(experiment=value)
        losses.append(stepper.run(step_of(0), range(8), micro_batches(1, range(8), 2)).loss)
        assert {p.dtype for p in model.state_dict().values()} == {torch.float32, torch.int64}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def poisoned(rank, size):
    """A step in which the logits of clip 5 are not finite: (the error, whether the model is unchanged)."""
    model, stepper = new_stepper(Workers(rank, size))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    positions = step_of(0).share(rank, size)
    parts = []
    for batch in micro_batches(1, positions, 2):
        if "clip5" in batch.ids:
            model.head.register_forward_hook(_blow_up)
        parts.append(batch)

    def batches():
        for batch in parts:
            POISON[0] = "clip5" in batch.ids
            yield batch

    with pytest.raises(NonFiniteLossError) as caught:
        stepper.run(step_of(6), positions, batches())
    same = all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    return caught.value, same


POISON = [False]


def _blow_up(_module, _inputs, logits):
    if not POISON[0]:
        return logits
    scale = torch.ones(2, 1)
    scale[1] = float("nan")  # clip 5 is the second of its group
    return {head: x * scale for head, x in logits.items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_loss_that_is_not_finite_stops_every_worker_and_changes_nothing(size, tmp_path):
    for error, unchanged in run_workers(poisoned, size, tmp_path):
        assert (error.code, error.key) == ("loss_not_finite", "step 7")
        assert "samples clip5;" in str(error)
        assert unchanged


def data_ends(rank, size):
    _, stepper = new_stepper(Workers(rank, size))
    positions = step_of(0).share(rank, size)

    def batches():
        yield from list(micro_batches(1, positions, 2))[: 1 if rank == 1 else None]
        raise ManifestError("8 clips in a row cannot be decoded", code="nothing_decodable")

    stepper.run(step_of(0), positions, batches())


@pytest.mark.slow
def test_an_error_in_the_data_of_one_worker_is_raised_on_all(tmp_path):
    results = run_workers(data_ends, 2, tmp_path)
    assert [(type(error), error.code) for error in results] == [(ManifestError, "nothing_decodable")] * 2


def synchronised(rank, size, *bucket_sizes):
    return {bucket_bytes: summed_gradients(rank, size, bucket_bytes) for bucket_bytes in bucket_sizes}


def summed_gradients(rank, size, bucket_bytes):
    """Gradients of a net with an unused parameter, a frozen one, and one that the last worker alone uses."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(n)) for n in (5, 300, 7, 1, 40)]
    parameters[3].requires_grad_(False)
    synchroniser = GradientSynchroniser(parameters, Workers(rank, size), bucket_bytes)
    sums = []
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = None
        for micro in range(rank + 1):  # unequal numbers of micro-batches
            if micro == rank:
                synchroniser.arm()
            unused = (2, 3) if rank == size - 1 else (2, 3, 4)
            loss = sum((p * (rank + 1)).sum() for i, p in enumerate(parameters) if i not in unused)
            loss.backward()
        synchroniser.finish()
        sums.append([None if p.grad is None else p.grad.numpy() for p in parameters])
    return sums


@pytest.mark.slow
def test_gradients_are_summed_whatever_the_buckets(tmp_path):
    expected = [(rank + 1) * (rank + 1) for rank in range(3)]
    for sums in run_workers(synchronised, 3, tmp_path, 1, 200, 2**20):
        assert list(sums) == [1, 200, 2**20]
        for bucket_bytes, both in sums.items():
            for gradients in both:
                for index in (0, 1):
                    assert (gradients[index] == sum(expected)).all(), bucket_bytes
                assert (gradients[4] == expected[-1]).all(), bucket_bytes
                assert gradients[2] is None, bucket_bytes  # reached by no worker
                assert gradients[3] is None


def test_several_workers_need_a_process_group():
    with pytest.raises(ValueError, match="2 workers need"):
        Workers(0, 2)
    alone = Workers()
    tensor = torch.ones(2)
    alone.sum_(tensor)
    assert tensor.tolist() == [1, 1]
    assert alone.gather("x") == ["x"]


class Unused(torch.nn.Module):
    """A network of which some parameters are never reached."""

    def __init__(self):
        super().__init__()
        self.used = torch.nn.Linear(3, 3)
        self.unused = torch.nn.Linear(3, 3)

    def forward(self, clips_bcthw):
        verb = self.used(clips_bcthw.mean((2, 3, 4)))
        return {"verb": verb, "noun": verb[:, :2]}


def trained_in_part(rank, size, trained):
    """The weights before and after two steps with weight decay."""
    torch.manual_seed(0)
    model, stepper = new_stepper(Workers(rank, size), model=Unused(), optim=SgdConfig(weight_decay=0.5))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    steps = [step_of(0, trained=trained), step_of(1, trained=trained)]
    positions = steps[0].share(rank, size)
    batches = micro_batches(2, positions, 2)
    for step in steps:
        stepper.run(step, positions, batches)
    return before, {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("trained", [None, ("*.bias",), ("used.weight", "nothing.*")])
def test_only_what_is_reached_and_trained_changes(size, trained, tmp_path):
    """Neither decay nor momentum moves the others, however many workers there are."""
    for before, after in run_workers(trained_in_part, size, tmp_path, trained):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        wanted = {None: {"used.weight", "used.bias"}, ("*.bias",): {"used.bias"}}
        assert changed == wanted.get(trained, {"used.weight"})


def test_a_step_must_train_something():
    with pytest.raises(ConfigError) as error:
        trained_in_part(0, 1, ("slow.*", "nothing"))
    assert (error.value.code, error.value.key) == ("nothing_trained", "slow.*, nothing")
