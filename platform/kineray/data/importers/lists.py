"""PySlowFast's lists: a path and a label in each line."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from kineray import storage
from kineray.data.importers.files import (
    HEAD,
    Files,
    a_sample,
    as_list,
    base_name,
    is_video,
    lines_of,
    made_manifest,
    split_of,
    stem,
)
from kineray.data.manifest.labels import ABSENT
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError

_MOST_CLASSES = 1_000_000  # a higher label is an error: no names are made up for so many classes


def from_path_label_list(
    list_files: Files,
    root: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    separator: str | None = None,
) -> Manifest:
    """Import PySlowFast's lists: a line is ``path label``, ``path frames label`` or ``path``; labels from 0.

    The columns are parted by ``separator``, or, without one, by a space, tab or comma. Paths are relative
    to ``root``. The split is the list's name (``train.csv``, ``val.txt``). A line without a label is a clip
    whose class is not known. Without ``class_names`` a class is called by its number. Raises ManifestError.
    """
    first = as_list(list_files)[0]
    entries: list[tuple[str, str, int]] = []
    for file in as_list(list_files):
        split = split_of(stem(str(file)), file)
        for number, line in lines_of(file):
            entries.append((split, *_path_and_label(line, separator, f"{file}:{number}")))
    if not entries:
        raise ManifestError(f"{first}: the list is empty")
    highest = max(label for _, _, label in entries)
    if highest >= _MOST_CLASSES:
        raise ManifestError(f"{first}: label {highest} is too high to be the index of a class")
    names = list(class_names) if class_names else [str(index) for index in range(highest + 1)]
    if not names:
        raise ManifestError(f"{first}: no labels in the list; give the class names")
    if highest >= len(names):
        raise ManifestError(f"{first}: label {highest}, but there are {len(names)} class names")
    present = set(storage.list_files(root))
    missing: dict[str, list[str]] = defaultdict(list)

    def samples() -> Iterator[Sample]:
        for split, path, label in entries:
            relative = path.removeprefix(f"{str(root).rstrip('/')}/").removeprefix("./")
            if relative in present:
                sample_id = Path(relative).with_suffix("").as_posix()
                yield a_sample(sample_id, storage.join(root, relative), label, split)
            else:
                missing[split].append(relative)

    return made_manifest(base_name(root), samples(), {HEAD: names}, missing)


def _path_and_label(line: str, separator: str | None, where: str) -> tuple[str, int]:
    for parting in (separator,) if separator else (",", None):
        columns = [part.strip() for part in line.rsplit(parting, 1)]
        if len(columns) == 2 and _is_number(columns[1]):
            path, label = columns[0], int(columns[1])
            if label < ABSENT:
                raise ManifestError(f"{where}: label {label} is below 0")
            # Of three columns the one in the middle counts frames; a path alone may hold the separator.
            head, *count = [part.strip() for part in path.rsplit(parting, 1)]
            return (head if count and _is_number(count[0]) and is_video(head) else path), label
    if is_video(line):
        return line, ABSENT
    parted = f" parted by '{separator}'" if separator else ""
    raise ManifestError(f"{where}: expected 'path label'{parted}, got '{line[:200]}'")


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()
