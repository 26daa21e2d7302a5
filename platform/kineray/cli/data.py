"""``kineray data synth | import | show``."""

import collections
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.output import json_option, note, show, table
from kineray.errors import ManifestError

if TYPE_CHECKING:
    from kineray.data import Manifest


@click.group(short_help="Make, import and look at data sets.")
def data() -> None:
    """Manifests: which clips there are, where they lie, and their labels."""


@data.command()
@click.argument("folder", default="data/motion")
@click.option("--train", type=click.IntRange(4), default=256, show_default=True, help="Training videos.")
@click.option("--val", type=click.IntRange(4), default=64, show_default=True, help="Validation videos.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def synth(folder: str, train: int, val: int, seed: int, as_json: bool) -> None:
    """Make H.264 videos in FOLDER whose class can only be told from their motion."""
    from kineray.data import load_manifest
    from kineray.data.synth import synthesize

    path = synthesize(folder, train=train, val=val, seed=seed)
    _show(load_manifest(str(path)), str(path), as_json)


@data.command(name="import")
@click.argument("source")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["folders", "kinetics-csv", "list"]),
    help="folders: SOURCE/[SPLIT/]CLASS/*.mp4; kinetics-csv: the official CSV; list: lines of 'path label'. "
    "[default: by SOURCE]",
)
@click.option(
    "--videos", metavar="FOLDER", help="Where the videos of a CSV or list lie [default: beside it]."
)
@click.option("--classes", metavar="FILE", help="Class names of a list, one a line.")
@click.option("--out", metavar="FILE", help="The manifest to write [default: manifest.parquet in SOURCE].")
@json_option
def import_(
    source: str, layout: str | None, videos: str | None, classes: str | None, out: str | None, as_json: bool
) -> None:
    """Turn SOURCE, a folder of class folders or an annotation file, into a manifest."""
    from kineray.data import formats, save_manifest

    path = Path(source)
    if not path.exists():
        raise ManifestError(
            f"{source}: no such file or folder; pass a folder of class folders, a CSV or a list"
        )
    root = Path(videos) if videos else (path if path.is_dir() else path.parent)
    layout = layout or (
        "folders" if path.is_dir() else "kinetics-csv" if _is_csv_with_header(path) else "list"
    )
    if layout == "folders":
        manifest = formats.from_folders(path)
    elif layout == "kinetics-csv":
        manifest = formats.from_kinetics_csv(path, root)
    else:
        names = Path(classes).read_text().splitlines() if classes else None
        manifest = formats.from_path_label_list(path, root, class_names=names)
    target = Path(out) if out else (path if path.is_dir() else path.parent) / "manifest.parquet"
    save_manifest(manifest, target)
    missing = [name for names in manifest.missing.values() for name in names]
    for name in missing[:10]:
        note(f"listed but missing: {name}")
    if len(missing) > 10:
        note(f"... and {len(missing) - 10} more")
    _show(manifest, str(target), as_json)


@data.command(name="show")
@click.argument("manifest")
@json_option
def show_manifest(manifest: str, as_json: bool) -> None:
    """Print what MANIFEST holds: splits, classes, found and listed clips, content hash."""
    from kineray.data import load_manifest

    _show(load_manifest(manifest), manifest, as_json)


def _is_csv_with_header(path: Path) -> bool:
    with path.open(encoding="utf-8-sig") as lines:
        return "youtube_id" in lines.readline()


def _show(manifest: "Manifest", path: str, as_json: bool) -> None:
    found = collections.Counter(sample.split for sample in manifest.samples)
    rows: list[dict[str, Any]] = [
        {"split": split, "found": found[split], "listed": listed} for split, listed in manifest.listed.items()
    ]
    result = {
        "manifest": path,
        "name": manifest.name,
        "hash": manifest.content_hash,
        "splits": rows,
        "classes": {task: list(names) for task, names in manifest.vocabularies.items()},
    }
    heads = "; ".join(
        f"{task}: {len(names)} classes ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        for task, names in manifest.vocabularies.items()
    )
    text = "\n".join(
        [
            f"{path}  {manifest.name}  {manifest.content_hash[:12]}",
            heads,
            table(rows, ("split", "found", "listed")),
        ]
    )
    show(result, text, as_json=as_json, then=(f"kineray train experiments/slowfast.py data.manifest={path}",))
