"""The videos of a data set: which of the files below a folder they are, and what their samples are called."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from kineray import storage
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.names import composed, groups_of, without_suffix
from kineray.errors import ManifestError
from kineray.video.suffixes import is_video_name

logger = logging.getLogger(__name__)

# What other systems leave beside files: macOS in archives, Synology, Windows.
_FOREIGN = {"__MACOSX", "@eaDir", "$RECYCLE.BIN"}


def videos_below(root: str | Path, *, others: int = logging.INFO) -> list[str]:
    """Paths of all videos below ``root``, relative to it, sorted.

    Hidden files (``._a.mp4``), files in hidden folders and in ``__MACOSX``, and names that are not UTF-8 are
    left out; how many is logged. ``others``: the level at which files without the suffix of a video are
    logged. Raises ManifestError if the path of ``root`` is not UTF-8, StorageError.
    """
    check_utf8(root)
    paths: dict[str, list[str]] = defaultdict(list)
    for path in storage.list_files(root):
        paths[_kind(path)].append(path)
    for kind in ("hidden files", "files with names that are not UTF-8"):
        _log_left_out(root, kind, paths[kind])
    if paths["others"]:
        suffixes = Counter(PurePosixPath(path).suffix.lower() or "none" for path in paths["others"])
        counts = ", ".join(f"{suffix} {count}" for suffix, count in suffixes.most_common())
        left_out = "%s: files without the suffix of a video left out: %d (%s)"
        logger.log(others, left_out, root, len(paths["others"]), counts)
    return paths["video"]


def is_hidden(path: str) -> bool:
    """Whether a file, or a folder that it is in, is not meant to be seen."""
    return any(part.startswith(".") or part in _FOREIGN for part in path.split("/"))


def by_stem(root: str | Path) -> dict[str, str]:
    """Videos below ``root``: file name without suffix, composed -> relative path.

    If several have the same name, the first by path is taken; how many are not is logged.
    """
    videos: dict[str, str] = {}
    copies = [path for path in videos_below(root) if videos.setdefault(_stem(path), path) != path]
    _log_left_out(root, "videos that are named like another one", copies)
    return videos


def sample_ids(paths: Sequence[str]) -> dict[str, str]:
    """Path -> id of its sample: the path without suffix, or with it if several would have the same id."""
    ids = {path: without_suffix(path) for path in paths}
    counts = Counter([*ids.values(), *paths])
    return {path: path if counts[name] > 1 else name for path, name in ids.items()}


def video_groups(paths: Sequence[str], group_by: str) -> dict[str, str]:
    """Path -> group: what the regular expression ``group_by`` finds in it, without suffix; if that is "", the
    video. Files of one name with several suffixes are one video. Raises ManifestError."""
    names = {path: without_suffix(path) for path in paths}
    groups = groups_of(group_by, names.values()) if group_by else {}
    return {path: groups.get(name, name) for path, name in names.items()}


def warn_of_leaks(manifest: Manifest) -> None:
    """Log how many groups are in more than one split."""
    splits: dict[str, set[str]] = defaultdict(set)
    columns = (manifest.columns.column(name).to_pylist() for name in ("group", "split"))
    for group, split in zip(*columns, strict=True):
        splits[group].add(split)
    leaks = [group for group, names in splits.items() if len(names) > 1]
    if leaks:
        in_splits = " and ".join(sorted(splits[leaks[0]]))
        logger.warning("groups in several splits: %d, such as %s in %s", len(leaks), leaks[0], in_splits)


def printable(path: str | Path) -> str:
    """A path for messages: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def check_utf8(*paths: str | Path) -> None:
    """Raise ManifestError for a path that is not UTF-8, which a manifest cannot contain."""
    for path in map(storage.absolute, paths):
        if not _is_utf8(path):
            raise ManifestError(
                "not UTF-8", code="not_utf8", key=printable(path), remedy="rename the file or folder"
            )


def _kind(path: str) -> str:
    if is_hidden(path):
        return "hidden files"
    if not is_video_name(path):
        return "others"
    return "video" if _is_utf8(path) else "files with names that are not UTF-8"


def _log_left_out(root: str | Path, kind: str, paths: Sequence[str]) -> None:
    if paths:
        example = printable(paths[0])
        logger.warning("%s: %s left out: %d, such as %s", root, kind, len(paths), example)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stem(path: str) -> str:
    return composed(PurePosixPath(path).stem)
