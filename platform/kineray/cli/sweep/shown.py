"""How the end of a sweep is shown."""

from typing import TYPE_CHECKING

from kineray.cli.output import at, note, show, table

if TYPE_CHECKING:
    from kineray.orchestration import SweepOutcome


def show_outcome(outcome: "SweepOutcome", storage: str, *, as_json: bool) -> None:
    """Print the trials of a sweep, best first."""
    best, rows = outcome.best(), outcome.trials.rows()
    if outcome.ended:
        note(f"{outcome.name} stopped: {outcome.ended}")
    columns = dict.fromkeys(key for row in rows for key in row)
    order = ("best", "epoch", "state", *(key for key in columns if "." in key), "run")
    trials = [
        {"name": t.name, "params": t.params, "state": t.state, "epoch": t.epoch, "score": t.score}
        for t in outcome.trials
    ]
    show(
        {"sweep": outcome.name, "score": outcome.score, "ended": outcome.ended, "trials": trials},
        f"score {outcome.score}\n{table(rows, order)}",
        as_json=as_json,
        then=(f"kineray promote {best.name}{at(storage)}", f"kineray runs show {best.name}{at(storage)}")
        if best
        else (f"kineray runs{at(storage)}",),
    )
