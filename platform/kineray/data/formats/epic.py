"""EPIC-KITCHENS-100 and -55. Their class numbers differ, so one manifest holds one of them."""

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kineray.data import storage
from kineray.data.formats.files import (
    Files,
    as_list,
    by_stem,
    csv_rows,
    file_name,
    files_of,
    logger,
    made_manifest,
    split_of,
    stem,
    text_of,
)
from kineray.data.manifest import Manifest
from kineray.data.samples import ABSENT, Sample
from kineray.errors import ManifestError

_TIMES = ("start_timestamp", "stop_timestamp", "start_frame", "stop_frame")
_SHOWN = 10  # videos that are named when their frames are too few


@dataclass(frozen=True)
class _Edition:
    """What the annotation files of one edition are called."""

    name: str
    id_column: str
    segments: tuple[str, ...]
    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    key_columns: tuple[str, str]  # of the verbs and of the nouns: where a class's number stands
    key: str


_E100 = _Edition(
    "epic-kitchens-100",
    "narration_id",
    ("EPIC_100_train.csv", "EPIC_100_validation.csv", "EPIC_100_test_timestamps.csv"),
    ("EPIC_100_verb_classes.csv", "verb_classes.csv"),
    ("EPIC_100_noun_classes.csv", "noun_classes.csv"),
    ("id", "id"),
    "key",
)
_E55 = _Edition(
    "epic-kitchens-55",
    "uid",
    ("EPIC_train_action_labels.csv", "EPIC_test_s1_timestamps.csv", "EPIC_test_s2_timestamps.csv"),
    ("EPIC_verb_classes.csv",),
    ("EPIC_noun_classes.csv",),
    ("verb_id", "noun_id"),
    "class_key",
)
# Parts of a split that E100 scores on their own: file, its column, the split.
_TAIL = (
    ("tail_verb", "EPIC_100_tail_verbs.csv", "verb"),
    ("tail_noun", "EPIC_100_tail_nouns.csv", "noun"),
)
_UNSEEN = (
    ("val", "EPIC_100_unseen_participant_ids_validation.csv"),
    ("test", "EPIC_100_unseen_participant_ids_test.csv"),
)
SEGMENT_FILES = (*_E100.segments, *_E55.segments)

# Where the extracted pictures of video P01_01 lie: as downloaded, as loaders want them, as TBN links them.
_RGB_LAYOUTS = (
    "{person}/rgb_frames/{video}/frame_%010d.jpg",
    "{person}/{video}/frame_%010d.jpg",
    "{video}/frame_%010d.jpg",
    "train/{person}/{video}/frame_%010d.jpg",
    "test/{person}/{video}/frame_%010d.jpg",
    "rgb/train/{person}/{video}/frame_%010d.jpg",
    "rgb/test/{person}/{video}/frame_%010d.jpg",
    "{video}/img_%010d.jpg",
)
_FLOW_LAYOUTS = (
    "{person}/flow_frames/{video}/{{u,v}}/frame_%010d.jpg",
    "{person}/{video}/{{u,v}}/frame_%010d.jpg",
    "{video}/{{u,v}}/frame_%010d.jpg",
    "train/{person}/{video}/{{u,v}}/frame_%010d.jpg",
    "test/{person}/{video}/{{u,v}}/frame_%010d.jpg",
    "flow/train/{person}/{video}/{{u,v}}/frame_%010d.jpg",
    "flow/test/{person}/{video}/{{u,v}}/frame_%010d.jpg",
    "{video}/{{x,y}}_%010d.jpg",
)
# A picture of flow spans several frames, so the last frames of a video have none.
_FLOW_SHORTER = 3


@dataclass(frozen=True)
class _Segment:
    """A row of an annotation file."""

    id: str
    video: str
    person: str
    split: str
    subsets: frozenset[str]
    span_s: tuple[float, float]
    frames: tuple[int, int]  # first and last, counted from 1
    verb: int
    noun: int


@dataclass(frozen=True)
class _Place:
    """Where a video's pictures are: ``uri``, and the last frame of the video that they reach."""

    uri: str
    last_frame: float


def from_epic(
    sources: Files,
    *,
    videos: str | Path | None = None,
    frames: str | Path | None = None,
    flow: str | Path | None = None,
) -> Manifest:
    """Import EPIC-KITCHENS-100 or -55 from its CSV files or the folder that holds them.

    The pictures come from exactly one of three places. ``videos``: files called like the video, anywhere
    below the folder, cut by ``start_timestamp`` and ``stop_timestamp``. ``frames``: folders of extracted
    pictures, cut by ``start_frame`` and ``stop_frame``, which count at 60 frames per second in videos of
    EPIC-55 (``P01_01``) and at 50 in those that came later (``P01_101``), whatever a video's own rate.
    ``flow``: folders of optical flow, 30 per second with bound 25, or 50 with bound 8.

    Heads: ``verb``, ``noun``, ``action`` (named ``<verb> <noun>``: the pairs that the training segments
    have, or, without any, the validation segments) and for EPIC-100 ``verb_category`` and
    ``noun_category``. A segment's noun is its first. What a file does not tell, or a pair that is no class,
    is -1. Subsets of EPIC-100's ``val``: ``unseen``, ``tail_verb``, ``tail_noun``, ``tail_action`` (verb or
    noun in the tail), where their lists are beside the CSV files; of EPIC-55's ``test``: ``seen`` and
    ``unseen``. The group is the video. Raises ManifestError.
    """
    given = [root for root in (videos, frames, flow) if root is not None]
    if len(given) != 1:
        raise ManifestError("EPIC-KITCHENS: give one folder: either of videos, of frames or of flow")
    files = _chosen(sources)
    edition = _edition(files)
    around = {file_name(file): file for file in [*_beside(files), *files_of(sources)]}
    verbs = _classes(_one_of(edition.verbs, around, files[0]), edition.key_columns[0], edition.key)
    nouns = _classes(_one_of(edition.nouns, around, files[0]), edition.key_columns[1], edition.key)
    tails = {subset: _tail(around, name, column) for subset, name, column in _TAIL}
    unseen = {split: _participants(around, name) for split, name in _UNSEEN}
    segments = [
        segment
        for file in files
        for segment in _segments(file, edition, (len(verbs.names), len(nouns.names)), tails, unseen)
    ]
    pairs = _pairs(segments)
    index_of = {pair: index for index, pair in enumerate(pairs)}
    vocabularies = {
        "verb": verbs.names,
        "noun": nouns.names,
        "action": [f"{verbs.names[verb]} {nouns.names[noun]}" for verb, noun in pairs],
    }
    if edition is _E100:
        vocabularies["verb_category"] = sorted(set(verbs.categories))
        vocabularies["noun_category"] = sorted(set(nouns.categories))

    def labels(segment: _Segment) -> dict[str, int]:
        made = {
            "verb": segment.verb,
            "noun": segment.noun,
            "action": index_of.get((segment.verb, segment.noun), ABSENT),
        }
        if edition is _E100:
            for head, classes in (("verb", verbs), ("noun", nouns)):
                categories = vocabularies[f"{head}_category"]
                known = made[head] != ABSENT
                made[f"{head}_category"] = (
                    categories.index(classes.categories[made[head]]) if known else ABSENT
                )
        return made

    if videos is not None:
        places = _video_places(videos, segments)
    else:
        places = _folder_places(given[0], segments, flow=flow is not None)
    missing: dict[str, list[str]] = defaultdict(list)

    def samples() -> Iterator[Sample]:
        for segment in segments:
            place = places.get(segment.video)
            if place is None or segment.frames[0] > place.last_frame:
                missing[segment.split].append(segment.id)
                continue
            start_s, end_s = segment.span_s
            if videos is None:
                fps = _fps(segment.video)
                start_s, end_s = (max(segment.frames[0], 1) - 1) / fps, segment.frames[1] / fps
            yield Sample(
                segment.id,
                place.uri,
                start_s,
                end_s,
                labels(segment),
                segment.video,
                segment.split,
                subsets=segment.subsets,
            )

    return made_manifest(edition.name, samples(), vocabularies, missing)


def _chosen(sources: Files) -> list[str]:
    """The files of segments among ``sources``."""
    files = []
    for source in as_list(sources):
        names = storage.list_names(source)
        segments = [storage.join(source, name) for name in SEGMENT_FILES if name in names]
        if names and not segments:
            raise ManifestError(
                f"{source}: no annotation file of EPIC-KITCHENS in it, such as {_E100.segments[0]}"
            )
        files += segments or [str(source)]
    for file in files:
        if file.endswith(".pkl"):
            raise ManifestError(f"{file}: a pickle can run code when it is read; give the CSV file")
    return files


def _beside(files: Sequence[str]) -> list[str]:
    folders = {file.rpartition("/")[0] or "." for file in files}
    return [storage.join(folder, name) for folder in sorted(folders) for name in storage.list_names(folder)]


def _edition(files: Sequence[str]) -> _Edition:
    """The edition of the files, told by their headers."""
    editions = {}
    for file in files:
        header = [column.strip() for column in text_of(file).partition("\n")[0].split(",")]
        editions[file] = _E100 if _E100.id_column in header else _E55
        if editions[file] is not editions[files[0]]:
            raise ManifestError(
                f"{file}: belongs to {editions[file].name}, but {files[0]} to {editions[files[0]].name};"
                " their classes have other numbers: make a manifest of each"
            )
    return editions[files[0]]


def _one_of(names: Sequence[str], around: Mapping[str, str], file: str) -> str:
    for name in names:
        if name in around:
            return around[name]
    raise ManifestError(f"{file}: {names[0]} is not beside it; it says what the class numbers mean")


@dataclass(frozen=True)
class _Classes:
    names: list[str]
    categories: list[str]  # by class; empty in EPIC-55


def _classes(file: str, number_column: str, key_column: str) -> _Classes:
    names: list[str] = []
    categories: list[str] = []
    expected = f"the columns {number_column} and {key_column}"
    for row in csv_rows(file, (number_column, key_column), expected):
        if row[number_column] != str(len(names)):
            raise ManifestError(f"{file}: class {row[number_column]} where {len(names)} should be")
        names.append(row[key_column])
        categories.append(row.get("category") or "")
    return _Classes(names, categories)


def _tail(around: Mapping[str, str], name: str, column: str) -> frozenset[int]:
    if name not in around:
        return frozenset()
    return frozenset(_integer(row[column], around[name]) for row in csv_rows(around[name], (column,), column))


def _participants(around: Mapping[str, str], name: str) -> frozenset[str]:
    if name not in around:
        return frozenset()
    column = "participant_id"
    return frozenset(row[column] for row in csv_rows(around[name], (column,), column))


def _segments(
    file: str,
    edition: _Edition,
    classes: tuple[int, int],
    tails: Mapping[str, frozenset[int]],
    unseen: Mapping[str, frozenset[str]],
) -> Iterator[_Segment]:
    """The rows of a file. Lists in its columns (``all_nouns``) are not read: a segment has its first noun."""
    split = split_of(stem(file), file)
    # Only test files have no labels.
    labels = () if split == "test" else ("verb_class", "noun_class")
    columns = (edition.id_column, "participant_id", "video_id", *_TIMES, *labels)
    for row in csv_rows(file, columns, f"the header of {edition.name}"):
        where = f"{file}: {row[edition.id_column]}"
        verb, noun = (
            _label(row.get(f"{head}_class"), count, f"{where}: {head}_class")
            for head, count in zip(("verb", "noun"), classes, strict=True)
        )
        subsets = set()
        if edition is _E100:
            if split == "val":
                subsets = {
                    subset
                    for subset, label in (("tail_verb", verb), ("tail_noun", noun))
                    if label in tails[subset]
                }
                if subsets and all(tails.values()):
                    subsets.add("tail_action")
            subsets |= {"unseen"} if row["participant_id"] in unseen.get(split, ()) else set()
        elif split == "test":
            subsets = {"unseen" if "_s2_" in stem(file) else "seen"}
        yield _Segment(
            row[edition.id_column],
            row["video_id"],
            row["participant_id"],
            split,
            frozenset(subsets),
            (_seconds(row["start_timestamp"], where), _seconds(row["stop_timestamp"], where)),
            (_integer(row["start_frame"], where), _integer(row["stop_frame"], where)),
            verb,
            noun,
        )


def _label(text: str | None, classes: int, where: str) -> int:
    if text is None:
        return ABSENT
    label = _integer(text, where)
    if not 0 <= label < classes:
        raise ManifestError(f"{where}: {label}, but there are {classes} classes")
    return label


def _integer(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ManifestError(f"{where}: expected a whole number, got '{text[:80]}'") from None


def _seconds(text: str, where: str) -> float:
    """``00:30:21.75`` -> 1821.75, with any number of decimals."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip(), re.ASCII)
    if not match:
        raise ManifestError(f"{where}: expected a time as 00:30:21.75, got '{text[:80]}'")
    # Whole seconds first: the sum has then the rounding of one number.
    return float(int(match[1]) * 3600 + int(match[2]) * 60) + float(match[3])


def _pairs(segments: Sequence[_Segment]) -> list[tuple[int, int]]:
    for split in ("train", "val"):
        pairs = {(s.verb, s.noun) for s in segments if s.split == split and ABSENT not in (s.verb, s.noun)}
        if pairs:
            return sorted(pairs)
    return []


def _in_epic_55(video: str) -> bool:
    """Videos of EPIC-55 end in two digits; those that came with EPIC-100, in three."""
    number = video.rpartition("_")[2]
    if not number.isdecimal() or len(number) not in (2, 3):
        raise ManifestError(f"EPIC-KITCHENS: the video '{video}' is not called like P01_01 or P01_101")
    return len(number) == 2


def _fps(video: str) -> int:
    """The rate that ``start_frame`` and ``stop_frame`` count in."""
    return 60 if _in_epic_55(video) else 50


def _video_places(root: str | Path, segments: Sequence[_Segment]) -> dict[str, _Place]:
    files = by_stem(root)
    wanted = {segment.video for segment in segments}
    return {
        video: _Place(storage.absolute(storage.join(root, files[video])), math.inf)
        for video in sorted(wanted & files.keys())
    }


def _folder_places(folder: str | Path, segments: Sequence[_Segment], *, flow: bool) -> dict[str, _Place]:
    """The frame folder of each video. Names the videos whose frames end before their last segment."""
    from kineray.video.frames import frames_uri, parse_frames_uri

    if storage.is_remote(folder):
        raise ManifestError(f"{folder}: frames and flow are read from local folders only")
    root = Path(folder).absolute()
    needed: dict[str, int] = {}
    persons = {}
    for segment in segments:
        needed[segment.video] = max(needed.get(segment.video, 0), segment.frames[1])
        persons[segment.video] = segment.person
    places: dict[str, _Place] = {}
    lost, short = [], []
    layouts = _FLOW_LAYOUTS if flow else _RGB_LAYOUTS
    for video in sorted(needed):
        place = None
        for layout in layouts:
            stride = 2 if flow and _in_epic_55(video) else 1
            bound = (25 if stride == 2 else 8) if flow else None
            pattern = root / layout.format(person=persons[video], video=video)
            uri = frames_uri(pattern, fps=_fps(video) / stride, bound=bound)
            count = min(_count(part) for part in parse_frames_uri(uri).components)
            if count:
                last = (needed[video] - 1) // stride + 1
                missed = count + (_FLOW_SHORTER if flow else 0) < last
                place = _Place(uri, count * stride if missed else math.inf)
                if missed:
                    short.append(f"{video} ({count} of {last})")
                break
        if place is None:
            lost.append(video)
        else:
            places[video] = place
    for videos, what in (
        (lost, "have no folder of frames"),
        (short, "have fewer frames than their segments"),
    ):
        if videos:
            named = ", ".join(videos[:_SHOWN]) + (", ..." if len(videos) > _SHOWN else "")
            logger.warning("%d of %d videos %s: %s", len(videos), len(needed), what, named)
    return places


def _count(pattern: str) -> int:
    """How many pictures a folder holds."""
    folder, _, name = pattern.rpartition("/")
    before, after = name.split("%010d")
    try:
        with os.scandir(folder) as entries:
            return sum(
                entry.name.startswith(before)
                and entry.name.endswith(after)
                and entry.name[len(before) : -len(after)].isdecimal()
                for entry in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        return 0
