"""What the sanity report is made of: numbers of each structure, from one pass over its pairs of near atoms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import vesin
from ase.geometry import complete_cell

from bpjax.elements import atomic_numbers, covalent_radii, species_of
from bpjax.io.structures import labels

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
    rows = [{**_of_labels(atoms), **_of_pairs(atoms, elements, radii, reach)} for atoms in frames]
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
            R = atoms.positions - atoms.positions.mean(axis=0)
            torques = np.cross(R, F)
            lever = float(((R**2).sum(axis=1) * (F**2).sum(axis=1)).sum())
            if not atoms.pbc.any() and lever > 0:
                found["torque_share"] = float(np.linalg.norm(torques.sum(axis=0))) / lever**0.5
    stress = nan if label.stress is None else float(np.abs(label.stress).max())
    return {"energy": nan if label.energy is None else label.energy, "stress": stress, **found}


def _of_pairs(atoms, elements: tuple[str, ...], radii: np.ndarray, reach: float) -> dict[str, np.ndarray | float]:
    species = species_of(atoms.numbers, elements)
    S = len(elements)
    search = vesin.NeighborList(cutoff=reach, full_list=False)
    cell = complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
    i, j, r_ij = search.compute(atoms.positions, cell, atoms.pbc, "ijd")
    low, high = np.minimum(species[i], species[j]), np.maximum(species[i], species[j])
    kind = (low * S + high).astype(np.int64)
    closest = np.full(S * S, np.inf)
    np.minimum.at(closest, kind, r_ij)
    closest = np.minimum(closest.reshape(S, S), closest.reshape(S, S).T)
    # Smooth to zero at the reach, so that rounding never moves a pair in or out.
    x = r_ij / reach
    w = (1 - x**2) ** 3
    sums = [np.bincount(kind, weights=w * x**p, minlength=S * S) for p in range(_POWERS)]
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


def work_slope(frames: Sequence, pairs: int = 400) -> tuple[float, float, int]:
    r"""How energy differences go with the work of the forces, over pairs of frames of the same atoms and cell.

    .. math:: \Delta E \approx -\tfrac12 (F_1 + F_2) \cdot (R_2 - R_1)

    The slope is 1 where energy, length and forces are in one system of units, -1 where gradients were taken for forces.

    Returns: slope of :math:`\Delta E` against the work, the correlation of both, and the number of pairs; NaN for less than 10.
    """
    works, differences = [], []
    for a, b in _near_frames(frames, pairs):
        (E_a, F_a), (E_b, F_b) = _energy_and_forces(a), _energy_and_forces(b)
        shift = b.positions - a.positions
        if a.pbc.any():
            scaled = np.linalg.solve(complete_cell(a.cell.array).T, shift.T).T
            shift = shift - np.where(a.pbc, np.round(scaled), 0.0) @ complete_cell(a.cell.array)
        else:
            Q = _rotation(b.positions, a.positions)
            centred = b.positions - b.positions.mean(axis=0)
            shift = centred @ Q - (a.positions - a.positions.mean(axis=0))
            F_b = F_b @ Q
        works.append(-0.5 * float(((F_a + F_b) * shift).sum()))
        differences.append(E_b - E_a)
    if len(works) < 10:
        return float("nan"), float("nan"), len(works)
    w, e = np.array(works), np.array(differences)
    if not w.any() or not e.any():
        return float("nan"), float("nan"), len(works)
    correlation = float(w @ e / np.sqrt((w @ w) * (e @ e)))
    # Both have errors; the ratio of the spreads is not pulled to zero by those of the work.
    return float(np.sign(correlation) * np.sqrt((e @ e) / (w @ w))), correlation, len(works)


def _energy_and_forces(atoms) -> tuple[float, np.ndarray]:
    label = labels(atoms)
    assert label.energy is not None and label.forces is not None  # others are not chosen
    return label.energy, label.forces


def _near_frames(frames: Sequence, pairs: int) -> list[tuple]:
    """For frames spread over the set: the nearest of some others with the same atoms in the same cell."""
    kinds: dict[bytes, list] = {}
    for atoms in frames:
        label = labels(atoms)
        if len(atoms) > 1 and label.energy is not None and label.forces is not None:
            periodic = atoms.cell.array[atoms.pbc].round(6) + 0.0
            key = atoms.numbers.tobytes() + atoms.pbc.tobytes() + periodic.tobytes()
            kinds.setdefault(key, []).append(atoms)
    found = []
    total = sum(map(len, kinds.values()))
    for members in kinds.values():
        share = max(1, round(pairs * len(members) / total))
        for n in range(0, len(members) - 1, -(-len(members) // share)):
            others = members[n + 1 : n + 9]
            distances = [_difference(members[n], other) for other in others]
            found.append((members[n], others[int(np.argmin(distances))]))
    return found


def _difference(a, b) -> float:
    """Cheap measure of how far two frames are apart: by the distances of all atoms to the first and the last."""
    ends = np.array([0, -1])
    r = [np.linalg.norm(x.positions[:, None] - x.positions[ends], axis=2) for x in (a, b)]
    return float(((r[0] - r[1]) ** 2).sum())


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
