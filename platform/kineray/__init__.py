"""kineray: train, search, compare and serve video action-recognition models on Ray.

An experiment is a value; a run is its name in a storage folder (``./runs``, or KINERAY_STORAGE):

    experiment = kineray.Experiment(model=kineray.SlowFastConfig(alpha=4), ...)
    kineray.main(experiment)               the last line of a script: python my_experiment.py optim.lr=0.1

    train(experiment, ...)                 train it on one or many workers; stopped runs resume exactly
    dry_run(experiment, ...)               what train would do, with nothing started or written
    plan(experiment, gpus=(8, 64), ...)    what a run will take: time, memory, cost, and what limits it
    sweep(experiment, space, ...)          search learning rates and model fields in the background
    attach(name)                           the handle of a sweep that was started before
    rerun(name)  sweep_report(name)        its best trials with fresh seeds; a page about it
    build_features(experiment)             compute once what a frozen backbone makes of each clip
    verify_resume(experiment)              whether a killed run resumes as if it had never stopped
    list_runs()  get_run(run)              what was trained, with which config, data and code
    tag_run(run, tags)  delete_run(run)    mark runs, or remove them with their checkpoints
    evaluate(checkpoint, ...)              scores over several views, and predictions of every video
    predict(checkpoint, video, ...)        classify one video, or an array of frames
    predict_many(checkpoint, videos, ...)  classify files, folders or the videos of a manifest
    export(checkpoint, out)                the model as one file: ONNX or PyTorch's exported program
    promote(run)  rollback()               choose the model version that is served
    serve(...)                             answer HTTP requests with that version

    import_dataset(sources, ...)           annotations -> a manifest: Kinetics, UCF-101, folders, ...
    load_manifest(uri)                     the samples of a data set, their labels and splits
    data.describe  validate  stats  split  reencode  flow     check a data set, measure it, copy it
    read_clip(video, timestamps_s)         frames of a video at given timestamps

    list_models()  create_model(name, ...) published networks
    load_checkpoint(uri)                   a trained model with its preprocessing and labels
    apply_overrides(experiment, changes)   an experiment with other values: {"optim.lr": 0.1}
    load_plugins(*files)                   your own models, losses, ... (a class that names its type=)

``checkpoint`` is a run's name, the folder or s3:// URI of a run or checkpoint, or a loaded checkpoint.
Every error is a ``KinerayError`` with a code, a key and a remedy. ``dir(kineray)`` lists everything here;
``help(kineray.evaluate)`` and ``help(kineray.SlowFastConfig)`` explain a function and a config;
``kineray --help`` has the same as commands. Nothing slow (torch, Ray, MLflow) is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# There is no __all__: pydoc would print every class in it with all its members instead of the page above.
# Sections and variants of an experiment (SlowFastConfig, ...) are found in kineray.config.
_HOMES = {
    "Assumptions": "kineray.planning.assumptions",
    "Importer": "kineray.data",
    "KinerayError": "kineray.errors",
    "Loss": "kineray.tasks.losses",
    "Piece": "kineray.training.recipe",
    "WorkerOptions": "kineray.options",
    "apply_overrides": "kineray.config",
    "attach": "kineray.orchestration",
    "build_features": "kineray.training.features.api",
    "create_model": "kineray.models",
    "delete_features": "kineray.training.features.api",
    "delete_run": "kineray.tracking.edit",
    "dry_run": "kineray.orchestration",
    "evaluate": "kineray.tracking.evaluate",
    "export": "kineray.evaluation.export",
    "get_run": "kineray.tracking.api",
    "import_dataset": "kineray.data",
    "list_features": "kineray.training.features.api",
    "list_models": "kineray.models",
    "list_runs": "kineray.tracking.api",
    "load_checkpoint": "kineray.training",
    "load_manifest": "kineray.data",
    "load_plugins": "kineray.config",
    "main": "kineray.cli",
    "plan": "kineray.planning.api",
    "predict": "kineray.evaluation.api",
    "predict_many": "kineray.evaluation.many",
    "promote": "kineray.serving",
    "read_clip": "kineray.video",
    "rerun": "kineray.orchestration.rerun",
    "rollback": "kineray.serving",
    "serve": "kineray.serving",
    "stop_service": "kineray.serving",
    "sweep": "kineray.orchestration",
    "sweep_report": "kineray.reports.sweep",
    "tag_run": "kineray.tracking.edit",
    "train": "kineray.orchestration",
    "verify_features": "kineray.training.features.api",
    "verify_resume": "kineray.training.resume_check.check",
}

if TYPE_CHECKING:
    from kineray import data as data
    from kineray.cli import main as main
    from kineray.config import *  # noqa: F403 - the configs, for type checkers and editors
    from kineray.data import Importer as Importer
    from kineray.data import import_dataset as import_dataset
    from kineray.data import load_manifest as load_manifest
    from kineray.errors import KinerayError as KinerayError
    from kineray.evaluation.api import predict as predict
    from kineray.evaluation.export import export as export
    from kineray.evaluation.many import predict_many as predict_many
    from kineray.models import create_model as create_model
    from kineray.models import list_models as list_models
    from kineray.options import WorkerOptions as WorkerOptions
    from kineray.orchestration import attach as attach
    from kineray.orchestration import dry_run as dry_run
    from kineray.orchestration import sweep as sweep
    from kineray.orchestration import train as train
    from kineray.orchestration.rerun import rerun as rerun
    from kineray.planning.api import plan as plan
    from kineray.planning.assumptions import Assumptions as Assumptions
    from kineray.reports.sweep import sweep_report as sweep_report
    from kineray.serving import promote as promote
    from kineray.serving import rollback as rollback
    from kineray.serving import serve as serve
    from kineray.serving import stop_service as stop_service
    from kineray.tasks.losses import Loss as Loss
    from kineray.tracking.api import get_run as get_run
    from kineray.tracking.api import list_runs as list_runs
    from kineray.tracking.edit import delete_run as delete_run
    from kineray.tracking.edit import tag_run as tag_run
    from kineray.tracking.evaluate import evaluate as evaluate
    from kineray.training import load_checkpoint as load_checkpoint
    from kineray.training.features.api import build_features as build_features
    from kineray.training.features.api import delete_features as delete_features
    from kineray.training.features.api import list_features as list_features
    from kineray.training.features.api import verify_features as verify_features
    from kineray.training.recipe import Piece as Piece
    from kineray.training.resume_check.check import verify_resume as verify_resume
    from kineray.video import read_clip as read_clip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "data":
        return import_module("kineray.data")
    if name[0].isupper():
        config = import_module("kineray.config")
        if hasattr(config, name):
            return getattr(config, name)
    raise AttributeError(f"module 'kineray' has no attribute '{name}'")


def __dir__() -> list[str]:
    config = import_module("kineray.config")
    sections = [name for name in config.__all__ if isinstance(getattr(config, name), type)]
    variants = [cls.__name__ for family in config.families() for cls in config.variants(family).values()]
    return sorted({"__version__", "data", *_HOMES, *sections, *variants})
