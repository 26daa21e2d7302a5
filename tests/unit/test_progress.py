"""Long work says how far it is: on stderr by the command line, as log lines by ``train`` and ``sweep``."""

import dataclasses
import logging
import subprocess
import sys
import time

import pytest

from kineray.cli.progress import Progress, TrainingProgress
from kineray.orchestration.progress import LoggedProgress, visible_progress
from kineray.training import CheckpointEvent, ValidationEvent, WaitingEvent, line_of
from training_events import step

VALIDATION = ValidationEvent(
    step=9,
    epoch=1,
    metrics={"val/verb/top1": 0.5, "val/noun/top1": 0.25},
    score=0.375,
    score_name="mean of verb/top1 and noun/top1",
    precision="float32",
    weights="model",
)
EVENTS = [WaitingEvent("Ray"), *map(step, range(1, 10)), VALIDATION, CheckpointEvent(9, "/x/step-9", False)]


def test_events_as_lines():
    assert line_of(step(3)).startswith("step 3/9  epoch 0.10  loss 1.000") and "1m15s left" in line_of(
        step(3)
    )
    assert line_of(VALIDATION).endswith("score 0.3750 (mean of verb/top1 and noun/top1)")
    assert line_of(EVENTS[-1]) is None
    assert line_of(CheckpointEvent(9, "/x/step-9", True), near=lambda uri: uri[3:]).endswith(": step-9")


def test_the_command_line_prints_the_first_and_the_last_step_and_all_else(capsys):
    with TrainingProgress() as progress:
        for event in EVENTS:
            progress(event, prefix="[t] ")
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split("  ")[0] for line in err.splitlines()[:2]] == ["[t] step 1/9", "[t] step 9/9"]
    assert err.splitlines()[2:] == [f"[t] {line_of(VALIDATION)}"]


def test_without_a_handler_of_events_they_are_logged(caplog):
    caplog.set_level(logging.INFO)
    logged = LoggedProgress()
    with visible_progress():
        for event in EVENTS:
            logged(event, "sweep/lr=0.1")
    found = [(record.name, record.getMessage()) for record in caplog.records]
    lines = [line_of(step(1)), line_of(step(9)), line_of(VALIDATION)]
    assert found == [("kineray.progress", f"[sweep/lr=0.1] {line}") for line in lines]


@pytest.mark.parametrize("configured", [False, True])
def test_what_is_logged_is_seen_unless_the_program_has_configured_logging(configured):
    code = (
        "import logging, kineray.orchestration.progress as p\n"
        f"if {configured}: logging.basicConfig(level=logging.WARNING)\n"
        "with p.visible_progress(): p.log.info('step 1')\n"
        "p.log.info('after')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "" if configured else "step 1\n")


def test_work_that_counts_nothing_shows_its_time_and_then_its_count(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress("videos", "bad", doing="reading") as progress:
        time.sleep(1.2)
        progress(2, 2, 1)
    shown = capsys.readouterr().err
    assert "reading ... 1s" in shown and "2 of 2 videos" in shown and "1 bad" in shown
    assert shown.endswith("\n")


def test_a_step_shows_the_goodput_of_the_run_so_far_if_it_is_known():
    assert "goodput" not in line_of(step(3))
    assert "compute 75%  goodput 93%  1m15s left" in line_of(dataclasses.replace(step(3), goodput=0.93))
