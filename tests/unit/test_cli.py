"""The command line starts quickly, prints errors as one line with exit code 2, and only results on stdout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "experiments/slowfast.py")


@pytest.fixture
def kineray(kineray, tmp_path, monkeypatch):
    """``kineray`` in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return kineray


def imported_by(*words):
    code = (
        "import sys\nfrom kineray.cli import run\n"
        f"try: run({list(words)!r})\nexcept SystemExit: pass\n"
        "print('IMPORTED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(output.rpartition("IMPORTED")[2].split())


SLOW = {"torch", "ray", "mlflow", "numpy", "av", "boto3", "pyarrow"}


@pytest.mark.parametrize(
    "words", [["--help"], ["eval", "--help"], ["serve", "--help"], ["models", "--help"], ["--version"]]
)
def test_help_imports_nothing_slow(words):
    assert not imported_by(*words) & (SLOW | {"pydantic"})


def test_the_help_of_train_lists_variants_without_importing_what_builds_them():
    assert not imported_by("train", "--help") & SLOW


def test_the_help_lists_every_verb(kineray):
    code, out, _ = kineray("--help")
    assert code == 0
    verbs = "doctor demo data models train sweep eval runs promote rollback serve predict export"
    for verb in verbs.split():
        assert f"\n  {verb}" in out


def test_platform_is_still_the_standard_library_from_the_repository_root():
    code = "import platform; print(platform.python_version())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ".".join(map(str, sys.version_info[:3]))
    assert not (ROOT / "platform/__init__.py").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["train", SCRIPT, "--worker", "2"], "No such option '--worker'"),
        (["train"], "Missing argument 'SCRIPT'"),
        (["train", SCRIPT, "--workers", "0"], "--workers=0: "),
        (["train", "nowhere.py"], "nowhere.py: no such file"),
        (["train", SCRIPT, "optim.lrr=1"], "optim.lrr: unknown key; did you mean optim.lr?"),
        (["train", SCRIPT, "optim.lr=fast"], "optim.lr=fast: input should be a valid number"),
        (["train", SCRIPT], "data.manifest: no manifest given"),
        (["train", SCRIPT, "data.manifest=gone.parquet"], "gone.parquet"),
        (["train", SCRIPT, "data.manifest=text.parquet"], "text.parquet"),
        (["train", "bad.yaml"], "bad.yaml: optim.lrr: unknown key"),
        (["train", "raises.py"], "raises.py:2: ZeroDivisionError"),
        (["train", "syntax.py"], "syntax.py:1: SyntaxError"),
        (["train", "empty.py"], "empty.py: defines no 'experiment'"),
        (["train", "checked.py"], "checked.py:2: Experiment.seed: input should be greater"),
        (["train", "frozen.py"], "frozen.py:3: Experiment.seed: cannot be changed in place"),
        (["train", "typo.py"], "typo.py:2: Experiment.optimizer: unknown key"),
        (["train", "text.parquet"], "text.parquet: expected a .py script or a .yaml file"),
        (["sweep", "bad.yaml", "--smoke"], "bad.yaml"),
        (["sweep", "plain.yaml"], "plain.yaml: defines no 'search_space'"),
        (["sweep", SCRIPT, "optim.lr=0.1"], "optim.lr: both set and searched"),
        (["sweep", SCRIPT, "--search", "optim.lrr=log:1:2"], "did you mean optim.lr?"),
        (["sweep", SCRIPT, "--search", "model.alpha=4,5"], "not a multiple of model.alpha 5"),
        (
            ["sweep", SCRIPT, "--search", "model.alpha=4", "--search", "model.alpha=8"],
            "model.alpha: searched twice",
        ),
        (["sweep", SCRIPT, "--trials", "0"], "Invalid value for '--trials'"),
        (["sweep", SCRIPT, "--budget", "2"], "--budget=2: "),
        (["sweep", SCRIPT, "--max-failed", "2"], "--max-failed=2.0: "),
        (["sweep", SCRIPT, "--searcher", "grid"], "optim.lr: a range of real numbers"),
        (["sweep", SCRIPT, "--searcher", "cmaes"], "model.alpha: CMA-ES"),
        (["sweep", SCRIPT, "--space", "none.yaml"], "none.yaml: "),
        (["sweep", "attach", "nobody"], "NAME=nobody: "),
        (["sweep", "resume", "nobody", "--storage", "folder"], "NAME=nobody: "),
        (["eval", "nothing-here"], "nothing-here"),
        (["eval", "nothing-here", "optim.lr=1"], "optim.lr=1: "),
        (["predict", "nothing-here", "clip.mp4"], "nothing-here"),
        (["data", "import", "nowhere"], "nowhere: no such file or folder"),
        (["data", "import", "text.parquet", "folder"], "folder"),
        (["data", "import", "folder", "folder"], "folder: "),
        (
            ["data", "import", "folder", "--classes", "text.parquet"],
            "--classes: ",
        ),
        (["data", "import", "folder", "--videos", "folder"], "--videos: "),
        (
            ["data", "import", "folder", "--out", "manifest.csv"],
            "--out=manifest.csv: ",
        ),
        (["data", "import", "clip.mp4"], "clip.mp4: not a text file"),
        (["data", "import", "clip.mp4", "--format", "list"], "clip.mp4: "),
        (["data", "import", "val.txt", "--classes", "clip.mp4"], "clip.mp4: not a text file"),
        (["data", "import", "val.txt", "--classes", "blank"], "--classes=blank: "),
        (["data", "show", "text.parquet"], "text.parquet"),
        (["data", "synth", "/proc/x"], "/proc/x: No such file"),
        (["data", "synth", "val.txt"], "val.txt: "),
        (["train", "binary.yaml"], "binary.yaml: not a text file in UTF-8"),
        (["train", "tagged.yaml"], "tagged.yaml: optim"),
        (["train", "loop.yaml"], "loop.yaml: nested too deeply"),
        (["train", "unsmoke.py", "--smoke"], "unsmoke.py: 'smoke' is not an experiment"),
        (["train", "plain.yaml", "--smoke"], "'smoke' experiment; define one, or leave out --smoke"),
        (["sweep", "list.py"], "space: a search space cannot be a list"),
        (["sweep", "plain.py"], "optim.lr: [0.1, 0.2] is not a domain"),
        (["eval", "s3://bucket/run"], "AWS_ENDPOINT_URL: "),
        (["data", "import", "folder/runs", "--out", "/dev/null/x.parquet"], "/dev/null/x.parquet: "),
        (["runs", "show", "nobody"], "nobody"),
        # Each of these makes a tracker's database first.
        pytest.param(["promote", "nobody"], "nobody", marks=pytest.mark.slow),
        pytest.param(["rollback"], "video-classifier", marks=pytest.mark.slow),
        pytest.param(["serve"], "kineray promote RUN", marks=pytest.mark.slow),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_exit_code_2(kineray, monkeypatch, words, message):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "foo")
    Path("folder/runs/train/one").mkdir(parents=True)
    Path("folder/runs/train/one/a.mp4").write_bytes(b"x")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    Path("tagged.yaml").write_text("optim: {type: [1]}")
    Path("loop.yaml").write_text("a: &a {b: *a}")
    experiment = "import kineray\nexperiment = kineray.Experiment()\n"
    Path("unsmoke.py").write_text(experiment + "smoke = 3\n")
    Path("list.py").write_text(experiment + "search_space = [1]\n")
    Path("plain.py").write_text(experiment + "search_space = {'optim.lr': [0.1, 0.2]}\n")
    Path("text.parquet").write_text("not a manifest")
    Path("clip.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom\xff\xfe\n")
    Path("val.txt").write_text("a.mp4 0")
    Path("blank").write_text("\n")
    Path("bad.yaml").write_text("optim: {lrr: 1}")
    Path("plain.yaml").write_text("seed: 1")
    Path("raises.py").write_text("x = 1\ny = x / 0\n")
    Path("syntax.py").write_text("def\n")
    Path("empty.py").write_text("x = 1\n")
    Path("checked.py").write_text("import kineray\nkineray.Experiment.model_validate({'seed': -1})\n")
    Path("frozen.py").write_text(experiment + "experiment.seed = 4\n")
    Path("typo.py").write_text("import kineray\nexperiment = kineray.Experiment(optimizer=3)\n")
    code, out, err = kineray(*words)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("kineray: ")
    assert len(err.splitlines()) == 1, err


@pytest.mark.slow
@pytest.mark.parametrize("module", ["mlflow", "ray"])
def test_without_ray_or_mlflow_the_extra_is_named(tmp_path, motion_manifest, module):
    """None in sys.modules makes Python's import fail as if the package were not installed."""
    words = {
        "mlflow": ["runs"],
        "ray": ["train", SCRIPT, "train.global_batch=8", f"data.manifest={motion_manifest}"],
    }[module]
    code = f"import sys; sys.modules[{module!r}] = None\nfrom kineray.cli import run\nrun({words!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "kineray: this needs Ray and MLflow: pip install 'kineray[ray]'\n"


def test_an_unexpected_error_of_the_operating_system_is_one_line(kineray):
    Path("file").touch()
    code, out, err = kineray("runs", "--storage", "file/below")
    assert (code, out) == (2, "")
    assert err.startswith("kineray: ")
    assert len(err.splitlines()) == 1


def test_print_config_prints_overrides_and_a_file_that_train_the_same_experiment(kineray):
    words = ["train", SCRIPT, "optim.lr=0.05", "--workers", "2", "seed=7", "--print-config"]
    code, out, err = kineray(*words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert {"optim.lr=0.05", "seed=7", "model.stage_blocks=3,4,6,3", "recipe.ema=off"} <= set(lines)
    assert kineray("train", SCRIPT, *lines, "--print-config")[1] == out
    text = kineray(*words, "--json")[1]
    assert yaml.safe_load(text)["optim"]["lr"] == 0.05
    Path("again.json").write_text(text)
    assert kineray("train", "again.json", "--print-config")[1] == out


def test_another_variant_says_in_one_line_which_settings_are_its_defaults(kineray):
    code, _, err = kineray("train", SCRIPT, "--smoke", "model.type=resnet3d", "--print-config")
    assert (code, len(err.splitlines())) == (0, 1)
    assert err.startswith("model.type=resnet3d: stage_blocks, width, ") and "alpha=4" in err


def test_a_search_of_variants_says_which_settings_are_their_defaults(kineray):
    Path("base.yaml").write_text("model: {width: 8}\ndata: {manifest: gone.parquet}\n")
    code, _, err = kineray("sweep", "base.yaml", "--search", "model.type=slowfast,resnet3d")
    notice, error = err.splitlines()
    assert (code, notice.startswith("model.type=resnet3d: width has ")) == (2, True)
    assert "gone.parquet" in error


def test_a_script_is_the_same_run_as_kineray_train(tmp_path):
    words = ["optim.lr=0.05", "--print-config", "model.alpha=4"]
    by_script = subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    by_verb = subprocess.run(
        [sys.executable, "-m", "kineray", "train", SCRIPT, *words], capture_output=True, text=True, check=True
    )
    assert by_script.stdout == by_verb.stdout


def test_a_script_reports_bad_input_in_one_line_too(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "optim.lrr=1"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == "kineray: optim.lrr: unknown key; did you mean optim.lr?\n"


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("experiment = kineray.Experiment(seed=-1)", 2, "own.py:2: Experiment.seed: input should be"),
        ("kineray.Experiment.model_validate({'sed': 1})", 2, "own.py:2: Experiment.sed: unknown key"),
        ("experiment = kineray.Experiment()\nexperiment.seed = 4", 2, "own.py:3: Experiment.seed: cannot be"),
        ("def build(): return kineray.DataConfig(crop=0)\nbuild()", 2, "own.py:2: DataConfig.crop: "),
        ("kineray.main(3)", 2, "own.py: 'experiment' is not an experiment"),
        ("kineray.main(None)", 2, "own.py: defines no 'experiment'"),
        ("experiment = kineray.Experiment()", 0, "own.py: defines an experiment and runs nothing"),
        ("experiment = kineray.Experiment()\nprint(kineray.train)", 0, "own.py: defines an experiment and"),
        ("from kineray import Experiment\nkineray.config.fingerprint(Experiment())", 0, ""),
    ],
)
def test_what_is_wrong_with_a_script_is_one_line(tmp_path, text, code, message):
    (tmp_path / "own.py").write_text(f"import kineray\n{text}\n")
    done = subprocess.run(
        [sys.executable, "own.py"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (code, bool(message)), done.stderr
    assert message in done.stderr


def test_an_error_of_the_scripts_own_code_keeps_its_traceback(tmp_path):
    (tmp_path / "own.py").write_text("import kineray\nkineray.Experiment()\n1 / 0\n")
    done = subprocess.run(
        [sys.executable, "own.py"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1 and done.stderr.startswith("Traceback") and "ZeroDivision" in done.stderr


def test_data_synth_and_show_print_json_on_stdout(kineray):
    code, out, err = kineray("data", "synth", "motion", "--train", "8", "--val", "4", "--json")
    assert code == 0
    made = json.loads(out)
    assert {row["split"]: row["found"] for row in made["splits"]} == {"train": 8, "val": 4}
    assert err == ""
    shown = json.loads(kineray("data", "show", made["manifest"], "--json")[1])
    assert shown == made
    code, out, err = kineray("data", "show", made["manifest"])
    assert "drift_left" in out
    assert err.startswith("next:")


def made_videos(folder):
    """Four real clips per split, flat: ``[(path, class, split)]``."""
    from kineray.data import load_manifest
    from kineray.data.derive.synth import synthesize

    manifest = load_manifest(synthesize(folder, train=4, val=4, size=16, seconds=0.2))
    classes = manifest.vocabularies["action"]
    return [(Path(clip.uri), classes[clip.labels["action"]], clip.split) for clip in manifest]


def test_the_csvs_of_kinetics_make_one_manifest(kineray):
    """The official files of train and val, clips named by the usual downloaders, one clip missing."""
    header = "label,youtube_id,time_start,time_end,split\n"
    rows = {"train": header, "val": header}
    Path("k400/clips").mkdir(parents=True)
    for number, (path, name, split) in enumerate(made_videos("made")):
        path.rename(f"k400/clips/video_{number:05d}_{number:06d}_{number + 10:06d}.mp4")
        rows[split] += (
            f"{name},video_{number:05d},{number},{number + 10},{split.replace('val', 'validate')}\n"
        )
    rows["val"] += "drift_up,lost,0,10,validate\n"
    for split, text in rows.items():
        Path(f"k400/{split}.csv").write_text(text)
    code, out, err = kineray("data", "import", "k400/train.csv", "k400/val.csv", "--json")
    assert code == 0
    made = json.loads(out)
    assert made["manifest"] == "k400/manifest.parquet"
    assert made["name"] == "k400"
    found = {row["split"]: (row["found"], row["listed"]) for row in made["splits"]}
    assert found == {"train": (4, 4), "val": (4, 5)}
    assert made["classes"]["action"] == ["drift_down", "drift_left", "drift_right", "drift_up"]
    assert "listed but missing: lost_000000_000010" in err
    assert json.loads(kineray("data", "show", "k400", "--json")[1]) == made | {"manifest": "k400"}


def test_the_lists_of_pyslowfast_make_one_manifest(kineray):
    from kineray.data import load_manifest
    from kineray.video import probe

    Path("names.txt").write_text("left\nright\nup\ndown\n")
    order = ["drift_left", "drift_right", "drift_up", "drift_down"]
    lines = {"train": "", "val": ""}
    for path, name, split in made_videos("made"):
        lines[split] += f"{path.relative_to(Path('made').absolute())} {order.index(name)}\n"
    Path("lists").mkdir()
    for split, text in lines.items():
        Path(f"lists/{split}.csv").write_text(text)
    words = ["lists/train.csv", "lists/val.csv", "--videos", "made", "--classes", "names.txt"]
    code, out, _ = kineray("data", "import", *words, "--out", "all/set.parquet", "--json")
    assert code == 0
    made = json.loads(out)
    assert made["manifest"] == "all/set.parquet"
    assert {row["split"]: row["found"] for row in made["splits"]} == {"train": 4, "val": 4}
    manifest = load_manifest("all/set.parquet")
    assert manifest.vocabularies == {"action": ("left", "right", "up", "down")}
    assert probe(manifest.split("val")[0].uri).width == 16
    assert "/drift_up/" in next(clip.uri for clip in manifest if clip.labels["action"] == 2)


@pytest.mark.slow
def test_eval_and_predict_print_useful_next_commands(kineray):
    from small_checkpoint import CLASSES, save_small_checkpoint

    made = made_videos("made")
    checkpoint = save_small_checkpoint("runs/small/checkpoints", heads={"action": CLASSES}, frames=4)
    words = ["eval", "small", "data.manifest=made", "--views", "1", "--crops", "1"]
    Path("file").touch()
    for bad in ("file/below.parquet", "made"):
        # Refused before the evaluation: no video has been read.
        code, out, err = kineray(*words, "--out", bad)
        assert (code, out) == (2, "")
        assert bad in err
        assert "videos" not in err
    code, out, err = kineray(*words, "--out", "new/predictions.parquet")
    assert code == 0, err
    assert [path.name for path in Path("new").iterdir()] == ["predictions.parquet"]
    assert "protocol: 1 views x 1 crops, split val, float32" in out
    assert ["action", "top1"] in [line.split() for line in out.splitlines()]
    assert "kineray promote RUN" in err
    code, _, err = kineray("predict", checkpoint, str(made[0][0]))
    assert code == 0
    assert "kineray promote RUN" in err
    assert "kineray serve" in err


@pytest.mark.slow
def test_runs_show_suggests_only_what_is_possible_and_accepts_json_before_show(kineray, motion_manifest):
    from kineray.config import Experiment
    from kineray.data import load_manifest
    from kineray.tracking import BEST_SCORE, SCORE, start_run
    from small_checkpoint import save_small_checkpoint

    def record(name, tags, scores=()):
        manifest = load_manifest(motion_manifest)
        made = start_run(
            "runs",
            name=name,
            experiment=Experiment(),
            fingerprint="f",
            manifest=manifest,
            command=["kineray"],
        )
        made.set_tags(tags)
        for step, score in enumerate(scores, start=1):
            made.log_metrics({SCORE: score}, step)
        made.finish("FINISHED")

    record("sweep", {})
    assert "promote" not in kineray("runs", "show", "sweep")[2]
    shown = [
        kineray("runs", *words)[1] for words in (["--json", "show", "sweep"], ["show", "sweep", "--json"])
    ]
    assert json.loads(shown[0])["name"] == "sweep"
    assert shown[0] == shown[1]
    # A run whose weights are truncated is refused before anything is registered.
    uri = save_small_checkpoint(str(Path("runs/cut/checkpoints").absolute()))
    weights = Path(uri) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    record("cut", {"checkpoint.best": uri, BEST_SCORE: "0.75"}, scores=[0.5, 0.75, 0.625])
    header, newest = kineray("runs")[1].splitlines()[:2]
    columns = dict(zip(header.split(), newest.split(), strict=True))
    assert (columns["best"], columns["last"]) == ("0.75", "0.625")
    lines = kineray("runs", "show", "cut")[1].splitlines()
    assert {"best: 0.75", "last: 0.625", f"best_checkpoint: {uri}"} <= set(lines)
    assert "kineray promote cut" in kineray("runs", "show", "cut")[2]
    code, _, err = kineray("promote", "cut")
    assert (code, len(err.splitlines())) == (2, 1)
    from mlflow import MlflowClient

    tracker = f"sqlite:///{Path('runs/mlflow.db').absolute()}"
    assert MlflowClient(tracker, registry_uri=tracker).search_model_versions() == []


def test_runs_of_an_empty_storage(kineray):
    code, out, _ = kineray("runs", "--json")
    assert code == 0
    assert json.loads(out) == {"runs": []}


def test_doctor_names_what_is_missing_and_exits_with_1(kineray):
    code, out, _ = kineray("doctor", "--json")
    checks = {check["what"]: check for check in json.loads(out)["checks"]}
    assert code == 0
    assert set(checks) == {"Python", "torch", "torchvision", "Ray", "PyAV", "MLflow", "storage", "S3"}
    assert "h264" in checks["PyAV"]["detail"]
    Path("file").write_text("not a folder")
    code, out, _ = kineray("doctor", "--storage", "file/runs")
    assert code == 1
    assert "FAIL storage" in out
    assert "fix:" in out
