"""What happens before a run's first step."""

import os
import subprocess
import sys

import pytest

from kineray.orchestration.startup import StartUp, in_thread
from kineray.training import StartedEvent, WaitingEvent
from kineray.training.speed import Speed
from training_events import step


@pytest.mark.parametrize(
    "module",
    [
        "orchestration",
        "orchestration.mailbox",
        "orchestration.worker",
        "orchestration.trainer",
        "serving.running",
        "tracking",
    ],
)
def test_driver_mailbox_and_controller_import_no_torch(module):
    """Each import of torch costs seconds of processor time and hundreds of megabytes."""
    program = f"import sys, kineray.{module}; print({{'torch', 'torchvision'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_no_worker_waits_for_other_threads_by_spinning():
    """OpenMP reads it when torch is imported, so it is set before that in every process."""
    program = """
import os, sys
from kineray.cluster import import_ray
from kineray.orchestration.trainer import _join
try:
    _join("none", "none", 0, 1)
except Exception:
    pass
print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for chosen, expected in (({}, "PASSIVE True"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE True")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | chosen,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_waits_are_announced_and_summed_up_before_the_first_step():
    events = []
    start = StartUp(events.append)
    start.wait_for("Ray")
    start.wait_for("2 workers")
    start.worker_started(2)
    start.worker_started(2)
    start(step(1))
    start.worker_started(2)  # a worker that replaces another later
    start(step(2))
    waits = ["Ray", "2 workers", "the first step"]
    assert events[:3] == [WaitingEvent(cause) for cause in waits]
    assert isinstance(events[3], StartedEvent) and list(events[3].seconds) == waits
    assert all(seconds >= 0 for seconds in events[3].seconds.values())
    assert [event.step for event in events[4:]] == [1, 2]


def test_an_error_in_a_thread_is_raised_where_its_result_is_wanted():
    with pytest.raises(ZeroDivisionError):
        in_thread(lambda: 1 / 0).result()


def test_the_first_step_does_not_count_for_the_speed(monkeypatch):
    clock = iter([0, 10, 10, 11, 11, 14])
    monkeypatch.setattr("kineray.training.speed.time.perf_counter", lambda: next(clock))
    speed = Speed()
    shown = []
    for _ in range(3):
        with speed.of(clips=8):
            pass
        shown.append(speed.clips_per_s)
    assert shown == [0.8, 8.0, 4.0]
