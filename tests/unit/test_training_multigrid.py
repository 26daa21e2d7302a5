"""Multigrid training: the published schedule, and that no clip of an epoch is seen twice or lost unseen."""

from itertools import groupby, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training_loop import content, run

from kineray.config import (
    CosineConfig,
    DataConfig,
    Experiment,
    RecipePiece,
    SlowFastConfig,
    StepsConfig,
    TrainConfig,
    apply_overrides,
    to_yaml,
)
from kineray.config.recipe.multigrid import MultigridConfig
from kineray.config.variants import Pieces
from kineray.data import load_manifest
from kineray.errors import ConfigError
from kineray.orchestration.continuing import extension
from kineray.training import ExperimentPlan, StepEvent, ValidationEvent, learning_rate, plan_of, shape_of
from kineray.training.inputs import check_data

KINETICS = 240_436

# SlowFast 8x8 on Kinetics-400, as PySlowFast prints and follows it: the first epoch without it; clips in
# batches of so many times the usual size, in turn; frames; learning rate as a multiple of its base.
SMALL, SHORT, WIDE, WHOLE = (
    ([(16, 112), (8, 158), (8, 158)], 8),
    ([(8, 112), (4, 158), (4, 158)], 16),
    ([(8, 112), (4, 158), (2, 224)], 16),
    ([(4, 112), (2, 158), (1, 224)], 32),
)
PUBLISHED = [
    (73, SMALL, 8),
    (110, SHORT, 4),
    (142, WIDE, 2),
    (158, WHOLE, 1),
    (205, SMALL, 0.8),
    (228, SHORT, 0.4),
    (248, WIDE, 0.2),
    (259, WHOLE, 0.1),
    (291, SMALL, 0.08),
    (308, SHORT, 0.04),
    (322, WIDE, 0.02),
    (329, WHOLE, 0.01),
    (343, WHOLE, 0.01),
    (358, WHOLE, 0.001),
]


def slowfast_8x8(warmup_epochs=0.0, **fields):
    return Experiment(
        data=DataConfig(frames=32, stride=2),
        model=SlowFastConfig(alpha=4, fusion_kernel=7),
        schedule=StepsConfig(decay_epochs=(94, 154, 196), warmup_epochs=warmup_epochs),
        train=TrainConfig(epochs=239, global_batch=64),
        recipe=Pieces(MultigridConfig(**fields)),
    )


@pytest.fixture(scope="module")
def published():
    return plan_of(slowfast_8x8(), KINETICS)


def test_the_published_schedule(published):
    assert published.experiment.run_epochs == 358
    steps, first = [], 0
    for stop, (batches, frames), lr in PUBLISHED:
        for epoch in range(first, stop):
            (phase,) = [phase for phase in published.phases if epoch in phase.epochs]
            index = phase.first_step + (epoch - phase.epochs.start) * phase.steps
            for turn in range(6):
                step = published.at(index + turn)
                batch, crop = batches[turn % 3]
                assert (step.epoch, step.global_batch) == (epoch, 64 * batch)
                assert (step.clip.frames, step.clip.crop, step.bn_group) == (frames, crop, 8)
                assert step.lr == pytest.approx(0.1 * lr)
                steps.append(step)
        first = stop
    assert published.at(published.total_steps - 1).epochs_done == 358
    # A step has about as many pixels as a usual one, and fewer frames show at most the usual span.
    usual = 64 * 32 * 224**2
    for step in steps:
        assert step.global_batch * step.clip.pixels == pytest.approx(usual, rel=0.01)
        assert 2 <= step.clip.stride <= 2 * 32 // step.clip.frames
    strides = {
        frames: {step.clip.stride for step in steps if step.clip.frames == frames} for frames in (8, 32)
    }
    assert strides == {8: {2, 3, 4, 5, 6, 7, 8}, 32: {2}}
    assert {(step.clip.crop, step.clip.short_side) for step in steps} == {
        (112, (128, 320)),
        (158, (181, 320)),
        (224, (256, 320)),
    }


def test_the_warm_up_ends_at_the_rate_of_the_first_cycle():
    plan = plan_of(slowfast_8x8(warmup_epochs=34), KINETICS)
    per_epoch = plan.phases[0].steps
    rates = [plan.at(epoch * per_epoch).lr for epoch in (0, 17, 34, 72)]
    assert rates == pytest.approx([0.01, 0.405, 0.8, 0.8])


def test_a_smooth_schedule_has_one_long_cycle_and_is_stretched():
    experiment = apply_overrides(slowfast_8x8(), ["schedule.type=cosine", "schedule.warmup_epochs=0"])
    plan = plan_of(experiment, KINETICS)
    assert [phase.grids[-1].batch for phase in plan.phases] == [8, 4, 2, 1]
    usual = apply_overrides(experiment, ["recipe.multigrid=off"])
    for phase in plan.phases:
        wanted = phase.grids[-1].batch * learning_rate(phase.epochs.start / 358 * 239, usual)
        assert plan.at(phase.first_step).lr == pytest.approx(wanted)


def test_either_cycle_may_be_left_out():
    short = plan_of(slowfast_8x8(long_frames=(1,), long_crops=(1,)), KINETICS)
    assert [[grid.batch for grid in phase.grids] for phase in short.phases] == [[4, 2, 1]] * 4
    long = plan_of(slowfast_8x8(short_crops=()), KINETICS)
    assert [[grid.batch for grid in phase.grids] for phase in long.phases][:4] == [[8], [4], [2], [1]]
    neither = plan_of(
        slowfast_8x8(long_frames=(1,), long_crops=(1,), short_crops=(), epoch_factor=1), KINETICS
    )
    usual = ExperimentPlan(slowfast_8x8(), KINETICS)
    assert neither.total_steps == usual.total_steps
    for index in (0, 5000, usual.total_steps * 9 // 10, usual.total_steps - 1):
        assert neither.at(index).first == usual.at(index).first
        assert neither.at(index).clip == usual.at(index).clip


plans = st.builds(
    lambda groups, group, samples, clips, epochs, drops, factor, every: (
        Experiment(
            data=DataConfig(frames=32, stride=2, clips_per_sample=clips),
            model=SlowFastConfig(alpha=4),
            schedule=StepsConfig(decay_epochs=sorted(set(drops))),
            train=TrainConfig(
                epochs=epochs, global_batch=groups * group * clips, bn_group=group, eval_every_epochs=every
            ),
            recipe=Pieces(MultigridConfig(epoch_factor=factor)),
        ),
        16 * groups * group + samples,
    ),
    groups=st.integers(1, 4),
    group=st.sampled_from([1, 2, 8]),
    samples=st.integers(0, 200),
    clips=st.sampled_from([1, 2]),
    epochs=st.integers(1, 12),
    drops=st.lists(st.floats(0.5, 14), max_size=3),
    factor=st.floats(0.3, 2),
    every=st.integers(1, 3),
)


@settings(max_examples=30)
@given(plans, st.data())
def test_every_clip_is_seen_at_most_once_an_epoch_by_any_number_of_workers(made, data):
    experiment, samples = made
    plan, batch = plan_of(experiment, samples), experiment.train.global_batch
    clips = samples * experiment.data.clips_per_sample
    steps = [plan.at(index) for index in range(plan.total_steps)]
    assert [step.index for step in steps] == list(range(len(steps)))
    by_epoch = {epoch: list(of) for epoch, of in groupby(steps, key=lambda step: step.epoch)}
    assert list(by_epoch) == list(range(experiment.run_epochs))
    for epoch, of_epoch in by_epoch.items():
        assert of_epoch[0].first == 0
        for one, following in pairwise(of_epoch):
            assert following.first == one.first + one.global_batch and one.epochs_done < following.epochs_done
        seen = of_epoch[-1].first + of_epoch[-1].global_batch
        (phase,) = [phase for phase in plan.phases if epoch in phase.epochs]
        next_batch = phase.grids[len(of_epoch) % len(phase.grids)].batch * batch
        assert 0 <= clips - seen == phase.dropped < next_batch
        assert of_epoch[-1].epochs_done == pytest.approx(epoch + 1)
        is_due = (epoch + 1) % experiment.train.eval_every_epochs == 0 or epoch + 1 == experiment.run_epochs
        assert [step.is_validated for step in of_epoch] == [False] * (len(of_epoch) - 1) + [is_due]
    step = data.draw(st.sampled_from(steps))
    workers = data.draw(st.integers(1, batch // experiment.train.bn_group))
    shares = [step.share(rank, workers) for rank in range(workers)]
    assert [place for share in shares for place in share] == list(range(step.global_batch))
    assert plan_of(experiment, samples).at(step.index) == step  # whatever was asked before


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    """An epoch of batches of 16 and 8 clips with half the frames, and one of 8 and 4 clips."""
    torch.set_num_threads(1)
    changes = ["train.epochs=1", "train.global_batch=4", "train.bn_group=2", "schedule.warmup_epochs=0"]
    fields = ["long_frames=0.5,1", "long_crops=1,1", "short_crops=0.7", "epoch_factor=2"]
    return apply_overrides(tiny_experiment, [*changes, *(f"recipe.multigrid.{field}" for field in fields)])


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    """The folder, the result and the events of a run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, *run(experiment, folder, checkpoint_every=1)


def test_a_run_follows_it(whole):
    _, result, events = whole
    steps = [event for event in events if isinstance(event, StepEvent)]
    epochs = [(i + 1) / 4 for i in range(4)] + [1 + (i + 1) / 8 for i in range(8)]
    assert [event.epoch for event in steps] == pytest.approx(epochs)
    assert {event.total_steps for event in steps} == {12} and steps[-1].seconds_left == 0
    validations = [(event.step, event.epoch) for event in events if isinstance(event, ValidationEvent)]
    assert validations == [(4, 1), (12, 2)] and result.step == 12


def test_a_run_resumes_in_any_part_of_the_cycles(whole, experiment, tmp_path):
    for stop_after in (1, 4, 7, None):
        options = {"stop_after": stop_after, "resume": stop_after != 1}
        run(experiment, tmp_path, checkpoint_every=1, **options)
    assert content(tmp_path) == content(whole[0])


def test_a_run_cannot_be_extended_because_its_cycles_would_be_others(whole, experiment):
    folder = whole[0]
    (folder / "experiment.yaml").write_text(to_yaml(experiment))
    longer = apply_overrides(experiment, {"train.epochs": 2})
    data = check_data(longer, load_manifest(experiment.data.manifest))
    with pytest.raises(ConfigError) as error:
        extension(str(folder.parent), "whole", longer, data)
    assert (error.value.code, error.value.key) == ("other_steps", "extend")


def test_its_shapes_are_told_apart():
    experiment = apply_overrides(slowfast_8x8(), {"train.global_batch": 1024})
    shape = shape_of(experiment, KINETICS)
    # 7 times batches of 16, 8 and 8 x 1024 clips; 33 times batches of 4, 2 and 1 x 1024.
    assert (shape.epochs, shape.steps_per_epoch) == (358, (21, 99))
    assert shape.dropped_clips == KINETICS - 7 * 32 * 1024
    seen = {(kind.global_batch // 1024, kind.clip.frames, kind.clip.crop) for kind in shape.kinds}
    phases = (SMALL, SHORT, WIDE, WHOLE)
    assert seen == {(batch, frames, crop) for batches, frames in phases for batch, crop in batches}
    assert len(shape.kinds) == len(seen)
    for kind in shape.kinds:  # as many clips at once as fit instead of 8 usual ones
        assert kind.micro_batch == 8 * kind.global_batch // 1024
        assert (kind.clip.stride, kind.longest_stride) == (2, 2 * 32 // kind.clip.frames)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (["data.sampling=sequences"], "wrong_shape"),
        (["model.alpha=8", "recipe.multigrid.long_frames=0.125,0.25,0.5,1"], "wrong_shape"),
        (["model.nonlocal_res4=1", "recipe.multigrid.short_crops=0.01"], "wrong_shape"),
        (["recipe.multigrid.long_crops=1"], "bad_value"),
        (["recipe.multigrid.short_crops=0"], "bad_value"),
    ],
)
def test_clips_that_cannot_change_are_refused(changes, code):
    with pytest.raises(ConfigError) as error:
        apply_overrides(slowfast_8x8(), changes)
    assert error.value.code == code and error.value.key.startswith("recipe.multigrid")


def test_too_few_clips_are_refused():
    assert plan_of(slowfast_8x8(), 64 * 16).phases[0].steps == 1
    with pytest.raises(ConfigError) as error:
        plan_of(slowfast_8x8(), 64 * 16 - 1)
    assert (error.value.code, error.value.key) == ("batch_larger_than_epoch", "recipe.multigrid")
    with pytest.raises(ConfigError) as error:
        plan_of(slowfast_8x8(), 63)
    assert (error.value.code, error.value.key) == ("batch_larger_than_epoch", "train.global_batch")


def test_two_pieces_cannot_both_have_a_plan(own_plugins):
    class OtherConfig(RecipePiece, type="other_plan_of_tests"):
        def plan(self, experiment, samples):
            return ExperimentPlan(experiment, samples)

    both = apply_overrides(slowfast_8x8(), ["recipe.other_plan_of_tests=on"])
    with pytest.raises(ConfigError) as error:
        plan_of(both, KINETICS)
    assert (error.value.code, error.value.key) == ("two_plans", "recipe.other_plan_of_tests")
    alone = apply_overrides(both, ["recipe.multigrid=off"])
    assert plan_of(alone, KINETICS) == ExperimentPlan(alone, KINETICS)


def test_a_schedule_says_where_it_falls():
    assert StepsConfig(decay_epochs=(3, 5)).drops == (3, 5) and CosineConfig().drops == ()
