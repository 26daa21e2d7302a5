"""Training batches in one call."""

from collections.abc import Iterator

from kineray.config import DataConfig
from kineray.data.batches.loader import Batch, load_batches
from kineray.data.batches.order import steps_per_epoch
from kineray.data.batches.spec import BatchSpec, ClipShape
from kineray.data.clips.decoding import usable_cores
from kineray.data.clips.preprocessing import Preprocessing, balance_of
from kineray.data.clips.sequences import samples_of_epoch
from kineray.data.manifest.index_cache import IndexCache
from kineray.data.manifest.manifest import Manifest


def training_batches(
    manifest: Manifest,
    data: DataConfig | None = None,
    *,
    global_batch: int = 8,
    epochs: int = 1,
    seed: int = 0,
    start_step: int = 0,
    decoders: int | None = None,
) -> Iterator[Batch]:
    """Batches of uint8 clips of all samples of ``manifest``, for a training loop of your own.

    ``data``: how clips are cut (by default 32 frames of 224 x 224 pixels); ``Preprocessing.normalise`` turns
    them into the input of a network. Indexes of the videos are used if they are beside ``data.manifest``.
    An epoch goes through a permutation of the samples that depends only on ``seed`` and the number of the
    epoch, so ``start_step`` continues exactly where a loop was stopped. Samples that do not fill a batch at
    the end of an epoch are dropped. ``decoders``: number of processes that decode ahead (by default one per
    core). Raises ConfigError and ManifestError.

        train_set = kineray.load_manifest("set/manifest.parquet").split("train")
        for batch in training_batches(train_set, DataConfig(frames=8, stride=8)):
            batch.clips_bthwc, batch.labels["action"]
    """
    data = data or DataConfig()
    indexes = IndexCache.beside(data.manifest) if data.manifest else None
    manifest = samples_of_epoch(manifest, data, indexes)
    preprocessing = Preprocessing.from_config(data, manifest.vocabularies)
    per_epoch = steps_per_epoch(len(manifest), global_batch, data.clips_per_sample)
    return load_batches(
        manifest,
        preprocessing,
        (_whole_batch(step, per_epoch, global_batch, data) for step in range(start_step, per_epoch * epochs)),
        seed=seed,
        decoders=decoders or usable_cores(),
        clips_per_sample=data.clips_per_sample,
        drawn_views=data.drawn_views,
        balance=balance_of(data, list(preprocessing.labels)),
        indexes=indexes,
    )


def _whole_batch(step: int, per_epoch: int, global_batch: int, data: DataConfig) -> BatchSpec:
    epoch, batch = divmod(step, per_epoch)
    positions = range(batch * global_batch, (batch + 1) * global_batch)
    return BatchSpec(step, epoch, positions, global_batch, ClipShape.of(data))
