"""The sizes of a manifest's video files, which distinguish data sets with different pixels.

A re-encoded copy has the ids, labels and spans of the original, and synthetic sets of different seeds have
the same ones. The size of a file is known without reading it, and stays the same when the file is copied.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from kineray import storage
from kineray.data.manifest.manifest import Manifest
from kineray.video import is_frames_uri


def record_sizes(manifest: Manifest, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """The manifest with the current size of every video file, on which its ``content_hash`` depends.

    Folders of frames and missing files have none. ``progress`` is called with (files done, all files).
    Raises StorageError.
    """
    files = dict.fromkeys(uri for uri in manifest.columns.column("uri").to_pylist() if not is_frames_uri(uri))

    def counted() -> Iterator[str]:
        for done, uri in enumerate(files, start=1):
            yield uri
            if progress:
                progress(done, len(files))

    sizes = storage.file_sizes(counted())
    return replace(manifest, samples=manifest.columns.with_sizes(sizes))


def changed_sizes(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """URI -> (recorded, current) bytes of the files whose size has changed since it was recorded.

    Missing files, and files whose size was not recorded, are left out. Raises StorageError.
    """
    columns = manifest.columns
    pairs = zip(columns.column("uri").to_pylist(), columns.column("size_bytes").to_pylist(), strict=True)
    recorded = {uri: size for uri, size in pairs if size}
    current = storage.file_sizes(recorded)
    return {uri: (recorded[uri], size) for uri, size in current.items() if size != recorded[uri]}
