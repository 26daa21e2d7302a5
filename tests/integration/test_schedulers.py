"""Schedulers whose trials wait for each other, in a real Ray Tune whose trials only report scores."""

import pytest

from kineray.orchestration.schedulers import hyperband_groups, make_scheduler, rungs_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

EPOCHS = 9


def epochs_of(name, values, folder):
    """{value: epochs that its trial took}."""
    from ray import tune

    def trial(config):
        """Reports a score after each epoch, and goes on after the last one in its file."""
        from pathlib import Path

        from ray import tune

        done = Path(config["folder"]) / str(config["value"])
        first = int(done.read_text()) if done.exists() else 0
        for epoch in range(first + 1, epochs + 1):
            done.write_text(str(epoch))
            tune.report({"score": config["value"], "epoch": epoch, "epochs": epochs})

    epochs = EPOCHS  # a worker of Ray cannot import this module
    tune.Tuner(
        tune.with_resources(trial, {"cpu": 0.5}),
        param_space={"value": tune.grid_search(values), "folder": str(folder)},
        tune_config=tune.TuneConfig(
            metric="score", mode="max", scheduler=make_scheduler(name, EPOCHS), reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    ).fit()
    return {value: int((folder / str(value)).read_text()) for value in values}


def test_in_halving_the_best_third_of_all_goes_on_whatever_the_order(tmp_path):
    values = [0.1, 0.9, 0.5, 0.3, 0.8, 0.2, 0.7, 0.4, 0.6]
    found = epochs_of("halving", values, tmp_path)
    assert found == {value: {0.9: 9, 0.8: 3, 0.7: 3}.get(value, 1) for value in values}


def test_in_hyperband_each_group_is_compared_with_itself(tmp_path):
    groups = hyperband_groups(rungs_of(EPOCHS))
    values = [round(0.01 * number, 2) for number in range(len(groups))]
    found = epochs_of("hyperband", values, tmp_path)
    for rungs in set(groups):
        scores = [value for value, one in zip(values, groups, strict=True) if one == rungs]
        assert found[max(scores)] == EPOCHS
        assert sorted({found[value] for value in scores} - {EPOCHS}) == [*rungs][: len(scores) - 1]


def test_rungs_and_groups():
    assert [rungs_of(epochs) for epochs in (1, 2, 3, 9, 10, 100)] == [
        (),
        (1,),
        (1,),
        (1, 3),
        (1, 3),
        (11, 33),
    ]
    groups = hyperband_groups((1, 3))
    assert [groups.count(rungs) for rungs in ((1, 3), (3,), ())] == [9, 5, 3]
