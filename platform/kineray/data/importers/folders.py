"""Videos in folders whose names are the labels."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

from pydantic import Field

from kineray import storage
from kineray.data.importers.base import GroupBy, Importer, Source
from kineray.data.importers.files import HEAD, SPLITS, a_sample, base_name
from kineray.data.importers.videos import sample_ids, video_groups, videos_below, warn_of_leaks
from kineray.data.manifest.division import divide
from kineray.data.manifest.labels import Label
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.names import composed
from kineray.errors import ManifestError

logger = logging.getLogger(__name__)

ValShare = Annotated[
    float,
    Field(ge=0, lt=1, description="Share of each class that becomes val if there are no folders of splits."),
]


class FoldersImporter(Importer, type="folders"):
    """A folder of videos, SOURCE/[SPLIT/]CLASS/*.mp4: ``from_folders``."""

    fallback: ClassVar[bool] = True

    val_share: ValShare = 0.2
    group_by: GroupBy = ""

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """Every folder."""
        return all(source.is_folder for source in sources)

    def read(self, sources: Sequence[str]) -> Manifest:
        """All videos below the folder."""
        return from_folders(self.one_of(sources), val_share=self.val_share, group_by=self.group_by)


def from_folders(root: str | Path, *, val_share: float = 0.2, group_by: str = "") -> Manifest:
    """Import ``<root>/<split>/<class>/<video>`` or ``<root>/<class>/<video>``, local or on S3.

    Without split folders, a share ``val_share`` of the videos of each class becomes the split ``val``: always
    the same ones, picked by a hash of their names. ``group_by``: a regular expression that finds a person or
    source video in a path; the videos of one are in one split then, whose classes are as even as that allows.
    Classes are in alphabetical order. Hidden files, and files without the suffix of a video, are left out.
    What is held out or left out is counted in the log. Raises ManifestError.
    """
    paths = videos_below(root, others=logging.WARNING)
    parts = {path: path.split("/") for path in paths}
    in_splits = _has_splits(parts.values())
    _check_layout(root, parts.values(), in_splits)
    class_of = {path: composed(folders[-2]) for path, folders in parts.items()}
    classes = sorted(set(class_of.values()))
    index_of, ids = {name: index for index, name in enumerate(classes)}, sample_ids(paths)
    groups = video_groups(paths, group_by)
    samples = (
        a_sample(
            ids[path],
            storage.join(root, path),
            index_of[class_of[path]],
            SPLITS[parts[path][0].lower()] if in_splits else "train",
            groups[path],
        )
        for path in paths
    )
    manifest = Manifest(base_name(root), samples, {HEAD: tuple(classes)})
    if not in_splits and val_share:
        return _held_out(manifest, val_share, group_by)
    warn_of_leaks(manifest)
    return manifest


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


def _held_out(manifest: Manifest, val_share: float, group_by: str) -> Manifest:
    """The manifest with a share of its samples, which are all in ``train``, in ``val``."""
    if group_by:
        made = divide(manifest, {"val": val_share}).manifest
    else:
        held_out = _picked(manifest, val_share)
        made = manifest.with_samples(
            replace(sample, split="val") if sample.group in held_out else sample for sample in manifest
        )
    logger.warning(
        "%s has no folders of splits: %d of its %d videos become val (val_share %g), %s",
        manifest.name,
        made.found.get("val", 0),
        len(made),
        val_share,
        "by groups" if group_by else "video by video; if several show one person or scene, set group_by",
    )
    return made


def _picked(manifest: Manifest, val_share: float) -> set[str]:
    """The groups that become val: of each class the first by a hash of the first of their files."""
    by_class: dict[Label, dict[str, bytes]] = defaultdict(dict)
    for sample in manifest:
        name = sample.id.partition("/")[0] + "/" + composed(PurePosixPath(sample.uri).name)
        by_class[sample.labels[HEAD]].setdefault(sample.group, hashlib.sha256(name.encode()).digest())
    picked: set[str] = set()
    for ranks in by_class.values():
        count = max(round(val_share * len(ranks)), 1) if len(ranks) > 1 else 0
        picked.update(sorted(ranks, key=lambda group: ranks[group])[:count])
    return picked
