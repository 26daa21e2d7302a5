"""Mini-Kinetics, a selection of the clips of Kinetics-400."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from kineray import storage
from kineray.config.problems import did_you_mean
from kineray.data.importers.base import Classes, Importer, Source, Videos, folder_of
from kineray.data.importers.files import (
    HEAD,
    Files,
    a_sample,
    files_of,
    lines_of,
    logger,
    made_manifest,
    split_of,
    stem,
)
from kineray.data.importers.kinetics import clips_of, is_kinetics_csv
from kineray.data.importers.listed import Listed
from kineray.data.importers.videos import by_stem
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError

_YOUTUBE_ID = re.compile(r"[\w-]{11}", re.ASCII)
_LIST = re.compile(r"(train|val)_ytid_list\.txt")
_NAMED = 10  # classes that the name of a manifest lists


class MiniKineticsImporter(Importer, type="mini-kinetics"):
    """Lists train_ytid_list.txt, val_ytid_list.txt and the CSVs of Kinetics-400: ``from_mini_kinetics``."""

    videos: Videos = ""
    classes: Classes = ()

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """By the names of the lists in a folder, or by lines that are YouTube ids."""
        lists = [source for source in sources if _is_list(source)]
        return bool(lists) and all(source in lists or is_kinetics_csv(source) for source in sources)

    def read(self, sources: Sequence[str]) -> Manifest:
        """The lists, joined with the CSV files."""
        return from_mini_kinetics(sources, self.videos or folder_of(sources), classes=self.classes)


def _is_list(source: Source) -> bool:
    if source.is_folder:
        return any(map(_LIST.fullmatch, source.names))
    return bool(_YOUTUBE_ID.fullmatch(source.first_line))


def from_mini_kinetics(
    sources: Files, videos_root: str | Path, *, classes: Sequence[str] | None = None
) -> Manifest:
    """Import mini-Kinetics: lists of YouTube ids, whose labels and times are in the CSVs of Kinetics-400.

    ``sources``: the lists (``*.txt``) and the CSV files, or the folders that hold them. The name of a list
    gives the split (``train_ytid_list.txt``). ``classes``: keep only these (an underscore may stand for a
    space), and list them in the name of the manifest. Class indices follow the alphabetical order. Ids that
    the CSVs do not contain are counted as missing; with ``classes`` they are only logged, as they may be of
    other classes. Clips are found as by ``from_kinetics_csv``. Raises ManifestError.
    """
    files = files_of(sources)
    tables = [file for file in files if file.endswith(".csv")]
    if not tables:
        raise ManifestError(
            "ids without labels",
            code="no_labels",
            key=files[0],
            remedy="name the train and val CSV of Kinetics-400 too",
        )
    known = {clip.youtube_id: clip for file in tables for clip in clips_of(file) if clip.label}
    once = Listed()
    listed = [
        (split, youtube_id)
        for file in files
        if file.endswith(".txt")
        for split in (split_of(stem(file), file),)
        for where, youtube_id in _youtube_ids(file)
        if once.is_new(youtube_id, where, None, split)
    ]
    once.log()
    if not listed:
        raise ManifestError(
            "no list of ids",
            code="not_found",
            key=files[0],
            remedy="name train_ytid_list.txt or val_ytid_list.txt too",
        )
    present = sorted({known[youtube_id].label for _, youtube_id in listed if youtube_id in known})
    if not present:
        raise ManifestError(
            "contains none of the listed ids",
            code="not_found",
            key=tables[0],
            remedy="name the train and val CSV of Kinetics-400",
        )
    without_spaces = {name.replace(" ", "_"): name for name in present}
    names = sorted({without_spaces.get(name, name) for name in classes}) if classes else present
    for name in names:
        if name not in present:
            raise ManifestError(
                "no listed clip is of this class",
                code="unknown_value",
                key="classes",
                value=name,
                remedy=did_you_mean(name, present),
            )
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


def _youtube_ids(file: str | Path) -> Iterator[tuple[str, str]]:
    for where, line in lines_of(file):
        if not _YOUTUBE_ID.fullmatch(line):
            raise ManifestError(
                f"expected a YouTube id of 11 characters, got '{line[:80]}'", code="bad_line", key=where
            )
        yield where, line
