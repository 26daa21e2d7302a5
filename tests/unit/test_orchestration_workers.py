"""How many workers a run asks for: numbers, ranges, and those of the environment."""

import pytest

from kineray.config import Experiment, apply_overrides
from kineray.errors import ConfigError
from kineray.orchestration.workers import WorkerRange, one_for_every, parse_workers, worker_range

FOUR_GROUPS = apply_overrides(Experiment(), ["train.global_batch=32", "train.bn_group=8"])


@pytest.mark.parametrize(("text", "workers"), [("8", 8), ("1:128", (1, 128)), (" 2 : 3 ", (2, 3))])
def test_a_number_or_a_range_is_read(text, workers):
    assert parse_workers(text) == workers


@pytest.mark.parametrize("text", ["", "many", "1:", ":2", "1:2:3", "1.5", "1-2"])
def test_anything_else_is_refused(text, monkeypatch):
    with pytest.raises(ValueError):
        parse_workers(text)
    monkeypatch.setenv("KINERAY_WORKERS", text)
    with pytest.raises(ConfigError) as error:
        worker_range(None, FOUR_GROUPS)
    assert (error.value.code, error.value.key) == ("out_of_range", "KINERAY_WORKERS")


@pytest.mark.parametrize(
    ("workers", "wanted"), [(3, (3, 3)), ((1, 2), (1, 2)), ((2, 2), (2, 2)), ((1, 128), (1, 4)), (None, None)]
)
def test_there_are_never_more_workers_than_groups(workers, wanted):
    found = worker_range(workers, FOUR_GROUPS)
    assert found == (wanted and WorkerRange(*wanted))


@pytest.mark.parametrize(
    ("workers", "code"),
    [
        (5, "too_many_workers"),
        ((5, 8), "too_many_workers"),
        (0, "out_of_range"),
        ((3, 2), "out_of_range"),
        ((0, 2), "out_of_range"),
    ],
)
def test_what_cannot_be_is_refused(workers, code):
    with pytest.raises(ConfigError) as error:
        worker_range(workers, FOUR_GROUPS)
    assert (error.value.code, error.value.key) == (code, "workers")


def test_the_environment_counts_where_nothing_is_given(monkeypatch):
    monkeypatch.setenv("KINERAY_WORKERS", "2:128")
    assert worker_range(None, FOUR_GROUPS) == WorkerRange(2, 4)
    assert worker_range(1, FOUR_GROUPS) == WorkerRange(1, 1)
    monkeypatch.setenv("KINERAY_WORKERS", "3:1")
    with pytest.raises(ConfigError) as error:
        worker_range(None, FOUR_GROUPS)
    assert error.value.key == "KINERAY_WORKERS"


def test_a_worker_for_every_gpu():
    assert [one_for_every(gpus, FOUR_GROUPS).most for gpus in (0, 1, 3, 8)] == [1, 1, 3, 4]
