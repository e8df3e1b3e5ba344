r"""Labelled structures as flat arrays, and batches of a single shape cut from them.

All atoms of all structures stand in one axis A; what belongs to an atom (its environment, or its stored features) is one row.
The derivatives of the features of an atom with the positions of the others have as many parts as there are others within the
cutoff, its partners; they stand in one axis of *blocks* of a few partners each, one atom after the other. A batch gathers rows
and blocks of whole structures, one structure after the other, and fills up what is left with padding.

So that every batch has the same shape with little padding, the sizes of the structures of a batch are balanced: structures
are drawn at random from strata of like size, and batches that would be larger than all are meant to be exchange structures
with others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bpjax.elements import species_of
from bpjax.errors import StructureError
from bpjax.io.labels import group_of, labels, weights_of
from bpjax.neighbors import pair_list, slots_in_rows
from bpjax.training import batches as batches_of_like_size


class Targets(NamedTuple):
    """Labels of structures (B) and their atoms (N); a mask of zero stands for a missing label, that of forces is their weight."""

    energy: Float[Array, " B"]
    forces: Float[Array, "N 3"]
    stress: Float[Array, "B 6"]
    energy_mask: Float[Array, " B"]
    forces_mask: Float[Array, " N"]
    stress_mask: Float[Array, " B"]
    weight: Float[Array, " B"]


NO_BLOCKS: Any = np.zeros(0, np.int32)
"""Indices of blocks where the batches are laid out without them."""


class Rows(NamedTuple):
    """What a batch gathers: the row of each of its atoms, and the blocks of partners, none where they are not asked for."""

    atoms: Int[Array, " N"]
    blocks: Int[Array, " M"]


class Layout(NamedTuple):
    """Where the rows and blocks of a batch go.

    Structure of each atom, first atom of its structure, which atoms are real; atoms and volume of each structure; first atom of
    the structure of each block, and which blocks are real.
    """

    structure: Int[Array, " N"]
    start: Int[Array, " N"]
    real: Bool[Array, " N"]
    atoms: Float[Array, " B"]
    volume: Float[Array, " B"]
    block_start: Int[Array, " M"] = NO_BLOCKS
    block_real: Bool[Array, " M"] = NO_BLOCKS.astype(bool)


# Of 32 bits: whole numbers of 64 bits are mistaken where a function is traced in one precision of JAX and then in the other.
VOIGT = (np.array([0, 1, 2, 1, 0, 0], np.int32), np.array([0, 1, 2, 2, 2, 1], np.int32))
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
      forces_weight: weight of the force on each atom in the loss, (A,).
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
    forces_weight: np.ndarray
    group: tuple[str, ...]

    @property
    def sizes(self) -> np.ndarray:
        """Atoms in each structure, (B,)."""
        return np.diff(self.first)

    @cached_property
    def partners(self) -> np.ndarray:
        """Other atoms of the structure within the cutoff of each atom, images not counted twice, (A,)."""
        chunks = np.array_split(np.arange(len(self.species)), -(-len(self.species) // 512))
        return np.concatenate([merged(self, atoms)[0].max(axis=1, initial=-1) + 1 for atoms in chunks])

    @cached_property
    def block_length(self) -> int:
        """Partners per block: few enough for little padding, many enough for few blocks, each of which costs about one more."""
        lengths = np.arange(1, max(2, int(self.partners.max()) + 1))
        atoms = np.bincount(self.partners)
        blocks = (-(-np.arange(len(atoms)) // lengths[:, None])) @ atoms
        return int(lengths[np.argmin(blocks * (lengths + 1))])

    @cached_property
    def first_block(self) -> np.ndarray:
        """Index of each atom's first block of partners, and the total at the end, (A + 1,)."""
        return np.concatenate([[0], np.cumsum(-(-self.partners // self.block_length))])

    @property
    def blocks(self) -> np.ndarray:
        """Blocks of partners of each structure, (B,)."""
        return np.diff(self.first_block[self.first])

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(a.nbytes for a in vars(self).values() if isinstance(a, np.ndarray))

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
      frames: `ase.Atoms` with labels, see `bpjax.io.labels.labels`.
      elements: the model's elements.
      cutoff: the model's cutoff in A.
      weights: weight in the loss by group; `"default"` for groups not named, else 1. A frame's own `info["weight"]` multiplies;
        `arrays["forces_weight"]` weighs the force on each atom.
      sources: file and frame number of each structure, for error messages.

    Raises:
      StructureError: no structures, or one without an energy and without forces; a weight that is negative.
      UnknownSpeciesError: an element that is not in `elements`.
    """
    if not frames:
        raise StructureError("there are no structures")
    weights = weights or {}
    found, pairs, species, groups, weight, forces_weight = [], [], [], [], [], []
    for n, atoms in enumerate(frames):
        path, frame = sources[n] if sources else (None, n)
        species.append(species_of(atoms.numbers, elements, f"{path or 'data'}: frame {frame}"))
        label = labels(atoms, path, frame)
        if label.energy is None and label.forces is None:
            raise StructureError("has neither energy nor forces", path, frame)
        found.append(label)
        groups.append(group_of(atoms))
        own, of_forces = weights_of(atoms, path, frame)
        weight.append(own * weights.get(groups[-1], weights.get("default", 1.0)))
        forces_weight.append(of_forces)
        pairs.append(_pairs(atoms, cutoff))
    sizes = [len(atoms) for atoms in frames]
    R_ij, species_j, neighbor, mask = _dense(pairs, species)
    periodic = np.array([bool(atoms.pbc.all()) for atoms in frames])
    return Dataset(
        counts=np.array([np.bincount(s, minlength=len(elements)) for s in species]),
        first=np.concatenate([[0], np.cumsum(sizes)]),
        species=np.concatenate(species),
        R_ij=R_ij,
        species_j=species_j,
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
        forces_weight=np.concatenate(forces_weight),
        group=tuple(groups),
    )


def _pairs(atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, neighbour and vector (float32) of each pair."""
    i, j, shift = pair_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    vectors = atoms.positions[j] - atoms.positions[i] + shift @ atoms.cell.array
    return i, j, vectors.astype(np.float32)


def _dense(pairs: list, species: list[np.ndarray]):
    """Pairs of all structures as padded rows: vectors (A, K, 3), species (A, K), neighbour (A, K), mask (A, K).

    Takes the pairs off the list one by one, so that they are not held twice.
    """
    atoms = sum(len(s) for s in species)
    slots = max(1, max(int(np.bincount(i).max(initial=0)) for i, _, _ in pairs))
    R_ij, mask = zeros((atoms, slots, 3), np.float32), zeros((atoms, slots), bool)
    species_j, neighbor = zeros((atoms, slots), np.int32), zeros((atoms, slots), np.int32)
    end = atoms
    for s in reversed(species):
        i, j, vectors = pairs.pop()
        end -= len(s)
        here = (end + i, slots_in_rows(i))
        R_ij[here], species_j[here], neighbor[here], mask[here] = vectors, s[j], j, True
    return R_ij, species_j, neighbor, mask


def zeros(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Zeros that start at a multiple of 64 bytes: JAX on a CPU then uses the memory of the array, without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def merged(dataset: Dataset, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For some atoms, the number of each neighbour among the partners, (n, K), and the partners, (n, U), within the structure.

    Images of the centre itself get -1: moving the centre moves them along, so they exert no force. So do masked slots.
    """
    neighbor, mask = dataset.neighbor[atoms], dataset.mask[atoms]
    own = atoms - dataset.first[np.searchsorted(dataset.first, atoms, side="right") - 1]
    pulls = mask & (neighbor != own[:, None])
    order = np.argsort(np.where(pulls, neighbor, np.iinfo(np.int32).max), axis=1, kind="stable")
    ranked = np.take_along_axis(neighbor, order, 1)
    counted = np.take_along_axis(pulls, order, 1)
    new = counted.copy()
    new[:, 1:] &= ranked[:, 1:] != ranked[:, :-1]
    rank = np.cumsum(new, axis=1) - 1
    slot = np.full(neighbor.shape, -1)
    np.put_along_axis(slot, order, np.where(counted, rank, -1), 1)
    partners = np.zeros((len(atoms), max(1, int(rank.max(initial=-1)) + 1)), np.int32)
    row, column = np.nonzero(new)
    partners[row, rank[row, column]] = ranked[row, column]
    return slot, partners


def targets(
    dataset: Dataset,
    offsets: np.ndarray,
    chosen: np.ndarray,
    rows: Rows,
    layout: Layout,
    *,
    derivatives: bool = True,
) -> Targets:
    """Labels of a batch; energies less the offsets, subtracted in float64. Without `derivatives`, only energies."""
    present = chosen >= 0
    energy = dataset.energy[chosen] - dataset.counts[chosen] @ offsets
    stress, forces = dataset.stress[chosen], dataset.forces[rows.atoms]
    has_energy, has_stress = present & np.isfinite(energy), present & derivatives & np.isfinite(stress).all(axis=1)
    has_forces = layout.real & derivatives & np.isfinite(forces).all(axis=1)

    def kept(mask, a):
        return np.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, 0).astype(np.float32)

    return Targets(
        kept(has_energy, energy),
        kept(has_forces, forces),
        kept(has_stress, stress),
        has_energy.astype(np.float32),
        (has_forces * dataset.forces_weight[rows.atoms]).astype(np.float32),
        has_stress.astype(np.float32),
        np.where(present, dataset.weight[chosen], 0).astype(np.float32),
    )


@dataclass(frozen=True)
class BatchPlan:
    """Which structures make a batch, and the one shape of all batches.

    Attributes:
      strata: structures of like size, (slots, batches), -1 where there is none; a batch draws one from each.
      sizes: atoms and blocks of partners of each structure, (structures, 2).
      capacity: atoms and blocks of a batch, padding included.
      dealt: batches that fit the capacity, (batches, slots).
      waste: share of the atoms of an epoch that are padding.
      block_waste: share of the blocks of an epoch that are padding; 0 without blocks.
    """

    strata: np.ndarray
    sizes: np.ndarray
    capacity: tuple[int, int]
    dealt: np.ndarray
    waste: float
    block_waste: float

    @classmethod
    def of(cls, sizes: np.ndarray, batch_size: int, blocks: np.ndarray | None = None) -> "BatchPlan":
        """Cuts structures, sorted by size, into as many strata as a batch has slots.

        Args:
          sizes: atoms of each structure.
          batch_size: structures in a batch.
          blocks: blocks of partners of each structure, where features with derivatives are stored; see `Dataset.blocks`.
        """
        slots = min(batch_size, len(sizes))
        batches = -(-len(sizes) // slots)
        order = np.argsort(sizes, kind="stable")[::-1]
        strata = np.full(slots * batches, -1)
        strata[: len(order)] = order
        strata = strata.reshape(slots, batches)
        strata = strata[strata[:, 0] >= 0]
        size = np.stack([sizes, np.zeros_like(sizes) if blocks is None else blocks], axis=1)
        dealt = batches_of_like_size.deal(size, batches, len(strata))
        limit = batches_of_like_size.capacity(dealt, strata, size)
        if blocks is not None:
            limit = np.maximum(limit, 1)
        waste = 1 - size.sum(axis=0) / np.maximum(limit * batches, 1)
        return cls(
            strata, size, tuple(limit.tolist()), dealt, float(waste[0]), 0.0 if blocks is None else float(waste[1])
        )

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return self.strata.shape[1]

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """Structures of each batch in random order, (batches, slots): the same for the same seed and epoch."""
        rng = np.random.default_rng([seed, epoch])
        drawn = rng.permuted(self.strata, axis=1).T
        fitting = batches_of_like_size.balance(drawn, self.sizes, np.array(self.capacity), rng)
        return rng.permutation(self.dealt) if fitting is None else fitting

    def in_order(self) -> np.ndarray:
        """Structures of each batch, not shuffled, (batches, slots)."""
        return self.dealt

    def describe(self) -> str:
        """One line on batches, sizes and padding."""
        atoms = self.sizes[:, 0]
        return (
            f"{self.batches} batches of {len(self.strata)} structures of {atoms.min()} to {atoms.max()} atoms, "
            f"{self.capacity[0]} atoms each, {100 * self.waste:.1f} % of them padding"
        )

    def layout(self, dataset: Dataset, chosen: np.ndarray) -> tuple[Rows, Layout]:
        """Rows, and where they go, for the structures `chosen` (slots,), -1 for none."""
        present = chosen >= 0
        atoms, blocks = np.where(present[:, None], self.sizes[chosen], 0).T
        structure, local, real = _places(atoms, self.capacity[0])
        first = np.cumsum(atoms) - atoms
        of_block, local_block, real_block = _places(blocks, self.capacity[1])
        rows = np.where(real, dataset.first[chosen][structure] + local, 0)
        block = NO_BLOCKS
        if self.capacity[1]:
            block = np.where(real_block, dataset.first_block[dataset.first[chosen]][of_block] + local_block, 0)
        layout = Layout(
            structure.astype(np.int32),
            np.where(real, first[structure], 0).astype(np.int32),
            real,
            np.maximum(atoms, 1).astype(np.float32),
            np.where(present, dataset.volume[chosen], 1.0).astype(np.float32),
            np.where(real_block, first[of_block], 0).astype(np.int32),
            real_block,
        )
        return Rows(rows.astype(np.int32), block.astype(np.int32)), layout


def _places(counts: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups of so many members one after the other: group and number of each place, and which places are filled."""
    place = np.arange(capacity)
    ends = np.cumsum(counts)
    group = np.minimum(np.searchsorted(ends, place, side="right"), len(counts) - 1)
    return group, place - (ends - counts)[group], place < ends[-1]
