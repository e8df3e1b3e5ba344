"""Structures far from the others: energies beyond their composition, and forces, that are unlike those of the set."""

import numpy as np

from bpjax.elements import fit_offsets
from bpjax.training.measures import Measures

# An outlier is so many spreads away from the middle (more in small sets, whose spread is uncertain), and so many times
# farther than the next structure: a tail without a gap, however long, is part of the set.
_OUTLIER, _GAP = 12.0, 1.5
# Spreads are taken to be at least this: eV/atom and eV/A.
_ENERGY_SPREAD, _FORCE_SPREAD = 5e-3, 0.1


def composition_energies(measures: Measures, isolated: np.ndarray | None = None) -> np.ndarray:
    """Energy of an atom of each element in eV, (S,), as `fit_offsets`, but not bent by a few absurd energies."""
    known = np.isfinite(measures.energy)
    if not known.any():
        return np.zeros(measures.counts.shape[1])
    counts, energies = measures.counts[known], measures.energy[known]
    kept = np.ones(len(energies), bool)
    offsets = fit_offsets(counts, energies, isolated)
    for _ in range(5):
        residual = (energies - counts @ offsets) / counts.sum(axis=1)
        middle, limit = _limit(residual, _ENERGY_SPREAD, both=True)
        now = np.abs(residual - middle) <= limit
        if (now == kept).all():
            break
        kept = now
        offsets = fit_offsets(counts[kept], energies[kept], isolated)
    return offsets


def outliers(
    measures: Measures, usual: Measures, offsets: np.ndarray, max_force: float | None = None
) -> dict[int, str]:
    """Structures with an energy or a force far from what is usual, and why.

    The energy per atom, less that of the composition, is compared with the median of the usual ones, and so is the largest
    force. What is far is told by the spread of the inner part, which outliers do not change, and by a gap.

    Args:
      measures: the structures.
      usual: those that say what is usual.
      offsets: energy of an atom of each element in eV, (S,).
      max_force: largest force in eV/A that is allowed in any case; None for no such limit.
    """
    found: dict[int, list[str]] = {}
    residual = (measures.energy - measures.counts @ offsets) / measures.atoms
    middle, limit = _limit((usual.energy - usual.counts @ offsets) / usual.atoms, _ENERGY_SPREAD, both=True)
    for n in np.flatnonzero(np.abs(residual - middle) > limit):
        found.setdefault(int(n), []).append(f"energy {residual[n] - middle:+.3g} eV/atom from the middle of the set")
    middle, limit = _limit(usual.largest, _FORCE_SPREAD, both=False)
    for n in np.flatnonzero(measures.largest - middle > limit):
        found.setdefault(int(n), []).append(f"a force of {measures.largest[n]:.3g} eV/A, where {middle:.2g} is usual")
    if max_force is not None:
        for n in np.flatnonzero(measures.largest > max_force):
            text = f"a force of {measures.largest[n]:.3g} eV/A, above max_force of {max_force:g}"
            found[int(n)] = [r for r in found.get(int(n), []) if "usual" not in r] + [text]
    return {n: ", ".join(reasons) for n, reasons in sorted(found.items())}


def _limit(values: np.ndarray, least: float, both: bool) -> tuple[float, float]:
    """Median, and the distance from it (to `both` sides or above) beyond which a structure is far from the others."""
    middle, spread = middle_of(values, least)
    deviation = values[np.isfinite(values)] - middle
    limit = _OUTLIER * (1 + 10 / max(len(deviation), 1)) * spread
    for distance in np.sort(np.abs(deviation) if both else deviation):
        if distance > limit:
            break
        limit = max(limit, _GAP * float(distance))
    return middle, limit


def middle_of(values: np.ndarray, least: float) -> tuple[float, float]:
    """Median and spread (of a normal distribution: its width) of the values that are known."""
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, np.inf
    middle = float(np.median(values))
    deviation = np.abs(values - middle)
    # The larger of two estimates: sets of several kinds of structures have a narrow core and broad shoulders. The quantile
    # is a value of the set below its largest, so that one outlier among ten structures does not hide itself.
    core = 1.4826 * float(np.median(deviation))
    shoulders = float(np.quantile(deviation, 0.8, method="lower")) / 1.2816
    return middle, max(core, shoulders, least)
