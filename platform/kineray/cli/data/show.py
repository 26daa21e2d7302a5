"""``kineray data show``."""

from typing import TYPE_CHECKING

import click

from kineray.cli.output import as_row, json_option, show, table

if TYPE_CHECKING:
    from kineray.data import ManifestSummary


@click.command(name="show")
@click.argument("manifest")
@json_option
def command(manifest: str, as_json: bool) -> None:
    """Print a summary of MANIFEST: splits, classes, found and listed clips, flow, subsets, content hash."""
    from kineray.data import describe

    show_summary(describe(manifest), as_json)


def show_summary(summary: "ManifestSummary", as_json: bool) -> None:
    """Print a summary, and the commands that use its manifest."""
    path = summary.manifest
    lines = [f"{path}  {summary.name}  {summary.hash[:12]}", *_class_lines(summary)]
    if summary.boxes:
        lines.append(f"{summary.boxes} boxes of persons")
    if summary.flow:
        all_clips = summary.flow == summary.samples
        lines.append("with optical flow" if all_clips else f"{summary.flow} clips have optical flow")
    lines.append(table([as_row(split) for split in summary.splits], ("split", "found", "listed", "groups")))
    if summary.subsets:
        lines.append("subsets: " + ", ".join(f"{name} {count}" for name, count in summary.subsets.items()))
    then = [f"kineray data validate {path}"]
    if any(summary.labelled.values()):
        then.append(f"kineray train experiments/slowfast.py data.manifest={path}")
    show(summary, "\n".join(lines), as_json=as_json, then=then)


def _class_lines(summary: "ManifestSummary") -> list[str]:
    lines = []
    for head, names in summary.classes.items():
        line = f"{head}: {len(names)} classes ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        if head in summary.evaluated:
            line += f", {summary.evaluated[head]} of them evaluated"
        if not summary.boxes and summary.labelled[head] < summary.samples:
            line += f"; {summary.labelled[head]} of {summary.samples} clips have one"
        lines.append(line)
    return lines
