"""What the importers share: reading annotation files, finding videos, counting what is missing."""

import csv
import io
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from kineray import storage
from kineray.data.manifest.labels import Label
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample, Samples
from kineray.errors import ManifestError

logger = logging.getLogger(__name__)

HEAD = "action"
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
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
    """The manifest of an import. Says how much is missing; raises ManifestError if that is everything.

    ``missing`` is read after ``samples``, so that it may grow while those are made.
    """
    columns = Samples.of(samples, list(vocabularies), name, multi_label)
    lost = {split: tuple(names) for split, names in missing.items() if names}
    chosen = {head: tuple(indices) for head, indices in (evaluated or {}).items() if indices}
    classes = {head: tuple(names) for head, names in vocabularies.items()}
    manifest = Manifest(name, columns, classes, lost, chosen)
    if not len(manifest):
        first = next((names[0] for names in lost.values()), None)
        such = f"none of the listed clips was found, such as {first}" if first else "no clip is listed"
        raise ManifestError(f"{name}: {such}; check the videos' folder")
    for split, names in lost.items():
        logger.warning("%s: %d of %d listed clips are missing", split, len(names), manifest.listed[split])
    return manifest


def a_sample(sample_id: str, uri: str, label: Label, split: str, group: str | None = None) -> Sample:
    """A whole video with its label."""
    return Sample(sample_id, storage.absolute(uri), 0.0, None, {HEAD: label}, group or sample_id, split)


def is_video(path: str) -> bool:
    """Whether a name has a video's suffix."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def base_name(root: str | Path) -> str:
    """The last part of a path, also of ``.``."""
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
        names = storage.list_names(source)
        found += [storage.join(source, name) for name in names] if names else [str(source)]
    return found


def beside(files: Iterable[str]) -> list[str]:
    """All files that lie directly in the folders of ``files``."""
    return files_of(sorted({file.rpartition("/")[0] or "." for file in files}))


def text_of(file: str | Path) -> str:
    """The text of an annotation file, without a byte order mark. Raises ManifestError, StorageError."""
    try:
        return storage.read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError(f"{file}: not a text file in UTF-8") from None


def lines_of(file: str | Path) -> Iterator[tuple[int, str]]:
    """(line number, text without white space around it) of the lines that are not blank."""
    for number, line in enumerate(text_of(file).splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def csv_rows(file: str | Path, columns: Iterable[str], expected: str) -> Iterator[dict[str, str]]:
    """Rows by column name, whatever the order of the columns. Raises ManifestError.

    ``columns`` must be there; ``expected`` says in the error what the header should be.
    """
    reader = csv.DictReader(io.StringIO(text_of(file), newline=""))
    lacking = set(columns) - set(reader.fieldnames or ())
    if lacking:
        raise ManifestError(f"{file}: no column '{min(lacking)}'; expected {expected}")
    for row in reader:
        if None in row.values():
            raise ManifestError(f"{file}:{reader.line_num}: fewer values than columns")
        yield row


def by_stem(root: str | Path) -> dict[str, str]:
    """File name without suffix -> path relative to ``root``; of two copies the first by name."""
    paths = [path for path in storage.list_files(root) if is_video(path)]
    return {stem(path): path for path in reversed(paths)}


def split_of(text: str, file: str | Path) -> str:
    """The split that a word or a file's name means. Raises ManifestError."""
    # "validate" in a CSV; "val", "kinetics-400_val" or "train_list" as the name of a file.
    words = text.lower().replace("-", "_").replace(".", "_").split("_")
    known = [SPLITS[word] for word in words if word in SPLITS]
    if not known:
        raise ManifestError(f"{file}: cannot tell the split from '{text}'; expected train, val or test")
    return known[-1]


def class_names(value: object) -> object:
    """Names of classes from a list file, one a line, or from text as ``A,B``; any other value as it is.

    Raises ValueError for a file that cannot be read or is empty.
    """
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if Path(text).is_file():
        try:
            lines = Path(text).read_text("utf-8-sig").splitlines()
        except OSError as error:
            raise ValueError(f"{text}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{text}: not a text file in UTF-8") from None
        names = [line.strip() for line in lines if line.strip()]
    elif "/" in text or Path(text).suffix in (".txt", ".csv"):
        raise ValueError(f"{text}: no such file")
    else:
        names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"{text}: no class names in it")
    return names
