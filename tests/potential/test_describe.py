"""Features from the host against the descriptor called atom by atom, and Jacobians against finite differences."""

import ase
import ase.build
import jax
import numpy as np
import pytest

from bpjax.descriptors import ACSF, Radial
from bpjax.errors import ConfigError, StructureError, UnknownSpeciesError
from bpjax.interop.soap import soap_from_dscribe
from bpjax.neighbors import pair_list
from bpjax.potential.describe import all_features, average_features, describe, jacobian
from bpjax.potential.evaluator import Evaluator
from bpjax.system import Environment
from tests.small_model import MODEL, STRUCTURES, crystal, molecule, one_atom, small_params

DESCRIPTOR = MODEL.descriptor
FRAMES = [make() for make in STRUCTURES.values()]
SLOTS = 200


@jax.jit
def one_environment(R_ij, species_j, mask, species_i):
    return DESCRIPTOR(Environment(R_ij, species_j, mask), species_i)


def plain(atoms):
    """Features from pairs of the plain neighbour search, one atom at a time."""
    species = np.where(atoms.numbers == 14, 1, 0).astype(np.int32)
    i, j, shift = pair_list(atoms.positions, atoms.cell.array, atoms.pbc, DESCRIPTOR.cutoff)
    R = atoms.positions[j] + shift @ atoms.cell.array - atoms.positions[i]
    rows = []
    for centre in range(len(atoms)):
        mine = np.flatnonzero(i == centre)
        R_ij, species_j = np.ones((SLOTS, 3)), np.zeros(SLOTS, np.int32)
        R_ij[: len(mine)], species_j[: len(mine)] = R[mine], species[j[mine]]
        rows.append(one_environment(R_ij, species_j, np.arange(SLOTS) < len(mine), species[centre]))
    return np.array(rows)


def test_features_are_those_of_each_environment():
    bars = []
    found = describe(DESCRIPTOR, FRAMES, "float64", progress=recording(bars))
    single = describe(DESCRIPTOR, FRAMES)
    for atoms, G, G_single in zip(FRAMES, found, single, strict=True):
        assert G.dtype == np.float64 and G_single.dtype == np.float32
        expected = plain(atoms)
        np.testing.assert_allclose(G, expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(G_single, expected, rtol=2e-5, atol=2e-5)
    assert bars == [len(FRAMES)]


def recording(bars):
    """A display that keeps how many steps were done."""
    from contextlib import contextmanager

    @contextmanager
    def progress(total, description, start=0):
        class Bar:
            done = 0

            def update(self, steps=1, **values):
                self.done += steps

            def note(self, text):
                raise AssertionError(text)

        bar = Bar()
        yield bar
        assert bar.done == total
        bars.append(bar.done)

    return progress


def test_in_blocks_and_with_few_compilations():
    """Many atoms run through blocks; structures of like size share a shape, whatever their number."""
    large = crystal().repeat((3, 3, 2))  # more than one block
    G, one = describe(DESCRIPTOR, [large, crystal()], "float64")
    np.testing.assert_allclose(G, np.tile(one, (18, 1)), atol=1e-11)
    frames = [crystal() for _ in range(7)]
    for n, atoms in enumerate(frames):
        atoms.rattle(0.02, seed=n)
    before = all_features._cache_size()
    describe(DESCRIPTOR, frames)
    assert all_features._cache_size() <= before + 1


def test_no_structures_give_nothing():
    assert describe(DESCRIPTOR, []) == []


@pytest.mark.parametrize("make", [crystal, molecule, one_atom], ids=lambda f: f.__name__)
def test_jacobian_equals_finite_differences(make):
    atoms, h = make(), 1e-4
    J = jacobian(DESCRIPTOR, atoms, "float64")
    N = len(atoms)
    assert J.shape == (N, N, 3, DESCRIPTOR.size)
    moved = []
    for j in range(min(N, 2)):
        for a in range(3):
            for sign in (1, -1):
                copy = atoms.copy()
                copy.positions[j, a] += sign * h
                moved.append(copy)
    G = np.array(describe(DESCRIPTOR, moved, "float64")).reshape(-1, 3, 2, N, DESCRIPTOR.size)
    numerical = (G[:, :, 0] - G[:, :, 1]) / (2 * h)  # (j, a, i, D)
    np.testing.assert_allclose(J[:, : len(G)], numerical.transpose(2, 0, 1, 3), atol=2e-7 * max(1, np.abs(J).max()))
    np.testing.assert_allclose(J.sum(axis=1), 0, atol=1e-10)  # moving all atoms changes nothing
    if make is molecule:
        np.testing.assert_allclose(jacobian(DESCRIPTOR, atoms), J, atol=1e-4 * max(1, np.abs(J).max()))


def test_more_features_than_coordinates():
    """Then derivatives are taken forwards."""
    many = ACSF(("O", "Si"), 3.0, g2=tuple(Radial(0.1 * n) for n in range(1, 60)))
    few = ACSF(("O", "Si"), 3.0, g2=many.g2[:2])
    J, reverse = (jacobian(descriptor, molecule(), "float64") for descriptor in (many, few))
    assert many.size > 3 * 8 > few.size
    np.testing.assert_allclose(J[..., :4], reverse, rtol=1e-12, atol=1e-13)


def test_jacobian_gives_the_forces_of_a_potential():
    params, atoms = small_params("float64"), crystal()
    J, G = jacobian(DESCRIPTOR, atoms, "float64"), describe(DESCRIPTOR, [atoms], "float64")[0]
    dE_dG = np.zeros_like(G)
    for symbol in ("O", "Si"):
        atom = np.array(atoms.get_chemical_symbols()) == symbol
        dense, out = params["networks"][symbol]["hidden_0"], params["networks"][symbol]["output"]
        z = G[atom] @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
        s = 1 / (1 + np.exp(-z))
        dE_dG[atom] = (s + z * s * (1 - s)) * np.asarray(out["kernel"])[:, 0] @ np.asarray(dense["kernel"]).T
    forces = -np.einsum("ijad,id->ja", J, dE_dG)
    np.testing.assert_allclose(forces, Evaluator(MODEL, params, "float64").evaluate(atoms).forces, atol=1e-11)


def test_bad_input():
    with pytest.raises(ConfigError, match="dtype: 'float16' is not one of float32, float64"):
        describe(DESCRIPTOR, FRAMES, "float16")
    with pytest.raises(StructureError, match="a.xyz: frame 1: has zero atoms"):
        describe(DESCRIPTOR, [crystal(), ase.Atoms()], path="a.xyz")
    with pytest.raises(UnknownSpeciesError, match="a.xyz: frame 1: atom 0 is Cu, but the model knows only O, Si"):
        describe(DESCRIPTOR, [crystal(), ase.Atoms("Cu")], path="a.xyz")
    with pytest.raises(StructureError, match="frame 0: positions: atoms 0 and 1 are at one place"):
        jacobian(DESCRIPTOR, ase.Atoms("Si2", np.zeros((2, 3))))


@pytest.mark.reference
@pytest.mark.parametrize(("average", "case"), [("inner", "inner"), ("outer", "outer")])
def test_averages_are_those_of_dscribe(shared, average, case):
    data = np.load(shared / "reference" / "dscribe" / f"soap_ethanol_p1_gto_{case}.npz")
    atoms = ase.Atoms(data["numbers"], data["positions"])
    options = soap_from_dscribe(("H", "C", "O"), 4.0, 4, 3, 0.5)
    found = average_features(options, [atoms, atoms[:4]], average, "float64")
    expected = data["features"]
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_averages_that_there_are_not():
    atoms = [ase.Atoms("Si2", [[0, 0, 0], [2.3, 0, 0]])]
    options = ACSF(("Si",), 4.0, g2=(Radial(0.5),))
    with pytest.raises(ConfigError, match=r"average: 'inner' is for SOAP; ACSF"):
        average_features(options, atoms, "inner")
    with pytest.raises(ConfigError, match="allowed are outer, inner"):
        average_features(options, atoms, "median")


def test_cutoff_below_the_first_neighbours():
    with pytest.raises(ConfigError, match=r"cutoff: 1 A is below the first neighbours"):
        describe(ACSF(("Si",), 1.0, g2=(Radial(0.5),)), [ase.build.bulk("Si"), ase.Atoms("Si")])
