"""A model crystal that needs no training: Gaussian core and well, weak angular terms, in linear networks.

Not in alphabetical order of elements, and the second element is what the pure crystals are made of.
"""

import jax
import numpy as np
from ase.build import bulk

from bpjax.descriptors import ACSF
from bpjax.descriptors.acsf import Angular, Radial
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, init
from bpjax.system import system_from_arrays

MODEL = Potential(
    ACSF(("Xe", "Ar"), 3.9, g2=(Radial(0.5), Radial(1.2, 3.2)), g5=(Angular(0.05, 2.0, 1.0),)),
    MLP(()),
    offsets=(-2000.0, -1000.0),
)
LATTICE = 4.2
"""Lattice constant in A of the fcc crystal, near its volume at 300 K and zero pressure."""


def params(dtype=np.float32):
    """Core 20, well -1.0, angular 0.02 eV between all elements, a little stronger around Xe."""
    values = init(MODEL, jax.random.key(0), dtype)
    one = np.array([20.0, 20.0, -1.0, -1.0, 0.02, 0.02, 0.02])[:, None]
    for element, factor in (("Ar", 1.0), ("Xe", 1.1)):
        values["networks"][element]["output"] = {"kernel": (factor * one).astype(dtype), "bias": np.zeros(1, dtype)}
    return values


def crystal(repeats=2, mixed=False, rattle=0.05):
    atoms = bulk("Ar", "fcc", LATTICE, cubic=True) * ((repeats,) * 3)
    atoms.rattle(rattle, seed=1)
    if mixed:
        atoms.numbers[::3] = 54
    return atoms


def skewed(repeats=1):
    """Both elements in a triclinic cell; one of them is shorter than the cutoff."""
    atoms = crystal(repeats, mixed=True)
    atoms.set_cell(atoms.cell.array + [[0.0, 0.9, 0.0], [0.0, 0.0, -1.1], [0.7, 0.0, 0.0]], scale_atoms=True)
    return atoms


def slab(repeats=(1, 2, 1)):
    """Both elements, open along the last direction."""
    atoms = crystal(1, mixed=True) * repeats
    atoms.pbc = (True, True, False)
    return atoms


def cluster(repeats=1, atoms=None):
    """Both elements, the first `atoms` of a piece of crystal."""
    found = crystal(repeats, mixed=True)[:atoms]
    found.pbc = False
    return found


def system_of(atoms, dtype=np.float64):
    cell = atoms.cell.array if atoms.pbc.any() else None
    return system_from_arrays(atoms.numbers, atoms.positions, cell, atoms.pbc, MODEL.elements, dtype=dtype)
