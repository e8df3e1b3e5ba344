"""Small labelled structures of two elements, of several kinds: crystals, one-atom cells, a molecule, a slab; and runs on them."""

import os
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator


def labelled(atoms: Atoms, group: str) -> Atoms:
    """The structure with energy, forces and, where it is periodic, stress of effective-medium theory."""
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if atoms.pbc.all():
        results["stress"] = atoms.get_stress(voigt=False)
    found = Atoms(atoms, info={"config_type": group})
    found.calc = SinglePointCalculator(found, **results)
    return found


def structures(count: int = 24, seed: int = 0) -> list[Atoms]:
    """Copper and aluminium, strained and rattled, `count` of them."""
    rng = np.random.default_rng(seed)
    frames = []
    for n in range(count):
        kind = n % 4
        if kind == 0:
            atoms = bulk("Cu", "fcc", a=rng.uniform(3.4, 3.9))
        elif kind == 1:
            atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
            atoms.symbols[rng.integers(4)] = "Al"
        elif kind == 2:
            atoms = fcc111("Al", (1, 1, 3), a=4.0, vacuum=4.0)
            atoms.pbc = [True, True, False]
        else:
            atoms = Atoms("Cu2Al", positions=[[0, 0, 0], [2.4, 0, 0], [1.2, 2.2, 0]])
        if kind != 2 and atoms.pbc.any():
            atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.1, seed=int(rng.integers(1 << 30)))
        frames.append(labelled(atoms, ("primitive", "alloy", "slab", "molecule")[kind]))
    return frames


def strained(
    count: int = 40, seed: int = 0, repeats=(2, 1, 1), stress: float = 1.0, forces: float = 1.0, per_atom: bool = False
) -> list[Atoms]:
    """Rattled copper, each in a cell of its own, with labels of effective-medium theory times factors; 0 leaves stresses out."""
    rng = np.random.default_rng(seed)
    frames = []
    for n in range(count):
        atoms = bulk("Cu", cubic=True).repeat(repeats)
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.05, seed=1000 * seed + n)
        atoms.calc = EMT()
        results = {
            "energy": atoms.get_potential_energy() / (len(atoms) if per_atom else 1),
            "forces": atoms.get_forces() * forces,
            **({"stress": atoms.get_stress() * stress} if stress else {}),
        }
        frames.append(Atoms(atoms))
        frames[-1].calc = SinglePointCalculator(frames[-1], **results)
    return frames


def random_set(seed: int) -> list[Atoms]:
    """A sound set of a random kind: metals, alloys, slabs, clusters, far from each other or not; some without stress."""
    rng = np.random.default_rng(seed)
    count, rattle = int(rng.integers(12, 60)), rng.choice([0.02, 0.05, 0.1, 0.2, 0.3])
    strain, kind = rng.choice([0, 0.01, 0.03, 0.06]), rng.choice(["Cu", "Al", "Ag", "CuAl", "PtNi", "slab", "cluster"])
    stress, isotropic = rng.random() < 0.7, rng.random() < 0.3
    frames = []
    for _ in range(count):
        if kind in ("Cu", "Al", "Ag"):
            atoms = bulk(kind, cubic=True).repeat(tuple(rng.integers(1, 3, 3)) if rng.random() < 0.3 else (1, 1, 1))
        elif kind in ("CuAl", "PtNi"):
            atoms = bulk(kind[:2], cubic=True, a=3.8)
            atoms.symbols[: rng.integers(5)] = kind[2:]
        elif kind == "slab":
            atoms = fcc111("Al", (2, 2, 3), vacuum=6)
        else:
            grid = np.array([[n % 3 * 2.4, n // 3 * 2.4, 0] for n in range(6)])
            atoms = Atoms("Cu6", rng.normal(size=(6, 3)) * 1.2 + grid)
        if atoms.pbc.all() and strain:
            e = rng.normal(scale=strain, size=(3, 3))
            e = np.eye(3) * e[0, 0] if isotropic else e
            atoms.set_cell(atoms.cell @ (np.eye(3) + e), scale_atoms=True)
        atoms.rattle(rattle, seed=int(rng.integers(1 << 30)))
        found = labelled(atoms, "default")
        if not stress:
            found.calc.results.pop("stress", None)
        frames.append(found)
    return frames


def of_processes(cache: Path, **more: str) -> dict[str, str]:
    """Environment of processes that are stopped at any moment and go on: what one has compiled is not compiled again by the next.

    Not the programs of all tests (`program_cache`): one that is stopped while it writes leaves a part of a program behind. They
    are kept even where those of the tests are not.
    """
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), **more}


def training_file(steps: int, checkpoint: int, *, evaluate: int = 10, test: bool = False) -> str:
    """A training file for `train.extxyz`, and `test.extxyz`, of such structures."""
    return f"""
[data]
train = ["train.extxyz"]
test = {'["test.extxyz"]' if test else "[]"}
validation_fraction = 0.25

[descriptor]
type = "DefaultACSF"
cutoff = 4.0
radial = 4
angular = 1
zeta = [1.0]

[network]
hidden = [8]

[optimizer]
steps = {steps}
batch_size = 4
learning_rate = 1e-2
warmup = 5
evaluate_every = {evaluate}
checkpoint_every = {checkpoint}
"""
