import dataclasses

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.errors import BpjaxError, ConfigError, StructureError, UnknownSpeciesError
from bpjax.neighbors import neighbor_list
from bpjax.potential import predict
from bpjax.potential.evaluator import Evaluator
from bpjax.potential.extrapolation import features
from bpjax.potential.forces import stress
from bpjax.potential.preparation import groups_of_like_size
from bpjax.system import system_from_arrays
from tests.small_model import MODEL, STRUCTURES, crystal, liquid, molecule, one_atom, slab, small_params

PARAMS = small_params()


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(MODEL, PARAMS, "float64")


exact = jax.jit(predict, static_argnums=0)


def reference(atoms):
    """Straight through `predict`: no skin, no wrapping; one generous padding for all, to compile only once."""
    numbers, positions, cell = atoms.numbers, atoms.positions, atoms.cell.array
    system = system_from_arrays(numbers, positions, cell, atoms.pbc, MODEL.elements, capacity=16)
    neighbors = neighbor_list(positions, cell, atoms.pbc, MODEL.cutoff, atoms=16, capacity=40)
    prediction = exact(MODEL, PARAMS, system, neighbors)
    offsets = MODEL.offset_energies(system.species[: len(atoms)]).sum()
    return prediction._replace(forces=prediction.forces[: len(atoms)]), float(prediction.energy) + offsets


@pytest.mark.parametrize("name", STRUCTURES)
def test_numbers_are_those_of_predict(evaluator, name):
    atoms = STRUCTURES[name]()
    prediction, energy = reference(atoms)
    result = evaluator.evaluate(atoms)
    assert isinstance(result.energy, float) and result.energy == pytest.approx(energy, abs=1e-10)
    assert result.atomic_energies.sum() == pytest.approx(result.energy, abs=1e-10)
    np.testing.assert_allclose(result.forces, prediction.forces, atol=1e-12)
    if atoms.pbc.all():
        np.testing.assert_allclose(result.stress, stress(prediction, jnp.asarray(atoms.cell.array)), atol=1e-12)
        np.testing.assert_array_equal(result.stress, result.stress.T)
    else:
        assert result.stress is None


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_many_frames_equal_single_ones(evaluator, dtype):
    frames = [f() for f in STRUCTURES.values()] + [one_atom().repeat((3, 2, 2)), crystal()]
    many = Evaluator(MODEL, PARAMS, dtype)
    tolerance = {"float64": 1e-10, "float32": 1e-4}[dtype]
    for atoms, result in zip(frames, many.evaluate_many(frames), strict=True):
        single = evaluator.evaluate(atoms)
        assert result.energy == pytest.approx(single.energy, abs=tolerance * len(atoms))
        np.testing.assert_allclose(result.atomic_energies, single.atomic_energies, atol=tolerance)
        np.testing.assert_allclose(result.forces, single.forces, atol=tolerance)
        assert (result.stress is None) == (single.stress is None)
        if single.stress is not None:
            np.testing.assert_allclose(result.stress, single.stress, atol=tolerance)
    assert many.compilations <= 1  # so few structures are padded alike; an earlier evaluator may have compiled it


def test_nothing_to_evaluate(evaluator):
    assert evaluator.evaluate_many([]) == []


def test_float32_does_not_suffer_from_distant_positions(evaluator):
    """Unwrapped trajectories drift far away; offsets are hundreds of eV for each atom."""
    near, far, lost = liquid(), liquid(), molecule()
    far.positions += 4e4 * np.array([1.0, -1.0, 0.5]) @ np.round(far.cell.array, 3)
    far.positions[2] -= 1e5 * far.cell[1]
    shifted = evaluator.evaluate(far)
    single = Evaluator(MODEL, PARAMS, "float32")
    np.testing.assert_allclose(single.evaluate(far).forces, shifted.forces, atol=1e-4)
    exact = evaluator.evaluate(lost)
    lost.positions += 1e5
    result = single.evaluate(lost)
    np.testing.assert_allclose(result.forces, exact.forces, atol=1e-4)
    assert abs(single.evaluate(near).energy - evaluator.evaluate(near).energy) < 1e-5 * len(near)


def test_nothing_is_compiled_again_while_atoms_move():
    evaluator = Evaluator(dataclasses.replace(MODEL, isolated=(0.0, 1.0)), PARAMS)  # known to no other test
    rng = np.random.default_rng(0)
    atoms = liquid()
    for _ in range(30):
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        atoms.set_cell(atoms.cell.array * (1 + rng.normal(scale=0.002)), scale_atoms=True)
        evaluator.evaluate(atoms)
    assert evaluator.compilations == 1
    del atoms[3]  # a vacancy
    evaluator.evaluate(atoms)
    assert evaluator.compilations == 1
    for structure in (slab(), molecule(), atoms, liquid()):  # there and back
        evaluator.evaluate(structure)
    compilations = evaluator.compilations
    assert compilations <= 3
    for structure in (molecule(), slab(), liquid()):
        evaluator.evaluate(structure)
    assert evaluator.compilations == compilations
    again = Evaluator(evaluator.model, PARAMS)
    again.evaluate(molecule())
    assert again.compilations == 0  # shared by all evaluators of one model


def test_warnings_are_not_compiled_again_while_atoms_move():
    evaluator = Evaluator(MODEL, PARAMS, "float64", watch=True)
    rng, atoms = np.random.default_rng(0), liquid()
    for step in range(20):
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        assert not evaluator.evaluate(atoms).outside.any()
        searches = evaluator.searches
        assert evaluator.extrapolations(atoms) == []
        if step == 0:
            compiled = features._cache_size()
    assert evaluator.compilations <= 1 and features._cache_size() == compiled
    assert evaluator.searches == searches  # the list of the energy serves the warnings too


def test_neighbour_lists_are_used_again_without_a_trace(evaluator):
    rng = np.random.default_rng(1)
    atoms = liquid()
    lazy, eager = (Evaluator(MODEL, PARAMS, "float64", skin=skin) for skin in (0.6, 0.0))
    for _ in range(40):
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        a, b = lazy.evaluate(atoms), eager.evaluate(atoms)
        assert a.energy == pytest.approx(b.energy, abs=1e-10)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-12)
        np.testing.assert_allclose(a.stress, b.stress, atol=1e-13)
    assert lazy.searches < 15 and eager.searches == 40
    for change in ("cell", "numbers", "pbc", "wrap"):
        searches = lazy.searches
        if change == "cell":
            atoms.set_cell(atoms.cell.array * 1.001)
        elif change == "numbers":
            atoms.numbers[0] = 8
        elif change == "pbc":
            atoms.pbc = (True, True, False)
        else:
            atoms.wrap()
        a, (b, energy) = lazy.evaluate(atoms), reference(atoms)
        assert lazy.searches == searches + 1, change
        assert a.energy == pytest.approx(energy, abs=1e-10)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-12)


def test_a_list_serves_until_two_atoms_can_have_crossed_the_skin():
    skin = 0.6
    lazy = Evaluator(MODEL, PARAMS, "float64", skin=skin)
    far = MODEL.cutoff + skin + 0.05
    pair = ase.Atoms("Si2", [[0, 0, 0], [far, 0, 0]])
    lazy.evaluate(pair)
    # Each goes less than the skin, both together more: they have become neighbours.
    pair.positions[:, 0] += [0.7 * skin, -0.7 * skin]
    assert pair.get_distance(0, 1) < MODEL.cutoff - 0.1
    found, (expected, energy) = lazy.evaluate(pair), reference(pair)
    assert found.energy == pytest.approx(energy, abs=1e-10) and np.abs(expected.forces).max() > 1e-6
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-12)


def test_atoms_that_meet_within_the_skin_are_noticed(evaluator):
    pair = ase.Atoms("Si2", [[0, 0, 0], [0.4, 0, 0]])
    evaluator.evaluate(pair)
    pair.positions[1, 0] -= 0.2
    pair.positions[0, 0] += 0.15
    with pytest.raises(StructureError, match=r"atoms 0 and 1 are at one place \(0.05 A apart\)"):
        evaluator.evaluate(pair)


def broken(change):
    atoms = crystal()
    change(atoms)
    return atoms


def same_place(atoms):
    atoms.positions[5] = atoms.positions[2] + atoms.cell[1]


BAD = {
    "has zero atoms": lambda atoms: atoms.__delitem__(slice(None)),
    "positions: row 3 holds nan": lambda atoms: atoms.positions.__setitem__((3, 1), np.nan),
    "cell: row 1 holds inf": lambda atoms: atoms.cell.__setitem__((1, 1), np.inf),
    "cell: the cell has no volume": lambda atoms: atoms.cell.__setitem__(2, atoms.cell[1]),
    "cell: the cell has no volume along": lambda atoms: atoms.cell.__setitem__(2, 0),
    "atom 2 is C, but the model knows only O, Si": lambda atoms: atoms.numbers.__setitem__(2, 6),
    "atoms 2 and 5 are at one place": same_place,
}


@pytest.mark.parametrize("message", BAD)
def test_bad_structures_are_named(evaluator, message):
    bad = broken(BAD[message])
    with pytest.raises((StructureError, UnknownSpeciesError), match=message):
        evaluator.evaluate(bad)
    with pytest.raises((StructureError, UnknownSpeciesError), match=f"^a.xyz: frame 1: .*{message}"):
        evaluator.evaluate_many([crystal(), bad], path="a.xyz")


def test_results_that_are_not_finite_are_refused():
    params = {**PARAMS, "energy_scale": np.float32(np.inf)}
    with pytest.raises(BpjaxError, match=r"a.xyz: frame [01]: energy: the model gives a result that is not finite"):
        Evaluator(MODEL, params, "float64").evaluate_many([crystal(), molecule()], path="a.xyz")


def test_wrong_options():
    for options in ({"dtype": "float16"}, {"skin": -1.0}, {"skin": np.nan}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Evaluator(MODEL, PARAMS, **options)


def test_progress_counts_all_frames(evaluator):
    done = []

    class Bar:
        def __init__(self, total, description, start=0):
            assert total == 3

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, steps=1, **values):
            done.append(steps)

        def note(self, text):
            pass

    evaluator.evaluate_many([crystal()] * 3, progress=Bar)
    assert sum(done) == 3


def test_groups_weigh_padding_against_compilations():
    few = np.array([[1, 60], [300, 40], [2, 50], [1, 80]])
    assert groups_of_like_size(few) == [[0, 3, 2, 1]]
    many = np.array([[1, 60]] * 1000 + [[300, 40]] * 3 + [[2, 50]] * 10)
    groups = groups_of_like_size(many)
    assert sorted(map(len, groups)) == [3, 1010] and sorted(n for group in groups for n in group) == list(range(1013))
