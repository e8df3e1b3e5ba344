"""One simulation on the host: its neighbour list, how far it reaches, how large it must be, and the compiled chunk."""

import math
from collections.abc import Callable
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jax_md import space

from bpjax import units
from bpjax.dynamics import parallel
from bpjax.dynamics.advance import Driver
from bpjax.dynamics.body import Body
from bpjax.dynamics.divided import divided_potential
from bpjax.dynamics.jaxmd import cell_list_pays, multi_image_potential, neighbor_list_potential, prediction_fn
from bpjax.dynamics.lists import heights
from bpjax.dynamics.loop import Limits, chunk_fn
from bpjax.dynamics.settings import Settings
from bpjax.errors import CutoffError
from bpjax.potential import Potential
from bpjax.potential.energy import Params
from bpjax.precision import precision

SMALLEST_SKIN = 0.15


class Simulation(Driver):
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
      body: the structure.
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
        super().__init__(settings, interval, blocks_per_frame, len(atoms))
        self.body = Body(model, atoms, settings)
        self.mesh = parallel.choose(len(atoms), settings.devices)
        with precision(settings.dtype):
            self._make(model, params)

    def _make(self, model: Potential, params: Params) -> None:
        """State, list and what is compiled."""
        atoms, settings = self.body.atoms, self.settings
        self.skin, self.images = self._reach(model)
        self._build(model, jax.tree.map(lambda a: jnp.asarray(a, self.dtype), params))
        self.bath = self.body.bath
        self.state, self.seen = self.body.start(), (jnp.zeros((), self.dtype),) * 2
        if self._watch:
            self.seen += (jnp.zeros(len(atoms), jnp.int32),)
        self.neighbors = self._allocate(self.state.position, None, settings.capacity or self._expected())

    def _reach(self, model) -> tuple[float, bool]:
        """Skin in A, and whether images must be listed."""
        s, c, atoms, masses = self.settings, self.body.coordinates, self.rows, self.body.atoms.get_masses()
        skin = s.skin or default_skin(s, model.cutoff, masses, min(atoms / 1500, 2.5))
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
            skin = default_skin(s, model.cutoff, masses, 0.0036 * float(searched) * atoms)
        return skin, bool(images)

    def _build(self, model, params):
        c, species, skin = self.body.coordinates, self.body.species, self.skin
        box = c.box
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
        self.limits = Limits(self.body.most_kinetic, smallest)

    def _expected(self) -> int:
        """Slots per atom that will do once the atoms vibrate."""
        R, noise = self.state.position, np.random.default_rng(0).standard_normal((self.rows, 3))
        noise *= 0.1 * math.sqrt(min(self.settings.temperature, 2700.0) / 300.0)
        if self.body.coordinates.box is not None:
            noise = np.linalg.solve(self.body.coordinates.box, noise.T).T
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
        return slots if self.images else max(1, min(slots, self.rows - 1))

    def _chunk(self, blocks: int, frames: int) -> Callable:
        return chunk_fn(self.settings.ensemble, self._predict, self._shift, self.limits, blocks, frames)

    def _placed(self, arguments: Any) -> Any:
        return parallel.placed(self.mesh, arguments)

    def _results(self, carried: tuple[Any, Any, Any]) -> dict[str, Any]:
        # State and list stay where they were, so that they can be the next arguments.
        if self.mesh is None:
            return {}
        state, seen, neighbors = jax.tree.map(lambda a: a.sharding, carried)
        everywhere = parallel.everywhere(self.mesh)
        return {"out_shardings": ((state, seen), neighbors, everywhere, everywhere, everywhere)}

    def _grow(self, attempt: int) -> None:
        reference, box = self.neighbors.reference_position, self.neighbors.reference_box
        capacity = max(self._needed(reference, box, attempt), self._slots(1.2 * self.neighbors.max_occupancy))
        self.neighbors = self._allocate(reference, box, capacity, attempt)


def default_skin(settings: Settings, cutoff: float, masses: np.ndarray, ratio: float) -> float:
    """Skin in A for which building lists and carrying neighbours beyond the cutoff cost the least together, about.

    A list lasts s / (2 v) with v the fastest atom's speed and costs `ratio` times as much as a step; a skin adds 3 s / r_c
    neighbours. The sum is least at s = (2/3 ratio v dt r_c)^(1/2); what two atoms approach in one step comes on top.
    """
    fastest = 4 * math.sqrt(units.BOLTZMANN * max(settings.temperature, 30.0) / float(np.min(masses)))
    step = fastest * settings.timestep_fs * units.FS
    return float(np.clip(math.sqrt(2 / 3 * ratio * step * cutoff) + 2.2 * step, SMALLEST_SKIN, 1.0))


def box_too_small(model: Potential, skin: float) -> CutoffError:
    """What to say when the barostat has shrunk the cell below the limit of the nearest image."""
    return CutoffError(
        f"the barostat has shrunk the cell below twice cutoff + skin = {2 * (model.cutoff + skin):.2f} A, where atoms see two"
        " images of another one; start from a larger supercell or set a smaller skin"
    )
