import pickle

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import ExpCellFilter, FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from bpjax.errors import StructureError
from bpjax.interop.ase import BpjaxCalculator
from bpjax.potential.store import save
from tests.small_model import MODEL, STRUCTURES, crystal, liquid, molecule, small_params

STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


@pytest.fixture(scope="module")
def calculator():
    return BpjaxCalculator((MODEL, small_params()))


def derivative(energy, h):
    """Central difference of fourth order."""
    return sum(weight * energy(step * h) for step, weight in STENCIL) / h


@pytest.mark.parametrize("name", STRUCTURES)
def test_forces_are_the_derivative_of_the_energy(calculator, name):
    atoms = STRUCTURES[name]()
    atoms.calc = calculator
    forces = atoms.get_forces()
    if name == "one_atom":
        np.testing.assert_allclose(forces, 0, atol=1e-10)
        return
    scale = np.abs(forces).max()
    assert scale > 0.01
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-10)
    start = atoms.get_positions()
    for i, a in [(0, 0), (1, 2), (len(atoms) - 1, 1)]:

        def energy(x, i=i, a=a):
            atoms.positions = start
            atoms.positions[i, a] += x
            return atoms.get_potential_energy()

        assert -derivative(energy, 1e-3) == pytest.approx(forces[i, a], abs=1e-6 * scale)


@pytest.mark.parametrize("name", ["crystal", "liquid", "slab", "one_atom"])
def test_stress_is_the_derivative_of_the_energy(calculator, name):
    atoms = STRUCTURES[name]()
    atoms.calc = calculator
    stress = atoms.get_stress()
    full = atoms.get_stress(voigt=False)
    # ASE's order: xx, yy, zz, yz, xz, xy.
    np.testing.assert_array_equal(stress, [full[a, b] for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))])
    scale, volume, cell = np.abs(stress).max(), atoms.get_volume(), atoms.cell.array.copy()
    assert len(np.unique(np.abs(stress).round(12))) == 6  # of a slab too: per volume of its cell, vacuum included
    fractional = atoms.get_scaled_positions(wrap=False)
    for a in range(3):
        for b in range(3):

            def energy(x, a=a, b=b):
                strain = np.eye(3)
                strain[a, b] += x
                atoms.set_cell(cell @ strain)
                atoms.set_scaled_positions(fractional)
                return atoms.get_potential_energy()

            assert derivative(energy, 1e-3) / volume == pytest.approx(full[a, b], abs=1e-6 * scale)


def test_properties(calculator):
    atoms = crystal()
    atoms.calc = calculator
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    structure = molecule()
    structure.calc = calculator
    structure.get_forces()
    with pytest.raises(
        PropertyNotImplementedError, match="per volume of the cell, and this one has 0 vectors, not three"
    ):
        structure.get_stress()


def test_calculates_only_after_changes(calculator, monkeypatch):
    calls = []
    evaluate = calculator.evaluator.evaluate
    monkeypatch.setattr(calculator.evaluator, "evaluate", lambda atoms: calls.append(1) or evaluate(atoms))
    atoms = crystal()
    atoms.calc = calculator
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energies()
    assert len(calls) == 1
    atoms.set_initial_charges(np.ones(len(atoms)))  # not of this model
    atoms.get_forces()
    assert len(calls) == 1
    for change in (atoms.rattle, lambda: atoms.set_cell(atoms.cell * 1.01), lambda: atoms.set_pbc((True, True, False))):
        before = atoms.get_potential_energy()
        count = len(calls)
        change()
        assert atoms.get_potential_energy() != before and len(calls) == count + 1


@pytest.mark.parametrize("cell_filter", [ExpCellFilter, FrechetCellFilter, None])
def test_optimisers(calculator, cell_filter):
    atoms = liquid()
    atoms.calc = calculator
    before = atoms.get_potential_energy()
    BFGS(atoms if cell_filter is None else cell_filter(atoms), logfile=None, maxstep=0.05).run(fmax=1e-3, steps=5)
    assert atoms.get_potential_energy() < before - 1e-3


def test_molecular_dynamics_in_float32_conserves_energy_without_recompiling():
    atoms = liquid()
    atoms.calc = BpjaxCalculator((MODEL, small_params()), np.float32)
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.normal(scale=0.5, size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, 0.25 * units.fs)
    energies = []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(60)
    assert np.ptp(energies) < 1e-3 * len(atoms)
    assert atoms.calc.evaluator.compilations <= 1 and atoms.calc.evaluator.searches < 40


def test_model_file(calculator, tmp_path):
    save(tmp_path / "m.bpjax", MODEL, small_params())
    atoms = crystal()
    results = []
    for calc in (calculator, BpjaxCalculator(tmp_path / "m.bpjax"), pickle.loads(pickle.dumps(calculator))):
        atoms.calc = calc
        results.append((atoms.get_potential_energy(), atoms.get_forces().tobytes(), atoms.get_stress().tobytes()))
    assert results[0] == results[1] == results[2]


def test_errors_name_what_is_wrong(calculator):
    atoms = crystal()
    atoms.positions[1] = atoms.positions[0]
    atoms.calc = calculator
    with pytest.raises(StructureError, match="at one place"):
        atoms.get_potential_energy()
