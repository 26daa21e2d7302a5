"""The notebook runs from top to bottom in a real kernel."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_sweep_notebook_runs_and_names_the_best_trial(tmp_path):
    notebook = nbformat.read(ROOT / "experiments/notebooks/sweep.ipynb", as_version=4)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    last = outputs[-1]["text"]
    assert last.startswith("kineray promote notebook-sweep/model.alpha=")
    table = next(o["data"]["text/html"] for o in outputs if o["output_type"] == "execute_result")
    assert "best" in table
    assert "model.alpha" in table
