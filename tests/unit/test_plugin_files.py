"""Plug-ins of several files, and scripts that start a run when they are loaded."""

import json
import subprocess
import sys

import pytest

from kineray.config import Experiment, apply_overrides, fingerprint, load_plugins, loaded_plugins, plugins_of
from kineray.config.plugins import Plugin, load_file, require_plugins
from kineray.errors import ConfigError

# Executes a plug-in in a process that cannot read its files, as on another host.
ELSEWHERE = """
import json, sys
from kineray import config
for plugin in map(config.Plugin.from_json, json.loads(sys.stdin.read())):
    plugin.execute()
experiment = config.apply_overrides(config.Experiment(), ["optim.type=own"])
print(experiment.optim.build(), *(plugin.sha256 for plugin in config.plugins_of(experiment)))
"""

CONFIG = """
from kineray.config import OptimSection
{imports}

class OwnConfig(OptimSection, type="own"):
    def build(self):
        {lazy}
        return strength()
"""

LAYOUTS = {  # file to load: {file: text}
    "a function of a module beside it": {
        "own.py": CONFIG.format(imports="from helpers_of_own import strength", lazy="pass"),
        "helpers_of_own.py": "def strength(): return 7",
    },
    "an import inside a function": {
        "own.py": CONFIG.format(imports="", lazy="from helpers_of_own import strength"),
        "helpers_of_own.py": "import more_of_own as more\ndef strength(): return more.SEVEN",
        "more_of_own.py": "SEVEN = 7",
    },
    "a folder beside it": {
        "own.py": CONFIG.format(imports="import parts_of_own.deep.numbers", lazy="strength = lambda: 7"),
        "parts_of_own/__init__.py": "",
        "parts_of_own/deep/numbers.py": "from ..other import x",
        "parts_of_own/other.py": "x = 1",
    },
    "a package": {
        "pack_of_own/__init__.py": "from .own import OwnConfig",
        "pack_of_own/own.py": CONFIG.format(imports="from .layers import *", lazy="pass"),
        "pack_of_own/layers/__init__.py": "from ..helpers import strength",
        "pack_of_own/helpers.py": "def strength(): return 7",
    },
}


def write(folder, files):
    """Write a plug-in's files; the one to load."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / next(iter(files))


def chosen():
    return apply_overrides(Experiment(), ["optim.type=own"])


def elsewhere():
    """What a process without the files makes of the loaded plug-ins: (strength, hashes)."""
    text = json.dumps([plugin.to_json() for plugin in loaded_plugins()])
    program = [sys.executable, "-c", ELSEWHERE]
    done = subprocess.run(program, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    strength, *hashes = done.stdout.split()
    return strength, hashes


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS)
def test_what_a_plugin_imports_travels_with_it(files, tmp_path, own_plugins):
    file = write(tmp_path, files)
    load_plugins(file)
    assert chosen().optim.build() == 7
    hashes = [plugin.sha256 for plugin in plugins_of(chosen())]
    file.rename(tmp_path / "away")
    for name in files:
        (tmp_path / name).unlink(missing_ok=True)
    assert elsewhere() == ("7", hashes)


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS)
def test_a_change_of_what_a_plugin_imports_is_a_change_of_the_plugin(files, tmp_path, own_plugins):
    file = write(tmp_path, files)
    load_plugins(file)
    before = fingerprint(chosen())
    last = tmp_path / list(files)[-1]
    last.write_text(last.read_text().replace("7", "8").replace("x = 1", "x = 2"))
    load_plugins(file)
    assert fingerprint(chosen()) != before
    if "8" in last.read_text():
        assert chosen().optim.build() == 8


def test_a_module_and_a_file_of_a_package_are_one_plugin(tmp_path, own_plugins, monkeypatch):
    files = LAYOUTS["a package"]
    write(tmp_path, files)
    monkeypatch.syspath_prepend(tmp_path)
    (by_name,) = load_plugins("pack_of_own.own")
    (by_file,) = load_plugins(tmp_path / "pack_of_own/own.py")
    assert by_file == by_name and by_name.name == "pack_of_own.own"
    (package,) = load_plugins("pack_of_own")
    assert package.name == "pack_of_own"
    require_plugins({plugin.name: plugin.sha256 for plugin in (by_name, package)}, "a/checkpoint")


def test_a_variant_that_was_simply_imported_is_sent_too(tmp_path, own_plugins, monkeypatch):
    """A script's experiment is the same whether the script is a program or loaded for its experiment."""
    write(tmp_path, {"variants_of_own.py": CONFIG.format(imports="", lazy="strength = lambda: 7")})
    script = tmp_path / "script.py"
    script.write_text("from variants_of_own import OwnConfig\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_file(script)
    loaded = fingerprint(chosen())
    names = {plugin.name for plugin in loaded_plugins()}
    program = [sys.executable, "-c", f"import variants_of_own; {IMPORTED}"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [loaded, "variants_of_own.py"] and "variants_of_own.py" in names


IMPORTED = """
from kineray.config import Experiment, apply_overrides, fingerprint, loaded_plugins
print(fingerprint(apply_overrides(Experiment(), ["optim.type=own"])), *(p.name for p in loaded_plugins()))
"""


def test_two_modules_of_one_name_are_not_mixed_up(tmp_path, own_plugins):
    first = write(tmp_path / "a", {"one.py": "import common_of_own", "common_of_own.py": ""})
    second = write(tmp_path / "b", {"two.py": "import common_of_own", "common_of_own.py": "x = 1"})
    load_plugins(first)
    with pytest.raises(ConfigError) as error:
        load_plugins(second)
    assert error.value.code == "module_name_taken"
    assert [plugin.name for plugin in loaded_plugins()][-1] == "one.py"


def test_installed_modules_hide_what_lies_beside_a_plugin(tmp_path, own_plugins):
    """As they do on other hosts, which have no such folder."""
    file = write(tmp_path, {"own.py": "import httpx, json", "httpx.py": "1 / 0", "json/__init__.py": "1 / 0"})
    (plugin,) = load_plugins(file)
    assert plugin.imports == ()


def test_a_checkout_beside_a_plugin_is_not_what_it_imports(tmp_path, own_plugins, monkeypatch):
    """The package of that name is installed from inside the checkout, as on the hosts of a cluster."""
    installed = "checkout/platform/checkout/__init__.py"
    file = write(tmp_path, {"own.py": "import checkout", installed: "ANSWER = 42"})
    monkeypatch.syspath_prepend(tmp_path / "checkout" / "platform")
    (plugin,) = load_plugins(file)
    assert plugin.imports == ()


def test_an_error_in_what_a_plugin_imports_is_found_there(tmp_path, own_plugins):
    file = write(tmp_path, {"own.py": "\nimport broken_of_own", "broken_of_own.py": "\n\n1 / 0"})
    for _ in range(2):
        with pytest.raises(ConfigError) as error:
            load_plugins(file)
        assert error.value.code == "plugin_failed"
        assert error.value.key == f"{tmp_path / 'broken_of_own.py'}:3"
    assert "broken_of_own" not in sys.modules and loaded_plugins() == own_plugins


def test_a_plugin_crosses_processes_with_what_it_imports(tmp_path, own_plugins):
    (plugin,) = load_plugins(write(tmp_path, LAYOUTS["a package"]))
    assert Plugin.from_json(plugin.to_json()) == plugin
    assert [module.name.rpartition(".")[2] for module in plugin.imports] == ["helpers", "layers", "own"]


UNGUARDED = """
import kineray

class OwnConfig(kineray.OptimSection, type="own"):
    pass

experiment = kineray.apply_overrides(kineray.Experiment(), ["optim.type=own"])
{call}
"""


@pytest.mark.parametrize(
    "call",
    [
        "kineray.train(experiment)",
        "def start():\n    kineray.train(experiment)\n\nstart()",
        "if experiment:\n    kineray.sweep(experiment, {'optim.lr': kineray.Choice(1, 2)})",
    ],
)
@pytest.mark.parametrize("program", [("own.py",), ("-m", "kineray", "train", "own.py")])
def test_a_run_that_workers_would_start_again_is_refused_first(program, call, tmp_path):
    write(tmp_path, {"own.py": UNGUARDED.format(call=call)})
    done = subprocess.run(
        [sys.executable, *program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode and "own.py:" in last and '__name__ == "__main__"' in last, done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("start", ["kineray.train(experiment)", "kineray.main(experiment)"])
def test_a_guarded_run_starts(start, tmp_path):
    """It gets as far as its manifest, which does not exist."""
    guarded = start if "main" in start else f'if __name__ == "__main__":\n    {start}'
    write(tmp_path, {"own.py": UNGUARDED.format(call=guarded)})
    done = subprocess.run(
        [sys.executable, "own.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "data.manifest" in done.stderr.splitlines()[-1], done.stderr
