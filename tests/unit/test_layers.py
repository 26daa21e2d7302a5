"""What import-linter cannot say: which package may import which part of Ray."""

import ast
from pathlib import Path

import kineray

SOURCE = Path(kineray.__file__).parent


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_only_orchestration_imports_ray_train_and_ray_tune():
    users = {
        path.relative_to(SOURCE).parts[0]
        for path in SOURCE.rglob("*.py")
        if any(name.startswith(("ray.train", "ray.tune")) for name in imports(path))
    }
    assert users == {"orchestration"}


def test_every_way_to_import_is_seen(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import ray.tune as t, os\nfrom pickle import loads\nfrom ray import train\n")
    assert list(imports(script)) == ["ray.tune", "os", "pickle.loads", "ray.train"]


def test_nothing_unpickles():
    # A decoding process reads pickled requests from its parent, and answers without pickles.
    from_the_parent = SOURCE / "video" / "process.py"
    # Its unpickler refuses everything except arrays: see test_models_weights_published.
    arrays_only = SOURCE / "models" / "weights" / "caffe2.py"
    # This user's own memory, read by an unpickler that makes plain values only: see test_training_snapshots.
    plain_values_only = SOURCE / "training" / "snapshots.py"
    for path in SOURCE.rglob("*.py"):
        names = {name.partition(".")[0] for name in imports(path)}
        pickles = names & {"pickle", "cloudpickle", "dill", "joblib"}
        assert path in (from_the_parent, arrays_only, plain_values_only) or not pickles, path
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        for call in calls:
            if ast.unparse(call.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(call), path
