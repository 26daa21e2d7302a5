"""The feature cache as functions: build, list, verify, delete."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kineray import storage as storages
from kineray.config import Experiment, apply_overrides
from kineray.data import Manifest, Preprocessing, load_manifest
from kineray.data.clips.decoding import usable_cores
from kineray.data.clips.sequences import samples_of_epoch
from kineray.data.manifest.index_cache import IndexCache
from kineray.errors import ConfigError
from kineray.storage.default import runs_folder
from kineray.training.features.checks import check_cacheable, check_pieces
from kineray.training.features.files import FeatureFiles, all_features, delete_files, features_folder
from kineray.training.initial import absolute_inits
from kineray.training.inputs import about_manifest, check_data

if TYPE_CHECKING:
    from kineray.tasks import Task
    from kineray.training.events import FeaturesEvent
    from kineray.training.features.compute import FeatureNetwork


@dataclass(frozen=True)
class CachedSet:
    """Features in the cache: of the ``train`` or ``val`` ``clips`` of the data set ``data``.

    ``key``: the name of their folder. ``network``: what computed them. ``rows`` clips, of which ``computed``
    are there; ``views``: of a sample. ``shape`` and ``dtype``: of the features of a clip; ``bytes``: of all.
    """

    key: str
    folder: str
    data: str
    clips: str
    network: str
    rows: int
    computed: int
    views: int
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class FeatureReport:
    """What ``build_features`` did: the ``sets`` of an experiment, and how many clips were ``computed``."""

    sets: tuple[CachedSet, ...]
    computed: int
    seconds: float


@dataclass(frozen=True)
class VerifiedSet:
    """``damaged``: numbers of the shards that were not what had been written, and were removed."""

    key: str
    shards: int
    damaged: tuple[int, ...]


def build_features(
    experiment: Experiment,
    *,
    max_cache: int | None = None,
    decoders: int | None = None,
    device: str | None = None,
    storage: str | None = None,
    on_message: Callable[[str], None] | None = None,
) -> FeatureReport:
    """Compute the features of all training and validation clips of an experiment, as far as they are missing.

    Those are what a frozen backbone computes of the clips; training with ``cache_features`` reads them. A
    build that was killed goes on with the shards that are missing. Before it returns, a few clips are
    computed again, and must be equal. ``max_cache``: bytes above which it is refused, before anything is
    written. ``decoders``: number of decoding processes (default: one for every core). ``device``: by default
    the GPU, if there is one. ``storage``: of runs that ``model.init`` may name. ``on_message`` gets lines
    about size and progress.

    Raises ConfigError (``not_cacheable``) for an experiment that needs its backbone in every step, and
    ManifestError and StorageError.
    """
    import torch

    from kineray.training.features.compute import feature_parts
    from kineray.training.features.opening import fill
    from kineray.training.recipe import Recipe

    began = time.monotonic()
    check_cacheable(experiment)
    check_pieces(Recipe(experiment).changes_clips)
    experiment, manifest = _opened(experiment, storage)
    with about_manifest(experiment):
        preprocessing = check_data(experiment, manifest).preprocessing
        train_set, val_set = manifest.split("train"), manifest.split("val")
    indexes = IndexCache.beside(experiment.data.manifest)
    task = experiment.task.build(preprocessing.labels)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    parts = feature_parts(
        experiment,
        _network(experiment, preprocessing, task, place),
        preprocessing,
        samples_of_epoch(train_set, experiment.data, indexes),
        val_set,
        device=place,
        decoders=decoders or usable_cores(),
        indexes=indexes,
    )

    def tell(event: "FeaturesEvent") -> None:
        if on_message is not None:
            on_message(event.message)

    computed = fill(parts, max_cache, tell)
    sets = tuple(_described(part.files) for part in parts)
    return FeatureReport(sets, computed, time.monotonic() - began)


def list_features() -> list[CachedSet]:
    """All features in the cache (``KINERAY_CACHE``). Raises StorageError."""
    return [_described(files) for files in all_features()]


def verify_features(*keys: str, progress: Callable[[int, int], None] | None = None) -> list[VerifiedSet]:
    """Read the features with these keys (default: all), and remove shards that are damaged.

    They are computed again when they are needed. ``progress`` is called with (shards read, all). Raises
    ConfigError for an unknown key, and StorageError.
    """
    chosen = _chosen(keys)
    total, done = sum(len(files.shards) for files in chosen), 0
    found = []
    for files in chosen:
        damaged = []
        for shard in files.shards:
            if files.has(shard) and files.differs(shard):
                files.delete(shard)
                damaged.append(shard)
            done += 1
            if progress is not None:
                progress(done, total)
        found.append(VerifiedSet(files.key, len(files.shards), tuple(damaged)))
    return found


def delete_features(*keys: str) -> list[CachedSet]:
    """Remove the features with these keys; returns what was removed.

    No run must be reading them. Raises ConfigError for an unknown key, and StorageError.
    """
    removed = []
    for files in _chosen(keys) if keys else ():
        removed.append(_described(files))
        delete_files(files)
    return removed


def _chosen(keys: Iterable[str]) -> list[FeatureFiles]:
    """The features whose keys begin with these, or all. Raises ConfigError."""
    known = all_features()
    if not keys:
        return known
    found = {}
    for key in keys:
        matching = [files for files in known if files.key.startswith(key)]
        if len(matching) != 1:
            raise ConfigError(
                f"the beginning of {len(matching)} keys" if matching else "no features with this key",
                code="unknown_value",
                key=key,
                remedy=f"kineray cache ls lists those in {features_folder()}",
            )
        found[matching[0].key] = matching[0]
    return list(found.values())


def _described(files: FeatureFiles) -> CachedSet:
    about = files.about
    return CachedSet(
        key=files.key,
        folder=str(files.folder),
        data=about["data"],
        clips=about["clips"],
        network=_network_text(about["network"]),
        rows=files.rows,
        computed=files.rows - files.missing_rows,
        views=about["views"],
        shape=files.shape,
        dtype=files.dtype,
        bytes=files.size,
    )


def _network_text(network: dict[str, Any]) -> str:
    """``mobilenet_v2 features.13``."""
    words = (str(network.get(name) or "") for name in ("backbone", "cut"))
    return " ".join(filter(None, words)) or str(network["type"])


def _opened(experiment: Experiment, storage: str | None) -> tuple[Experiment, Manifest]:
    """The experiment with absolute paths, and its manifest."""
    if not experiment.data.manifest:
        raise ConfigError(
            "no manifest given", code="not_set", key="data.manifest", remedy="pass data.manifest=PATH"
        )
    uri = storages.absolute(experiment.data.manifest)
    inits = absolute_inits(experiment.model, runs_folder(storage))
    experiment = apply_overrides(experiment, {"data.manifest": uri, **inits})
    with about_manifest(experiment):
        return experiment, load_manifest(uri)


def _network(
    experiment: Experiment, preprocessing: Preprocessing, task: "Task", device: Any
) -> "FeatureNetwork":
    """The network with the weights that a new run of the experiment starts from."""
    import torch

    from kineray.training.features.opening import network_of
    from kineray.training.initial import load_initial

    torch.manual_seed(experiment.seed)
    model = task.build_model(experiment.model, preprocessing.channels)
    for part, init in experiment.model.inits().items():
        load_initial(model, part, init)
    return network_of(model.to(device))
