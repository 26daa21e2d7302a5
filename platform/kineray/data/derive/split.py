"""Splits of a manifest that cut no group: a source video or a person is in one split only."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kineray.data.manifest.labels import ABSENT
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ManifestError

_Class = tuple[str, int]  # head, class index
_ALL: _Class = ("", ABSENT)  # stands for "any sample", so that the sizes are balanced like a class


@dataclass(frozen=True)
class SplitReport:
    """What one split received. ``wanted`` and ``reached``: its share of the samples that were divided.

    ``fewest``: head -> the smallest number of samples of a class; ``absent``: head -> how many classes that
    the divided samples have, and this split has not.
    """

    split: str
    samples: int
    groups: int
    wanted: float
    reached: float
    fewest: Mapping[str, int]
    absent: Mapping[str, int]


@dataclass(frozen=True)
class Division:
    """A manifest after ``divide``. ``leaks``: groups of the divided samples that other splits have too."""

    manifest: Manifest
    splits: tuple[SplitReport, ...]
    leaks: tuple[str, ...]


def divide(
    manifest: Manifest, shares: Mapping[str, float], *, source: Sequence[str] = ("train",), seed: int = 0
) -> Division:
    """Divide the samples of the splits ``source`` anew, whole groups at a time.

    ``shares``: split -> its part of those samples, between 0 and 1; what remains stays in ``source[0]``.
    Every class of every head is spread over the splits like the samples, as far as the groups allow, and
    a split's size differs from its share by no more than the largest group for each split in ``shares``.
    The result depends on ``seed`` and on the groups, not on the order of the rows. Other samples, the
    order of the rows and the missing clips stay as they are. Raises ManifestError.
    """
    wanted = _wanted(manifest, shares, source)
    divided = [sample for sample in manifest if sample.split in source]
    split_of = _assign(divided, wanted, seed)
    for name in wanted:
        if name not in split_of.values():
            raise ManifestError(
                f"{manifest.name}: the split '{name}' would be empty: {len(divided)} samples in"
                f" {len(split_of)} groups are too few for its share of {wanted[name]:g}"
            )
    samples = tuple(
        replace(sample, split=split_of[sample.group]) if sample.split in source else sample
        for sample in manifest
    )
    elsewhere = {sample.group for sample in manifest if sample.split not in source}
    reports = tuple(_report(name, wanted[name], divided, split_of) for name in wanted)
    leaks = tuple(sorted(elsewhere & split_of.keys()))
    return Division(replace(manifest, samples=samples), reports, leaks)


def _wanted(manifest: Manifest, shares: Mapping[str, float], source: Sequence[str]) -> dict[str, float]:
    """Split -> share, the one that keeps the rest first; shares of 0 are left out."""
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ManifestError(f"the share {share:g} of '{name}' must be at least 0 and below 1")
    chosen = {name: share for name, share in shares.items() if share}
    if not chosen:
        raise ManifestError("no share is above 0, so there is nothing to divide")
    if source[0] in chosen:
        raise ManifestError(f"'{source[0]}' keeps what the others leave; give it no share of its own")
    rest = 1 - sum(chosen.values())
    if rest < 1e-9:
        raise ManifestError(f"the shares add up to {sum(chosen.values()):g}; '{source[0]}' must keep a part")
    for name in source:
        if name not in manifest.found:
            manifest.split(name)  # raises, and names the splits that there are
    for name in chosen:
        if name in manifest.found and name not in source:
            raise ManifestError(
                f"{manifest.name}: the split '{name}' has {manifest.found[name]} samples already;"
                f" --from {source[0]} --from {name} divides those too"
            )
    return {source[0]: rest, **chosen}


def _assign(samples: Iterable[Sample], wanted: Mapping[str, float], seed: int) -> dict[str, str]:
    """Group -> split: large groups first, each to the split that lacks its classes most.

    A split has the goal ``share * count`` for every class. Adding g samples to n of a goal d changes
    ``(n - d)^2 / d`` by ``g (2 (n - d) + g) / d``; the split where the sum of that over the group's classes
    is lowest takes the group. With groups of one sample and one class this is the Sainte-Lague method of
    apportioning seats. A split that has reached its size takes no more.
    """
    contents: dict[str, Counter[_Class]] = defaultdict(Counter)
    totals: Counter[_Class] = Counter()
    for sample in samples:
        contents[sample.group].update(_classes(sample))
        totals.update(_classes(sample))
    filled: dict[str, Counter[_Class]] = {name: Counter() for name in wanted}

    def cost(split: str, group: Counter[_Class]) -> float:
        changes = []
        for key, added in sorted(group.items()):
            goal = wanted[split] * totals[key]
            changes.append(added * (2 * (filled[split][key] - goal) + added) / goal)
        return sum(changes)

    def rank(group: str) -> tuple[int, bytes]:
        # Groups whose sizes differ by less than a factor of two are in a random order, so that seeds differ.
        key = f"{seed}\0{group}".encode()
        return -contents[group][_ALL].bit_length(), hashlib.sha256(key).digest()

    split_of: dict[str, str] = {}
    for group in sorted(contents, key=rank):
        open_splits = [name for name in wanted if filled[name][_ALL] < wanted[name] * totals[_ALL]]
        # Rounding can fill every split just before the last group.
        chosen = min(open_splits or wanted, key=lambda name: cost(name, contents[group]))
        filled[chosen].update(contents[group])
        split_of[group] = chosen
    return split_of


def _classes(sample: Sample) -> set[_Class]:
    """The classes of a sample, those of its boxes (of the first head) included."""
    classes = {_ALL}
    for head, label in sample.labels.items():
        several = (label,) if isinstance(label, int) else label or ()
        classes.update((head, index) for index in several if index != ABSENT)
    if sample.boxes:
        first = next(iter(sample.labels))
        classes.update((first, label) for box in sample.boxes for label in box.labels)
    return classes


def _report(name: str, share: float, divided: Sequence[Sample], split_of: Mapping[str, str]) -> SplitReport:
    everywhere = Counter(key for sample in divided for key in _classes(sample))
    mine = [sample for sample in divided if split_of[sample.group] == name]
    counts = Counter(key for sample in mine for key in _classes(sample))
    heads = sorted({head for head, _ in everywhere} - {_ALL[0]})
    per_head = {head: [counts[key] for key in everywhere if key[0] == head] for head in heads}
    return SplitReport(
        split=name,
        samples=len(mine),
        groups=len({sample.group for sample in mine}),
        wanted=share,
        reached=len(mine) / len(divided),
        fewest={head: min(classes) for head, classes in per_head.items()},
        absent={head: classes.count(0) for head, classes in per_head.items()},
    )
