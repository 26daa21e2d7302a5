"""The pages say what the code does; tests/run_docs.py runs their commands."""

import re
import runpy
from pathlib import Path

import pytest

from kineray.config import families, load_plugins, variants
from kineray.data import Importer
from run_docs import blocks

ROOT = Path(__file__).parents[2]
FAMILIES = [*(family for family in families() if family.__module__.startswith("kineray.config.")), Importer]
BLOCKS = blocks((ROOT / "docs/extending.md").read_text())
FILES = {block.file: block for block in BLOCKS if block.file}
PAGES = [
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", "runs", "data", "my"} & set(path.relative_to(ROOT).parts)
]


def test_no_link_between_pages_is_broken():
    broken = []
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert len(PAGES) >= 6 and broken == []


def test_every_test_that_a_page_names_exists():
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for page in PAGES:
        assert set(re.findall(r"test_\w+\.py", page.read_text())) <= tests, page


def test_every_code_block_is_run_or_is_no_code():
    for page in PAGES:
        languages = {block.language for block in blocks(page.read_text())}
        assert languages <= {"sh", "sh cluster", "python", "text"}, page


def test_ci_runs_every_page_that_has_commands():
    commands = (ROOT / ".ci/run").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        if any(block.language in {"sh", "python"} for block in blocks(page.read_text())):
            assert f" docs/{page.name}" in commands


@pytest.fixture
def declared(tmp_path, own_plugins):
    """Family -> the types that the files of docs/extending.md declare."""
    before = {family: set(variants(family)) for family in FAMILIES}
    for name, block in FILES.items():
        file = tmp_path / Path(name).name
        file.write_text(block.text)
        load_plugins(file)
    return {family: set(variants(family)) - types for family, types in before.items()}


def test_each_kind_of_variant_is_shown_whole(declared):
    assert [family.__name__ for family, types in declared.items() if not types] == []


@pytest.mark.parametrize("name", FILES)
def test_a_variant_takes_under_twenty_lines_and_is_used(name):
    place = BLOCKS.index(FILES[name])
    assert len([line for line in FILES[name].text.splitlines() if line]) < 20
    assert any(name in block.text for block in BLOCKS[place + 1 :] if not block.file)


def test_the_reference_is_what_the_code_declares():
    made = runpy.run_path(str(ROOT / "docs/generate.py"))["page"]()
    assert made == (ROOT / "docs/reference.md").read_text(), "run: make reference"
