"""Computing cached features, in as many processes as want them, and proving that they are right."""

import platform
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

import kineray
from kineray.config import Experiment
from kineray.data import Manifest, Preprocessing
from kineray.data.clips.draws import ClipDraws
from kineray.data.clips.seeds import pcg64
from kineray.data.manifest.index_cache import IndexCache
from kineray.errors import ConfigError, StorageError
from kineray.sizes import size_text
from kineray.storage.durable import make_folder
from kineray.storage.os_errors import os_errors_about
from kineray.training.features.clips import ClipRows
from kineray.training.features.files import FeatureFiles, FeatureReader, Origin, features_folder
from kineray.training.features.key import features_of, key_of, weights_hash
from kineray.training.step import autocast

Progress = Callable[[int, int], None]
"""Called with (clips computed, clips to compute)."""

_PROVED = 3  # clips of a set that are computed again
_RELATIVE = 1e-3  # of the largest value: how far features may differ that another machine has computed

_ONE_AT_A_TIME = threading.Lock()  # record locks do not hold between threads of a process


class FeatureNetwork(Protocol):
    """A network with a frozen first part (``ModelSection.frozen_part``)."""

    backbone: nn.Module

    def frame_maps(self, clips_bcthw: Tensor) -> Tensor:
        """Normalised clips -> features, float32 [B, ...]."""
        ...

    def classify(self, maps_btchw: Tensor) -> dict[str, Tensor]:
        """Features -> logits by head."""
        ...


@dataclass(frozen=True)
class FeaturePart:
    """The features of the training clips or of the validation clips: their files, and what computes them."""

    files: FeatureFiles
    rows: ClipRows
    network: FeatureNetwork
    device: torch.device
    precision: str

    def of(self, clip_thwc: np.ndarray) -> np.ndarray:
        """The features of a clip, computed without others: [T, ...] of the files' type."""
        features = _features(self.network, self.rows.preprocessing, clip_thwc, self.device, self.precision)
        row = features.astype(self.files.dtype, copy=False)
        if self.files.dtype == "float16" and not np.isfinite(row).all():
            raise ConfigError(
                "features are too large for float16",
                code="features_not_finite",
                key="model.feature_dtype",
                remedy="use model.feature_dtype=float32",
            )
        return row


def feature_parts(
    experiment: Experiment,
    network: FeatureNetwork,
    preprocessing: Preprocessing,
    clip_set: Manifest,
    val_set: Manifest,
    *,
    device: torch.device,
    decoders: int,
    indexes: IndexCache | None,
) -> tuple[FeaturePart, FeaturePart]:
    """The features of the training and the validation clips; nothing is written.

    ``network``: with the weights that the run has, in evaluation mode. ``clip_set``: the samples of an epoch.
    Raises ConfigError for clips that the network cannot take.
    """
    weights = weights_hash(network.backbone)
    precision = experiment.train.precision
    parts = []
    for manifest, draws in ((clip_set, ClipDraws.of(experiment.data, experiment.seed)), (val_set, None)):
        rows = ClipRows(manifest, preprocessing, draws, decoders, indexes)
        blank_thwc = np.zeros(rows.clip_shape, np.uint8)
        shape = _features(network, preprocessing, blank_thwc, device, precision).shape
        about = features_of(experiment, weights, preprocessing, manifest, draws)
        dtype = str((experiment.model.frozen_part() or {}).get("feature_dtype", "float32"))
        files = FeatureFiles(features_folder() / key_of(about), about, len(rows), shape, dtype)
        parts.append(FeaturePart(files, rows, network, device, precision))
    return parts[0], parts[1]


def check_size(parts: Sequence[FeaturePart], max_cache: int | None) -> int:
    """The bytes that are still to be written, for which there is room.

    Raises ConfigError if all rows together take more than ``max_cache`` bytes, and StorageError if the disk
    has less room than what is missing.
    """
    total = sum(part.files.size for part in parts)
    if max_cache is not None and total > max_cache:
        raise ConfigError(
            f"the features take {size_text(total)}",
            code="cache_too_large",
            key="max_cache",
            value=size_text(max_cache),
            remedy="raise `max_cache`, or make them smaller: model.grid=1, model.feature_dtype=float16, or "
            "fewer data.drawn_views",
        )
    missing = sum(part.files.missing_rows * part.files.row_bytes for part in parts)
    folder = features_folder()
    with os_errors_about(folder):
        make_folder(folder)
        free = shutil.disk_usage(folder).free
    if missing > free:
        raise StorageError(
            f"the features need {size_text(missing)}, and {size_text(free)} are free",
            code="disk_full",
            key=folder,
            remedy="free some space there, or set KINERAY_CACHE to another folder",
        )
    return missing


def compute_missing(parts: Sequence[FeaturePart], progress: Progress = lambda done, total: None) -> int:
    """Compute what is missing of ``parts``; returns the number of clips that this process has computed.

    Processes that do this at the same time share the shards; each returns when all are there. Raises
    ManifestError, ConfigError and StorageError.
    """
    with _ONE_AT_A_TIME:
        missing = [part.files.create().missing() for part in parts]
        total = sum(
            len(part.files.rows_of(shard)) for part, of in zip(parts, missing, strict=True) for shard in of
        )
        done = computed = 0
        for wait in (False, True):
            for part, shards in zip(parts, missing, strict=True):
                for shard in list(shards):
                    with part.files.locked(shard, wait=wait) as is_mine:
                        if not is_mine:
                            continue
                        size = len(part.files.rows_of(shard))
                        if not part.files.has(shard):
                            _compute(part, shard, partial(_forward, progress, done, total))
                            computed += size
                    shards.remove(shard)
                    done += size
                    progress(done, total)
        return computed


def prove(parts: Sequence[FeaturePart]) -> None:
    """Compute a few clips again and compare them with the files, once on each kind of machine.

    They must be equal; those that another kind of machine computed, within a thousandth of the largest.
    Raises StorageError ``features_differ``.
    """
    here = machine(parts[0].device) if parts else ""
    for part in parts:
        if part.files.is_proved(here):
            continue
        reader = FeatureReader(part.files)
        row_1 = np.empty((1, *part.files.shape), np.float32)
        for row in _some_rows(part.files):
            ((clip_thwc, origin),) = part.rows.clips(range(row, row + 1))
            is_equal = _same_origin(origin, reader.origins.get(row))
            if is_equal and clip_thwc is not None:
                reader.read([row], row_1)
                computed_on = part.files.note(row // part.files.rows_per_shard)[1]
                is_equal = _agree(row_1[0], part.of(clip_thwc), exactly=computed_on == here)
            if not is_equal:
                reader.close()
                sample = part.rows.manifest[row // part.rows.views].id
                raise StorageError(
                    f"the features of {sample} are not what its clip gives now",
                    code="features_differ",
                    key=part.files.folder,
                    remedy=f"remove them, so that they are computed again: kineray cache rm {part.files.key}",
                )
        reader.close()
        part.files.set_proved(here)


def machine(device: torch.device) -> str:
    """What the last digits of features may depend on: versions and hardware."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"kineray {kineray.__version__}, torch {torch.__version__}, {name}"


def _forward(progress: Progress, done: int, total: int, of_shard: int) -> None:
    progress(done + of_shard, total)


def _compute(part: FeaturePart, shard: int, progress: Callable[[int], None]) -> None:
    files = part.files
    numbers = files.rows_of(shard)
    rows = np.zeros((len(numbers), *files.shape), files.dtype)
    origins: dict[int, Origin] = {}
    for place, (clip_thwc, origin) in enumerate(part.rows.clips(numbers)):
        if clip_thwc is not None:
            rows[place] = part.of(clip_thwc)
        if origin is not None:
            origins[numbers[place]] = origin
        progress(place + 1)
    files.write(shard, rows, origins, machine(part.device))


@torch.no_grad()
def _features(
    network: FeatureNetwork,
    preprocessing: Preprocessing,
    clip_thwc: np.ndarray,
    device: torch.device,
    precision: str,
) -> np.ndarray:
    clips_bcthw = preprocessing.normalise(torch.from_numpy(clip_thwc)[None].to(device))
    with autocast(device, precision):
        features: np.ndarray = network.frame_maps(clips_bcthw)[0].float().cpu().numpy()
    return features


def _some_rows(files: FeatureFiles) -> list[int]:
    """A few rows, the same ones each time: any process finds the same difference."""
    drawn = pcg64("proof", files.key).random_raw(_PROVED) % files.rows
    return sorted({int(row) for row in drawn})


def _same_origin(one: Origin | None, other: Origin | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.sample, one.causes) == (other.sample, other.causes)


def _agree(stored: np.ndarray, computed: np.ndarray, *, exactly: bool) -> bool:
    computed = computed.astype(np.float32)
    if exactly:
        return bool(np.array_equal(stored, computed, equal_nan=True))
    allowed = _RELATIVE * max(float(np.abs(computed).max()), 1e-12)
    return bool(np.allclose(stored, computed, rtol=0, atol=allowed, equal_nan=True))
