"""Lists with a path and its label, or several labels, in each line, as PySlowFast and TSN read them."""

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
    lines_of,
    made_manifest,
    split_of,
    stem,
)
from kineray.data.manifest.labels import ABSENT, Label
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError
from kineray.video.suffixes import is_video_name

_MAX_CLASSES = 1_000_000  # a higher label is an error; names are not generated for this many classes

Columns: TypeAlias = Literal["label", "frames_label", "labels"]


class ListImporter(Importer, type="list"):
    """Lists with lines 'path label' (PySlowFast), or as set by columns: ``from_list``."""

    fallback: ClassVar[bool] = True

    videos: Videos = ""
    classes: Classes = ()
    separator: Annotated[
        str, Field(description="What separates the columns [default: a space, tab or comma].")
    ] = ""
    columns: Annotated[
        Columns,
        Field(description="What follows the path: a label; a number of frames and a label; several labels."),
    ] = "label"

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """Every text file that does not begin with a blank line."""
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
    """Import lists whose lines are a path and a label, which counts from 0.

    ``columns``: what follows the path. label: one class (PySlowFast); frames_label: the number of frames,
    which is ignored, and one class (TSN); labels: any number of classes, which make the head multi-label.
    A line with two or more numbers is refused unless ``columns`` says what they are. A line with nothing
    but a path is a clip whose class is not known.

    The columns are separated by ``separator``, or by default by a space, tab or comma. Paths are relative to
    ``root``. The name of a list gives the split (``train.csv``, ``val.txt``). Without ``class_names``,
    classes are named by their numbers. Raises ManifestError.
    """
    first = as_list(list_files)[0]
    entries: list[tuple[str, str, Label]] = []
    highest, where_highest = ABSENT, str(first)
    for file in as_list(list_files):
        split = split_of(stem(str(file)), file)
        for where, line in lines_of(file):
            path, label = _path_and_label(line, separator, columns, where)
            highest_here = max(_indices(label), default=ABSENT)
            if highest_here > highest:
                highest, where_highest = highest_here, where
            entries.append((split, path, label))
    if not entries:
        raise ManifestError("the list is empty", code="empty", key=first)
    if highest >= _MAX_CLASSES:
        raise ManifestError(
            f"label {highest} is too high to be the index of a class", code="out_of_range", key=where_highest
        )
    names = list(class_names) if class_names else [str(index) for index in range(highest + 1)]
    if not names:
        raise ManifestError(
            "no labels in the list", code="no_labels", key=first, remedy="give the names of the `classes`"
        )
    if highest >= len(names):
        raise ManifestError(
            f"label {highest}, but there are {len(names)} class names",
            code="out_of_range",
            key=where_highest,
            remedy="labels count from 0; give a name for each of the `classes`",
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
    path, numbers = _split_line(line, separator, columns)
    if not numbers:
        if not is_video_name(line):
            raise ManifestError(
                f"expected 'path label', got '{line[:200]}'",
                code="bad_line",
                key=where,
                remedy=f"separate them by {separator!r}" if separator else "",
            )
        return line, None if columns == "labels" else ABSENT
    negative = next((number for number in numbers if number < (0 if columns == "labels" else ABSENT)), None)
    if negative is not None:
        raise ManifestError(f"label {negative} is below 0", code="out_of_range", key=where)
    if columns == "labels":
        return path, tuple(numbers)
    expected = 2 if columns == "frames_label" else 1
    if len(numbers) != expected:
        raise ManifestError(
            f"{len(numbers)} numbers follow the path in '{line[:200]}'",
            code="unclear_columns",
            key=where,
            remedy="set `columns` to labels (several classes), frames_label (the number of frames and one"
            " class) or label",
        )
    return path, numbers[-1]


def _split_line(line: str, separator: str | None, columns: Columns) -> tuple[str, list[int]]:
    """The path of a line, and the numbers that follow it."""
    between = re.escape(separator) if separator else "[,\\s]"
    found = re.fullmatch(rf"(.*?)((?:\s*{between}\s*-?[0-9]+)+)", line)
    if found is None:
        return line, []
    path, numbers = found[1].rstrip(), [int(number) for number in re.findall(r"-?[0-9]+", found[2])]
    if columns == "label" and len(numbers) > 1 and not is_video_name(path):
        # A path without a suffix may end in numbers that belong to it.
        last = re.fullmatch(rf"(.*\S)\s*{between}\s*-?[0-9]+", line)
        return (last[1] if last else path), numbers[-1:]
    return path, numbers
