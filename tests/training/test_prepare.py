"""Splits, isolated atoms and the checks before training."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.errors import ConfigError, FormatError, StructureError, UnknownSpeciesError
from bpjax.training import DataOptions, prepare
from tests.training.labelled import structures


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
    assert found.elements == ("Al", "Cu")


def test_isolated_atoms_are_energies_not_structures(folder):
    ase.io.write(folder / "atoms.extxyz", [atom("Cu", -1.5), atom("Al", -0.5)])
    found = prepare(DataOptions(("train.extxyz", "atoms.extxyz")), folder, 0)
    assert found.isolated == {"Al": -0.5, "Cu": -1.5}
    assert len(found.train) + len(found.validation) == 20


def test_bad_data_is_named(folder):
    with pytest.raises(FormatError, match=r"missing\.extxyz"):
        prepare(DataOptions(("missing.extxyz",)), folder, 0)
    ase.io.write(folder / "atoms.extxyz", [atom("Cu", -1.5)])
    with pytest.raises(ConfigError, match="no energy for Al"):
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
