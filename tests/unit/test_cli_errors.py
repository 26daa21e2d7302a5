"""The library's errors in the terms of the command line."""

import click
import pytest

from kineray.cli.app import cli
from kineray.cli.errors import called, one_line
from kineray.errors import ConfigError, KinerayError


@click.command()
@click.argument("manifest")
@click.option("--micro-batch")
@click.option("--from", "source")
@click.option("--model", "model_name")
def command(**_options):
    """A command with parameters of every kind."""


@pytest.mark.parametrize(
    ("remedy", "shown"),
    [
        ("raise `micro_batch` to 8", "raise --micro-batch to 8"),
        ("another `source`, or `from`", "another --from, or --from"),
        ("give `model_name`", "give --model"),
        ("name the `manifest`", "name the MANIFEST"),
        ("set `workers`, or call `promote`", "set workers, or call promote"),
        ("no parameter here", "no parameter here"),
    ],
)
def test_parameters_become_the_flags_that_the_command_has(remedy, shown):
    error = KinerayError("wrong", code="wrong", key="optim.lr", remedy=remedy)
    assert one_line(error, command) == f"optim.lr: wrong; {shown}"


def test_an_error_about_a_parameter_begins_with_its_flag():
    error = ConfigError("7 is no multiple\n of 8", code="wrong", key="micro_batch", remedy="take 8")
    assert one_line(error, command) == "--micro-batch: 7 is no multiple of 8; take 8"


def test_the_command_is_found_below_groups():
    assert called(cli, ("--verbose", "data", "import", "show", "--json")).name == "import"
    assert called(cli, ("runs", "--storage", "x")).name == "runs"
    assert called(command, ("data", "import")) is command
