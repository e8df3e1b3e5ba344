"""One structure between ASE and the integrator: coordinates, initial state, and records and frames of what the integrator did."""

import math
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax import units
from bpjax.dynamics import ensembles
from bpjax.dynamics.settings import Settings
from bpjax.elements import species_of
from bpjax.errors import ConfigError, StructureError
from bpjax.io.checks import check_structure
from bpjax.pair_search import complete_cell, plane_distances, reduced_cell
from bpjax.potential import Potential
from bpjax.potential.energy import require_potential
from bpjax.precision import WIDE, refuse_forked


class Coordinates:
    """Between an ASE structure and what jax-md integrates: fractional positions in an upper triangular box.

    The cell is rotated (a left-handed one reflected) to the standard form, completed along open directions by vectors of
    length 1 A; without any periodic direction, coordinates are A relative to the centre. Positions are never wrapped.
    """

    def __init__(self, atoms: ase.Atoms):
        self.pbc = tuple(bool(b) for b in atoms.pbc)
        self.periodic = any(self.pbc)
        if not self.periodic:
            self.rotation, self.cell = np.eye(3), np.eye(3)
            self.origin = atoms.positions.mean(axis=0)
            self.start = atoms.positions - self.origin
            return
        cell = ase.Atoms(cell=complete_cell(atoms.cell.array, atoms.pbc)).cell
        standard, rotation = cell.standard_form()
        sign = np.sign(np.linalg.det(standard.array))
        self.cell, self.rotation = np.tril(sign * standard.array), sign * rotation
        fractional = np.linalg.solve(cell.array.T, atoms.positions.T).T
        self.origin = np.where(self.pbc, np.floor(fractional), np.round(fractional.mean(axis=0)))
        self.start = fractional - self.origin

    @property
    def box(self) -> np.ndarray | None:
        """jax-md's box matrix, columns are lattice vectors; None in free space."""
        return self.cell.T if self.periodic else None

    def rotated(self, vectors: np.ndarray) -> np.ndarray:
        """Real vectors of the structure in the frame of the integrator."""
        return vectors @ self.rotation.T

    def rotated_back(self, vectors: np.ndarray) -> np.ndarray:
        """The inverse of `rotated`."""
        return np.asarray(vectors, np.float64) @ self.rotation

    def positions(self, R: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """Positions in A in the frame of the structure, for a box scaled by `scale`."""
        R = np.asarray(R, np.float64) + self.origin
        return self.rotated_back(R @ (scale * self.cell)) if self.periodic else R


class Body:
    """A structure with what a run needs to know of it.

    Args:
      model: the potential.
      atoms: where to start.
      settings: options of the run.

    Raises:
      StructureError, UnknownSpeciesError, ConfigError: a structure that cannot be run with these options.

    Attributes:
      species: index of each atom's element.
      offset: sum of the atoms' offsets in eV, which energies of the integrator leave out.
      dof: degrees of freedom that share the heat.
    """

    def __init__(self, model: Potential, atoms: ase.Atoms, settings: Settings):
        require_potential(model)
        check_atoms(atoms, settings)
        self.atoms, self.settings = atoms, settings
        self.coordinates = Coordinates(atoms)
        self.species = species_of(atoms.numbers, model.elements)
        self.offset = float(model.offset_energies(self.species).sum())
        self.dof = ensembles.degrees_of_freedom(settings.ensemble, len(atoms))

    @property
    def bath(self) -> ensembles.Bath:
        """What the surroundings impose, in natural units."""
        s = self.settings
        values = (
            s.timestep_fs * units.FS,
            s.temperature * units.BOLTZMANN,
            s.pressure * units.GPA,
            s.thermostat_time_fs * units.FS,
            s.barostat_time_fs * units.FS,
        )
        return ensembles.Bath(*[jnp.asarray(v, s.dtype) for v in values])

    @property
    def most_kinetic(self) -> float:
        """Kinetic energy in eV above which the run has exploded."""
        return 0.5 * self.dof * units.BOLTZMANN * self.settings.guard

    def start(self) -> Any:
        """The integrator's state, of the structure's momenta or thermal ones."""
        s, masses, c = self.settings, self.atoms.get_masses(), self.coordinates
        if s.use_momenta:
            momenta = self.atoms.get_momenta()
        else:
            rng = np.random.default_rng(s.seed)
            momenta = thermal_momenta(masses, s.temperature, rng, self.dof if s.exact_temperature else None)
        R, p, m = (jnp.asarray(a, s.dtype) for a in (c.start, c.rotated(momenta), masses))
        box = None if c.box is None else jnp.asarray(c.box, s.dtype)
        return ensembles.start(s.ensemble, self.bath, R, p, m, box, jax.random.key(s.seed))

    def structure(self, R: np.ndarray, volume: float | None = None) -> ase.Atoms:
        """A structure in the frame and units of ASE; under a barostat with its own volume in A^3."""
        c, source = self.coordinates, self.atoms
        npt = self.settings.ensemble == "npt" and volume is not None
        scale = (volume / abs(np.linalg.det(c.cell))) ** (1 / 3) if npt else 1.0
        atoms = ase.Atoms(source.numbers, c.positions(R, scale), cell=source.cell.array * scale, pbc=source.pbc)
        if source.has("masses"):
            atoms.set_masses(source.get_masses())
        return atoms

    def frame(self, R: np.ndarray, momenta: np.ndarray, record: dict | None = None) -> ase.Atoms:
        """A structure with its momenta and, from its record, its energy."""
        atoms = self.structure(R, None if record is None else record.get("volume"))
        atoms.set_momenta(self.coordinates.rotated_back(momenta))
        if record is not None:
            atoms.info.update({k: record[k] for k in ("step", "time_fs", "temperature")})
            atoms.calc = SinglePointCalculator(atoms, energy=record["potential_energy"])
        return atoms

    def record(self, step: int, columns: Any) -> dict[str, Any]:
        """One line of the log, from the numbers of a `bpjax.dynamics.loop.Record`."""
        s = self.settings
        E, K, bath, virial, V = map(float, columns)
        E += self.offset
        record = {
            "step": step,
            "time_fs": step * s.timestep_fs,
            "potential_energy": E,
            "kinetic_energy": K,
            "total_energy": E + K,
            "temperature": 2 * K / (self.dof * units.BOLTZMANN),
        }
        if s.ensemble != "nvt_langevin":
            record["conserved"] = E + K + bath
        if all(self.coordinates.pbc):
            V = V if s.ensemble == "npt" else abs(np.linalg.det(self.coordinates.cell))
            record |= {"pressure_gpa": (2 * K + virial) / (3 * V) / units.GPA, "volume": V}
        return record


def check_atoms(atoms: ase.Atoms, settings: Settings) -> None:
    """Raises if the structure cannot be run.

    Raises:
      StructureError: no sense physically (see `bpjax.io.checks.check_structure`), no mass, or constraints.
      ConfigError: options that do not fit the structure.
    """
    refuse_forked()
    check_structure(atoms)
    cell, pbc = complete_cell(atoms.cell.array, atoms.pbc), atoms.pbc
    extent = np.ptp(atoms.positions @ cell[~pbc].T, axis=0).max(initial=0.0)
    if settings.dtype == "float32" and extent > 2 * WIDE:
        allowed = f"single precision is for {2 * WIDE:g} A, take float64"
        raise StructureError(f"atoms are {extent:.4g} A apart where nothing repeats; {allowed}", field="positions")
    if pbc.any() and reduced_cell(cell, pbc)[2][pbc].min() > 5 * plane_distances(cell)[pbc].min():
        raise StructureError("is very skewed; take a reduced one (ase.geometry.minkowski_reduce)", field="cell")
    if not (atoms.get_masses() > 0).all():
        raise StructureError(f"atom {int(np.argmin(atoms.get_masses()))} has no mass", field="masses")
    if atoms.constraints:
        raise StructureError("constraints are not supported in dynamics; remove them", field="constraints")
    if settings.ensemble == "npt" and not atoms.pbc.all():
        raise ConfigError("npt needs a cell that is periodic in all three directions", field="ensemble")
    if settings.use_momenta and not atoms.has("momenta"):
        raise StructureError("missing, but the run was asked to start from them", field="momenta")


def thermal_momenta(masses: np.ndarray, temperature: float, rng: np.random.Generator, dof: int | None) -> np.ndarray:
    """Maxwell-Boltzmann momenta (N, 3) without total momentum; scaled to exactly `temperature` if `dof` is given."""
    m = np.asarray(masses, dtype=np.float64)[:, None]
    p = np.sqrt(m * units.BOLTZMANN * temperature) * rng.standard_normal((len(m), 3))
    if len(m) > 1:
        p -= m * p.sum(axis=0) / m.sum()
    if dof is not None and temperature > 0:
        p *= math.sqrt(dof * units.BOLTZMANN * temperature / float(np.sum(p**2 / m)))
    return p
