"""AVA v2.1 and v2.2, and AVA-Kinetics: persons in key frames, each with several actions."""

import csv
import io
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
    by_stem,
    file_name,
    files_of,
    made_manifest,
    split_of,
    stem,
    text_of,
)
from kineray.data.importers.kinetics import clip_span
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
_PIXELS = 2.0  # a coordinate above this is no part of a side


@dataclass(frozen=True)
class _Files:
    annotations: list[str]
    excluded: list[str]
    labels: list[str]


@dataclass(frozen=True)
class _KeyFrame:
    """What the rows of one key frame say. ``time_s``: in the film, or in the whole YouTube video."""

    video: str
    time_s: float
    split: str
    kinetics: bool
    boxes: tuple[BoxLabel, ...]

    @property
    def id(self) -> str:
        """Video and time, in whole seconds for films and in microseconds for Kinetics."""
        if self.kinetics or self.time_s != int(self.time_s):
            return f"{self.video}/{self.time_s:.6f}"
        return f"{self.video}/{int(self.time_s):04d}"


_KEY_FRAME = re.compile(r"[^,]+,[\d.]+(,-?[\d.]+){4},\d*(,[^,]*)?")
_ANNOTATIONS = re.compile(r"(ava|kinetics)_(train|val|test)_v\d.*\.csv")

Offset = Annotated[
    float,
    Field(ge=0, description="Where the films were cut, such as 900 s; 0: whole films."),
]


class AvaImporter(Importer, type="ava"):
    """ava_train_v2.2.csv and the .pbtxt with the actions, or their folder: ``from_ava``."""

    videos: Videos = ""
    offset: Offset = 0.0

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """By the names of the files, or by rows of key frames; none of AVA-Kinetics."""
        return all(map(is_of_ava, sources)) and not any(map(is_of_kinetics, sources))

    def read(self, sources: Sequence[str]) -> Manifest:
        """Key frames, their persons in boxes."""
        return from_ava(sources, self.videos or folder_of(sources), offset_s=self.offset)


def is_of_ava(source: Source) -> bool:
    """Whether a source is annotations of key frames, or a file that goes along with them."""
    if source.is_folder:
        return any(map(_ANNOTATIONS.fullmatch, source.names))
    if _is_label_map(source.name) or "excluded_timestamps" in source.name:
        return True
    return bool(re.match(r"(ava|kinetics)_", source.name) or _KEY_FRAME.fullmatch(source.first_line))


def is_of_kinetics(source: Source) -> bool:
    """Whether a source of AVA-Kinetics holds its key frames of Kinetics."""
    names = source.names if source.is_folder else (source.name,)
    return any(name.startswith("kinetics_") and name.endswith(".csv") for name in names)


def _is_label_map(name: str) -> bool:
    return name.endswith(".pbtxt") or ".pbtxt." in name


def from_ava(sources: Files, videos_root: str | Path, *, offset_s: float = 0.0) -> Manifest:
    """Import AVA v2.1 or v2.2: a sample for each key frame, its persons in ``Sample.boxes``.

    ``sources``: ``ava_{train,val}_v2.x.csv``, or the folder that holds them; the label map
    ``ava_action_list_*.pbtxt`` and ``*excluded_timestamps*.csv``, whose key frames are left out, are taken
    from the same folder where they are not named.
    Class index = the label map's id - 1; the classes that the metric counts are in ``Manifest.evaluated``.
    A row is one action of one person: the rows of a person make one box. ``labels`` is -1: the persons
    have the classes, not the frame. ``start_s`` = ``end_s`` = the key frame's time in the local file: the
    film's time less ``offset_s`` (900 for films that were cut from minute 15 on). Files are found by the
    video's id, anywhere below ``videos_root``; the group is the video. Predicted boxes, with a score in
    the last column, are refused. Raises ManifestError.
    """
    return import_ava(sources, videos_root, offset_s, kinetics=False)


def import_ava(sources: Files, videos_root: str | Path, offset_s: float, *, kinetics: bool) -> Manifest:
    """``from_ava``, and with ``kinetics`` ``from_ava_kinetics``. Raises ManifestError."""
    files = _sorted_out(sources)
    of_kinetics = [file for file in files.annotations if file_name(file).startswith("kinetics_")]
    if of_kinetics and not kinetics:
        raise ManifestError(f"{of_kinetics[0]}: belongs to AVA-Kinetics; pass --format ava-kinetics")
    names, evaluated = _classes(files)
    excluded = {key for file in files.excluded for key in _excluded(file)}
    videos = by_stem(videos_root)
    clips: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for name, path in videos.items():
        span = clip_span(name)
        if span:
            clips[span[0]].append((span[1], span[2], path))
    missing: dict[str, list[str]] = defaultdict(list)

    def samples() -> Iterator[Sample]:
        for file in files.annotations:
            for key in _key_frames(file, len(names), kinetics=file in of_kinetics):
                if (key.video, key.time_s) in excluded:
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
                    raise ManifestError(f"{file}: {key.id} lies before the offset of {offset_s:g} s")
                uri = storage.absolute(storage.join(videos_root, path))
                labels = {HEAD: ABSENT}
                yield Sample(key.id, uri, time_s, time_s, labels, key.video, key.split, key.boxes)

    return made_manifest(_name(files, of_kinetics), samples(), {HEAD: names}, missing, {HEAD: evaluated})


def _sorted_out(sources: Files) -> _Files:
    """The files by kind. Label maps and exclusions that are not named are looked for beside the others."""
    found = _by_kind(files_of(sources))
    if not found.annotations:
        raise ManifestError(f"{as_list(sources)[0]}: no annotations such as ava_train_v2.2.csv")
    versions = {file: version for file in found.annotations if (version := _version(file))}
    for file, version in versions.items():
        if version != next(iter(versions.values())):
            raise ManifestError(
                f"{file}: is {version}, but {next(iter(versions))} is {next(iter(versions.values()))};"
                " give the files of one version"
            )
    around = _by_kind(beside(found.annotations))
    fitting = (*versions.values(), "")
    return _Files(
        found.annotations,
        found.excluded or [file for file in around.excluded if _version(file) in fitting],
        found.labels or [file for file in around.labels if _version(file) in fitting],
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
    """``v2.2``, or nothing; the files of Kinetics have versions of their own."""
    match = _VERSION.search(file_name(file))
    return match[0] if match else ""


def _name(files: _Files, of_kinetics: Sequence[str]) -> str:
    films = [file for file in files.annotations if file not in of_kinetics]
    if of_kinetics:
        return "ava-kinetics" if films else "ava-kinetics (kinetics)"
    return "-".join(filter(None, ("ava", _version(films[0]))))


def _classes(files: _Files) -> tuple[list[str], list[int]]:
    """Names by index, and the indices that are evaluated."""
    if not files.labels:
        raise ManifestError(
            f"{files.annotations[0]}: no label map beside it; give ava_action_list_v2.2.pbtxt too"
        )
    known: dict[int, str] = {}
    maps = [_label_map(file) for file in files.labels]
    for label_map in maps:
        known |= label_map
    # A map of the evaluated actions alone leaves ids out that the training rows have.
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
                f"{file}: an entry has no name or no id from 1: {' '.join(entry.split())[:80]}"
            )
        entries[int(number[1])] = name[1]
    if not entries:
        raise ManifestError(f'{file}: not a label map; expected entries as item {{ name: "stand" id: 12 }}')
    return entries


def _rows(file: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text_of(file), newline=""))
    for row in reader:
        if row:
            yield reader.line_num, [value.strip() for value in row]


def _excluded(file: str) -> Iterator[tuple[str, float]]:
    for number, row in _rows(file):
        if len(row) != 2:
            raise ManifestError(f"{file}:{number}: expected 'video,timestamp'")
        yield row[0], _number(row[1], f"{file}:{number}")


def _key_frames(file: str, classes: int, *, kinetics: bool) -> Iterator[_KeyFrame]:
    """The key frames of a file, in order of their first rows."""
    split = split_of(stem(file), file)
    frames: dict[tuple[str, float], dict[tuple[float, float, float, float, int | None], set[int]]] = {}
    for number, row in _rows(file):
        where = f"{file}:{number}"
        if len(row) not in (2, 7, 8):
            raise ManifestError(
                f"{where}: {len(row)} values; expected video, time and, of a person, x1, y1, x2, y2, action"
                " and person"
            )
        boxes = frames.setdefault((row[0], _number(row[1], where)), {})
        if len(row) == 2:
            continue
        corners = [_number(value, where) for value in row[2:6]]
        if max(map(abs, corners)) > _PIXELS:
            raise ManifestError(
                f"{where}: the box {', '.join(row[2:6])} is in pixels; expected parts from 0 to 1"
            )
        x1, y1, x2, y2 = (min(max(corner, 0.0), 1.0) for corner in corners)
        person = _person(row[7], where) if len(row) == 8 else None
        actions = boxes.setdefault((x1, y1, x2, y2, person), set())
        if row[6]:
            action = _number(row[6], where)
            if action not in range(1, classes + 1):
                raise ManifestError(
                    f"{where}: the action {row[6]} is not one of the {classes} of the label map"
                )
            actions.add(int(action) - 1)
    for (video, time_s), boxes in frames.items():
        persons = tuple(
            BoxLabel(x1, y1, x2, y2, tuple(sorted(actions)), person)
            for (x1, y1, x2, y2, person), actions in boxes.items()
        )
        yield _KeyFrame(video, time_s, split, kinetics, persons)


def _person(text: str, where: str) -> int | None:
    """The id of a person, None where there is none (an empty field or -1)."""
    try:
        person = int(text) if text else ABSENT
    except ValueError:
        raise ManifestError(
            f"{where}: {text} in column 8 is a score, not a person: give the annotations, not predicted boxes"
        ) from None
    return None if person == ABSENT else person


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ManifestError(f"{where}: expected a number, got '{text[:80]}'")
    return value


def _clip_of(time_s: float, clips: Sequence[tuple[float, float, str]]) -> tuple[str, float] | None:
    """The file that holds a moment of a YouTube video, and the moment in the file."""
    holding = [clip for clip in clips if clip[0] <= time_s <= clip[1]]
    if not holding:
        return None
    start, _, path = max(holding, key=lambda clip: (min(time_s - clip[0], clip[1] - time_s), clip[2]))
    return path, time_s - start
