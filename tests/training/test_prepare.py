"""Splits, isolated atoms and the checks before training."""

import itertools
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.errors import ConfigError, FormatError, StructureError, UnknownSpeciesError
from bpjax.io.label_keys import LabelKeys
from bpjax.training import DataOptions, prepare
from tests.training.labelled import strained, structures


def atom(symbol, energy):
    single = Atoms(symbol, positions=[[0, 0, 0]])
    single.calc = SinglePointCalculator(single, energy=energy, forces=np.zeros((1, 3)))
    return single


@pytest.fixture
def folder(tmp_path):
    ase.io.write(tmp_path / "train.extxyz", structures(20))
    ase.io.write(tmp_path / "test.extxyz", structures(4, seed=1))
    return tmp_path


def test_set_aside_by_group(folder):
    found = prepare(DataOptions(("train.extxyz",), test=("test.extxyz",), validation_fraction=0.2), folder, 0)
    assert (len(found.train), len(found.validation), len(found.test)) == (16, 4, 4)
    groups = [a.info["config_type"] for a in found.validation.frames]
    assert sorted(groups) == ["alloy", "molecule", "primitive", "slab"]
    assert not set(found.train.sources) & set(found.validation.sources)
    again = prepare(DataOptions(("train.extxyz",), validation_fraction=0.2), folder, 0)
    assert again.validation.sources == found.validation.sources
    assert again.fingerprint() == found.fingerprint()
    other = prepare(DataOptions(("train.extxyz",), validation_fraction=0.2), folder, 1)
    assert other.fingerprint() != found.fingerprint()
    again.train.frames[0].arrays["forces_weight"] = np.zeros(len(again.train.frames[0]))
    assert again.fingerprint() != found.fingerprint()
    assert found.elements == ("Al", "Cu")


def test_isolated_atoms_are_energies_not_structures(folder):
    ase.io.write(folder / "atoms.extxyz", [atom("Cu", -1.5), atom("Al", -0.5)])
    found = prepare(DataOptions(("train.extxyz", "atoms.extxyz")), folder, 0)
    assert found.isolated == {"Al": -0.5, "Cu": -1.5}
    assert len(found.train) + len(found.validation) == 20


def test_isolated_atoms_are_known_by_their_images_and_need_no_forces(folder):
    box = Atoms("Cu", cell=[20, 20, 20], pbc=True, info={"energy": -1.5})
    alone = Atoms("Al", info={"energy": -0.5})
    ase.io.write(folder / "all.extxyz", [*structures(20), box, alone])
    found = prepare(DataOptions(("all.extxyz",)), folder, 0)
    assert found.isolated == {"Al": -0.5, "Cu": -1.5} and len(found.train) + len(found.validation) == 20


def test_isolated_atoms_that_cannot_be(folder):
    ase.io.write(folder / "twice.extxyz", [atom("Cu", -1.5), atom("Al", -0.5), atom("Cu", -11.5)])
    with pytest.raises(
        StructureError, match=r"twice\.extxyz: frame 2: energy: of the isolated Cu atom is -11.5 eV, but -1.5 in"
    ):
        prepare(DataOptions(("train.extxyz", "twice.extxyz")), folder, 0)
    ase.io.write(folder / "absurd.extxyz", [atom("Cu", -45000.0), atom("Al", -0.5)])
    options = DataOptions(("train.extxyz", "absurd.extxyz"))
    with pytest.raises(
        ConfigError, match=r"data.isolated: energies of isolated atoms \(Cu -45000, Al -0.5 eV\) are .* eV/atom"
    ):
        prepare(options, folder, 0)
    assert prepare(replace(options, contradictions="keep"), folder, 0).isolated["Cu"] == -45000.0
    options = DataOptions(("train.extxyz", "atoms.extxyz"), isolated={"Cu": -2.0, "Al": -0.5})
    ase.io.write(folder / "atoms.extxyz", [atom("Al", -0.5), atom("Cu", -1.5)])
    with pytest.raises(StructureError, match=r"atoms.*frame 1: energy: .* is -1.5 eV, but data.isolated says -2"):
        prepare(options, folder, 0)
    with pytest.raises(ConfigError, match="are they of another calculation"):
        prepare(DataOptions(("train.extxyz",), isolated={"Cu": -45000.0, "Al": -6500.0}), folder, 0)


@pytest.mark.parametrize("name", ["isolated_atoms/cu.extxyz", "stress_sign/right.extxyz"])
def test_sound_cases_are_not_refused(shared, name):
    """Sixteen small alloys whose near frames are far apart, and strained copper."""
    found = prepare(DataOptions((name,)), shared / "cases", 0)
    assert not any(f.certain or (f.kind == "units" and f.warning) for f in found.report.findings)
    blind = [f for f in found.report.findings if "nothing says whether the stresses have the right sign" in f.message]
    assert len(blind) == (name == "isolated_atoms/cu.extxyz")  # sixteen structures


def test_isolated_atoms_that_are_not_bound(folder):
    """Energies of the structures are about 0 to 1 eV/atom: an atom far below them is of another calculation, as one far above."""
    for energy in (-12.0, 19.0):
        with pytest.raises(ConfigError, match="are they of another calculation"):
            prepare(DataOptions(("train.extxyz",), isolated={"Cu": energy, "Al": energy}), folder, 0)


@pytest.mark.parametrize("field", ["validation", "test"])
def test_isolated_atoms_among_further_structures(folder, field):
    """They are no structures there either, and have the energies that are trained on."""
    ase.io.write(folder / "atoms.extxyz", [atom("Cu", -1.5), atom("Al", -0.5)])
    for energy in (-1.5, -300.0):
        ase.io.write(folder / "more.extxyz", [*structures(8, seed=5), atom("Cu", energy)])
        options = DataOptions(("train.extxyz", "atoms.extxyz"), **{field: ("more.extxyz",)})
        if energy == -1.5:
            assert len(getattr(prepare(options, folder, 0), field)) == 8
        else:
            with pytest.raises(
                StructureError, match=r"more\.extxyz: frame 8: energy: .* -300 eV, but -1.5 where it is"
            ):
                prepare(options, folder, 0)
    ase.io.write(folder / "more.extxyz", [atom("Cu", -1.5)])
    with pytest.raises(StructureError, match="holds no structure but isolated atoms"):
        prepare(options, folder, 0)


def test_labels_that_contradict_each_other_are_refused(folder):
    frames = strained(stress=-1.0)
    ase.io.write(folder / "negative.extxyz", frames)
    options = DataOptions(("negative.extxyz",))
    with pytest.raises(
        ConfigError, match="data.contradictions: energy differences .* have the stresses the other sign"
    ):
        prepare(options, folder, 0)
    found = prepare(replace(options, contradictions="keep"), folder, 0)
    assert any(f.certain for f in found.report.findings)


CONTRADICTING = {
    "stress_sign/negative": "have the stresses the other sign",
    "stress_sign/virial_plus": "have the stresses the other sign",
    "unit_checks_varied_cells/gradients": "are the forces gradients",
    "unit_checks_varied_cells/hartree_bohr_forces": "as with forces in hartree/bohr",
}


@pytest.mark.parametrize("case", CONTRADICTING)
def test_contradictions_are_found_whatever_is_set_aside(shared, case):
    """Files of public reports; the random choice of validation structures must not decide."""
    path = shared / "cases" / f"{case}.extxyz"
    for seed, fraction in itertools.product(range(3), (0.1, 0.3)):
        with pytest.raises(ConfigError, match=CONTRADICTING[case]):
            prepare(DataOptions((path.name,), validation_fraction=fraction), path.parent, seed)


def test_files_that_do_not_say_their_format_or_species(folder):
    """Forces without energies, of types without elements, under a name that says nothing."""
    frames = structures(24)[3::4]
    ase.io.write(folder / "any.name", frames, format="extxyz")
    frames = "".join(
        f"ITEM: TIMESTEP\n{n}\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
        f"ITEM: ATOMS id type x y z fx fy fz\n1 1 0 0 0 0.1 0 0\n2 2 {2 + 0.1 * n} 0 0 -0.1 0 0\n"
        for n in range(8)
    )
    (folder / "dump.any").write_text(frames)
    assert len(prepare(DataOptions(("any.name",), format="extxyz"), folder, 0).train) == 5
    options = DataOptions(("dump.any",), unlabelled="keep", format="lammps-dump-text", species=("Cu", "Al"))
    found = prepare(options, folder, 0)
    assert found.elements == ("Al", "Cu") and found.report.splits["train"]["labels"]["energy"] == 0
    with pytest.raises(FormatError, match="does not say which elements"):
        prepare(replace(options, species=()), folder, 0)
    with pytest.raises(ConfigError, match="'extxyzz' is no format that ASE reads; did you mean extxyz"):
        prepare(replace(options, format="extxyzz"), folder, 0)


def test_files_for_validation_are_looked_at_too(folder):
    ase.io.write(folder / "right.extxyz", strained(12))
    ase.io.write(folder / "wrong.extxyz", strained(seed=1, forces=-1.0))
    with pytest.raises(ConfigError, match="validation: energy differences .* are the forces gradients"):
        prepare(DataOptions(("right.extxyz",), ("wrong.extxyz",)), folder, 0)


def test_names_of_labels(folder):
    frames = structures(20)
    for atoms in frames:
        results = atoms.calc.results
        atoms.calc = None
        atoms.info["dft_energy"], atoms.arrays["dft_force"] = results["energy"], results["forces"]
    ase.io.write(folder / "named.extxyz", frames)
    with pytest.raises(StructureError, match="energy: missing; the file has .*dft_energy, dft_force"):
        prepare(DataOptions(("named.extxyz",)), folder, 0)
    keys = LabelKeys(energy="dft_energy", forces="dft_force")
    found = prepare(DataOptions(("named.extxyz",), keys=keys), folder, 0)
    for atoms in found.train.frames:
        assert atoms.get_potential_energy() is not None and atoms.get_forces().shape == (len(atoms), 3)


def test_bad_data_is_named(folder):
    with pytest.raises(FormatError, match=r"missing\.extxyz"):
        prepare(DataOptions(("missing.extxyz",)), folder, 0)
    ase.io.write(folder / "atoms.extxyz", [atom("Cu", -1.5)])
    with pytest.raises(ConfigError, match="known of Cu, not of Al; give all elements or none"):
        prepare(DataOptions(("train.extxyz", "atoms.extxyz")), folder, 0)
    with pytest.raises(StructureError, match=r"atoms\.extxyz.*isolated"):
        prepare(DataOptions(("atoms.extxyz",)), folder, 0)
    with pytest.raises(UnknownSpeciesError, match=r"ni\.extxyz: frame 0: Ni"):
        frames = [Atoms("Ni2", positions=[[0, 0, 0], [0, 0, 2.2]])]
        frames[0].calc = SinglePointCalculator(frames[0], energy=0.0, forces=np.zeros((2, 3)))
        ase.io.write(folder / "ni.extxyz", frames)
        prepare(DataOptions(("train.extxyz",), test=("ni.extxyz",)), folder, 0)
    bare = structures(3)
    bare[1].calc = SinglePointCalculator(bare[1], energy=1.0)
    ase.io.write(folder / "bare.extxyz", bare)
    with pytest.raises(StructureError, match=r"bare\.extxyz: frame 1: forces: missing"):
        prepare(DataOptions(("bare.extxyz",)), folder, 0)
    ase.io.write(folder / "one.extxyz", structures(2)[1:])
    with pytest.raises(ConfigError, match=r"one\.extxyz.*at least 2"):
        prepare(DataOptions(("one.extxyz",)), folder, 0)
    with pytest.raises(ValueError, match="name at least one file"):
        DataOptions(())
    with pytest.raises(ValueError, match="validation_fraction=1.5"):
        DataOptions(("train.extxyz",), validation_fraction=1.5)


def write(path, frames):
    ase.io.write(path, frames)
    return DataOptions((path.name,))


def test_test_structures_are_set_aside_in_the_same_way(folder):
    options = DataOptions(("train.extxyz",), validation_fraction=0.2, test_fraction=0.4)
    found = prepare(options, folder, 0)
    assert (len(found.train), len(found.validation), len(found.test)) == (8, 4, 8)
    for split, share in ((found.validation, 1), (found.test, 2)):
        groups = [a.info["config_type"] for a in split.frames]
        assert all(groups.count(g) == share for g in ("alloy", "molecule", "primitive", "slab"))
    assert len({*found.train.sources, *found.validation.sources, *found.test.sources}) == 20
    assert list(found.report.splits) == ["train", "validation", "test"]
    by_group = prepare(replace(options, split="groups", validation_fraction=0.25, test_fraction=0.25), folder, 2)
    kinds = [{a.info["config_type"] for a in s.frames} for s in (by_group.train, by_group.validation, by_group.test)]
    assert [len(k) for k in kinds] == [2, 1, 1] and len(set.union(*kinds)) == 4


def test_elements_that_go_aside_as_a_whole(folder):
    frames = structures(4)
    ase.io.write(folder / "cu.extxyz", [frames[0]] * 3)
    ase.io.write(folder / "al.extxyz", [frames[2]] * 2)
    options = DataOptions(("cu.extxyz", "al.extxyz"), split="files", validation_fraction=0.4)
    with pytest.raises(ConfigError, match=r"data.split: leaves no structure with (Al|Cu) to train on"):
        prepare(options, folder, 0)


def test_absurd_forces_are_kept_dropped_or_refused(folder):
    frames = structures(40)
    frames[7].calc.results["forces"] = frames[7].calc.results["forces"] * 1e4
    options = write(folder / "absurd.extxyz", frames)
    path = str(folder / "absurd.extxyz")
    kept = prepare(options, folder, 0)
    assert len(kept.train) + len(kept.validation) == 40 and kept.dropped == ()
    places = [(p.path, p.frame) for f in kept.report.warnings if f.kind == "outlier" for p in f.where]
    assert places == [(path, 7)]
    found = prepare(replace(options, outliers="drop"), folder, 0)
    assert [(d.path, d.frame) for d in found.dropped] == [(path, 7)] and "a force of" in found.dropped[0].reason
    assert (path, 7) not in found.train.sources + found.validation.sources
    assert len(found.train) + len(found.validation) == 39 and not found.report.warnings
    assert str(found.dropped[0]).startswith(f"{path}: frame 7: a force of ")
    with pytest.raises(StructureError, match=r"absurd\.extxyz: frame 7: a force of .*data\.outliers says to refuse it"):
        prepare(replace(options, outliers="refuse"), folder, 0)


def test_a_limit_on_forces(folder):
    largest = [np.linalg.norm(a.calc.results["forces"], axis=1).max() for a in structures(20)]
    limit = float(np.median(largest))
    options = DataOptions(("train.extxyz",), max_force=limit, outliers="drop")
    found = prepare(options, folder, 0)
    assert [d.frame for d in found.dropped] == np.flatnonzero(np.array(largest) > limit).tolist()
    assert all(f"above max_force of {limit:g}" in d.reason for d in found.dropped)
    train = replace(options, validation=("test.extxyz",), max_force=1e3)  # files that are named are looked at too
    assert prepare(train, folder, 0).dropped == ()
    ase.io.write(folder / "molecules.extxyz", structures(8)[3::4])
    with pytest.raises(ConfigError, match="all structures are above max_force"):
        prepare(replace(options, max_force=1e-9, train=("molecules.extxyz",)), folder, 0)


def test_unlabelled_structures_in_the_middle(folder):
    frames = structures(6)
    frames[2].calc = None
    frames[4].calc = SinglePointCalculator(frames[4], energy=1.0)
    options = write(folder / "holes.extxyz", frames)
    with pytest.raises(StructureError, match=r"holes\.extxyz: frame 2: energy: missing"):
        prepare(options, folder, 0)
    found = prepare(replace(options, unlabelled="drop"), folder, 0)
    assert [(d.frame, d.reason) for d in found.dropped] == [(2, "no energy and no forces"), (4, "no forces")]
    assert sorted(n for _, n in found.train.sources + found.validation.sources) == [0, 1, 3, 5]
    with pytest.raises(StructureError, match=r"holes\.extxyz: frame 2: has neither energy nor forces"):
        prepare(replace(options, unlabelled="keep"), folder, 0)
    ase.io.write(folder / "holes.extxyz", frames[:2] + frames[3:])
    kept = prepare(replace(options, unlabelled="keep"), folder, 0)
    assert len(kept.train) + len(kept.validation) == 5
    (note,) = [f for f in kept.report.findings if "without forces" in f.message]
    assert "1 of" in note.message and note.where[0].frame == 3


def test_archives_are_trained_on(folder):
    frames = [a for a in structures(40) if len(a) == 3 and not a.pbc.any()]
    for atoms in frames:
        del atoms.info["config_type"]  # the archive has none, and groups are part of the fingerprint
    np.savez(
        folder / "molecules.npz",
        z=frames[0].numbers,
        R=[a.positions for a in frames],
        E=[a.calc.results["energy"] for a in frames],
        F=[a.calc.results["forces"] for a in frames],
    )
    found = prepare(DataOptions(("molecules.npz",), units="ev-angstrom"), folder, 0)
    ase.io.write(folder / "molecules.traj", frames)
    # Bit for bit, though the one file holds numpy arrays and the other what ASE makes of them.
    assert prepare(DataOptions(("molecules.traj",)), folder, 0).fingerprint() == found.fingerprint()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(test_fraction=1.0), "test_fraction=1.0: must be at least 0 and below 1"),
        (dict(test_fraction=0.95), "test_fraction=0.95: leaves nothing to train on"),
        (dict(test_fraction=0.1, test=("t.xyz",)), "test_fraction=0.1: is for runs without files in test"),
        (dict(split="by_hand"), "split='by_hand': must be 'stratified' or 'random' or 'groups' or 'files' or 'energy'"),
        (dict(outliers="hide"), "outliers='hide': must be 'keep' or 'drop' or 'refuse'"),
        (dict(unlabelled="guess"), "unlabelled='guess': must be 'refuse' or 'drop' or 'keep'"),
        (dict(max_force=-1.0), "max_force=-1.0: must be positive"),
        (dict(max_force=float("inf")), "max_force=inf: must be positive"),
    ],
)
def test_options_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        DataOptions(("train.extxyz",), **wrong)
