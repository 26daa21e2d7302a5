"""What the importers share: reading annotation files, finding videos, counting missing clips."""

import csv
import io
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from kineray import storage
from kineray.data.importers.videos import is_hidden
from kineray.data.manifest.labels import Label
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.names import composed
from kineray.data.manifest.samples import Sample, Samples
from kineray.errors import ManifestError

logger = logging.getLogger(__name__)

HEAD = "action"
_LINE_END = re.compile(r"\r\n?|\n")
_LONGEST_LINE = 65536  # characters
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

Files = str | Path | Sequence[str | Path]


def made_manifest(
    name: str,
    samples: Iterable[Sample],
    vocabularies: Mapping[str, Sequence[str]],
    missing: Mapping[str, Sequence[str]],
    evaluated: Mapping[str, Sequence[int]] | None = None,
    multi_label: Collection[str] = (),
) -> Manifest:
    """The manifest of an import. Logs how many clips are missing; raises ManifestError if all of them are.

    ``missing`` is read after ``samples``, so it may grow while the samples are made.
    """
    columns = Samples.of(samples, list(vocabularies), name, multi_label)
    lost = {split: tuple(names) for split, names in missing.items() if names}
    subset = {head: tuple(indices) for head, indices in (evaluated or {}).items() if indices}
    classes = {head: tuple(names) for head, names in vocabularies.items()}
    manifest = Manifest(name, columns, classes, lost, subset)
    if not len(manifest):
        first = next((names[0] for names in lost.values()), None)
        raise ManifestError(
            f"none of the listed clips was found, such as {first}" if first else "no clip is listed",
            code="not_found" if first else "empty",
            key=name,
            remedy="check the folder of the videos" if first else "check the annotations",
        )
    for split, names in lost.items():
        logger.warning("%s: %d of %d listed clips are missing", split, len(names), manifest.listed[split])
    return manifest


def a_sample(sample_id: str, uri: str, label: Label, split: str, group: str | None = None) -> Sample:
    """The sample of a whole video with its label."""
    return Sample(sample_id, storage.absolute(uri), 0.0, None, {HEAD: label}, group or sample_id, split)


def base_name(root: str | Path) -> str:
    """The last part of a path; for ``.`` the name of the current folder."""
    return storage.absolute(root).rstrip("/").rpartition("/")[2] or str(root)


def file_name(file: str | Path) -> str:
    """The last part of the path of an annotation file."""
    return str(file).rstrip("/").rpartition("/")[2]


def stem(path: str) -> str:
    """A path's file name without its suffix."""
    return Path(path).stem


def as_list(files: Files) -> list[str | Path]:
    """One file or many, as a list."""
    return [files] if isinstance(files, str | Path) else list(files)


def files_of(sources: Files) -> list[str]:
    """Annotation files: those named in ``sources``, and all that lie directly in a folder named there."""
    found = []
    for source in as_list(sources):
        names = visible_names(source)
        found += [storage.join(source, name) for name in names] if names else [str(source)]
    return found


def visible_names(folder: str | Path) -> list[str]:
    """Names of the files and folders directly in ``folder``, without hidden ones such as ``._train.csv``."""
    return [name for name in storage.list_names(folder) if not is_hidden(name)]


def beside(files: Iterable[str]) -> list[str]:
    """All files that lie directly in the folders of ``files``."""
    return files_of(sorted({file.rpartition("/")[0] or "." for file in files}))


def text_of(file: str | Path) -> str:
    """The text of an annotation file, without a byte order mark. Raises ManifestError, StorageError."""
    data = storage.read_bytes(file)
    try:
        return composed(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ManifestError(
            f"not a text file in UTF-8 (line {line})", code="not_text", key=file, remedy="save it as UTF-8"
        ) from None


def lines_of(file: str | Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank: (``train.txt:17``, the text without white space around it).

    Raises ManifestError for a line that is too long to be one of a list.
    """
    for number, line in enumerate(_LINE_END.split(text_of(file)), start=1):
        if len(line) > _LONGEST_LINE:
            raise ManifestError(f"a line of {len(line)} characters", code="bad_line", key=f"{file}:{number}")
        if line.strip():
            yield f"{file}:{number}", line.strip()


def csv_lines(file: str | Path) -> Iterator[tuple[str, list[str]]]:
    """The rows of a CSV file that are not blank: (``train.csv:17``, the values). Raises ManifestError."""
    lines = io.StringIO(text_of(file), newline="").readlines()
    reader = csv.reader(lines)
    while True:
        line = reader.line_num
        try:
            row = next(reader, None)
            if row and (reader.line_num > line + 1 or reader.line_num == len(lines)):
                # A row of several lines, or to the end, may have a quotation mark that is never closed.
                next(csv.reader(lines[line : reader.line_num], strict=True))
        except csv.Error as error:
            raise ManifestError(
                f"not CSV ({error})",
                code="bad_line",
                key=f"{file}:{line + 1}",
                remedy="see whether a quotation mark is never closed",
            ) from None
        if row is None:
            return
        if row:
            yield f"{file}:{line + 1}", row


def csv_rows(file: str | Path, columns: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file below its header: (``train.csv:17``, value by column name).

    ``columns``: those that must be there, in any order. Raises ManifestError.
    """
    lines = csv_lines(file)
    _, header = next(lines, ("", []))
    needed = list(columns)
    lacking = [column for column in needed if column not in header]
    if lacking:
        raise ManifestError(
            f"no column '{lacking[0]}'",
            code="missing_column",
            key=file,
            remedy=f"the first line must name the columns {', '.join(needed)}",
        )
    for where, row in lines:
        if len(row) < len(header) or any(row[len(header) :]):
            raise ManifestError(
                f"{len(row)} values in {len(header)} columns",
                code="bad_line",
                key=where,
                remedy="put values that contain a comma between quotation marks",
            )
        yield where, dict(zip(header, row, strict=False))


def split_of(text: str, file: str | Path) -> str:
    """The split that a word or a file's name means. Raises ManifestError if it names none or several."""
    # "validate" in a CSV; "val", "kinetics-400_val" or "train_list" as the name of a file.
    words = re.findall("[a-z]+", text.lower())
    known = list(dict.fromkeys(SPLITS[word] for word in words if word in SPLITS))
    if len(known) != 1:
        problem = f"names several splits, {' and '.join(known)}" if known else "names no split"
        raise ManifestError(
            f"'{text[:80]}' {problem}", code="unknown_value", key=file, remedy="name it train, val or test"
        )
    return known[0]


def class_names(value: object) -> object:
    """Class names from a file that holds one a line, or from text such as ``A,B``; other values unchanged.

    Text without a comma is a file: one class alone is ``A,``. Raises ManifestError for a file that cannot be
    read, and if there are no names.
    """
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if Path(text).is_file():
        names = [line for _, line in lines_of(text)]
    elif "," in text and Path(text).suffix not in (".txt", ".csv"):
        names = [name.strip() for name in text.split(",") if name.strip()]
    else:
        raise ManifestError(
            "no such file",
            code="not_found",
            key="classes",
            value=text,
            remedy="name a file with one class a line, or put a comma after each class, as in run,jump,",
        )
    if not names:
        raise ManifestError("no class names in it", code="empty", key="classes", value=text)
    return names
