"""Errors of predictions against labels: mean absolute and root mean square, overall and by what may explain them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np

Array = np.ndarray


@runtime_checkable
class Quantities(Protocol):
    """Energy in eV, forces in eV/A and stress in eV/A^3 of one structure, None where not known.

    `bpjax.potential.evaluator.Evaluation` and `bpjax.io.labels.Labels` are such.
    """

    @property
    def energy(self) -> float | None:
        """Total energy in eV."""
        ...

    @property
    def forces(self) -> Array | None:
        """Forces in eV/A, (N, 3)."""
        ...

    @property
    def stress(self) -> Array | None:
        """Stress in eV/A^3, (3, 3)."""
        ...


QUANTITIES = {"energy": "energy per atom, eV", "forces": "force component, eV/A", "stress": "stress component, eV/A^3"}
"""What errors are given of, with their units."""

FORCE_EDGES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, np.inf)
"""Between which sizes of the reference force on an atom, in eV/A, errors are taken together."""

RESOLUTION = 1e-6
"""Expected errors below this, in eV and eV/A, are rounding: those of forces that vanish by symmetry, for example."""

WORST = 5
"""How many of the largest errors are listed."""


def differences(predicted: Quantities, reference: Quantities, atoms: int) -> dict[str, Array]:
    """Predicted minus reference: energy per atom (1,), force components (3 N,), the six components of the stress.

    What one of the two does not have is left out.
    """
    found = {}
    if predicted.energy is not None and reference.energy is not None:
        found["energy"] = np.array([(predicted.energy - reference.energy) / atoms])
    if predicted.forces is not None and reference.forces is not None:
        found["forces"] = np.ravel(predicted.forces - reference.forces)
    if predicted.stress is not None and reference.stress is not None:
        found["stress"] = (predicted.stress - reference.stress)[np.triu_indices(3)]
    return found


def error_metrics(
    predicted: Sequence[Quantities],
    reference: Sequence[Quantities],
    atoms: Sequence[int],
    groups: Sequence[str] | None = None,
    symbols: Sequence[Sequence[str]] | None = None,
    sources: Sequence[tuple[str, int]] | None = None,
) -> dict[str, Any]:
    """Errors over all structures and over each group, element and size of the force.

    Args:
      predicted: what the model says about each structure.
      reference: labels of each structure; those that are missing do not count.
      atoms: number of atoms of each structure.
      groups: kind of each structure, if the errors are wanted for each kind too.
      symbols: chemical symbols of the atoms of each structure, if the errors are wanted for each element too.
      sources: file and number of the frame of each structure, for the list of the largest errors.

    Returns: ``energy_mae`` and ``energy_rmse`` in eV/atom, ``forces_mae`` and ``forces_rmse`` in eV/A for each
      component, ``stress_mae`` and ``stress_rmse`` in eV/A^3 for each of six components, None where there are no labels;
      the counts ``structures`` and ``atoms``, and of the numbers compared ``energy_count``, ``forces_count``,
      ``stress_count``. With `groups` also ``groups``, a dict with the same for each group, and with `symbols` also
      ``elements``, the errors of the forces on the atoms of each element. ``force_size`` as from `force_size_errors`,
      ``worst`` as from `worst_errors`, and for models that say how large their errors are ``calibration`` as from
      `calibration`.

    Raises:
      ValueError: sequences of different lengths.
    """
    rows = [differences(p, r, n) for p, r, n in zip(predicted, reference, atoms, strict=True)]
    metrics: dict[str, Any] = _statistics(rows, atoms)
    if groups is not None:
        members: dict[str, list[int]] = {}
        for number, group in zip(range(len(rows)), groups, strict=True):
            members.setdefault(group, []).append(number)
        metrics["groups"] = {
            group: _statistics([rows[n] for n in members[group]], [atoms[n] for n in members[group]])
            for group in sorted(members)
        }
    if symbols is not None:
        metrics["elements"] = element_errors(predicted, reference, symbols)
    metrics["force_size"] = force_size_errors(predicted, reference)
    metrics["worst"] = worst_errors(predicted, reference, atoms, groups, symbols, sources)
    expected = calibration(predicted, reference)
    if expected:
        metrics["calibration"] = expected
    return metrics


def _statistics(rows: Sequence[dict[str, Array]], atoms: Sequence[int]) -> dict[str, float | int | None]:
    metrics: dict[str, float | int | None] = {"structures": len(rows), "atoms": int(sum(atoms))}
    for quantity in QUANTITIES:
        values = np.concatenate([np.zeros(0), *(row[quantity] for row in rows if quantity in row)])
        metrics[f"{quantity}_mae"] = float(np.mean(np.abs(values))) if len(values) else None
        metrics[f"{quantity}_rmse"] = float(np.sqrt(np.mean(values**2))) if len(values) else None
        metrics[f"{quantity}_count"] = len(values)
    return metrics


def _forces(predicted: Sequence[Quantities], reference: Sequence[Quantities]) -> Iterator[tuple[int, Array, Array]]:
    """Number of each structure that has them on both sides, predicted and reference forces (N, 3)."""
    for number, (p, r) in enumerate(zip(predicted, reference, strict=True)):
        if p.forces is not None and r.forces is not None:
            yield number, p.forces, r.forces


_NO_FORCES = (np.zeros((0, 3)), np.zeros((0, 3)))


def _together(pairs: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    first, second = zip(*pairs, strict=True)
    return np.concatenate(first), np.concatenate(second)


def _force_statistics(difference: Array, reference: Array) -> dict[str, Any]:
    """Of the forces on some atoms, both (atoms, 3): errors of components, and relative to the size of the forces."""
    size = float(np.sum(reference**2))
    return {
        "atoms": len(difference),
        "forces_mae": float(np.mean(np.abs(difference))) if len(difference) else None,
        "forces_rmse": float(np.sqrt(np.mean(difference**2))) if len(difference) else None,
        "forces_relative": float(np.sqrt(np.sum(difference**2) / size)) if size > 0 else None,
    }


def element_errors(
    predicted: Sequence[Quantities], reference: Sequence[Quantities], symbols: Sequence[Sequence[str]]
) -> dict[str, dict[str, Any]]:
    r"""Errors of the forces on the atoms of each element.

    Args:
      predicted: what the model says about each structure.
      reference: labels of each structure.
      symbols: chemical symbols of its atoms.

    Returns: by chemical symbol, in alphabetical order: ``atoms`` compared, ``forces_mae`` and ``forces_rmse`` of their components
      in eV/A, and ``forces_relative``, :math:`\sqrt{\sum |\Delta F|^2 / \sum |F^\mathrm{ref}|^2}`, None without forces.
    """
    found = {s: [_NO_FORCES] for s in sorted({s for names in symbols for s in names})}
    for number, p, r in _forces(predicted, reference):
        names = np.array(symbols[number])
        for element in np.unique(names):
            found[str(element)].append(((p - r)[names == element], r[names == element]))
    return {element: _force_statistics(*_together(pairs)) for element, pairs in found.items()}


def force_size_errors(
    predicted: Sequence[Quantities], reference: Sequence[Quantities], edges: Sequence[float] = FORCE_EDGES
) -> list[dict[str, Any]]:
    r"""Errors of the forces by the size of the reference force on the atom, :math:`|F^\mathrm{ref}|`.

    Args:
      predicted: what the model says about each structure.
      reference: labels of each structure.
      edges: of the ranges, in eV/A; each takes its lower edge.

    Returns: for each range ``from`` and ``to`` in eV/A (None for no limit) and what `element_errors` gives for an element.
    """
    difference, forces = _together([_NO_FORCES, *((p - r, r) for _, p, r in _forces(predicted, reference))])
    size = np.linalg.norm(forces, axis=1)
    ranges = []
    for low, high in pairwise(edges):
        inside = (size >= low) & (size < high)
        limits = {"from": float(low), "to": float(high) if np.isfinite(high) else None}
        ranges.append({**limits, **_force_statistics(difference[inside], forces[inside])})
    return ranges


def worst_errors(
    predicted: Sequence[Quantities],
    reference: Sequence[Quantities],
    atoms: Sequence[int],
    groups: Sequence[str] | None = None,
    symbols: Sequence[Sequence[str]] | None = None,
    sources: Sequence[tuple[str, int]] | None = None,
    count: int = WORST,
) -> dict[str, list[dict[str, Any]]]:
    """The structures with the largest errors; arguments as for `error_metrics`.

    Returns: ``energy``, with ``error`` in eV/atom (predicted less reference), and ``forces``, with ``error`` the norm of the
      difference in eV/A at the worst ``atom`` of the structure and ``reference`` the norm of the force there; both from the
      largest error on. Each entry has ``structure``, its number, and ``group``, ``element``, ``file`` and ``frame`` as far as
      known.
    """
    energy, forces = [], []
    for number, (p, r, n) in enumerate(zip(predicted, reference, atoms, strict=True)):
        if p.energy is not None and r.energy is not None:
            energy.append((number, {"error": float((p.energy - r.energy) / n)}))
    for number, p, r in _forces(predicted, reference):
        error = np.linalg.norm(p - r, axis=1)
        atom = int(np.argmax(error))
        found: dict[str, Any] = {"error": float(error[atom]), "reference": float(np.linalg.norm(r[atom])), "atom": atom}
        if symbols is not None:
            found["element"] = str(symbols[number][atom])
        forces.append((number, found))

    def described(number: int, found: dict[str, Any]) -> dict[str, Any]:
        known = {} if groups is None else {"group": groups[number]}
        if sources is not None:
            known |= {"file": str(sources[number][0]), "frame": int(sources[number][1])}
        return {"structure": number, **known, **found}

    return {
        name: [described(*one) for one in sorted(all_, key=lambda one: -abs(one[1]["error"]))[:count]]
        for name, all_ in (("energy", energy), ("forces", forces))
    }


def calibration(predicted: Sequence[Quantities], reference: Sequence[Quantities]) -> dict[str, dict[str, Any]]:
    r"""Whether errors are as large as a model expects them to be.

    The expected error has a part from the spread of a committee and one from predicted noise of the labels,
    :math:`\sigma^2 = \sigma_\mathrm{spread}^2 + \sigma_\mathrm{noise}^2`, as far as the model has them, and is compared with the
    error that was made, :math:`z = (y - y^\mathrm{ref}) / \sigma`. Where errors are normal and widths right, z^2 is 1 on average,
    and 68.3 and 95.4 % of the errors are within one and two :math:`\sigma`. Widths below `RESOLUTION` are left out.

    Args:
      predicted: what the model says about each structure; spread and noise as in `bpjax.potential.evaluator.Evaluation`.
      reference: labels of each structure.

    Returns: for ``energy`` (total energies) and ``forces`` (components), as far as there are widths and labels: ``count``,
      ``z_squared`` (mean), ``within_one`` and ``within_two`` (fractions), ``sigma_rms`` and ``error_rms`` in eV or eV/A.

    References: sum of the two parts: Lakshminarayanan, Pritzel, Blundell, Adv. Neural Inf. Process. Syst. 30 (2017), section 2.4.
    """
    collected = {name: [(np.zeros(0), np.zeros(0))] for name in ("energy", "forces")}
    for p, r in zip(predicted, reference, strict=True):
        for name, pairs in collected.items():
            sigma = _expected(p, name)
            value, wanted = getattr(p, name), getattr(r, name)
            if sigma is not None and value is not None and wanted is not None:
                error = np.ravel(np.asarray(value) - wanted)
                pairs.append((error, np.broadcast_to(sigma, np.shape(value)).ravel()))
    found = {}
    for name, pairs in collected.items():
        error, sigma = _together(pairs)
        error, sigma = error[sigma > RESOLUTION], sigma[sigma > RESOLUTION]
        if not len(sigma):
            continue
        z = np.abs(error / sigma)
        found[name] = {
            "count": len(z),
            "z_squared": float(np.mean(z**2)),
            "within_one": float(np.mean(z <= 1)),
            "within_two": float(np.mean(z <= 2)),
            "sigma_rms": float(np.sqrt(np.mean(sigma**2))),
            "error_rms": float(np.sqrt(np.mean(error**2))),
        }
    return found


def _expected(predicted: Quantities, name: str) -> Array | None:
    """Expected error of ``energy`` () or ``forces`` (N, 3) or (N, 1); None for a model that does not say."""
    parts = []
    for kind in ("spread", "noise"):
        part = getattr(predicted, f"{name}_{kind}", None)
        if part is not None:
            part = np.asarray(part, np.float64)
            parts.append(part[:, None] if name == "forces" and part.ndim == 1 else part)
    return np.asarray(np.sqrt(sum(part**2 for part in parts))) if parts else None
