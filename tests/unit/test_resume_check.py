"""Runs that are killed and resumed are compared with runs that are not: what is equal, and what is found."""

import json
from dataclasses import replace

import pytest

from kineray.config import apply_overrides, load_plugins
from kineray.errors import ConfigError, ManifestError
from kineray.options import WorkerOptions
from kineray.training.resume_check.check import verify_resume
from kineray.training.resume_check.compare import first_different_step
from kineray.training.resume_check.task import Kill, StepRecord, Task, planned_kills, read_trace, write_record

# A piece of a recipe that remembers in memory, not in the checkpoint, how many steps it has seen.
FORGETFUL = """
import kineray


class ForgetfulConfig(kineray.RecipePiece, type="forgetful"):
    def implementation(self):
        return Forgetful


class Forgetful(kineray.Piece):
    seen = 0

    def transform_gradients(self, parameters):
        self.seen += 1
        for parameter in parameters:
            parameter.grad.mul_(1 / self.seen)
"""


def made(step, ids=("a", "b"), loss=1.0, random="r"):
    return StepRecord(step, tuple(ids), loss, 0.1, random)


WHOLE = [[[made(1), made(2), made(3)]]]


@pytest.mark.parametrize(
    ("resumed", "named"),
    [
        ([[[made(1)]], [[made(2), made(3)]]], None),
        ([[[made(1), made(2)]], [[made(2), made(3)]]], None),
        ([[[made(1)]], [[made(3)]]], "step 2"),
        ([[[made(1), made(2, loss=1.5)]], [[made(2), made(3)]]], "step 2"),
        ([[[made(1)]], [[made(2, ids=("a", "c")), made(3)]]], "step 2"),
        ([[[made(1)]], [[made(2, ids=("a",)), made(3)]]], "step 2"),
        ([[[made(1)]], [[made(2), made(3, random="s")]]], "step 3"),
        ([[[made(1)]], [[made(2), replace(made(3), lr=0.2)]]], "step 3"),
    ],
)
def test_the_first_different_step_is_named(resumed, named):
    found = first_different_step(WHOLE, resumed, exact=True)
    assert (found is None) if named is None else found.startswith(named)


def test_other_workers_may_share_a_step_in_another_way():
    shared = [
        [[made(1, ids="a"), made(2, ids="a")], [made(1, ids="b"), made(2, ids="b")]],
        [[made(3, loss=1.001)]],
    ]
    assert first_different_step(WHOLE, shared, exact=False) is None
    swapped = [[[made(1, ids="b")], [made(1, ids="a")]], [[made(2), made(3)]]]
    assert first_different_step(WHOLE, swapped, exact=False).startswith("step 1")
    assert first_different_step(WHOLE, [[[made(1), made(2), made(3, loss=1.1)]]], exact=False)


def test_a_step_that_not_all_workers_have_made_is_not_compared():
    half = [[[made(1, ids="a"), made(2, ids="x")], [made(1, ids="b")]], [[made(2), made(3)]]]
    assert first_different_step(WHOLE, half, exact=False) is None


def test_a_trace_that_breaks_off_is_read_up_to_there(tmp_path):
    path = tmp_path / "trace"
    assert list(read_trace(path)) == []
    write_record(path, made(1))
    write_record(path, made(2))
    path.write_text(path.read_text()[:-9])
    assert list(read_trace(path)) == [made(1)]


def test_a_task_crosses_a_process_border():
    task = Task("name: a", "m", "f", "s", "t", 1, 2, 9, Kill("step", 3), WorkerOptions(decoders=3), ())
    assert Task.from_json(task.to_json()) == task
    assert json.loads(task.to_json())["kill"] == {"moment": "step", "step": 3}


def test_kills_come_in_the_order_of_their_steps():
    assert planned_kills([9, 4])[:3] == [Kill("step", 4), Kill("step", 9), Kill("first_step")]


@pytest.mark.parametrize(
    ("changes", "arguments", "error", "key"),
    [
        ({}, {"kill_at": (10,)}, ConfigError, "kill_at"),
        ({}, {"kill_at": (0,)}, ConfigError, "kill_at"),
        ({}, {"workers": 5}, ConfigError, "workers"),
        ({}, {"options": WorkerOptions(micro_batch=3)}, ConfigError, "micro_batch"),
        ({"data.manifest": ""}, {}, ConfigError, "data.manifest"),
        ({"data.manifest": "none.parquet"}, {}, ManifestError, "data.manifest"),
    ],
)
def test_what_cannot_be_checked_is_refused_first(tiny_experiment, changes, arguments, error, key):
    experiment = apply_overrides(tiny_experiment, changes)
    with pytest.raises(error) as caught:
        verify_resume(experiment, steps=9, **arguments)
    assert caught.value.key == key


@pytest.mark.slow
def test_a_run_that_is_killed_five_times_is_identical(tiny_experiment):
    lives = []
    experiment = apply_overrides(tiny_experiment, {"recipe.ema": "on", "model.dropout": 0.5})
    found = verify_resume(experiment, steps=9, on_life=lives.append)
    assert (found.difference, found.distance, found.folder) == (None, 0.0, None)
    assert found.steps == 9 and len(found.kills) == 5 and found.workers == (1,) * 6
    assert len(lives) == 1 + 6


def killed_only(monkeypatch, *kills):
    """Leave out the other kills: each costs a start."""
    monkeypatch.setattr("kineray.training.resume_check.check.planned_kills", lambda _: list(kills))


@pytest.mark.slow
def test_other_numbers_of_workers_get_the_same_samples(tiny_experiment, monkeypatch):
    killed_only(monkeypatch, Kill("step", 2), Kill("saving"))
    found = verify_resume(tiny_experiment, steps=6, workers=2, elastic=True)
    assert found.difference is None and found.distance < 1e-2
    assert found.workers == (2, 1, 2)


@pytest.mark.slow
def test_state_that_no_checkpoint_holds_is_found(tiny_experiment, tmp_path, monkeypatch):
    killed_only(monkeypatch, Kill("step", 4))
    plugin = tmp_path / "forgetful.py"
    plugin.write_text(FORGETFUL)
    load_plugins(plugin)
    experiment = apply_overrides(tiny_experiment, {"recipe.forgetful": "on"})
    found = verify_resume(experiment, steps=6)
    assert found.difference is not None and found.difference.startswith("step ")
    assert found.folder is not None
