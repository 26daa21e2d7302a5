"""``kineray data synth | import | show``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.data_copies import flow_command, reencode_command
from kineray.cli.data_tools import split_command, stats_command, validate_command
from kineray.cli.output import json_option, note_first, show, table
from kineray.errors import ManifestError

if TYPE_CHECKING:
    from kineray.data import Manifest

_FORMATS = (
    "folders",
    "kinetics-csv",
    "mini-kinetics",
    "list",
    "ucf101",
    "hmdb51",
    "epic",
    "ava",
    "ava-kinetics",
)
# The options of single formats.
_OPTIONS = {
    "videos": tuple(name for name in _FORMATS if name != "folders"),
    "frames": ("epic",),
    "flow": ("epic",),
    "classes": ("kinetics-csv", "list", "mini-kinetics"),
    "split": ("ucf101", "hmdb51"),
    "separator": ("list",),
    "offset": ("ava", "ava-kinetics"),
}


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


@data.command(name="import")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--format", "layout", type=click.Choice(list(_FORMATS)), help="What SOURCE is [default: told by SOURCE]."
)
@click.option("--videos", metavar="FOLDER", help="Where the videos lie [default: beside SOURCE].")
@click.option("--frames", metavar="FOLDER", help="epic: extracted frames, instead of videos.")
@click.option("--flow", metavar="FOLDER", help="epic: extracted optical flow, alone or beside one of these.")
@click.option(
    "--classes",
    metavar="FILE",
    help="Class names of a CSV or list, one a line; mini-kinetics: the classes to keep, in a FILE or as A,B.",
)
@click.option("--split", type=click.IntRange(1, 3), help="ucf101, hmdb51: which of the splits [default: 1].")
@click.option(
    "--separator", metavar="TEXT", help="list: what parts the columns [default: space, tab or comma]."
)
@click.option(
    "--offset",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="ava: where the films were cut, such as 900 [default: 0, whole films].",
)
@click.option(
    "--out",
    metavar="FILE",
    help="The manifest to write [default: manifest.parquet in or beside the first SOURCE].",
)
@json_option
def import_(
    sources: tuple[str, ...], layout: str | None, out: str | None, as_json: bool, **options: Any
) -> None:
    """Turn SOURCE, a folder of class folders or annotation files, into one manifest.

    Give all the annotation files of a data set at once: kineray data import train.csv val.csv

    \b
    folders        SOURCE/[SPLIT/]CLASS/*.mp4
    kinetics-csv   the official CSV files of Kinetics-400, -600 and -700
    mini-kinetics  train_ytid_list.txt, val_ytid_list.txt and the CSV files of Kinetics-400
    list           lines of 'path label' (PySlowFast)
    ucf101         the folder of classInd.txt and trainlist01.txt
    hmdb51         the folder of CLASS_test_split1.txt
    epic           the CSV files of EPIC-KITCHENS-100 or -55, or their folder
    ava            ava_train_v2.2.csv and the .pbtxt with the actions, or their folder
    ava-kinetics   kinetics_train_v1.0.csv and the same .pbtxt, or their folder
    """
    from kineray import storage as store
    from kineray.data import save_manifest
    from kineray.data.importers.detect import format_of

    if out and not out.endswith(".parquet"):
        raise ManifestError(f"--out {out}: the name of a manifest must end in .parquet")
    layout = layout or format_of(sources)
    _refuse_others(layout, sources[0], options)
    remote = store.is_remote(sources[0])
    is_folder = bool(store.list_names(sources[0])) if remote else Path(sources[0]).is_dir()
    beside = sources[0] if is_folder else sources[0].rpartition("/")[0] or "."
    manifest = _read(layout, sources, beside, options)
    target = out or store.join(beside, "manifest.parquet")
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


def _refuse_others(layout: str, source: str, options: dict[str, Any]) -> None:
    """Refuse an option that the format has no use for: it would be ignored."""
    for option, formats in _OPTIONS.items():
        if options[option] is None or layout in formats:
            continue
        if layout == "folders" and option in ("classes", "videos"):
            raise ManifestError(f"--{option}: {source} is read as class folders, which say that themselves")
        raise ManifestError(
            f"--{option}: {source} is read as {layout}, which has no such option; {' and '.join(formats)} has"
        )


def _read(layout: str, sources: tuple[str, ...], beside: str, options: dict[str, Any]) -> "Manifest":
    from kineray.data import importers as formats

    if layout in ("folders", "ucf101", "hmdb51") and len(sources) > 1:
        kind = "folder of class folders" if layout == "folders" else f"folder of {layout}'s lists"
        raise ManifestError(f"{sources[1]}: only one {kind} makes a manifest")
    videos, split, offset = options["videos"] or beside, options["split"] or 1, options["offset"] or 0.0
    classes = options["classes"]
    names = _class_names(classes) if classes and layout != "mini-kinetics" else None
    places = {name: options[name] for name in ("videos", "frames", "flow")}
    if places["frames"] is None and places["flow"] is None:
        places["videos"] = videos
    readers: dict[str, Callable[[], Manifest]] = {
        "folders": lambda: formats.from_folders(sources[0]),
        "kinetics-csv": lambda: formats.from_kinetics_csv(sources, videos, class_names=names),
        "mini-kinetics": lambda: formats.from_mini_kinetics(
            sources, videos, classes=_chosen_classes(classes)
        ),
        "list": lambda: formats.from_path_label_list(
            sources, videos, class_names=names, separator=options["separator"]
        ),
        "ucf101": lambda: formats.from_ucf101(sources[0], videos, split=split),
        "hmdb51": lambda: formats.from_hmdb51(sources[0], videos, split=split),
        "epic": lambda: formats.from_epic(sources, **places),
        "ava": lambda: formats.from_ava(sources, videos, offset_s=offset),
        "ava-kinetics": lambda: formats.from_ava_kinetics(sources, videos, offset_s=offset),
    }
    return readers[layout]()


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


def _chosen_classes(classes: str | None) -> list[str] | None:
    """The lines of a file, or names parted by commas."""
    if classes is None:
        return None
    if Path(classes).is_file():
        return _class_names(classes)
    names = [name.strip() for name in classes.split(",") if name.strip()]
    if not names:
        raise ManifestError(f"--classes {classes}: no class names in it; write them as A,B")
    return names


def _show(manifest: "Manifest", path: str, as_json: bool) -> None:
    from kineray.data.manifest.labels import ABSENT

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
    labelled = {head: int((manifest.labels(head) != ABSENT).sum()) for head in manifest.vocabularies}
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
