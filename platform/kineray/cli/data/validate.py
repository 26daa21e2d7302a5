"""``kineray data validate``."""

import click

from kineray.cli.output import (
    as_row,
    decoders_option,
    json_option,
    note_first,
    show,
    table,
)
from kineray.cli.progress import Progress
from kineray.durations import duration


@click.command(name="validate")
@click.argument("manifest")
@click.option("--full", is_flag=True, help="Decode every frame, not only the first, middle and last one.")
@click.option(
    "--out", metavar="FILE", help="The quarantine list [default: next to MANIFEST, as NAME.quarantine.csv]."
)
@click.option(
    "--clean", metavar="FILE", help="Write a manifest without the bad clips, which then count as missing."
)
@decoders_option
@json_option
def command(
    manifest: str, full: bool, out: str | None, clean: str | None, decoders: int | None, as_json: bool
) -> int:
    """Open every video of MANIFEST; list damaged videos, and clips that lie outside of their video.

    Exit code 0: all can be read; 1: some cannot, see the quarantine list; 2: the check itself failed.
    """
    from kineray.data import validate

    with Progress("videos", "bad") as progress:
        report = validate(manifest, full=full, out=out, clean=clean, decoders=decoders, progress=progress)
    bad = report.bad_samples
    lines = [
        f"{report.videos} videos in {duration(report.seconds)}, {report.videos_per_s:.1f}/s",
        table([as_row(split) for split in report.splits], ("split", "usable", "bad", "listed")),
        *(f"{code}: {count} clips" for code, count in report.codes.items()),
    ]
    if bad:
        lines.append(f"{bad} clips cannot be used; {report.quarantine} lists the reasons")
    note_first([f"{uri}: {where}; the frame before is shown there" for uri, where in report.damaged.items()])
    best = report.clean or manifest
    then = [f"kineray data stats {best}", f"kineray train experiments/slowfast.py data.manifest={best}"]
    if bad and not report.clean:
        then.insert(0, f"kineray data validate {manifest} --clean FILE")
    show(report, "\n".join(lines), as_json=as_json, then=then)
    return 1 if bad else 0
