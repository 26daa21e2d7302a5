"""Buckets of gradients follow the order in which the backward pass makes them."""

import torch
from torch import nn

from kineray.config import Experiment
from kineray.training.order_of_use import names_in_order_of_use

STAGES = {"stem": 1, "res2": 2, "res3": 3, "res4": 4, "res5": 5, "head": 6}


def stage(name):
    first, second = name.split(".")[:2]
    return int(second) + 1.5 if first == "laterals" else STAGES.get(second, STAGES.get(first))


def test_pathways_alternate_stage_by_stage(tiny_experiment):
    model = tiny_experiment.task.build({"action": ("a", "b")}).build_model(tiny_experiment.model, 3)
    order = names_in_order_of_use(model, tiny_experiment)
    assert sorted(order) == sorted(name for name, _ in model.named_parameters())
    stages = [stage(name) for name in order]
    assert stages == sorted(stages)
    registered = [stage(name) for name, _ in model.named_parameters()]
    assert registered != sorted(registered)


class Network(nn.Module):
    """``unused`` is declared between, and ``first`` after, what is used before and after them."""

    def __init__(self, looks_at_values):
        super().__init__()
        self.last, self.unused, self.first = nn.Linear(4, 2), nn.Linear(1, 1), nn.Linear(3, 4)
        self.looks_at_values = looks_at_values

    def forward(self, clips_bcthw):
        features = clips_bcthw.mean((2, 3, 4))
        if self.looks_at_values and features.max() > 0:
            features = -features
        return {"action": self.last(self.first(self.first(features)[:, :3]))}


def test_what_is_not_reached_is_reduced_last():
    order = names_in_order_of_use(Network(False), Experiment())
    parts = list(dict.fromkeys(name.partition(".")[0] for name in order))
    assert parts == ["unused", "first", "last"] and len(order) == 6


def test_a_network_that_needs_values_keeps_its_own_order():
    model = Network(True)
    assert names_in_order_of_use(model, Experiment()) == [name for name, _ in model.named_parameters()]


def test_the_network_itself_is_untouched():
    model = Network(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names_in_order_of_use(model, Experiment())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.first._forward_pre_hooks
