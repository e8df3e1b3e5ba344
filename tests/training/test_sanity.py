"""The sanity report: each rule on structures made to break it, and no false alarm on public sets."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.elements import sorted_elements
from bpjax.io.labels import labels
from bpjax.io.structures import read_structures
from bpjax.training import DataOptions, prepare
from bpjax.training.measures import measure, same_structure, shear_share, total_energy
from bpjax.training.outliers import composition_energies, outliers
from bpjax.training.sanity import sanity
from bpjax.training.splits import Split
from bpjax.training.work import work
from tests.training.labelled import labelled, random_set, strained

HARTREE, BOHR = ase.units.create_units("2018")["Hartree"], ase.units.create_units("2018")["Bohr"]


def label(atoms, energy, forces, **more) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, **more)
    return atoms


def copper(count=24, seed=0, scale=0.08, lengths=1.0, energies=1.0, forces=1.0) -> list[Atoms]:
    """Rattled copper with the energies and forces of effective-medium theory, each scaled as if it had another unit."""
    frames = []
    for n in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(scale, seed=1000 * seed + n)
        atoms.calc = EMT()
        E, F = atoms.get_potential_energy(), atoms.get_forces()
        atoms = Atoms(atoms)
        atoms.set_cell(atoms.cell * lengths, scale_atoms=True)
        frames.append(label(atoms, (E - 14.0) * energies, F * forces))
    return frames


def split(frames, path="a.xyz") -> Split:
    return Split(tuple(frames), tuple((path, n) for n in range(len(frames))))


def report(frames, elements=("Cu",), **more):
    return sanity({"train": split(frames)}, elements, **more)


def kinds(found) -> list[str]:
    return [finding.kind for finding in found.warnings]


def test_numbers_of_a_sound_set():
    frames = copper()
    found = report(frames)
    assert found.findings == ()
    numbers = found.splits["train"]
    F = np.concatenate([a.calc.results["forces"] for a in frames])
    assert (numbers["structures"], numbers["atoms"], numbers["elements"]) == (24, 96, {"Cu": 96})
    assert numbers["labels"] == {"energy": 24, "forces": 24, "stress": 0}
    assert numbers["force_rms"] == pytest.approx(np.sqrt((F**2).mean()), rel=1e-12)
    assert numbers["force_max"] == pytest.approx(np.linalg.norm(F, axis=1).max(), rel=1e-12)
    energies = np.array([a.calc.results["energy"] / 4 for a in frames])
    assert numbers["energy_per_atom"] == pytest.approx([energies.min(), energies.max()], rel=1e-12)
    relative = energies - energies.mean()
    assert numbers["energy_less_composition"] == pytest.approx([relative.min(), relative.max()], abs=1e-12)
    nearest = min(a.get_all_distances(mic=True)[np.triu_indices(4, 1)].min() for a in frames)
    assert numbers["closest"] == {"Cu-Cu": pytest.approx(nearest, rel=1e-12)}
    assert json.loads(json.dumps(found.to_dict()))["splits"]["train"] == numbers
    assert found.lines()[0] == "train: 24 structures of 4 atoms (96 Cu)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(lengths=1 / BOHR), "are lengths in bohr?"),
        (dict(lengths=BOHR), "were lengths in A converted from bohr?"),
        (dict(forces=BOHR / HARTREE), "times the work of the forces (as with forces in hartree/bohr)"),
        (dict(forces=-1), "the other sign than the work of the forces in 64 of 64 pairs: are the forces gradients?"),
        (dict(energies=1 / HARTREE), "(as with energies in hartree)"),
        (dict(energies=96.485), "(as with energies in kJ/mol)"),
        (dict(forces=0), "all forces are zero"),
        (dict(forces=1e3), "eV/A (root mean square) are unusual"),
        (dict(forces=1e-5), "eV/A (root mean square) are unusual"),
    ],
)
def test_units_that_are_not_those_of_the_package(change, message):
    found = report(copper(scale=0.05, **change))
    assert message in " | ".join(f.message for f in found.warnings if f.kind == "units")


@pytest.mark.parametrize(("unit", "value"), [("hartree", 1.0), ("kcal/mol", 627.509), ("kJ/mol", 2625.5)])
def test_total_energies_in_units_that_are_not_ev(unit, value):
    """All-electron energies of the atoms, hartree (Hartree-Fock limit): the formula is within 1 % beyond helium."""
    known = {"C": -37.6886, "O": -74.8094, "Si": -288.8544, "Cu": -1638.9637, "Kr": -2752.0550}
    np.testing.assert_allclose(total_energy(tuple(known)), list(known.values()), rtol=0.01)
    energy = -114.0  # formaldehyde, C H2 O; -113.9 with Hartree-Fock
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms = molecule("H2CO")
        atoms.positions += rng.normal(scale=0.02, size=(4, 3))
        frames.append(label(atoms, (energy + rng.normal(scale=0.01)) * value, np.zeros((4, 3))))
    for atoms in frames:
        atoms.calc.results["forces"] = np.array([[1, 0, 0], [-1, 0, 0], [0, 0, 0], [0, 0, 0.0]])
    messages = [f.message for f in report(frames, ("H", "C", "O")).warnings]
    assert f"energies are near those of all electrons in {unit}, not in eV" in messages
    for atoms in frames:
        atoms.calc.results["energy"] *= HARTREE / value
    assert not any("electrons" in f.message for f in report(frames, ("H", "C", "O")).warnings)


def test_stress_in_gpa():
    frames = copper()
    for atoms in frames:
        atoms.calc.results["stress"] = np.array([20.0, 3, -4, 0, 0, 0])
    assert any("are they in GPa" in f.message for f in report(frames).warnings)
    frames[3].calc.results.pop("stress")
    notes = [f for f in report(frames).findings if f.kind == "labels"]
    assert notes[0].message == "train: 1 of 24 structures without stress" and notes[0].where[0].frame == 3


def test_stress_in_gpa_where_no_cell_differs():
    """The work of a stress needs a strain; shear stresses are about as large as forces make them, whatever the cell."""
    frames = [labelled(atoms, "bulk") for atoms in copper()]
    shares = [shear_share(atoms, labels(atoms)) for atoms in frames]
    assert 0.1 < np.median(shares) < 1
    assert report(frames).warnings == ()
    for unit, factor in (("GPa", 160.21766), ("kbar", 1602.1766)):
        for atoms, share in zip(frames, shares, strict=True):
            atoms.calc.results["stress"] = factor * labelled(atoms, "bulk").calc.results["stress"]
            assert shear_share(atoms, labels(atoms)) == pytest.approx(factor * share, rel=1e-6)
        (found,) = [f.message for f in report(frames).warnings]
        assert "in GPa or kbar?" in found, unit


def test_single_atoms_that_may_be_meant_as_isolated():
    """Copper 9 A from its images is no crystal (3 times the covalent diameter are 7.9 A), and is not 10 A away."""
    boxes = [label(Atoms("Cu", cell=[a] * 3, pbc=True), -3.0, np.zeros((1, 3))) for a in (9.0, 5.0, 2.6)]
    (found,) = [f for f in report(copper() + boxes).findings if "config_type" in f.message]
    assert found.warning and "train: 1 single atoms are trained on as crystals" in found.message
    assert [(place.frame, place.detail) for place in found.where] == [(24, "9 A from its images")]


def changed(frames, factor=lambda n: 1.0, order=lambda forces: forces) -> list[Atoms]:
    """The structures with other forces."""
    found = []
    for n, atoms in enumerate(frames):
        results = {**atoms.calc.results, "forces": factor(n) * order(atoms.calc.results["forces"])}
        found.append(Atoms(atoms, info=dict(atoms.info)))
        found[-1].calc = SinglePointCalculator(found[-1], **results)
    return found


def gradients(frames, **more) -> list:
    """Findings that forces are gradients, all or some, and that energies and works do not go together."""
    words = ("gradients", "both signs", "not the work")
    return [f for f in report(frames, **more).warnings if any(word in f.message for word in words)]


def test_forces_of_the_other_sign_without_any_energy():
    """Short bonds push: seen in single structures, whatever the cells, and where no structure is near another."""
    frames = [label(Atoms(a), None, -a.calc.results["forces"]) for a in strained(10, stress=0)]
    (found,) = gradients(frames)
    assert found.certain and "forces pull short bonds together and long ones apart" in found.message
    assert gradients(changed(frames, lambda n: -1.0)) == []


@pytest.mark.parametrize(
    ("count", "rattle", "strain"),
    [(17, 0.15, 0.04), *(pytest.param(*far, marks=pytest.mark.slow) for far in ((24, 0.2, 0.04), (30, 0.25, 0.05)))],
)
def test_sound_sets_that_are_far_apart_are_not_refused(count, rattle, strain):
    """Of pairs of structures far from each other half have either sign by chance."""
    for seed in range(8):
        rng, frames = np.random.default_rng(seed), []
        for _ in range(count):
            atoms = bulk("Cu", cubic=True, a=3.75)
            atoms.symbols[: rng.integers(4)] = "Al"
            atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=strain, size=(3, 3))), scale_atoms=True)
            atoms.rattle(rattle, seed=int(rng.integers(1 << 30)))
            frames.append(labelled(atoms, "bulk"))
        assert [f.message for f in report(frames, ("Al", "Cu")).findings if f.certain] == []


def refusals(seed: int) -> list[str]:
    frames = random_set(seed)
    elements = sorted_elements([s for atoms in frames for s in set(atoms.get_chemical_symbols())])
    return [finding.message for finding in report(frames, elements).findings if finding.certain]


def test_a_crystal_that_is_stretched_far_is_not_refused():
    """Cells of platinum and nickel beyond the turning point of their bonds, where long ones pull less."""
    assert refusals(2087) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("first", range(0, 200, 20))
def test_sound_sets_are_not_refused(first):
    """Thresholds were chosen with other seeds."""
    assert {seed: found for seed in range(first, first + 20) if (found := refusals(seed))} == {}


@pytest.mark.parametrize(
    ("energies", "forces", "words", "certain"),
    [
        (lambda a: 1.0, 1.0, "", False),
        (lambda a: 1.0, BOHR / HARTREE, "times the work of the forces (as with forces in hartree/bohr)", True),
        (lambda a: 1 / HARTREE, 1.0, "times the work of the forces", False),
        (lambda a: HARTREE, 1.0, "times the work of the forces (as with forces in hartree/A", True),
        (lambda a: 1 / len(a), 1.0, "1/8 of the work of the forces: are the energies per atom?", False),
    ],
)
def test_units_where_no_stress_says_what_a_cell_is_worth(shared, energies, forces, words, certain):
    """Forty strained cells of a public report, far from each other."""
    frames = []
    for atoms in read_structures(shared / "cases" / "stress_sign" / "right.extxyz"):
        known = labels(atoms)
        frames.append(label(Atoms(atoms), known.energy * energies(atoms), known.forces * forces))
    found = [f for f in report(frames).findings if f.kind == "units" and "bonds" not in f.message]
    assert [f.certain for f in found] == ([certain] if words else []) and all(words in f.message for f in found)


def test_forces_of_an_alloy_in_which_no_two_structures_are_alike():
    """Nothing to compare: the stiffness of the bonds, and the size of the shear stresses, tell units."""
    rng, frames = np.random.default_rng(0), []
    for n in range(40):
        atoms = bulk("Cu", cubic=True, a=3.8).repeat(tuple(rng.integers(1, 3, size=3)))
        atoms.symbols = rng.choice(["Cu", "Ag", "Au"], len(atoms))
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.08, seed=n)
        frames.append(labelled(atoms, "bulk"))

    def found(forces, stress):
        changed = [
            label(
                Atoms(a),
                a.calc.results["energy"],
                a.calc.results["forces"] * forces,
                stress=a.calc.results["stress"] * stress,
            )
            for a in frames
        ]
        return [f.message for f in report(changed, ("Cu", "Ag", "Au")).warnings if f.kind == "units"]

    assert found(1.0, 1.0) == []
    (bonds,) = found(BOHR / HARTREE, 1.0)
    assert "bonds have a stiffness of 0.0" in bonds and "hartree/bohr" in bonds
    (shear,) = [text for text in found(1.0, BOHR**3 / HARTREE) if "shear" in text]
    assert "are they in hartree/bohr^3?" in shear


def test_whether_the_sign_of_stresses_is_known_is_said():
    frames = [labelled(atoms, "bulk") for atoms in copper()]
    notes = [f for f in report(frames).findings if "nothing says whether the stresses have the right sign" in f.message]
    assert [note.warning for note in notes] == [False]
    assert not any("right sign" in f.message for f in report(strained()).findings)


def test_energies_that_confirm_a_sign_go_before_bonds():
    """Chains that fall apart: beyond the turning point of a bond long ones pull less, and energies say that this is so."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(80):
        r = rng.uniform(2.8, 3.3, size=3)
        x, pull = np.concatenate([[0.0], np.cumsum(r)]), 6000 / r**7
        forces = np.zeros((4, 3))
        forces[:-1, 0] += pull
        forces[1:, 0] -= pull
        frames.append(label(Atoms("Cu4", [[v, 0, 0] for v in x]), float(-1000 * (r**-6).sum()), forces))
    (found,) = gradients(frames)
    assert "pull short bonds together" in found.message and not found.certain
    (found,) = gradients([label(Atoms(a), None, a.calc.results["forces"]) for a in frames])
    assert found.certain


@pytest.mark.parametrize("wrong", [range(20), range(30, 40)])
def test_forces_of_both_signs_in_one_set(wrong):
    frames = strained()
    for n, atoms in enumerate(frames):
        atoms.info["config_type"] = "one" if n in wrong else "other"
    mixed = changed(frames, lambda n: -1.0 if n in wrong else 1.0)
    *by_work, by_bonds = gradients(mixed)
    assert by_bonds.certain and "forces of kind one pull short bonds together" in by_bonds.message
    assert len(by_work) == (len(wrong) == 20)  # of ten structures too few are near each other
    for finding in by_work:
        assert "forces of both signs" in finding.message
        named = [place.frame for place in finding.where if place.detail == "one"]
        assert set(named) <= set(wrong) and len(named) > 0.8 * len(finding.where)


def test_forces_of_atoms_in_another_order():
    """They sum to zero as before, and have nothing to do with the energies."""
    rng = np.random.default_rng(0)
    (found,) = gradients(changed(strained(), order=lambda forces: forces[rng.permutation(len(forces))]))
    assert not found.certain and "are not the work of forces and stresses" in found.message


@pytest.mark.parametrize("kind", ["copper", "alloys"])
def test_stresses_of_the_other_sign_where_no_structures_are_near(kind):
    """A compressed crystal pushes: less noise is needed to see it than for the work, and one composition each will do."""
    rng, frames = np.random.default_rng(0), []
    for n in range(40):
        atoms = bulk("Cu", cubic=True, a=3.6 if kind == "copper" else 3.8)
        if kind == "alloys":
            atoms = atoms.repeat(tuple(rng.integers(1, 3, size=3)))
            atoms.symbols = rng.choice(["Cu", "Au"], len(atoms))
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.08, seed=n)
        frames.append(labelled(atoms, "bulk"))

    def found(factor):
        changed = [Atoms(atoms) for atoms in frames]
        for n, (new, old) in enumerate(zip(changed, frames, strict=True)):
            times = factor(n) if callable(factor) else factor
            results = {**old.calc.results, "stress": times * old.calc.results["stress"]}
            new.calc = SinglePointCalculator(new, **results)
        return [f for f in report(changed, ("Cu", "Au")[: 1 + (kind == "alloys")]).warnings if "stress" in f.message]

    assert found(1.0) == []
    if kind == "copper":  # structures of one composition each leave too few of a kind
        for n, atoms in enumerate(frames):
            atoms.info["config_type"] = "one" if n % 4 < 2 else "other"
        (of_a_kind,) = [f for f in found(lambda n: -1.0 if n % 4 < 2 else 1.0) if f.certain]
        assert "stresses of kind one fall where structures are stretched" in of_a_kind.message
    assert any(f.certain and "stresses fall where structures are stretched" in f.message for f in found(-1.0))
    assert any(f.certain and "make a bulk modulus of" in f.message for f in found(160.21766))
    moduli = [f.message for f in found(160.21766) if "bulk modulus" in f.message]
    # Those of copper and gold are 134 and 174 GPa by this potential, more where large atoms are compressed.
    assert 100 < float(moduli[0].split("modulus of ")[1].split()[0]) / 160.21766 < 220


def test_some_structures_in_another_unit():
    """A quarter of them: forces by the bonds that they hold, energies by the gap, stresses that no solid bears."""
    frames = copper(40)
    weak = changed(frames, lambda n: BOHR / HARTREE if n >= 30 else 1.0)
    (found,) = [f for f in report(weak).warnings if "another unit?" in f.message]
    assert "hold bonds far weaker than the others (0.02" in found.message
    assert {place.frame for place in found.where} <= set(range(30, 40)) and len(found.where) >= 5
    for n, atoms in enumerate(frames):
        energy = atoms.calc.results["energy"] - 3.7 * len(atoms)
        atoms.calc.results["energy"] = energy / (HARTREE if n >= 30 else 1.0)
    (found,) = [f.message for f in report(frames).warnings if "of two kinds" in f.message]
    low = np.mean([a.get_potential_energy() / len(a) for a in frames[:30]])  # EMT and its offset: -7 eV/atom
    apart = float(found.split("kinds, ")[1].split()[0])
    assert apart == pytest.approx(-low * (1 - 1 / HARTREE), rel=0.05) and "(30 and 10)" in found
    frames = [labelled(atoms, "bulk") for atoms in copper()]
    for atoms in frames[20:]:
        atoms.calc.results["stress"] = 1602.1766 * labelled(atoms, "bulk").calc.results["stress"]
    assert any("4 of 24 structures have a stress above 5 eV/A^3" in f.message for f in report(frames).warnings)


def test_structures_without_a_cell_and_with_a_free_energy_alone():
    frames = copper()
    frames[3].pbc = False
    frames[3].calc = SinglePointCalculator(frames[3], **frames[4].calc.results)
    for atoms in frames[:6]:
        atoms.calc.results["free_energy"] = atoms.calc.results.pop("energy")
    (cells,) = [f for f in report(frames).findings if f.message == "train: 1 of 24 structures have no cell"]
    assert not cells.warning and cells.where[0].frame == 3
    (mixed,) = [f for f in report(frames).findings if "free_energy alone" in f.message]
    assert mixed.warning and "6 of 24 structures" in mixed.message and "they are mixed" in mixed.message
    (note,) = [f for f in report(frames[:6]).findings if "free_energy alone" in f.message]
    assert not note.warning and note.message.endswith("which is trained on")


def water(stiffness: float, count: int = 12) -> list[Atoms]:
    """Molecules of water with two springs of 0.97 A, far from each other in configuration."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(count):
        atoms = molecule("H2O")
        atoms.positions += rng.normal(scale=0.3, size=(3, 1, 3))[0] + rng.normal(scale=0.05, size=(3, 3))
        forces = np.zeros((3, 3))
        for h in (1, 2):
            bond = atoms.positions[h] - atoms.positions[0]
            pull = stiffness * (np.linalg.norm(bond) - 0.97) * bond / np.linalg.norm(bond)
            forces[[0, h]] += [pull, -pull]
        frames.append(label(atoms, None, forces))
    return frames


def test_the_stiffness_of_bonds_to_hydrogen_tells_units():
    """O-H has 7.8 mdyn/A, 48.7 eV/A^2; no energies and no near structures are needed."""
    joules = 1e-10**2 / ase.units._e * 780
    assert joules == pytest.approx(48.7, abs=0.05)

    def found(frames):
        return [f.message for f in report(frames, ("H", "O")).warnings if "stiffness" in f.message]

    assert found(water(joules)) == []
    for factor in (BOHR / HARTREE, 23.06):
        (message,) = found(water(joules * factor))
        seen = float(message.split(" eV/A^2")[0].split()[-1])
        assert seen == pytest.approx(factor * joules, rel=0.15)  # the other bond pulls at the oxygen as well


def test_work_of_forces_by_a_harmonic_molecule():
    """Turned at random: the trapezoid rule is exact for a harmonic bond but for the angle between the forces."""
    rng = np.random.default_rng(1)
    frames = []
    for r in rng.uniform(0.6, 0.9, 40):
        axis = rng.normal(size=3)
        axis /= np.linalg.norm(axis)
        force = -30 * (r - 0.74) * axis
        frames.append(label(Atoms("H2", [[0, 0, 0], r * axis]), 15 * (r - 0.74) ** 2, np.array([-force, force])))
    found = work(frames)
    assert (found.forces.factor, found.forces.share) == pytest.approx((1, 1), abs=1e-9) and found.pairs >= 30
    assert not np.isfinite(found.stress.factor) and found.forces.fits


def test_work_of_forces_and_stresses_in_cells_of_all_kinds():
    """Of the trapezoid rule something of the third order is left: 15 % of these differences."""
    found = work(strained())
    assert found.forces.factor == pytest.approx(1, abs=0.2) and found.stress.factor == pytest.approx(1, abs=0.2)
    assert found.forces.fits and found.stress.fits and found.stress.share > 0.85
    assert report(strained()).warnings == ()
    assert report(strained(stress=0)).warnings == ()


@pytest.mark.parametrize(
    ("change", "words", "certain"),
    [
        (dict(stress=-1.0), "have the stresses the other sign (a pressure, a virial)?", True),
        (dict(stress=160.21766), "the stresses (as with stresses in GPa)", True),
        (dict(stress=1602.1766), "the stresses (as with stresses in kbar)", True),
        (dict(forces=-1.0), "are the forces gradients?", True),
        (dict(forces=-1.0, stress=0), "the forces: are the forces gradients?", True),
        (dict(forces=BOHR / HARTREE, stress=0), "the forces (as with forces in hartree/bohr)", True),
        (dict(per_atom=True), "those of one atom, 1/8 of the work of the forces: are the energies per atom?", True),
    ],
)
def test_labels_that_contradict_each_other_where_cells_differ(change, words, certain):
    (found,) = [f for f in report(strained(**change)).warnings if f.message.startswith("energy differences")]
    assert words in found.message and found.kind == "units"
    assert found.certain == certain


def test_energies_per_atom_of_cells_of_several_sizes():
    frames = [a for n in (1, 2, 3) for a in strained(15, n, (n, 1, 1), stress=0, per_atom=True)]
    assert any("are the energies per atom?" in f.message for f in report(frames).warnings)
    # Without forces by their growth with the number of atoms, where they are not small beside their spread.
    for shift, per_atom in ((-3.7, True), (-3.7, False)):
        frames = [a for n in (1, 2, 3) for a in strained(15, n, (n, 1, 1), stress=0, per_atom=per_atom)]
        for atoms in frames:
            energy = atoms.calc.results["energy"] + shift * (1 if per_atom else len(atoms))
            atoms.calc = SinglePointCalculator(atoms, energy=energy)
        messages = [f.message for f in report(frames).warnings]
        assert any("energies do not grow with the number of atoms (4 to 12)" in m for m in messages) == per_atom
        assert any(f.certain for f in report(frames).warnings) == per_atom


def test_names_and_energies_that_are_not_used():
    frames = copper()
    for n, atoms in enumerate(frames):
        atoms.info["REF_stress"] = np.zeros(9)
        atoms.calc.results["free_energy"] = atoms.calc.results["energy"] - 0.01 * n
    found = [f for f in report(frames).findings if f.kind == "labels"]
    assert [(f.warning, f.message.split(";")[0]) for f in found] == [
        (
            True,
            "train: 'REF_stress' in 24 of 24 structures is not used, and 24 of these have no stress (data.keys.stress names it)",
        ),
        (True, "train: energy and free_energy differ by 0 to 0.0575 eV/atom"),
    ]
    assert 'data.keys.energy = "free_energy"' in found[1].message
    for atoms in frames:
        atoms.calc.results["free_energy"] = atoms.calc.results["energy"] - 0.4
    (note,) = [f for f in report(frames).findings if "free_energy" in f.message]
    assert not note.warning and "differ by 0.1 eV/atom; energy is trained on" in note.message


@pytest.mark.slow
def test_memory_grows_with_the_number_of_structures():
    """5.4 GB for 20 000 molecules it was, 54 MB for these; two elements whose energies the compositions do not determine."""
    frames = [label(molecule("H2O"), -470.0 + 0.01 * (n % 7), np.zeros((3, 3))) for n in range(2_000)]
    tracemalloc.start()
    found = report(frames, ("H", "O"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e7, peak  # 20 kB each; numbers of each pair take more
    assert any("do not determine the energies of H, O" in f.message for f in found.findings)


@pytest.mark.exhaustive
def test_a_hundred_thousand_structures():
    """From the file to the report, beside a quarter of them: the memory of both is what Python has, and so much a structure."""
    script = Path(__file__).parents[1] / "benchmarks" / "look_at_data.py"
    found = []
    for frames in (25_000, 100_000):
        command = [sys.executable, str(script), "--frames", str(frames)]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        assert found[-1]["frames"] == frames
        assert not any("near structures" in message for message in found[-1]["findings"])
    assert found[1]["memory_gb"] < 2.5 and found[1]["memory_gb"] < 4 * found[0]["memory_gb"]


def test_forces_that_do_not_sum_to_zero_and_turn():
    frames = copper()
    frames[5].calc.results["forces"] = frames[5].calc.results["forces"] + 0.5
    found = report(frames).warnings
    assert [f.kind for f in found] == ["net_force"] and [p.frame for p in found[0].where] == [5]
    assert found[0].where[0].detail == f"{0.5 * 4 * 3**0.5:.3g} eV/A"
    dimers = []
    for n in range(12):
        F = np.array([[0, 0, 1.0], [0, 0, -1.0]]) * (1 + 0.01 * n)
        if n == 7:
            F = F[:, [2, 1, 0]]
        dimers.append(label(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2 + 0.01 * n]]), -1.0 * n, F))
    (found,) = [f for f in report(dimers).warnings if f.kind.startswith("net")]
    assert found.kind == "net_torque" and [p.frame for p in found.where] == [7]


def turned(atoms, seed):
    """The same structure in another order, place and orientation."""
    rng = np.random.default_rng(seed)
    other, order = Atoms(atoms), rng.permutation(len(atoms))
    other.calc = None
    other.rotate(rng.uniform(0, 180), rng.normal(size=3), rotate_cell=True)
    other.positions += rng.normal(size=3)
    other = other[order]
    return label(other, atoms.calc.results["energy"], np.zeros((len(atoms), 3)))


def test_duplicates_within_and_across_splits():
    frames = copper()
    train = split(frames + [turned(frames[3], 0)])
    valid = split(copper(4, seed=1) + [turned(frames[8], 1), turned(frames[3], 2)], "v.xyz")
    found = {f.kind: f for f in sanity({"train": train, "validation": valid}, ("Cu",)).findings}
    assert set(found) == {"duplicates", "leakage"}
    assert [(p.path, p.frame) for p in found["duplicates"].where] == [("a.xyz", 24)]
    assert {(p.path, p.frame) for p in found["leakage"].where} == {("v.xyz", 4), ("v.xyz", 5)}
    assert "v.xyz: frame 4: validation, as train a.xyz: frame 8" in map(str, found["leakage"].where)
    again = turned(frames[3], 3)
    again.calc.results["energy"] += 0.1
    found = {f.kind: f for f in report([*frames, again]).findings}
    assert "conflict" in found and found["conflict"].where[0].detail == "0.1 eV apart"


def test_what_is_far_apart_is_not_taken_for_equal():
    """Rigid molecules beyond the reach of the pairs; a crystal strained by 1e-4."""
    pair = [molecule("H2O") + Atoms(molecule("H2O"), positions=molecule("H2O").positions + [0, 0, d]) for d in (9, 9.1)]
    assert same_structure(measure([label(a, 0.0, np.zeros((6, 3))) for a in pair], ("H", "O"))) == []
    cells = [label(bulk("Cu", a=3.6 * s), 0.0, np.zeros((1, 3))) for s in (1, 1.0001, 1)]
    (group,) = same_structure(measure(cells, ("Cu",)))
    assert group.tolist() == [0, 2]


def test_outliers_are_named_and_do_not_bend_the_composition():
    frames = copper(30)
    F = frames[11].calc.results["forces"]
    frames[11].calc.results["forces"] = F * 100
    frames[20].calc.results["energy"] += 400.0
    found = [f for f in report(frames).warnings if f.kind == "outlier"]
    assert [p.frame for p in found[0].where] == [11, 20] and found[0].message.startswith("2 of 30")
    assert "a force of" in found[0].where[0].detail and "energy +100 eV/atom" in found[0].where[1].detail
    measured = measure(frames, ("Cu",))
    mean = np.mean([a.calc.results["energy"] for n, a in enumerate(frames) if n != 20]) / 4
    np.testing.assert_allclose(composition_energies(measured), [mean], rtol=1e-12)
    limit = 1.01 * measured.largest[[n for n in range(30) if n != 11]].max()
    assert list(outliers(measured, measured, np.array([mean]), limit)) == [11, 20]
    assert len(outliers(measured, measured, np.array([mean]), limit / 2)) > 2


def test_one_absurd_force_among_few_structures_is_seen_and_a_long_tail_is_not():
    frames = copper(8)
    frames[2].calc.results["forces"] = frames[2].calc.results["forces"] * 1000
    assert [p.frame for f in report(frames).warnings if f.kind == "outlier" for p in f.where] == [2]
    tail = copper(60)
    for n, atoms in enumerate(tail):
        atoms.calc.results["forces"] = np.array([1.0, -1, 0, 0])[:, None] * [1.0, 0, 0] * np.exp(n / 10)
    assert "outlier" not in kinds(report(tail))


def test_compositions_that_do_not_determine_the_energies():
    rng = np.random.default_rng(0)

    def oxide(formula):
        atoms = Atoms(formula, positions=rng.uniform(0, 6, (len(Atoms(formula)), 3)))
        return label(atoms, rng.normal(), np.zeros((len(atoms), 3)))

    water = [oxide(f"H{2 * n}O{n}") for n in (1, 2, 3)]
    (note,) = [f for f in report(water, ("H", "O")).findings if f.kind == "offsets"]
    assert "energies of H, O (1 independent of 2)" in note.message and "one common energy per atom" in note.message
    (note,) = [f for f in report(water, ("H", "O"), isolated={"H": 0.0, "O": 0.0}).findings if f.kind == "offsets"]
    assert "the isolated atoms" in note.message
    (note,) = [
        f for f in report([*water, oxide("CH4"), oxide("C2H8")], ("H", "C", "O")).findings if f.kind == "offsets"
    ]
    assert "(2 independent of 3)" in note.message
    (note,) = [f for f in report([oxide("H2O"), oxide("HO"), oxide("H4O")], ("H", "O")).findings if f.kind == "offsets"]
    assert note.message.startswith("each structure has 1 O") and not note.warning
    assert not [f for f in report([*water, oxide("H2O2")], ("H", "O")).findings if f.kind == "offsets"]


def test_fewer_structures_than_the_batch():
    (note,) = report(copper(5), batch_size=8).findings
    assert note.kind == "small" and "5 structures to train on are fewer than the batch size of 8" in note.message
    assert report(copper(8), batch_size=8).findings == ()


def the_other_sign_is_seen(sound):
    """Of all forces, and of those of a fifth of the structures."""
    frames = [a for a in sound.train.frames if a.calc is not None and "forces" in a.calc.results][:300]
    found = gradients(changed(frames, lambda n: -1.0), elements=sound.elements)
    assert any(f.certain for f in found)
    assert gradients(changed(frames, lambda n: -1.0 if n < len(frames) // 5 else 1.0), elements=sound.elements)


@pytest.mark.parametrize(
    "name",
    [
        "mlearn/Mo",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("3bpa/train_300K", "tio2/tio2", "water_pbe0ts/water64")
        ),
    ],
)
def test_no_false_alarm_on_public_sets(shared, name):
    path = f"{name}.extxyz" if "300K" in name else f"{name}_train.extxyz"
    test = ("mlearn/Mo_test.extxyz",) if "Mo" in name else ()
    sound = prepare(DataOptions((path,), test=test), shared / "data", 0)
    assert sound.report.warnings == ()
    the_other_sign_is_seen(sound)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "acac/train_300K",
        "charges_spice_dipeptides/dipeptides_train",
        "ethanol_ccsdt/ethanol_ccsdt_train",
        "formic_acid_dimer_ccsdt/formic_acid_dimer_ccsdt_train",
        "methane_b3lyp/methane_b3lyp_train",
        "water_pbe0ts/water64_train2",
    ],
)
def test_no_false_alarm_on_large_public_sets(shared, name):
    sound = prepare(DataOptions((f"{name}.extxyz",), unlabelled="keep"), shared / "data", 0)
    assert sound.report.warnings == ()
    if "formic" not in name:  # which has no forces
        the_other_sign_is_seen(sound)


@pytest.mark.parametrize(
    ("element", "least", "most"),
    [
        pytest.param("Li", 3, 3, marks=pytest.mark.slow),
        ("Mo", 0, 0),
        pytest.param("Si", 3, 3, marks=pytest.mark.slow),
        pytest.param("Cu", 9, 31, marks=pytest.mark.slow),
    ],
)
def test_structures_of_the_test_set_that_are_trained_on(shared, element, least, most):
    """The set's own README counts, by atom number and energy: Cu 9 of 31, Li 3, Si 3, Mo 0.

    For copper, some equal structures differ by 0.2 meV/atom in energy.
    """
    folder: Path = shared / "data" / "mlearn"
    options = DataOptions((f"{element}_train.extxyz",), (f"{element}_train.extxyz",), (f"{element}_test.extxyz",))
    found = prepare(options, folder, 0).report
    across = [p for f in found.warnings if f.kind == "leakage" for p in f.where]
    assert least <= sum("_test" in p.path for p in across) <= most
    assert sum("_train" in p.path for p in across) == found.splits["train"]["structures"]
