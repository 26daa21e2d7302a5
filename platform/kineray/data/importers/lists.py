"""Lists with a path and its label, or several labels, in each line, as PySlowFast and TSN read them."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from kineray import storage
from kineray.data.importers.base import Classes, GroupBy, Importer, Source, Videos, folder_of
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
from kineray.data.importers.listed import Listed
from kineray.data.importers.videos import sample_ids, video_groups, warn_of_leaks
from kineray.data.manifest.labels import ABSENT, Label
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.names import composed
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError, StorageError
from kineray.video.suffixes import is_video_name

_MAX_CLASSES = 1_000_000  # a higher label is an error; names are not generated for this many classes
_MAX_DIGITS = 18  # of a label; more are no index of anything
_DIGITS, _SPACE = "0123456789", " \t\r\n\f\v"

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
    group_by: GroupBy = ""

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
            group_by=self.group_by,
        )


def from_list(
    list_files: Files,
    root: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    separator: str | None = None,
    columns: Columns = "label",
    group_by: str = "",
) -> Manifest:
    """Import lists whose lines are a path and a label, which counts from 0.

    ``columns``: what follows the path. label: one class (PySlowFast); frames_label: the number of frames,
    which is ignored, and one class (TSN); labels: any number of classes, which make the head multi-label.
    A line with two or more numbers is refused unless ``columns`` says what they are. A line with nothing
    but a path is a clip whose class is not known.

    The columns are separated by ``separator``, or by default by a space, tab or comma. Paths are absolute, or
    relative to ``root``. The name of a list gives the split (``train.csv``, ``val.txt``). Lines that repeat
    another one are left out and counted in the log; those with another label or split than before are
    refused. Without ``class_names``, classes are named by their numbers. ``group_by``: a regular expression
    that finds the group in a path; without it, every video is one. Raises ManifestError.
    """
    entries = list(_entries(list_files, root, separator, columns))
    names = list(class_names or ()) or [str(index) for index in range(_count_classes(entries))]
    first = as_list(list_files)[0]
    if not entries:
        raise ManifestError("the list is empty", code="empty", key=first)
    if not names:
        raise ManifestError(
            "no labels in the list", code="no_labels", key=first, remedy="give the names of the `classes`"
        )
    _check_labels(entries, len(names))
    found, names_of = _found(entries, root), _names(entries, root)
    ids = sample_ids(list(names_of.values()))
    groups = video_groups(list(names_of.values()), group_by)
    missing: dict[str, list[str]] = defaultdict(list)

    def samples() -> Iterator[Sample]:
        for entry in entries:
            if entry.uri in found:
                name = names_of[entry.uri]
                yield a_sample(ids[name], found[entry.uri], entry.label, entry.split, groups[name])
            else:
                missing[entry.split].append(_below(entry.uri, root) or entry.uri)

    multi_label = (HEAD,) if columns == "labels" else ()
    made = made_manifest(base_name(root), samples(), {HEAD: names}, missing, multi_label=multi_label)
    warn_of_leaks(made)
    return made


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of a list. ``where``: file and line; ``uri``: absolute."""

    where: str
    uri: str
    label: Label
    split: str

    @property
    def indices(self) -> tuple[int, ...]:
        return (self.label,) if isinstance(self.label, int) else self.label or ()


def _entries(
    list_files: Files, root: str | Path, separator: str | None, columns: Columns
) -> Iterator[_Entry]:
    """The lines of the lists, without repetitions."""
    listed = Listed()
    for file in as_list(list_files):
        split = split_of(stem(str(file)), file)
        for where, line in lines_of(file):
            path, label = _path_and_label(line, separator, columns, where)
            entry = _Entry(where, _uri(path, root, where), label, split)
            if listed.is_new(entry.uri, where, set(entry.indices), split):
                yield entry
    listed.log()


def _uri(path: str, root: str | Path, where: str) -> str:
    """The absolute URI of a listed path, which may also begin with ``root``."""
    try:
        if storage.is_remote(path):
            return path
    except StorageError as error:
        raise ManifestError(error.problem, code=error.code, key=where, remedy=error.remedy) from None
    path = path.removeprefix(f"{str(root).rstrip('/')}/")
    if storage.is_remote(root) and not path.startswith("/"):
        return storage.join(root, path.removeprefix("./"))
    return os.path.normpath(path if path.startswith("/") else storage.absolute(Path(root, path)))


def _below(uri: str, root: str | Path) -> str:
    """``uri`` relative to ``root``; "" if it is not below it."""
    folder = os.path.normpath(storage.absolute(root)) if not storage.is_remote(root) else str(root)
    folder = f"{folder.rstrip('/')}/"
    return uri.removeprefix(folder) if uri.startswith(folder) else ""


def _found(entries: Sequence[_Entry], root: str | Path) -> dict[str, str]:
    """Listed URI -> that of the file, which may be named in decomposed characters."""
    below = {composed(path): storage.absolute(storage.join(root, path)) for path in storage.list_files(root)}
    found: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    for entry in entries:
        path = _below(entry.uri, root)
        if path in below:
            found[entry.uri] = below[path]
        elif not path:
            elsewhere |= {entry.uri: entry.uri, unicodedata.normalize("NFD", entry.uri): entry.uri}
    sizes = storage.file_sizes(elsewhere)
    return found | {listed: uri for uri, listed in elsewhere.items() if uri in sizes}


def _names(entries: Sequence[_Entry], root: str | Path) -> dict[str, str]:
    """Listed URI -> the path below ``root``, or for other files below the folder that they share."""
    names = {entry.uri: _below(entry.uri, root) for entry in entries}
    elsewhere = {uri: uri.split("/")[:-1] for uri, name in names.items() if not name}
    first, last = (choose(elsewhere.values(), default=[]) for choose in (min, max))
    # What the first and the last in order have in common, all have.
    shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    for uri in elsewhere:
        names[uri] = "/".join(uri.split("/")[shared:])
    is_unique = len(set(names.values())) == len(names)
    return names if is_unique else {uri: uri.lstrip("/") for uri in names}


def _count_classes(entries: Sequence[_Entry]) -> int:
    """The highest label + 1. Raises ManifestError if it is too high."""
    highest = max(entries, key=lambda entry: max(entry.indices, default=ABSENT), default=None)
    label = max(highest.indices, default=ABSENT) if highest else ABSENT
    if highest and label >= _MAX_CLASSES:
        raise ManifestError(
            f"label {label} is too high to be the index of a class", code="out_of_range", key=highest.where
        )
    return label + 1


def _check_labels(entries: Sequence[_Entry], classes: int) -> None:
    for entry in entries:
        label = max(entry.indices, default=ABSENT)
        if label >= classes:
            raise ManifestError(
                f"label {label}, but there are {classes} class names",
                code="out_of_range",
                key=entry.where,
                remedy="labels count from 0; give a name for each of the `classes`",
            )


def _path_and_label(line: str, separator: str | None, columns: Columns, where: str) -> tuple[str, Label]:
    path, numbers = _split_line(line, separator, columns)
    if not path or (not numbers and not is_video_name(_unquoted(line))):
        raise ManifestError(
            f"expected 'path label', got '{line[:200]}'",
            code="bad_line",
            key=where,
            remedy=f"separate them by {separator!r}" if separator else "",
        )
    if not numbers:
        return _unquoted(line), None if columns == "labels" else ABSENT
    negative = next((number for number in numbers if number < (0 if columns == "labels" else ABSENT)), None)
    if negative is not None:
        raise ManifestError(f"label {negative} is below 0", code="out_of_range", key=where)
    if columns == "labels":
        return _unquoted(path), tuple(numbers)
    expected = 2 if columns == "frames_label" else 1
    if len(numbers) != expected:
        raise ManifestError(
            f"{len(numbers)} numbers follow the path in '{line[:200]}'",
            code="unclear_columns",
            key=where,
            remedy="set `columns` to labels (several classes), frames_label (the number of frames and one"
            " class) or label",
        )
    return _unquoted(path), numbers[-1]


def _unquoted(path: str) -> str:
    """A path without the quotation marks of CSV around it."""
    is_quoted = len(path) > 1 and path[0] == path[-1] == '"'
    return path[1:-1].replace('""', '"') if is_quoted else path


def _split_line(line: str, separator: str | None, columns: Columns) -> tuple[str, list[int]]:
    """The path of a line, and the numbers that follow it."""
    path, numbers = line, list[int]()
    while (found := _last_number(path, separator)) is not None:
        path, number = found
        numbers.append(number)
    if columns == "label" and len(numbers) > 1 and not is_video_name(_unquoted(path)):
        # A path without a suffix may end in numbers that belong to it.
        path, number = _last_number(line, separator) or (path, numbers[0])
        return path, [number]
    return path, numbers[::-1]


def _last_number(text: str, separator: str | None) -> tuple[str, int] | None:
    """``a.mp4 1 3`` -> (``a.mp4 1``, 3); None unless ``text`` ends in a separator and a number."""
    digits = text[len(text.rstrip(_DIGITS)) :][-_MAX_DIGITS:]
    before = text.removesuffix(digits)
    sign = "-" if before.endswith("-") else ""
    before = before.removesuffix(sign)
    rest = before.rstrip(f"{separator or ','}{_SPACE}")
    between = before[len(rest) :]
    if not digits or not (separator in between if separator else between):
        return None
    return rest, int(sign + digits)
