"""One simulation on the host: coordinates, neighbour list, compiled chunk, and what to do when a list overflows."""

import math
import time
import warnings
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import complete_cell
from jax_md import space

from bpjax import units
from bpjax.dynamics import ensembles, parallel
from bpjax.dynamics.divided import divided_potential
from bpjax.dynamics.jaxmd import cell_list_pays, multi_image_potential, neighbor_list_potential, prediction_fn
from bpjax.dynamics.lists import heights
from bpjax.dynamics.loop import MOST, Limits, Plan, chunk_fn
from bpjax.dynamics.settings import Settings
from bpjax.elements import species_of
from bpjax.errors import CapacityError, ConfigError, CutoffError, StructureError
from bpjax.io.structures import check_structure
from bpjax.potential import Potential
from bpjax.potential.energy import Params

ATTEMPTS = 12
"""How often a list may be grown in a row for one chunk."""

SMALLEST_SKIN = 0.15


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
        cell = ase.Atoms(cell=complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))).cell
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


class Simulation:
    """State, neighbour list and compiled program of a run.

    Args:
      model: the potential.
      params: its arrays.
      atoms: where to start.
      settings: options of the run.
      interval: steps per block (see `bpjax.dynamics.loop`).
      blocks_per_frame: blocks from one frame to the next.

    Raises:
      StructureError, UnknownSpeciesError, CutoffError, ConfigError: a structure that cannot be run with these options.

    Attributes:
      mesh: of the devices that share the centres; None for one device and a small system.
    """

    def __init__(
        self,
        model: Potential,
        params: Params,
        atoms: ase.Atoms,
        settings: Settings,
        interval: int,
        blocks_per_frame: int,
    ):
        check_atoms(atoms, settings)
        self.settings, self.atoms, self.interval, self.blocks_per_frame = settings, atoms, interval, blocks_per_frame
        self.dtype = jnp.dtype(settings.dtype)
        self.coordinates = Coordinates(atoms)
        self.mesh = parallel.choose(len(atoms), settings.devices)
        species = species_of(atoms.numbers, model.elements)
        self.offset = float(model.offset_energies(species).sum())
        self.dof = ensembles.degrees_of_freedom(settings.ensemble, len(atoms))
        self.skin, self.images = self._reach(model)
        self._build(model, jax.tree.map(lambda a: jnp.asarray(a, self.dtype), params), species)
        self.bath = self._bath()
        self.state, self.seen = self._start(), (jnp.zeros((), self.dtype),) * 2
        if self._watch:
            self.seen += (jnp.zeros(len(atoms), jnp.int32),)
        self.extrapolations = 0
        self.rebuilds, self.overflows, self.compile_s, self.run_s = 0, 0, 0.0, 0.0
        self.neighbors: Any = self._allocate(self.state.position, None, settings.capacity or self._expected())
        self._program = None

    @property
    def _watch(self) -> bool:
        """Whether extrapolation warnings are counted."""
        return self.settings.max_extrapolations is not None

    def _reach(self, model) -> tuple[float, bool]:
        """Skin in A, and whether images must be listed."""
        s, c, atoms = self.settings, self.coordinates, len(self.atoms)
        skin = s.skin or default_skin(s, model.cutoff, self.atoms.get_masses(), min(atoms / 1500, 2.5))
        if not c.periodic:
            return skin, False
        spare = 0.97 if s.ensemble == "npt" else 1.0
        height = heights(c.cell.T)[np.array(c.pbc)]
        half = spare * height.min() / 2
        if s.skin is None and half - model.cutoff >= SMALLEST_SKIN:
            skin = min(skin, float(half - model.cutoff))
        images = model.cutoff + skin > half
        if images and s.skin is None and self.mesh is None:
            searched = np.prod(2 * np.ceil((model.cutoff + skin) / height) + 1)
            skin = default_skin(s, model.cutoff, self.atoms.get_masses(), 0.0036 * float(searched) * atoms)
        return skin, bool(images)

    def _build(self, model, params, species):
        c, box, skin = self.coordinates, self.coordinates.box, self.skin
        if self.mesh is not None:
            self._list, self._predict = divided_potential(
                model, params, box, species=species, skin=skin, pbc=c.pbc, images=self.images, watch=self._watch,
                mesh=self.mesh,
            )  # fmt: skip
        elif self.images:
            self._list, _ = multi_image_potential(
                model, params, box, species=species, skin=skin, pbc=c.pbc, capacity_multiplier=1.0
            )
        else:
            pays = all(c.pbc) and cell_list_pays(len(species), box, model.cutoff + skin)
            self._list, _ = neighbor_list_potential(
                model, params, None, box, species=species, skin=skin, pbc=c.pbc, capacity_multiplier=1.0,
                disable_cell_list=not pays,
            )  # fmt: skip
        if self.mesh is None:
            self._predict = prediction_fn(
                model, params, box, species=species, pbc=c.pbc, images=self.images, watch=self._watch
            )
        self._shift = (
            space.periodic_general(jnp.asarray(box, self.dtype), wrapped=False)[1] if c.periodic else space.free()[1]
        )
        smallest = -np.inf
        if self.settings.ensemble == "npt" and not self.images:
            smallest = math.log(2 * (model.cutoff + skin) / heights(box).min())
        self.limits = Limits(0.5 * self.dof * units.BOLTZMANN * self.settings.guard, smallest)

    def _bath(self):
        s = self.settings
        values = (
            s.timestep_fs * units.FS,
            s.temperature * units.BOLTZMANN,
            s.pressure * units.GPA,
            s.thermostat_time_fs * units.FS,
            s.barostat_time_fs * units.FS,
        )
        return ensembles.Bath(*[jnp.asarray(v, self.dtype) for v in values])

    def _start(self):
        s, masses, c = self.settings, self.atoms.get_masses(), self.coordinates
        if s.use_momenta:
            momenta = self.atoms.get_momenta()
        else:
            rng = np.random.default_rng(s.seed)
            momenta = thermal_momenta(masses, s.temperature, rng, self.dof if s.exact_temperature else None)
        R, p, m = (jnp.asarray(a, self.dtype) for a in (c.start, c.rotated(momenta), masses))
        box = None if c.box is None else jnp.asarray(c.box, self.dtype)
        return ensembles.start(s.ensemble, self.bath, R, p, m, box, jax.random.key(s.seed))

    def _expected(self) -> int:
        """Slots per atom that will do once the atoms vibrate."""
        R, noise = self.state.position, np.random.default_rng(0).standard_normal((len(self.atoms), 3))
        noise *= 0.1 * math.sqrt(min(self.settings.temperature, 2700.0) / 300.0)
        if self.coordinates.box is not None:
            noise = np.linalg.solve(self.coordinates.box, noise.T).T
        return max(self._needed(X, None) for X in (R, R + jnp.asarray(noise, R.dtype)))

    def _needed(self, position, box, attempt=0) -> int:
        """A few slots more than a list for `position` needs."""
        # One slot is enough to count where the list itself says how many there are.
        found = self._allocate(position, box, None if self.mesh is None else 1, attempt)
        return self._slots(1.08 * found.most)

    def _allocate(self, position, box, capacity, attempt=0) -> Any:
        """A list for `position` with so many slots; None for as many as it needs."""
        named = {"box": box} if box is not None and self.settings.ensemble == "npt" else {}
        headroom = 1.0 - 0.05 * (attempt + 1) if self.settings.ensemble == "npt" else 1.0
        made = self._list.allocate(position, 8 * attempt, capacity=capacity, headroom=headroom, **named)
        return parallel.placed(self.mesh, made)

    def _slots(self, count: float) -> int:
        slots = 4 * math.ceil((count + 1) / 4)
        return slots if self.images else max(1, min(slots, len(self.atoms) - 1))

    def advance(self, blocks: int, steps: int, phase: int, dt: float | None = None):
        """Runs a chunk; one with an incomplete neighbour list is discarded, the list grown, the chunk repeated.

        The list is grown from where it was built last, not from where the chunk began: it is then rebuilt at the same steps
        as if it had been large enough from the start.

        Args:
          blocks: number of blocks.
          steps: steps per block.
          phase: blocks since the last frame.
          dt: time step in natural units if it differs from the run's.

        Returns: buffers of the chunk as numpy arrays, the number of blocks done, and whether all is fine.

        Raises:
          CapacityError: the list cannot be grown any further.
        """
        bath = self.bath if dt is None else self.bath._replace(dt=jnp.asarray(dt, self.dtype))
        lengths = [blocks, steps, self.blocks_per_frame, phase] + ([min(self.left, MOST)] if self._watch else [])
        plan = Plan(*[jnp.asarray(n, jnp.int32) for n in lengths])
        for attempt in range(ATTEMPTS):
            after, neighbors, buffers, done, fine = self._call(bath, plan)
            if not bool(neighbors.did_buffer_overflow):
                self.rebuilds += int(neighbors.rebuilds) - int(self.neighbors.rebuilds)
                if bool(fine):
                    (self.state, self.seen), self.neighbors = after, neighbors
                buffers = jax.tree.map(np.asarray, buffers)
                if buffers.offences is not None:
                    self.extrapolations += int(buffers.offences.count[: int(done)].sum(dtype=np.int64))
                return buffers, int(done), bool(fine)
            self._grow(attempt)
        raise CapacityError(
            f"the neighbour list still overflows after it was grown {ATTEMPTS} times; is the system collapsing?"
        )

    @property
    def left(self) -> int:
        """Extrapolation warnings that are still allowed; negative when the limit has been exceeded."""
        return int(self.settings.max_extrapolations or 0) - self.extrapolations

    def _call(self, bath, plan):
        arguments = parallel.placed(self.mesh, (self.state, self.seen, self.neighbors, bath, plan))
        began = time.perf_counter()
        if self._program is None:
            blocks = self.largest_chunk
            frames = -(-blocks // self.blocks_per_frame) + 1
            chunk = chunk_fn(self.settings.ensemble, self._predict, self._shift, self.limits, blocks, frames)
            with warnings.catch_warnings():  # jax-md sums kinetic energies in float64 where there is float64
                warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
                warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
                self._program = jax.jit(chunk, **self._results(arguments)).lower(*arguments).compile()
            self.compile_s += time.perf_counter() - began
            began = time.perf_counter()
        out = jax.block_until_ready(self._program(*arguments))
        self.run_s += time.perf_counter() - began
        return out

    def _results(self, arguments) -> dict[str, Any]:
        """Where a chunk leaves its results: state and list where they were, so that they can be its next arguments."""
        if self.mesh is None:
            return {}
        state, seen, neighbors, _, _ = jax.tree.map(lambda a: a.sharding, arguments)
        everywhere = parallel.everywhere(self.mesh)
        return {"out_shardings": ((state, seen), neighbors, everywhere, everywhere, everywhere)}

    @property
    def largest_chunk(self) -> int:
        """Blocks in the longest chunk: as asked for, but no more frames and offences than fit into 256 MB each."""
        blocks = max(1, self.settings.chunk_steps // self.interval)
        if self._watch:
            blocks = min(blocks, max(1, int(256e6 / ((3 * self.dtype.itemsize + 4) * len(self.atoms)))))
        frames = max(1, int(256e6 / (6 * self.dtype.itemsize * len(self.atoms))))
        return min(blocks, frames * self.blocks_per_frame)

    @property
    def program_bytes(self) -> int | None:
        """Memory of the compiled chunk: arguments, results and intermediates, as the compiler says; None before the first."""
        held = None if self._program is None else self._program.memory_analysis()
        if held is None:
            return None
        parts = held.argument_size_in_bytes + held.output_size_in_bytes + held.temp_size_in_bytes
        return parts - held.alias_size_in_bytes

    def _grow(self, attempt: int):
        self.overflows += 1
        reference, box = self.neighbors.reference_position, self.neighbors.reference_box
        capacity = max(self._needed(reference, box, attempt), self._slots(1.2 * self.neighbors.max_occupancy))
        self.neighbors = self._allocate(reference, box, capacity, attempt)
        self._program = None

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


def check_atoms(atoms: ase.Atoms, settings: Settings) -> None:
    """Raises if the structure cannot be run.

    Raises:
      StructureError: no sense physically (see `bpjax.io.structures.check_structure`), no mass, or constraints.
      ConfigError: options that do not fit the structure.
    """
    check_structure(atoms)
    if not (atoms.get_masses() > 0).all():
        raise StructureError(f"atom {int(np.argmin(atoms.get_masses()))} has no mass", field="masses")
    if atoms.constraints:
        raise StructureError("constraints are not supported in dynamics; remove them", field="constraints")
    if settings.ensemble == "npt" and not atoms.pbc.all():
        raise ConfigError("npt needs a cell that is periodic in all three directions", field="ensemble")
    if settings.use_momenta and not atoms.has("momenta"):
        raise StructureError("missing, but the run was asked to start from them", field="momenta")


def default_skin(settings: Settings, cutoff: float, masses: np.ndarray, ratio: float) -> float:
    """Skin in A for which building lists and carrying neighbours beyond the cutoff cost the least together, about.

    A list lasts s / (2 v) with v the fastest atom's speed and costs `ratio` times as much as a step; a skin adds 3 s / r_c
    neighbours. The sum is least at s = (2/3 ratio v dt r_c)^(1/2); what two atoms approach in one step comes on top.
    """
    fastest = 4 * math.sqrt(units.BOLTZMANN * max(settings.temperature, 30.0) / float(np.min(masses)))
    step = fastest * settings.timestep_fs * units.FS
    return float(np.clip(math.sqrt(2 / 3 * ratio * step * cutoff) + 2.2 * step, SMALLEST_SKIN, 1.0))


def thermal_momenta(masses: np.ndarray, temperature: float, rng: np.random.Generator, dof: int | None) -> np.ndarray:
    """Maxwell-Boltzmann momenta (N, 3) without total momentum; scaled to exactly `temperature` if `dof` is given."""
    m = np.asarray(masses, dtype=np.float64)[:, None]
    p = np.sqrt(m * units.BOLTZMANN * temperature) * rng.standard_normal((len(m), 3))
    if len(m) > 1:
        p -= m * p.sum(axis=0) / m.sum()
    if dof is not None and temperature > 0:
        p *= math.sqrt(dof * units.BOLTZMANN * temperature / float(np.sum(p**2 / m)))
    return p


def box_too_small(model: Potential, skin: float) -> CutoffError:
    """What to say when the barostat has shrunk the cell below the limit of the nearest image."""
    return CutoffError(
        f"the barostat has shrunk the cell below twice cutoff + skin = {2 * (model.cutoff + skin):.2f} A, where atoms see two"
        " images of another one; start from a larger supercell or set a smaller skin"
    )
