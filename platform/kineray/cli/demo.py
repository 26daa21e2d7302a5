"""``kineray demo``: from synthetic videos to a served model, by the commands that a user would type."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kineray.cli.launch import SMOKE_DATA
from kineray.cli.output import DEFAULT_STORAGE, near, note
from kineray.durations import duration
from kineray.errors import KinerayError
from kineray.network import direct

SCRIPT = "experiments/slowfast.py"


@click.command(
    name="demo", short_help="Train, evaluate, promote and serve a small SlowFast on synthetic videos."
)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="HTTP port.")
@click.option(
    "--storage",
    default=DEFAULT_STORAGE,
    show_default=True,
    metavar="URI",
    help="Folder or s3:// prefix of all runs.",
)
def command(port: int, storage: str) -> None:
    """Make videos, train with two workers, evaluate, promote, serve, and classify a validation clip."""
    if not Path(SCRIPT).exists():
        raise KinerayError(
            "no such file",
            code="not_found",
            key=SCRIPT,
            remedy="run the demo from the root of the kineray repository",
        )
    started = time.monotonic()
    _check_port(port)
    storage_flag = [] if storage == DEFAULT_STORAGE else ["--storage", storage]
    manifest = f"{SMOKE_DATA}/manifest.parquet"
    _kineray("data", "synth", SMOKE_DATA)
    outcome = _kineray(
        "train", SCRIPT, "--smoke", f"data.manifest={manifest}", "--workers", "2", *storage_flag
    )
    evaluation = _kineray(
        "eval", near(outcome["best_checkpoint"]), "--views", "3", "--crops", "1", *storage_flag
    )
    top1 = evaluation["metrics"]["action/top1"]
    _kineray("promote", outcome["name"], *storage_flag)
    truth, clip = _held_out(manifest)
    with _service(port, storage_flag) as url:
        _show_command("curl", "--data-binary", f"@{near(str(clip))}", f"{url}/v1/predict")
        with direct.open(f"{url}/v1/predict", clip.read_bytes(), timeout=60) as response:
            answer = json.load(response)
    best = answer["predictions"]["action"][0]
    click.echo()
    click.echo(f"validation top-1 (3 views)  {top1:.1%}   (chance is 25 %)")
    click.echo(
        f"served prediction           {best['label']} ({best['score']:.3f}), version {answer['version']}"
    )
    click.echo(f"truth                       {truth}")
    click.echo(f"time                        {duration(time.monotonic() - started)}")
    click.echo("\nnext:")
    for then in (
        "kineray runs",
        f"kineray runs show {outcome['name']}",
        f"kineray sweep {SCRIPT} --smoke --trials 6",
        "kineray serve",
        "kineray data import FOLDER_OF_CLASS_FOLDERS",
    ):
        click.echo(f"  {then}")
    if top1 < 0.9:
        raise KinerayError(
            f"the demo reached {top1:.1%} validation top-1, but at least 90 % was expected",
            code="demo_failed",
        )
    if best["label"] != truth:
        raise KinerayError(
            f"the served model predicted {best['label']} for a clip of {truth}", code="demo_failed", key=clip
        )


def _check_port(port: int) -> None:
    import socket

    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise KinerayError(
                "already in use on 127.0.0.1",
                code="port_in_use",
                key="port",
                value=port,
                remedy="pass another `port`, or stop the process that listens there",
            )


def _show_command(*words: str) -> None:
    note(f"\n$ {shlex.join(words)}")


def _kineray(*words: str) -> dict[str, Any]:
    _show_command("kineray", *words)
    done = subprocess.run(
        [sys.executable, "-m", "kineray", *words, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise KinerayError(
            f"'kineray {words[0]}' ended with exit code {done.returncode}",
            code="demo_failed",
            remedy="see its message above",
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _held_out(manifest: str) -> tuple[str, Path]:
    """A validation clip and its true class."""
    from kineray.data import load_manifest

    held_out = load_manifest(manifest).split("val")
    return held_out.vocabularies["action"][held_out.labels("action")[0]], Path(held_out[0].uri)


@contextmanager
def _service(port: int, storage_flag: list[str]) -> Iterator[str]:
    """The URL of a service that runs while the body does."""
    kineray = [sys.executable, "-m", "kineray"]
    command = ["serve", "--background", *([] if port == 8000 else ["--port", str(port)]), *storage_flag]
    _show_command("kineray", *command)
    if subprocess.run([*kineray, *command], check=False).returncode:
        raise KinerayError(
            "'kineray serve' did not become ready", code="demo_failed", remedy="see its message above"
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([*kineray, "serve", "--stop", *storage_flag], stderr=subprocess.DEVNULL, check=False)
