"""What the sanity report is made of: numbers of each structure, from one pass over its pairs of near atoms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bpjax.elements import atomic_numbers, covalent_radii, species_table
from bpjax.io.labels import Labels, labels
from bpjax.pair_search import search

# Near atoms are those within 6 A, or so many times the sum of the two largest covalent radii.
_NEAR, _REACH = 6.0, 1.8
_POWERS = 4
# Forces, root mean square in eV/A, from which on they tell how large stresses are.
_FORCE = 0.05


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
      pressure: mean of the diagonal of the stress in eV/A^3, of the sign of stresses; volume: A^3 per atom, where periodic, (B,).
      shear_share: shear stress (root mean square) over what pair forces of this size would make; NaN with small forces, (B,).
      closest: smallest distance in A, over all pairs of elements, (B, S, S); infinite where none are near.
      bond: smallest distance over the sum of the covalent radii, (B,).
      fingerprint: numbers that order, rotation, reflection and translation do not change: sums over near pairs, and the
        volume where periodic, else the moment of inertia of each element, (B, M).
      bonds: pairs that are nearer than `BONDED`, their number n, and of the lengths d and the forces along them f, less their
        middle in the structure, the sums of d^2, f^2, d f; and the sums of d^2 and d f of C-H, N-H and O-H alone, (B, 6).
    """

    counts: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    largest: np.ndarray
    net: np.ndarray
    net_share: np.ndarray
    torque_share: np.ndarray
    stress: np.ndarray
    pressure: np.ndarray
    volume: np.ndarray
    shear_share: np.ndarray
    closest: np.ndarray
    bond: np.ndarray
    fingerprint: np.ndarray
    bonds: np.ndarray

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
    rows = [
        {**_of_labels(atoms, label), **_of_pairs(atoms, label.forces, reach, table, radii)}
        for atoms, label in zip(frames, map(labels, frames), strict=True)
    ]
    return Measures(**{name: np.array([row[name] for row in rows]) for name in rows[0]})


def _of_labels(atoms, label: Labels) -> dict[str, float]:
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
    energy = nan if label.energy is None else label.energy
    found["pressure"] = nan if label.stress is None else float(np.trace(label.stress)) / 3
    found["volume"] = atoms.get_volume() / len(atoms) if atoms.pbc.all() else nan
    return {"energy": energy, "stress": stress, "shear_share": shear_share(atoms, label), **found}


def shear_share(atoms, label: Labels) -> float:
    """See `Measures`."""
    if label.forces is None or label.stress is None or not atoms.pbc.all():
        return float("nan")
    size, volume = float(np.sqrt(np.mean(label.forces**2))), atoms.get_volume()
    if size <= _FORCE:
        return float("nan")
    # Of N forces f, independent and a lattice spacing long: f (V / N)^(1/3) N^(1/2) / V.
    usual = size * (volume / len(atoms)) ** (1 / 3) * len(atoms) ** 0.5 / volume
    return float(np.sqrt(np.mean(label.stress[[1, 0, 0], [2, 2, 1]] ** 2))) / usual


# Of real sets the middle is 0.1 to 0.6, of random ones 0.02 to 2.7.
_SHEAR = 0.006, 8.0


def odd_shear(shares: np.ndarray) -> float | None:
    """Middle of `Measures.shear_share` where stresses are far too large or small for the forces; else None, or where few tell."""
    shares = shares[np.isfinite(shares)]
    middle = float(np.median(shares)) if len(shares) >= 10 else 1.0
    return middle if middle < _SHEAR[0] or middle > _SHEAR[1] else None


def _of_pairs(
    atoms, forces: np.ndarray | None, reach: float, table: np.ndarray, radii: np.ndarray
) -> dict[str, np.ndarray | float]:
    species, S = table[atoms.numbers], len(radii)
    # One thread: to start others takes longer than the search.
    i, j, r_ij, R_ij = search(atoms.positions, atoms.cell.array, atoms.pbc, reach, "ijdD", threads=1)
    one, other = species[i], species[j]
    kind = np.minimum(one, other) * S + np.maximum(one, other)
    closest = np.full(S * S, np.inf)
    np.minimum.at(closest, kind, r_ij)
    closest = np.minimum(closest.reshape(S, S), closest.reshape(S, S).T)
    # Smooth to zero at the reach, so that rounding never moves a pair in or out.
    x = r_ij / reach
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
        "bonds": _bonds(atoms.numbers, forces, radii, (i, j, r_ij, R_ij), (one, other), kind),
    }


BONDED = 1.3
"""Length of a bond over the sum of the covalent radii, at most."""


def _bonds(
    numbers: np.ndarray, forces: np.ndarray | None, radii: np.ndarray, pairs: tuple, species: tuple, kind: np.ndarray
) -> np.ndarray:
    """See `Measures.bonds`."""
    near = np.flatnonzero(pairs[2] < BONDED * (radii[species[0]] + radii[species[1]]))
    if forces is None or not len(near):
        return np.zeros(6)
    i, j, d, R, kind = (x[near] for x in (*pairs, kind))
    f = 0.5 * ((forces[j] - forces[i]) * R).sum(axis=1) / d
    _, kind = np.unique(kind, return_inverse=True)
    count = np.bincount(kind)
    d, f = (x - (np.bincount(kind, weights=x) / count)[kind] for x in (d, f))
    Z = np.sort(numbers[np.stack([i, j])], axis=0)
    hydrogen = (Z[0] == 1) & (Z[1] >= 6) & (Z[1] <= 8)
    return np.array([len(d), d @ d, f @ f, d @ f, d[hydrogen] @ d[hydrogen], d[hydrogen] @ f[hydrogen]])


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


def total_energy(elements: tuple[str, ...]) -> np.ndarray:
    r"""Total energy of a neutral atom of each element in hartree, all electrons, within 1 % beyond helium.

    .. math:: E \approx -0.768745\, Z^{7/3} + \tfrac12 Z^2 - 0.269900\, Z^{5/3}

    References: Schwinger, Phys. Rev. A 24, 2353 (1981), doi:10.1103/PhysRevA.24.2353.
    """
    Z = atomic_numbers(elements).astype(np.float64)
    return -0.768745 * Z ** (7 / 3) + 0.5 * Z**2 - 0.269900 * Z ** (5 / 3)
