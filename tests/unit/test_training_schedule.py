"""The learning rate against the curve of the published recipe; which parameters are decayed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kineray.config import (
    AdamConfig,
    AdamWConfig,
    CosineConfig,
    Experiment,
    OptimSection,
    PlateauConfig,
    RmspropConfig,
    RpropConfig,
    SgdConfig,
    SlowFastConfig,
    StepsConfig,
    TrainConfig,
    WarmRestartsConfig,
)
from kineray.models import build_model
from kineray.training import build_optimizer, learning_rate
from kineray.training.optim import set_learning_rate

# 128 GPUs x 8 clips, the numbers that PySlowFast's schedule gives with NUM_SHARDS 16.
PUBLISHED = [(0, 0.16), (17, 0.822), (34, 1.484), (98, 0.80), (150, 0.208), (196, 0.0)]


@pytest.mark.parametrize(("epoch", "rate"), PUBLISHED)
def test_the_learning_rate_follows_the_published_curve(epoch, rate):
    assert learning_rate(epoch, Experiment()) == pytest.approx(rate, abs=6e-4)


def test_one_machine_has_a_sixteenth_of_the_rate():
    """Linear scaling: 8 GPUs instead of 128."""
    one = Experiment(train=TrainConfig(global_batch=64))
    for epoch, rate in PUBLISHED:
        assert learning_rate(epoch, one) == pytest.approx(rate / 16, abs=4e-5)


@given(
    st.integers(1, 300),
    st.floats(0, 0.9),
    st.floats(1e-4, 2),
    st.floats(0, 1),
    st.sampled_from([64, 256, 1024]),
)
def test_the_rate_rises_linearly_and_then_falls_to_zero(epochs, warmup_share, lr, start_share, batch):
    experiment = Experiment(
        optim=SgdConfig(lr=lr),
        schedule=CosineConfig(
            warmup_epochs=warmup_share * epochs if warmup_share > 1e-06 else 0.0, warmup_start=0.0
        ),
        train=TrainConfig(epochs=epochs, global_batch=batch),
    )
    warmup = experiment.schedule.warmup_epochs
    peak = lr * batch / 64
    rates = [learning_rate(epochs * i / 50, experiment) for i in range(51)]
    assert all(0 <= rate <= peak * (1 + 1e-9) for rate in rates)
    assert rates[-1] == pytest.approx(0, abs=1e-9 * peak + 1e-12)
    after = [rate for i, rate in enumerate(rates) if epochs * i / 50 >= warmup]
    assert after == sorted(after, reverse=True)
    assert learning_rate(warmup * (1 - 1e-9), experiment) == pytest.approx(
        learning_rate(warmup, experiment), rel=1e-3
    )
    if warmup > 0:
        assert learning_rate(start_share * warmup, experiment) == pytest.approx(
            start_share * learning_rate(warmup, experiment), rel=1e-6, abs=1e-12
        )


def test_the_rate_falls_in_steps():
    """Adam 1e-3, a fifth of it every 20 epochs from epoch 35 on."""
    experiment = Experiment(
        optim=AdamConfig(lr=1e-3, reference_batch=32),
        schedule=StepsConfig(decay_epochs=(35, 55, 75, 95), decay=0.2),
        train=TrainConfig(epochs=100, global_batch=32),
    )
    for epoch, power in ((0, 0), (34.99, 0), (35, 1), (54.9, 1), (55, 2), (75, 3), (95, 4), (100, 4)):
        assert learning_rate(epoch, experiment) == pytest.approx(1e-3 * 0.2**power)
    constant = Experiment(schedule=StepsConfig(), train=TrainConfig(global_batch=64))
    assert {learning_rate(epoch, constant) for epoch in (0, 50, 196)} == {0.1}
    warm = Experiment(
        schedule=StepsConfig(warmup_epochs=10, warmup_start=0.0), train=TrainConfig(global_batch=64)
    )
    assert [learning_rate(epoch, warm) for epoch in (5, 10)] == pytest.approx([0.05, 0.1])


@given(
    st.integers(1, 12),
    st.integers(1, 3),
    st.floats(0, 0.5),
    st.lists(st.integers(0, 8 * 150), min_size=1, max_size=20),
)
def test_warm_restarts_are_those_of_torch(cycle, multiplier, minimum, eighths):
    schedule = WarmRestartsConfig(cycle_epochs=cycle, multiplier=multiplier, minimum=minimum)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, cycle, multiplier, eta_min=minimum
    )
    for epoch in [number / 8 for number in eighths]:
        reference.step(epoch)
        assert schedule.factor(epoch, 150) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)


def test_the_rate_restarts_in_a_run():
    """Cycles of 2 and 4 epochs from 0.1 to a tenth of it, after a warm-up of half an epoch."""
    schedule = WarmRestartsConfig(cycle_epochs=2, minimum=0.1, warmup_epochs=0.5, warmup_start=0.0)
    experiment = Experiment(schedule=schedule, train=TrainConfig(epochs=6, global_batch=64))
    rates = [learning_rate(epoch, experiment) for epoch in (0, 0.5, 1, 2, 4, 6 - 1e-6)]
    assert rates == pytest.approx([0, 0.1 - 0.045 * (1 - 0.5**0.5), 0.055, 0.1, 0.055, 0.01])


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1), max_size=60),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.01, 0.1]),
    st.integers(1, 4),
)
def test_a_plateau_is_where_torch_sees_one(scores, patience, improvement, decays):
    """torch counts the validations that it bears, we those after which it decays: one more."""
    schedule = PlateauConfig(patience=patience, improvement=improvement, decays=decays, decay=0.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", 0.5, patience - 1, improvement, "abs", min_lr=0.5**decays, eps=0.0
    )
    for number, score in enumerate(scores):
        reference.step(score)
        assert schedule.factor_after(scores[: number + 1]) == optimizer.param_groups[0]["lr"]
    assert schedule.factor_after([]) == 1


def test_rprop_follows_the_signs_of_gradients():
    """Each weight moves by its own step: lr first, then grow times as far while the sign stays."""
    layer = torch.nn.Linear(1, 1, bias=False).double()
    optimizer = build_optimizer(layer, RpropConfig(lr=0.01, shrink=0.5, grow=1.2))
    before = layer.weight.item()
    for gradient, step in ((3.0, -0.01), (0.1, -0.012), (-7.0, 0.0), (-7.0, 0.006)):
        set_learning_rate(optimizer, 0.01)
        layer.weight.grad = torch.tensor([[gradient]], dtype=torch.float64)
        optimizer.step()
        assert layer.weight.item() - before == pytest.approx(step)
        before = layer.weight.item()
    experiment = Experiment(
        optim=RpropConfig(lr=0.01), schedule=CosineConfig(warmup_epochs=0), train=TrainConfig()
    )
    assert learning_rate(0, experiment) == 0.01


def test_what_is_frozen_is_not_in_the_optimizer(model):
    for config in (SgdConfig(), AdamConfig(), AdamWConfig(), RmspropConfig(), RpropConfig()):
        model.fast.requires_grad_(False)
        optimizer = build_optimizer(model, config)
        model.fast.requires_grad_(True)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        frozen = {id(parameter) for parameter in model.fast.parameters()}
        assert held == {id(parameter) for parameter in model.parameters()} - frozen


@pytest.fixture(scope="module")
def model():
    config = SlowFastConfig(stage_blocks=(1, 1, 1, 1), width=8, beta_inv=4, nonlocal_res4=(0,))
    return build_model(config, {"action": 3})


@pytest.mark.parametrize("kind", [SgdConfig, AdamConfig, AdamWConfig, RmspropConfig])
def test_only_batch_norms_are_not_decayed(model, kind):
    names = {parameter: name for name, parameter in model.named_parameters()}
    decay = {
        names[parameter]: group["weight_decay"]
        for group in build_optimizer(model, kind(weight_decay=0.5)).param_groups
        for parameter in group["params"]
    }
    assert decay.keys() == set(names.values())
    undecayed = {name for name, value in decay.items() if value == 0}
    is_norm = {name for name in decay if ".norm" in name or ".shortcut.1." in name}
    assert undecayed == is_norm
    assert decay["slow.res4.nonlocal0.theta.bias"] == decay["head.linear.action.bias"] == 0.5


def test_the_weight_decay_of_a_users_optimizer_is_its_field(own_plugins):
    class MineConfig(OptimSection, type="decaying_of_tests"):
        weight_decay: float = 0.01

        def build(self, groups):
            return torch.optim.SGD(groups, lr=self.lr)

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    groups = build_optimizer(model, MineConfig()).param_groups
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_updates_by_its_formula(nesterov, momentum):
    """v <- m v + (g + wd w); w <- w - lr (g + wd w + m v) with Nesterov, - lr v without."""
    layer = torch.nn.Linear(3, 1, bias=False).double()
    optimizer = build_optimizer(layer, SgdConfig(momentum=momentum, nesterov=nesterov, weight_decay=0.1))
    w = layer.weight.detach().clone()
    v = torch.zeros_like(w)
    for step, lr in enumerate((0.5, 0.25, 0.1)):
        gradient = torch.full_like(w, math.sin(step + 1))
        layer.weight.grad = gradient.clone()
        set_learning_rate(optimizer, lr)
        optimizer.step()
        g = gradient + 0.1 * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v if nesterov else v)
        torch.testing.assert_close(layer.weight.detach(), w)


def updates(config, lr=0.01):
    """(weights, gradient) before each of five steps of an optimizer, and the weights at the end."""
    layer = torch.nn.Linear(3, 1, bias=False).double()
    optimizer = build_optimizer(layer, config)
    taken = []
    for step in range(5):
        layer.weight.grad = torch.tensor([[math.sin(step), 0.1 * step - 0.2, -1.0]], dtype=torch.float64)
        taken.append((layer.weight.detach().clone(), layer.weight.grad.clone()))
        set_learning_rate(optimizer, lr)
        optimizer.step()
    return [*taken, (layer.weight.detach(), None)]


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_adds_weight_decay_to_gradients_and_adamw_takes_it_off_the_weights(decoupled):
    """Algorithm 2 of arXiv 1711.05101, without and with the part in green."""
    config = (AdamWConfig if decoupled else AdamConfig)(beta1=0.8, beta2=0.95, weight_decay=0.1)
    taken = updates(config)
    w, m, v = taken[0][0], 0, 0
    for step, (before, gradient) in enumerate(taken[:-1], 1):
        torch.testing.assert_close(before, w)
        g = gradient if decoupled else gradient + 0.1 * w
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        shrunk = 0.01 * 0.1 * w if decoupled else 0
        w = w - 0.01 * (m / (1 - 0.8**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8) - shrunk
    torch.testing.assert_close(taken[-1][0], w)


def test_rmsprop_divides_by_the_size_of_gradients():
    taken = updates(RmspropConfig(alpha=0.9, momentum=0.5, eps=0.1, weight_decay=0.1))
    w, v, moved = taken[0][0], 0, 0
    for before, gradient in taken[:-1]:
        torch.testing.assert_close(before, w)
        g = gradient + 0.1 * w
        v = 0.9 * v + 0.1 * g**2
        moved = 0.5 * moved + g / (v.sqrt() + 0.1)
        w = w - 0.01 * moved
    torch.testing.assert_close(taken[-1][0], w)
