"""Elements and their energy offsets."""

import ase.data
import numpy as np
import pytest

from bpjax.elements import atomic_numbers, fit_offsets, masses, sorted_elements, species_of
from bpjax.errors import UnknownSpeciesError


def test_tables():
    assert sorted_elements(["O", "H", "C", "H", "Cl"]) == ("H", "C", "O", "Cl")
    np.testing.assert_array_equal(atomic_numbers(("Si", "C", "H")), [14, 6, 1])
    np.testing.assert_allclose(masses(("H", "U")), ase.data.atomic_masses[[1, 92]], rtol=0)


@pytest.mark.parametrize("name", ["Xx", "si", "X", "", "Silicon"])
def test_unknown_symbols(name):
    with pytest.raises(UnknownSpeciesError, match=repr(name)):
        atomic_numbers(("Si", name))


def test_species_follow_the_order_of_the_model():
    numbers = np.array([8, 1, 1, 6])
    np.testing.assert_array_equal(species_of(numbers, ("H", "O", "C")), [1, 0, 0, 2])
    np.testing.assert_array_equal(species_of(numbers, ("O", "C", "H")), [0, 2, 2, 1])
    assert species_of(np.zeros(0, int), ("H",)).shape == (0,)


@pytest.mark.parametrize(("number", "name"), [(6, "C"), (0, "X"), (-3, "-3"), (500, "500"), (118, "Og")])
def test_unknown_element_is_named(number, name):
    with pytest.raises(UnknownSpeciesError, match=rf"water\.xyz: atom 1 is .*{name}, .*only H, O"):
        species_of(np.array([1, number, 8]), ("H", "O"), "water.xyz")


def test_offsets_are_recovered_from_many_compositions():
    random = np.random.default_rng(0)
    counts = random.integers(0, 20, (30, 3)) + np.eye(3, dtype=int)[np.arange(30) % 3]
    exact = np.array([-13.6, -2040.0, -1030.0])
    for isolated in (None, exact + 5, np.zeros(3)):
        # Full rank: what the isolated atoms are does not matter. Rounding of 2000 eV.
        np.testing.assert_allclose(fit_offsets(counts, counts @ exact, isolated), exact, rtol=0, atol=1e-9)


def test_offsets_are_least_squares_per_atom():
    random = np.random.default_rng(1)
    counts = random.integers(1, 9, (40, 2))
    energies = counts @ [-5.0, -9.0] + random.normal(size=40)
    found = fit_offsets(counts, energies)
    atoms = counts.sum(axis=1)
    residual = (energies - counts @ found) / atoms
    np.testing.assert_allclose((counts / atoms[:, None]).T @ residual, 0, atol=1e-10)  # normal equations, rounding


def test_offsets_of_one_stoichiometry():
    # Water only: e(O) + 2 e(H) is known, their difference is not.
    counts = np.array([[2, 1], [4, 2], [64, 32]])
    isolated = np.array([-13.6, -2040.0])
    energies = counts @ isolated - 10.0 * counts[:, 1]
    near = fit_offsets(counts, energies, isolated)
    np.testing.assert_allclose(counts @ near, energies, rtol=1e-12)
    # Binding of 10 eV per molecule, the same share for each of its atoms: 3.3 eV from the isolated ones.
    np.testing.assert_allclose(near, isolated - 10 / 3, rtol=0, atol=1e-8)
    alone = fit_offsets(counts, energies)
    np.testing.assert_allclose(counts @ alone, energies, rtol=1e-12)
    np.testing.assert_allclose(alone, energies[0] / 3, rtol=1e-10)  # one energy per atom


def test_offsets_of_one_element_and_one_structure():
    np.testing.assert_allclose(fit_offsets(np.array([[8]]), np.array([-40.0])), [-5.0], rtol=1e-14)
    np.testing.assert_allclose(fit_offsets(np.array([[8]]), np.array([-40.0]), np.array([-1.0])), [-5.0], rtol=1e-14)
    assert fit_offsets(np.array([[8]]), np.array([-40.0])).dtype == np.float64


def test_offset_of_an_element_without_atoms_is_finite():
    found = fit_offsets(np.array([[2, 0], [4, 0]]), np.array([-10.0, -20.0]), np.array([-4.0, -70.0]))
    np.testing.assert_allclose(found[0], -5.0, rtol=1e-12)
    np.testing.assert_allclose(found[1], -71.0, rtol=1e-12)  # as bound as the others
