"""Videos in folders whose names are the labels."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from kineray import storage
from kineray.data.importers.base import Importer, Source
from kineray.data.importers.files import HEAD, SPLITS, a_sample, base_name
from kineray.data.importers.videos import composed, sample_ids, videos_below
from kineray.data.manifest.manifest import Manifest
from kineray.errors import ManifestError

ValShare = Annotated[
    float,
    Field(ge=0, lt=1, description="Share of each class that becomes val if there are no folders of splits."),
]


class FoldersImporter(Importer, type="folders"):
    """A folder of videos, SOURCE/[SPLIT/]CLASS/*.mp4: ``from_folders``."""

    fallback: ClassVar[bool] = True

    val_share: ValShare = 0.2

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """Every folder."""
        return all(source.is_folder for source in sources)

    def read(self, sources: Sequence[str]) -> Manifest:
        """All videos below the folder."""
        return from_folders(self.one_of(sources), val_share=self.val_share)


def from_folders(root: str | Path, *, val_share: float = 0.2) -> Manifest:
    """Import ``<root>/<split>/<class>/<video>`` or ``<root>/<class>/<video>``, local or on S3.

    Without split folders, a share ``val_share`` of the videos of each class becomes the split ``val``: always
    the same ones, picked by a hash of their names. Classes are in alphabetical order. Hidden files, and files
    without the suffix of a video, are left out and counted in the log. Raises ManifestError.
    """
    paths = videos_below(root, others=logging.WARNING)
    parts = {path: path.split("/") for path in paths}
    in_splits = _has_splits(parts.values())
    _check_layout(root, parts.values(), in_splits)
    splits = {path: SPLITS[first.lower()] for path, (first, *_) in parts.items()} if in_splits else {}
    splits = splits or _held_out(paths, val_share)
    class_of = {path: composed(folders[-2]) for path, folders in parts.items()}
    classes = sorted(set(class_of.values()))
    index_of, ids = {name: index for index, name in enumerate(classes)}, sample_ids(paths)
    samples = (
        a_sample(ids[path], storage.join(root, path), index_of[class_of[path]], splits[path])
        for path in paths
    )
    return Manifest(base_name(root), samples, {HEAD: tuple(classes)})


def _has_splits(paths: Collection[Sequence[str]]) -> bool:
    """Whether the layout is that with split folders: that of most videos."""
    of_splits = [path for path in paths if len(path) > 1 and path[0].lower() in SPLITS]
    in_splits = sum(len(path) == 3 for path in of_splits)
    in_classes = sum(len(path) == 2 for path in paths) - sum(len(path) == 2 for path in of_splits)
    return bool(of_splits) and in_splits >= in_classes


def _check_layout(root: str | Path, paths: Collection[Sequence[str]], in_splits: bool) -> None:
    """Raise ManifestError for videos that lie elsewhere, naming the first."""
    stray = [
        "/".join(path)
        for path in paths
        if len(path) != (3 if in_splits else 2) or (in_splits and path[0].lower() not in SPLITS)
    ]
    if paths and not stray:
        return
    expected = "<split>/<class>/<video> or <class>/<video>"
    others = f" and {len(stray) - 1} of the other {len(paths) - 1} videos" * (len(stray) > 1)
    raise ManifestError(
        f"expected {expected}, found {stray[0]}{others}" if stray else f"no video; expected {expected}",
        code="wrong_layout" if stray else "empty",
        key=root,
        remedy="move or remove it, or name the folders of splits train, val or test" if stray else "",
    )


def _held_out(paths: Sequence[str], val_share: float) -> dict[str, str]:
    by_class: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_class[composed(path.partition("/")[0])].append(path)
    splits = {}
    for names in by_class.values():
        ranked = sorted(names, key=lambda name: hashlib.sha256(composed(name).encode()).digest())
        held_out = max(round(val_share * len(names)), 1) if val_share > 0 and len(names) > 1 else 0
        splits.update({name: "val" if rank < held_out else "train" for rank, name in enumerate(ranked)})
    return splits
