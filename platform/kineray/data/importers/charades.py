"""Charades: videos recorded at home, each with any number of actions."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from kineray import storage
from kineray.data.importers.base import Importer, Source, Videos, folder_of
from kineray.data.importers.files import (
    HEAD,
    Files,
    a_sample,
    beside,
    csv_rows,
    file_name,
    files_of,
    lines_of,
    made_manifest,
    split_of,
    stem,
)
from kineray.data.importers.listed import Listed
from kineray.data.importers.videos import by_stem
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError

_ANNOTATIONS = re.compile(r"Charades_v\d+_(train|test)\.csv")
_CLASSES = re.compile(r"Charades_v\d+_classes\.txt")
_CLASS = re.compile(r"c(\d{3}) (.+)")


class CharadesImporter(Importer, type="charades"):
    """Files Charades_v1_train.csv, Charades_v1_test.csv and Charades_v1_classes.txt, or their folder:
    ``from_charades``."""

    videos: Videos = ""

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """By the names of the files in a folder, or by the columns of a CSV file."""
        annotations = [source for source in sources if _is_annotation(source)]
        others = [source for source in sources if source not in annotations]
        return bool(annotations) and all(_CLASSES.fullmatch(source.name) for source in others)

    def read(self, sources: Sequence[str]) -> Manifest:
        """All videos of the CSV files."""
        return from_charades(sources, self.videos or folder_of(sources))


def _is_annotation(source: Source) -> bool:
    if source.is_folder:
        return any(map(_ANNOTATIONS.fullmatch, source.names))
    return {"id", "script", "actions"} <= set(source.first_line.split(","))


def from_charades(sources: Files, videos_root: str | Path) -> Manifest:
    """Import Charades for classification of whole videos, whose labels are the sets of their actions.

    ``sources``: ``Charades_v1_train.csv`` and ``Charades_v1_test.csv``, or their folder;
    ``Charades_v1_classes.txt`` is taken from the same folder unless it is named. The column ``actions``
    holds ``c092 11.90 21.20;c147 0.00 12.60``: classes with start and end in seconds, which are ignored; it
    is empty for a video without any of the actions. Class indices are the numbers of the classes. There is
    no official validation split. Videos are named ``<id>.mp4`` and lie anywhere below ``videos_root``. The
    group is the person in the video (``subject``). Raises ManifestError.
    """
    named = files_of(sources)
    files = [file for file in named if file.endswith(".csv") and _has_actions(file)]
    if not files:
        raise ManifestError(
            "no annotations of Charades",
            code="not_found",
            key=named[0],
            remedy="name Charades_v1_train.csv or Charades_v1_test.csv",
        )
    maps = [file for file in [*named, *beside(files)] if _CLASSES.fullmatch(file_name(file))]
    if not maps:
        raise ManifestError(
            "Charades_v1_classes.txt, which names the classes, is not in its folder",
            code="not_found",
            key=files[0],
            remedy="name that file too",
        )
    names = _classes(maps[0])
    videos = by_stem(videos_root)
    missing: dict[str, list[str]] = defaultdict(list)
    listed = Listed()

    def samples() -> Iterator[Sample]:
        for file in files:
            split = split_of(stem(file), file)
            for where, row in csv_rows(file, ("id", "subject", "actions")):
                actions = _actions(row["actions"], len(names), where)
                if not listed.is_new(row["id"], where, actions, split):
                    continue
                if row["id"] in videos:
                    uri = storage.join(videos_root, videos[row["id"]])
                    yield a_sample(row["id"], uri, actions, split, row["subject"])
                else:
                    missing[split].append(row["id"])
        listed.log()

    return made_manifest("charades", samples(), {HEAD: names}, missing, multi_label=(HEAD,))


def _has_actions(file: str) -> bool:
    return _ANNOTATIONS.fullmatch(file_name(file)) is not None or "actions" in Source.at(file).first_line


def _classes(file: str) -> list[str]:
    """Class names by index, from lines such as ``c000 Holding some clothes``."""
    names: list[str] = []
    for where, line in lines_of(file):
        found = _CLASS.fullmatch(line)
        if not found or int(found[1]) != len(names):
            raise ManifestError(
                f"expected 'c{len(names):03d} name of the class', got '{line[:80]}'",
                code="bad_line",
                key=where,
            )
        names.append(found[2])
    return names


def _actions(text: str, classes: int, where: str) -> tuple[int, ...]:
    """``c092 11.90 21.20;c147 0.00 12.60`` -> (92, 147)."""
    actions = set()
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        found = re.fullmatch(r"c(\d{3})( [\d.]+){2}", entry)
        if not found or int(found[1]) >= classes:
            raise ManifestError(
                f"expected 'c092 11.90 21.20' with one of the {classes} classes, got '{entry[:80]}'",
                code="bad_line",
                key=where,
            )
        actions.add(int(found[1]))
    return tuple(sorted(actions))
