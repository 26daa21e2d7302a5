"""``kineray data synth | import | show``."""

from typing import TYPE_CHECKING, Any

import click

from kineray.cli.data_copies import flow_command, reencode_command
from kineray.cli.data_import import ImportCommand
from kineray.cli.data_tools import split_command, stats_command, validate_command
from kineray.cli.output import json_option, note_first, show, table
from kineray.cli.plugins import plugin_option
from kineray.errors import ManifestError

if TYPE_CHECKING:
    from kineray.data import Manifest


@click.group(short_help="Make, import and look at data sets.")
def data() -> None:
    """Manifests: which clips there are, where they lie, and their labels."""


for tool in (validate_command, stats_command, reencode_command, split_command, flow_command):
    data.add_command(tool)


@data.command()
@click.argument("folder", default="data/motion")
@click.option("--train", type=click.IntRange(4), default=256, show_default=True, help="Training videos.")
@click.option("--val", type=click.IntRange(4), default=64, show_default=True, help="Validation videos.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def synth(folder: str, train: int, val: int, seed: int, as_json: bool) -> None:
    """Make H.264 videos in FOLDER whose class can only be told from their motion."""
    from kineray.data import load_manifest
    from kineray.data.derive.synth import synthesize

    path = synthesize(folder, train=train, val=val, seed=seed)
    _show(load_manifest(str(path)), str(path), as_json)


@data.command(name="import", cls=ImportCommand)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--format", metavar="FORMAT", help="What SOURCE is [default: told by SOURCE].")
@click.option(
    "--out",
    metavar="FILE",
    help="The manifest to write [default: manifest.parquet in or beside the first SOURCE].",
)
@plugin_option
@json_option
def import_(sources: tuple[str, ...], out: str | None, as_json: bool, **options: Any) -> None:
    """Turn SOURCE, a folder of class folders or annotation files, into one manifest.

    Give all the annotation files of a data set at once: kineray data import train.csv val.csv
    """
    from kineray.data import import_dataset, save_manifest
    from kineray.data.importers.base import folder_of
    from kineray.storage import join

    if out and not out.endswith(".parquet"):
        raise ManifestError(f"--out {out}: the name of a manifest must end in .parquet")
    manifest = import_dataset(sources, **options)
    target = out or join(folder_of(sources), "manifest.parquet")
    save_manifest(manifest, target)
    missing = [name for names in manifest.missing.values() for name in names]
    note_first([f"listed but missing: {name}" for name in missing])
    _show(manifest, target, as_json)


@data.command(name="show")
@click.argument("manifest")
@json_option
def show_manifest(manifest: str, as_json: bool) -> None:
    """Print what MANIFEST holds: splits, classes, found and listed clips, flow, subsets, content hash."""
    from kineray.data import load_manifest

    _show(load_manifest(manifest), manifest, as_json)


def _show(manifest: "Manifest", path: str, as_json: bool) -> None:
    from kineray.data.manifest.labels import known_labels

    found = manifest.found
    rows: list[dict[str, Any]] = [
        {
            "split": split,
            "found": found.get(split, 0),
            "listed": listed,
            "groups": len(manifest.split(split).columns.column("group").unique()) if split in found else 0,
        }
        for split, listed in manifest.listed.items()
    ]
    boxes = len(manifest.columns.column("boxes").flatten())
    labelled = {head: int(known_labels(manifest.labels(head)).sum()) for head in manifest.vocabularies}
    flow = len(manifest) - manifest.columns.counts("flow").get("", 0)
    evaluated = {head: len(classes) for head, classes in manifest.evaluated.items()}
    result = {
        "manifest": path,
        "name": manifest.name,
        "hash": manifest.content_hash,
        "splits": rows,
        "classes": {head: list(names) for head, names in manifest.vocabularies.items()},
        "labelled": labelled,
        "subsets": manifest.subsets,
        "boxes": boxes,
        "flow": flow,
        "evaluated": evaluated,
    }
    lines = [f"{path}  {manifest.name}  {manifest.content_hash[:12]}"]
    for head, names in manifest.vocabularies.items():
        line = f"{head}: {len(names)} classes ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        if head in evaluated:
            line += f", {evaluated[head]} of them evaluated"
        if not boxes and labelled[head] < len(manifest):
            line += f"; {labelled[head]} of {len(manifest)} clips have one"
        lines.append(line)
    if boxes:
        lines.append(f"{boxes} boxes of persons")
    if flow:
        lines.append("with optical flow" if flow == len(manifest) else f"{flow} clips have optical flow")
    lines.append(table(rows, ("split", "found", "listed", "groups")))
    if manifest.subsets:
        lines.append("subsets: " + ", ".join(f"{name} {count}" for name, count in manifest.subsets.items()))
    then = [f"kineray data validate {path}"]
    if any(labelled.values()):
        then.append(f"kineray train experiments/slowfast.py data.manifest={path}")
    show(result, "\n".join(lines), as_json=as_json, then=tuple(then))
