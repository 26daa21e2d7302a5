"""``kineray.predict_many``: files, folders or a manifest -> what a checkpoint predicts for each video."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kineray import storage as store
from kineray.data import Failure, Manifest, Sample, load_manifest
from kineray.data.clips.decoding import usable_cores
from kineray.data.importers.videos import videos_below
from kineray.data.manifest.checks import check_flow
from kineray.data.manifest.index_cache import IndexCache
from kineray.errors import ConfigError
from kineray.evaluation.checkpoints import CheckpointLike, check_crops, open_checkpoint
from kineray.evaluation.predict import classify
from kineray.evaluation.table import check_not_taken, file_name, predictions_table, write_table
from kineray.options import DEFAULT_CROPS, DEFAULT_TOP_K, DEFAULT_VIEWS
from kineray.video import is_frames_uri
from kineray.video.suffixes import is_video_name

if TYPE_CHECKING:
    import pyarrow as pa

_MANIFEST = ".parquet"


@dataclass(frozen=True)
class VideoPrediction:
    """What is predicted for one of several videos.

    ``id``: of the sample in a manifest, else the ``uri``. ``predictions``: head -> the best classes, each
    ``{"label", "score"}``; empty if there is an ``error``.
    """

    id: str
    uri: str
    predictions: Mapping[str, list[dict[str, Any]]]
    error: Failure | None


@dataclass(frozen=True)
class Predictions:
    """What a checkpoint predicts for several videos.

    ``classes``: head -> class names by index. ``model``: the experiment's name. ``table``: all probabilities,
    as ``evaluation.table`` describes it. ``file``: the Parquet file that it was written to, None if it was
    not.
    """

    videos: tuple[VideoPrediction, ...]
    classes: Mapping[str, Sequence[str]]
    model: str
    weights_sha256: str
    table: "pa.Table"
    file: str | None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The videos that could not be predicted, with the reasons."""
        return tuple(video.error for video in self.videos if video.error is not None)

    def to_json(self) -> dict[str, Any]:
        """Everything but the table, which is in ``file``."""
        return {
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "videos": [asdict(video) for video in self.videos],
            "failed": len(self.failures),
            "classes": self.classes,
            "file": self.file,
        }


def predict_many(
    checkpoint: CheckpointLike,
    videos: str | Path | Manifest | Sequence[str | Path],
    *,
    split: str | None = None,
    views: int = DEFAULT_VIEWS,
    crops: int = DEFAULT_CROPS,
    top_k: int = DEFAULT_TOP_K,
    out: str | None = None,
    storage: str | None = None,
    device: str | None = None,
    decoders: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Classify several videos; one that cannot be decoded does not stop the others.

    ``videos``: paths or URIs of videos, or of folders, which stand for all videos below them; or one manifest
    (a ``.parquet`` file, or loaded), of which ``split`` chooses a split. ``out``: the Parquet file for the
    probabilities of all classes; without it there is one for a manifest, in ``storage``, named after data
    set, split, views, crops and weights. ``decoders``: number of decoding processes, by default one per core.
    ``progress`` is called with (videos done, all videos). The others: as for ``predict``.

    Raises CheckpointError, ManifestError, ConfigError if there are no videos or the model needs optical flow
    that they do not have, and StorageError if ``out`` cannot be written or holds something else.
    """
    check_crops(crops)
    loaded, device = open_checkpoint(checkpoint, storage=storage, device=device)
    manifest, indexes = _manifest(videos)
    samples: Manifest | Sequence[Sample]
    described: dict[str, Any] = {"weights_sha256": loaded.weights_sha256, "views": views, "crops": crops}
    if manifest is not None:
        samples = manifest.split(split) if split else manifest
        check_flow(samples, loaded.preprocessing.modality)
        described |= {"manifest_hash": manifest.content_hash, "split": split}
        out = out or store.join(
            store.runs_folder(storage),
            file_name("predicted", manifest, split or "all", views, crops, loaded.weights_sha256),
        )
    else:
        if split is not None:
            raise ConfigError(
                "only a manifest has splits",
                code="no_manifest",
                key="split",
                value=split,
                remedy="leave `split` out, or name a manifest",
            )
        samples = _samples([videos] if isinstance(videos, str | Path) else list(videos))  # type: ignore[arg-type]
        described |= {"videos": [sample.uri for sample in samples]}
    if out is not None:
        store.check_writable(out)
        check_not_taken(out, described)
    scores, failures = classify(
        loaded,
        samples,
        views=views,
        crops=crops,
        device=device,
        decoders=decoders or usable_cores(),
        indexes=indexes,
        progress=progress,
    )
    task = loaded.task
    described |= {
        "classes": {head: list(names) for head, names in task.classes.items()},
        "checkpoint": loaded.uri,
    }
    table = predictions_table(samples, task, scores, failures, described)
    if out is not None:
        write_table(table, out)

    def shown(row: int, sample: Sample) -> VideoPrediction:
        error = failures.get(sample.id)
        heads = {} if error else scores
        best = {head: task.present(of[row], task.classes[head], top_k) for head, of in heads.items()}
        return VideoPrediction(sample.id, sample.uri, best, error)

    found = tuple(shown(row, sample) for row, sample in enumerate(samples))
    return Predictions(found, described["classes"], loaded.experiment.name, loaded.weights_sha256, table, out)


def is_one_video(video: str) -> bool:
    """Whether a path or URI stands for one video, and not for a folder of videos or a manifest."""
    return not (video.endswith(_MANIFEST) or _is_folder(video))


def _manifest(
    videos: str | Path | Manifest | Sequence[str | Path],
) -> tuple[Manifest | None, IndexCache | None]:
    """The manifest that ``videos`` are, if they are one, with the indexes beside it."""
    if isinstance(videos, Manifest):
        return videos, None
    names = [str(name) for name in ([videos] if isinstance(videos, str | Path) else videos)]
    manifests = [name for name in names if name.endswith(_MANIFEST)]
    if not manifests:
        return None, None
    if len(names) > 1:
        raise ConfigError(
            "a manifest beside other videos",
            code="several_sources",
            key=manifests[0],
            remedy="predict the manifest by itself",
        )
    return load_manifest(names[0]), IndexCache.beside(names[0])


def _samples(names: Sequence[str | Path]) -> list[Sample]:
    """A sample for each video, each once, in order. Raises ConfigError if there are none."""
    found: dict[str, None] = {}
    for name in map(str, names):
        if _is_folder(name):
            found |= dict.fromkeys(store.join(name, path) for path in videos_below(name))
        else:
            found[name] = None
    if not found:
        raise ConfigError(
            "no videos there",
            code="no_videos",
            key=", ".join(map(str, names)) or "videos",
            remedy="name videos, folders that contain some, or a manifest",
        )
    return [Sample(uri, uri, 0.0, None, {}, uri, "") for uri in found]


def _is_folder(name: str) -> bool:
    if is_frames_uri(name) or is_video_name(name):
        return False
    return bool(store.list_names(name)) if store.is_remote(name) else Path(name).is_dir()
