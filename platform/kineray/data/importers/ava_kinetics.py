"""AVA-Kinetics: key frames of Kinetics, and of AVA's films where its files are given too."""

from collections.abc import Sequence
from pathlib import Path

from kineray.data.importers.ava import Offset, import_ava, is_of_ava, is_of_kinetics
from kineray.data.importers.base import Importer, Source, Videos, folder_of
from kineray.data.importers.files import Files
from kineray.data.manifest.manifest import Manifest


class AvaKineticsImporter(Importer, type="ava-kinetics"):
    """kinetics_train_v1.0.csv and the .pbtxt with the actions, or their folder: ``from_ava_kinetics``."""

    videos: Videos = ""
    offset: Offset = 0.0

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """By the names of the files, with or without those of AVA."""
        return all(map(is_of_ava, sources)) and any(map(is_of_kinetics, sources))

    def read(self, sources: Sequence[str]) -> Manifest:
        """Key frames, their persons in boxes."""
        return from_ava_kinetics(sources, self.videos or folder_of(sources), offset_s=self.offset)


def from_ava_kinetics(sources: Files, videos_root: str | Path, *, offset_s: float = 0.0) -> Manifest:
    """Import AVA-Kinetics: ``kinetics_{train,val,test}_v1.0.csv``, and AVA's files where they are given too.

    As ``from_ava``, but in the files of Kinetics persons have no id, a row of id and time alone is a key
    frame without an action, and the time is that of the whole YouTube video: the key frame is looked up in
    the clip ``<youtube_id>_<start>_<end>`` that holds it, at the time less the clip's start. Of two clips
    that hold it, it is the one that has it further from its ends. Raises ManifestError.
    """
    return import_ava(sources, videos_root, offset_s, kinetics=True)
