"""Errors of predictions against labels: mean absolute and root mean square, overall and by kind of structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

Array = np.ndarray


@runtime_checkable
class Quantities(Protocol):
    """Energy in eV, forces in eV/A and stress in eV/A^3 of one structure, None where not known.

    `bpjax.potential.evaluator.Evaluation` and `bpjax.io.structures.Labels` are such.
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
) -> dict[str, Any]:
    """Errors over all structures and over each group.

    Args:
      predicted: what the model says about each structure.
      reference: labels of each structure; those that are missing do not count.
      atoms: number of atoms of each structure.
      groups: kind of each structure, if the errors are wanted for each kind too.

    Returns: ``energy_mae`` and ``energy_rmse`` in eV/atom, ``forces_mae`` and ``forces_rmse`` in eV/A for each
      component, ``stress_mae`` and ``stress_rmse`` in eV/A^3 for each of six components, None where there are no labels;
      the counts ``structures`` and ``atoms``, and of the numbers compared ``energy_count``, ``forces_count``,
      ``stress_count``. With `groups` also ``groups``, a dict with the same for each group.
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
    return metrics


def _statistics(rows: Sequence[dict[str, Array]], atoms: Sequence[int]) -> dict[str, float | int | None]:
    metrics: dict[str, float | int | None] = {"structures": len(rows), "atoms": int(sum(atoms))}
    for quantity in QUANTITIES:
        values = np.concatenate([np.zeros(0), *(row[quantity] for row in rows if quantity in row)])
        metrics[f"{quantity}_mae"] = float(np.mean(np.abs(values))) if len(values) else None
        metrics[f"{quantity}_rmse"] = float(np.sqrt(np.mean(values**2))) if len(values) else None
        metrics[f"{quantity}_count"] = len(values)
    return metrics
