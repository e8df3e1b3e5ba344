"""`run_md`: molecular dynamics of an ASE structure with jax-md, in compiled chunks of thousands of steps."""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase
import numpy as np

from bpjax import units
from bpjax.dynamics.observers import LogWriter, energy_drift
from bpjax.dynamics.settings import Settings
from bpjax.dynamics.simulation import Simulation, box_too_small
from bpjax.errors import ConfigError, DivergedError, OutputExistsError
from bpjax.io.trajectory import TrajectoryWriter
from bpjax.potential import Potential
from bpjax.potential.energy import Params
from bpjax.progress import ProgressFn, silent

Observer = Callable[[ase.Atoms, dict[str, Any]], None]

CHUNK_SECONDS = 3.0
"""Chunks are made about so long, for progress and for ctrl-C, up to `chunk_steps`."""


class MDDivergedError(DivergedError):
    """A run that exploded; `atoms` is its last good state."""

    atoms: ase.Atoms | None = None


@dataclass
class MDResult:
    """What a run leaves behind.

    Attributes:
      atoms: final structure with momenta and energy; positions are not wrapped into the cell.
      log: arrays over the records: step, time_fs, potential_energy, kinetic_energy, total_energy (eV), temperature (K),
        and where they exist conserved (eV), pressure_gpa, volume (A^3).
      drift: slope of the conserved energy in eV per atom and ps; NaN for Langevin dynamics and runs of one record.
      rebuilds: how often the neighbour list was built anew.
      overflows: how often it had to be grown.
      slots: neighbour slots per atom at the end.
      timings: compile_s, run_s, total_s, us_per_atom_step.
    """

    atoms: ase.Atoms
    log: dict[str, np.ndarray] = field(default_factory=dict)
    drift: float = math.nan
    rebuilds: int = 0
    overflows: int = 0
    slots: int = 0
    timings: dict[str, float] = field(default_factory=dict)


def run_md(
    model: Potential,
    params: Params,
    atoms: ase.Atoms,
    *,
    trajectory: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
    progress: ProgressFn = silent,
    **options: Any,
) -> MDResult:
    """Runs molecular dynamics with the integrators of jax-md.

    Any cell will do: periodic, partly periodic or free, skewed, left-handed, shorter than the cutoff. Positions are
    integrated and written without wrapping, so that diffusion can be read off directly.

    Args:
      model: the potential.
      params: its arrays.
      atoms: where to start.
      trajectory: extended XYZ file for frames (positions, momenta, potential energy), or None.
      log: JSON-lines file for records, or None.
      overwrite: replace these files if they exist.
      observers: called as `observer(atoms, record)` with each frame, for example `PairCorrelation`.
      progress: what shows it; see `bpjax.progress`.
      options: fields of `bpjax.dynamics.settings.Settings`, by name:
        ensemble: "nve", "nvt" (Nose-Hoover chain), "nvt_langevin" or "npt" (Nose-Hoover chains, isotropic).
        temperature: in K, of the initial momenta and of the thermostat.
        timestep_fs, steps: length of the run.
        pressure: in GPa.
        thermostat_time_fs, barostat_time_fs: relaxation times; under Langevin dynamics the inverse of the friction.
        seed: of initial momenta and noise.
        dtype: "float32" or "float64".
        log_interval, trajectory_interval: steps between records and between frames; step 0 has both.
        chunk_steps: most steps between two looks at the results.
        skin: of the neighbour list in A; None chooses one.
        capacity: slots per atom to begin with; None counts. Lists that overflow are grown.
        use_momenta: start from the momenta of `atoms`.
        exact_temperature: scale the initial momenta to exactly `temperature`.
        max_temperature: in K, above which the run has exploded; None is ten times `temperature`, at least 5000 K.

    Returns: final structure, records, drift, counts and timings.

    Raises:
      ConfigError: an option out of range, or one that does not fit the structure.
      StructureError, UnknownSpeciesError: a structure that the model cannot run.
      OutputExistsError: a file is there, and `overwrite` was not asked for.
      CutoffError: under a barostat, the cell became too small for its neighbour list.
      MDDivergedError: energies that are not finite or a temperature above the limit; the last good frame has been written.
    """
    began = time.perf_counter()
    settings = _settings(options)
    _check_outputs(trajectory, log, overwrite)
    run = _Run(model, params, atoms, settings, bool(trajectory) or bool(observers))
    with ExitStack() as files:
        if trajectory is not None:
            writer = files.enter_context(TrajectoryWriter(trajectory, overwrite=overwrite))
            observers = (*observers, lambda frame, record: writer.write(frame))
        log_writer = None if log is None else files.enter_context(LogWriter(log, overwrite))
        run.outputs(observers, log_writer, None if trajectory is None else str(os.fspath(trajectory)))
        run.chunk(1, 1, at=0)
        bar = files.enter_context(progress(settings.steps, f"{settings.ensemble} dynamics"))
        while run.step < settings.steps:
            before, grown = run.step, run.simulation.overflows
            run.next_chunk()
            bar.update(run.step - before, T=run.latest[2]["temperature"], E=run.latest[2]["total_energy"])
            if run.simulation.overflows > grown:
                bar.note(f"neighbour list grown to {run.simulation.neighbors.max_occupancy} per atom, steps repeated")
    return run.result(time.perf_counter() - began)


def _settings(options: dict[str, Any]) -> Settings:
    unknown = options.keys() - Settings.__dataclass_fields__.keys()
    if unknown:
        allowed = ", ".join(Settings.__dataclass_fields__)
        raise ConfigError(f"unknown option; allowed: {allowed}", field=sorted(unknown)[0])
    return Settings(**options)


def _check_outputs(trajectory, log, overwrite) -> None:
    """Refuses before anything is computed or created."""
    paths = [Path(path) for path in (trajectory, log) if path is not None]
    if len(paths) == 2 and paths[0].absolute() == paths[1].absolute():
        raise ConfigError(f"{paths[0]} cannot be both trajectory and log")
    for path in paths:
        if path.is_file() and not overwrite:
            raise OutputExistsError(f"{path} already exists; it was left as it is")


class _Run:
    """Bookkeeping of a run: which step it is, what goes to which file."""

    def __init__(self, model, params, atoms, settings: Settings, frames: bool):
        self.model, self.settings = model, settings
        log, every = settings.log_interval, settings.trajectory_interval
        self.interval = math.gcd(log, every) if frames else log
        blocks_per_frame = every // self.interval if frames else 2**30
        self.frames = frames
        self.simulation = Simulation(model, params, atoms, settings, self.interval, blocks_per_frame)
        self.step = 0
        self.records: list[dict[str, Any]] = []
        self.last: tuple[np.ndarray, np.ndarray, dict[str, Any]] | None = None  # the last good state

    @property
    def latest(self) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Positions, momenta and record of the last good state."""
        assert self.last is not None, "the first chunk has set it"
        return self.last

    def outputs(self, observers, log_writer, trajectory):
        self.observers, self.log_writer, self.trajectory = observers, log_writer, trajectory

    def next_chunk(self):
        """As many blocks as take a few seconds, or the steps that are left over at the end."""
        sim, left = self.simulation, self.settings.steps - self.step
        if left < self.interval:
            self.chunk(1, left)
            return
        per_block = sim.run_s * self.interval / max(self.step, 1)
        affordable = int(CHUNK_SECONDS / per_block) if self.step else max(1, 50 // self.interval)
        self.chunk(max(1, min(left // self.interval, sim.largest_chunk, affordable)), self.interval)

    def chunk(self, blocks: int, steps: int, at: int | None = None):
        """Runs a chunk and hands out what came of it; at step 0 it only fills in forces, energy and pressure."""
        sim, first = self.simulation, self.step
        phase = (first // self.interval) % sim.blocks_per_frame
        buffers, done, fine = sim.advance(blocks, steps, phase, dt=0.0 if at == 0 else None)
        good = done if fine else done - 1
        fresh = []
        for block in range(good):
            self.step = 0 if at == 0 else first + (block + 1) * steps
            record = self.record(buffers.records, block)
            slot = (phase + block) // sim.blocks_per_frame
            fresh.append(record)
            self.last = (buffers.positions[slot], buffers.momenta[slot], record)
            if self.frames and self.step % self.settings.trajectory_interval == 0:
                frame = sim.frame(*self.latest)
                for observer in self.observers:
                    observer(frame, record)
        kept = [r for r in fresh if r["step"] % self.settings.log_interval == 0 or r["step"] == self.settings.steps]
        self.records += kept
        if self.log_writer is not None:
            self.log_writer.write(kept)
        if not fine:
            self.stop(self.record(buffers.records, good), 0 if at == 0 else first + done * steps)

    def record(self, records, block: int) -> dict[str, Any]:
        """One line of the log."""
        s, sim = self.settings, self.simulation
        E, K, bath, virial, V = (float(column[block]) for column in records)
        E += sim.offset
        record = {
            "step": self.step,
            "time_fs": self.step * s.timestep_fs,
            "potential_energy": E,
            "kinetic_energy": K,
            "total_energy": E + K,
            "temperature": 2 * K / (sim.dof * units.BOLTZMANN),
        }
        if s.ensemble != "nvt_langevin":
            record["conserved"] = E + K + bath
        if all(sim.coordinates.pbc):
            V = V if s.ensemble == "npt" else abs(np.linalg.det(sim.coordinates.cell))
            record |= {"pressure_gpa": (2 * K + virial) / (3 * V) / units.GPA, "volume": V}
        return record

    def stop(self, bad: dict[str, Any], step: int):
        """Raises what a chunk that stopped early calls for, after the last good frame has been written."""
        where = f"step {step}"
        last, kept = None, ""
        if self.last is not None:
            last, record = self.simulation.frame(*self.last), self.last[2]
            kept = f"; the last good frame is of step {record['step']}"
            kept += f", at the end of {self.trajectory}" if self.trajectory else ""
            if self.frames and record["step"] % self.settings.trajectory_interval:
                for observer in self.observers:
                    observer(last, record)
        T, guard = bad["temperature"], self.settings.guard
        if math.isfinite(bad["total_energy"]) and T < guard:
            raise box_too_small(self.model, self.simulation.skin)
        what = f"temperature {T:.4g} K is above the limit of {guard:g} K" if T >= guard else "no finite energy"
        error = MDDivergedError(
            f"{where}: {what}{kept}; try a smaller time step, or train the model near where it left its data"
        )
        error.atoms = last
        raise error

    def result(self, total_s: float) -> MDResult:
        sim, s = self.simulation, self.settings
        log = {name: np.array([r[name] for r in self.records]) for name in self.records[0]}
        drift = energy_drift(log["time_fs"], log["conserved"], len(sim.atoms)) if "conserved" in log else math.nan
        timings = {
            "compile_s": sim.compile_s,
            "run_s": sim.run_s,
            "total_s": total_s,
            "us_per_atom_step": 1e6 * sim.run_s / (s.steps * len(sim.atoms)),
        }
        return MDResult(
            sim.frame(*self.latest), log, drift, sim.rebuilds, sim.overflows, sim.neighbors.max_occupancy, timings
        )
