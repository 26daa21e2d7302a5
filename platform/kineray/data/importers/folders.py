"""Videos in folders whose names are the labels."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from kineray import storage
from kineray.data.importers.base import Importer, Source
from kineray.data.importers.files import HEAD, SPLITS, a_sample, base_name, is_video
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
    the same ones, picked by a hash of their names. Classes are in alphabetical order. Raises ManifestError.
    """
    paths = [path.split("/") for path in storage.list_files(root) if is_video(path)]
    split_depth = {len(path) for path in paths if path[0].lower() in SPLITS}
    depths = {len(path) for path in paths}
    if depths == {3} and split_depth == {3} and all(path[0].lower() in SPLITS for path in paths):
        splits = {"/".join(path): SPLITS[path[0].lower()] for path in paths}
    elif depths == {2}:
        splits = _held_out(paths, val_share)
    else:
        expected = "<split>/<class>/<video> or <class>/<video>"
        raise ManifestError(
            f"expected {expected}, found {'/'.join(paths[0])}" if paths else f"no video; expected {expected}",
            code="wrong_layout" if paths else "empty",
            key=root,
            remedy="name the folders of splits train, val or test",
        )
    classes = sorted({path[-2] for path in paths})
    index_of = {name: index for index, name in enumerate(classes)}
    samples = (
        a_sample(
            Path("/".join(path)).with_suffix("").as_posix(),
            storage.join(root, *path),
            index_of[path[-2]],
            splits["/".join(path)],
        )
        for path in paths
    )
    return Manifest(base_name(root), samples, {HEAD: tuple(classes)})


def _held_out(paths: Sequence[Sequence[str]], val_share: float) -> dict[str, str]:
    by_class: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_class[path[0]].append("/".join(path))
    splits = {}
    for names in by_class.values():
        ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        held_out = max(round(val_share * len(names)), 1) if val_share > 0 and len(names) > 1 else 0
        splits.update({name: "val" if rank < held_out else "train" for rank, name in enumerate(ranked)})
    return splits
