import ase
import ase.build
import numpy as np
import pytest

from bpjax.analysis.structure import (
    coordination_number,
    first_minimum,
    mean_squared_displacement,
    radial_distribution,
)
from bpjax.errors import BpjaxError

A = 5.43


def diamond(repeat=1):
    return ase.build.bulk("Si", "diamond", a=A, cubic=True).repeat(repeat)


def ideal_gas(count, atoms=400, size=14.0, seed=0):
    rng = np.random.default_rng(seed)
    cell = np.diag([size, size * 1.1, size * 0.9]) + np.array([[0, 0, 0], [2.0, 0, 0], [0, -1.0, 0]])
    return [ase.Atoms(f"Si{atoms}", scaled_positions=rng.random((atoms, 3)), cell=cell, pbc=True) for _ in range(count)]


def test_ideal_gas_is_one_everywhere():
    frames = ideal_gas(20)
    r, g = radial_distribution(frames, r_max=8.0, bins=16)
    # Ordered pairs in a shell are counted twice: their number has twice the variance of independent counts.
    N, V = len(frames[0]), frames[0].get_volume()
    shells = 4 * np.pi / 3 * np.diff(np.linspace(0, 8, 17) ** 3)
    sigma = np.sqrt(2 / (len(frames) * N * (N - 1) / V * shells))
    expected = (N - 1) / N
    assert np.all(np.abs(g - expected) < 4.5 * sigma)
    assert len(r) == 16 and r[0] == pytest.approx(0.25)


@pytest.mark.parametrize("repeat", [1, 2])
def test_shells_of_diamond(repeat):
    # Beyond half the cell too, where images count: 4, 12, 12, 6 neighbours.
    r, g = radial_distribution([diamond(repeat)], r_max=6.0, bins=300)
    density = 8 / A**3
    shells = np.array([np.sqrt(3) / 4, np.sqrt(1 / 2), np.sqrt(11) / 4, 1.0]) * A
    counted = [coordination_number(r, g, density, radius) for radius in (*(shells + 0.2)[:3], 5.8)]
    np.testing.assert_allclose(counted, np.cumsum([4, 12, 12, 6]), rtol=1e-10)
    assert np.all(g[(r > shells[0] + 0.1) & (r < shells[1] - 0.1)] == 0)


def test_partial_distributions_sum_up():
    atoms = diamond(2)
    atoms.numbers[::3] = 32
    whole = radial_distribution([atoms], 5.0, 50)[1]
    x = np.mean(atoms.numbers == 32)
    parts = {(a, b): radial_distribution([atoms], 5.0, 50, pair=(a, b))[1] for a in ("Si", "Ge") for b in ("Si", "Ge")}
    share = {"Ge": x, "Si": 1 - x}
    np.testing.assert_allclose(whole, sum(share[a] * share[b] * g for (a, b), g in parts.items()), atol=1e-12)


def test_first_minimum_tells_crystal_from_liquid():
    rng = np.random.default_rng(1)
    warm = [diamond(3) for _ in range(5)]
    for atoms in warm:
        atoms.positions += 0.08 * rng.standard_normal(atoms.positions.shape)
    r, g = radial_distribution(warm, 8.0, 120)
    assert first_minimum(r, g) < 0.02
    hot = [atoms.copy() for atoms in warm]
    for atoms in hot:
        atoms.positions += 0.6 * rng.standard_normal(atoms.positions.shape)
    assert first_minimum(*radial_distribution(hot, 8.0, 120)) > 0.5


def test_mean_squared_displacement_of_a_random_walk():
    rng = np.random.default_rng(2)
    frames, sigma = [ase.Atoms("Si2000", rng.random((2000, 3)) * 10, cell=[10, 11, 12], pbc=True)], 0.3
    for _ in range(20):
        atoms = frames[-1].copy()
        atoms.positions += sigma * rng.standard_normal(atoms.positions.shape) + 0.1  # drift does not count
        frames.append(atoms)
    expected = 3 * sigma**2 * np.arange(21)
    found = mean_squared_displacement(frames)
    np.testing.assert_allclose(found, expected, rtol=0.08)
    for atoms in frames:
        atoms.wrap()
    np.testing.assert_allclose(mean_squared_displacement(frames), found, rtol=0, atol=1e-9)


def test_mean_squared_displacement_of_unlike_frames():
    with pytest.raises(BpjaxError, match="do not have the same atoms"):
        mean_squared_displacement([diamond(1), diamond(2)])
    assert len(mean_squared_displacement([])) == 0
