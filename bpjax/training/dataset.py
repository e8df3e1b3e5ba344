r"""Labelled structures as flat arrays, and batches of a single shape cut from them.

All atoms of all structures stand in one axis A; what belongs to an atom (its environment, or its stored features and their
derivatives) is one row. A batch gathers rows. So that every batch has the same shape with little padding, structures are
sorted by size and cut into strata; a batch takes one structure at random from each stratum, into a slot as large as the
stratum's largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bpjax.elements import species_of
from bpjax.errors import StructureError
from bpjax.io.structures import group_of, labels
from bpjax.neighbors import pair_list, slots_in_rows


class Targets(NamedTuple):
    """Labels of structures (B) and their atoms (N); a mask of zero stands for a missing label."""

    energy: Float[Array, " B"]
    forces: Float[Array, "N 3"]
    stress: Float[Array, "B 6"]
    energy_mask: Float[Array, " B"]
    forces_mask: Float[Array, " N"]
    stress_mask: Float[Array, " B"]
    weight: Float[Array, " B"]


class Layout(NamedTuple):
    """Where the rows of a batch go: structure slot of each atom, first atom of its slot, which atoms are real, and sizes."""

    structure: Int[Array, " N"]
    start: Int[Array, " N"]
    real: Bool[Array, " N"]
    atoms: Float[Array, " B"]
    volume: Float[Array, " B"]


VOIGT = (np.array([0, 1, 2, 1, 0, 0]), np.array([0, 1, 2, 2, 2, 1]))
"""Row and column of each Voigt component, in ASE's order xx, yy, zz, yz, xz, xy."""


@dataclass(frozen=True)
class Dataset:
    """Structures and labels, flat, on the host.

    Attributes:
      counts: atoms of each element in each structure, (B, S).
      first: index of each structure's first atom, and the total at the end, (B + 1,).
      species: species index of each atom, (A,).
      R_ij, species_j, neighbor, mask: neighbours of each atom: vectors (A, K, 3), species, index within the structure, real.
      energy: eV, float64, (B,); NaN where missing. Not reduced by any offset.
      forces: eV/A, (A, 3); NaN where missing.
      stress: eV/A^3, Voigt, ASE sign, (B, 6); NaN where missing or not fully periodic.
      volume: A^3, (B,); 1 where not periodic.
      weight: weight of each structure in the loss, (B,).
      group: name of the group of each structure.
    """

    counts: np.ndarray
    first: np.ndarray
    species: np.ndarray
    R_ij: np.ndarray
    species_j: np.ndarray
    neighbor: np.ndarray
    mask: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray
    volume: np.ndarray
    weight: np.ndarray
    group: tuple[str, ...]

    @property
    def sizes(self) -> np.ndarray:
        """Atoms in each structure, (B,)."""
        return np.diff(self.first)

    def __len__(self) -> int:
        return len(self.energy)


def build_dataset(
    frames: Sequence,
    elements: tuple[str, ...],
    cutoff: float,
    *,
    weights: dict[str, float] | None = None,
    sources: Sequence[tuple[str | None, int]] | None = None,
) -> Dataset:
    """Reads labels and neighbours of structures.

    Args:
      frames: `ase.Atoms` with labels, see `bpjax.io.structures.labels`.
      elements: the model's elements.
      cutoff: the model's cutoff in A.
      weights: weight in the loss by group; `"default"` for groups not named, else 1. A frame's own `info["weight"]` multiplies.
      sources: file and frame number of each structure, for error messages.

    Raises:
      StructureError: no structures, or one without an energy and without forces; a weight that is negative.
      UnknownSpeciesError: an element that is not in `elements`.
    """
    if not frames:
        raise StructureError("there are no structures")
    weights = weights or {}
    found, pairs, species, groups, weight = [], [], [], [], []
    for n, atoms in enumerate(frames):
        path, frame = sources[n] if sources else (None, n)
        species.append(species_of(atoms.numbers, elements, f"{path or 'data'}: frame {frame}"))
        label = labels(atoms, path, frame)
        if label.energy is None and label.forces is None:
            raise StructureError("has neither energy nor forces", path, frame)
        found.append(label)
        groups.append(group_of(atoms))
        w = float(atoms.info.get("weight", 1.0)) * weights.get(groups[-1], weights.get("default", 1.0))
        if not (np.isfinite(w) and w >= 0):
            raise StructureError(f"{w}: must be finite and at least 0", path, frame, "weight")
        weight.append(w)
        pairs.append(_pairs(atoms, cutoff))
    slots = max(1, max(int(np.bincount(i).max(initial=0)) for i, _, _ in pairs))
    sizes = [len(atoms) for atoms in frames]
    environments = [_dense(i, j, vectors, n, slots) for (i, j, vectors), n in zip(pairs, sizes, strict=True)]
    R_ij, neighbor, mask = (np.concatenate(a) for a in zip(*environments, strict=True))
    flat = np.concatenate(species)
    first = np.concatenate([[0], np.cumsum(sizes)])
    absolute = neighbor + np.repeat(first[:-1], sizes)[:, None]
    periodic = np.array([bool(atoms.pbc.all()) for atoms in frames])
    return Dataset(
        counts=np.array([np.bincount(s, minlength=len(elements)) for s in species]),
        first=first,
        species=flat,
        R_ij=R_ij,
        species_j=flat[absolute] * mask,
        neighbor=neighbor,
        mask=mask,
        energy=np.array([np.nan if f.energy is None else f.energy for f in found]),
        forces=np.concatenate(
            [np.full((n, 3), np.nan) if f.forces is None else f.forces for f, n in zip(found, sizes, strict=True)]
        ),
        stress=np.array(
            [
                f.stress[VOIGT] if f.stress is not None and p else np.full(6, np.nan)
                for f, p in zip(found, periodic, strict=True)
            ]
        ),
        volume=np.array(
            [abs(np.linalg.det(a.cell.array)) if p else 1.0 for a, p in zip(frames, periodic, strict=True)]
        ),
        weight=np.array(weight),
        group=tuple(groups),
    )


def _pairs(atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, neighbour and vector of each pair."""
    i, j, shift = pair_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    return i, j, atoms.positions[j] - atoms.positions[i] + shift @ atoms.cell.array


def _dense(i, j, vectors, atoms: int, slots: int):
    """Pairs as padded rows: vectors (N, K, 3) float32, neighbour (N, K), mask (N, K)."""
    slot = slots_in_rows(i)
    R_ij = np.zeros((atoms, slots, 3), np.float32)
    neighbor = np.zeros((atoms, slots), np.int32)
    mask = np.zeros((atoms, slots), bool)
    R_ij[i, slot], neighbor[i, slot], mask[i, slot] = vectors, j, True
    return R_ij, neighbor, mask


@dataclass(frozen=True)
class BatchPlan:
    """Slots of a batch and the structures that each slot draws from.

    Attributes:
      strata: structures of each slot, (slots, batches), -1 where there is none.
      capacity: atoms of each slot.
      waste: share of the atom slots of an epoch that are padding.
    """

    strata: np.ndarray
    capacity: np.ndarray
    waste: float

    @classmethod
    def of(cls, sizes: np.ndarray, batch_size: int) -> "BatchPlan":
        """Cuts structures, sorted by size, into as many strata as a batch has slots."""
        slots = min(batch_size, len(sizes))
        batches = -(-len(sizes) // slots)
        order = np.argsort(sizes, kind="stable")[::-1]
        strata = np.full(slots * batches, -1)
        strata[: len(order)] = order
        strata = strata.reshape(slots, batches)
        strata = strata[strata[:, 0] >= 0]
        capacity = sizes[strata[:, 0]]
        return cls(strata, capacity, float(1 - sizes.sum() / (capacity.sum() * batches)))

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Structures of each batch in random order, (batches, slots): the same for the same seed and epoch."""
        rng = np.random.default_rng([seed, epoch])
        return rng.permuted(self.strata, axis=1).T

    def in_order(self) -> np.ndarray:
        """Structures of each batch, not shuffled, (batches, slots)."""
        return self.strata.T

    def layout(self, dataset: Dataset, chosen: np.ndarray) -> tuple[np.ndarray, Layout]:
        """Row of each atom slot (N,) and the layout for the structures `chosen` (slots,), -1 for none."""
        structure = np.repeat(np.arange(len(self.capacity)), self.capacity)
        start = np.repeat(np.cumsum(self.capacity) - self.capacity, self.capacity)
        local = np.arange(len(structure)) - start
        sizes = np.where(chosen >= 0, dataset.sizes[chosen], 0)
        real = local < sizes[structure]
        rows = np.where(real, dataset.first[chosen][structure] + local, 0)
        volume = np.where(chosen >= 0, dataset.volume[chosen], 1.0)
        return rows, Layout(
            structure.astype(np.int32),
            start.astype(np.int32),
            real,
            np.maximum(sizes, 1).astype(np.float32),
            volume.astype(np.float32),
        )


def targets(dataset: Dataset, offsets: np.ndarray, chosen: np.ndarray, rows: np.ndarray, layout: Layout) -> Targets:
    """Labels of a batch; energies less the offsets, subtracted in float64."""
    present = chosen >= 0
    energy = dataset.energy[chosen] - dataset.counts[chosen] @ offsets
    stress, forces = dataset.stress[chosen], dataset.forces[rows]
    has_energy, has_stress = present & np.isfinite(energy), present & np.isfinite(stress).all(axis=1)
    has_forces = layout.real & np.isfinite(forces).all(axis=1)

    def kept(mask, a):
        return np.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, 0).astype(np.float32)

    return Targets(
        kept(has_energy, energy),
        kept(has_forces, forces),
        kept(has_stress, stress),
        has_energy.astype(np.float32),
        has_forces.astype(np.float32),
        has_stress.astype(np.float32),
        np.where(present, dataset.weight[chosen], 0).astype(np.float32),
    )
