"""What is measured before a run is what the run then has: kernels, bytes, clips."""

import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import kineray as package
from kineray.config import apply_overrides
from kineray.data import load_manifest
from kineray.errors import ConfigError, ManifestError
from kineray.models import checkpoint_activations, commit_batch_norm, set_batch_norm_group, summarise
from kineray.models.registry import find_preset
from kineray.options import WorkerOptions
from kineray.planning.graph import FakeModel, states_of_optimizer
from kineray.planning.profiling import workload_of
from kineray.training import ExperimentPlan, build_optimizer
from kineray.training.order_of_use import names_in_order_of_use
from kineray.training.recipe import Recipe
from kineray.training.synchronise import fixed_buckets

CLASSES = {"action": ("a", "b", "c", "d")}


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return apply_overrides(tiny_experiment, {"data.manifest": "", "model.dropout": "0.0", "recipe.ema": "on"})


@pytest.fixture(scope="module")
def task(experiment):
    return experiment.task.build(CLASSES)


@pytest.fixture(scope="module")
def step(experiment):
    return ExperimentPlan(experiment, 48).at(0)


@pytest.fixture(scope="module")
def fake(experiment, task):
    return FakeModel(experiment, task, activation_checkpointing=False)


@pytest.fixture(scope="module")
def graph(fake, step):
    return fake.training(step, 1)


def real_pass(experiment, task, step, checkpointed=False):
    """The network after forward and backward pass on noise; FLOPs, and bytes that the backward pass needs."""
    torch.manual_seed(0)
    model = task.build_model(experiment.model, 3).train()
    if checkpointed:
        checkpoint_activations(model)
    set_batch_norm_group(model, step.bn_group)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    clips = torch.randn(step.bn_group, 3, step.clip.frames, step.clip.crop, step.clip.crop)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = sum(logits.log_softmax(1).sum() for logits in model(clips).values())
        loss.backward()
    return model, counter.get_total_flops(), sum(saved.values())


@pytest.fixture(scope="module")
def real(experiment, task, step):
    return real_pass(experiment, task, step)


def flops(graph):
    return sum(op.flops for op in (*graph.forward, *graph.backward))


def test_the_flops_of_a_step_are_those_of_the_real_network(graph, real, step):
    assert flops(graph) == real[1] == graph.flops_per_clip * step.bn_group


def test_kernels_execute_what_they_need_and_more_where_channels_are_few(graph):
    ops = [op for op in (*graph.forward, *graph.backward) if op.flops]
    assert ops and all(op.executed >= op.flops * (1 - 1e-9) for op in ops)
    assert sum(op.executed for op in ops) > 2 * flops(graph)  # 8 channels do not fill a tile


def test_the_peak_holds_all_that_the_backward_pass_needs(graph, real):
    saved = real[2]
    assert saved <= graph.peak <= 1.7 * saved


def test_more_groups_hold_about_as_much_more(fake, graph, step):
    assert 1.6 * graph.peak < fake.training(step, 2).peak < 2.6 * graph.peak


def test_checkpointed_activations_take_less_memory_and_more_arithmetic(experiment, task, step, graph):
    found = FakeModel(experiment, task, activation_checkpointing=True).training(step, 1)
    assert found.peak < graph.peak
    assert flops(found) == real_pass(experiment, task, step, checkpointed=True)[1] > flops(graph)


def test_bfloat16_halves_the_activations(experiment, task, graph, step):
    half = apply_overrides(experiment, {"train.precision": "bfloat16"})
    found = FakeModel(half, task, activation_checkpointing=False).training(step, 1)
    assert flops(found) == flops(graph)
    assert found.peak < 0.75 * graph.peak


def test_buckets_are_those_that_are_reduced(graph, real, experiment):
    order = names_in_order_of_use(real[0], experiment)
    buckets = fixed_buckets([real[0].get_parameter(name) for name in order])
    sizes = [sum(p.numel() for p in bucket) * 4 + 4 * len(bucket) for bucket in buckets]
    assert [bucket.bytes for bucket in graph.buckets] == sizes
    assert all(0 < bucket.ready <= len(graph.backward) for bucket in graph.buckets)


def test_the_state_is_what_a_checkpoint_has(experiment, fake, real):
    model = real[0]
    recipe, optimizer = Recipe(experiment), build_optimizer(model, experiment.optim)
    recipe.begin(model)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values()]
    average = recipe.states()["ema"].values()
    tensors = [*model.state_dict().values(), *moments, *average]
    assert fake.state_bytes == sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))
    assert fake.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("optimizer", "tensors"), [("sgd", 1), ("adam", 2), ("rprop", 2), ("rmsprop", 1)])
def test_every_optimizer_has_its_state(experiment, optimizer, tensors):
    assert states_of_optimizer(apply_overrides(experiment, {"optim.type": optimizer})) == tensors


def test_the_statistics_are_those_that_are_summed(fake, task, experiment, step):
    model, sizes = real_pass(experiment, task, step)[0], []
    commit_batch_norm(model, lambda total: sizes.append(total.nbytes))
    assert sizes == [fake.statistics_bytes]


def test_a_frozen_network_has_no_gradients_of_what_it_does_not_train(experiment, task, fake, step):
    part = dataclasses.replace(step, trained=("!*", "head*", "heads*"))
    found = fake.training(part, 1)
    assert flops(found) < flops(fake.training(step, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50_average", "two_stream_i3d_inception", "c3d"])
def test_networks_of_other_kinds_are_measured_too(name):
    preset = find_preset(name)
    sides = {"crop": preset.side, "short_side": (preset.side, preset.side)}
    data = package.DataConfig(
        frames=preset.frames, **sides, eval_short_side=preset.side, eval_crop=preset.side
    )
    if preset.channels == 5:
        values = {"modality": "rgb_flow", "mean": (0.5,) * 5, "std": (0.2,) * 5}
        data = package.DataConfig(**data.model_dump() | values)
    train = package.TrainConfig(global_batch=2, bn_group=2)
    other = package.Experiment(data=data, model=preset.config, train=train)
    task = other.task.build(CLASSES)
    model = FakeModel(other, task, activation_checkpointing=False)
    found = model.training(ExperimentPlan(other, 2).at(0), 1)
    forward = 2 * sum(summarise(name, classes=4).cost.__dict__.values())
    assert sum(op.flops for op in found.forward) >= 0.9 * 2 * forward
    assert found.buckets[-1].ready == len(found.backward)


class Growing:
    """A plan whose clips grow and whose batch shrinks, as in multigrid training."""

    total_steps = 10

    def __init__(self, experiment):
        self._plan = ExperimentPlan(experiment, 160)

    def at(self, index):
        step = self._plan.at(index)
        if index >= 4:
            return step
        clip = dataclasses.replace(step.clip, frames=4)
        return dataclasses.replace(step, global_batch=32, clip=clip)


def test_every_kind_of_step_is_counted(experiment, task):
    work, _ = workload_of(experiment, Growing(experiment), task, val_clips=16, options=WorkerOptions())
    short, long = work.kinds
    assert [(kind.steps, kind.global_batch) for kind in work.kinds] == [(4, 32), (6, 16)]
    assert short.graph.flops_per_clip < long.graph.flops_per_clip
    assert (short.clip_bytes * 2, short.decode * 2) == (long.clip_bytes, long.decode)
    assert work.clips == 4 * 32 + 6 * 16


def test_a_network_that_looks_at_values_is_refused(experiment, task, monkeypatch):
    network = type(task.build_model(experiment.model, 3))

    def forward(self, clips):
        return {"action": clips.mean((2, 3, 4)) if clips.max() > 0 else clips}

    model = FakeModel(experiment, task, activation_checkpointing=False)
    monkeypatch.setattr(network, "forward", forward)
    with pytest.raises(ConfigError) as error:
        model.validation(2)
    assert (error.value.code, error.value.key) == ("not_measurable", "model.type")


# -- the function and the verb ------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path, tiny_experiment):
    file = tmp_path / "tiny.yaml"
    file.write_text(package.config.to_yaml(tiny_experiment))
    return str(file)


def test_a_plan_measures_decoding_on_the_users_clips(tiny_experiment):
    planned = package.plan(tiny_experiment, gpus=(1, 4), device="l4", seconds=0.2)
    assert planned.decoded > 0 and planned.origins["decode_clips_per_core"] == "measured"
    assert (planned.shape.total_steps, planned.shape.clips_per_epoch) == (9, 48)
    assert planned.clip_bytes == 8 * 32 * 32 * 3
    assert [each.gpus for each in planned.predictions] == [1, 4]
    assert planned.checkpoints == 3


def test_without_a_manifest_what_is_assumed_is_said(kineray, script):
    code, out, err = kineray(
        "plan", script, "data.manifest=", "--gpus", "2,4", "--samples", "160", "--price", "3"
    )
    assert code == 0 and "kineray train" in err
    assert "not measured" in out and "given: price 3 USD, samples 160" in out and "classes 400" in out
    header, *rows = out[out.index("GPUs ") :].splitlines()[:3]
    assert "cost" in header and [row.split()[0] for row in rows] == ["2", "4"]
    assert "16 clips in batch-norm groups of 4" in out and "30 in 3 epochs" in out


def test_json_has_every_assumption_and_a_given_one_is_not_measured(kineray, script):
    code, out, _ = kineray("plan", script, "--gpus", "1", "--decode-clips-per-core", "7", "--json")
    planned = json.loads(out)
    assert code == 0 and planned["decoded"] == 0
    assert planned["origins"]["decode_clips_per_core"] == "given"
    assert planned["assumptions"]["decode_clips_per_core"] == 7
    assert planned["predictions"][0]["gpus"] == planned["knee"]["gpus"] / 4 == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--device", "h1000"), "did you mean h100"),
        (("--gpus", "8"), "--gpus=8"),
        (("--gpus", "0"), "8,64,128"),
        (("--gpus", "two"), "8,64,128"),
        (("data.manifest=nowhere.parquet",), "data.manifest"),
        (("data.manifest=", "--device", "cpu", "--samples", "64"), "data.manifest"),
        (("--micro-batch", "3"), "--micro-batch"),
        (("--efficiency", "2"), "--efficiency"),
        (("model.tipe=slow",), "model"),
    ],
)
def test_bad_input_is_one_line(kineray, script, words, named):
    usual = () if "--gpus" in words else ("--gpus", "1")
    code, out, err = kineray("plan", script, *words, *usual)
    lines = [line for line in err.splitlines() if line != "measuring ..."]
    assert (code, out, len(lines)) == (2, "", 1) and named in lines[0]


def test_undecodable_videos_are_named(tiny_experiment, tmp_path):
    manifest = load_manifest(tiny_experiment.data.manifest)
    samples = [dataclasses.replace(sample, uri=str(tmp_path / "gone.mp4")) for sample in manifest]
    stored = tmp_path / "gone.parquet"
    package.data.save_manifest(manifest.with_samples(samples), stored)
    gone = apply_overrides(tiny_experiment, {"data.manifest": str(stored)})
    with pytest.raises(ManifestError) as error:
        package.plan(gone, gpus=(1,), seconds=0.1)
    assert error.value.code == "nothing_decodable"


@pytest.mark.slow
def test_this_machine_is_measured_by_training_on_it(tiny_experiment):
    planned = package.plan(tiny_experiment, gpus=(1, 2), device="cpu", seconds=0.5)
    assert planned.knee is None and "peak_flops" not in planned.origins
    assert all(each.compute_s > 0 and each.share_of_peak is None for each in planned.predictions)
