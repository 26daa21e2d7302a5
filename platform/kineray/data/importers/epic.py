"""EPIC-KITCHENS-100 and -55. Their class numbers differ, so one manifest holds one of them."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from kineray import storage
from kineray.data.importers.base import Folder, Importer, Source, Videos, folder_of
from kineray.data.importers.epic_frames import Place, folder_places, numbered_fps, video_places
from kineray.data.importers.files import (
    Files,
    as_list,
    beside,
    csv_rows,
    file_name,
    files_of,
    made_manifest,
    split_of,
    stem,
    text_of,
    visible_names,
)
from kineray.data.importers.listed import Listed
from kineray.data.manifest.labels import ABSENT
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError

_TIMES = ("start_timestamp", "stop_timestamp", "start_frame", "stop_frame")


@dataclass(frozen=True)
class _Edition:
    """How the annotation files of one edition and their columns are named."""

    name: str
    id_column: str
    segments: tuple[str, ...]
    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    number_columns: tuple[str, str]  # of class numbers, in the files of verbs and of nouns
    name_column: str  # of class names


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
# Subsets of a split that E100 scores separately.
_TAIL = (
    ("tail_verb", "EPIC_100_tail_verbs.csv", "verb"),
    ("tail_noun", "EPIC_100_tail_nouns.csv", "noun"),
)
_UNSEEN = (
    ("val", "EPIC_100_unseen_participant_ids_validation.csv"),
    ("test", "EPIC_100_unseen_participant_ids_test.csv"),
)
SEGMENT_FILES = (*_E100.segments, *_E55.segments)


class EpicImporter(Importer, type="epic"):
    """The CSV files of EPIC-KITCHENS-100 or -55, or their folder: ``from_epic``."""

    videos: Videos = ""
    frames: Annotated[Folder, Field(description="Folder of extracted frames, instead of videos.")] = ""
    flow: Annotated[
        Folder, Field(description="Folder of extracted optical flow, alone or with videos or frames.")
    ] = ""

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """By the names of the files in a folder, or by the columns of a CSV file."""
        return all(map(_is_epic, sources))

    def read(self, sources: Sequence[str]) -> Manifest:
        """All segments; videos are looked for in the folder of the files unless frames or flow are named."""
        videos = self.videos or ("" if self.frames or self.flow else folder_of(sources))
        return from_epic(sources, videos=videos or None, frames=self.frames or None, flow=self.flow or None)


def _is_epic(source: Source) -> bool:
    if source.is_folder:
        return not set(SEGMENT_FILES).isdisjoint(source.names)
    columns = set(source.first_line.split(","))
    return "narration_id" in columns or columns >= {"uid", "start_frame"}


@dataclass(frozen=True)
class _Segment:
    """A row of an annotation file, at ``where``. ``frames``: first and last, counted from 1."""

    where: str
    id: str
    video: str
    person: str
    split: str
    subsets: frozenset[str]
    span_s: tuple[float, float]
    frames: tuple[int, int]
    verb: int
    noun: int


def from_epic(
    sources: Files,
    *,
    videos: str | Path | None = None,
    frames: str | Path | None = None,
    flow: str | Path | None = None,
) -> Manifest:
    """Import EPIC-KITCHENS-100 or -55 from its CSV files or the folder that holds them.

    Clips are read from ``videos`` or ``frames``, with or without ``flow``, or from ``flow`` alone; clips that
    one of the given folders lacks are missing. ``videos``: files named after the videos, anywhere below the
    folder, cut by ``start_timestamp`` and ``stop_timestamp``. ``frames``: folders of extracted frames, cut by
    ``start_frame`` and ``stop_frame``, which count 60 frames per second in videos of EPIC-55 (``P01_01``) and
    50 in later ones (``P01_101``), whatever the frame rate of the video. ``flow``: folders of optical flow,
    30 frames per second with bound 25, or 50 with bound 8.

    Heads: ``verb``, ``noun``, ``action`` (named ``<verb> <noun>``: the pairs that occur in the training
    segments, or if there are none in the validation segments) and for EPIC-100 ``verb_category`` and
    ``noun_category``. A segment's noun is the first that it lists. Labels that a file lacks, and pairs that
    are not a class, are -1. Subsets of EPIC-100's ``val``: ``unseen``, ``tail_verb``, ``tail_noun`` and
    ``tail_action`` (verb or noun in the tail), if their lists are in the folder of the CSV files; of
    EPIC-55's ``test``: ``seen`` and ``unseen``. The group is the video. Raises ManifestError.
    """
    if None not in (videos, frames):
        raise ManifestError(
            "given together with `videos`", code="given_twice", key="frames", remedy="give one of the two"
        )
    if videos is None and frames is None and flow is None:
        raise ManifestError(
            "no folder of clips", code="not_set", key="videos", remedy="give `videos`, `frames` or `flow`"
        )
    files = _segment_files(sources)
    edition = _edition(files)
    near = {file_name(file): file for file in [*beside(files), *files_of(sources)]}
    verb_column, noun_column = edition.number_columns
    verbs = _classes(_one_of(edition.verbs, near, files[0]), verb_column, edition.name_column)
    nouns = _classes(_one_of(edition.nouns, near, files[0]), noun_column, edition.name_column)
    tails = {
        subset: frozenset(_integer(number, where) for where, number in _column(near, name, column))
        for subset, name, column in _TAIL
    }
    unseen = {
        split: frozenset(person for _, person in _column(near, name, "participant_id"))
        for split, name in _UNSEEN
    }
    listed = Listed()
    segments = [
        segment
        for file in files
        for segment in _segments(file, edition, (len(verbs.names), len(nouns.names)), tails, unseen)
        if listed.is_new(segment.id, segment.where, (segment.verb, segment.noun), segment.split)
    ]
    listed.log()
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
        indices = {
            "verb": segment.verb,
            "noun": segment.noun,
            "action": index_of.get((segment.verb, segment.noun), ABSENT),
        }
        if edition is _E100:
            for head, classes in (("verb", verbs), ("noun", nouns)):
                categories = vocabularies[f"{head}_category"]
                known = indices[head] != ABSENT
                indices[f"{head}_category"] = (
                    categories.index(classes.categories[indices[head]]) if known else ABSENT
                )
        return indices

    last_frames: dict[str, int] = defaultdict(int)
    for segment in segments:
        last_frames[segment.video] = max(last_frames[segment.video], segment.frames[1])
    persons = {segment.video: segment.person for segment in segments}
    places: list[dict[str, Place]] = []
    if videos is not None:
        places.append(video_places(videos, last_frames))
    places += [
        folder_places(folder, last_frames, persons, flow=is_flow)
        for folder, is_flow in ((frames, False), (flow, True))
        if folder is not None
    ]
    missing: dict[str, list[str]] = defaultdict(list)

    def samples() -> Iterator[Sample]:
        for segment in segments:
            found = [place_of[segment.video] for place_of in places if segment.video in place_of]
            if len(found) < len(places) or segment.frames[0] > min(place.last_frame for place in found):
                missing[segment.split].append(segment.id)
                continue
            start_s, end_s = segment.span_s
            if videos is None:
                fps = numbered_fps(segment.video)
                start_s, end_s = (max(segment.frames[0], 1) - 1) / fps, segment.frames[1] / fps
            yield Sample(
                segment.id,
                found[0].uri,
                start_s,
                end_s,
                labels(segment),
                segment.video,
                segment.split,
                subsets=segment.subsets,
                flow=found[1].uri if len(found) > 1 else "",
            )

    return made_manifest(edition.name, samples(), vocabularies, missing)


def _segment_files(sources: Files) -> list[str]:
    """The CSV files of segments in ``sources``."""
    files = []
    for source in as_list(sources):
        names = visible_names(source)
        segments = [storage.join(source, name) for name in SEGMENT_FILES if name in names]
        if names and not segments:
            raise ManifestError(
                f"contains no annotations of EPIC-KITCHENS, such as {_E100.segments[0]}",
                code="not_found",
                key=source,
            )
        files += segments or [str(source)]
    for file in files:
        if file.endswith(".pkl"):
            raise ManifestError(
                "a pickle can run code when it is read",
                code="unsafe_file",
                key=file,
                remedy="name the CSV file",
            )
    return files


def _edition(files: Sequence[str]) -> _Edition:
    """The edition of the files, which their headers show."""
    editions = {}
    for file in files:
        header = [column.strip() for column in text_of(file).partition("\n")[0].split(",")]
        editions[file] = _E100 if _E100.id_column in header else _E55
        if editions[file] is not editions[files[0]]:
            raise ManifestError(
                f"belongs to {editions[file].name}, but {files[0]} to {editions[files[0]].name}, where class"
                " numbers mean other classes",
                code="mixed_formats",
                key=file,
                remedy="import them one at a time",
            )
    return editions[files[0]]


def _one_of(names: Sequence[str], near: Mapping[str, str], file: str) -> str:
    for name in names:
        if name in near:
            return near[name]
    raise ManifestError(
        f"{names[0]}, which names the classes, is not in its folder",
        code="not_found",
        key=file,
        remedy="put the two in one folder",
    )


@dataclass(frozen=True)
class _Classes:
    names: list[str]
    categories: list[str]  # by class; "" in EPIC-55


def _classes(file: str, number_column: str, name_column: str) -> _Classes:
    names: list[str] = []
    categories: list[str] = []
    for where, row in csv_rows(file, (number_column, name_column)):
        if row[number_column] != str(len(names)):
            raise ManifestError(
                f"class number {row[number_column]}, expected {len(names)}", code="bad_line", key=where
            )
        names.append(row[name_column])
        categories.append(row.get("category") or "")
    return _Classes(names, categories)


def _column(near: Mapping[str, str], name: str, column: str) -> list[tuple[str, str]]:
    """A column of the file ``name``, each value with its line; empty if there is no such file."""
    if name not in near:
        return []
    return [(where, row[column]) for where, row in csv_rows(near[name], (column,))]


def _segments(
    file: str,
    edition: _Edition,
    classes: tuple[int, int],
    tails: Mapping[str, frozenset[int]],
    unseen: Mapping[str, frozenset[str]],
) -> Iterator[_Segment]:
    """The rows of a file. Lists of several nouns (``all_nouns``) are not read: a segment has one noun."""
    split = split_of(stem(file), file)
    # Only test files have no labels.
    labels = () if split == "test" else ("verb_class", "noun_class")
    columns = (edition.id_column, "participant_id", "video_id", *_TIMES, *labels)
    for where, row in csv_rows(file, columns):
        verb, noun = (
            _label(row.get(f"{head}_class"), count, head, where)
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
            where,
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


def _label(text: str | None, classes: int, head: str, where: str) -> int:
    if text is None:
        return ABSENT
    label = _integer(text, where)
    if not 0 <= label < classes:
        raise ManifestError(
            f"{head}_class is {label}, but there are {classes} classes", code="out_of_range", key=where
        )
    return label


def _integer(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ManifestError(
            f"expected a whole number, got '{text[:80]}'", code="bad_line", key=where
        ) from None


def _seconds(text: str, where: str) -> float:
    """``00:30:21.75`` -> 1821.75, with any number of decimals."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip(), re.ASCII)
    if not match:
        raise ManifestError(
            f"expected a time such as 00:30:21.75, got '{text[:80]}'", code="bad_line", key=where
        )
    # Whole seconds are added first, exactly, so that the sum is rounded only once.
    return float(int(match[1]) * 3600 + int(match[2]) * 60) + float(match[3])


def _pairs(segments: Sequence[_Segment]) -> list[tuple[int, int]]:
    for split in ("train", "val"):
        pairs = {(s.verb, s.noun) for s in segments if s.split == split and ABSENT not in (s.verb, s.noun)}
        if pairs:
            return sorted(pairs)
    return []
