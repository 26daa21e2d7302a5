"""``kineray data reencode | flow``: copies of a data set, made from its videos."""

import sys
import time
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.output import (
    Progress,
    duration,
    json_option,
    near,
    note,
    note_first,
    show,
    usable_cores,
    workers_option,
)
from kineray.errors import ManifestError

if TYPE_CHECKING:
    from kineray.data.derive.flow import Flows
    from kineray.data.derive.reencode import Copies


class _SettingOption(click.Option):
    """An option whose default is that of the same field of ``Settings`` in ``module``.

    The module is imported when the default is asked for: that takes too long for every command's start.
    """

    def __init__(self, *names: Any, module: str, **more: Any) -> None:
        super().__init__(*names, **more | {"show_default": True})
        self._module = module

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        """The field's default."""
        return getattr(import_module(self._module).Settings(), self.name)


@click.command(name="reencode")
@click.argument("manifest")
@click.option("--out", required=True, metavar="FOLDER", help="Where the copies go; may be s3://.")
@click.option(
    "--short-side",
    type=click.IntRange(16),
    cls=_SettingOption,
    module="kineray.video.encode",
    help="Pixels; smaller videos are not enlarged.",
)
@click.option(
    "--key-frames",
    type=click.IntRange(1),
    cls=_SettingOption,
    module="kineray.video.encode",
    help="Frames from one key frame to the next.",
)
@click.option(
    "--crf",
    type=click.IntRange(0, 51),
    cls=_SettingOption,
    module="kineray.video.encode",
    help="x264's quality; lower is better.",
)
@workers_option
@click.option("--yes", is_flag=True, help="Start without asking.")
@click.option("--dry-run", is_flag=True, help="Only say what it will cost and save.")
@json_option
def reencode_command(
    manifest: str,
    out: str,
    short_side: int,
    key_frames: int,
    crf: int,
    workers: int | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a training copy of the videos of MANIFEST in FOLDER: small H.264 files with many key frames.

    Ids, labels, splits and times stay what they are. A few videos are encoded first to say what all will
    take. The same command again goes on where it stopped.
    """
    from kineray.data import load_manifest
    from kineray.data.derive.reencode import check_space, estimate, make_copies, plan
    from kineray.data.manifest import index_cache
    from kineray.video.encode import Settings

    if not (yes or dry_run or sys.stdin.isatty()):
        raise ManifestError("--yes: needed to start where nobody can be asked; --dry-run tells the cost")
    loaded = load_manifest(manifest)
    todo = plan(loaded, manifest, out, Settings(short_side, key_frames, crf))
    processes = workers or usable_cores()
    if todo.kept:
        note(f"{todo.kept} folders of frames are used as they are")
    if todo.todo and not (yes and as_json):
        cost = estimate(todo, workers=processes)
        described = (
            f"{cost.videos} videos to {out}: about {duration(cost.seconds)} with {processes} processes,"
            f" {_bytes(cost.bytes_before)} -> {_bytes(cost.bytes_after)}; frames of {cost.pixels:.0%} of the"
            f" pixels; decoded frames per wanted frame of a random 2 s clip: {cost.decoded_before:.1f} ->"
            f" {cost.decoded_after:.1f} (from {cost.tried} of the videos)"
        )
        if dry_run:
            usual = asdict(Settings())
            given = "".join(
                f" --{name.replace('_', '-')} {value}"
                for name, value in asdict(todo.settings).items()
                if value != usual[name]
            )
            again = f"kineray data reencode {manifest} --out {out}{given} --yes"
            show(asdict(cost) | {"out": out}, described, as_json=as_json, then=(again,))
            return
        note(described)
        check_space(cost, todo.folder)
        if not yes and not click.confirm("Start?", err=True):
            note("nothing was written")
            return
    elif dry_run:
        show({"videos": 0, "out": out}, f"{out}: nothing to do, all copies are there", as_json=as_json)
        return
    start = time.monotonic()
    with Progress("videos") as progress:
        copies = make_copies(
            loaded,
            todo,
            workers=processes,
            progress=lambda done, total, failed: progress(done, total, f"  {failed} failed"),
        )
    result = _saved(copies, todo.manifest, start, "not copied")
    result["copies"] = len(todo.jobs) - len(copies.failures)
    if copies.indexes:
        index_cache.write(todo.manifest, copies.indexes)
    text = f"{result['copies']} of {len(todo.jobs)} videos copied; {near(todo.manifest)}"
    train = f"kineray train experiments/slowfast.py data.manifest={near(todo.manifest)}"
    show(result, text, as_json=as_json, then=(f"kineray data stats {near(todo.manifest)}", train))


@click.command(name="flow")
@click.argument("manifest")
@click.option("--out", required=True, metavar="FOLDER", help="Where the flow is written.")
@click.option(
    "--fps",
    type=click.FloatRange(0, min_open=True),
    help="Frames of flow per second [default: the video's own].",
)
@click.option(
    "--bound",
    type=click.FloatRange(0, min_open=True),
    cls=_SettingOption,
    module="kineray.data.derive.flow",
    help="Largest motion that can be stored, in pixels per frame.",
)
@click.option(
    "--short-side",
    type=click.IntRange(16),
    cls=_SettingOption,
    module="kineray.data.derive.flow",
    help="Videos are made this small first.",
)
@workers_option
@json_option
def flow_command(
    manifest: str,
    out: str,
    fps: float | None,
    bound: float,
    short_side: int,
    workers: int | None,
    as_json: bool,
) -> None:
    """Compute the optical flow of the videos of MANIFEST into FOLDER, as pictures of u and v.

    The manifest that is written there names the videos and their flow, so that models of RGB, of flow and
    of both can be trained with it. Ids, labels, splits and times stay what they are. The same command again
    goes on where it stopped.
    """
    from kineray.data import load_manifest
    from kineray.data.derive.flow import Settings, compute_flow
    from kineray.data.manifest.manifest import FILE_NAME
    from kineray.storage import join

    loaded = load_manifest(manifest)
    start = time.monotonic()
    with Progress("flow frames") as progress:
        flows = compute_flow(
            loaded,
            manifest,
            out,
            Settings(fps, bound, short_side),
            workers=workers or usable_cores(),
            progress=lambda done, total, failed: progress(done, total, f"  {failed} videos failed"),
        )
    target = join(out, FILE_NAME)
    result = _saved(flows, target, start, "no flow")
    videos = result["videos"] = len(set(flows.manifest.columns.column("flow").to_pylist()))
    train = (
        f"kineray train experiments/slowfast.py data.manifest={near(target)} data.modality=flow"
        " data.mean=0.5,0.5 data.std=0.226,0.226"
    )
    text = f"{target}  flow of {videos} videos, {len(flows.failures)} failed"
    show(result, text, as_json=as_json, then=(train,))


def _saved(made: "Copies | Flows", target: str, start: float, failed: str) -> dict[str, Any]:
    """Write the manifest of what was made since ``start``, name what failed, and tell both for JSON."""
    from kineray.data import save_manifest

    save_manifest(made.manifest, target)
    note_first([f"{failed}: {uri}: {error.code}" for uri, error in made.failures.items()])
    return {
        "manifest": target,
        "hash": made.manifest.content_hash,
        "seconds": time.monotonic() - start,
        "failed": {uri: f"{error.code}: {error}" for uri, error in sorted(made.failures.items())},
    }


def _bytes(number: float) -> str:
    """``12300000`` -> ``12.3 MB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
