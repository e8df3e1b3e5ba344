"""The silicon data shipped with bpjax, as the quickstart and the notebook use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from bpjax import datasets
from bpjax.analysis.eos import birch_murnaghan
from bpjax.errors import BpjaxError
from bpjax.io.labels import group_of, labels
from bpjax.training.options import DataOptions
from bpjax.training.prepare import Split, Structures, prepare

DATA = DataOptions(
    train=("silicon_train.extxyz", "silicon_isolated_atom.extxyz"),
    validation=("silicon_val.extxyz",),
    test=("silicon_test.extxyz",),
)
"""Files of the data set, relative to its folder."""

PULAY = 0.0022 * 20.4
"""Pressure, times the volume per atom, by which stored stresses differ from the derivative of the energies, in eV."""

PHASES = {
    "diamond": "diamond2",
    "lonsdaleite": "lonsdaleite",
    "bc8": "bc8",
    "beta-tin": "betatin",
    "simple hexagonal": "sh",
    "simple cubic": "sc",
    "hcp": "hcp",
    "bcc": "bcc",
    "fcc": "fcc",
}
"""Crystal phases and their names in the data."""

FITTED = 5
"""Volumes that an equation of state is fitted to at the least."""


def consistent_stress(atoms: ase.Atoms) -> ase.Atoms:
    """A copy whose stress is the derivative of its energy.

    Plane waves up to a fixed energy make an incomplete basis that changes with the cell, and the stress that the program
    prints does not contain that change (Pulay stress). The README of the data gives the difference, measured by finite
    differences of the energy: 0.35 GPa at the volume of diamond.
    """
    found = labels(atoms)
    copy = atoms.copy()
    stress = None
    if found.stress is not None:
        pressure = PULAY * len(atoms) / atoms.get_volume()
        stress = full_3x3_to_voigt_6_stress(found.stress - pressure * np.eye(3))
    copy.calc = SinglePointCalculator(copy, energy=found.energy, forces=found.forces, stress=stress)
    return copy


def read_silicon() -> Structures:
    """Training, validation and test structures with consistent stresses, and the energy of the isolated atom."""
    structures = prepare(DATA, datasets.path("silicon"), seed=0)  # the data come split: nothing is random here

    def mended(split: Split) -> Split:
        return replace(split, frames=tuple(consistent_stress(atoms) for atoms in split.frames))

    return replace(
        structures,
        train=mended(structures.train),
        validation=mended(structures.validation),
        test=mended(structures.test),
    )


@dataclass(frozen=True)
class VolumeSeries:
    """A crystal at several volumes.

    Attributes:
      atoms: the structure of lowest energy.
      volumes: in A^3 per atom, ascending, (M,).
      energies: in eV per atom, (M,).
    """

    atoms: ase.Atoms
    volumes: np.ndarray
    energies: np.ndarray

    def dense(self, count: int = 41) -> np.ndarray:
        """Volumes between the smallest and the largest, for a smooth curve."""
        return np.linspace(self.volumes[0], self.volumes[-1], count)


def volume_series(frames: Sequence[ase.Atoms]) -> dict[str, VolumeSeries]:
    """The volume series of all crystal phases among structures of the data, in the order of `PHASES`."""
    found = {}
    for phase, name in PHASES.items():
        series = [atoms for atoms in frames if str(atoms.info.get("name", "")).startswith(f"{name}_volume")]
        if not series:
            continue
        series.sort(key=lambda atoms: atoms.get_volume() / len(atoms))
        volumes = np.array([atoms.get_volume() / len(atoms) for atoms in series])
        energies = np.array([_energy(atoms) / len(atoms) for atoms in series])
        found[phase] = VolumeSeries(series[int(np.argmin(energies))], volumes, energies)
    return found


def _energy(atoms: ase.Atoms) -> float:
    energy = labels(atoms).energy
    if energy is None:
        raise BpjaxError(f"structure {atoms.info.get('name')} has no energy")
    return energy


def liquid_volume(frames: Sequence[ase.Atoms]) -> float:
    """Mean volume per atom of the liquid structures among `frames`, in A^3."""
    return float(np.mean([atoms.get_volume() / len(atoms) for atoms in frames if group_of(atoms) == "liquid"]))


def phase_properties(
    volumes: Mapping[str, np.ndarray], energies: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float | None]]:
    """Equilibrium properties of phases from their energies at several volumes.

    Args:
      volumes: by phase, in A^3 per atom.
      energies: by phase, in eV per atom.

    Returns: by phase, ``energy`` (eV/atom above the lowest phase), ``volume`` (A^3/atom) and ``bulk_modulus`` (GPa) of a
      Birch-Murnaghan fit. Phases with fewer than `FITTED` volumes, and those whose energy has no minimum there, have no
      volume and modulus (None); their energy is the lowest one calculated.
    """
    found: dict[str, Any] = {}
    for phase, E in energies.items():
        found[phase] = {"energy": float(np.min(E)), "volume": None, "bulk_modulus": None}
        if len(E) < FITTED:
            continue
        try:
            curve = birch_murnaghan(volumes[phase], E)
        except BpjaxError:
            continue
        found[phase] = {"energy": curve.energy, "volume": curve.volume, "bulk_modulus": curve.bulk_modulus}
    lowest = min(values["energy"] for values in found.values())
    for values in found.values():
        values["energy"] -= lowest
    return found


def phase_order(properties: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Phases from the most stable to the least stable."""
    return sorted(properties, key=lambda phase: properties[phase]["energy"] or 0.0)
