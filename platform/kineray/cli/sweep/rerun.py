"""``kineray sweep rerun``."""

from typing import TYPE_CHECKING

import click

from kineray.cli.launch import worker_options
from kineray.cli.output import at, json_option, show, storage_option, table
from kineray.cli.progress import TrainingProgress

if TYPE_CHECKING:
    from kineray.options import WorkerOptions
    from kineray.training import Event


@click.command(name="rerun", short_help="Run the best trials again, with fresh seeds or other values.")
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Number of trials.")
@click.option("--seeds", type=click.IntRange(1), default=6, show_default=True, help="Runs of each.")
@click.option("--concurrent", type=click.IntRange(1), help="Runs at the same time.")
@storage_option
@worker_options
@json_option
def command(
    name: str,
    overrides: tuple[str, ...],
    *,
    top: int,
    seeds: int,
    concurrent: int | None,
    storage: str,
    options: "WorkerOptions",
    as_json: bool,
) -> None:
    """Run the best trials of the sweep NAME again, perhaps with other values (model.frozen=false).

    The best of many scores is optimistic; the mean of runs with fresh seeds is not.
    """
    from kineray.orchestration.rerun import rerun
    from kineray.orchestration.sweeps import attach

    raw = {trial.name: trial.score for trial in attach(name, storage=storage).best(top)}
    with TrainingProgress() as progress:

        def on_event(trial: str, event: "Event") -> None:
            progress(event, prefix=f"[{trial}] ")

        outcomes = rerun(
            name,
            overrides,
            top=top,
            seeds=seeds,
            storage=storage,
            concurrent=concurrent,
            options=options,
            on_event=on_event,
        )
    rows = []
    for (trial, score), outcome in zip(raw.items(), outcomes, strict=True):
        again = [one.score for one in outcome.trials if one.score is not None]
        mean = sum(again) / len(again) if again else None
        rows.append(
            {"trial": trial, "raw": score, "corrected": mean, "runs": len(again), "sweep": outcome.name}
        )
    columns = ("raw", "corrected", "runs", "trial", "sweep")
    then = (f"kineray sweep report {name}{at(storage)}",)
    show({"sweep": name, "reruns": rows}, table(rows, columns), as_json=as_json, then=then)
