"""The notebook runs from top to bottom in a real kernel."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_sweep_notebook_runs_and_finds_a_model_that_is_better_than_a_constant(tmp_path):
    notebook = nbformat.read(ROOT / "experiments/notebooks/egocentric_sweep.ipynb", as_version=4)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.text for output in outputs if output.output_type == "stream"]
    last = [line for text in texts for line in text.splitlines() if line.startswith("kineray promote")]
    assert last and last[0].startswith("kineray promote actions-sweep/model.temporal.type=")
    scores = {
        line.split(":")[0]: [float(word.strip(",")) for word in line.split() if word[:2] in {"0.", "1."}]
        for text in texts
        for line in text.splitlines()
        if "top-1" in line
    }
    assert set(scores) == {"verb", "noun"}
    assert all(score > constant for score, constant in scores.values())
    assert "always says the most frequent class" in (tmp_path / "runs/actions-sweep/report.html").read_text()
    shown = [output.data.get("text/html", "") for output in outputs if "data" in output]
    assert any("<svg" in text or "<table" in text for text in shown)
