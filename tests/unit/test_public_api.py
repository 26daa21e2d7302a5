"""``import kineray``: a readable help page, names that complete, the command line's results."""

import inspect
import json
import pydoc
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kineray as package
from kineray.cli.output import json_of
from kineray.errors import ConfigError, KinerayError, StorageError
from small_checkpoint import CLASSES, save_small_checkpoint


def test_help_is_a_page_that_a_person_reads():
    page = pydoc.plain(pydoc.render_doc(package))
    assert len(page.splitlines()) < 100
    assert "model_validate" not in page
    named = set(re.findall(r"(\w+)\(", package.__doc__)) - {"help", "dir", "Experiment", "SlowFastConfig"}
    assert {"train", "sweep", "evaluate", "predict", "promote", "rollback", "serve", "export"} < named
    for name in named:
        assert callable(getattr(package, name)) and getattr(package, name).__doc__, name


def test_dir_completes_functions_sections_and_variants():
    names = dir(package)
    assert {"train", "import_dataset", "get_run", "data", "Experiment", "SlowFastConfig"} <= set(names)
    for name in names:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'SlwFastConfig'"):
        package.SlwFastConfig  # noqa: B018


@pytest.mark.parametrize("name", ["validate", "stats", "split", "reencode", "flow", "describe", "synthesize"])
def test_the_tools_of_data_are_public(name):
    assert getattr(package.data, name).__doc__


def test_all_functions_take_the_storage_of_the_environment_unless_told_otherwise():
    functions = [getattr(package, name) for name in package._HOMES]
    kinds = [inspect.signature(function).parameters.get("storage") for function in functions]
    defaults = [kind.default for kind in kinds if kind is not None]
    assert len(defaults) > 5 and set(defaults) == {None}


def test_an_import_alone_loads_nothing_slow():
    code = "import sys, kineray; print(*{name.partition('.')[0] for name in sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(out.split()) & {"torch", "ray", "mlflow", "pydantic", "numpy", "click"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINERAY_STORAGE", "store")
    return tmp_path


def as_json(value):
    return json.loads(json.dumps(json_of(value), default=str))


@pytest.fixture
def made(here):
    package.data.synthesize("made", train=4, val=4, size=32, seconds=0.4)
    save_small_checkpoint("store/small/checkpoints", heads={"action": CLASSES}, frames=4)


def test_import_gives_the_same_from_both(kineray, made):
    code, out, _ = kineray("data", "import", "made", "--format", "folders", "--out", "a.parquet", "--json")
    assert code == 0
    by_call = package.import_dataset("made", format="folders", out="a.parquet")
    assert json.loads(out) == as_json(by_call)
    assert by_call.samples == 8 and by_call.classes == {"action": tuple(sorted(CLASSES))}


def test_eval_and_predict_give_the_same_from_both(kineray, made):
    code, out, err = kineray("eval", "small", "data.manifest=made", "--views", "2", "--crops", "1", "--json")
    assert code == 0, err
    by_call = package.evaluate("small", manifest="made", views=2, crops=1)
    assert json.loads(out) == as_json(by_call)
    assert Path(by_call.file).is_file()
    video = package.load_manifest("made")[0].uri
    out = kineray("predict", "store/small", video, "--views", "2", "--json")[1]
    by_name, by_command = as_json(package.predict("small", video, views=2)), json.loads(out)
    assert by_name.pop("timings_ms").keys() == by_command.pop("timings_ms").keys()
    assert by_name == by_command
    loaded = package.load_checkpoint("store/small")
    assert package.predict(loaded, video, views=2).predictions == by_name["predictions"]


def test_predictions_of_another_data_set_or_protocol_are_never_overwritten(made):
    first = package.evaluate("small", manifest="made", views=1, crops=1)
    assert package.evaluate("small", manifest="made", views=1, crops=1).file == first.file
    shutil.copytree("made", "other")
    package.data.synthesize("other", train=4, val=5, size=32, seconds=0.4, seed=1)
    second = package.evaluate("small", manifest="other", views=1, crops=1)
    assert second.file != first.file and Path(first.file).is_file()
    before = Path(first.file).read_bytes()
    with pytest.raises(StorageError) as error:
        package.evaluate("small", manifest="other", views=1, crops=1, out=first.file)
    assert (error.value.code, error.value.key) == ("file_taken", first.file)
    assert Path(first.file).read_bytes() == before
    Path("notes.txt").write_text("mine")
    with pytest.raises(StorageError) as error:
        package.evaluate("small", manifest="made", views=1, crops=1, out="notes.txt")
    assert error.value.code == "file_taken" and Path("notes.txt").read_text() == "mine"


def test_errors_have_a_code_a_key_and_a_suggestion(made):
    with pytest.raises(KinerayError) as error:
        package.evaluate("smal", manifest="made")
    assert (error.value.code, error.value.key) == ("unknown_checkpoint", "smal")
    assert error.value.remedy == "did you mean small?"
    with pytest.raises(ConfigError) as error:
        package.evaluate("small", manifest="made", crops=2)
    assert (error.value.code, error.value.key) == ("unknown_value", "crops")


@pytest.mark.slow
def test_promote_gives_the_same_from_both(kineray, made):
    from kineray.tracking import start_run

    uris = {"small": package.load_checkpoint("store/small").uri}
    uris["other"] = save_small_checkpoint("store/other/checkpoints", seed=1, frames=4)
    for name, uri in uris.items():
        run = start_run(
            "store",
            name=name,
            experiment=package.Experiment(),
            fingerprint="f",
            manifest=package.load_manifest("made"),
            command=["kineray"],
        )
        checkpoint = str(Path(uri).absolute())
        run.set_tags({"checkpoint.best": checkpoint, "checkpoint.last": checkpoint})
        run.finish("FINISHED")
    code, out, err = kineray("promote", "other", "--json")
    assert code == 0, err
    first = json.loads(out)
    assert as_json(package.promote("store/other")) == first | {"version": 1}
    second = as_json(package.promote("small"))
    assert second["version"] == 2
    assert json.loads(kineray("rollback", "--json")[1]) == first
    assert as_json(package.rollback()) == second
    assert {run.name for run in package.list_runs()} == set(uris)
    assert package.get_run("other").best_checkpoint == checkpoint
