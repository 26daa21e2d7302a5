"""The samples of an epoch: those of the manifest, or every sequence of each of them."""

from collections.abc import Iterator
from dataclasses import replace

from kineray.config import DataConfig
from kineray.data.clips.samplers import sequence_spans
from kineray.data.manifest.index_cache import IndexCache
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError
from kineray.video import PacketIndex


def samples_of_epoch(manifest: Manifest, data: DataConfig, indexes: IndexCache | None) -> Manifest:
    """The samples that an epoch goes through: those of ``manifest``, or with ``sequences=all`` a sample for
    each of their sequences.

    A sequence has the labels of the sample that it is cut from; its id ends with ``#`` and its number.
    ``indexes``: of the videos, from which their lengths are known. Raises ManifestError for a sample without
    ``end_s`` whose video was not indexed.
    """
    if not data.epoch_of_sequences:
        return manifest
    return manifest.with_samples(_sequences(manifest, data, indexes))


def _sequences(manifest: Manifest, data: DataConfig, indexes: IndexCache | None) -> Iterator[Sample]:
    for sample in manifest:
        end_s = max(_end_s(manifest, sample, indexes), sample.start_s)
        spans_s = sequence_spans(sample.start_s, end_s, frames=data.frames, stride=data.stride, fps=data.fps)
        for number, (first_s, last_s) in enumerate(spans_s):
            yield replace(sample, id=f"{sample.id}#{number}", start_s=first_s, end_s=last_s)


def _end_s(manifest: Manifest, sample: Sample, indexes: IndexCache | None) -> float:
    index = indexes.get(sample.uri) if indexes else None
    if index is not None:
        duration_s = PacketIndex.from_bytes(index).duration_s
        return duration_s if sample.end_s is None else min(sample.end_s, duration_s)
    if sample.end_s is None:
        raise ManifestError(
            f"the length of {sample.uri} is not known, so its sequences cannot be counted",
            code="unknown_length",
            key=manifest.name,
            remedy="index its videos with 'kineray data validate', or set data.sequences=one",
        )
    return sample.end_s
