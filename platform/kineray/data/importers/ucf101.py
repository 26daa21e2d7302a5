"""UCF-101: three splits into train and test."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from kineray import storage
from kineray.data.importers.base import Importer, Source, SplitNumber, Videos, folder_of
from kineray.data.importers.files import HEAD, lines_of, made_manifest, stem
from kineray.data.importers.listed import Listed
from kineray.data.importers.videos import by_stem
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError

_GROUP = re.compile(r"_(g\d+)_c\d+$", re.IGNORECASE)
_LIST = re.compile(r"(train|test)list0[1-3]\.txt")


class Ucf101Importer(Importer, type="ucf101"):
    """The folder of classInd.txt and trainlist01.txt: ``from_ucf101``."""

    videos: Videos = ""
    split: SplitNumber = 1

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """By classInd.txt. One list alone is recognised too, so that ``read`` can refuse it."""
        return all("classInd.txt" in source.names or _LIST.fullmatch(source.name) for source in sources)

    def read(self, sources: Sequence[str]) -> Manifest:
        """One of the three splits."""
        folder = self.one_of(sources)
        if _LIST.fullmatch(folder.rpartition("/")[2]):
            raise ManifestError(
                "only one of the lists of UCF-101", code="needs_folder", key=folder, remedy="name its folder"
            )
        return from_ucf101(folder, self.videos or folder_of(sources), split=self.split)


def from_ucf101(annotations: str | Path, videos_root: str | Path, *, split: int = 1) -> Manifest:
    """Import one of the three splits of UCF-101 from the folder of ``classInd.txt`` and the lists.

    The list ``testlist0N.txt`` becomes the split ``test``; there is no official validation split. The
    directory in a line gives the label, not the file name: files of HandstandPushups are named
    ``v_HandStandPushups_*``. Videos lie anywhere below ``videos_root``, with any suffix. The group is the
    source video (class and gNN); a group in both lists is refused. Raises ManifestError.
    """
    classes = _classes(storage.join(annotations, "classInd.txt"))
    index_of = {name: index for index, name in enumerate(classes)}
    videos = {name.casefold(): path for name, path in by_stem(videos_root).items()}
    missing: dict[str, list[str]] = defaultdict(list)
    split_of_group: dict[str, str] = {}
    listed = Listed()

    def samples() -> Iterator[Sample]:
        for name, listing in (("train", "trainlist"), ("test", "testlist")):
            file = storage.join(annotations, f"{listing}{split:02d}.txt")
            for where, line in lines_of(file):
                path, _, label = line.partition(" ")
                directory, slash, _ = path.rpartition("/")
                if not slash or directory not in index_of:
                    raise ManifestError(
                        f"'{path}' is not in a class of classInd.txt", code="unknown_value", key=where
                    )
                if label and label != str(index_of[directory] + 1):
                    raise ManifestError(
                        f"the label of {path} is {label}, but in classInd.txt {index_of[directory] + 1}",
                        code="wrong_labels",
                        key=where,
                    )
                sample_id = f"{directory}/{stem(path)}"
                found = _GROUP.search(stem(path))
                group = f"{directory}/{found[1].lower()}" if found else sample_id
                if split_of_group.setdefault(group, name) != name:
                    raise ManifestError(
                        f"the group {group} is in both lists of the split", code="leak", key=where
                    )
                if not listed.is_new(sample_id, where, directory, name):
                    continue
                video = videos.get(stem(path).casefold())
                if video is None:
                    missing[name].append(path)
                    continue
                uri = storage.absolute(storage.join(videos_root, video))
                yield Sample(sample_id, uri, 0.0, None, {HEAD: index_of[directory]}, group, name)
        listed.log()

    return made_manifest(f"ucf101-split{split}", samples(), {HEAD: classes}, missing)


def _classes(file: str) -> list[str]:
    """Class names by index; the numbers in the file start at 1."""
    names: list[str] = []
    for where, line in lines_of(file):
        label, _, name = line.partition(" ")
        if label != str(len(names) + 1) or not name:
            raise ManifestError(
                f"expected '{len(names) + 1} ClassName', got '{line[:80]}'", code="bad_line", key=where
            )
        names.append(name)
    if not names:
        raise ManifestError("no classes in it", code="empty", key=file)
    return names
