"""What a run needs of its data, checked before anything is started. Needs no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kineray.config import Experiment
from kineray.data import Manifest, Preprocessing
from kineray.data.clips.preprocessing import balance_of
from kineray.data.clips.sequences import samples_of_epoch
from kineray.data.manifest.checks import check_flow, check_task
from kineray.data.manifest.index_cache import IndexCache
from kineray.data.manifest.labels import known_labels
from kineray.errors import ManifestError
from kineray.training.plan import plan_of


@dataclass(frozen=True)
class RunData:
    """What the data of a run say of it: ``samples`` is the number of training samples in an epoch."""

    preprocessing: Preprocessing
    samples: int


def check_data(experiment: Experiment, manifest: Manifest) -> RunData:
    """What an experiment finds in ``manifest``.

    Raises ManifestError, with the key ``data.manifest``, for a manifest without the splits, the labels or the
    flow that the experiment needs, and ConfigError if they do not go together.
    """
    experiment.model.check_channels(experiment.data.channels)
    with about_manifest(experiment):
        train_set, val_set = manifest.split("train"), manifest.split("val")
        preprocessing = preprocessing_of(experiment, train_set, val_set)
        experiment.task.check_heads(preprocessing.labels, manifest.multi_label)
        if not any(known_labels(val_set.labels(head)).any() for head in preprocessing.labels):
            raise ManifestError(
                "no validation video has a label",
                code="no_labels",
                remedy="validate on videos with labels",
            )
        balance_of(experiment.data, list(preprocessing.labels))
        if experiment.data.epoch_of_sequences:
            indexes = IndexCache.beside(experiment.data.manifest)
            train_set = samples_of_epoch(train_set, experiment.data, indexes)
        plan_of(experiment, len(train_set))
    return RunData(preprocessing, len(train_set))


def preprocessing_of(experiment: Experiment, train_set: Manifest, val_set: Manifest) -> Preprocessing:
    """The preprocessing of an experiment. Raises ManifestError for sets without its labels or its flow."""
    for part in (train_set, val_set):
        check_flow(part, experiment.data.modality)
    preprocessing = Preprocessing.from_config(experiment.data, train_set.vocabularies)
    check_task(train_set, preprocessing.labels, training=True)
    check_task(val_set, preprocessing.labels)
    return preprocessing


@contextmanager
def about_manifest(experiment: Experiment) -> Iterator[None]:
    """Make every ManifestError one about the key ``data.manifest``, whose value it then has."""
    try:
        yield
    except ManifestError as error:
        place, given = error.key, experiment.data.manifest
        problem = error.problem if place in ("", "data.manifest", given) else f"{error.problem} ({place})"
        raise ManifestError(
            problem, code=error.code, key="data.manifest", value=given, remedy=error.remedy
        ) from None
