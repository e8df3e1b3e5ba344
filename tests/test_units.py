"""Conversion constants against ASE's."""

import ase.units
import pytest

from bpjax import units

TABLE = ase.units.create_units("2018")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (units.BOLTZMANN, TABLE["kB"]),
        (units.FS, TABLE["fs"]),
        (units.TIME_UNIT_FS, 1 / TABLE["fs"]),
        (units.GPA, TABLE["GPa"]),
        (units.BAR, TABLE["bar"]),
        (units.HARTREE, TABLE["Hartree"]),
        (units.BOHR, TABLE["Bohr"]),
        (units.KCAL_MOL, TABLE["kcal"] / TABLE["mol"]),
        (units.ELECTRON_MASS, TABLE["_me"] / TABLE["_amu"]),
        (units.ATOMIC_TIME_FS, 1e15 * TABLE["_hbar"] * TABLE["J"] / TABLE["Hartree"]),
        (units.KJ_MOL, TABLE["kJ"] / TABLE["mol"]),
    ],
)
def test_equal_to_ase(ours, theirs):
    # Both CODATA 2018; ASE derives hartree and bohr from other constants, known to ten digits.
    assert ours == pytest.approx(theirs, rel=1e-8)
