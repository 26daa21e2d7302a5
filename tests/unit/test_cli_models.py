"""``kineray models``: what is printed, and that it is what the network is."""

import json

import pytest
from small_models import PARAMETERS

from kineray.models import list_models, model_presets, summarise


@pytest.mark.slow
def test_every_model_is_one_row(kineray):
    code, out, err = kineray("models")
    assert code == 0
    units, _, rows = out.partition("\n\n")
    assert "multiply-adds" in units and "400 classes" in units
    header, *lines = rows.splitlines()
    assert [line.split()[0] for line in lines] == list_models()
    row = next(line for line in lines if line.startswith("slowfast_nl_r101_8x8"))
    assert row.split()[1:7] == ["60.08", "114.57", "2.01", "3x32x256x256", "2", "slowfast"]
    assert row.endswith("arXiv 1812.03982")
    for column in ("GFLOPs", "input", "stride"):
        assert all(line[header.index(column) - 1] == " " for line in lines)
    assert "kineray models show" in err


@pytest.mark.slow
def test_json_is_exact(kineray):
    code, out, err = kineray("models", "--json")
    assert (code, err) == (0, "")
    found = {model["name"]: model for model in json.loads(out)["models"]}
    assert {name: model["parameters"] for name, model in found.items()} == PARAMETERS
    for name, model in found.items():
        preset = model_presets()[name]
        assert model["gflops"] > 0
        assert (model["frames"], model["side"], model["stride"]) == (
            preset.frames,
            preset.side,
            preset.stride,
        )
        assert (model["stride"], model["source"], model["study"]) == (
            preset.stride,
            preset.source,
            preset.study,
        )


def test_show_explains_one_block_by_block(kineray):
    code, out, err = kineray("models", "show", "slowfast_r50_8x8")
    assert code == 0
    for words in (
        "arXiv 1812.03982",
        "3x32x256x256",
        "frames 2/30 s apart",
        "34,566,488 parameters",
        "65.71 GFLOPs",
        "configuration: model.type=slowfast model.alpha=4 model.fusion_kernel=7\n",
    ):
        assert words in out
    rows = [line.split() for line in out.splitlines()]
    assert ["slow.res3", "Sequential", "1x512x8x32x32", "1,260,544", "11.27"] in rows
    assert "attention" not in out
    assert "kineray train experiments/slowfast.py data.manifest=MANIFEST data.frames=32" in err
    assert "model.type=slowfast model.alpha=4 model.fusion_kernel=7" in err
    assert "attention" in kineray("models", "show", "slowfast_nl_r101_8x8")[1]


def test_show_speaks_json(kineray):
    shown = json.loads(kineray("models", "show", "slowfast_r50_8x8", "--json")[1])
    assert json.loads(kineray("models", "--json", "show", "slowfast_r50_8x8")[1]) == shown
    summary = summarise("slowfast_r50_8x8")
    assert shown["overrides"] == ["model.type=slowfast", "model.alpha=4", "model.fusion_kernel=7"]
    assert shown["gflops"] == summary.cost.weighted / 1e9
    parts = {part["name"]: part for part in shown["parts"]}
    assert list(parts) == [part.name for part in summary.parts]
    assert parts["slow.res3"]["outputs"] == [[1, 512, 8, 32, 32]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models", "show", "slowfast_r50_8x"], "did you mean slowfast_r50_8x8?"),
        (["models", "show", "zzz"], "kineray models lists them"),
        (["models", "show"], "Missing argument 'NAME'"),
        (["models", "slowfast_r50_8x8"], "No such command 'slowfast_r50_8x8'"),
    ],
)
def test_what_is_not_known_is_one_line(kineray, words, message):
    code, out, err = kineray(*words)
    assert (code, out) == (2, "")
    assert err.startswith("kineray: ") and message in err and len(err.splitlines()) == 1
