"""Structures and parameters that several benchmarks share. Without JAX: other programs may live in an environment without it."""

import ase.build
import numpy as np
from ase import Atoms

N_MAX, L_MAX, RADIUS, SIGMA = 8, 6, 6.0, 0.5
HYPERS = {
    "cutoff": {"radius": RADIUS, "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
    "density": {"type": "Gaussian", "width": SIGMA},
    "basis": {
        "type": "TensorProduct",
        "max_angular": L_MAX,
        "radial": {"type": "Gto", "max_radial": N_MAX - 1},
    },
}
"""SOAP in the terms of featomic."""

G2 = tuple((4.0, r) for r in np.linspace(1.5, 5.5, 8).round(3).tolist())
"""(eta, r_s) of eight radial functions, in 1/A^2 and A."""

NARROW = tuple(
    (eta, zeta, lam)
    for eta, zetas in ((0.003, (1.0, 2.0)), (0.01, (1.0, 2.0, 4.0)), (0.03, (1.0, 2.0, 4.0)), (0.1, (1.0, 2.0, 4.0)))
    for zeta in zetas
    for lam in (-1.0, 1.0)
)
"""(eta, zeta, lambda) of 22 narrow angular functions."""


def silicon(cells: int = 3) -> Atoms:
    """Atoms near their sites, eight in a cell."""
    atoms = ase.build.bulk("Si", cubic=True) * (cells, cells, cells)
    atoms.rattle(0.05, seed=0)
    return atoms


def water(sites: int = 4) -> Atoms:
    """Molecules at the density of the liquid, turned at random, on a lattice of so many sites a side."""
    random = np.random.default_rng(0)
    side = 3.105 * sites
    atoms = Atoms(cell=np.eye(3) * side, pbc=True)
    for place in np.ndindex(sites, sites, sites):
        molecule = ase.build.molecule("H2O")
        molecule.euler_rotate(*random.uniform(0, 360, 3), center="COM")
        molecule.translate(np.array(place) * side / sites)
        atoms += molecule
    return atoms
