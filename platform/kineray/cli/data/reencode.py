"""``kineray data reencode``."""

import sys
from typing import TYPE_CHECKING

import click

from kineray.cli.output import (
    as_row,
    decoders_option,
    json_option,
    near,
    note,
    note_first,
    setting_option,
    show,
)
from kineray.cli.progress import Progress
from kineray.durations import duration
from kineray.errors import ManifestError

if TYPE_CHECKING:
    from kineray.data.derive.reencode import Estimate

_SETTINGS = "kineray.video.encode"


@click.command(name="reencode")
@click.argument("manifest")
@click.option("--out", required=True, metavar="FOLDER", help="Folder or s3:// prefix to write the copies to.")
@setting_option(
    "--short-side",
    click.IntRange(16),
    _SETTINGS,
    "Short side of the copies, in pixels; smaller videos keep theirs.",
)
@setting_option("--key-frames", click.IntRange(1), _SETTINGS, "Frames from one key frame to the next.")
@setting_option("--crf", click.IntRange(0, 51), _SETTINGS, "x264's quality; lower is better.")
@decoders_option
@click.option("--yes", is_flag=True, help="Start without asking.")
@click.option("--dry-run", is_flag=True, help="Only estimate what it would cost and save.")
@json_option
def command(
    manifest: str,
    out: str,
    short_side: int,
    key_frames: int,
    crf: int,
    decoders: int | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a training copy of the videos of MANIFEST in FOLDER: small H.264 files with many key frames.

    Ids, labels, splits and times are unchanged. A few videos are encoded first, to estimate time and size
    of all of them. If interrupted, the same command continues where it stopped.
    """
    from kineray.data import reencode
    from kineray.video.encode import Settings

    if not (yes or dry_run or sys.stdin.isatty()):
        raise ManifestError(
            "no terminal on which to ask whether to start",
            code="not_confirmed",
            key="yes",
            remedy="pass `yes` to start, or `dry_run` to see the cost",
        )

    def confirm(estimate: "Estimate") -> bool:
        progress.stop_waiting()
        note(_cost(estimate, out))
        return yes or click.confirm("Start?", err=True)

    with Progress(
        "videos", "failed", doing="encoding parts of a few videos, to estimate the cost"
    ) as progress:
        copy = reencode(
            manifest,
            out,
            short_side=short_side,
            key_frames=key_frames,
            crf=crf,
            decoders=decoders,
            dry_run=dry_run,
            confirm=None if yes and as_json else confirm,
            progress=progress,
        )
    if copy.kept:
        note(f"{copy.kept} folders of frames are used as they are")
    note_first([f"not copied: {uri}: {why}" for uri, why in copy.failed.items()])
    note_first([f"copied without what is lost: {uri}: {where}" for uri, where in copy.damaged.items()])
    target = near(copy.manifest)
    if copy.hash is None and not copy.estimate:
        show(copy, f"{out}: nothing to do, all copies are there", as_json=as_json)
    elif copy.hash is None and copy.estimate:
        usual = as_row(Settings())
        given = {"short_side": short_side, "key_frames": key_frames, "crf": crf}
        flags = "".join(
            f" --{name.replace('_', '-')} {value}" for name, value in given.items() if value != usual[name]
        )
        text = _cost(copy.estimate, out) if dry_run else "nothing was written"
        again = f"kineray data reencode {manifest} --out {out}{flags} --yes"
        show(copy, text, as_json=as_json, then=(again,))
    else:
        text = f"{copy.copies} of {copy.videos} videos copied; {target}"
        train = f"kineray train experiments/slowfast.py data.manifest={target}"
        show(copy, text, as_json=as_json, then=(f"kineray data stats {target}", train))


def _cost(estimate: "Estimate", out: str) -> str:
    return (
        f"{estimate.videos} videos to {out}: about {duration(estimate.seconds)},"
        f" {_bytes(estimate.bytes_before)} -> {_bytes(estimate.bytes_after)}; frames of"
        f" {estimate.pixels:.0%} of the pixels; decoded frames per wanted frame of a random 2 s clip:"
        f" {estimate.decoded_before:.1f} -> {estimate.decoded_after:.1f}"
        f" (from {estimate.tried} of the videos)"
    )


def _bytes(number: float) -> str:
    """``12300000`` -> ``12.3 MB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
