"""Lists of a path and its label, or several labels, in each line, as PySlowFast and TSN read them."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from kineray import storage
from kineray.data.importers.base import Classes, Importer, Source, Videos, folder_of
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
from kineray.data.manifest.labels import ABSENT, Label
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError

_MOST_CLASSES = 1_000_000  # a higher label is an error: no names are made up for so many classes

Columns: TypeAlias = Literal["label", "frames_label", "labels"]


class ListImporter(Importer, type="list"):
    """Lines of 'path label' (PySlowFast), or what columns says: ``from_list``."""

    fallback: ClassVar[bool] = True

    videos: Videos = ""
    classes: Classes = ()
    separator: Annotated[
        str, Field(description="What parts the columns [default: a space, tab or comma].")
    ] = ""
    columns: Annotated[
        Columns,
        Field(description="What follows the path: a label; a number of frames and a label; several labels."),
    ] = "label"

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """Every text file."""
        return not any(source.is_folder for source in sources) and all(s.first_line for s in sources)

    def read(self, sources: Sequence[str]) -> Manifest:
        """All the lists."""
        return from_list(
            sources,
            self.videos or folder_of(sources),
            class_names=self.classes,
            separator=self.separator or None,
            columns=self.columns,
        )


def from_list(
    list_files: Files,
    root: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    separator: str | None = None,
    columns: Columns = "label",
) -> Manifest:
    """Import lists whose lines are a path and a label, counted from 0.

    ``columns``: what follows the path. label: one class (PySlowFast); frames_label: the number of frames,
    which is not used, and one class (TSN); labels: any number of classes, so that the head is multi-label.
    A line of two numbers or more is refused unless ``columns`` says what they are. A line of a path alone is
    a clip whose class is not known.

    The columns are separated by ``separator``, or, without one, by a space, tab or comma. Paths are relative
    to ``root``. The split is the list's name (``train.csv``, ``val.txt``). Without ``class_names`` a class is
    called by its number. Raises ManifestError.
    """
    first = as_list(list_files)[0]
    entries: list[tuple[str, str, Label]] = []
    for file in as_list(list_files):
        split = split_of(stem(str(file)), file)
        for number, line in lines_of(file):
            entries.append((split, *_path_and_label(line, separator, columns, f"{file}:{number}")))
    if not entries:
        raise ManifestError("the list is empty", code="empty", key=first)
    highest = max((index for *_, label in entries for index in _indices(label)), default=ABSENT)
    if highest >= _MOST_CLASSES:
        raise ManifestError(
            f"label {highest} is too high to be the index of a class", code="label_out_of_range", key=first
        )
    names = list(class_names) if class_names else [str(index) for index in range(highest + 1)]
    if not names:
        raise ManifestError(
            "no labels in the list", code="no_labels", key=first, remedy="give the names of the `classes`"
        )
    if highest >= len(names):
        raise ManifestError(
            f"label {highest}, but there are {len(names)} class names", code="label_out_of_range", key=first
        )
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

    multi_label = (HEAD,) if columns == "labels" else ()
    return made_manifest(base_name(root), samples(), {HEAD: names}, missing, multi_label=multi_label)


def _indices(label: Label) -> tuple[int, ...]:
    return (label,) if isinstance(label, int) else label or ()


def _path_and_label(line: str, separator: str | None, columns: Columns, where: str) -> tuple[str, Label]:
    path, numbers = _parted(line, separator, columns)
    if not numbers:
        if not is_video(line):
            raise ManifestError(
                f"expected 'path label'{f' parted by {separator!r}' if separator else ''},"
                f" got '{line[:200]}'",
                code="bad_line",
                key=where,
            )
        return line, None if columns == "labels" else ABSENT
    negative = next((number for number in numbers if number < (0 if columns == "labels" else ABSENT)), None)
    if negative is not None:
        raise ManifestError(f"label {negative} is below 0", code="label_out_of_range", key=where)
    if columns == "labels":
        return path, tuple(numbers)
    wanted = 2 if columns == "frames_label" else 1
    if len(numbers) != wanted:
        raise ManifestError(
            f"{len(numbers)} numbers follow the path in '{line[:200]}'",
            code="unclear_columns",
            key=where,
            remedy="set `columns` to labels (several classes), frames_label (the number of frames and one"
            " class) or label",
        )
    return path, numbers[-1]


def _parted(line: str, separator: str | None, columns: Columns) -> tuple[str, list[int]]:
    """The path of a line, and the numbers that follow it."""
    between = re.escape(separator) if separator else "[,\\s]"
    found = re.fullmatch(rf"(.*?)((?:\s*{between}\s*-?[0-9]+)+)", line)
    if found is None:
        return line, []
    path, numbers = found[1].rstrip(), [int(number) for number in re.findall(r"-?[0-9]+", found[2])]
    if columns == "label" and len(numbers) > 1 and not is_video(path):
        # A path without a suffix may itself end in numbers.
        last = re.fullmatch(rf"(.*\S)\s*{between}\s*-?[0-9]+", line)
        return (last[1] if last else path), numbers[-1:]
    return path, numbers
