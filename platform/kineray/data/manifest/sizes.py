"""The sizes of a manifest's video files, which tell a data set from one of other pixels.

Ids, labels and spans of a re-encoded copy are those of the original, as are those of two made sets of
different seeds. The size of a file is known without reading it, and does not change where it is copied to.
"""

from dataclasses import replace

from kineray import storage
from kineray.data.manifest.manifest import Manifest
from kineray.video import is_frames_uri


def record_sizes(manifest: Manifest) -> Manifest:
    """The manifest with the present size of every video file, which its ``content_hash`` depends on.

    Folders of frames and files that are not there have none. Raises StorageError.
    """
    uris = dict.fromkeys(manifest.columns.column("uri").to_pylist())
    sizes = storage.file_sizes(uri for uri in uris if not is_frames_uri(uri))
    return replace(manifest, samples=manifest.columns.with_sizes(sizes))


def changed_sizes(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """URI -> (recorded, present) bytes of the files whose size is not the recorded one any more.

    Files that are not there, or whose size was not recorded, are left out. Raises StorageError.
    """
    columns = manifest.columns
    pairs = zip(columns.column("uri").to_pylist(), columns.column("size_bytes").to_pylist(), strict=True)
    recorded = {uri: size for uri, size in pairs if size}
    present = storage.file_sizes(recorded)
    return {uri: (recorded[uri], size) for uri, size in present.items() if size != recorded[uri]}
