"""What the time of a run is spent on: each second has one cause; steps that are made again count once."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kineray.training import CheckpointEvent, EndedEvent, GoodputMeter, ValidationEvent, goodput_line, line_of
from training_events import step

STEP_S, VALIDATION_S, CHECKPOINT_S = 2.0, 3.0, 0.5


class Run:
    """A run that takes no time but by its own clock."""

    def __init__(self):
        self.now = 100.0
        self.meter = GoodputMeter(clock=lambda: self.now)

    def wait(self, seconds):
        self.now += seconds

    def steps(self, *numbers):
        """Steps of two seconds, of which a quarter waits for clips."""
        for number in numbers:
            self.pass_on(replace(step(number), seconds=STEP_S))

    def validation(self, number):
        self.pass_on(
            ValidationEvent(number, 1, {}, 0.5, "action/top1", "float32", "model", seconds=VALIDATION_S)
        )

    def checkpoint(self, number):
        self.pass_on(CheckpointEvent(number, "/x", False, seconds=CHECKPOINT_S))

    def pass_on(self, event):
        self.now += event.seconds
        self.meter(event)

    def seconds(self):
        """Seconds by cause, and those of the steps that count as ``steps``."""
        goodput = self.meter.result()
        assert goodput.seconds == pytest.approx(self.now - 100.0)
        shares = {"steps": goodput.effective, **goodput.badput}
        assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= -1e-9
        return {cause: share * goodput.seconds for cause, share in shares.items() if share > 1e-9}


def test_every_second_of_an_undisturbed_run_has_a_cause():
    run = Run()
    run.wait(10)
    run.meter.restarted()  # its first workers
    run.steps(1, 2, 3, 4)
    run.validation(4)
    run.checkpoint(4)
    run.wait(1)
    assert run.seconds() == pytest.approx(
        {"start-up": 10, "steps": 6, "data wait": 2, "validation": 3, "checkpoints": 0.5, "other": 1}
    )
    assert run.meter.result().lost_steps == 0


def test_what_a_lost_worker_costs_is_the_steps_that_are_made_again_and_the_restart():
    run = Run()
    run.steps(1, 2, 3, 4)
    run.checkpoint(4)
    run.steps(5, 6)
    run.validation(6)
    run.wait(7)
    run.meter.restarted()
    run.meter.restarted()  # each worker of the new group
    run.steps(5, 6)
    run.validation(6)
    run.steps(7)
    assert run.seconds() == pytest.approx(
        {
            "steps": 7 * 1.5,
            "data wait": 7 * 0.5,
            "checkpoints": 0.5,
            "lost steps": 2 * STEP_S + VALIDATION_S,
            "validation": 3,
            "restart": 7,
        }
    )
    assert run.meter.result().lost_steps == 2


def test_a_validation_whose_checkpoint_is_complete_is_not_lost():
    run = Run()
    run.steps(1, 2)
    run.validation(2)
    run.checkpoint(2)
    run.meter.restarted()
    run.steps(3)
    assert "lost steps" not in run.seconds()


def test_steps_that_a_killed_driver_had_recorded_are_lost_too():
    run = Run()
    run.meter.continues(7)
    run.steps(5, 6, 7, 8)
    assert run.meter.result().lost_steps == 3
    assert "lost steps" not in run.seconds()  # their seconds belong to the driver that was killed


def test_before_the_first_step_nothing_is_good():
    run = Run()
    run.wait(5)
    assert run.meter.result().effective == 0
    assert run.seconds() == {"start-up": 5}


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.booleans()), max_size=6))
def test_however_often_workers_are_lost_each_step_counts_once(attempts):
    """Each attempt makes some steps, and the next one starts from its last checkpoint."""
    run, saved, made = Run(), 0, 0
    for count, waited, is_saved in attempts:
        run.wait(waited)
        run.meter.restarted()
        run.steps(*range(saved + 1, saved + count + 1))
        made += count
        distinct = saved + count
        if is_saved:
            run.checkpoint(distinct)
            saved = distinct
        again = made - distinct
        assert run.meter.result().lost_steps == again
        assert run.seconds().get("lost steps", 0) == pytest.approx(again * STEP_S)
        assert run.seconds()["steps"] == pytest.approx(distinct * STEP_S * 0.75)


def test_the_line_names_the_largest_cause_first_and_what_was_made_again():
    run = Run()
    run.wait(3)
    run.steps(1, 2, 3)
    run.steps(3)
    goodput = run.meter.result()
    assert goodput_line(goodput) == line_of(EndedEvent(goodput))
    assert goodput_line(goodput) == "goodput 41%: start-up 27%, lost steps 18%, data wait 14% (1 made again)"
