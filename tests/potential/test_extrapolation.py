"""Extrapolation warnings against plain NumPy, and the spread of committees against their members one by one."""

import dataclasses
from functools import partial

import ase
import jax
import numpy as np
import pytest

from bpjax.descriptors import SymmetryFunctions
from bpjax.descriptors.symmetry import SymmetryFunction
from bpjax.errors import ConfigError, StructureError
from bpjax.geometry import environments
from bpjax.interop.n2p2 import read_folder, read_potential
from bpjax.io.runner import read_runner
from bpjax.neighbors import neighbor_list
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, extrapolations, format_extrapolation, init, predict, predict_members
from bpjax.potential.evaluator import Evaluator, _single
from bpjax.potential.extrapolation import features
from bpjax.system import system_from_arrays
from tests.small_model import MODEL, crystal, liquid, molecule, small_params

D, SYMBOLS = MODEL.descriptor.size, MODEL.elements
FRAMES = [crystal(), liquid(), molecule()]


@jax.jit
def descriptor(env, species_i):
    return jax.vmap(MODEL.descriptor)(env, species_i)


def plain_features(atoms):
    """Without blocks and shifts of the origin; padded alike for all, to compile once."""
    cell = atoms.cell.array if atoms.pbc.any() else np.eye(3)
    system = system_from_arrays(atoms.numbers, atoms.positions, cell, atoms.pbc, SYMBOLS, capacity=16)
    neighbors = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, MODEL.cutoff, atoms=16, capacity=40)
    if neighbors.shift is None:
        neighbors = neighbors._replace(shift=np.zeros((16, 40, 3), np.int32))
    env = environments(system._replace(cell=cell), neighbors)
    return np.asarray(descriptor(env, system.species))[: len(atoms)]


def with_ranges(params, frames, widen=0.0, dtype=np.float64):
    """Ranges of each element's features in some frames, widened by a fraction of their width and by a little more."""
    G = np.concatenate([plain_features(f) for f in frames])
    symbols = np.concatenate([f.get_chemical_symbols() for f in frames])
    scaling = {}
    for element in SYMBOLS:
        low, high = (limit(G[symbols == element], axis=0) for limit in (np.min, np.max))
        slack = widen * (high - low + 0.01)
        limits = {"min": (low - slack).astype(dtype), "max": (high + slack).astype(dtype)}
        scaling[element] = {**params["scaling"][element], **limits}
    return {**params, "scaling": scaling}


def brute_force(params, atoms):
    """Pairs (atom, feature) outside of their range."""
    G, found = plain_features(atoms), set()
    for i, symbol in enumerate(atoms.get_chemical_symbols()):
        limits = params["scaling"][symbol]
        found |= {(i, n) for n in range(D) if not limits["min"][n] <= G[i, n] <= limits["max"][n]}
    return found


@pytest.mark.parametrize("dtype", [pytest.param("float64", marks=pytest.mark.slow), "float32"])
def test_warnings_are_those_of_plain_numpy(dtype):
    # Widened a little, so that no feature of interest lies within rounding of a limit.
    params = with_ranges(small_params(), FRAMES[:1], widen=0.01, dtype=dtype)
    evaluator = Evaluator(MODEL, params, dtype, watch=True)
    close = {"rel": 1e-12} if dtype == "float64" else {"rel": 1e-4, "abs": 1e-6}
    many = evaluator.evaluate_many(FRAMES)
    for number, atoms in enumerate(FRAMES):
        expected = brute_force(params, atoms)
        assert bool(expected) == (number > 0)
        counts = np.bincount([i for i, _ in expected], minlength=len(atoms))
        np.testing.assert_array_equal(many[number].outside, counts)
        found = evaluator.extrapolations(atoms, number)
        assert {(w.atom, w.function - 1) for w in found} == expected and len(found) == len(expected)
        G = plain_features(atoms)
        for w in found:
            assert (w.structure, w.element) == (number, atoms.get_chemical_symbols()[w.atom])
            assert w.label == MODEL.descriptor.labels[w.function - 1]
            limits = params["scaling"][w.element]
            assert (w.minimum, w.maximum) == (limits["min"][w.function - 1], limits["max"][w.function - 1])
            assert w.value == pytest.approx(G[w.atom, w.function - 1], **close)
            assert w.excess > 0
    np.testing.assert_array_equal(evaluator.evaluate(FRAMES[1]).outside, many[1].outside)


def test_the_training_data_itself_gives_none():
    params = with_ranges(small_params(), FRAMES)
    for result in Evaluator(MODEL, params, "float64", watch=True).evaluate_many(FRAMES):
        assert not result.outside.any()


def test_what_nobody_asks_for_is_not_computed():
    params, atoms = small_params(), crystal()
    result = Evaluator(MODEL, params, "float64").evaluate(atoms)
    assert result.outside is None and result.energy_spread is None and result.forces_spread is None
    system = system_from_arrays(atoms.numbers, atoms.positions, atoms.cell.array, True, SYMBOLS)
    neighbors = neighbor_list(atoms.positions, atoms.cell.array, True, MODEL.cutoff)
    off, on, plain = (
        str(jax.make_jaxpr(f)(params, system, neighbors))
        for f in (partial(_single.__wrapped__, MODEL, False), partial(_single.__wrapped__, MODEL, True), partial(predict, MODEL))
    )  # fmt: skip
    assert off == plain and len(on) > len(off)


def test_padding_never_counts():
    params, atoms = small_params(), crystal()
    for limits in params["scaling"].values():
        limits.update(min=np.full(D, -2.0), max=np.full(D, -1.0))  # everything is outside, zeros too
    system = system_from_arrays(atoms.numbers, atoms.positions, atoms.cell.array, True, SYMBOLS, capacity=13)
    neighbors = neighbor_list(atoms.positions, atoms.cell.array, True, MODEL.cutoff, atoms=13)
    found = jax.jit(partial(predict, watch=True), static_argnums=0)(MODEL, params, system, neighbors)
    np.testing.assert_array_equal(found.outside, [D] * 8 + [0] * 5)
    G, outside = features(MODEL, params, system, neighbors)
    np.testing.assert_array_equal(outside.sum(axis=1), found.outside)
    assert not np.any(G[8:]) and np.any(G[:8])


@pytest.mark.slow
def test_blocks_and_bare_systems():
    """More atoms than fit into a block; a molecule without cell and masks."""
    params = with_ranges(small_params(), [crystal()], widen=0.01)
    one, many = crystal(), crystal().repeat((3, 3, 3))
    one.positions[2] += 0.4
    many.positions[2::8] += 0.4
    evaluator = Evaluator(MODEL, params, "float64", watch=True)
    expected = evaluator.evaluate(one).outside
    assert expected.sum() > 3
    np.testing.assert_array_equal(evaluator.evaluate(many).outside, np.tile(expected, 27))
    assert len(evaluator.extrapolations(many)) == 27 * expected.sum()
    atoms = molecule()
    bare = system_from_arrays(atoms.numbers, atoms.positions, None, False, SYMBOLS)._replace(atom_mask=None)
    outside = features(MODEL, params, bare, neighbor_list(atoms.positions, None, False, MODEL.cutoff)).outside
    assert {(int(i), int(n)) for i, n in np.argwhere(outside)} == brute_force(params, atoms)


def committee():
    """Three members with networks and ranges of their own."""
    model = dataclasses.replace(MODEL, members=3)
    members = [with_ranges(small_params(seed=s), [crystal()], widen=0.3 * s + 0.01) for s in range(3)]
    return model, members, jax.tree.map(lambda *leaves: np.stack(leaves), *members)


@pytest.mark.slow
def test_committee_is_mean_and_spread_of_its_members():
    model, members, params = committee()
    frames = [crystal(), liquid()]
    evaluator = Evaluator(model, params, "float64", watch=True)
    for atoms, many in zip(frames, evaluator.evaluate_many(frames), strict=True):
        each = [Evaluator(MODEL, p, "float64").evaluate(atoms) for p in members]
        names = ("energy", "forces", "atomic_energies", "stress")
        E, F, E_i, stress = (np.array([getattr(e, name) for e in each]) for name in names)
        assert E.std() > 0.01
        for result in (evaluator.evaluate(atoms), many) if atoms is frames[0] else (many,):
            assert result.energy == pytest.approx(E.mean(), abs=1e-9)
            assert result.energy_spread == pytest.approx(E.std(), abs=1e-9)
            np.testing.assert_allclose(result.forces, F.mean(axis=0), atol=1e-12)
            np.testing.assert_allclose(result.forces_spread, F.std(axis=0), atol=1e-12)
            np.testing.assert_allclose(result.atomic_energies, E_i.mean(axis=0), atol=1e-10)
            np.testing.assert_allclose(result.stress, stress.mean(axis=0), atol=1e-12)


@pytest.mark.slow
def test_committee_warns_of_the_narrowest_range():
    model, members, params = committee()
    evaluator, atoms = Evaluator(model, params, "float64", watch=True), liquid()
    expected = [brute_force(p, atoms) for p in members]
    assert expected[0] > expected[1] > expected[2]
    found = evaluator.extrapolations(atoms)
    assert {(w.atom, w.function - 1) for w in found} == set.union(*expected)
    assert evaluator.evaluate(atoms).outside.sum() == len(found) == evaluator.evaluate_many([atoms])[0].outside.sum()
    for w in found:
        assert w.minimum == members[0]["scaling"][w.element]["min"][w.function - 1]


def test_a_range_that_is_not_violated_is_not_shown():
    model, members, params = committee()
    for element in SYMBOLS:  # the narrowest range of all, around a value
        limits = params["scaling"][element]
        limits["min"][0], limits["max"][0] = -np.inf, np.inf
    found = Evaluator(model, params, "float64").extrapolations(liquid())
    assert {(w.atom, w.function - 1) for w in found} == brute_force(members[1], liquid())
    assert all(w.minimum == members[1]["scaling"][w.element]["min"][w.function - 1] for w in found)


def test_predict_members_needs_a_committee():
    system = system_from_arrays(np.array([14]), np.zeros((1, 3)), None, False, SYMBOLS)
    with pytest.raises(ValueError, match="no committee"):
        predict_members(MODEL, small_params(), system, neighbor_list(np.zeros((1, 3)), None, False, 4.0))


LISTED = Potential(
    SymmetryFunctions(
        ("H", "O"),
        (
            (SymmetryFunction(2, 4.0, ("O",), eta=0.5),),
            (
                SymmetryFunction(2, 4.0, ("H",), eta=0.25, r_s=1.0),
                SymmetryFunction(9, 4.0, ("H", "O"), eta=0.01, lam=-1.0, zeta=2.0),
                SymmetryFunction(20, 4.0, ("H",), r_l=-4.0, core="p2"),
            ),
        ),
    ),
    MLP((2,)),
)


def test_functions_of_a_list_by_number_and_parameters():
    """The value of a dimer by hand; elements differ in what their functions are."""
    params = init(LISTED, jax.random.key(0), np.float64)
    atoms = ase.Atoms("OH", [[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]])
    assert extrapolations(LISTED, params, atoms, "float64") == []
    f_c = 0.5 * (1 + np.cos(np.pi * 1.5 / 4.0))
    hydrogen, oxygen = np.exp(-0.5 * 1.5**2) * f_c, np.exp(-0.25 * 0.5**2) * f_c
    limits = {"min": np.array([oxygen + 0.1, -1.0, 0.9]), "max": np.array([2.0, 1.0, 1.0])}
    params["scaling"]["O"].update(limits)
    params["scaling"]["H"].update(min=np.array([-1.0, 0.0, 0.0]), max=np.array([hydrogen - 0.01, 0.0, 0.0]))
    first, second, third = extrapolations(LISTED, params, atoms, "float64", structure=4)
    assert (first.structure, first.atom, first.element, first.function) == (4, 0, "O", 1)
    assert first.label == "2 H eta=0.25 r_s=1 r_c=4" and first.value == pytest.approx(oxygen, rel=1e-12)
    assert first.excess == pytest.approx(0.1 / (1.9 - oxygen))
    assert (second.atom, second.function, second.label) == (0, 3, "20 H r_l=-4 r_c=4 core=p2")
    assert (third.atom, third.element, third.function) == (1, "H", 1) and third.label == "2 O eta=0.5 r_s=0 r_c=4"
    assert third.value == pytest.approx(hydrogen, rel=1e-12)
    assert format_extrapolation(third) == (
        "### NNP EXTRAPOLATION WARNING ### STRUCTURE: 4 ATOM: 1 ELEMENT: H SYMFUNC: 1 TYPE: 2 O eta=0.5 r_s=0 r_c=4"
        f" VALUE: {hydrogen:.8E} MIN: -1.00000000E+00 MAX: {hydrogen - 0.01:.8E}"
    )
    assert "STRUCTURE: - ATOM" in format_extrapolation(dataclasses.replace(third, structure=None))
    assert dataclasses.replace(third, minimum=0.0, maximum=0.0).excess == np.inf


def test_bad_input():
    with pytest.raises(ConfigError, match="dtype"):
        extrapolations(MODEL, small_params(), crystal(), "float16")
    with pytest.raises(StructureError, match="frame 3: has zero atoms"):
        extrapolations(MODEL, small_params(), ase.Atoms(), structure=3)


def test_ranges_of_a_published_potential(shared):
    """n2p2 logged no warning for its own structure; with narrower limits in scaling.data there must be the right ones."""
    path = shared / "data" / "n2p2" / "Cu2S_PBE"
    (model, params), atoms = read_potential(path, "ev-angstrom"), read_runner(path / "input.data", "ev-angstrom")[0]
    assert extrapolations(model, params, atoms, "float64") == []
    tables = read_folder(path).scaling
    for element, table in tables.items():
        low, high, mean, _ = table.T
        D = len(table)  # S has fewer functions than features
        params["scaling"][element]["min"][:D] = mean - 0.3 * (mean - low)
        params["scaling"][element]["max"][:D] = mean + 0.3 * (high - mean)
    found = extrapolations(model, params, atoms, "float64", 0)
    assert len(found) > 10
    for w in found:
        low, high, mean, _ = tables[w.element][w.function - 1]
        assert w.minimum == mean - 0.3 * (mean - low) and w.maximum == mean + 0.3 * (high - mean)
        assert not w.minimum <= w.value <= w.maximum and low <= w.value <= high
