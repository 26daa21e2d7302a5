"""AVA-Kinetics: key frames of Kinetics, and of the films of AVA if its files are named too."""

from collections.abc import Sequence
from pathlib import Path

from kineray.data.importers.ava import Offset, import_ava, is_of_ava, is_of_kinetics
from kineray.data.importers.base import Importer, Source, Videos, folder_of
from kineray.data.importers.files import Files
from kineray.data.manifest.manifest import Manifest


class AvaKineticsImporter(Importer, type="ava-kinetics"):
    """Files kinetics_train_v1.0.csv and the .pbtxt of the actions, or their folder: ``from_ava_kinetics``."""

    videos: Videos = ""
    offset: Offset = 0.0

    @classmethod
    def recognises(cls, sources: Sequence[Source]) -> bool:
        """By the names of the files, with or without those of AVA."""
        return all(map(is_of_ava, sources)) and any(map(is_of_kinetics, sources))

    def read(self, sources: Sequence[str]) -> Manifest:
        """The key frames, with a box for each person."""
        return from_ava_kinetics(sources, self.videos or folder_of(sources), offset_s=self.offset)


def from_ava_kinetics(sources: Files, videos_root: str | Path, *, offset_s: float = 0.0) -> Manifest:
    """Import AVA-Kinetics: ``kinetics_{train,val,test}_v1.0.csv``, and files of AVA if they are named too.

    As ``from_ava``, with three differences in the files of Kinetics: persons have no id; a row with nothing
    but id and time is a key frame without actions; times are those of the whole YouTube video, so a key frame
    is read from the clip ``<youtube_id>_<start>_<end>`` that contains it, at its time minus the clip's start.
    If several clips contain it, the one in which it is furthest from an end is taken. Raises ManifestError.
    """
    return import_ava(sources, videos_root, offset_s, kinetics=True)
