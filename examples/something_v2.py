"""A data set of your own: Something-Something v2 (Goyal et al., arXiv 1706.04261) from its JSON files.

    kineray data import labels/ --plugin examples/something_v2.py --videos 20bn-something-something-v2/

``labels/`` holds labels.json, train.json, validation.json and test.json; videos are called ``<id>.webm``. A
mirrored video shows another class ("from left to right"), so train with ``data.flip=false``.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import kineray
from kineray.data import Manifest, Sample, Source

SPLITS = {"train": "train", "validation": "val", "test": "test"}  # name of the file -> split


class SomethingV2Importer(kineray.Importer, type="something-v2"):
    """The folder of labels.json, train.json, validation.json and test.json of Something-Something v2."""

    videos: str = ""

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """By the names of the files in a folder."""
        return all({"labels.json", "validation.json"} <= set(source.names) for source in sources)

    def read(self, sources: Sequence[str]) -> Manifest:
        """A sample for every video that is there; the test set has no labels."""
        folder = Path(self.one_of(sources))
        videos = {path.stem: path for path in Path(self.videos or folder).absolute().rglob("*.webm")}
        index_of = {name: int(index) for name, index in json.loads(_text(folder / "labels.json")).items()}
        samples, missing = [], {}
        for name, split in SPLITS.items():
            entries = {entry["id"]: entry for entry in json.loads(_text(folder / f"{name}.json"))}
            missing[split] = tuple(key for key in entries if key not in videos)
            samples += [
                Sample(key, str(videos[key]), 0.0, None, {"action": _label(entry, index_of)}, key, split)
                for key, entry in entries.items()
                if key in videos
            ]
        names = tuple(sorted(index_of, key=lambda name: index_of[name]))
        return Manifest("something-v2", samples, {"action": names}, missing)


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else "{}"


def _label(entry: dict[str, str], index_of: dict[str, int]) -> int:
    """``Pushing [something] from left to right`` is a class, without its brackets; -1: not known."""
    template = entry.get("template", "").replace("[", "").replace("]", "")
    return index_of[template] if template else -1
