"""What a notebook shows of a sweep: a table of its trials, and their scores over the steps."""

import threading
from typing import TYPE_CHECKING, Any

from kineray.reports import svg
from kineray.reports.html import paragraph, table
from kineray.tracking import SCORE
from kineray.tracking.api import metric_history

if TYPE_CHECKING:
    from kineray.orchestration.sweeps import Sweep

_EVERY_S = 2.0
_MOST = 20  # trials that are shown


def show_live(sweep: "Sweep") -> None:
    """Display a sweep in a notebook, and update what is shown until the sweep ends."""
    from IPython import display

    html: Any = display.HTML
    shown: Any = display.display(html(page(sweep)), display_id=True)  # type: ignore[no-untyped-call]

    def update() -> None:
        while not done.wait(_EVERY_S):
            is_over = sweep.status not in {"starting", "running"}
            shown.update(html(page(sweep)))
            if is_over:
                return

    done = threading.Event()
    threading.Thread(target=update, name="kineray-view", daemon=True).start()


def page(sweep: "Sweep") -> str:
    """The best trials as an HTML table, under their scores over the steps as a plot."""
    trials = [] if sweep.status == "starting" else sweep.trials[:_MOST]
    curves = [metric_history(sweep.storage, trial.name, SCORE) for trial in trials]
    rows = [{"best": t.score, "epoch": t.epoch, "state": t.state, **t.params} for t in trials]
    return paragraph(sweep.progress()) + svg.curves(curves, "step", "score") + table(rows)
