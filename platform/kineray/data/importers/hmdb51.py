"""HMDB51: three splits, with a file for each class and split."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from kineray import storage
from kineray.data.importers.base import Importer, Source, SplitNumber, Videos, folder_of
from kineray.data.importers.files import HEAD, lines_of, made_manifest, stem, visible_names
from kineray.data.importers.listed import Listed
from kineray.data.importers.videos import videos_below
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.names import composed
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError

_USES = {"0": None, "1": "train", "2": "test"}
_LIST = re.compile(r".+_test_split[1-3]\.txt")


class Hmdb51Importer(Importer, type="hmdb51"):
    """The folder of the lists CLASS_test_split1.txt: ``from_hmdb51``."""

    videos: Videos = ""
    split: SplitNumber = 1

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """By the names of the lists. One list alone is recognised too, so that ``read`` can refuse it."""
        return all(any(map(_LIST.fullmatch, (source.name, *source.names))) for source in sources)

    def read(self, sources: Sequence[str]) -> Manifest:
        """One of the three splits."""
        folder = self.one_of(sources)
        if _LIST.fullmatch(folder.rpartition("/")[2]):
            raise ManifestError(
                "only one of the lists of HMDB51", code="needs_folder", key=folder, remedy="name its folder"
            )
        return from_hmdb51(folder, self.videos or folder_of(sources), split=self.split)


def from_hmdb51(annotations: str | Path, videos_root: str | Path, *, split: int = 1) -> Manifest:
    """Import one of the three splits of HMDB51 from the folder of ``<class>_test_split<N>.txt``.

    A line is ``<file> 0|1|2``: unused, train, test; there is no official validation split. Classes are in
    alphabetical order. Videos lie at ``<class>/<file>`` or anywhere else below ``videos_root``, with any
    suffix. The group is the source (a film or web video), which is the part of the file name before the
    class; files without the class in their names are groups of their own. Raises ManifestError.
    """
    suffix = f"_test_split{split}.txt"
    files = {
        name.removesuffix(suffix): storage.join(annotations, name)
        for name in visible_names(annotations)
        if name.endswith(suffix)
    }
    if not files:
        raise ManifestError(f"contains no file <class>{suffix}", code="not_found", key=annotations)
    classes = sorted(files)
    videos = _videos(videos_root)
    missing: dict[str, list[str]] = defaultdict(list)
    listed = Listed()

    def samples() -> Iterator[Sample]:
        for label, class_name in enumerate(classes):
            for where, line in lines_of(files[class_name]):
                # File names may contain spaces, but the use is always the last word.
                file, *use = line.rsplit(None, 1)
                if not use or use[0] not in _USES:
                    raise ManifestError(
                        f"expected '<file> 0|1|2', got '{line[:200]}'", code="bad_line", key=where
                    )
                used_in = _USES[use[0]]
                sample_id = f"{class_name}/{stem(file)}"
                if used_in is None or not listed.is_new(sample_id, where, class_name, used_in):
                    continue
                video = videos.get(f"{class_name}/{stem(file)}") or videos.get(stem(file))
                if video is None:
                    missing[used_in].append(f"{class_name}/{file}")
                    continue
                uri = storage.absolute(storage.join(videos_root, video))
                group = _source(file, class_name) or sample_id
                yield Sample(sample_id, uri, 0.0, None, {HEAD: label}, group, used_in)
        listed.log()

    return made_manifest(f"hmdb51-split{split}", samples(), {HEAD: classes}, missing)


def _source(file: str, class_name: str) -> str:
    """``April_09`` of ``April_09_brush_hair_u_nm_np1_ba_goo_0.avi``, "" if the class is not in the name."""
    parts = re.split(rf"_{re.escape(class_name)}_(?=[a-z]_)", stem(file), flags=re.IGNORECASE)
    return parts[0] if len(parts) > 1 else ""


def _videos(root: str | Path) -> dict[str, str]:
    """Videos below ``root``: ``<folder>/<name>`` and ``<name>``, without suffix -> relative path."""
    videos: dict[str, str] = {}
    for path in videos_below(root):
        name = composed(stem(path))
        videos.setdefault("/".join([*path.split("/")[-2:-1], name]), path)
        videos.setdefault(name, path)
    return videos
