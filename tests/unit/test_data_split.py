"""Splits that keep groups whole: every sample once, shares and classes as exact as the groups allow."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from annotation_files import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from kineray.data.manifest.division import divide
from kineray.data.manifest.manifest import Manifest, load_manifest, save_manifest
from kineray.data.manifest.names import regroup
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError

CLASSES = {"verb": tuple("abcd"), "noun": tuple("xyz")}


def sample(number, group, labels, split="train"):
    flow = f"/flow/{group}/{{u,v}}/%d.jpg#fps=25&bound=20"
    return Sample(f"clip{number}", f"/videos/{group}.mp4", 1.0, 2.5, labels, group, split, flow=flow)


@st.composite
def manifests(draw):
    """Groups of any size and content; some samples are in a split that is left alone, some have no class."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=2, max_size=40))
    rng = random.Random(draw(st.integers(0, 2**32)))
    samples = []
    for number, size in enumerate(sizes):
        split = "official" if number > 1 and rng.random() < 0.1 else "train"
        for _ in range(size):
            labels = {head: rng.randrange(-1, len(names)) for head, names in CLASSES.items()}
            samples.append(sample(len(samples), f"g{number}", labels, split))
    rng.shuffle(samples)
    return Manifest("set", tuple(samples), CLASSES, {"train": ("lost",)})


def divided(manifest, shares, seed):
    try:
        return divide(manifest, shares, seed=seed)
    except ManifestError as error:
        assert "would be empty" in str(error)
        return None


@settings(max_examples=200, deadline=None)
@given(manifests(), st.floats(0.05, 0.45), st.floats(0.0, 0.45), st.integers(0, 3), st.randoms())
def test_no_group_is_cut_and_nothing_is_lost(manifest, val, test, seed, rng):
    shares = {"val": val, "test": test}
    division = divided(manifest, shares, seed)
    if division is None:
        return
    after = division.manifest
    of_group = {}
    for before, now in zip(manifest, after, strict=True):
        assert replace(before, split=now.split) == now
        assert of_group.setdefault(now.group, now.split) == now.split
        assert (now.split == "official") == (before.split == "official")
    assert after.missing == manifest.missing
    total = sum(before.split == "train" for before in manifest)
    largest = max(Counter(sample.group for sample in manifest).values())
    for report in division.splits:
        assert report.samples == after.found[report.split] == round(report.reached * total)
        # Each split may be filled past its goal by less than one group, which the others then lack.
        assert abs(report.samples - report.wanted * total) <= largest * (len(division.splits) - 1)
    assert sum(report.samples for report in division.splits) == total
    # The same again, whatever the order of the rows.
    rows = list(manifest)
    rng.shuffle(rows)
    again = divide(Manifest("set", tuple(rows), CLASSES), shares, seed=seed).manifest
    assert {row.id: row.split for row in again} == {row.id: row.split for row in after}


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(10, 200), min_size=2, max_size=12),
    val=st.sampled_from([0.1, 0.2, 0.25]),
    test=st.sampled_from([0.0, 0.1]),
)
def test_free_samples_are_stratified_exactly(counts, val, test):
    """Where every sample is its own group, every class is divided as the shares say, to one sample."""
    names = tuple(f"class{index}" for index in range(len(counts)))
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    samples = tuple(sample(n, f"g{n}", {"action": label}) for n, label in enumerate(labels))
    shares = {"val": val, "test": test}
    after = divide(Manifest("set", samples, {"action": names}), shares).manifest
    for split, share in shares.items():
        found = Counter(row.labels["action"] for row in after if row.split == split)
        for label, count in enumerate(counts):
            assert abs(found[label] - share * count) <= 1.5
        assert abs(sum(found.values()) - share * len(samples)) <= len(shares)


def test_classes_are_spread_better_than_by_chance():
    rng = random.Random(0)
    samples = []
    for group in range(200):
        favourite = rng.randrange(4)  # a kitchen has its own habits
        for _ in range(rng.randint(2, 30)):
            verb = favourite if rng.random() < 0.7 else rng.randrange(4)
            samples.append(sample(len(samples), f"g{group}", {"verb": verb, "noun": rng.randrange(3)}))
    manifest = Manifest("set", tuple(samples), CLASSES)

    def unevenness(split_of):
        """The largest distance of a verb's share in val from 0.2."""
        verbs = Counter(row.labels["verb"] for row in samples)
        val = Counter(row.labels["verb"] for row in samples if split_of[row.group] == "val")
        return max(abs(val[verb] / verbs[verb] - 0.2) for verb in verbs)

    chance = []
    for seed in range(20):
        picked = set(random.Random(seed).sample([f"g{n}" for n in range(200)], 40))
        chance.append(unevenness({f"g{n}": "val" if f"g{n}" in picked else "train" for n in range(200)}))
    for seed in range(5):
        after = divide(manifest, {"val": 0.2}, seed=seed).manifest
        assert unevenness({row.group: row.split for row in after}) < min(0.01, *chance)


def test_the_seed_changes_the_split():
    samples = tuple(sample(n, f"g{n // 3}", {"verb": n % 4, "noun": n % 3}) for n in range(300))
    manifest = Manifest("set", samples, CLASSES)
    chosen = {
        frozenset(row.id for row in divide(manifest, {"val": 0.2}, seed=seed).manifest.split("val"))
        for seed in range(5)
    }
    assert len(chosen) == 5


def test_the_report_counts_what_is_there():
    rows = [("a", 0), ("a", 0), ("b", 1), ("b", 1), ("c", 0), ("d", 1)]
    samples = tuple(sample(n, group, {"action": label}) for n, (group, label) in enumerate(rows))
    division = divide(Manifest("set", samples, {"action": ("x", "y", "never")}), {"val": 1 / 3})
    train, val = division.splits
    assert (train.split, train.samples, train.groups) == ("train", 4, 2)
    assert (val.split, val.samples, val.groups, val.reached) == ("val", 2, 2, 1 / 3)
    assert val.wanted == pytest.approx(1 / 3)
    assert (train.fewest, val.fewest) == ({"action": 2}, {"action": 1})
    assert (train.absent, val.absent) == ({"action": 0}, {"action": 0})
    lone = tuple(sample(n, f"g{n}", {"action": min(n, 1)}) for n in range(9))
    val = divide(Manifest("set", lone, {"action": ("x", "y")}), {"val": 1 / 3}).splits[1]
    assert (val.fewest, val.absent) == ({"action": 0}, {"action": 1})


def test_groups_that_are_also_in_another_split_are_named():
    samples = tuple(
        sample(n, f"g{n % 10}", {"verb": 0, "noun": 0}, "test" if n >= 98 else "train") for n in range(100)
    )
    division = divide(Manifest("set", samples, CLASSES), {"val": 0.2})
    assert division.leaks == ("g8", "g9")
    assert division.manifest.found["test"] == 2


def test_two_splits_can_be_divided_again():
    samples = tuple(
        sample(n, f"g{n}", {"verb": 0, "noun": 0}, "val" if n >= 60 else "train") for n in range(100)
    )
    after = divide(Manifest("set", samples, CLASSES), {"val": 0.1}, source=("train", "val")).manifest
    assert after.found == {"train": 90, "val": 10}


@pytest.mark.parametrize(
    ("shares", "source", "code", "key"),
    [
        ({"val": 0.1}, ("training",), "empty_split", "set"),
        ({"val": 0.0}, ("train",), "out_of_range", "set"),
        ({"val": 1.0}, ("train",), "out_of_range", "val"),
        ({"val": -0.1}, ("train",), "out_of_range", "val"),
        ({"val": 0.5, "test": 0.5}, ("train",), "out_of_range", "set"),
        ({"train": 0.5}, ("train",), "given_twice", "train"),
        ({"old": 0.1}, ("train",), "split_exists", "set"),
        ({"val": 0.01}, ("train",), "empty_split", "set"),
    ],
)
def test_what_cannot_be_divided_is_refused(shares, source, code, key):
    samples = [sample(n, f"g{n % 2}", {"verb": 0, "noun": 0}) for n in range(4)]
    samples.append(sample(4, "g4", {"verb": 0, "noun": 0}, "old"))
    with refused(code, key):
        divide(Manifest("set", tuple(samples), CLASSES), shares, source=source)


# -- groups by a pattern in the path ------------------------------------------------------------------


def named(*names, folder="/data/p99"):
    samples = [
        Sample(name, f"{folder}/{name}.mp4", 0.0, None, {"verb": 0, "noun": 0}, name, "train")
        for name in names
    ]
    return Manifest("set", samples, CLASSES)


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (r"p\d+", ["p07", "p07", "p12"]),
        (r"(p\d+)_", ["p07", "p07", "p12"]),
        (r"(\w)/.*cam(\d)", ["a/1", "b/2", "b/1"]),
        (r"^\w", ["a", "b", "b"]),
        (r"cam\d$", ["cam1", "cam2", "cam1"]),
        (r"cam(?:1|(2))", ["cam1", "2", "cam1"]),
        (r"^.*$", ["a/p07_cam1", "b/p07_cam2", "b/p12_cam1"]),
    ],
)
def test_groups_are_what_a_pattern_finds_in_paths_below_the_folder(pattern, groups):
    manifest = regroup(named("a/p07_cam1", "b/p07_cam2", "b/p12_cam1"), pattern)  # p4 is in every .mp4
    assert [sample.group for sample in manifest] == groups


def test_a_pattern_that_finds_nothing_or_is_none_is_refused():
    manifest = named("a/p07", "a/q12")
    for pattern in ("p\\d+", "p\\d*|$"):
        with refused("no_match", "group_by") as error:
            regroup(manifest, pattern)
        assert "1 of 2" in error.value.problem and "a/q12" in error.value.problem
    with refused("bad_value", "group_by"):
        regroup(manifest, "(p")


def test_ids_with_dots_are_paths_too():
    assert [s.group for s in regroup(named("a/p07.1", "a/p08.1"), r"^a/p\d+\.1$")] == ["a/p07.1", "a/p08.1"]


def test_paths_of_other_ids_are_whole():
    whole = [replace(sample, id=str(n)) for n, sample in enumerate(named("a/p07", "a/p08"))]
    assert [s.group for s in regroup(named("x").with_samples(whole), "p9.")] == ["p99", "p99"]


def test_the_verb_divides_by_a_pattern(tmp_path, kineray):
    manifest = tmp_path / "set.parquet"
    save_manifest(named(*(f"{c}/p{n:02d}_{k}" for n in range(10) for c in "ab" for k in range(3))), manifest)
    out = tmp_path / "divided.parquet"
    words = ("data", "split", str(manifest), "--out", str(out), "--val", "0.3")
    assert kineray(*words, "--group-by", r"p\d+", "--json")[0] == 0
    divided = load_manifest(out)
    assert divided.found == {"train": 42, "val": 18}
    assert {s.group for s in divided.split("val")} & {s.group for s in divided.split("train")} == set()
    code, _, err = kineray(*words, "--group-by", "q")
    assert code == 2 and err.startswith("kineray: --group-by=q: ")
