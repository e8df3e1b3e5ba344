"""A small random model and structures of every kind, for tests of what stands around a model."""

import ase
import ase.build
import jax
import numpy as np

from bpjax.descriptors import ACSF
from bpjax.descriptors.acsf import Angular, Radial
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, init

# Silicon is not the first element: species indices of a piece of silicon are not zero.
MODEL = Potential(
    ACSF(
        ("O", "Si"),
        4.0,
        cutoff_kind="poly2",
        g2=(Radial(0.1), Radial(1.0, 2.0)),
        g5=(Angular(0.1, 2.0, -1.0),),
    ),
    MLP((8,)),
    offsets=(-400.0, -106.5),
)


def small_params(dtype="float32", seed=0):
    return init(MODEL, jax.random.key(seed), np.dtype(dtype))


def crystal() -> ase.Atoms:
    atoms = ase.build.bulk("Si", cubic=True)
    atoms.numbers[[0, 3]] = 8
    atoms.rattle(0.1, seed=1)
    return atoms


def liquid() -> ase.Atoms:
    """Disordered, in a skewed and left-handed cell, with atoms outside of it."""
    atoms = ase.build.bulk("Si").repeat((2, 2, 2))
    atoms.set_cell(atoms.cell.array[[1, 0, 2]] + [[0.0, 0.3, 0.0], [0.0, 0.0, -0.4], [0.2, 0.0, 0.0]], scale_atoms=True)
    atoms.rattle(0.25, seed=2)
    atoms.positions[::3] += atoms.cell[0] - 2 * atoms.cell[2]
    assert np.linalg.det(atoms.cell.array) < 0
    return atoms


def slab() -> ase.Atoms:
    atoms = ase.build.surface(ase.build.bulk("Si", cubic=True), (1, 0, 0), 1, vacuum=4.0)
    atoms.pbc = (True, True, False)
    atoms.rattle(0.1, seed=3)
    return atoms


def molecule() -> ase.Atoms:
    atoms = ase.Atoms("SiO4", [[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    atoms.positions *= 0.93
    atoms.rattle(0.1, seed=4)
    return atoms


def one_atom() -> ase.Atoms:
    """One atom that sees only its own images, in a cell far shorter than the cutoff."""
    atoms = ase.build.bulk("Si", "fcc", a=3.9)
    strain = [[0.02, 0.03, 0.0], [0.0, -0.01, 0.02], [0.01, 0.0, 0.0]]
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain))
    return atoms


STRUCTURES = {f.__name__: f for f in (crystal, liquid, slab, molecule, one_atom)}
