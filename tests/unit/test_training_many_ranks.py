"""7, 16 and 128 ranks of a process group, in threads: one update, precise statistics, metrics, agreement."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_training_step import PREPROCESSING, ROUNDING, VOCABULARIES, new_stepper, step_of
from torch.testing._internal.distributed import multi_threaded_pg as threaded

from kineray.data import Batch
from kineray.models import PopulationStatistics, set_batch_norm_group
from kineray.training.synchronise import Workers

GROUPS, GROUP = 128, 2
CLIPS = GROUPS * GROUP
STEP = {"global_batch": CLIPS, "bn_group": GROUP}

pytestmark = pytest.mark.slow


def in_threads(function, size):
    """``[function(rank), ...]`` from ``size`` threads that are one group of torch.distributed."""
    store, building = dist.HashStore(), threading.Lock()

    def one(rank):
        dist.init_process_group("threaded", rank=rank, world_size=size, store=store)
        try:
            return function(Workers(rank, size), building)
        except BaseException as error:
            threaded.ProcessLocalGroup.exception_handle(error)
            raise
        finally:
            dist.destroy_process_group()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    threaded._install_threaded_pg()
    try:
        with ThreadPoolExecutor(size) as pool:
            return [one.result() for one in [pool.submit(one, rank) for rank in range(size)]]
    finally:
        threaded._uninstall_threaded_pg()
        threaded.ProcessLocalGroup.reset()
        torch.set_num_threads(threads)


def batches(step, positions):
    """What a rank gets: a micro-batch for each of its groups."""
    generator = torch.Generator().manual_seed(step)
    clips = torch.randint(0, 256, (CLIPS, 4, 32, 32, 3), dtype=torch.uint8, generator=generator)
    verbs = torch.randint(-1, 3, (CLIPS,), generator=generator)
    nouns = torch.randint(0, 2, (CLIPS,), generator=generator)
    for first in range(positions.start, positions.stop, GROUP):
        part = slice(first, first + GROUP)
        ids = tuple(f"clip{position}" for position in range(part.start, part.stop))
        yield Batch(step, clips[part], {"verb": verbs[part], "noun": nouns[part]}, ids, ())


def trained(workers, building):
    """Two steps, and precise statistics of the second one's clips: the state, the losses, the clips seen."""
    with building:  # the seed of the initial weights is that of the process
        model, stepper = new_stepper(workers)
    losses, seen = [], []
    for number in range(2):
        step = step_of(number, **STEP)
        positions = step.share(workers.rank, workers.size)
        parts = list(batches(number, positions))
        seen.append([name for batch in parts for name in batch.ids])
        losses.append(stepper.run(step, positions, iter(parts)).loss)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    set_batch_norm_group(model, GROUP)
    statistics = PopulationStatistics(model)
    with torch.no_grad():
        for batch in batches(1, step.share(workers.rank, workers.size)):
            model(PREPROCESSING.normalise(batch.clips_bthwc))
            statistics.add()
    statistics.commit(workers.sum_)
    precise = {name: value for name, value in model.state_dict().items() if "running" in name}
    return state, precise, losses, seen


@pytest.fixture(scope="module")
def alone():
    return trained(Workers(), threading.Lock())


@pytest.mark.parametrize("size", [7, 16, 128])
def test_ranks_train_as_one(alone, size):
    """Seven ranks have 18 or 19 of the 128 groups."""
    results = in_threads(trained, size)
    expected, precise, losses, seen = alone
    for number in range(2):
        assert [name for result in results for name in result[3][number]] == seen[number]
    for state, statistics, found, _ in results:
        assert found == pytest.approx(losses, rel=1e-4)
        for name, value in (state | {f"precise {name}": one for name, one in statistics.items()}).items():
            of_first = results[0][1][name[8:]] if name.startswith("precise ") else results[0][0][name]
            assert torch.equal(value, of_first), name
    for name, value in expected.items():
        assert torch.allclose(value, results[0][0][name], **ROUNDING), name
    for name, value in precise.items():
        assert torch.allclose(value, results[0][1][name], rtol=1e-2, atol=1e-3), name


def test_128_ranks_measure_and_agree_as_one():
    """Metrics of clips that are spread unevenly; what rank 0 decides is what all do."""
    from kineray.config.tasks.classification import ClassificationConfig

    task = ClassificationConfig().build(VOCABULARIES)
    generator = np.random.default_rng(0)
    clips = [int(count) for count in generator.integers(0, 4, 128)]
    scores = {head: generator.random((sum(clips), len(names))) for head, names in VOCABULARIES.items()}
    labels = {head: generator.integers(0, len(names), sum(clips)) for head, names in VOCABULARIES.items()}

    def measured(workers, building):
        first = sum(clips[: workers.rank])
        mine = slice(first, first + clips[workers.rank])
        meter = task.meter()
        meter.update(
            {head: torch.from_numpy(values[mine]).float() for head, values in scores.items()},
            {head: torch.from_numpy(values[mine]) for head, values in labels.items()},
        )
        decided = workers.share(torch.tensor([7], dtype=torch.uint8) if workers.rank == 0 else None, 0)
        return meter.metrics(workers.gather(meter.state())), decided.tolist()

    results = in_threads(measured, 128)
    assert all(result == results[0] for result in results) and results[0][1] == [7]
    for head, values in scores.items():
        top1 = float(np.mean(values.argmax(1) == labels[head]))
        assert results[0][0][f"{head}/top1"] == pytest.approx(top1)
