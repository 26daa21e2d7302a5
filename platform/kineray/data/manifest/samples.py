"""The samples of a data set: labelled spans of videos.

They are stored as Arrow columns, and a ``Sample`` is made on access: 300,000 of them take tens of megabytes,
not hundreds. PyArrow is imported where it is used, so that a process that only decodes can import ``Sample``
without it. Code that reads samples avoids ``pa.array``, ``pa.scalar`` and ``to_numpy``: they import pandas
if it is installed, which takes a second and 50 MB.
"""

import io
import itertools
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from kineray.data.manifest.labels import Label
from kineray.errors import ManifestError

if TYPE_CHECKING:
    import pyarrow as pa

_LABEL_PREFIX = "label."
_OPTIONAL = ("boxes", "subsets", "flow", "size_bytes")  # columns that a file omits if they are empty
_CHUNK = 8192  # samples that are made or read at once


@dataclass(frozen=True)
class BoxLabel:
    """A person in a key frame: a box, whose corners are fractions of the frame's sides, and classes.

    ``labels``: class indices of the manifest's first head. ``person_id`` is the same in all key frames of a
    video that show the person; None if it is not known.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    labels: tuple[int, ...]
    person_id: int | None = None


@dataclass(frozen=True)
class Sample:
    """One labelled span of a video, in seconds from its first frame; ``end_s`` None: to its end.

    ``labels``: a class index for every head, -1 if it is not known; for a multi-label head a tuple of class
    indices, None if they are not known. ``group`` names what must stay in one split (a source video, a
    person). A key frame of a detection set has ``start_s`` = ``end_s`` = its time, and ``boxes``.
    ``subsets`` names parts of the split that are scored separately. ``flow`` is the URI of the optical flow
    of the video (``kineray.video.frames``), "" if there is none. ``size_bytes`` is the size of the video
    file, 0 if it was not recorded: it distinguishes a data set from a re-encoded copy.
    """

    id: str
    uri: str
    start_s: float
    end_s: float | None
    labels: Mapping[str, Label]
    group: str
    split: str
    boxes: tuple[BoxLabel, ...] = ()
    subsets: frozenset[str] = frozenset()
    flow: str = ""
    size_bytes: int = 0


class Samples(Sequence[Sample]):
    """Samples in a fixed order, stored as columns; each access makes a Sample. A slice shares the columns."""

    def __init__(self, columns: Mapping[str, "pa.Array"], rows: np.ndarray | None = None) -> None:
        """``columns``: an Arrow array for each field, as in the file; ``rows``: int64 [N], the rows of the
        samples, in order (None: all)."""
        self._columns = dict(columns)
        self._rows = rows

    @classmethod
    def of(
        cls, samples: Iterable[Sample], heads: Sequence[str], name: str, multi_label: Collection[str] = ()
    ) -> "Samples":
        """Turn ``samples``, of the manifest ``name``, into columns; the samples themselves are not kept.

        ``multi_label``: the heads whose labels are tuples. Raises ManifestError for a sample without a label
        for each of ``heads``, or with a tuple instead of an index or the reverse.
        """
        import pyarrow as pa

        types, expected, iterator = _types(heads, multi_label), set(heads), iter(samples)
        parts: dict[str, list[pa.Array]] = {column: [] for column in types}
        while chunk := list(itertools.islice(iterator, _CHUNK)):
            for sample in chunk:
                if sample.labels.keys() != expected:
                    raise wrong_heads(name, sample.id, sample.labels, heads)
                for head, label in sample.labels.items():
                    if isinstance(label, int) is (head in multi_label):
                        raise _wrong_kind(name, sample.id, head, label)
            for column, values in _values(chunk, heads).items():
                parts[column].append(pa.array(values, types[column]))
        return cls({column: _one_array(pa.chunked_array(parts[column], types[column])) for column in types})

    @classmethod
    def from_table(
        cls, table: "pa.Table", heads: Sequence[str], multi_label: Collection[str] = ()
    ) -> "Samples":
        """The samples of a table as ``compact`` makes it. Raises KeyError for a missing column, and
        ArrowException for one of another type or with nulls."""
        import pyarrow as pa

        columns = {}
        nullable = {"end_s", *(_LABEL_PREFIX + head for head in multi_label)}
        for name, kind in _types(heads, multi_label).items():
            if name in _OPTIONAL and name not in table.column_names:
                columns[name] = _empty(kind, len(table))
                continue
            columns[name] = _one_array(table[name].cast(kind))
            if columns[name].null_count and name not in nullable:
                raise pa.ArrowInvalid(f"{name}: has nulls")
        return cls(columns)

    @property
    def heads(self) -> list[str]:
        """The heads that the samples have labels for."""
        return [name.removeprefix(_LABEL_PREFIX) for name in self._columns if name.startswith(_LABEL_PREFIX)]

    @property
    def multi_label(self) -> frozenset[str]:
        """The heads whose labels are tuples of class indices."""
        import pyarrow as pa

        columns = self._columns
        return frozenset(head for head in self.heads if pa.types.is_list(columns[_LABEL_PREFIX + head].type))

    def column(self, name: str) -> "pa.Array":
        """One field of all samples. ``name``: ``id``, ``uri``, ``start_s``, ``end_s``, ``group``, ``split``,
        ``boxes``, ``subsets``, ``flow``, ``size_bytes`` or ``label.<head>``."""
        values = self._columns[name]
        if self._rows is None:
            return values
        return values.take(_arrow(self._rows))

    def labels(self, head: str) -> np.ndarray:
        """Class indices of a head that is not multi-label: int64 [N], -1 for those that are not known."""
        labels = as_numpy(self._columns[_LABEL_PREFIX + head], np.int32)
        return (labels if self._rows is None else labels[self._rows]).astype(np.int64)

    def label_lists(self, head: str) -> tuple[np.ndarray, np.ndarray]:
        """The labels of a multi-label head: the concatenated class indices of all samples, int32, and how
        many each sample has, int64 [N], -1 if its classes are not known."""
        import pyarrow.compute as pc

        lists = self.column(_LABEL_PREFIX + head)
        measured = pc.list_value_length(lists)
        lengths = as_numpy(measured, np.int32).astype(np.int64)
        if measured.null_count:
            valid = np.unpackbits(np.frombuffer(measured.buffers()[0], np.uint8), bitorder="little")
            lengths[valid[measured.offset : measured.offset + len(lengths)] == 0] = -1
        return as_numpy(lists.flatten(), np.int32), lengths

    def counts(self, name: str) -> dict[str, int]:
        """How often each value of a text column occurs, in order of first occurrence. The names in
        ``subsets`` count one by one."""
        values = self.column(name)
        if name == "subsets":
            values = values.flatten()
        return {entry["values"].as_py(): entry["counts"].as_py() for entry in values.value_counts()}

    def where(self, name: str, text: str) -> np.ndarray:
        """The positions of the samples that have ``text`` in a text column: int64 [M]."""
        encoded = self.column(name).dictionary_encode()
        codes = [code for code, value in enumerate(encoded.dictionary.to_pylist()) if value == text]
        return np.flatnonzero(np.isin(as_numpy(encoded.indices, np.int32), codes))

    def take(self, rows: np.ndarray) -> "Samples":
        """The samples at positions ``rows``, int [M], in that order; columns are shared, not copied."""
        return Samples(self._columns, rows if self._rows is None else self._rows[rows])

    def with_sizes(self, sizes: Mapping[str, int]) -> "Samples":
        """The same samples with ``size_bytes`` from ``sizes`` by URI, 0 if it does not contain the URI."""
        columns = {name: self.column(name) for name in self._columns}
        recorded = [sizes.get(uri, 0) for uri in columns["uri"].to_pylist()]
        return Samples({**columns, "size_bytes": _arrow(np.array(recorded, np.int64))})

    def __len__(self) -> int:
        return len(self._columns["id"]) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "Sample | Samples":
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self)), dtype=np.int64))
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"sample {row} of {len(self)}")
        row %= len(self)
        row = row if self._rows is None else int(self._rows[row])
        return _sample({name: values[row].as_py() for name, values in self._columns.items()}, self.heads)

    def __iter__(self) -> Iterator[Sample]:
        heads, names = self.heads, list(self._columns)
        for start in range(0, len(self), _CHUNK):
            if self._rows is None:
                parts = [self._columns[name].slice(start, _CHUNK) for name in names]
            else:
                rows = _arrow(self._rows[start : start + _CHUNK])
                parts = [self._columns[name].take(rows) for name in names]
            for values in zip(*(part.to_pylist() for part in parts), strict=True):
                yield _sample(dict(zip(names, values, strict=True)), heads)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Samples):
            return bool(self.compact().equals(other.compact()))
        if isinstance(other, tuple | list):
            return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} samples>"

    def __reduce__(self) -> tuple[Any, ...]:
        import pyarrow as pa

        table = self.compact()
        sink = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
        with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
            stream.write_table(table)
        return (_from_stream, (sink.getvalue(), self.heads, self.multi_label))

    def compact(self) -> "pa.Table":
        """A table of these samples only: columns in order of name, optional ones only if not empty."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = {name: self.column(name) for name in sorted(self._columns)}
        for name in _OPTIONAL:
            values = columns[name]
            if pa.types.is_list(values.type):
                values = pc.list_value_length(values)
            elif pa.types.is_string(values.type):
                values = pc.binary_length(values)
            if not pc.sum(values).as_py():
                del columns[name]
        return pa.table(columns)


def as_numpy(values: "pa.Array", kind: Any) -> np.ndarray:
    """A column of numbers without nulls as an array [N] of type ``kind``, not copied."""
    if not len(values):
        return np.empty(0, kind)
    return np.frombuffer(values.buffers()[1], kind, len(values), values.offset * np.dtype(kind).itemsize)


def wrong_heads(name: str, sample: str, labelled: Iterable[str], heads: Iterable[str]) -> ManifestError:
    """The error for a sample of manifest ``name`` with labels for other heads than the vocabularies."""
    return ManifestError(
        f"{sample} has labels for {sorted(labelled)}, but the vocabularies are for {sorted(heads)}",
        code="wrong_labels",
        key=name,
        remedy="give every sample a label for every head, -1 if it is not known",
    )


def _wrong_kind(name: str, sample: str, head: str, label: Label) -> ManifestError:
    if isinstance(label, int):
        remedy = f"give a tuple of class indices, such as ({label},), or None if they are not known"
    else:
        remedy = f"give one class index, or name '{head}' in `multi_label`"
    return ManifestError(f"{sample} has {head}={label}", code="wrong_labels", key=name, remedy=remedy)


def _types(heads: Sequence[str], multi_label: Collection[str]) -> dict[str, Any]:
    """Column -> its Arrow type."""
    import pyarrow as pa

    corners = [(name, pa.float64()) for name in ("x1", "y1", "x2", "y2")]
    box = pa.struct([*corners, ("labels", pa.list_(pa.int32())), ("person_id", pa.int64())])
    return {
        "id": pa.string(),
        "uri": pa.string(),
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "group": pa.string(),
        "split": pa.string(),
        **{
            _LABEL_PREFIX + head: pa.list_(pa.int32()) if head in multi_label else pa.int32()
            for head in heads
        },
        "boxes": pa.list_(box),
        "subsets": pa.list_(pa.string()),
        "flow": pa.string(),
        "size_bytes": pa.int64(),
    }


def _values(samples: Sequence[Sample], heads: Sequence[str]) -> dict[str, list[Any]]:
    """Column -> its values."""
    plain = ("id", "uri", "start_s", "end_s", "group", "split", "flow", "size_bytes")
    return {
        **{name: [getattr(sample, name) for sample in samples] for name in plain},
        **{_LABEL_PREFIX + head: [_ordered(sample.labels[head]) for sample in samples] for head in heads},
        "boxes": [[vars(box) for box in sample.boxes] for sample in samples],
        "subsets": [sorted(sample.subsets) for sample in samples],
    }


def _ordered(label: Label) -> Label:
    """A set of classes in rising order, whatever the order of the annotations."""
    return tuple(sorted(set(label))) if isinstance(label, tuple) else label


def _sample(row: Mapping[str, Any], heads: Sequence[str]) -> Sample:
    return Sample(
        row["id"],
        row["uri"],
        row["start_s"],
        row["end_s"],
        {head: _label(row[_LABEL_PREFIX + head]) for head in heads},
        row["group"],
        row["split"],
        tuple(BoxLabel(**box | {"labels": tuple(box["labels"])}) for box in row["boxes"]),
        frozenset(row["subsets"]),
        row["flow"],
        row["size_bytes"],
    )


def _label(value: Any) -> Label:
    return tuple(value) if isinstance(value, list) else value


def _empty(kind: Any, count: int) -> "pa.Array":
    """``count`` empty lists, empty strings or zeros of type ``kind``."""
    import pyarrow as pa

    if pa.types.is_integer(kind):
        return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(np.zeros(count, np.int64))])
    zeros = pa.py_buffer(np.zeros(count + 1, np.int32))
    if pa.types.is_string(kind):
        return pa.Array.from_buffers(kind, count, [None, zeros, pa.py_buffer(b"")])
    offsets = pa.Array.from_buffers(pa.int32(), count + 1, [None, zeros])
    return pa.ListArray.from_arrays(offsets, pa.nulls(0, kind.value_type), type=kind)


def _one_array(values: "pa.ChunkedArray") -> "pa.Array":
    """The chunks as one array, in which a row is found at once."""
    import pyarrow as pa

    whole = values.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)


def _from_stream(data: bytes, heads: Sequence[str], multi_label: Collection[str]) -> Samples:
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(use_threads=False)
    with pa.ipc.open_stream(pa.py_buffer(data), options=options) as stream:
        return Samples.from_table(stream.read_all(), heads, multi_label)


def _arrow(rows: np.ndarray) -> "pa.Array":
    """int64 [N] as an Arrow array, not copied."""
    import pyarrow as pa

    rows = np.ascontiguousarray(rows, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)])
