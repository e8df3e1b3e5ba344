"""`run_replicas`: molecular dynamics of many small systems in one compiled program: copies of a structure, or unlike ones."""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np

from bpjax.dynamics import ensembles
from bpjax.dynamics.advance import Driver
from bpjax.dynamics.body import Body
from bpjax.dynamics.lists import heights, product
from bpjax.dynamics.loop import Limits, chunk_fn
from bpjax.dynamics.observers import energy_drift
from bpjax.dynamics.run import MDDivergedError, MDResult, Observer, Run, check_outputs, settings_of
from bpjax.dynamics.settings import Settings
from bpjax.dynamics.simulation import default_skin
from bpjax.dynamics.together import Layout, systems_potential
from bpjax.errors import ConfigError
from bpjax.potential import Potential
from bpjax.potential.energy import Params
from bpjax.precision import precision
from bpjax.progress import ProgressFn, silent
from bpjax.spec import SEEDS
from bpjax.system import Prediction

COMPARISON = 2e-4
"""Time to compare a centre with one image of an atom, relative to that for energy and forces of a centre, about."""


def run_replicas(
    model: Potential,
    params: Params,
    structures: ase.Atoms | Sequence[ase.Atoms],
    *,
    replicas: int | None = None,
    temperatures: Sequence[float] | None = None,
    trajectory: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
    progress: ProgressFn = silent,
    **options: Any,
) -> list[MDResult]:
    """Runs molecular dynamics of many small systems at once, each as `run_md` would run it alone, to rounding.

    What keeps a device busy is their sum: a step of 1000 cells of 64 atoms costs about as much as one of 64 000 atoms, where 1000
    runs would mostly wait. The atoms of unlike systems are evaluated without padding. Neighbours are searched among all atoms
    of a system, so that systems of more than some hundred atoms are better run one by one.

    Args:
      model: the potential.
      params: its arrays.
      structures: where to start: one for each system, or one for all of them.
      replicas: how many systems there are, if there is one structure. (Default: one for each temperature.)
      temperatures: in K, one for each system, in place of the option `temperature`.
      trajectory: extended XYZ file for frames, or None; `replica` in their info is the number of the system, from 0. Frames of
        one step follow each other in this order.
      log: JSON-lines file for records, or None; they have a field `replica` too.
      overwrite: replace these files if they exist.
      observers: called as `observer(atoms, record)` with each frame.
      progress: what shows it; see `bpjax.progress`.
      options: of `run_md`. System r gets the seed `seed + r`. There is neither `max_extrapolations` nor more than one device.

    Returns: for each system what `run_md` returns; counts and timings are those of all.

    Raises:
      ConfigError: an option out of range, or numbers of structures, replicas and temperatures that do not fit.
      MDDivergedError: a system exploded; its number is in the message. Frames and records up to then are written.
      Others: see `run_md`.
    """
    began = time.perf_counter()
    settings = settings_of(options)
    for name, allowed in (("max_extrapolations", (None,)), ("devices", (None, 1))):
        if getattr(settings, name) not in allowed:
            raise ConfigError(f"{getattr(settings, name)}, which replicas do not have; run them one by one", field=name)
    outputs = {"trajectory": trajectory, "log": log}
    check_outputs({name: Path(path) for name, path in outputs.items() if path is not None}, overwrite)
    starts, kelvin = _systems(structures, replicas, temperatures, settings)
    if (last := settings.seed + len(starts) - 1) >= SEEDS:
        message = f"{settings.seed}: the last of {len(starts)} systems would get {last}, and seeds end at {SEEDS - 1}"
        raise ConfigError(message, field="seed")
    bodies = [
        Body(model, atoms, replace(settings, temperature=T, seed=settings.seed + r))
        for r, (atoms, T) in enumerate(zip(starts, kelvin, strict=True))
    ]
    run = _ReplicaRun(model, params, bodies, settings, bool(trajectory) or bool(observers))
    with ExitStack() as files:
        run.outputs(files, trajectory, log, observers, overwrite)
        run.chunk(1, 1, at=0)
        bar = files.enter_context(progress(settings.steps, f"{settings.ensemble} dynamics of {len(bodies)} systems"))
        while run.step < settings.steps:
            before = run.step
            run.next_chunk()
            bar.update(run.step - before, T=float(np.mean([record["temperature"] for record in run.last_records])))
    return run.results(time.perf_counter() - began)


def _systems(structures, replicas, temperatures, settings) -> tuple[list[ase.Atoms], list[float]]:
    """Structure and temperature of each system."""
    kelvin = None if temperatures is None else [float(T) for T in temperatures]
    if isinstance(structures, ase.Atoms):
        count = replicas if replicas is not None else len(kelvin or [0.0])
        starts = [structures] * max(count, 0)
    else:
        starts = list(structures)
        if replicas not in (None, len(starts)):
            raise ConfigError(f"{replicas}, but there are {len(starts)} structures", field="replicas")
    if not starts:
        raise ConfigError("there must be at least one system", field="replicas")
    if kelvin is None:
        kelvin = [settings.temperature] * len(starts)
    if len(kelvin) != len(starts):
        raise ConfigError(f"{len(kelvin)} of them, but there are {len(starts)} systems", field="temperatures")
    return starts, kelvin


class Replicas(Driver):
    """State, neighbour lists and compiled program of several systems; see `bpjax.dynamics.simulation.Simulation`."""

    def __init__(self, model: Potential, params: Params, bodies: Sequence[Body], interval: int, blocks_per_frame: int):
        self.bodies, self.layout = bodies, Layout([body.species for body in bodies])
        settings = bodies[0].settings
        super().__init__(settings, interval, blocks_per_frame, self.layout.real.size)
        with precision(settings.dtype):
            self._make(model, params)

    def _make(self, model: Potential, params: Params) -> None:
        """States, lists and what is compiled."""
        bodies, settings = self.bodies, self.settings
        boxes = np.array([np.eye(3) if body.coordinates.box is None else body.coordinates.box for body in bodies])
        pbc = np.array([body.coordinates.pbc for body in bodies])
        self.skin = settings.skin or self._skin(model.cutoff, boxes, pbc)
        params = jax.tree.map(lambda a: jnp.asarray(a, self.dtype), params)
        species = [body.species for body in bodies]
        self._list, self._all = systems_potential(model, params, species, boxes, pbc, skin=self.skin)
        self._inverse = jnp.asarray(np.linalg.inv(boxes), self.dtype)
        self.bath = jax.tree.map(lambda *a: jnp.stack(a), *[body.bath for body in bodies])
        self.state, self.seen = self._start(), (jnp.zeros(len(bodies), self.dtype),) * 2
        self.limits = Limits(
            jnp.asarray([body.most_kinetic for body in bodies], self.dtype),
            jnp.full(len(bodies), -jnp.inf, self.dtype),
        )
        dof = jnp.asarray([body.dof for body in bodies], self.dtype)
        self.members = ensembles.Members(dof, None if self.layout.even else jnp.asarray(self.layout.real))
        self.neighbors = self._allocate(self.state.position, None, settings.capacity or self._expected(boxes))

    def _skin(self, cutoff: float, boxes: np.ndarray, pbc: np.ndarray) -> float:
        """In A, for which searching and carrying more neighbours cost the least together, about."""
        far = np.floor(cutoff / np.array([heights(box) for box in boxes]) + 0.5)
        images = np.prod(np.where(pbc, 2 * far + 1, 1), axis=1).max()
        ratio = COMPARISON * self.layout.real.shape[1] * images
        return max(default_skin(body.settings, cutoff, body.atoms.get_masses(), ratio) for body in self.bodies)

    def _start(self) -> Any:
        """The states of all systems in one, padded by atoms of unit mass at rest."""
        states = [ensembles.with_dof(body.start(), 0) for body in self.bodies]
        if not self.layout.even:
            rows = {"position": 0.0, "momentum": 0.0, "force": 0.0, "mass": 1.0}
            made = {name: self.layout.padded([getattr(s, name) for s in states], value) for name, value in rows.items()}
            states = [s.set(**{name: a[r] for name, a in made.items()}) for r, s in enumerate(states)]
        return jax.tree.map(lambda *a: jnp.stack(a), *states)

    def _predict(self, R, neighbor: Any, box: Any = None, **unused: Any) -> Prediction:
        """Of one system, on the axis of all: they are evaluated together."""
        every = partial(jax.lax.all_gather, axis_name=ensembles.AXIS)
        found = self._all(every(R), neighbor, None if box is None else every(box), **unused)
        return jax.tree.map(lambda a: a[jax.lax.axis_index(ensembles.AXIS)], found)

    def _shift(self, R, dR, **unused: Any):
        """Moves atoms of one system by real vectors, without wrapping."""
        return R + product(self._inverse[jax.lax.axis_index(ensembles.AXIS)], dR)

    def _chunk(self, blocks: int, frames: int) -> Callable:
        ensemble = self.settings.ensemble
        return chunk_fn(ensemble, self._predict, self._shift, self.limits, blocks, frames, self.members)

    def _expected(self, boxes: np.ndarray) -> int:
        """Slots that will do once the atoms vibrate."""
        R, noise = self.state.position, np.random.default_rng(0).standard_normal(self.state.position.shape)
        warmest = max(body.settings.temperature for body in self.bodies)
        noise *= 0.1 * math.sqrt(min(warmest, 2700.0) / 300.0)
        noise = np.einsum("rab,rnb->rna", np.linalg.inv(boxes), noise)
        return max(self._needed(X, None) for X in (R, R + jnp.asarray(noise, R.dtype)))

    def _needed(self, position, box, attempt: int = 0) -> int:
        """A few slots more than lists for `position` need."""
        return 4 * math.ceil((1.08 * self._allocate(position, box, 1, attempt).most + 1) / 4)

    def _allocate(self, position, box, capacity: int, attempt: int = 0) -> Any:
        npt = self.settings.ensemble == "npt"
        named = {"box": box} if box is not None and npt else {}
        return self._list.allocate(
            position, capacity=capacity, headroom=1 - 0.05 * (attempt + 1) if npt else 1.0, **named
        )

    def _grow(self, attempt: int) -> None:
        reference, box = self.neighbors.reference_position, self.neighbors.reference_box
        capacity = max(self._needed(reference, box, attempt), 4 * math.ceil(0.3 * self.neighbors.max_occupancy))
        self.neighbors = self._allocate(reference, box, capacity, attempt)


class _ReplicaRun(Run):
    """Bookkeeping of a run of several systems: `Run`, for records and frames of each."""

    simulation: Replicas

    def __init__(self, model, params, bodies: Sequence[Body], settings: Settings, frames: bool):
        interval, blocks_per_frame = self.intervals(settings, frames)
        self.settings, self.frames, self.interval, self.step = settings, frames, interval, 0
        self.simulation = Replicas(model, params, bodies, interval, blocks_per_frame)
        self.bodies = bodies
        self.logs: list[list[dict[str, Any]]] = []
        self.last_states: tuple[np.ndarray, np.ndarray] | None = None
        self.last_records: list[dict[str, Any]] = []

    def chunk(self, blocks: int, steps: int, at: int | None = None) -> None:
        """Runs a chunk and hands out what came of it; at step 0 it only fills in forces, energies and pressures."""
        sim, first = self.simulation, self.step
        phase = (first // self.interval) % sim.blocks_per_frame
        buffers, done, fine = sim.advance(blocks, steps, phase, dt=0.0 if at == 0 else None)
        start, good = -1 if at == 0 else first, done if fine else done - 1
        for block in range(good):
            self.step = start + (block + 1) * steps
            slot = (phase + block) // sim.blocks_per_frame
            self.last_states = buffers.positions[slot], buffers.momenta[slot]
            self.last_records = self.records_of(buffers.records, block)
            # First the log: a frame may not be writable, on a full disk say.
            if self.step % self.settings.log_interval == 0 or self.step == self.settings.steps:
                self.logs.append(self.last_records)
                if self.log_writer is not None:
                    self.log_writer.write(self.last_records)
            if self.frames and self.step % self.settings.trajectory_interval == 0:
                self.show(range(len(self.bodies)))
        if not fine:
            self.explode(self.records_of(buffers.records, good), start + done * steps)

    def records_of(self, records, block: int) -> list[dict[str, Any]]:
        """A line of the log for each system."""
        columns = np.stack([column[block] for column in records], axis=-1)
        return [{"replica": r} | body.record(self.step, columns[r]) for r, body in enumerate(self.bodies)]

    def frame(self, r: int) -> ase.Atoms:
        """The last good state of a system."""
        assert self.last_states is not None, "the first chunk has set it"
        R, p = (a[r, : len(self.bodies[r].atoms)] for a in self.last_states)
        atoms = self.bodies[r].frame(R, p, self.last_records[r])
        atoms.info["replica"] = r
        return atoms

    def show(self, systems) -> None:
        """Hands frames to the observers."""
        for r in systems:
            frame = self.frame(r)
            for observer in self.observers:
                observer(frame, self.last_records[r])

    def explode(self, records: list[dict[str, Any]], step: int) -> None:
        """Raises what a chunk calls for that stopped early."""
        r = next(
            n
            for n, (record, body) in enumerate(zip(records, self.bodies, strict=True))
            if not math.isfinite(record["total_energy"]) or record["temperature"] >= body.settings.guard
        )
        T, guard = records[r]["temperature"], self.bodies[r].settings.guard
        what = f"temperature {T:.4g} K is above the limit of {guard:g} K" if T >= guard else "no finite energy"
        error = MDDivergedError(
            f"replica {r}, step {step}: {what}; try a smaller time step, or train the model near where it left its data"
        )
        if self.last_states is not None:
            error.atoms = self.frame(r)
            if self.frames and self.step % self.settings.trajectory_interval:
                self.show(range(len(self.bodies)))
        raise error

    def results(self, total_s: float) -> list[MDResult]:
        """What is left behind of each system."""
        sim = self.simulation
        per_atom = 1e6 * sim.run_s / (self.settings.steps * len(sim.layout.member))
        timings = {"compile_s": sim.compile_s, "run_s": sim.run_s, "total_s": total_s, "us_per_atom_step": per_atom}
        found = []
        for r, body in enumerate(self.bodies):
            log = {name: np.array([records[r][name] for records in self.logs]) for name in self.logs[0][r]}
            known = "conserved" in log
            drift = energy_drift(log["time_fs"], log["conserved"], len(body.atoms)) if known else math.nan
            slots = sim.neighbors.max_occupancy
            found.append(MDResult(self.frame(r), log, drift, sim.rebuilds, sim.overflows, slots, dict(timings)))
        return found
