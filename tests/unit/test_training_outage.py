"""A bucket that is away for a while costs a run time, and nothing else."""

import threading

import pytest
from test_training_loop import run
from test_training_plan import assert_equal_state

from kineray.data import load_manifest
from kineray.options import WorkerOptions
from kineray.training import CheckpointEvent, CheckpointStore, StepEvent, train
from kineray.training.checkpoint import load_training_state

AWAY_S = 4.0


@pytest.mark.slow
def test_checkpoints_wait_for_a_bucket_that_is_away(tiny_experiment, s3, s3_server, tmp_path, one_thread):
    manifest, events = load_manifest(tiny_experiment.data.manifest), []

    def on_event(event):
        events.append(event)
        if isinstance(event, StepEvent) and event.step == 2:
            s3_server.kill()
            threading.Timer(AWAY_S, s3_server.restart).start()

    result = train(
        tiny_experiment,
        manifest.split("train"),
        manifest.split("val"),
        checkpoints=CheckpointStore(f"{s3}/run/checkpoints"),
        on_event=on_event,
        options=WorkerOptions(checkpoint_every=2),
    )
    steps = [event.step for event in events if isinstance(event, StepEvent)]
    assert steps == list(range(1, 10))
    assert [event.step for event in events if isinstance(event, CheckpointEvent)] == [2, 3, 4, 6, 8, 9]
    run(tiny_experiment, tmp_path, checkpoint_every=2)
    assert_equal_state(load_training_state(result.last_uri).weights, _weights(tmp_path))


def _weights(folder):
    return load_training_state(CheckpointStore(str(folder / "checkpoints")).last()).weights
