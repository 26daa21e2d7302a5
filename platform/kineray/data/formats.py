"""Importers: annotation files and folders of videos -> Manifest.

A clip that an annotation lists but that is not on disk (Kinetics loses some every year) does not enter
the manifest: it is counted in ``Manifest.listed`` and named in ``Manifest.missing``.
"""

import csv
import hashlib
import io
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kineray.data import storage
from kineray.data.manifest import ABSENT, Manifest, Sample
from kineray.errors import ManifestError

logger = logging.getLogger(__name__)

HEAD = "action"
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def from_folders(root: str | Path, *, val_share: float = 0.2) -> Manifest:
    """Import ``<root>/<split>/<class>/<video>`` or ``<root>/<class>/<video>``, local or on S3.

    Without split folders, a share ``val_share`` of every class, picked by a hash of the names and so
    always the same, becomes the split ``val``. Classes are in alphabetical order. Raises ManifestError.
    """
    paths = [path.split("/") for path in storage.list_files(root) if _is_video(path)]
    split_depth = {len(path) for path in paths if path[0].lower() in _SPLITS}
    depths = {len(path) for path in paths}
    if depths == {3} and split_depth == {3} and all(path[0].lower() in _SPLITS for path in paths):
        splits = {"/".join(path): _SPLITS[path[0].lower()] for path in paths}
    elif depths == {2}:
        splits = _held_out(paths, val_share)
    else:
        found = f"found {'/'.join(paths[0])}" if paths else "found no video"
        raise ManifestError(
            f"{root}: expected <split>/<class>/<video> or <class>/<video>"
            f" with splits named train, val or test; {found}"
        )
    classes = sorted({path[-2] for path in paths})
    samples = tuple(
        _sample(
            Path("/".join(path)).with_suffix("").as_posix(),
            storage.join(root, *path),
            classes.index(path[-2]),
            splits["/".join(path)],
        )
        for path in paths
    )
    return Manifest(_base_name(root), samples, {HEAD: tuple(classes)})


def from_kinetics_csv(
    csv_files: str | Path | Sequence[str | Path],
    videos_root: str | Path,
    *,
    class_names: Sequence[str] | None = None,
) -> Manifest:
    """Import Kinetics from its official CSV files and a folder of trimmed clips.

    The columns ``label`` (absent in test files), ``youtube_id``, ``time_start``, ``time_end`` and
    ``split`` are read by name. Clips are called ``<youtube_id>_<start, 6 digits>_<end, 6 digits>`` and lie
    anywhere below ``videos_root``: flat, per split or per class. Class indices follow the alphabetical
    order of the labels, or ``class_names``. Raises ManifestError.
    """
    files = _as_list(csv_files)
    rows = [(file, row) for file in files for row in _csv_rows(file)]
    names = (
        list(class_names) if class_names else sorted({row["label"] for _, row in rows if row.get("label")})
    )
    if not names:
        raise ManifestError(
            f"{files[0]}: no column 'label'; import it with the train CSV, or give the class names"
        )
    index_of = {name: index for index, name in enumerate(names)}
    videos = _by_stem(videos_root)
    samples: list[Sample] = []
    missing: dict[str, list[str]] = defaultdict(list)
    for file, row in rows:
        split = _split_of(row.get("split") or Path(file).stem, file)
        try:
            start, end = (round(float(row[column])) for column in ("time_start", "time_end"))
        except ValueError:
            raise ManifestError(
                f"{file}: {row['youtube_id']}: time_start and time_end must be numbers"
            ) from None
        clip = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        label = row.get("label")
        if label and label not in index_of:
            raise ManifestError(f"{file}: the label '{label}' of {clip} is not one of the class names")
        if clip in videos:
            uri = storage.join(videos_root, videos[clip])
            samples.append(_sample(clip, uri, index_of[label] if label else ABSENT, split, row["youtube_id"]))
        else:
            missing[split].append(clip)
    return _manifest(_base_name(videos_root), samples, names, missing)


def from_path_label_list(
    list_files: str | Path | Sequence[str | Path],
    root: str | Path,
    *,
    class_names: Sequence[str] | None = None,
) -> Manifest:
    """Import PySlowFast's lists: a line is ``path label``, parted by a space, tab or comma; labels from 0.

    Paths are relative to ``root``. The split is the list's name (``train.csv``, ``val.txt``). A line
    without a label is a clip whose class is not known. Without ``class_names`` a class is called by its
    number. Raises ManifestError.
    """
    entries: list[tuple[str, str, int]] = []
    for file in _as_list(list_files):
        split = _split_of(Path(file).stem, file)
        for number, line in enumerate(_text(file).splitlines(), start=1):
            if line.strip():
                entries.append((split, *_path_and_label(line.strip(), f"{file}:{number}")))
    if not entries:
        raise ManifestError(f"{_as_list(list_files)[0]}: the list is empty")
    highest = max(label for _, _, label in entries)
    names = list(class_names) if class_names else [str(index) for index in range(highest + 1)]
    if not names:
        raise ManifestError(f"{_as_list(list_files)[0]}: no labels in the list; give the class names")
    if highest >= len(names):
        raise ManifestError(
            f"{_as_list(list_files)[0]}: label {highest}, but there are {len(names)} class names"
        )
    present = set(storage.list_files(root))
    samples: list[Sample] = []
    missing: dict[str, list[str]] = defaultdict(list)
    for split, path, label in entries:
        relative = path.removeprefix(f"{str(root).rstrip('/')}/").removeprefix("./")
        if relative in present:
            sample_id = Path(relative).with_suffix("").as_posix()
            samples.append(_sample(sample_id, storage.join(root, relative), label, split))
        else:
            missing[split].append(relative)
    return _manifest(_base_name(root), samples, names, missing)


def _manifest(
    name: str, samples: Iterable[Sample], classes: Sequence[str], missing: Mapping[str, Sequence[str]]
) -> Manifest:
    lost = {split: tuple(names) for split, names in missing.items()}
    manifest = Manifest(name, tuple(samples), {HEAD: tuple(classes)}, lost)
    for split, names in lost.items():
        logger.warning("%s: %d of %d listed clips are missing", split, len(names), manifest.listed[split])
    if not manifest.samples:
        first = next(names[0] for names in lost.values())
        raise ManifestError(
            f"{name}: none of the listed clips was found, such as {first}; check the videos' folder"
        )
    return manifest


def _sample(sample_id: str, uri: str, label: int, split: str, group: str | None = None) -> Sample:
    absolute = uri if storage.is_remote(uri) else str(Path(uri).absolute())
    return Sample(sample_id, absolute, 0.0, None, {HEAD: label}, group or sample_id, split)


def _is_video(path: str) -> bool:
    return path.lower().endswith(VIDEO_SUFFIXES)


def _base_name(root: str | Path) -> str:
    return storage.absolute(root).rstrip("/").rpartition("/")[2] or str(root)


def _as_list(files: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [files] if isinstance(files, str | Path) else list(files)


def _text(file: str | Path) -> str:
    try:
        return storage.read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError(f"{file}: not a text file in UTF-8") from None


def _held_out(paths: Sequence[Sequence[str]], val_share: float) -> dict[str, str]:
    by_class: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_class[path[0]].append("/".join(path))
    splits = {}
    for names in by_class.values():
        ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        held_out = max(round(val_share * len(names)), 1) if val_share > 0 and len(names) > 1 else 0
        splits.update({name: "val" if rank < held_out else "train" for rank, name in enumerate(ranked)})
    return splits


def _csv_rows(file: str | Path) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(_text(file), newline=""))
    lacking = {"youtube_id", "time_start", "time_end"} - set(reader.fieldnames or ())
    if lacking:
        raise ManifestError(f"{file}: no column '{min(lacking)}'; expected Kinetics' header line")
    rows = list(reader)
    short = next((number for number, row in enumerate(rows, start=2) if None in row.values()), None)
    if short is not None:
        raise ManifestError(f"{file}:{short}: fewer values than columns")
    return rows


def _by_stem(root: str | Path) -> dict[str, str]:
    """File name without suffix -> path relative to ``root``; of two copies the first by name."""
    paths = [path for path in storage.list_files(root) if _is_video(path)]
    return {Path(path).stem: path for path in reversed(paths)}


def _split_of(text: str, file: str | Path) -> str:
    # "validate" in a CSV; "val", "kinetics-400_val" or "train_list" as the name of a file.
    words = text.lower().replace("-", "_").replace(".", "_").split("_")
    known = [_SPLITS[word] for word in words if word in _SPLITS]
    if not known:
        raise ManifestError(f"{file}: cannot tell the split from '{text}'; expected train, val or test")
    return known[-1]


def _path_and_label(line: str, where: str) -> tuple[str, int]:
    for separator in (",", None):
        path, *rest = line.rsplit(separator, 1)
        if rest and rest[0].strip().lstrip("-").isdigit():
            label = int(rest[0])
            if label < ABSENT:
                raise ManifestError(f"{where}: label {label} is below 0")
            return path.strip(), label
    if _is_video(line):
        return line, ABSENT
    raise ManifestError(f"{where}: expected 'path label', got '{line}'")
