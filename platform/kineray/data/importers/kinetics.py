"""Kinetics-400, -600 and -700."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kineray import storage
from kineray.config.problems import did_you_mean
from kineray.data.importers.base import Classes, Importer, Source, Videos, folder_of
from kineray.data.importers.files import (
    HEAD,
    Files,
    a_sample,
    as_list,
    base_name,
    csv_rows,
    made_manifest,
    split_of,
    stem,
)
from kineray.data.importers.listed import Listed
from kineray.data.importers.videos import by_stem
from kineray.data.manifest.labels import ABSENT
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError


@dataclass(frozen=True, slots=True)
class KineticsClip:
    """A row of a CSV file. ``name``: of the video file, without suffix; ``label``: "" if the row has none;
    ``where``: file and line."""

    youtube_id: str
    name: str
    label: str
    split: str
    where: str


class KineticsImporter(Importer, type="kinetics-csv"):
    """The official CSV files of Kinetics-400, -600 and -700: ``from_kinetics_csv``."""

    videos: Videos = ""
    classes: Classes = ()

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """By the column youtube_id."""
        return all(map(is_kinetics_csv, sources))

    def read(self, sources: Sequence[str]) -> Manifest:
        """All clips of the CSV files."""
        return from_kinetics_csv(sources, self.videos or folder_of(sources), class_names=self.classes)


def is_kinetics_csv(source: Source) -> bool:
    """Whether a source is a CSV file with the column youtube_id."""
    return not source.is_folder and "youtube_id" in source.first_line


def from_kinetics_csv(
    csv_files: Files, videos_root: str | Path, *, class_names: Sequence[str] | None = None
) -> Manifest:
    """Import Kinetics from its official CSV files and a folder of trimmed clips.

    The columns ``label`` (absent in test files), ``youtube_id``, ``time_start``, ``time_end`` and
    ``split`` are read by name. Clips are named ``<youtube_id>_<start, 6 digits>_<end, 6 digits>`` and lie
    anywhere below ``videos_root``, in folders of any name. Class indices follow the alphabetical order of the
    labels, or ``class_names``. Raises ManifestError.
    """
    files = as_list(csv_files)
    names = list(class_names or ())
    listed = Listed()
    clips = [
        clip
        for file in files
        for clip in clips_of(file, names)
        if listed.is_new(clip.name, clip.where, clip.label, clip.split)
    ]
    listed.log()
    names = names or sorted({clip.label for clip in clips if clip.label})
    if not names:
        raise ManifestError(
            "no clip has a label",
            code="no_labels",
            key=files[0],
            remedy="import it together with the train CSV, or give the names of the `classes`",
        )
    index_of = {name: index for index, name in enumerate(names)}
    videos = by_stem(videos_root)
    missing: dict[str, list[str]] = defaultdict(list)

    def samples() -> Iterator[Sample]:
        for clip in clips:
            if clip.name in videos:
                label = index_of[clip.label] if clip.label else ABSENT
                uri = storage.join(videos_root, videos[clip.name])
                yield a_sample(clip.name, uri, label, clip.split, clip.youtube_id)
            else:
                missing[clip.split].append(clip.name)

    return made_manifest(base_name(videos_root), samples(), {HEAD: names}, missing)


def clips_of(file: str | Path, class_names: Sequence[str] = ()) -> Iterator[KineticsClip]:
    """The rows of a CSV file. Raises ManifestError, also for a label that is not among ``class_names``, if
    there are any."""
    classes = set(class_names)
    for where, row in csv_rows(file, ("youtube_id", "time_start", "time_end")):
        youtube_id = row["youtube_id"]
        try:
            start, end = (round(float(row[column])) for column in ("time_start", "time_end"))
        except (ValueError, OverflowError):
            raise ManifestError(
                "time_start and time_end must be numbers of seconds", code="bad_line", key=where
            ) from None
        split = split_of(row["split"], where) if row.get("split") else split_of(stem(str(file)), file)
        label = row.get("label") or ""
        if label and classes and label not in classes:
            raise ManifestError(
                f"the label '{label}' is not one of the {len(classes)} class names",
                code="unknown_value",
                key=where,
                remedy=did_you_mean(label, class_names),
            )
        yield KineticsClip(youtube_id, f"{youtube_id}_{start:06d}_{end:06d}", label, split, where)


def clip_span(name: str) -> tuple[str, float, float] | None:
    """YouTube id, start and end in seconds, from a clip's file name; None if the name has another form.

    Ids can contain ``_`` and begin with ``-``.
    """
    parts = name.rsplit("_", 2)
    if len(parts) < 3 or not all(part.isdecimal() for part in parts[1:]):
        return None
    return parts[0], float(parts[1]), float(parts[2])
