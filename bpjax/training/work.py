"""Energy differences of near structures against the work of forces and stresses: signs, units, whether they go together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bpjax.geometry import superposing_rotation
from bpjax.io.labels import labels
from bpjax.pair_search import complete_cell


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

    @property
    def middle(self) -> float:
        """The factor between the two ways to draw a line through points of which both numbers have errors."""
        return self.factor * self.share**0.5


class Votes(NamedTuple):
    """What single pairs of frames say of a sign.

    Attributes:
      right: pairs whose energy difference is about the work, within a factor of two.
      wrong: frames of the pairs for which it is so with the other sign.
      telling: pairs with a work that is not negligible.
    """

    right: int = 0
    wrong: tuple[tuple[int, int], ...] = ()
    telling: int = 0

    @property
    def mixed(self) -> bool:
        """Whether some structures have one sign and others the other, and not by chance."""
        fewer, chance = min(self.right, len(self.wrong)), self._chance
        return fewer >= 8 and fewer > max(2.5 * chance, chance + 4 * chance**0.5, 0.1 * self._sure)

    @property
    def negative(self) -> bool:
        """Whether all structures have the other sign."""
        more = len(self.wrong) - self.right
        return len(self.wrong) >= 10 and more > 3.5 * self._sure**0.5 and not self.mixed

    @property
    def positive(self) -> bool:
        """Whether nearly all structures have the sign that they should have."""
        return self.right >= 20 and len(self.wrong) <= 0.1 * self.right

    @property
    def told(self) -> bool:
        """Whether anything is known of the sign."""
        return self.positive or self.negative or self.mixed

    @property
    def clear(self) -> bool:
        """Whether both signs are there far more often than by chance."""
        return min(self.right, len(self.wrong)) > 4 * self._chance

    @property
    def _sure(self) -> int:
        return self.right + len(self.wrong)

    @property
    def _chance(self) -> float:
        """Pairs of either kind that are so by chance: of ratios of random numbers 0.37 are one or the other, by halves."""
        return 0.5 * 0.37 * max(self.telling - self._sure, 0) / (1 - 0.37)


class Work(NamedTuple):
    """How energy differences of near frames go with the work of forces and of stresses.

    Attributes:
      forces, stress: factors between them.
      pairs: number of pairs of frames.
      votes: of forces, of stresses.
      misfit: what is left of the differences, over what the trapezoid rule may leave; the quantile of 0.8. Sound data have less
        than 0.6, whatever they are.
    """

    forces: Slope = Slope()
    stress: Slope = Slope()
    pairs: int = 0
    votes: tuple[Votes, Votes] = (Votes(), Votes())
    misfit: float = 0.0


_LEAST_PAIRS = 10
# Work in eV per atom that is not below the errors of energies.
_LEAST_WORK = 1e-3
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
    known: list[np.ndarray] = []
    number = {id(atoms): n for n, atoms in enumerate(frames)}
    for members in _kinds(frames).values():
        if len(rows) > 4 * pairs:  # of very many kinds of structures these tell enough
            break
        found = [
            (row, (number[id(a)], number[id(b)]))
            for a, b in _near_frames(members, max(1, round(pairs * len(members) / len(frames))))
            if (row := _work_of_pair(a, b)) is not None
        ]
        table = np.array([row for row, _ in found]).reshape(-1, 11)
        if not len(table):
            continue
        if per_atom:
            table[:, 0] *= len(members[0])
        blind = np.isnan(table[:, 2]) & (np.abs(table[:, 3:9]).max(axis=1) > 1e-6)
        seen = np.column_stack([np.nan_to_num(table[:, [0, 1, 2, 10]]) / len(members[0]), [both for _, both in found]])
        known.append(seen[~blind])
        if blind.any():
            table = _without_cells(table, blind)
        # What the sum leaves out grows with the second order, the difference of the works of both ends.
        rows += list(np.nan_to_num(table[:, :3]) / np.hypot(table[:, 10:], 1e-2 * len(members[0])))
    if len(rows) < _LEAST_PAIRS:
        return Work(pairs=len(rows))
    difference, of_forces, of_stress = np.array(rows).T
    if not difference.any() or not (of_forces.any() or of_stress.any()):
        return Work(pairs=len(rows))
    return _fitted(difference, of_forces, of_stress)._replace(**_pair_by_pair(np.concatenate(known)))


def _pair_by_pair(table: np.ndarray) -> dict[str, Any]:
    """Votes and misfit, from energy difference, work of forces, of stress, second order (all per atom), and the two frames."""
    if not len(table):
        return {}
    difference, *works, second = table[:, :4].T
    left = difference - works[0] - works[1]
    votes = []
    for of_this in works:
        rest = left + of_this
        telling = np.abs(of_this) > _LEAST_WORK
        right = telling & (np.abs(rest - of_this) < 0.3 * np.abs(rest + of_this))
        wrong = telling & (np.abs(rest + of_this) < 0.3 * np.abs(rest - of_this))
        frames = tuple((int(a), int(b)) for a, b in table[wrong, 4:])
        votes.append(Votes(int(right.sum()), frames, int(telling.sum())))
    misfit = float(np.quantile(np.abs(left) / np.hypot(second, 2 * _LEAST_WORK), 0.8))
    return {"votes": tuple(votes), "misfit": misfit}


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
        cells = [complete_cell(x.cell.array, x.pbc) for x in (a, b)]
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
        Q = superposing_rotation(b.positions, a.positions)
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
