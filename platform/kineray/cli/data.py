"""``kineray data synth | import | show``."""

import collections
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.data_tools import split_command, stats_command
from kineray.cli.output import json_option, note, show, table
from kineray.errors import ManifestError

if TYPE_CHECKING:
    from kineray.data import Manifest

_LONGEST_LINE = 65536


@click.group(short_help="Make, import and look at data sets.")
def data() -> None:
    """Manifests: which clips there are, where they lie, and their labels."""


for tool in (stats_command, split_command):
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
    from kineray.data.synth import synthesize

    path = synthesize(folder, train=train, val=val, seed=seed)
    _show(load_manifest(str(path)), str(path), as_json)


@data.command(name="import")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
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
@click.option("--classes", metavar="FILE", help="Class names of a CSV or list, one a line.")
@click.option(
    "--out",
    metavar="FILE",
    help="The manifest to write [default: manifest.parquet in or beside the first SOURCE].",
)
@json_option
def import_(
    sources: tuple[str, ...],
    layout: str | None,
    videos: str | None,
    classes: str | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Turn SOURCE, a folder of class folders or annotation files, into one manifest.

    Give all the annotation files of a data set at once: kineray data import train.csv val.csv
    """
    from kineray.data import formats, save_manifest
    from kineray.data import storage as store

    if out and not out.endswith(".parquet"):
        raise ManifestError(f"--out {out}: the name of a manifest must end in .parquet")
    layout = layout or _layout_of(sources)
    first = Path(sources[0])
    names = _class_names(classes) if classes else None
    if layout == "folders":
        if len(sources) > 1:
            raise ManifestError(f"{sources[1]}: only one folder of class folders makes a manifest")
        if names or videos:
            ignored = "--classes" if names else "--videos"
            raise ManifestError(
                f"{ignored}: {sources[0]} is read as class folders, which say that themselves"
            )
        manifest = formats.from_folders(first)
    else:
        read = formats.from_kinetics_csv if layout == "kinetics-csv" else formats.from_path_label_list
        manifest = read(sources, videos or first.parent, class_names=names)
    target = out or store.join(first if first.is_dir() else first.parent, "manifest.parquet")
    save_manifest(manifest, target)
    missing = [name for names in manifest.missing.values() for name in names]
    for name in missing[:10]:
        note(f"listed but missing: {name}")
    if len(missing) > 10:
        note(f"... and {len(missing) - 10} more")
    _show(manifest, target, as_json)


@data.command(name="show")
@click.argument("manifest")
@json_option
def show_manifest(manifest: str, as_json: bool) -> None:
    """Print what MANIFEST holds: splits, classes, found and listed clips, content hash."""
    from kineray.data import load_manifest

    _show(load_manifest(manifest), manifest, as_json)


def _layout_of(sources: tuple[str, ...]) -> str:
    layouts = {source: _layout(Path(source)) for source in sources}
    for source, layout in layouts.items():
        if layout != layouts[sources[0]]:
            raise ManifestError(
                f"{source}: read as {layout}, but {sources[0]} as {layouts[sources[0]]}; "
                "import them one at a time, or pass --format"
            )
    return layouts[sources[0]]


def _layout(source: Path) -> str:
    if source.is_dir():
        return "folders"
    expected = "pass a folder of class folders, a CSV or a list"
    try:
        with source.open("rb") as file:
            head = file.readline(_LONGEST_LINE).decode("utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(f"{source}: no such file or folder; {expected}") from None
    except OSError as error:
        raise ManifestError(f"{source}: {error.strerror}; {expected}") from None
    except UnicodeDecodeError:
        raise ManifestError(f"{source}: not a text file in UTF-8; {expected}") from None
    if "\0" in head:
        raise ManifestError(f"{source}: not a text file; {expected}")
    return "kinetics-csv" if "youtube_id" in head else "list"


def _class_names(file: str) -> list[str]:
    try:
        names = [line.strip() for line in Path(file).read_text("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise ManifestError(f"--classes {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ManifestError(f"--classes {file}: not a text file in UTF-8") from None
    if not names:
        raise ManifestError(f"--classes {file}: no class names in it; write one a line")
    return names


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
