"""A variant of every kind, declared in a file that kineray does not know."""

import sys
from typing import ClassVar

import pytest

from kineray import config
from kineray.config import (
    Choice,
    Experiment,
    Pieces,
    apply_overrides,
    check_space,
    differing_keys,
    families,
    fingerprint,
    from_yaml,
    leaf_keys,
    load_plugins,
    loaded_plugins,
    overrides_of,
    plugins_of,
    to_yaml,
    variants,
)
from kineray.config.plugins import Plugin, load_file, require_plugins
from kineray.config.recipe.base import RecipePiece
from kineray.config.tree import places
from kineray.errors import ConfigError

FAMILIES = {family.__name__: family for family in families() if family.__module__.startswith("kineray.")}

OWN = """
from {module} import {family}

class OwnConfig({family}, type="own"):
    strength: float = 0.5
"""


def declare(folder, family, text=OWN, name="own.py"):
    """A plug-in of one variant; the file."""
    file = folder / name
    file.write_text(text.format(module=family.__module__, family=family.__name__))
    load_plugins(str(file))
    return file


def place_of(family, experiment):
    """(dotted path of the family in the experiment, whether it is one of pieces)."""
    tree = experiment.model_dump()
    return next(((p.path, p.pieces) for p in places(Experiment, tree) if p.family is family), None)


def with_family(family):
    """An experiment that has a place for the family."""
    for overrides in ([], ["model.type=frame"]):
        experiment = apply_overrides(Experiment(), overrides)
        if place := place_of(family, experiment):
            return experiment, *place
    return None


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_variant_of_every_family_is_found_everywhere(family, tmp_path, own_plugins):
    declare(tmp_path, family)
    own = variants(family)["own"]
    assert list(variants(family))[-1] == "own" and config.OwnConfig is own
    found = with_family(family)
    if found is None:  # not a part of experiments
        return
    base, path, pieces = found
    section, chosen = (f"{path}.own", []) if pieces else (path, [f"{path}.type=own"])
    overrides = [*chosen, f"{section}.strength=0.25"]
    experiment = apply_overrides(base, overrides)
    assert leaf_keys(experiment)[f"{section}.strength"] == 0.25
    assert from_yaml(to_yaml(experiment)) == experiment
    assert set(differing_keys(base, experiment)) >= {f"{section}.strength"}
    check_space(apply_overrides(base, chosen), {f"{section}.strength": Choice(0.1, 0.2)})
    with pytest.raises(ConfigError) as error:
        apply_overrides(base, [*overrides, f"{section}.strenth=1"])
    assert (error.value.code, error.value.key) == ("unknown_key", f"{section}.strenth")
    assert str(error.value).endswith(f"did you mean {section}.strength?")
    with pytest.raises(ConfigError) as error:
        apply_overrides(base, [f"{path}.onw=on" if pieces else f"{path}.type=onw"])
    assert error.value.code == "unknown_variant" and "did you mean own?" in str(error.value)
    with pytest.raises(ConfigError) as error:
        apply_overrides(base, [*chosen, f"{section}.strength=much"])
    assert (error.value.code, error.value.key) == ("bad_value", f"{section}.strength")


def test_what_is_not_chosen_changes_nothing(tmp_path, own_plugins):
    before = fingerprint(Experiment())
    declare(tmp_path, FAMILIES["OptimSection"])
    assert fingerprint(Experiment()) == before and plugins_of(Experiment()) == ()


def test_the_source_of_a_chosen_variant_is_science(tmp_path, own_plugins):
    family = FAMILIES["OptimSection"]
    file = declare(tmp_path, family)
    experiment = apply_overrides(Experiment(), ["optim.type=own"])
    assert [plugin.name for plugin in plugins_of(experiment)] == ["own.py"]
    before = fingerprint(experiment)
    file.write_text(file.read_text() + "# another version\n")
    load_plugins(str(file))
    again = apply_overrides(Experiment(), ["optim.type=own"])
    assert fingerprint(again) != before


def test_a_field_without_a_default_must_be_given(tmp_path, own_plugins):
    declare(tmp_path, FAMILIES["OptimSection"], OWN.replace(" = 0.5", ""))
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(), ["optim.type=own"])
    assert (error.value.code, error.value.key) == ("bad_value", "optim.strength")
    chosen = apply_overrides(Experiment(), ["optim.type=own", "optim.strength=3"])
    assert chosen.optim.strength == 3 and overrides_of(chosen.optim, "optim") == [
        "optim.type=own",
        "optim.strength=3.0",
    ]


def test_one_type_cannot_be_declared_in_two_files(tmp_path, own_plugins):
    declare(tmp_path, FAMILIES["OptimSection"])
    with pytest.raises(ConfigError) as error:
        declare(tmp_path, FAMILIES["OptimSection"], OWN + "# another file\n", name="other.py")
    assert error.value.code == "variant_declared_twice"
    with pytest.raises(ConfigError) as error:
        declare(tmp_path, FAMILIES["OptimSection"], OWN.replace('"own"', '"sgd"'), name="third.py")
    assert error.value.code == "variant_declared_twice"


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        ("import kineray\n\n1 / 0\n", "plugin_failed", 3),
        ("def f(:\n", "plugin_failed", 1),
        ("import no_such_module_anywhere\n", "plugin_failed", 1),
    ],
)
def test_a_plugin_that_fails_is_one_line_with_file_and_line(content, code, line, tmp_path, own_plugins):
    file = tmp_path / "bad.py"
    file.write_text(content)
    with pytest.raises(ConfigError) as error:
        load_plugins(file)
    assert (error.value.code, error.value.key) == (code, f"{file}:{line}")
    assert "\n" not in str(error.value)


def test_a_plugin_that_fails_leaves_nothing_behind(tmp_path, own_plugins):
    family = FAMILIES["OptimSection"]
    with pytest.raises(ConfigError):
        declare(tmp_path, family, OWN + "\n1 / 0\n")
    assert "own" not in variants(family) and loaded_plugins() == own_plugins
    declare(tmp_path, family)
    assert "own" in variants(family)


def test_a_changed_plugin_replaces_its_variants_or_leaves_them_as_they_were(tmp_path, own_plugins):
    family = FAMILIES["OptimSection"]
    file = declare(tmp_path, family)
    before, loaded = variants(family)["own"], loaded_plugins()
    with pytest.raises(ConfigError):
        declare(tmp_path, family, OWN + "\n1 / 0\n")
    assert variants(family)["own"] is before and loaded_plugins() == loaded
    file.write_text(file.read_text().replace("1 / 0", "").replace('"own"', '"renamed"'))
    load_plugins(file)
    assert "own" not in variants(family) and "renamed" in variants(family)


@pytest.mark.parametrize(
    ("reference", "code"),
    [("none.py", "not_found"), ("no_such_module_anywhere", "not_found"), (".py", "not_found")],
)
def test_a_plugin_that_does_not_exist_is_named(reference, code, own_plugins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        load_plugins(reference)
    assert (error.value.code, error.value.key) == (code, reference)


def test_a_module_and_the_environment_name_plugins_too(tmp_path, own_plugins, monkeypatch):
    family = FAMILIES["OptimSection"]
    text = OWN.format(module=family.__module__, family=family.__name__)
    (tmp_path / "a_module_of_mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KINERAY_PLUGINS", "a_module_of_mine")
    (plugin,) = load_plugins()
    assert plugin.module == "a_module_of_mine" and variants(family)["own"].__module__ == "a_module_of_mine"
    assert sys.modules["a_module_of_mine"].OwnConfig is variants(family)["own"]


def test_a_plugin_crosses_processes_as_plain_values(tmp_path, own_plugins):
    file = declare(tmp_path, FAMILIES["OptimSection"])
    (plugin,) = plugins_of(apply_overrides(Experiment(), ["optim.type=own"]))
    again = Plugin.from_json(plugin.to_json())
    assert again == plugin and again.source == file.read_text()
    before = variants(FAMILIES["OptimSection"])["own"]
    again.execute()
    assert variants(FAMILIES["OptimSection"])["own"] is before  # it was there already


def test_a_copy_of_a_loaded_file_is_the_same_plugin(tmp_path, own_plugins):
    file = declare(tmp_path, FAMILIES["OptimSection"])
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "own.py"
    copy.write_text(file.read_text())
    assert load_file(copy)[0] == load_file(file)[0]


def test_needed_plugins_must_be_loaded_unchanged(tmp_path, own_plugins):
    declare(tmp_path, FAMILIES["OptimSection"])
    (plugin,) = plugins_of(apply_overrides(Experiment(), ["optim.type=own"]))
    require_plugins({"own.py": plugin.sha256}, "a/checkpoint")
    for needed, code in (
        ({"other.py": "0" * 64}, "plugin_missing"),
        ({"own.py": "0" * 64}, "plugin_differs"),
    ):
        with pytest.raises(ConfigError) as error:
            require_plugins(needed, "a/checkpoint")
        assert (error.value.code, error.value.key) == (code, "a/checkpoint")


# -- pieces ----------------------------------------------------------------------------------------------

PIECES = """
from kineray.config import RecipePiece

class FirstConfig(RecipePiece, type="zz_first"):
    order = -100
    strength: float = 0.5

class LastConfig(RecipePiece, type="aa_last"):
    order = 100
"""


@pytest.fixture
def pieces(tmp_path, own_plugins):
    return declare(tmp_path, RecipePiece, PIECES)


def test_pieces_are_switched_on_and_off(pieces):
    on = apply_overrides(Experiment(), ["recipe.aa_last=on", "recipe.zz_first.strength=2"])
    assert list(on.recipe) == ["zz_first", "aa_last"]  # by their order, not as they were written
    assert leaf_keys(on)["recipe.aa_last"] == "on" and leaf_keys(on)["recipe.zz_first.strength"] == 2
    assert from_yaml(to_yaml(on)) == on
    assert from_yaml("recipe: {aa_last: , zz_first: {strength: 2}}") == on
    off = apply_overrides(on, ["recipe.zz_first=off"])
    assert list(off.recipe) == ["aa_last"] and fingerprint(off) != fingerprint(on)
    assert apply_overrides(off, ["recipe.aa_last=none"]) == Experiment()
    again = apply_overrides(
        Experiment(), [f"{key}={value}" for key, value in leaf_keys(off).items() if "recipe" in key]
    )
    assert again == off


@pytest.mark.parametrize(
    ("overrides", "code", "key"),
    [
        (["recipe.aa_last=maybe"], "bad_value", "recipe.aa_last"),
        (["recipe.zz_first=off", "recipe.zz_first.strength=2"], "given_twice", "recipe.zz_first.strength"),
        (["recipe.zz_first.power=2"], "unknown_key", "recipe.zz_first.power"),
        (["recipe.zz_frist.strength=2"], "unknown_variant", "recipe.zz_frist"),
        (["recipe.zz_first.strength=x"], "bad_value", "recipe.zz_first.strength"),
        (["recipe=on"], "not_a_field", "recipe"),
    ],
)
def test_a_bad_piece_is_an_error_about_its_key(overrides, code, key, pieces):
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(), overrides)
    assert (error.value.code, error.value.key) == (code, key)


def test_two_pieces_of_one_type_are_refused(pieces):
    piece = config.FirstConfig
    with pytest.raises(ValueError, match="two pieces"):
        Pieces(piece(), piece(strength=1))
    assert Experiment(recipe=[piece(strength=1)]).recipe == Pieces(piece(strength=1))


def test_a_class_attribute_is_no_field():
    class Local(RecipePiece):
        order: ClassVar[int] = 7

    assert "order" not in Local.model_fields and "local" not in variants(RecipePiece)
