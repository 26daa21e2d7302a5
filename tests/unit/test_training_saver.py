"""Checkpoints are due by steps or by time, and are written while training goes on."""

import os
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_training_checkpoint import EXPERIMENT, PREPROCESSING, new_model

from kineray.durations import duration, seconds_of
from kineray.errors import StorageError
from kineray.training import CheckpointDelayedEvent, CheckpointEvent, CheckpointStore, load_checkpoint
from kineray.training.cadence import Cadence
from kineray.training.checkpoint import load_training_state
from kineray.training.checkpoint_writer import CheckpointWriter
from kineray.training.state import TrainingState


def state_of(step, seed=0):
    model, optimizer = new_model(seed)
    return TrainingState.of(model, optimizer, EXPERIMENT, {"step": step})


class Gate(CheckpointStore):
    """A store that writes a checkpoint when it is opened."""

    def __init__(self, uri):
        super().__init__(uri)
        self.open = threading.Event()

    def save(self, *arguments, **options):
        assert self.open.wait(30)
        return super().save(*arguments, **options)


def test_a_checkpoint_has_the_state_of_its_step_though_training_went_on(tmp_path):
    store, events = Gate(str(tmp_path)), []
    saved = state_of(3)
    expected = saved.copied()
    with CheckpointWriter(store, events.append) as writer:
        writer.save(saved, PREPROCESSING, score=0.5)
        writer.collect()
        assert events == [] and store.last() is None
        with torch.no_grad():
            saved.mapped(lambda tensor: tensor.add_(1))  # the next step
        store.open.set()
    assert [(event.step, event.uri, event.best, event.score) for event in events] == [
        (3, store.last(), True, 0.5)
    ]
    assert events[0].seconds > 0
    read = load_training_state(store.last())
    for name, value in expected.weights.items():
        assert torch.equal(read.weights[name], value), name
    for index, buffers in expected.optimizer["state"].items():
        assert torch.equal(read.optimizer["state"][index]["momentum_buffer"], buffers["momentum_buffer"])


def test_checkpoints_are_written_one_at_a_time_and_reported_in_order(tmp_path):
    events = []
    with CheckpointWriter(CheckpointStore(str(tmp_path)), events.append) as writer:
        for step in (1, 2, 3):
            writer.save(state_of(step), PREPROCESSING)
            assert [event.step for event in events] == list(range(1, step))
    assert [event.step for event in events] == [1, 2, 3]
    assert load_checkpoint(str(tmp_path)).state["step"] == 3


@pytest.mark.parametrize("ask", ["collect", "wait", "save"])
def test_an_error_of_the_writing_is_raised_where_training_goes_on(small_disk, ask):
    disk = os.statvfs(small_disk)
    (small_disk / "more").write_bytes(bytes(disk.f_bavail * disk.f_frsize))
    store = CheckpointStore(str(small_disk / "run"))
    with pytest.raises(StorageError) as error, CheckpointWriter(store, print) as writer:
        writer.save(state_of(1), PREPROCESSING)
        while ask == "collect":
            writer.collect()
        writer.wait() if ask == "wait" else writer.save(state_of(2), PREPROCESSING)
    assert error.value.code == "disk_full"


def test_a_full_disk_is_waited_for_while_training_goes_on(small_disk, monkeypatch):
    monkeypatch.setattr("kineray.training.checkpoint_writer._PAUSES_S", (0.05, 0.1))
    disk = os.statvfs(small_disk)
    filler = small_disk / "more"
    filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize))
    store, events = CheckpointStore(str(small_disk / "run")), []
    with CheckpointWriter(store, events.append, patience_s=60) as writer:
        writer.save(state_of(1), PREPROCESSING)
        while len(events) < 3:
            writer.collect()
        assert {(type(event), event.step) for event in events} == {(CheckpointDelayedEvent, 1)}
        assert [event.seconds for event in events[:3]] == [0.05, 0.1, 0.1]
        assert str(small_disk) in events[0].problem
        filler.unlink()
    assert [event.step for event in events if isinstance(event, CheckpointEvent)] == [1]
    assert load_checkpoint(store.last()).state["step"] == 1


def test_patience_has_an_end_and_a_run_that_ends_by_an_error_has_none(small_disk, monkeypatch):
    monkeypatch.setattr("kineray.training.checkpoint_writer._PAUSES_S", (0.05, 0.1))
    disk = os.statvfs(small_disk)
    (small_disk / "more").write_bytes(bytes(disk.f_bavail * disk.f_frsize))
    store, events = CheckpointStore(str(small_disk / "run")), []
    with pytest.raises(StorageError) as error, CheckpointWriter(store, events.append, 0.2) as writer:
        writer.save(state_of(1), PREPROCESSING)
    assert error.value.code == "disk_full" and events
    with pytest.raises(ZeroDivisionError), CheckpointWriter(store, events.append, 3600) as writer:
        writer.save(state_of(1), PREPROCESSING)
        raise ZeroDivisionError


def test_an_error_of_the_run_itself_is_not_hidden_and_its_checkpoint_is_complete(tmp_path):
    store = CheckpointStore(str(tmp_path))
    with pytest.raises(ZeroDivisionError), CheckpointWriter(store, lambda event: None) as writer:
        writer.save(state_of(1), PREPROCESSING)
        raise ZeroDivisionError
    assert load_checkpoint(store.last()).state["step"] == 1


def test_steps_that_are_multiples_are_due():
    cadence, due = Cadence(3), []
    for step in range(1, 10):
        if cadence.due(step):
            due.append(step)
            cadence.done(step)
    assert due == [3, 6, 9]


def test_a_time_counts_from_when_it_was_last_done():
    now = 50.0
    cadence = Cadence("1m30s", clock=lambda: now)
    assert not cadence.due(1)
    now = 140.0
    assert cadence.due(2) and cadence.due(3)
    cadence.done(3)
    assert not cadence.due(4)


def test_steps_count_from_where_a_run_continues_and_what_is_not_done_stays_due():
    cadence = Cadence(4, start=5)
    assert [step for step in range(6, 12) if cadence.due(step)] == [8, 9, 10, 11]
    cadence.done(9)
    assert [step for step in range(10, 14) if cadence.due(step)] == [12, 13]


def test_without_a_number_it_is_due_as_often_as_it_takes_one_percent_of_the_time():
    now = 0.0
    cadence = Cadence(None, clock=lambda: now)
    assert cadence.due(1)
    cadence.done(1, seconds=0.5)
    now = 49.9
    assert not cadence.due(2)
    now = 50.0
    assert cadence.due(3)


@given(st.integers(1, 10**6))
def test_a_time_is_read_as_it_is_shown(seconds):
    shown = duration(seconds)
    assert seconds_of(shown) == (seconds if seconds < 3600 else pytest.approx(seconds, abs=60))


@pytest.mark.parametrize("text", ["", "0s", "5", "10 m", "1.5m", "m", "3d", "5m2h", "-1s"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="not a time"):
        seconds_of(text)
