"""The options of a worker: checked values, from which the command line's options are made."""

import dataclasses

import click
import pytest
from click.testing import CliRunner

from kineray.cli.launch import worker_options
from kineray.errors import ConfigError
from kineray.options import WorkerOptions

OTHERS = WorkerOptions(
    micro_batch=8,
    checkpoint_every=100,
    decoders=3,
    max_memory=4_000_000_000,
    activation_checkpointing=True,
    max_failures=0,
)


def test_options_survive_json():
    assert WorkerOptions.from_json(OTHERS.to_json()) == OTHERS
    assert WorkerOptions.from_json(WorkerOptions().to_json()) == WorkerOptions()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("micro_batch", 0),
        ("checkpoint_every", -1),
        ("checkpoint_every", "10 minutes"),
        ("checkpoint_every", "0s"),
        ("checkpoint_every", ""),
        ("decoders", 1.5),
        ("checkpoint_every", None),
        ("max_memory", "4GB"),
        ("activation_checkpointing", 1),
        ("max_failures", None),
        ("max_failures", True),
    ],
)
def test_a_value_that_is_not_such_a_number_is_refused(name, value):
    with pytest.raises(ConfigError) as error:
        WorkerOptions(**{name: value})
    assert (error.value.code, error.value.key) == ("out_of_range", name)


def invoked(*words):
    """The result of a command with the options, and what it gets from the command line."""
    got = []

    @click.command()
    @worker_options
    def command(options):
        got.append(options)

    return CliRunner().invoke(command, words), got


def parsed(*words):
    result, got = invoked(*words)
    assert result.exit_code == 0, result.output
    return got[0]


def test_the_command_line_has_an_option_for_every_field():
    assert parsed() == WorkerOptions()
    words = ["--micro-batch=8", "--checkpoint-every=100", "--decoders=3", "--max-memory=4GB"]
    assert parsed(*words, "--activation-checkpointing", "--max-failures=0") == OTHERS


def test_an_interval_is_a_number_of_steps_or_a_time():
    assert parsed("--checkpoint-every=1h30m").checkpoint_every == "1h30m"
    assert WorkerOptions().checkpoint_every == "10m"
    result, _ = invoked("--checkpoint-every=5x")
    assert result.exit_code == 2


def test_every_option_has_a_help_text():
    assert all(field.metadata["help"].endswith(".") for field in dataclasses.fields(WorkerOptions))
