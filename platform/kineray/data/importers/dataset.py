"""Any annotations that kineray knows -> a manifest on disk, in one call."""

from collections.abc import Callable, Sequence
from pathlib import Path

from kineray import storage
from kineray.data import importers
from kineray.data.importers.detect import format_of
from kineray.data.manifest.manifest import FILE_NAME, Manifest, save_manifest
from kineray.data.manifest.summary import ManifestSummary, summary_of
from kineray.errors import ManifestError

FORMATS = (
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
# The parameters that only some formats have.
_PARAMETERS = {
    "videos": tuple(name for name in FORMATS if name != "folders"),
    "frames": ("epic",),
    "flow": ("epic",),
    "classes": ("kinetics-csv", "list", "mini-kinetics"),
    "split": ("ucf101", "hmdb51"),
    "separator": ("list",),
    "offset": ("ava", "ava-kinetics"),
}
_ONE_FOLDER = ("folders", "ucf101", "hmdb51")


def import_dataset(
    sources: str | Path | Sequence[str | Path],
    *,
    format: str | None = None,
    videos: str | None = None,
    frames: str | None = None,
    flow: str | None = None,
    classes: str | Sequence[str] | None = None,
    split: int | None = None,
    separator: str | None = None,
    offset: float | None = None,
    out: str | None = None,
) -> ManifestSummary:
    """Read the annotations of a data set and write them as one manifest.

    ``sources``: a folder of class folders, or all the annotation files of a data set (or their folder).
    ``format``: one of ``FORMATS``; by default the sources tell. ``videos``: folder of the videos, by
    default beside the first source. ``frames``, ``flow``: folders of extracted frames and optical flow
    (epic). ``classes``: class names, or a file with one a line; for mini-kinetics the classes to keep.
    ``split``: 1 to 3 (ucf101, hmdb51). ``separator``: between the columns of a list. ``offset``: seconds
    at which the films were cut (ava). ``out``: the manifest's file, by default manifest.parquet in or
    beside the first source. The summary names in ``missing`` the clips that are listed and not found.

    Raises ManifestError for annotations that cannot be read or a parameter that the format does not
    have, StorageError where a file cannot be read or written.
    """
    given = [str(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
    if not given:
        raise ManifestError("no annotations given", code="no_source", key="sources", remedy="name a file")
    if out is not None and not out.endswith(".parquet"):
        raise not_a_manifest_name("out", out)
    layout = format or format_of(given)
    if layout not in FORMATS:
        known = ", ".join(FORMATS)
        raise ManifestError(
            f"no format '{layout}'", code="unknown_format", key="format", remedy=f"there are {known}"
        )
    if layout in _ONE_FOLDER and len(given) > 1:
        kind = "folder of class folders" if layout == "folders" else f"folder of {layout}'s lists"
        raise ManifestError(
            f"only one {kind} makes a manifest",
            code="too_many_sources",
            key=given[1],
            remedy="import one at a time",
        )
    parameters = {
        "videos": videos,
        "frames": frames,
        "flow": flow,
        "classes": classes,
        "split": split,
        "separator": separator,
        "offset": offset,
    }
    for name, value in parameters.items():
        if value is not None and layout not in _PARAMETERS[name]:
            raise _no_such_parameter(name, given[0], layout)
    beside = _folder_of(given[0])
    if videos is None and frames is None and flow is None:
        videos = beside
    names = _names(classes) if classes is not None and layout != "mini-kinetics" else None
    chosen = _chosen(classes) if classes is not None and layout == "mini-kinetics" else None
    folder = videos or beside
    read: dict[str, Callable[[], Manifest]] = {
        "folders": lambda: importers.from_folders(given[0]),
        "kinetics-csv": lambda: importers.from_kinetics_csv(given, folder, class_names=names),
        "mini-kinetics": lambda: importers.from_mini_kinetics(given, folder, classes=chosen),
        "list": lambda: importers.from_path_label_list(given, folder, class_names=names, separator=separator),
        "ucf101": lambda: importers.from_ucf101(given[0], folder, split=split or 1),
        "hmdb51": lambda: importers.from_hmdb51(given[0], folder, split=split or 1),
        "epic": lambda: importers.from_epic(given, videos=videos, frames=frames, flow=flow),
        "ava": lambda: importers.from_ava(given, folder, offset_s=offset or 0.0),
        "ava-kinetics": lambda: importers.from_ava_kinetics(given, folder, offset_s=offset or 0.0),
    }
    manifest = read[layout]()
    target = out or storage.join(beside, FILE_NAME)
    save_manifest(manifest, target)
    return summary_of(manifest, target)


def not_a_manifest_name(parameter: str, path: str) -> ManifestError:
    """The error for ``path``, given as ``parameter``, which is no name for a manifest."""
    return ManifestError(
        f"{path} is no name for a manifest",
        code="not_a_manifest_name",
        key=parameter,
        remedy=f"give `{parameter}` a name that ends in .parquet",
    )


def _no_such_parameter(name: str, source: str, layout: str) -> ManifestError:
    if layout == "folders" and name in ("classes", "videos"):
        problem = "is not used for class folders, which tell that themselves"
    else:
        problem = f"is only for {' and '.join(_PARAMETERS[name])}"
    return ManifestError(
        f"{problem}, and {source} is read as {layout}",
        code="unused_parameter",
        key=name,
        remedy=f"leave `{name}` out, or name the `format`",
    )


def _folder_of(source: str) -> str:
    """The folder ``source`` itself, or the one that it lies in."""
    is_folder = bool(storage.list_names(source)) if storage.is_remote(source) else Path(source).is_dir()
    return source if is_folder else source.rpartition("/")[0] or "."


def _names(classes: str | Sequence[str]) -> list[str]:
    """Class names as they are given, or the lines of a file."""
    if not isinstance(classes, str):
        return list(classes)
    try:
        text = Path(classes).read_text("utf-8-sig")
    except OSError as error:
        raise ManifestError(
            f"{classes}: {error.strerror}", code="unreadable_file", key="classes", remedy="name a text file"
        ) from None
    except UnicodeDecodeError:
        raise ManifestError(
            f"{classes}: not a text file in UTF-8",
            code="not_text",
            key="classes",
            remedy="name a file with one class a line",
        ) from None
    return _some([line.strip() for line in text.splitlines()], classes)


def _chosen(classes: str | Sequence[str]) -> list[str]:
    """Class names, also parted by commas."""
    if not isinstance(classes, str) or Path(classes).is_file():
        return _names(classes)
    return _some([name.strip() for name in classes.split(",")], classes)


def _some(names: Sequence[str], classes: str) -> list[str]:
    found = [name for name in names if name]
    if not found:
        raise ManifestError(
            f"{classes}: contains no class names",
            code="no_classes",
            key="classes",
            remedy="write one a line",
        )
    return found
