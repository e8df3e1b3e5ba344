"""Which structures are trained on, and which are set aside for validation and test."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bpjax.elements import fit_offsets
from bpjax.errors import ConfigError
from bpjax.io.labels import group_of, labels

SPLITS = {
    "stratified": "each group gives its share",
    "random": "any structures",
    "groups": "whole groups",
    "files": "whole files",
    "energy": "evenly spread over the energies per atom",
}
"""Ways to set structures aside, and what is taken."""


@dataclass(frozen=True)
class Split:
    """Structures with the file and frame number of each."""

    frames: tuple
    sources: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.frames)

    def pick(self, chosen: Sequence[int]) -> "Split":
        """The structures with these indices."""
        return Split(tuple(self.frames[n] for n in chosen), tuple(self.sources[n] for n in chosen))


def set_aside(
    split: Split,
    fraction: float,
    seed: int | Sequence[int],
    how: str = "stratified",
    purpose: str = "validation",
) -> tuple[Split, Split]:
    """Sets a random share of structures aside; at least one stays on either side.

    Args:
      split: the structures.
      fraction: the share; of whole groups or files, as near to it as their sizes allow.
      seed: same seed, same choice.
      how: one of `SPLITS`. Energies per atom are taken less what the composition explains, so that structures of one
        composition are compared; structures without an energy are a kind of their own.
      purpose: what they are set aside for, for messages.

    Returns: the structures that stay, and those set aside, both in their old order.

    Raises:
      ConfigError: fewer than two structures, or two groups or files where these go as a whole.
    """
    if len(split) < 2:
        raise ConfigError(
            f"needs at least 2 structures to set one aside for {purpose}", split.sources[0][0], "data.train"
        )
    rng = np.random.default_rng(seed)
    if how == "stratified":
        aside = _shares([group_of(a) for a in split.frames], fraction, rng)
    elif how == "random":
        aside = _shares(["all"] * len(split), fraction, rng)
    elif how == "groups":
        aside = _wholes([group_of(a) for a in split.frames], fraction, rng, how, purpose)
    elif how == "files":
        aside = _wholes([path for path, _ in split.sources], fraction, rng, how, purpose)
    else:
        aside = _spread(_relative_energies(split), fraction, rng)
    if not aside:
        aside = [int(rng.integers(len(split)))]
    if len(aside) == len(split):
        aside.remove(int(rng.choice(aside)))
    kept = sorted(set(range(len(split))) - set(aside))
    return split.pick(kept), split.pick(sorted(aside))


def _shares(labels: list[str], fraction: float, rng: np.random.Generator) -> list[int]:
    """Indices of a random share of the structures with each label."""
    names = np.array(labels)
    aside: list[int] = []
    for label in dict.fromkeys(labels):
        members = rng.permutation(np.flatnonzero(names == label))
        aside += members[: round(fraction * len(members))].tolist()
    return aside


def _wholes(labels: list[str], fraction: float, rng: np.random.Generator, how: str, purpose: str) -> list[int]:
    """Indices of all structures with some labels: in random order, each that brings the share nearer to the wanted one."""
    kinds = list(dict.fromkeys(labels))
    if len(kinds) < 2:
        message = f"{how!r} sets whole {how} aside for {purpose}, but there is only one: {kinds[0]}"
        raise ConfigError(message, field="data.split")
    names, wanted = np.array(labels), fraction * len(labels)
    sizes = {kind: int((names == kind).sum()) for kind in kinds}
    taken: list[str] = []
    total = 0
    for n in rng.permutation(len(kinds)):
        size = sizes[kinds[n]]
        if abs(total + size - wanted) < abs(total - wanted) and len(taken) < len(kinds) - 1:
            taken.append(kinds[n])
            total += size
    if not taken:  # each is more than twice the share
        taken = [min(kinds, key=sizes.__getitem__)]
    return np.flatnonzero(np.isin(names, taken)).tolist()


def _spread(values: np.ndarray, fraction: float, rng: np.random.Generator) -> list[int]:
    """Indices that are evenly spread over the values: one at random from each of as many quantiles. NaN stands for itself."""
    aside: list[int] = []
    for members in (np.flatnonzero(np.isfinite(values)), np.flatnonzero(~np.isfinite(values))):
        order = members[np.argsort(values[members], kind="stable")]
        count = round(fraction * len(order))
        aside += [int(rng.choice(part)) for part in np.array_split(order, count)] if count else []
    return aside


def _relative_energies(split: Split) -> np.ndarray:
    """Energy per atom in eV, less that of the composition; NaN where it is not known."""
    energies = np.array([np.nan if (e := labels(a).energy) is None else e for a in split.frames])
    elements, columns = np.unique(np.concatenate([a.numbers for a in split.frames]), return_inverse=True)
    structure = np.repeat(np.arange(len(split)), [len(a) for a in split.frames])
    counts = np.zeros((len(split), len(elements)))
    np.add.at(counts, (structure, columns), 1)
    known = np.isfinite(energies)
    if known.any():
        energies -= counts @ fit_offsets(counts[known], energies[known])
    return energies / counts.sum(axis=1)
