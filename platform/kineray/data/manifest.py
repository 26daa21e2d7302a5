"""The list of clips of a data set: which video, which span, which labels, which split."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kineray.data import storage
from kineray.errors import ManifestError

FILE_NAME = "manifest.parquet"
ABSENT = -1
_METADATA_KEY = b"kineray.manifest"
_LABEL_PREFIX = "label."


@dataclass(frozen=True)
class Sample:
    """One labelled span of a video, in seconds from its first frame; ``end_s`` None: to its end.

    ``labels`` holds a class index for every head, -1 where it is not known. ``group`` names what must
    not be cut by a split (a source video, a person).
    """

    id: str
    uri: str
    start_s: float
    end_s: float | None
    labels: Mapping[str, int]
    group: str
    split: str


@dataclass(frozen=True)
class Manifest:
    """Samples in a fixed order, with the class names of every head.

    ``vocabularies``: head -> class names by index. ``missing``: split -> names of the clips that the
    annotations list but that were not found when the manifest was made.
    """

    name: str
    samples: tuple[Sample, ...]
    vocabularies: Mapping[str, tuple[str, ...]]
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        repeated = [
            name for name, count in Counter(sample.id for sample in self.samples).items() if count > 1
        ]
        if repeated:
            raise ManifestError(
                f"{self.name}: the id {repeated[0]} occurs more than once; ids must be unique"
            )
        for sample in self.samples:
            if sample.labels.keys() != self.vocabularies.keys():
                raise ManifestError(
                    f"{self.name}: {sample.id} has labels for {sorted(sample.labels)},"
                    f" the vocabularies are {sorted(self.vocabularies)}"
                )
            for head, label in sample.labels.items():
                if not ABSENT <= label < len(self.vocabularies[head]):
                    raise ManifestError(
                        f"{self.name}: {sample.id} has {head}={label}, but there are"
                        f" {len(self.vocabularies[head])} classes"
                    )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def found(self) -> dict[str, int]:
        """Number of samples in each split."""
        return dict(Counter(sample.split for sample in self.samples))

    @property
    def listed(self) -> dict[str, int]:
        """Number of clips that the annotations list in each split, found or not."""
        found = self.found
        splits = [*found, *(split for split in self.missing if split not in found)]
        return {split: found.get(split, 0) + len(self.missing.get(split, ())) for split in splits}

    def split(self, name: str) -> "Manifest":
        """The samples of one split, in order. Raises ManifestError if there are none."""
        samples = tuple(sample for sample in self.samples if sample.split == name)
        if not samples:
            splits = ", ".join(f"{split} ({count})" for split, count in sorted(self.found.items())) or "none"
            raise ManifestError(f"{self.name}: no samples in split '{name}'; its splits are {splits}")
        missing = {name: self.missing[name]} if name in self.missing else {}
        return Manifest(self.name, samples, self.vocabularies, missing)

    @cached_property
    def content_hash(self) -> str:
        """sha256 (hex) of the rows in their order and of the vocabularies.

        A video is known by its sample's id, not by its URI: copies of a data set in two folders, or
        on a disk and in a bucket, have the same hash.
        """
        digest = hashlib.sha256()
        vocabularies = {head: list(names) for head, names in sorted(self.vocabularies.items())}
        digest.update(json.dumps(vocabularies).encode())
        for sample in self.samples:
            end_s = None if sample.end_s is None else float(sample.end_s)
            row = [sample.id, float(sample.start_s), end_s, sample.group, sample.split]
            digest.update(b"\n" + json.dumps([*row, sorted(sample.labels.items())]).encode())
        return digest.hexdigest()


def save_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest as Parquet to a local path or an s3 URI.

    URIs inside the manifest's folder are stored relative to it, so that the folder can be moved.
    """
    folder = _folder_of(str(path))
    columns: dict[str, Any] = {
        "id": pa.array([sample.id for sample in manifest], pa.string()),
        "uri": pa.array([_relative(sample.uri, folder) for sample in manifest], pa.string()),
        "start_s": pa.array([sample.start_s for sample in manifest], pa.float64()),
        "end_s": pa.array([sample.end_s for sample in manifest], pa.float64()),
        "group": pa.array([sample.group for sample in manifest], pa.string()),
        "split": pa.array([sample.split for sample in manifest], pa.string()),
    }
    for head in manifest.vocabularies:
        columns[_LABEL_PREFIX + head] = pa.array([sample.labels[head] for sample in manifest], pa.int32())
    about = {
        "version": 1,
        "name": manifest.name,
        "vocabularies": {head: list(names) for head, names in manifest.vocabularies.items()},
        "missing": {split: list(names) for split, names in manifest.missing.items()},
    }
    table = pa.table(columns).replace_schema_metadata({_METADATA_KEY: json.dumps(about).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    storage.write_bytes(path, buffer.getvalue())


def load_manifest(uri: str | Path) -> Manifest:
    """Read a manifest from a Parquet file or from the folder that holds ``manifest.parquet``.

    The samples' URIs are absolute afterwards. Raises ManifestError, or StorageError if there is no file.
    """
    path = str(uri)
    if not path:
        raise ManifestError("data.manifest: not set; give the path of a manifest")
    if not path.endswith(".parquet"):
        path = storage.join(path, FILE_NAME)
    if not storage.exists(path):
        raise ManifestError(
            f"{path}: no such manifest; make one with 'kineray data import' or 'kineray data synth'"
        )
    try:
        # Not pq.read_table: its scanner threads can outlive the call and abort a process that is ending.
        table = pq.ParquetFile(pa.BufferReader(storage.read_bytes(path))).read(use_threads=False)
        about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
    except (pa.ArrowException, KeyError, ValueError):
        raise ManifestError(f"{path}: not a kineray manifest; make one with 'kineray data import'") from None
    if about["version"] != 1:
        raise ManifestError(f"{path}: manifest version {about['version']}; this kineray reads version 1")
    folder = _folder_of(path)
    vocabularies = {head: tuple(names) for head, names in about["vocabularies"].items()}
    columns = {name: table[name].to_pylist() for name in table.column_names}
    label_columns: Sequence[list[int]] = [columns[_LABEL_PREFIX + head] for head in vocabularies]
    samples = tuple(
        Sample(
            id=columns["id"][row],
            uri=_absolute(columns["uri"][row], folder),
            start_s=columns["start_s"][row],
            end_s=columns["end_s"][row],
            labels={head: labels[row] for head, labels in zip(vocabularies, label_columns, strict=True)},
            group=columns["group"][row],
            split=columns["split"][row],
        )
        for row in range(len(table))
    )
    missing = {split: tuple(names) for split, names in about["missing"].items()}
    return Manifest(about["name"], samples, vocabularies, missing)


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0] if storage.is_remote(path) else str(Path(path).absolute().parent)


def _relative(uri: str, folder: str) -> str:
    absolute = uri if storage.is_remote(uri) else str(Path(uri).absolute())
    return absolute.removeprefix(f"{folder}/")


def _absolute(uri: str, folder: str) -> str:
    return uri if storage.is_remote(uri) else storage.join(folder, uri)
