"""Models by name or file for `bpjax hop`, each with what dynamics needs beside the matrix: masses, units, modes to sample."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ase.data
import numpy as np

from bpjax.errors import BpjaxError, FormatError, StructureError
from bpjax.excited.adiabatic import Diabatic
from bpjax.excited.hopping_watch import Watch
from bpjax.excited.lvc import LinearVibronic, pyrazine_3_modes, pyrazine_4_modes
from bpjax.excited.models import TullyDual, TullyExtended, TullySimple
from bpjax.excited.sharc import files_of_template, read_geometry, read_lvc_template, read_velocities
from bpjax.excited.spin import SpinStates
from bpjax.excited.wigner import HarmonicModes, normal_modes
from bpjax.geometry import superposing_rotation
from bpjax.io.archive import REALS, TEXT, WHOLE, Entry, read_arrays
from bpjax.units import BOHR, ELECTRONIC


@dataclass(frozen=True)
class MovingModel:
    """A diabatic model with its nuclei.

    Attributes:
      name: for messages.
      model: coordinates to matrix.
      masses: broadcast to the coordinates.
      units: "atomic" or "ev-angstrom".
      symbols: elements of a molecule; None for a model of coordinates (D,).
      modes: for Wigner sampling, None if the model does not know any.
      edge: distance from the crossing where scattering starts and ends, in bohr; None where nothing is scattered.
      basis: multiplicities of the states, None if all are of one.
      frame: geometry that says how the molecule faces, where the model is one of displacements from it; else None.
      watch: what to look at in its geometries; None for a model of coordinates.
      files: what it was read from; none for a model that has a name.
    """

    name: str
    model: Diabatic
    masses: np.ndarray
    units: str
    symbols: tuple[str, ...] | None = None
    modes: HarmonicModes | None = None
    edge: float | None = None
    basis: SpinStates | None = None
    frame: np.ndarray | None = None
    watch: Watch | None = None
    files: tuple[Path, ...] = ()

    def faced(self, R: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Geometries and velocities turned to face as `frame` does, and the largest angle in degrees; as they are without one.

        The frame is that of Eckart: least squares with the masses. What is within a degree of it stays where it is.

        References: C. Eckart, Phys. Rev. 47, 552 (1935), doi:10.1103/PhysRev.47.552.
        """
        if self.frame is None:
            return R, v, 0.0
        masses, largest = np.broadcast_to(self.masses, self.frame.shape)[:, 0], 0.0
        R, v = R.copy(), v.copy()
        for n, (one, speed) in enumerate(zip(R.copy(), v.copy(), strict=True)):
            Q = superposing_rotation(one, self.frame, masses)
            angle = float(np.degrees(np.arccos(np.clip((np.trace(Q) - 1) / 2, -1, 1))))
            if angle > 1.0:
                centre = masses @ one / masses.sum()
                R[n], v[n] = (one - centre) @ Q + masses @ self.frame / masses.sum(), speed @ Q
                largest = max(largest, angle)
        return R, v, largest


def _tully(name: str, model: Any, edge: float) -> MovingModel:
    return MovingModel(name, model, np.array([model.mass]), "atomic", edge=edge)


def _vibronic(name: str, model: LinearVibronic) -> MovingModel:
    w = np.asarray(model.frequencies)
    modes = normal_modes(np.zeros(len(w)), np.diag(w), 1 / w)
    return MovingModel(name, model, 1 / w, "atomic", modes=modes)


NAMED = {
    "tully1": lambda name: _tully(name, TullySimple(), 10.0),
    "tully2": lambda name: _tully(name, TullyDual(), 10.0),
    "tully3": lambda name: _tully(name, TullyExtended(), 12.0),
    "pyrazine": lambda name: _vibronic(name, pyrazine_3_modes()),
    "pyrazine4": lambda name: _vibronic(name, pyrazine_4_modes()),
}
"""Models by name: those of Tully, and pyrazine with 3 and 4 modes."""


def find_model(name: str) -> MovingModel:
    """The model of a name in `NAMED`, of a .bpjax file of diabatic states, or of SHARC's ``LVC.template``, under any name.

    Raises:
      BpjaxError: no such name or file.
      FormatError, ModelFileError: a file that cannot be used.
    """
    if name in NAMED:
        return NAMED[name](name)
    path = Path(name)
    if not path.exists():
        raise BpjaxError(f"{name}: no such file, and no model of that name; names are {', '.join(NAMED)}")
    if path.suffix == ".bpjax" or path.is_dir():
        return _from_states_file(path)
    with open(path, "rb") as file:
        archive = file.read(2) == b"PK"
    return _from_states_file(path) if archive else _from_template(path)


def _from_template(path: Path) -> MovingModel:
    model = read_lvc_template(path)
    reference, w = np.asarray(model.modes.reference), np.asarray(model.modes.frequencies)
    masses = np.asarray(model.modes.masses)[:, None]
    vibrations = w > 0
    modes = HarmonicModes(
        reference, np.broadcast_to(masses, reference.shape), w[vibrations], np.asarray(model.modes.modes)[:, vibrations]
    )
    watch = Watch(model.symbols, BOHR)
    return MovingModel(
        str(path), model, masses, "atomic", model.symbols, modes, basis=model.basis, frame=reference, watch=watch,
        files=files_of_template(path),
    )  # fmt: skip


def _from_states_file(path: Path) -> MovingModel:
    from bpjax.excited.states_store import load_states

    model, params = load_states(path)
    masses = np.array([ase.data.atomic_masses[ase.data.atomic_numbers[symbol]] for symbol in model.atoms])[:, None]
    matrix, symbols = partial(model, params), tuple(model.atoms)
    return MovingModel(str(path), matrix, masses, "ev-angstrom", symbols, watch=model.watch(params), files=(path,))


def from_structures(frames: list[ase.Atoms], model: MovingModel, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities of a molecule in the units of its model, from the momenta of structures.

    Raises:
      StructureError: other atoms than those of the model, no momenta, periodic structures.
      BpjaxError: the model is not of a molecule.
    """
    if model.symbols is None:
        raise BpjaxError(
            f"{model.name}: is a model of coordinates, not of atoms; take the word sample instead of {path}"
        )
    units = ELECTRONIC[model.units]
    length = units.bohr / BOHR
    for n, atoms in enumerate(frames):
        if tuple(atoms.get_chemical_symbols()) != model.symbols:
            raise StructureError(
                f"has atoms {atoms.get_chemical_formula('reduce')}; the model needs {' '.join(model.symbols)} in this order",
                path,
                n,
            )
        if "momenta" not in atoms.arrays:
            raise StructureError("has no velocities; write momenta, or sample from a Hessian", path, n, "momenta")
        if atoms.pbc.any():
            raise StructureError("is periodic; hopping is for molecules", path, n)
    R = np.stack([atoms.positions for atoms in frames]) * length
    # ASE's velocities are in A sqrt(eV/amu), the natural unit of the package.
    masses = np.stack([atoms.get_masses() for atoms in frames])[..., None]
    v = np.stack([atoms.get_momenta() for atoms in frames]) / masses * length * _speed(model.units)
    return R, v


def _speed(units: str) -> float:
    """Units of time of the model in one natural unit of time of the package, inverted: velocities times this, lengths aside."""
    from bpjax.units import TIME_UNIT_FS

    return ELECTRONIC[units].time_fs / TIME_UNIT_FS


def from_sharc(path: Path, velocities: Path, model: MovingModel) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity, (1, N, 3) each in atomic units, from SHARC's ``geom`` and ``veloc``.

    Raises:
      FormatError: a row of another form, or no velocities.
      StructureError: other atoms than those of the model.
      BpjaxError: the model is not in atomic units.
    """
    if model.units != "atomic":
        raise BpjaxError(f"{path}: SHARC's geom is for its own models; give structures with velocities")
    symbols, R = read_geometry(path)
    if symbols != model.symbols:
        needs = " ".join(model.symbols or ())
        raise StructureError(f"has atoms {' '.join(symbols)}; the model needs {needs} in this order", path)
    return R[None], read_velocities(velocities, len(symbols))[None]


def read_hessian(path: Path, model: MovingModel) -> HarmonicModes:
    """Normal modes from a numpy archive with ``positions`` (N, 3), ``hessian`` (3N, 3N) and ``units``, as in `units.SYSTEMS`.

    Optional: ``numbers`` (N,), checked against the model. Masses are those of the model.

    Raises:
      FormatError, StructureError: a missing or unfit entry.
    """
    from bpjax.units import HARTREE, SYSTEMS

    if model.symbols is None:
        raise BpjaxError(
            f"{model.name}: is a model of coordinates, not of atoms; take the word sample instead of {path}"
        )
    N = len(model.symbols)
    wanted = {
        "positions": Entry(REALS, (N, 3), finite=True),
        "hessian": Entry(REALS, (3 * N, 3 * N), finite=True),
        "units": Entry(TEXT, ()),
    }
    found = read_arrays(path, wanted, {"numbers": Entry(WHOLE, (N,))})
    system = str(found["units"])
    if system not in SYSTEMS:
        raise FormatError(path, f"field units: {system!r}: must be {' or '.join(SYSTEMS)}")
    numbers = [ase.data.atomic_numbers[symbol] for symbol in model.symbols]
    if "numbers" in found and found["numbers"].tolist() != numbers:
        raise FormatError(path, f"field numbers: are {found['numbers'].tolist()}; the model needs {numbers}")
    units = ELECTRONIC[model.units]
    energy, length = SYSTEMS[system][0] * units.hartree / HARTREE, SYSTEMS[system][1] * units.bohr / BOHR
    try:
        return normal_modes(found["positions"] * length, found["hessian"] * energy / length**2, model.masses)
    except StructureError as error:
        raise StructureError(error.message, path, field=error.field) from error
