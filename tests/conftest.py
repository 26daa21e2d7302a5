"""What several kinds of tests share: made videos, a small experiment, one Ray cluster for the session."""

import os

import pytest

from kineray.config import DataConfig, Experiment, SgdConfig, SlowFastConfig, TrainConfig

# The tests of Ray share one cluster of their own; a run on a developer's machine must not join another.
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("KINERAY_STORAGE", None)
os.environ.pop("KINERAY_WORKERS", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def motion_manifest(tmp_path_factory):
    """Path of a manifest of 48 training and 16 validation videos."""
    from kineray.data.synth import synthesize

    return synthesize(tmp_path_factory.mktemp("motion"), train=48, val=16)


@pytest.fixture(scope="session")
def tiny_experiment(motion_manifest):
    """Trains in seconds: 3 epochs of 3 steps of 16 clips at 32 pixels."""
    return Experiment(
        name="tiny",
        data=DataConfig(
            manifest=str(motion_manifest),
            frames=8,
            stride=2,
            fps=15,
            short_side=(36, 40),
            crop=32,
            eval_short_side=36,
            eval_crop=32,
            flip=False,
        ),
        model=SlowFastConfig(
            stage_blocks=(1, 1, 1, 1), width=8, alpha=4, beta_inv=4, head_pool=1, dropout=0.2
        ),
        optim=SgdConfig(lr=0.1, reference_batch=16),
        train=TrainConfig(epochs=3, global_batch=16, bn_group=4, warmup_epochs=1, warmup_lr=0.01),
    )


@pytest.fixture(scope="session")
def ray_cluster():
    """One local Ray cluster, with the dashboard that Ray Serve's deploys need."""
    import ray

    from kineray.cluster import connect

    connect(dashboard=True)
    yield
    ray.shutdown()
