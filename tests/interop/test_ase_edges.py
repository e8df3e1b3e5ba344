"""The calculator where users are seldom: far atoms, skewed cells, threads, forks, slabs, wrong words."""

import copy
import os
import pickle
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import ase
import ase.db
import ase.io
import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import CalculatorSetupError, PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.mep import NEB
from ase.optimize import BFGS, BFGSLineSearch

from bpjax.descriptors import DefaultACSF
from bpjax.descriptors.base import require_descriptor
from bpjax.errors import ConfigError, ModelFileError, StructureError
from bpjax.interop.ase import BpjaxCalculator
from bpjax.interop.n2p2 import read_potential
from bpjax.io.structures import read_structures
from bpjax.networks.elemental import MLP
from bpjax.potential import init
from bpjax.potential.describe import describe
from bpjax.potential.energy import require_potential
from bpjax.potential.evaluator import Evaluator
from bpjax.potential.store import save
from tests.excited.methaniminium import model as states_model
from tests.interop.n2p2.example import write_example
from tests.small_model import MODEL, crystal, liquid, molecule, slab, small_params

PARAMS = small_params()


@pytest.fixture(scope="module")
def calculator():
    return BpjaxCalculator((MODEL, PARAMS))


@pytest.fixture(scope="module")
def single():
    return BpjaxCalculator((MODEL, PARAMS), "float32")


def dimer(shift=(0.0, 0.0, 0.0)):
    return ase.Atoms("Si2", np.array([[0, 0, 0], [2.13, 0.3, 0.2]]) + shift)


# -------------------------------------------------------------------------------------------- far away


@pytest.mark.parametrize("far", [1e3, 1e5, 5e5, 1e6, 1e8])
@pytest.mark.parametrize("make", [slab, molecule])
def test_one_atom_far_away(calculator, make, far):
    """The search for neighbours went through the empty space: the process hung, or died without a word."""
    atoms, alone = make(), ase.Atoms("Si")
    together = atoms + ase.Atoms("Si", positions=[[1.0, 2.0, far]])
    E, F = (calculator.evaluator.evaluate(x) for x in (atoms, alone))
    found = calculator.evaluator.evaluate(together)
    assert found.energy == pytest.approx(E.energy + F.energy, abs=1e-9)
    # Positions as far as that hold fewer digits, whoever computes.
    np.testing.assert_allclose(found.forces[:-1], E.forces, atol=1e-9)
    np.testing.assert_allclose(found.forces[-1], 0, atol=1e-12)


def test_a_wire_that_comes_apart(calculator):
    wire = ase.Atoms(
        "Si4", [[0, 0, 0], [0, 2.2, 0.4], [3e6, 0, 1], [0, -4e7, 2]], cell=[0, 0, 4.6], pbc=(False, False, True)
    )
    parts = [wire[[0, 1]], wire[[2]], wire[[3]]]
    expected = sum(calculator.evaluator.evaluate(part).energy for part in parts)
    assert calculator.evaluator.evaluate(wire).energy == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("L", [1e3, 1e4, 1e5, 1e6])
def test_fragments_far_apart_in_single_precision(single, L):
    shift = L * np.array([1, 0.37, 0.21])
    one, both = (single.evaluator.evaluate(x) for x in (dimer(), dimer() + dimer(shift)))
    assert np.abs(one.forces).max() > 0.1
    rounding = max(5e-7, 20 * L * np.finfo(float).eps)  # of single precision, and of double in the positions themselves
    np.testing.assert_allclose(both.forces, np.concatenate([one.forces] * 2), atol=10 * rounding)
    assert both.energy == pytest.approx(2 * one.energy, abs=1e-4)


@pytest.mark.parametrize("L", [2000.0, 3123.7, 1e5])
@pytest.mark.parametrize("pbc", [(1, 1, 0), (1, 0, 0), (1, 1, 1)], ids=["slab", "wire", "box"])
def test_wide_cells_in_single_precision(single, L, pbc):
    """A dimer across the border of a cell that is far wider than it is thick, or than single precision holds."""
    atoms = dimer((-1.0, 0.4, 0.0))
    atoms.set_cell(L * np.eye(3))
    atoms.pbc = pbc
    one, found = (single.evaluator.evaluate(x) for x in (dimer(), atoms))
    np.testing.assert_allclose(found.forces, one.forces, atol=3e-6)


def test_a_long_chain_in_single_precision(single, calculator):
    chain = ase.Atoms(
        "Si400", np.outer(np.arange(400), [2.31, 0.1, 0.0]) + np.random.default_rng(0).normal(0, 0.05, (400, 3))
    )
    expected = calculator.evaluator.evaluate(chain).forces
    np.testing.assert_allclose(
        single.evaluator.evaluate(chain).forces, expected, atol=1e-12
    )  # in double precision itself
    warned = single.evaluator.extrapolations(chain)
    exact = calculator.evaluator.extrapolations(chain)
    assert [(one.atom, one.function, one.value) for one in warned] == [(o.atom, o.function, o.value) for o in exact]
    with pytest.raises(StructureError, match="reaches farther than 300 A from its centre, .* take float64"):
        describe(MODEL.descriptor, [chain])
    assert len(describe(MODEL.descriptor, [chain], "float64")[0]) == 400
    many = single.evaluator.evaluate_many([molecule(), chain, dimer()])
    np.testing.assert_allclose(many[1].forces, expected, atol=1e-12)
    np.testing.assert_allclose(many[2].forces, single.evaluator.evaluate(dimer()).forces, atol=1e-6)


def test_beyond_all_precision(calculator):
    with pytest.raises(StructureError, match=r"atom 1 is at 1e\+18 A, beyond 1e\+10 A"):
        calculator.evaluator.evaluate(ase.Atoms("Si2", [[0, 0, 0], [1e18, 0, 0]]))


def test_a_cell_that_is_skewed_beyond_use(calculator):
    """Of the volume that it has; the issue's cell, and those that are ten times as skewed."""
    square = bulk("Si", a=5.0, cubic=True)
    atoms = square.copy()
    atoms.set_cell([[5, 0, 0], [5e3, 5, 0], [-3e4, 7e3, 5]])
    atoms.calc = square.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(square.get_potential_energy(), abs=1e-8)
    np.testing.assert_allclose(atoms.get_stress(), square.get_stress(), atol=1e-8)


def test_a_very_skewed_cell(calculator, single):
    """A cubic lattice of 5 A whose cell is written with vectors of thousands: 125 A^3."""
    plain = ase.Atoms("SiO", [[0, 0, 0], [1.6, 0.4, 0.3]], cell=5 * np.eye(3), pbc=True)
    skewed = plain.copy()
    skewed.set_cell([[5, 0, 0], [500, 5, 0], [-3000, 700, 5]])
    for calc, tolerance in ((calculator, 1e-10), (single, 3e-6)):
        one, two = (calc.evaluator.evaluate(atoms) for atoms in (plain, skewed))
        np.testing.assert_allclose(two.forces, one.forces, atol=tolerance)
        np.testing.assert_allclose(two.stress, one.stress, atol=tolerance)
        assert two.energy == pytest.approx(one.energy, abs=max(tolerance, 1e-9))


# ------------------------------------------------------------------------------- who asks, and how often


def test_threads_get_the_results_of_their_own_structures(calculator, monkeypatch, tmp_path):
    """Also where one looks while another computes, and where only what is known is asked for, as writers of files do."""
    frames, evaluate = [], calculator.evaluator.evaluate

    def slowly(atoms):
        result = evaluate(atoms)
        time.sleep(1e-3)  # another thread has its turn
        return result

    for n in range(60):
        atoms = (crystal if n % 2 else molecule)()
        atoms.positions[0, 0] += 1e-4 * n
        frames.append(atoms)

    def energy(atoms):
        return calculator.get_potential_energy(atoms), calculator.get_forces(atoms)

    def written(atoms):
        atoms.calc = calculator
        atoms.get_forces()
        ase.io.write(tmp_path / f"{id(atoms)}.traj", atoms)
        return ase.io.read(tmp_path / f"{id(atoms)}.traj").get_potential_energy()

    expected = [evaluate(atoms) for atoms in frames]
    monkeypatch.setattr(calculator.evaluator, "evaluate", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(energy, frames))
        assert list(pool.map(written, frames)) == [one.energy for one in expected]
    for (E, F), one in zip(found, expected, strict=True):
        assert E == one.energy
        np.testing.assert_array_equal(F, one.forces)


def test_what_is_not_known_is_not_given(calculator):
    """Nor what is known of another structure."""
    calc = BpjaxCalculator(
        (replace(MODEL, members=2), jax.tree.map(lambda *a: np.stack(a), PARAMS, small_params(seed=1)))
    )
    first, second = crystal(), molecule()
    for name in ("energy", "energy_spread"):
        assert calc.get_property(name, first, allow_calculation=False) is None
    calc.calculate(first)
    spread = calc.results["energy_spread"]
    assert calc.get_property("energy_spread", second, allow_calculation=False) is None
    calc.calculate(second)
    assert (
        calc.get_property("energy_spread", first, allow_calculation=False)
        == spread
        != calc.get_property("energy_spread", second)
    )
    assert calc.results.copy()["energy_spread"] == calc.results["energy_spread"]


def test_results_that_are_kept_are_bounded(monkeypatch):
    monkeypatch.setattr("bpjax.interop.ase.KNOWN_ATOMS", 20)
    calc = BpjaxCalculator((MODEL, PARAMS))
    frames = [crystal() for _ in range(4)]
    for n, atoms in enumerate(frames):
        atoms.positions[0, 0] += 0.01 * n
        calc.calculate(atoms)
    known = [calc.get_property("energy", atoms, allow_calculation=False) is not None for atoms in frames]
    assert known == [False, False, True, True]  # 16 atoms of 20


def test_lost_positions_in_single_precision_say_what_helps(calculator, single):
    lost = molecule()
    lost.positions[0] = np.nan
    with pytest.raises(StructureError, match=r"positions: row 0 holds nan; optimisers .* take dtype='float64'"):
        single.get_potential_energy(lost)
    with pytest.raises(StructureError, match="positions: row 0 holds nan$"):
        calculator.get_potential_energy(lost)


def test_copies_leave_the_lists_behind(calculator):
    for n in range(5):
        atoms = crystal().repeat(2)
        atoms.positions[0, 0] += n
        calculator.evaluator.evaluate(atoms)
    twin = pickle.loads(pickle.dumps(calculator.evaluator))
    assert len(pickle.dumps(calculator)) < 1e5
    assert twin.evaluate(molecule()).energy == calculator.evaluator.evaluate(molecule()).energy


@pytest.mark.slow
@pytest.mark.parametrize(
    "parent",
    ["calc = BpjaxCalculator((MODEL, small_params()))", "calc, params = None, small_params()"],
    ids=["used", "made arrays"],
)
def test_a_forked_process_says_so_and_does_not_hang(parent):
    code = (
        "import os; from tests.small_model import *; from bpjax.interop.ase import BpjaxCalculator\n"
        f"{parent}\n"
        "pid = os.fork()\n"
        "if pid:\n"
        "    os.waitpid(pid, 0)\n"
        "else:\n"
        "    try:\n"
        "        (calc or BpjaxCalculator((MODEL, params))).get_potential_energy(molecule())\n"
        "    except Exception as error:\n"
        "        print(error, flush=True)\n"
        "    os._exit(0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert 'multiprocessing.get_context("spawn")' in done.stdout, done.stderr


def test_atoms_decide_and_not_the_list_of_changes(calculator):
    one, other = crystal(), liquid()
    calculator.calculate(one, ["energy"], [])
    first = calculator.results["energy"]
    calculator.calculate(other, ["energy"], [])
    assert calculator.results["energy"] != first
    assert calculator.results["energy"] == calculator.evaluator.evaluate(other).energy
    moved = other.copy()
    moved.positions[0, 0] += 1e-3
    calculator.calculate(moved, ["energy"], [])
    assert calculator.results["energy"] == calculator.evaluator.evaluate(moved).energy


def test_lists_of_several_structures_are_kept():
    """A band of images with one calculator, as in nudged elastic band: one search for each image, not for each call."""
    calc = BpjaxCalculator((MODEL, PARAMS))
    start, end = liquid(), liquid()
    end.positions[0] += [1.5, 0.3, 0.2]
    images = [start, *(start.copy() for _ in range(3)), end]
    for image in images:
        image.calc = calc
    band = NEB(images, allow_shared_calculator=True)
    band.interpolate()
    BFGS(band, logfile=None, maxstep=0.01).run(fmax=1e-6, steps=6)
    assert calc.evaluator.searches <= 2 * len(images)


def test_memory_of_lists_is_bounded(monkeypatch):
    evaluator = Evaluator(MODEL, PARAMS)
    for n in range(70):
        atoms = crystal()
        atoms.set_cell(atoms.cell.array * (1 + 0.001 * n), scale_atoms=True)
        evaluator.evaluate(atoms)
    assert len(evaluator._kept) == 64 and evaluator.searches == 70
    monkeypatch.setattr("bpjax.potential.evaluator.KEPT_BYTES", 1)
    evaluator.evaluate(liquid())
    assert len(evaluator._kept) == 1


# ---------------------------------------------------------------------------------- cells, optimisers


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ([[8, 0, 0], [0, 8, 0], [8, 0, 0]], "and this one has none"),
        ([8, 8, 0], "this one has 2 vectors, not three"),
    ],
)
def test_no_stress_without_a_volume(calculator, cell, words):
    atoms = ase.Atoms("Si2", [[0, 0, 0], [2.2, 0, 0]], cell=cell, pbc=(1, 1, 0))
    calculator.get_forces(atoms)
    with pytest.raises(PropertyNotImplementedError, match=words):
        calculator.get_stress(atoms)


def test_the_cell_of_a_slab_is_relaxed(calculator):
    atoms = slab()
    atoms.calc = calculator
    before, height = atoms.get_potential_energy(), atoms.cell.array[2].copy()
    BFGS(FrechetCellFilter(atoms, mask=[1, 1, 0, 0, 0, 1]), logfile=None, maxstep=0.03).run(fmax=1e-3, steps=4)
    assert atoms.get_potential_energy() < before
    np.testing.assert_array_equal(atoms.cell.array[2], height)


def test_energies_are_as_smooth_as_line_searches_need(calculator, single):
    """In single precision the energy has a noise of 1e-6 eV, in which they get lost; double precision is the default."""
    atoms, h = liquid(), 1e-5
    move = np.random.default_rng(0).normal(size=atoms.positions.shape)
    missed = []
    for calc in (calculator, single):
        slope = -float((calc.get_forces(atoms) * move).sum())
        moved = [atoms.copy() for _ in range(2)]
        for sign, one in zip((1, -1), moved, strict=True):
            one.positions += sign * h * move
        missed.append(
            abs((calc.get_potential_energy(moved[0]) - calc.get_potential_energy(moved[1])) / (2 * h) - slope)
        )
    assert missed[0] < 1e-6 < 1e-3 < missed[1]


def test_line_searches_end(calculator):
    assert calculator.evaluator.dtype == "float64"
    atoms = molecule()
    atoms.calc = calculator
    optimiser = BFGSLineSearch(atoms, logfile=None)
    energies = []
    optimiser.attach(lambda: energies.append(atoms.get_potential_energy()))
    optimiser.run(fmax=1e-5, steps=100)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 1e-5
    assert min(energies) >= atoms.get_potential_energy() - 1e-9


# ------------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"Dtype": "float64"}, r"unknown keyword 'Dtype'; did you mean 'dtype'\? allowed: model, dtype"),
        ({"devise": "cpu"}, "unknown keyword 'devise'; "),
        ({"restart": "file"}, "unknown keyword 'restart'; "),
    ],
)
def test_unknown_keywords(words, message):
    with pytest.raises(TypeError, match=message):
        BpjaxCalculator((MODEL, PARAMS), **words)


def test_options_are_fixed(calculator):
    with pytest.raises(TypeError, match="dtype cannot be set: make another calculator"):
        calculator.set(dtype="float32")


def test_precisions():
    for dtype, name in ((np.float32, "float32"), (np.dtype("float64"), "float64"), ("float32", "float32")):
        assert BpjaxCalculator((MODEL, PARAMS), dtype).evaluator.dtype == name
    for wrong in ("float16", np.int32, None, 7):
        with pytest.raises(ConfigError, match="is not one of float32, float64"):
            BpjaxCalculator((MODEL, PARAMS), wrong)


def test_models_and_options_that_are_none():
    for model, message in ((PARAMS, "model: dict is no Potential"), (states_model(), "several states; bpjax hop and")):
        with pytest.raises(ConfigError, match=message):  # the first that calculator, evaluator, dynamics and save do
            require_potential(model)
    with pytest.raises(ConfigError, match="descriptor: DefaultACSF is a rule that makes a descriptor"):
        require_descriptor(DefaultACSF(4.0))  # as `describe` does
    for model in (None, [MODEL, PARAMS], (MODEL, PARAMS, 1)):
        with pytest.raises(TypeError):  # here by the check of types, else "model must be a file, a folder, or a pair"
            BpjaxCalculator(model)
    with pytest.raises(ConfigError, match="nonsense"):
        BpjaxCalculator((MODEL, PARAMS), units="nonsense")
    for skin in (-1.0, np.inf, np.nan, 1e6):
        with pytest.raises(ConfigError, match="must be a length in A, from 0 to 10"):
            BpjaxCalculator((MODEL, PARAMS), skin=skin)


def test_without_a_structure():
    with pytest.raises(CalculatorSetupError, match="energy is of a structure: set atoms.calc, or give atoms="):
        BpjaxCalculator((MODEL, PARAMS)).get_potential_energy()
    with pytest.raises(CalculatorSetupError, match="no structure to calculate"):
        BpjaxCalculator((MODEL, PARAMS)).calculate()


def test_folders_of_n2p2(tmp_path):
    write_example(tmp_path / "nnp")
    with pytest.raises(ConfigError, match="units"):
        BpjaxCalculator(tmp_path / "nnp")
    calc = BpjaxCalculator(tmp_path / "nnp", units="hartree-bohr")
    model, params = read_potential(tmp_path / "nnp", "hartree-bohr")
    assert calc.evaluator.model == model
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), calc.evaluator.params, params))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match="is a folder without input.nn"):
        BpjaxCalculator(tmp_path / "empty")


# ------------------------------------------------------------------------------- what the model knows


def test_databases_record_the_model(tmp_path):
    save(tmp_path / "m.bpjax", MODEL, PARAMS)
    calc, memory = BpjaxCalculator(tmp_path / "m.bpjax"), BpjaxCalculator((MODEL, PARAMS), "float32")
    assert calc.todict() == {**memory.todict(), "model": str(tmp_path / "m.bpjax"), "dtype": "float64"}
    other = BpjaxCalculator((MODEL, small_params(seed=1)))
    assert other.todict()["sha256"] != memory.todict()["sha256"]
    atoms = crystal()
    atoms.calc = calc
    atoms.get_forces()
    with ase.db.connect(tmp_path / "a.json") as database:
        database.write(atoms)
    row = next(iter(ase.db.connect(tmp_path / "a.json").select()))
    assert row.calculator == "bpjax" and row.calculator_parameters == calc.todict()
    ase.io.write(tmp_path / "a.traj", atoms)
    back = ase.io.read(tmp_path / "a.traj")
    assert back.calc.name == "bpjax" and back.get_potential_energy() == atoms.get_potential_energy()
    twin = copy.deepcopy(atoms)  # the lock is not copied
    twin.positions[0, 0] += 0.01
    assert twin.get_potential_energy() != atoms.get_potential_energy()


def test_warnings_outside_of_training_once_for_each_composition():
    params = small_params()
    for element, own in params["scaling"].items():
        params["scaling"][element] = {**own, "min": np.zeros_like(own["min"]), "max": np.full_like(own["max"], 1e-3)}
    calc = BpjaxCalculator((MODEL, params))
    atoms = crystal()
    atoms.calc = calc
    with pytest.warns(UserWarning, match=r"O2Si6: \d+ features of 8 atoms are outside of their range in training"):
        atoms.get_potential_energy()
    np.testing.assert_array_equal(calc.results["outside"], calc.evaluator.evaluate(atoms).outside)
    np.testing.assert_array_equal(calc.get_property("outside", atoms), calc.results["outside"])
    assert "outside" in calc.results and calc.results.get("outside") is not None and calc.results.get("none") is None
    # What goes through all results in ASE sees those that it knows.
    assert set(atoms.get_properties(["energy", "forces"])) >= {"energy", "forces"}
    assert SinglePointCalculator(atoms, **calc.results).get_potential_energy() == calc.results["energy"]
    with pytest.raises(PropertyNotImplementedError, match="the model does not know it"):
        calc.get_property("energy_spread", atoms)
    assert calc.results["outside"].shape == (8,) and calc.results["outside"].min() > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.rattle(0.01)
        atoms.get_potential_energy()
    with pytest.warns(UserWarning, match="O4Si: "):
        calc.get_potential_energy(molecule())


def test_spread_of_a_committee():
    several = [small_params(seed=n) for n in range(3)]
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *several)
    calc = BpjaxCalculator((replace(MODEL, members=3), params))
    atoms = crystal()
    calc.calculate(atoms)
    single = [BpjaxCalculator((MODEL, one)).evaluator.evaluate(atoms) for one in several]
    assert calc.results["energy_spread"] == pytest.approx(np.std([one.energy for one in single]), abs=1e-9)
    np.testing.assert_allclose(
        calc.results["forces_spread"], np.std([one.forces for one in single], axis=0), atol=1e-10
    )
    assert "outside" not in calc.results and "energy_noise" not in calc.results


def test_noise_of_a_model_that_expects_some():
    """Widths that networks give for the labels: of the energy by their squares, of forces atom by atom."""
    from bpjax.networks.noise import NoiseModel

    noisy = replace(MODEL, noise=NoiseModel(energy=0.01, forces=0.1, network=MLP((4,))))
    calc = BpjaxCalculator((noisy, init(noisy, jax.random.key(3))))
    atoms = crystal()
    atoms.calc = calc
    atoms.get_potential_energy()
    found = calc.evaluator.evaluate(atoms)
    assert found.energy_noise is not None and calc.results["energy_noise"] == found.energy_noise > 0
    np.testing.assert_array_equal(calc.get_property("forces_noise", atoms), found.forces_noise)
    assert calc.results["forces_noise"].shape == (8,) and (calc.results["forces_noise"] > 0).all()


@pytest.mark.slow
def test_a_lone_hydrogen_in_the_model_of_water(shared):
    """Which no water of the training looks like: an energy without a word was given for it."""
    folder = shared / "data" / "n2p2" / "H2O_RPBE-D3"
    calc = BpjaxCalculator(folder, units="hartree-bohr")
    atoms = ase.Atoms("H")
    atoms.calc = calc
    with pytest.warns(UserWarning, match=r"H: \d+ features of 1 atoms are outside of their range in training"):
        atoms.get_potential_energy()
    assert calc.results["outside"][0] > 0
    water = read_structures(folder.parent / "train_H2O_RPBE-D3" / "input.data", "0", "hartree-bohr")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calc.get_potential_energy(water)
    assert not calc.results["outside"].any()


def test_threads_share_an_evaluator():
    """Nothing of one call is seen by another, whatever lists are kept meanwhile."""
    evaluator = Evaluator(MODEL, PARAMS, "float64")
    frames = [make() for make in (crystal, molecule, liquid, slab) for _ in range(30)]
    for n, atoms in enumerate(frames):
        atoms.positions[0, 0] += 1e-3 * n
    expected = [Evaluator(MODEL, PARAMS, "float64").evaluate(atoms).energy for atoms in frames]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda atoms: evaluator.evaluate(atoms).energy, frames))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_bulk_keeps_its_stress(calculator):
    atoms = bulk("Si", cubic=True)
    full = calculator.evaluator.evaluate(atoms)
    np.testing.assert_allclose(full.stress, -full.virial / atoms.get_volume(), rtol=1e-14)
