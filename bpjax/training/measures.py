"""What the sanity report is made of: numbers of each structure, from one pass over its pairs of near atoms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import vesin

from bpjax.elements import atomic_numbers, covalent_radii, species_table
from bpjax.io.labels import labels
from bpjax.io.structures import full_cell

# Near atoms are those within 6 A, or so many times the sum of the two largest covalent radii.
_NEAR, _REACH = 6.0, 1.8
_POWERS = 4


@dataclass(frozen=True)
class Measures:
    """Numbers of each structure (B); NaN where a label is missing.

    Attributes:
      counts: atoms of each element, (B, S).
      energy: eV, (B,).
      forces: sum of the squares of the forces in (eV/A)^2, (B,).
      largest: largest force on an atom in eV/A, (B,).
      net: length of the sum of the forces in eV/A, (B,).
      net_share: `net` over what independent forces of this size would sum up to, (B,).
      torque_share: the same of the torque about the centre; NaN where periodic, (B,).
      stress: largest component in eV/A^3, (B,).
      closest: smallest distance in A, over all pairs of elements, (B, S, S); infinite where none are near.
      bond: smallest distance over the sum of the covalent radii, (B,).
      fingerprint: numbers that order, rotation, reflection and translation do not change: sums over near pairs, and the
        volume where periodic, else the moment of inertia of each element, (B, M).
    """

    counts: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    largest: np.ndarray
    net: np.ndarray
    net_share: np.ndarray
    torque_share: np.ndarray
    stress: np.ndarray
    closest: np.ndarray
    bond: np.ndarray
    fingerprint: np.ndarray

    @property
    def atoms(self) -> np.ndarray:
        """Atoms in each structure, (B,)."""
        return self.counts.sum(axis=1)

    def __len__(self) -> int:
        return len(self.energy)


def measure(frames: Sequence, elements: tuple[str, ...]) -> Measures:
    """Measures structures whose elements are among `elements`."""
    radii = covalent_radii(elements)
    reach = max(_NEAR, _REACH * 2 * float(radii.max()))
    table = species_table(elements)
    search = vesin.NeighborList(
        cutoff=reach, full_list=False, n_threads=1
    )  # to start others takes longer than the search
    rows = [{**_of_labels(atoms), **_of_pairs(atoms, search, table, radii)} for atoms in frames]
    return Measures(**{name: np.array([row[name] for row in rows]) for name in rows[0]})


def _of_labels(atoms) -> dict[str, float]:
    label = labels(atoms)
    F, nan = label.forces, float("nan")
    found = dict.fromkeys(("forces", "largest", "net", "net_share", "torque_share"), nan)
    if F is not None:
        net, square = float(np.linalg.norm(F.sum(axis=0))), float((F**2).sum())
        found |= {"forces": square, "largest": float(np.linalg.norm(F, axis=1).max()), "net": net}
        if square > 0:
            found["net_share"] = net / square**0.5
        if square > 0 and not atoms.pbc.any():
            R = atoms.positions - atoms.positions.mean(axis=0)
            lever = float(((R**2).sum(axis=1) * (F**2).sum(axis=1)).sum())
            if lever > 0:
                found["torque_share"] = float(np.linalg.norm(np.cross(R, F).sum(axis=0))) / lever**0.5
    stress = nan if label.stress is None else float(np.abs(label.stress).max())
    return {"energy": nan if label.energy is None else label.energy, "stress": stress, **found}


def _of_pairs(atoms, search, table: np.ndarray, radii: np.ndarray) -> dict[str, np.ndarray | float]:
    species, S = table[atoms.numbers], len(radii)
    i, j, r_ij = search.compute(atoms.positions, full_cell(atoms), atoms.pbc, "ijd")
    one, other = species[i], species[j]
    kind = np.minimum(one, other) * S + np.maximum(one, other)
    closest = np.full(S * S, np.inf)
    np.minimum.at(closest, kind, r_ij)
    closest = np.minimum(closest.reshape(S, S), closest.reshape(S, S).T)
    # Smooth to zero at the reach, so that rounding never moves a pair in or out.
    x = r_ij / search.cutoff
    w = (1 - x**2) ** 3
    sums = []
    for _ in range(_POWERS):
        sums.append(np.bincount(kind, weights=w, minlength=S * S))
        w = w * x
    size = np.full(S, atoms.get_volume() if atoms.pbc.all() else 0.0)
    if not atoms.pbc.any():  # tells apart what is beyond the reach, such as two molecules
        size = np.bincount(
            species, weights=((atoms.positions - atoms.positions.mean(axis=0)) ** 2).sum(axis=1), minlength=S
        )
    return {
        "counts": np.bincount(species, minlength=S),
        "closest": closest,
        "bond": float((closest / (radii[:, None] + radii)).min()),
        "fingerprint": np.concatenate([*sums, size]),
    }


def same_structure(measures: Measures, rtol: float = 1e-7) -> list[np.ndarray]:
    """Groups of structures that are equal but for order, rotation, reflection and translation, as far as near pairs tell.

    The tolerance is that of positions with six decimals. Structures of one composition are sorted along one direction of
    the fingerprint, and only neighbours there compared: the effort grows with their number, not its square.
    """
    found: list[np.ndarray] = []
    direction = np.random.default_rng(0).normal(size=measures.fingerprint.shape[1])
    _, composition = np.unique(measures.counts, axis=0, return_inverse=True)
    for kind in range(composition.max() + 1):
        members = np.flatnonzero(composition == kind)
        prints = measures.fingerprint[members]
        prints = prints / np.maximum(np.abs(prints).max(axis=0), 1.0)
        along = prints @ direction
        order = np.argsort(along, kind="stable")
        free = set(range(len(order)))
        for place, n in enumerate(order):
            if place not in free:
                continue
            twins = [place]
            for other in range(place + 1, len(order)):
                if along[order[other]] - along[n] > rtol * np.abs(direction).sum():
                    break
                if other in free and np.abs(prints[order[other]] - prints[n]).max() <= rtol:
                    twins.append(other)
            free -= set(twins)
            if len(twins) > 1:
                found.append(np.sort(members[order[twins]]))
    return found


@dataclass(frozen=True)
class Slope:
    """A factor between two quantities that should be equal.

    Attributes:
      factor: 1 where both are in one system of units, -1 where one has the other sign; NaN where it is not known.
      error: its standard error.
      share: correlation of the two, less what else is known, 0 to 1.
    """

    factor: float = float("nan")
    error: float = float("nan")
    share: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against 1; the less the two go together, the wider this is."""
        noise = (1 - self.share**2) ** 0.5
        least = max(0.7 - 0.6 * noise, 0.3)
        return not np.isfinite(self.factor) or least < self.factor < 1 / least


class Work(NamedTuple):
    """How energy differences of near frames go with the work of forces and of stresses, and the number of pairs of frames."""

    forces: Slope = Slope()
    stress: Slope = Slope()
    pairs: int = 0


_LEAST_PAIRS = 10
# Of two frames whose energies are compared: beyond, the works of their forces say little of the difference.
_LARGEST_STRAIN, _FARTHEST = 0.15, 0.7


def work(frames: Sequence, pairs: int = 400, per_atom: bool = False) -> Work:
    r"""Fits energy differences by the work of forces and stresses, over pairs of near frames of the same atoms.

    .. math:: \Delta E \approx -a\, \tfrac12 (F_1 + F_2) \cdot \Delta R
        + b\, \tfrac12 (V_1 \sigma_1 + V_2 \sigma_2) : \epsilon

    Displacements are those in the cell, :math:`\epsilon` is the strain from one cell to the other. Where cells differ and
    there is no stress, the energy may depend on the cell in any way that is linear and, with many frames, quadratic.

    Args:
      frames: structures with labels; those that lack energy or forces are passed over.
      pairs: how many pairs are looked at.
      per_atom: whether the energies are those of an atom and not of the structure.
    """
    rows: list[np.ndarray] = []
    for members in _kinds(frames).values():
        if len(rows) > 4 * pairs:  # of very many kinds of structures these tell enough
            break
        found = [
            _work_of_pair(a, b) for a, b in _near_frames(members, max(1, round(pairs * len(members) / len(frames))))
        ]
        table = np.array([row for row in found if row is not None]).reshape(-1, 11)
        if not len(table):
            continue
        if per_atom:
            table[:, 0] *= len(members[0])
        blind = np.isnan(table[:, 2]) & (np.abs(table[:, 3:9]).max(axis=1) > 1e-6)
        if blind.any():
            table = _without_cells(table, blind)
        # What the sum leaves out grows with the second order, the difference of the works of both ends.
        rows += list(np.nan_to_num(table[:, :3]) / np.hypot(table[:, 10:], 1e-2 * len(members[0])))
    if len(rows) < _LEAST_PAIRS:
        return Work(pairs=len(rows))
    difference, of_forces, of_stress = np.array(rows).T
    if not difference.any() or not (of_forces.any() or of_stress.any()):
        return Work(pairs=len(rows))
    return _fitted(difference, of_forces, of_stress)


def _fitted(difference: np.ndarray, of_forces: np.ndarray, of_stress: np.ndarray) -> Work:
    """Factors by least squares, without the few pairs that are far from what the others say."""
    X = np.stack([of_forces, of_stress], axis=1)
    known = np.flatnonzero(np.abs(X).max(axis=0) > 0)
    kept = np.ones(len(X), bool)
    for _ in range(3):
        factors = np.linalg.lstsq(X[kept][:, known], difference[kept], rcond=None)[0]
        off = np.abs(difference - X[:, known] @ factors)
        limit = max(8 * float(np.median(off)), float(np.quantile(off, 0.8)))
        kept = off <= limit
    y, A = difference[kept], X[kept][:, known]
    found = {}
    for place, k in enumerate(known.tolist()):
        # Both have errors: the ratio of the spreads is not pulled to zero by those of the work.
        others = np.delete(A, place, axis=1)
        left, of_this = (v - others @ np.linalg.lstsq(others, v, rcond=None)[0] for v in (y, A[:, place]))
        share = float(left @ of_this / np.sqrt(max((left @ left) * (of_this @ of_this), 1e-300)))
        slope = float(np.sign(share) * np.sqrt((left @ left) / max(of_this @ of_this, 1e-300)))
        error = abs(slope) * np.sqrt((1 - min(share**2, 1.0)) / max(len(y) - len(known), 1))
        found[k] = Slope(slope, float(error), min(abs(share), 1.0))
    return Work(found.get(0, Slope()), found.get(1, Slope()), int(kept.sum()))


def _without_cells(table: np.ndarray, blind: np.ndarray) -> np.ndarray:
    """Pairs less what a smooth function of the cell explains, where no stress says what it does; none where they are too few."""
    strain, middle = table[blind, 3:9], table[blind, 9:10]
    # Linear in the strain, and quadratic in the volume: the difference of squares is twice the difference times the middle.
    basis = np.concatenate([strain, strain[:, :3].sum(axis=1, keepdims=True) * middle], axis=1)
    if blind.sum() < 4 * basis.shape[1]:
        return table[~blind]
    Q, _ = np.linalg.qr(basis)
    rest = table[blind, :2] - Q @ (Q.T @ table[blind, :2])
    return np.concatenate([table[~blind], np.column_stack([rest, np.zeros(len(rest)), table[blind, 3:]])])


def _work_of_pair(a, b) -> np.ndarray | None:
    """Energy difference, work of the forces, of the stress (NaN if not known), strain (6), volume of the middle, second order.

    None if they are too far from each other.
    """
    one, two = labels(a), labels(b)
    assert one.energy is not None and two.energy is not None and one.forces is not None and two.forces is not None
    forces, strain, of_stress, middle, second = two.forces, np.zeros((3, 3)), 0.0, 0.0, 0.0
    if a.pbc.any():
        cells = [full_cell(x) for x in (a, b)]
        scaled = [np.linalg.solve(cell.T, x.positions.T).T for cell, x in zip(cells, (a, b), strict=True)]
        cell = 0.5 * (cells[0] + cells[1])
        shift = scaled[1] - scaled[0]
        shift = (shift - np.where(a.pbc, np.round(shift), 0.0)) @ cell
        gradient = np.linalg.solve(cell, cells[1] - cells[0])
        strain = 0.5 * (gradient + gradient.T)
        if np.abs(gradient).max() > _LARGEST_STRAIN:
            return None
        if np.abs(strain).max() > 1e-9:
            volumes = [abs(np.linalg.det(c)) for c in cells]
            middle = 0.5 * sum(volumes) / len(a)
            of_stress = float("nan")
            if a.pbc.all() and one.stress is not None and two.stress is not None:
                ends = [float((v * s * strain).sum()) for v, s in zip(volumes, (one.stress, two.stress), strict=True)]
                of_stress, second = 0.5 * sum(ends), 0.5 * (ends[1] - ends[0])
    else:
        Q = _rotation(b.positions, a.positions)
        shift = (b.positions - b.positions.mean(axis=0)) @ Q - (a.positions - a.positions.mean(axis=0))
        forces = forces @ Q
    if np.linalg.norm(shift - shift.mean(axis=0), axis=1).max() > _FARTHEST:
        return None
    of_forces = -0.5 * float(((one.forces + forces) * shift).sum())
    six = strain[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    second = np.hypot(second, 0.5 * float(((one.forces - forces) * shift).sum()))
    return np.array([two.energy - one.energy, of_forces, of_stress, *six, middle, second])


def _kinds(frames: Sequence) -> dict[bytes, list]:
    """Frames with energy and forces, by their atoms and directions of periodicity."""
    kinds: dict[bytes, list] = {}
    for atoms in frames:
        label = labels(atoms)
        if len(atoms) > 1 and label.energy is not None and label.forces is not None:
            kinds.setdefault(atoms.numbers.tobytes() + atoms.pbc.tobytes(), []).append(atoms)
    return kinds


def _near_frames(members: Sequence, pairs: int) -> list[tuple]:
    """For frames of one kind, spread over all: the nearest of some that follow, several where there are few."""
    found = []
    for n in range(0, len(members) - 1, -(-len(members) // pairs)):
        others = members[n + 1 : n + 9]
        nearest = np.argsort([_difference(members[n], other) for other in others], kind="stable")
        found += [(members[n], others[k]) for k in nearest[: 3 if len(members) < 100 else 1]]
    return found


def _difference(a, b) -> float:
    """Cheap measure of how far frames are apart: by the distances of all atoms to the first and the last, and by the cells."""
    ends = np.array([0, -1])
    r = [np.linalg.norm(x.positions[:, None] - x.positions[ends], axis=2) for x in (a, b)]
    return float(((r[0] - r[1]) ** 2).sum()) + len(a) * float(
        (np.subtract(*(x.cell.array[x.pbc] for x in (a, b))) ** 2).sum()
    )


def _rotation(of: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Rotation Q that brings `of` @ Q nearest to `onto`, both about their centres (Kabsch, doi:10.1107/S0567739476001873)."""
    A, B = of - of.mean(axis=0), onto - onto.mean(axis=0)
    U, _, V = np.linalg.svd(A.T @ B)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ V))])
    return U @ sign @ V


def total_energy(elements: tuple[str, ...]) -> np.ndarray:
    r"""Total energy of a neutral atom of each element in hartree, all electrons, within 1 % beyond helium.

    .. math:: E \approx -0.768745\, Z^{7/3} + \tfrac12 Z^2 - 0.269900\, Z^{5/3}

    References: Schwinger, Phys. Rev. A 24, 2353 (1981), doi:10.1103/PhysRevA.24.2353.
    """
    Z = atomic_numbers(elements).astype(np.float64)
    return -0.768745 * Z ** (7 / 3) + 0.5 * Z**2 - 0.269900 * Z ** (5 / 3)
