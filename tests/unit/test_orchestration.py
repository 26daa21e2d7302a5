"""The messages between processes, and what happens to an error in a worker."""

import errno
import importlib.util
import pickle
from functools import partial

import pytest
import torch

from kineray.config import Choice, LogUniform, Plugin
from kineray.errors import CheckpointError, ConfigError, NonFiniteLossError, StorageError
from kineray.options import WorkerOptions
from kineray.orchestration import sweep, train
from kineray.orchestration.messages import TrialTask, WorkerTask
from kineray.orchestration.process import (
    as_kineray_error,
    failure_message,
    is_lost_peer,
    is_permanent,
    set_up_process,
)

OWN = Plugin(
    "own.py",
    "own_model",
    "/elsewhere/own.py",
    "from kineray.config import ModelSection\n\nclass Own(ModelSection, type='own'):\n    shift: int = 1\n",
)
TASK = {
    "experiment": "model: {type: own, shift: 3}\n",
    "manifest": "/data/m.parquet",
    "folder": "/runs/one",
    "run_id": "1f",
}


def caught(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.fixture
def plugin(tmp_path):
    """A user's own module, with a function whose error torch raises and one that raises its own."""
    path = tmp_path / "my_loss.py"
    path.write_text(
        "import torch\n"
        "\n"
        "def shapes(clips):\n"
        "    return torch.nn.functional.linear(clips, torch.ones(2, 3))\n"
        "\n"
        "def missing(clips):\n"
        "    return clips['logits']\n"
    )
    spec = importlib.util.spec_from_file_location("my_loss", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tasks_are_the_same_after_json():
    rest = {"options": WorkerOptions(micro_batch=4), "plugins": (OWN,)}
    for task in (WorkerTask(**TASK, **rest), TrialTask(**TASK, **rest, cpus=2)):
        assert type(task).from_json(task.to_json()) == task


def test_setting_up_a_process_sets_threads_loads_plugins_and_reads_the_experiment(own_plugins):
    task = WorkerTask(**TASK, options=WorkerOptions(), plugins=(OWN,))
    before = torch.get_num_threads()
    try:
        experiment = set_up_process(task, cpus=1)
        assert (experiment.model.type, experiment.model.shift, torch.get_num_threads()) == ("own", 3, 1)
    finally:
        torch.set_num_threads(before)


def test_an_error_in_the_users_code_names_its_type_and_the_users_line(plugin):
    """Even if torch raised it: the line of the plug-in is named."""
    error = as_kineray_error(caught(plugin.shapes, torch.ones(2, 5)))
    assert error.code == "worker_exception"
    assert str(error).startswith("RuntimeError: ")
    assert str(error).endswith(f"({plugin.__file__}:4 in shapes)")
    error = as_kineray_error(caught(plugin.missing, {}))
    assert str(error) == f"KeyError: 'logits' ({plugin.__file__}:7 in missing)"


def test_an_error_of_kineray_is_reported_unchanged():
    error = NonFiniteLossError("step 3", code="non_finite", key="optim.lr", remedy="lower it")
    assert as_kineray_error(error) is error
    again = pickle.loads(pickle.dumps(failure_message(0, error)))
    assert (type(again.error), again.error.key) == (NonFiniteLossError, "optim.lr")


def test_a_full_disk_is_named_whatever_wrote_to_it(small_disk):
    error = as_kineray_error(caught((small_disk / "x").write_bytes, bytes(8 * 2**20)))
    assert (error.code, error.remedy) == ("disk_full", "free some space there")


def test_only_errors_with_an_external_cause_are_not_permanent(plugin):
    for error in (
        ConfigError("x", code="x"),
        CheckpointError("x", code="x"),
        StorageError("x", code="disk_full"),
        StorageError("x", code="access_denied"),
        OSError(errno.ENOSPC, "x"),
        caught(plugin.shapes, torch.ones(2, 5)),
    ):
        assert is_permanent(error)
    for error in (
        StorageError("x", code="unreachable"),
        OSError("x"),
        ConnectionError("x"),
        torch.OutOfMemoryError("x"),
    ):
        assert not is_permanent(error)


def test_an_error_about_a_lost_peer_is_not_the_workers_own(plugin):
    lost = caught(torch.distributed.all_reduce, torch.ones(1))  # there is no group
    assert is_lost_peer(lost) and not is_permanent(lost)
    assert not is_lost_peer(caught(plugin.shapes, torch.ones(2, 5)))


def test_overrides_of_a_sweep_may_be_a_generator(tiny_experiment):
    with pytest.raises(ConfigError) as error:
        sweep(tiny_experiment, {"optim.lr": LogUniform(0.1, 1)}, overrides=iter(["optim.lr=0.1"]))
    assert (error.value.code, error.value.key) == ("given_twice", "optim.lr")


def test_a_micro_batch_must_fit_every_group_of_a_sweep(tiny_experiment, tmp_path):
    with pytest.raises(ConfigError) as error:
        sweep(
            tiny_experiment,
            {"train.bn_group": Choice(2, 8)},
            options=WorkerOptions(micro_batch=4),
            storage=str(tmp_path),
        )
    assert error.value.key == "micro_batch"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["trials", "concurrent"])
def test_a_sweep_needs_at_least_one_trial_at_a_time(tiny_experiment, name):
    with pytest.raises(ConfigError) as error:
        sweep(tiny_experiment, {"optim.lr": LogUniform(0.1, 1)}, **{name: 0})
    assert (error.value.code, error.value.key) == ("out_of_range", name)


@pytest.mark.parametrize("start", [train, partial(sweep, space={"optim.lr": LogUniform(0.1, 1)})])
def test_a_name_that_is_not_valid_is_refused_before_anything_starts(start, tiny_experiment, tmp_path):
    with pytest.raises(ConfigError) as error:
        start(tiny_experiment, name="../up", storage=str(tmp_path / "runs"))
    assert (error.value.code, error.value.key) == ("bad_name", "name")
    assert not (tmp_path / "runs").exists()
