"""AVA v2.1 and v2.2, and AVA-Kinetics: persons in key frames, each with several actions."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from kineray import storage
from kineray.data.importers.base import Importer, Source, Videos, folder_of
from kineray.data.importers.files import (
    HEAD,
    Files,
    as_list,
    beside,
    csv_lines,
    file_name,
    files_of,
    made_manifest,
    split_of,
    stem,
    text_of,
)
from kineray.data.importers.kinetics import clip_span
from kineray.data.importers.listed import Listed
from kineray.data.importers.videos import by_stem
from kineray.data.manifest.labels import ABSENT
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import BoxLabel, Sample
from kineray.errors import ManifestError

# The ids of the 60 of 80 actions that the metric averages, as in ava_action_list_*_for_activitynet*.pbtxt.
EVALUATED_IDS = (
    *(1, *range(3, 16), 17, 20, 22, 24, *range(26, 31), 34, 36, 37, 38, 41, 43, *range(45, 50)),
    *(51, 52, 54, *range(56, 71), 72, 73, 74, *range(76, 81)),
)
_ENTRY = re.compile(r"\b(?:item|label)\s*\{([^{}]*)\}")
_NAME = re.compile(r'\bname:\s*"([^"]*)"')
_ID = re.compile(r"(?<![a-z_])(?:label_)?id:\s*(\d+)")
_VERSION = re.compile(r"v2\.\d")
_PIXELS = 2.0  # a coordinate above this is in pixels, not a fraction of the side


@dataclass(frozen=True)
class _Files:
    annotations: list[str]
    excluded: list[str]
    labels: list[str]


@dataclass(frozen=True)
class _KeyFrame:
    """The rows of one key frame. ``where``: file and line of the first of them; ``time_s``: in the film, or
    in the whole YouTube video."""

    where: str

    video: str
    time_s: float
    split: str
    kinetics: bool
    boxes: tuple[BoxLabel, ...]

    @property
    def id(self) -> str:
        """Video and time: with whole seconds for films, with six decimals for Kinetics."""
        if self.kinetics or self.time_s != int(self.time_s):
            return f"{self.video}/{self.time_s:.6f}"
        return f"{self.video}/{int(self.time_s):04d}"


_Boxes = dict[tuple[float, float, float, float, int | None], set[int]]  # corners and person -> actions
_KEY_FRAME = re.compile(r"[^,]+,[\d.]+(,-?[\d.]+){4},\d*(,[^,]*)?")
_ANNOTATIONS = re.compile(r"(ava|kinetics)_(train|val|test)_v\d.*\.csv")

Offset = Annotated[
    float,
    Field(ge=0, description="Where the files begin in the films, such as 900 s; 0: whole films."),
]


class AvaImporter(Importer, type="ava"):
    """Files ava_train_v2.2.csv and the .pbtxt of the actions, or their folder: ``from_ava``."""

    videos: Videos = ""
    offset: Offset = 0.0

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """By the names of the files, or by rows of key frames, unless any is of AVA-Kinetics."""
        return all(map(is_of_ava, sources)) and not any(map(is_of_kinetics, sources))

    def read(self, sources: Sequence[str]) -> Manifest:
        """The key frames, with a box for each person."""
        return from_ava(sources, self.videos or folder_of(sources), offset_s=self.offset)


def is_of_ava(source: Source) -> bool:
    """Whether a source holds annotations of key frames, or is a file that belongs to them."""
    if source.is_folder:
        return any(map(_ANNOTATIONS.fullmatch, source.names))
    if _is_label_map(source.name) or "excluded_timestamps" in source.name:
        return True
    return bool(re.match(r"(ava|kinetics)_", source.name) or _KEY_FRAME.fullmatch(source.first_line))


def is_of_kinetics(source: Source) -> bool:
    """Whether a source holds the key frames of Kinetics in AVA-Kinetics."""
    names = source.names if source.is_folder else (source.name,)
    return any(name.startswith("kinetics_") and name.endswith(".csv") for name in names)


def _is_label_map(name: str) -> bool:
    return name.endswith(".pbtxt") or ".pbtxt." in name


def from_ava(sources: Files, videos_root: str | Path, *, offset_s: float = 0.0) -> Manifest:
    """Import AVA v2.1 or v2.2: a sample for each key frame, with its persons in ``Sample.boxes``.

    ``sources``: ``ava_{train,val}_v2.x.csv``, or the folder that holds them. The label map
    ``ava_action_list_*.pbtxt`` and ``*excluded_timestamps*.csv``, whose key frames are left out, are taken
    from the same folder unless they are named. Class index = id in the label map - 1;
    ``Manifest.evaluated`` holds the classes that the metric averages. A row is one action of one person: the
    rows of a person make one box. The sample's label is -1, since classes belong to persons, not to frames.
    ``start_s`` = ``end_s`` = the time of the key frame in the video file: its time in the film minus
    ``offset_s`` (900 for files that begin at minute 15). Files are found by the id of the video, anywhere
    below ``videos_root``; the group is the video. Predicted boxes, with a score in the last column, are
    refused. Raises ManifestError.
    """
    return import_ava(sources, videos_root, offset_s, kinetics=False)


def import_ava(sources: Files, videos_root: str | Path, offset_s: float, *, kinetics: bool) -> Manifest:
    """``from_ava``, or with ``kinetics`` ``from_ava_kinetics``. Raises ManifestError."""
    files = _files(sources)
    of_kinetics = [file for file in files.annotations if file_name(file).startswith("kinetics_")]
    if of_kinetics and not kinetics:
        raise ManifestError(
            "belongs to AVA-Kinetics",
            code="other_format",
            key=of_kinetics[0],
            remedy="give ava-kinetics as `format`",
        )
    names, evaluated = _classes(files)
    excluded = {key for file in files.excluded for key in _excluded(file)}
    videos = by_stem(videos_root)
    clips: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for name, path in videos.items():
        span = clip_span(name)
        if span:
            clips[span[0]].append((span[1], span[2], path))
    missing: dict[str, list[str]] = defaultdict(list)
    listed = Listed()

    def samples() -> Iterator[Sample]:
        for file in files.annotations:
            for key in _key_frames(file, len(names), kinetics=file in of_kinetics):
                is_new = listed.is_new(key.id, key.where, key.boxes, key.split)
                if not is_new or (key.video, key.time_s) in excluded:
                    continue
                if key.kinetics:
                    found = _clip_of(key.time_s, clips.get(key.video, ()))
                else:
                    found = (videos[key.video], key.time_s - offset_s) if key.video in videos else None
                if found is None:
                    missing[key.split].append(key.id)
                    continue
                path, time_s = found
                if time_s < 0:
                    raise ManifestError(
                        f"{key.id} is before the offset of {offset_s:g} s",
                        code="out_of_range",
                        key=key.where,
                        remedy="lower the `offset`",
                    )
                uri = storage.absolute(storage.join(videos_root, path))
                labels = {HEAD: ABSENT}
                yield Sample(key.id, uri, time_s, time_s, labels, key.video, key.split, key.boxes)
        listed.log()

    return made_manifest(_name(files, of_kinetics), samples(), {HEAD: names}, missing, {HEAD: evaluated})


def _files(sources: Files) -> _Files:
    """The files by kind. Label maps and exclusions that are not named are looked for in the same folders."""
    named = _by_kind(files_of(sources))
    if not named.annotations:
        raise ManifestError(
            "no annotations of AVA",
            code="not_found",
            key=as_list(sources)[0],
            remedy="name a file such as ava_train_v2.2.csv",
        )
    versions = {file: version for file in named.annotations if (version := _version(file))}
    for file, version in versions.items():
        first, first_version = next(iter(versions.items()))
        if version != first_version:
            raise ManifestError(
                f"its version is {version}, but that of {first} is {first_version}",
                code="mixed_formats",
                key=file,
                remedy="name the files of one version",
            )
    near = _by_kind(beside(named.annotations))
    fitting = (*versions.values(), "")
    return _Files(
        named.annotations,
        named.excluded or [file for file in near.excluded if _version(file) in fitting],
        named.labels or [file for file in near.labels if _version(file) in fitting],
    )


def _by_kind(files: Iterable[str]) -> _Files:
    kinds = _Files([], [], [])
    for file in files:
        name = file_name(file)
        if _is_label_map(name):
            kinds.labels.append(file)
        elif "excluded_timestamps" in name:
            kinds.excluded.append(file)
        elif name.endswith(".csv"):
            kinds.annotations.append(file)
    return kinds


def _version(file: str) -> str:
    """``v2.2``, or "" for names without it; those of Kinetics contain another kind of version."""
    match = _VERSION.search(file_name(file))
    return match[0] if match else ""


def _name(files: _Files, of_kinetics: Sequence[str]) -> str:
    films = [file for file in files.annotations if file not in of_kinetics]
    if of_kinetics:
        return "ava-kinetics" if films else "ava-kinetics (kinetics)"
    return "-".join(filter(None, ("ava", _version(films[0]))))


def _classes(files: _Files) -> tuple[list[str], list[int]]:
    """Class names by index, and the indices of the evaluated classes."""
    if not files.labels:
        raise ManifestError(
            "no label map in its folder",
            code="not_found",
            key=files.annotations[0],
            remedy="name ava_action_list_v2.2.pbtxt too",
        )
    known: dict[int, str] = {}
    maps = [_label_map(file) for file in files.labels]
    for label_map in maps:
        known |= label_map
    # A map of the evaluated actions leaves out ids that occur in the training rows.
    count = max(known)
    names = [known.get(number, f"action {number}") for number in range(1, count + 1)]
    smallest = min(maps, key=len)
    evaluated = sorted(smallest)
    if len(smallest) == count:
        evaluated = list(EVALUATED_IDS) if count == EVALUATED_IDS[-1] else []
    return names, [number - 1 for number in evaluated]


def _label_map(file: str) -> dict[int, str]:
    """Id -> name, from ``item { name: "stand" id: 12 }`` or ``label { name: "stand" label_id: 12 ... }``."""
    entries = {}
    for entry in _ENTRY.findall(text_of(file)):
        name, number = _NAME.search(entry), _ID.search(_NAME.sub("", entry))
        if not name or not number or int(number[1]) < 1:
            raise ManifestError(
                f"an entry has no name or no id of at least 1: {' '.join(entry.split())[:80]}",
                code="bad_line",
                key=file,
            )
        entries[int(number[1])] = name[1]
    if not entries:
        raise ManifestError(
            "not a label map",
            code="empty",
            key=file,
            remedy='its entries must look like item { name: "stand" id: 12 }',
        )
    return entries


def _rows(file: str) -> Iterator[tuple[str, list[str]]]:
    for where, row in csv_lines(file):
        yield where, [value.strip() for value in row]


def _excluded(file: str) -> Iterator[tuple[str, float]]:
    for where, row in _rows(file):
        if len(row) != 2:
            raise ManifestError("expected 'video,timestamp'", code="bad_line", key=where)
        yield row[0], _number(row[1], where)


def _key_frames(file: str, classes: int, *, kinetics: bool) -> Iterator[_KeyFrame]:
    """The key frames of a file, in order of their first rows."""
    split = split_of(stem(file), file)
    frames: dict[tuple[str, float], tuple[str, _Boxes]] = {}
    for where, row in _rows(file):
        if len(row) not in (2, 7, 8):
            raise ManifestError(
                f"{len(row)} values; expected video, time and for a person x1, y1, x2, y2, action, person",
                code="bad_line",
                key=where,
            )
        _, boxes = frames.setdefault((row[0], _number(row[1], where)), (where, {}))
        if len(row) == 2:
            continue
        corners = [_number(value, where) for value in row[2:6]]
        if max(map(abs, corners)) > _PIXELS:
            raise ManifestError(
                f"the box {', '.join(row[2:6])} is in pixels; expected fractions of the sides, from 0 to 1",
                code="out_of_range",
                key=where,
            )
        x1, y1, x2, y2 = (min(max(corner, 0.0), 1.0) for corner in corners)
        person = _person(row[7], where) if len(row) == 8 else None
        actions = boxes.setdefault((x1, y1, x2, y2, person), set())
        if row[6]:
            action = _number(row[6], where)
            if action not in range(1, classes + 1):
                raise ManifestError(
                    f"the action {row[6]} is not one of the {classes} in the label map",
                    code="out_of_range",
                    key=where,
                )
            actions.add(int(action) - 1)
    for (video, time_s), (where, boxes) in frames.items():
        persons = tuple(
            BoxLabel(x1, y1, x2, y2, tuple(sorted(actions)), person)
            for (x1, y1, x2, y2, person), actions in boxes.items()
        )
        yield _KeyFrame(where, video, time_s, split, kinetics, persons)


def _person(text: str, where: str) -> int | None:
    """The id of a person, None if there is none (an empty field or -1)."""
    try:
        person = int(text) if text else ABSENT
    except ValueError:
        raise ManifestError(
            f"{text} in column 8 is not the id of a person but a score",
            code="bad_line",
            key=where,
            remedy="name the annotations, not predicted boxes",
        ) from None
    return None if person == ABSENT else person


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ManifestError(f"expected a number, got '{text[:80]}'", code="bad_line", key=where)
    return value


def _clip_of(time_s: float, clips: Sequence[tuple[float, float, str]]) -> tuple[str, float] | None:
    """The file that contains a time of a YouTube video, and the time in that file."""
    containing = [clip for clip in clips if clip[0] <= time_s <= clip[1]]
    if not containing:
        return None
    start, _, path = max(containing, key=lambda clip: (min(time_s - clip[0], clip[1] - time_s), clip[2]))
    return path, time_s - start
