"""kineray: train, search, compare and serve video action-recognition models on Ray.

The names below are imported when they are first used, so that ``import kineray`` (and
``kineray --help``) needs no torch, Ray or MLflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "AdamConfig": "kineray.config",
    "AttentionConfig": "kineray.config",
    "AverageConfig": "kineray.config",
    "C3DConfig": "kineray.config",
    "Choice": "kineray.config",
    "ConsensusConfig": "kineray.config",
    "Conv1dConfig": "kineray.config",
    "ConvLstmConfig": "kineray.config",
    "DataConfig": "kineray.config",
    "Experiment": "kineray.config",
    "FrameConfig": "kineray.config",
    "GruConfig": "kineray.config",
    "LogUniform": "kineray.config",
    "LstmConfig": "kineray.config",
    "P3DConfig": "kineray.config",
    "R2Plus1DConfig": "kineray.config",
    "ResidualConfig": "kineray.config",
    "ResNet3dConfig": "kineray.config",
    "RpropConfig": "kineray.config",
    "STResNetConfig": "kineray.config",
    "SgdConfig": "kineray.config",
    "S3DConfig": "kineray.config",
    "S3DV3Config": "kineray.config",
    "SlowFastConfig": "kineray.config",
    "TimeceptionConfig": "kineray.config",
    "TrainConfig": "kineray.config",
    "TwoStreamConfig": "kineray.config",
    "Uniform": "kineray.config",
    "VideoResNet18Config": "kineray.config",
    "KinerayError": "kineray.errors",
    "create_model": "kineray.models",
    "list_models": "kineray.models",
    "load_checkpoint": "kineray.training",
    "load_manifest": "kineray.data",
    "main": "kineray.cli",
    "read_clip": "kineray.video",
    "sweep": "kineray.orchestration",
}

__all__ = ["__version__", *sorted(_WHERE)]  # noqa: PLE0604 - a list of strings, made from the table above

if TYPE_CHECKING:
    from kineray.cli import main as main
    from kineray.config import AdamConfig as AdamConfig
    from kineray.config import AttentionConfig as AttentionConfig
    from kineray.config import AverageConfig as AverageConfig
    from kineray.config import C3DConfig as C3DConfig
    from kineray.config import Choice as Choice
    from kineray.config import ConsensusConfig as ConsensusConfig
    from kineray.config import Conv1dConfig as Conv1dConfig
    from kineray.config import ConvLstmConfig as ConvLstmConfig
    from kineray.config import DataConfig as DataConfig
    from kineray.config import Experiment as Experiment
    from kineray.config import FrameConfig as FrameConfig
    from kineray.config import GruConfig as GruConfig
    from kineray.config import LogUniform as LogUniform
    from kineray.config import LstmConfig as LstmConfig
    from kineray.config import P3DConfig as P3DConfig
    from kineray.config import R2Plus1DConfig as R2Plus1DConfig
    from kineray.config import ResidualConfig as ResidualConfig
    from kineray.config import ResNet3dConfig as ResNet3dConfig
    from kineray.config import RpropConfig as RpropConfig
    from kineray.config import S3DConfig as S3DConfig
    from kineray.config import S3DV3Config as S3DV3Config
    from kineray.config import SgdConfig as SgdConfig
    from kineray.config import SlowFastConfig as SlowFastConfig
    from kineray.config import STResNetConfig as STResNetConfig
    from kineray.config import TimeceptionConfig as TimeceptionConfig
    from kineray.config import TrainConfig as TrainConfig
    from kineray.config import TwoStreamConfig as TwoStreamConfig
    from kineray.config import Uniform as Uniform
    from kineray.config import VideoResNet18Config as VideoResNet18Config
    from kineray.data import load_manifest as load_manifest
    from kineray.errors import KinerayError as KinerayError
    from kineray.models import create_model as create_model
    from kineray.models import list_models as list_models
    from kineray.orchestration import sweep as sweep
    from kineray.training import load_checkpoint as load_checkpoint
    from kineray.video import read_clip as read_clip


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    config = import_module("kineray.config")
    if not name.startswith("_") and hasattr(config, name):
        return getattr(config, name)
    raise AttributeError(f"module 'kineray' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
