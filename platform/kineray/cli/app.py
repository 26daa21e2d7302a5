"""The ``kineray`` command and the ``kineray.main`` that experiment scripts end with."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.errors import called, one_line
from kineray.cli.verbs import add_verbs
from kineray.errors import KinerayError, Terminated
from kineray.launched import launched
from kineray.threads import wait_without_spinning

if TYPE_CHECKING:
    from kineray.config import Experiment


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="kineray", message="%(version)s")
@click.option("--verbose", is_flag=True, help="Log debug messages, also those of the libraries used.")
def cli(verbose: bool) -> None:
    """Train, search, compare and serve video action-recognition models on Ray.

    key=value changes the science (optim.lr=0.1); --flags change where and how it runs.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )


_FIRST_PRINTS_S = 2.0

add_verbs(cli, "kineray.cli")


def run(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``kineray`` console script."""
    _run(cli, arguments)


def main(experiment: "Experiment", *, smoke: "Experiment | None" = None) -> None:
    """Make a script an experiment that can be run: the last line of every file in ``experiments/``.

    ``python experiments/slowfast.py optim.lr=0.05 --workers 2`` is then the same run as
    ``kineray train experiments/slowfast.py optim.lr=0.05 --workers 2``. ``smoke``: the small experiment
    that ``--smoke`` runs, on video files that kineray makes.
    """
    from kineray.cli.train import train_experiment
    from kineray.config.plugins import is_loading

    if is_loading():  # the script is only being read for its definitions
        return
    _run(train_experiment, sys.argv[1:], obj={"experiment": experiment, "smoke": smoke})


def _run(command: click.Command, arguments: Sequence[str] | None, **extra: Any) -> None:
    """Run ``command``; print a problem that the user can fix as one line on stderr, with exit code 2.

    Of processes that torchrun has started, the first one prints.
    """
    launch = launched()
    if launch is None:
        _run_and_print(command, arguments, **extra)
        return
    try:
        with _silence() if launch.rank else nullcontext():
            _run_and_print(command, arguments, **extra)
    except SystemExit as end:
        if end.code:  # torchrun sends SIGTERM to all processes when one has ended
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(_FIRST_PRINTS_S if launch.rank else 0)
        raise


@contextmanager
def _silence() -> Iterator[None]:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _run_and_print(command: click.Command, arguments: Sequence[str] | None, **extra: Any) -> None:
    wait_without_spinning()
    try:
        code = command.main(arguments, prog_name=None, standalone_mode=False, **extra)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"kineray: {' '.join(error.format_message().split())}", err=True)
        sys.exit(2)
    except KinerayError as error:
        logging.getLogger(__name__).debug("the command failed", exc_info=True)
        words = tuple(sys.argv[1:] if arguments is None else arguments)
        click.echo(f"kineray: {one_line(error, called(command, words))}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"ray", "mlflow", "optuna"}:
            raise
        click.echo("kineray: this needs Ray and MLflow: pip install 'kineray[ray]'", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt) as error:
        is_terminated = isinstance(error.__cause__, Terminated)
        again = "run the same command again to continue (train and sweep: with --resume)"
        click.echo(f"kineray: {'terminated' if is_terminated else 'interrupted'}; {again}", err=True)
        if is_terminated:  # Ray, which may have been terminated too, would be waited for
            sys.stdout.flush()
            os._exit(143)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        logging.getLogger(__name__).debug("the command failed", exc_info=True)
        named = f"{error.filename}: " if error.filename else ""
        click.echo(f"kineray: {named}{error.strerror or error}", err=True)
        sys.exit(2)
