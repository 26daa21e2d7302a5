"""Kinetics-400, -600 and -700, and mini-Kinetics, which is a choice of Kinetics-400's clips."""

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kineray import storage
from kineray.data.importers.files import (
    HEAD,
    Files,
    a_sample,
    as_list,
    base_name,
    by_stem,
    csv_rows,
    files_of,
    lines_of,
    logger,
    made_manifest,
    split_of,
    stem,
)
from kineray.data.manifest.labels import ABSENT
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError

YOUTUBE_ID = re.compile(r"[\w-]{11}", re.ASCII)
_NAMED = 10  # classes that a manifest's name spells out


@dataclass(frozen=True, slots=True)
class _Clip:
    youtube_id: str
    name: str  # of its file, without suffix
    label: str  # "" where the file has none
    split: str


def from_kinetics_csv(
    csv_files: Files, videos_root: str | Path, *, class_names: Sequence[str] | None = None
) -> Manifest:
    """Import Kinetics from its official CSV files and a folder of trimmed clips.

    The columns ``label`` (absent in test files), ``youtube_id``, ``time_start``, ``time_end`` and
    ``split`` are read by name. Clips are called ``<youtube_id>_<start, 6 digits>_<end, 6 digits>`` and lie
    anywhere below ``videos_root``: flat, per split or per class, whatever the folders' names. Class indices
    follow the alphabetical order of the labels, or ``class_names``. Raises ManifestError.
    """
    files = as_list(csv_files)
    clips = [(file, clip) for file in files for clip in _clips(file)]
    names = list(class_names) if class_names else sorted({clip.label for _, clip in clips if clip.label})
    if not names:
        raise ManifestError(
            f"{files[0]}: no column 'label'; import it with the train CSV, or give the class names"
        )
    index_of = {name: index for index, name in enumerate(names)}
    videos = by_stem(videos_root)
    missing: dict[str, list[str]] = defaultdict(list)

    def samples() -> Iterator[Sample]:
        for file, clip in clips:
            if clip.label and clip.label not in index_of:
                raise ManifestError(
                    f"{file}: the label '{clip.label}' of {clip.name} is not one of the class names"
                )
            if clip.name in videos:
                label = index_of[clip.label] if clip.label else ABSENT
                uri = storage.join(videos_root, videos[clip.name])
                yield a_sample(clip.name, uri, label, clip.split, clip.youtube_id)
            else:
                missing[clip.split].append(clip.name)

    return made_manifest(base_name(videos_root), samples(), {HEAD: names}, missing)


def from_mini_kinetics(
    sources: Files, videos_root: str | Path, *, classes: Sequence[str] | None = None
) -> Manifest:
    """Import mini-Kinetics: lists of bare YouTube ids, whose labels and times Kinetics-400's CSVs know.

    ``sources``: the lists (``*.txt``) and the CSV files, or the folders that hold them. The split is the
    list's name (``train_ytid_list.txt``). ``classes`` keeps these alone; the manifest's name says which
    they are. Class indices follow the alphabetical order. Ids that the CSVs do not have are counted as
    missing; with ``classes``, which cannot be told of them, they are only reported. Clips are found as by
    ``from_kinetics_csv``. Raises ManifestError.
    """
    files = files_of(sources)
    tables = [file for file in files if file.endswith(".csv")]
    if not tables:
        raise ManifestError(
            f"{files[0]}: the ids have no labels; give the train and val CSV of Kinetics-400 too"
        )
    known = {clip.youtube_id: clip for file in tables for clip in _clips(file) if clip.label}
    listed = [
        (split_of(stem(file), file), youtube_id)
        for file in files
        if file.endswith(".txt")
        for youtube_id in _youtube_ids(file)
    ]
    if not listed:
        raise ManifestError(f"{files[0]}: no list of ids beside it, such as train_ytid_list.txt")
    there = sorted({known[youtube_id].label for _, youtube_id in listed if youtube_id in known})
    if not there:
        raise ManifestError(
            f"{tables[0]}: has none of the listed ids; give the train and val CSV of Kinetics-400"
        )
    names = sorted(set(classes)) if classes else there
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ManifestError(f"mini-Kinetics: no class '{name}' among the listed clips{hint}")
    index_of = {name: index for index, name in enumerate(names)}
    videos = by_stem(videos_root)
    missing: dict[str, list[str]] = defaultdict(list)
    unknown: dict[str, list[str]] = defaultdict(list)

    def samples() -> Iterator[Sample]:
        for split, youtube_id in listed:
            clip = known.get(youtube_id)
            if clip is None:
                unknown[split].append(youtube_id)
            elif clip.label in index_of and clip.name in videos:
                uri = storage.join(videos_root, videos[clip.name])
                yield a_sample(clip.name, uri, index_of[clip.label], split, youtube_id)
            elif clip.label in index_of:
                missing[split].append(clip.name)
        for split, ids in unknown.items():
            logger.warning("%s: %d listed ids are not in the CSV files, such as %s", split, len(ids), ids[0])
            if not classes:
                missing[split] += ids

    return made_manifest(_mini_name(names, whole=not classes), samples(), {HEAD: names}, missing)


def _mini_name(names: Sequence[str], *, whole: bool) -> str:
    if whole:
        return f"mini-kinetics-{len(names)}"
    more = ", ..." if len(names) > _NAMED else ""
    return f"mini-kinetics-{len(names)}: {', '.join(names[:_NAMED])}{more}"


def _clips(file: str | Path) -> Iterator[_Clip]:
    rows = csv_rows(file, ("youtube_id", "time_start", "time_end"), "Kinetics' header line")
    for row in rows:
        youtube_id = row["youtube_id"]
        try:
            start, end = (round(float(row[column])) for column in ("time_start", "time_end"))
        except (ValueError, OverflowError):
            raise ManifestError(f"{file}: {youtube_id}: time_start and time_end must be numbers") from None
        split = split_of(row.get("split") or stem(str(file)), file)
        yield _Clip(youtube_id, f"{youtube_id}_{start:06d}_{end:06d}", row.get("label") or "", split)


def clip_span(name: str) -> tuple[str, float, float] | None:
    """YouTube id, start and end in seconds, from a clip's file name; None if it is not named so.

    Ids can hold ``_`` and begin with ``-``.
    """
    parts = name.rsplit("_", 2)
    if len(parts) < 3 or not all(part.isdecimal() for part in parts[1:]):
        return None
    return parts[0], float(parts[1]), float(parts[2])


def _youtube_ids(file: str | Path) -> Iterable[str]:
    for number, line in lines_of(file):
        if not YOUTUBE_ID.fullmatch(line):
            raise ManifestError(f"{file}:{number}: expected a YouTube id of 11 characters, got '{line[:80]}'")
        yield line
