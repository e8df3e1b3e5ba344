"""How structures are set aside: shares of groups, whole groups and files, energies."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.errors import ConfigError
from bpjax.io.labels import group_of
from bpjax.training.splits import SPLITS, Split, set_aside


def split_of(groups, files=None, energies=None, symbols=None) -> Split:
    frames = []
    for n, group in enumerate(groups):
        atoms = Atoms((symbols or ["Cu2"] * len(groups))[n], info={"config_type": group})
        energy = float(n) if energies is None else energies[n]
        atoms.calc = SinglePointCalculator(atoms, **({} if energy is None else {"energy": energy}))
        frames.append(atoms)
    return Split(tuple(frames), tuple((f, n) for n, f in enumerate(files or ["a.xyz"] * len(groups))))


def numbers(split: Split) -> list[int]:
    return [n for _, n in split.sources]


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.99])
def test_every_structure_is_on_one_side(how, fraction):
    split = split_of(["a", "b", "c", "a", "b"] * 6, ["1", "2", "3"] * 10)
    kept, aside = set_aside(split, fraction, 3, how)
    assert sorted(numbers(kept) + numbers(aside)) == list(range(30)) and len(kept) and len(aside)
    assert numbers(kept) == sorted(numbers(kept)) and numbers(aside) == sorted(numbers(aside))
    assert numbers(set_aside(split, fraction, 3, how)[1]) == numbers(aside)
    assert len({tuple(numbers(set_aside(split, 0.3, seed, how)[1])) for seed in range(9)}) > 1


def test_stratified_gives_each_group_its_share_and_random_does_not():
    split = split_of(["a"] * 40 + ["b"] * 20)
    for seed in range(5):
        groups = [group_of(a) for a in set_aside(split, 0.2, seed)[1].frames]
        assert (groups.count("a"), groups.count("b")) == (8, 4)
    shares = {[group_of(a) for a in set_aside(split, 0.2, seed, "random")[1].frames].count("a") for seed in range(20)}
    assert len(shares) > 3 and {len(set_aside(split, 0.2, seed, "random")[1]) for seed in range(5)} == {12}


@pytest.mark.parametrize("how", ["groups", "files"])
def test_groups_and_files_go_as_a_whole(how):
    kinds = [f"k{n % 7}" for n in range(70)]
    split = split_of(kinds, ["x"] * 70) if how == "groups" else split_of(["g"] * 70, kinds)
    for seed in range(5):
        kept, aside = set_aside(split, 0.3, seed, how)
        inside = [
            {group_of(a) if how == "groups" else p for a, (p, _) in zip(s.frames, s.sources, strict=True)}
            for s in (kept, aside)
        ]
        assert not inside[0] & inside[1] and len(aside) == 20  # 2 of 7 are nearest to 21 structures
    large = (
        split_of(["big"] * 90 + ["small"] * 60) if how == "groups" else split_of(["g"] * 5, ["s", "s", "b", "b", "b"])
    )
    assert len(set_aside(large, 0.1, 0, how)[1]) == (60 if how == "groups" else 2)  # the least that can be done
    with pytest.raises(
        ConfigError, match=rf"data.split: '{how}' sets whole {how} aside for test, but there is only one: "
    ):
        set_aside(split_of(["g"] * 5), 0.2, 0, how, "test")


def test_energies_are_spread_evenly():
    """One of each tenth, of a set of two compositions whose energies per atom differ far more than the structures'."""
    rng = np.random.default_rng(0)
    strain = np.repeat(rng.permutation(np.linspace(0, 1, 50)), 2)
    symbols = ["Cu2" if n % 2 else "CuO" for n in range(100)]
    energies = [2 * strain[n] - (100 if n % 2 else 500) for n in range(100)]
    energies = [None if n in (3, 4) else e for n, e in enumerate(energies)]
    split = split_of(["g"] * 100, energies=energies, symbols=symbols)
    for seed in range(5):
        chosen = [n for n in numbers(set_aside(split, 0.1, seed, "energy")[1]) if n not in (3, 4)]
        # Half a tenth, and what the two without an energy change.
        np.testing.assert_allclose(np.sort(strain[chosen]), np.linspace(0.05, 0.95, 10), atol=0.075)
    unlabelled = split_of(["g"] * 20, energies=[None] * 20)
    assert len(set_aside(unlabelled, 0.25, 0, "energy")[1]) == 5


def test_one_structure_cannot_be_split():
    with pytest.raises(
        ConfigError, match=r"a\.xyz: data\.train: needs at least 2 structures to set one aside for valid"
    ):
        set_aside(split_of(["g"]), 0.1, 0)
    for fraction in (0.01, 0.99):
        assert [len(s) for s in set_aside(split_of(["g", "h"]), fraction, 0)] == [1, 1]
