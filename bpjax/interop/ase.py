"""The ASE calculator: energy, forces, stress and atomic energies for optimisers, molecular dynamics and all else in ASE."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import ase
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from bpjax.potential.energy import Params, Potential
from bpjax.potential.evaluator import SKIN, Evaluator
from bpjax.potential.store import load


class BpjaxCalculator(Calculator):
    """ASE calculator of a bpjax model.

    Gives ``energy``, ``free_energy`` (the same), ``energies`` (of the atoms), ``forces`` and, for structures that are
    periodic in all directions, ``stress`` in ASE's convention: eV/A^3, positive in tension, in the order xx, yy, zz, yz,
    xz, xy. Energies include the offsets, so that they compare with those of the training data.

    One calculator may serve many structures. It compiles again only when a structure has a size that is new to it.

    Args:
      model: a model file, or the potential and its arrays.
      dtype: "float32", or "float64", which needs ``jax.config.update("jax_enable_x64", True)`` before any calculation.
      skin: in A; a neighbour list lasts until an atom has moved by half of it.
      kwargs: passed on to ASE's ``Calculator``.

    Raises:
      ModelFileError: the file cannot be used.
      ConfigError: a wrong option, or float64 without x64 mode.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        model: str | os.PathLike[str] | tuple[Potential, Params],
        dtype: str = "float32",
        *,
        skin: float = SKIN,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        potential, params = model if isinstance(model, tuple) else load(os.fspath(model))
        self.evaluator = Evaluator(potential, params, dtype, skin=skin)

    @property
    def name(self) -> str:
        """Name of the calculator in ASE's databases."""
        return "bpjax"

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fills ``results`` with everything that the structure has; called by ASE."""
        super().calculate(atoms, list(properties), list(system_changes))
        if self.results and not system_changes:
            return
        assert self.atoms is not None
        result = self.evaluator.evaluate(self.atoms)
        self.results = {
            "energy": result.energy,
            "free_energy": result.energy,
            "energies": result.atomic_energies,
            "forces": result.forces,
        }
        if result.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(result.stress)
