"""Which importer reads what a person names."""

import re
from collections.abc import Sequence
from pathlib import Path

from kineray import storage
from kineray.data.importers.epic import SEGMENT_FILES
from kineray.data.importers.files import file_name
from kineray.data.importers.kinetics import YOUTUBE_ID
from kineray.errors import ManifestError

_EXPECTED = "pass a folder of class folders, a CSV or a list"
_LONGEST_LINE = 65536
# Folders are told by the files in them; what fits nothing is a folder of class folders.
_FOLDERS = (
    ("ucf101", re.compile(r"classInd\.txt")),
    ("hmdb51", re.compile(r".+_test_split\d\.txt")),
    ("epic", re.compile("|".join(map(re.escape, SEGMENT_FILES)))),
    ("ava-kinetics", re.compile(r"kinetics_(train|val|test)_v\d.*\.csv")),
    ("ava", re.compile(r"ava_(train|val|test)_v\d.*\.csv")),
    ("mini-kinetics", re.compile(r"(train|val)_ytid_list\.txt")),
)
# Formats that come in several kinds of files.
_TOGETHER = {
    frozenset({"mini-kinetics", "kinetics-csv"}): "mini-kinetics",
    frozenset({"ava", "ava-kinetics"}): "ava-kinetics",
}
_ONE_OF_MANY = re.compile(r"(train|test)list0[1-3]\.txt|.+_test_split[1-3]\.txt")


def format_of(sources: Sequence[str]) -> str:
    """The format of files that are given together, or of a folder. Raises ManifestError where unclear."""
    known = {source: layout for source in sources if (layout := _format(source))}
    if not known:
        raise ManifestError(f"{sources[0]}: says nothing of clips; give the annotations too")
    layouts = frozenset(known.values())
    if layouts in _TOGETHER:
        return _TOGETHER[layouts]
    first = next(iter(known))
    for source, layout in known.items():
        if layout != known[first]:
            raise ManifestError(
                f"{source}: read as {layout}, but {first} as {known[first]}; "
                "import them one at a time, or pass --format"
            )
    return known[first]


def _format(source: str) -> str | None:
    """None for a file that only goes along with others."""
    names = storage.list_names(source)
    if names or (not storage.is_remote(source) and Path(source).is_dir()):
        return next(
            (name for name, pattern in _FOLDERS if any(map(pattern.fullmatch, names))),
            "folders",
        )
    name = file_name(source)
    if name.endswith(".pbtxt") or ".pbtxt." in name or "excluded_timestamps" in name:
        return None
    if _ONE_OF_MANY.fullmatch(name):
        raise ManifestError(
            f"{source}: one of the lists of UCF-101 or HMDB51; pass the folder that holds them"
        )
    line = _first_line(source)
    columns = set(line.split(","))
    if "youtube_id" in line:
        return "kinetics-csv"
    if "narration_id" in columns or {"uid", "start_frame"} <= columns:
        return "epic"
    if re.fullmatch(r"[^,]+,[\d.]+(,-?[\d.]+){4},\d*(,[^,]*)?", line) or re.match(r"(ava|kinetics)_", name):
        return "ava-kinetics" if name.startswith("kinetics_") else "ava"
    return "mini-kinetics" if YOUTUBE_ID.fullmatch(line) else "list"


def _first_line(source: str) -> str:
    """The first line of a file, at most 64 KiB of it."""
    try:
        if storage.is_remote(source):
            start = storage.read_bytes(source)[:_LONGEST_LINE].partition(b"\n")[0]
        else:
            with Path(source).open("rb") as file:
                start = file.readline(_LONGEST_LINE)
        line = start.decode("utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(f"{source}: no such file or folder; {_EXPECTED}") from None
    except OSError as error:
        raise ManifestError(f"{source}: {error.strerror}; {_EXPECTED}") from None
    except UnicodeDecodeError:
        raise ManifestError(f"{source}: not a text file in UTF-8; {_EXPECTED}") from None
    if "\0" in line:
        raise ManifestError(f"{source}: not a text file; {_EXPECTED}")
    return line.strip()
