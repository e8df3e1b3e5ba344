"""The ASE calculator: energy, forces, stress and atomic energies for optimisers, molecular dynamics and all else in ASE."""

from __future__ import annotations

import copy
import difflib
import hashlib
import os
import threading
import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import ase
import jax
import numpy as np
from ase.calculators.calculator import (
    Calculator,
    CalculatorSetupError,
    PropertyNotImplementedError,
    all_changes,
    compare_atoms,
)
from ase.stress import full_3x3_to_voigt_6_stress

from bpjax.errors import StructureError
from bpjax.interop.models import load_model
from bpjax.networks.scaling import ranges_known
from bpjax.pair_search import independent
from bpjax.potential.energy import Params, Potential, require_potential
from bpjax.potential.evaluator import SKIN, Evaluation, Evaluator
from bpjax.precision import refuse_forked
from bpjax.units import unit_system

_ASES = ("label", "atoms", "directory")
"""Keywords of ASE's own."""

KNOWN, KNOWN_ATOMS = 16, 100_000
"""Structures whose results are kept, for whoever asks for what is known, and how many atoms they may have together."""

_EXTRAS = ("energy_spread", "forces_spread", "energy_noise", "forces_noise", "outside")


class Results(dict[str, Any]):
    """Results of ASE, and in `extras` what ASE has no names for: found like the others, but not among them.

    ASE refuses names that it does not know where it goes through all of them (`Atoms.get_properties`, `SinglePointCalculator`).
    """

    def __init__(self, **results: Any):
        super().__init__(**results)
        self.extras: dict[str, Any] = {}

    def __missing__(self, name: str) -> Any:
        return self.extras[name]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.extras

    def copy(self) -> Results:
        """A copy, with the extras."""
        made = Results(**self)
        made.extras = dict(self.extras)
        return made

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a name, of ASE's or ours."""
        return self[name] if name in self else default


def _volume(atoms: ase.Atoms) -> float:
    """Of the cell; 0 where its vectors span none."""
    return float(abs(np.linalg.det(atoms.cell.array))) if independent(atoms.cell.array) else 0.0


def _digest(model: Potential, params: Params) -> str:
    """Hash of options and arrays."""
    found = hashlib.sha256(repr(model).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()


class BpjaxCalculator(Calculator):
    """ASE calculator of a bpjax model.

    Gives ``energy``, ``free_energy`` (the same), ``energies`` (of the atoms), ``forces`` and, for structures whose cell has
    three vectors, ``stress`` in ASE's convention: eV/A^3 of the cell, positive in tension, in the order xx, yy, zz, yz, xz,
    xy. Energies include the offsets, so that they compare with those of the training data.

    What the model knows beside that is in ``results`` as well, though not among those that ASE goes through, and `get_property`
    gives it for a structure: ``energy_spread`` and ``forces_spread`` (N, 3), standard deviations over the members of a
    committee; ``energy_noise`` and ``forces_noise`` (N,), of the labels that a model with `Potential.noise` expects; ``outside``
    (N,), features of each atom outside of their range in training. For the first structure of each composition that has such
    features there is a warning.

    One calculator may serve many structures, and threads: each gets the results of its own structure from the methods of ASE,
    also where these only ask for what is known, as writers of files do (``results`` are those of the last one; those of the last
    16 structures are kept). It compiles again only when a structure has a size that is new to it; the neighbour
    lists of the last 64 structures are kept, up to 256 MB. A process that is forked from one that has used JAX cannot compute:
    start such processes with "spawn" or "forkserver".

    Args:
      model: a model file; a folder of n2p2 or RuNNer, also of a committee; or the potential and its arrays.
      dtype: "float64", which optimisers with line searches, finite differences and phonons need, or "float32", for
        molecular dynamics: twice as fast or more, with a noise of 1e-6 to 1e-4 eV in energies, which grows with the number of
        atoms and the size of the weights: forces and differences of energies are smooth to that alone.
      units: of a folder of n2p2 or RuNNer, which does not say: "hartree-bohr", "ev-angstrom" or "kcal/mol-angstrom".
      skin: in A; a neighbour list lasts until an atom has moved by half of it.
      kwargs: ASE's own: ``label``, ``atoms``, ``directory``.

    Raises:
      ModelFileError, FormatError: the file or folder cannot be used.
      ConfigError: a wrong option, or a folder without units.
      TypeError: an unknown keyword.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        model: str | os.PathLike[str] | tuple[Potential, Params],
        dtype: Any = "float64",
        *,
        units: str | None = None,
        skin: float = SKIN,
        **kwargs: Any,
    ):
        for name in kwargs.keys() - set(_ASES):
            allowed = ("model", "dtype", "units", "skin", *_ASES)
            close = difflib.get_close_matches(name.lower(), allowed, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise TypeError(f"BpjaxCalculator: unknown keyword {name!r}; {hint}allowed: {', '.join(allowed)}")
        if not isinstance(model, str | os.PathLike) and not (isinstance(model, tuple) and len(model) == 2):
            raise TypeError("BpjaxCalculator: model must be a file, a folder, or a pair (potential, arrays)")
        refuse_forked()
        super().__init__(**kwargs)
        self._lock = threading.RLock()
        self._warned: set[str] = set()
        self._earlier: deque[tuple[ase.Atoms, Results]] = deque(maxlen=KNOWN)
        self._source = None if isinstance(model, tuple) else os.path.abspath(os.fspath(model))
        if units is not None:
            unit_system(units, "BpjaxCalculator")
        potential, params = model if isinstance(model, tuple) else load_model(Path(model), units)
        require_potential(potential)
        watch = ranges_known(params["scaling"])
        self.evaluator = Evaluator(potential, params, dtype, skin=skin, watch=watch)
        self._sha256 = _digest(potential, params)

    @property
    def name(self) -> str:
        """Name of the calculator in ASE's databases."""
        return "bpjax"

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Options are those of the beginning: ASE would keep others without using them.

        Raises:
          TypeError: any option.
        """
        if kwargs:
            raise TypeError(f"BpjaxCalculator: {', '.join(kwargs)} cannot be set: make another calculator")
        return {}

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """What databases and trajectories record: the file of the model, a hash of its options and arrays, the precision."""
        found = {"model": self._source, "sha256": self._sha256, "dtype": self.evaluator.dtype}
        return {name: value for name, value in found.items() if value is not None}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._lock = threading.RLock()

    def get_property(self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A result for a structure, as in ASE; one thread at a time, so that none gets another's.

        Raises:
          PropertyNotImplementedError: no such result, or a stress without a cell.
          CalculatorSetupError: no structure was ever given.
        """
        with self._lock:
            if atoms is None and self.atoms is None:
                raise CalculatorSetupError(f"BpjaxCalculator: {name} is of a structure: set atoms.calc, or give atoms=")
            of = self.atoms if atoms is None else atoms
            if name == "stress" and of is not None and not _volume(of):
                message = f"stress is per volume of the cell, and this one has {of.cell.rank} vectors, not three"
                message = message if of.cell.rank < 3 else "stress is per volume of the cell, and this one has none"
                raise PropertyNotImplementedError(f"{message} (atoms.set_cell, atoms.center(vacuum=...))")
            if of is not None and not allow_calculation and not self._take_up(of):
                return None
            if name in _EXTRAS:
                if allow_calculation:
                    self.calculate(of)
                if name not in self.results:
                    raise PropertyNotImplementedError(f"{name}: the model does not know it")
                return copy.copy(self.results[name])
            return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fills ``results`` with everything that the structure has; called by ASE. What has changed is seen by the atoms."""
        with self._lock:
            of = self.atoms if atoms is None else atoms
            if of is None:
                raise CalculatorSetupError("BpjaxCalculator: no structure to calculate: give atoms")
            if self._is_last(of):
                return
            super().calculate(of, list(properties), list(system_changes))
            self.results = {}
            result = self._evaluated(of)
            self.results = Results(
                energy=result.energy,
                free_energy=result.energy,
                energies=result.atomic_energies,
                forces=result.forces,
            )
            if (volume := _volume(of)) and result.virial is not None:
                self.results["stress"] = full_3x3_to_voigt_6_stress(-result.virial / volume)
            extras = {name: getattr(result, name) for name in _EXTRAS}
            self.results.extras = {name: value for name, value in extras.items() if value is not None}
            self._earlier.appendleft((self.atoms, self.results))
            while len(self._earlier) > 1 and sum(len(known) for known, _ in self._earlier) > KNOWN_ATOMS:
                self._earlier.pop()
            self._warn(of, result)

    def _evaluated(self, atoms: ase.Atoms) -> Evaluation:
        try:
            return self.evaluator.evaluate(atoms)
        except StructureError as error:
            if self.evaluator.dtype == "float64" or np.isfinite(atoms.positions).all():
                raise
            hint = "; optimisers with line searches end so in the noise of single precision: take dtype='float64'"
            raise StructureError(error.message + hint, field=error.field) from error

    def _is_last(self, atoms: ase.Atoms) -> bool:
        """Whether the results are those of this structure."""
        known = self.results and self.atoms is not None
        return bool(known) and not compare_atoms(self.atoms, atoms, excluded_properties=self.ignored_changes)

    def _take_up(self, atoms: ase.Atoms) -> bool:
        """Makes the results those of a structure whose are still kept; False if there are none."""
        if self._is_last(atoms):
            return True
        for known, results in self._earlier:
            if not compare_atoms(known, atoms, excluded_properties=self.ignored_changes):
                self.atoms, self.results = known.copy(), results
                return True
        return False

    def _warn(self, atoms: ase.Atoms, result: Evaluation) -> None:
        """Of features outside of training, once for each composition."""
        formula = atoms.get_chemical_formula("hill")
        if result.outside is None or not result.outside.any() or formula in self._warned:
            return
        self._warned.add(formula)
        number, atom = int(result.outside.sum()), int(result.outside.argmax())
        warnings.warn(
            f"{formula}: {number} features of {int((result.outside > 0).sum())} atoms are outside of their range in training "
            f"(atom {atom} most, {int(result.outside[atom])}); results['outside'] counts them, and is not warned of again",
            stacklevel=4,
        )
