"""`run_md`: molecular dynamics of an ASE structure with jax-md, in compiled chunks of thousands of steps."""

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ase
import numpy as np

from bpjax.dynamics.loop import Offences
from bpjax.dynamics.observers import LogWriter, energy_drift
from bpjax.dynamics.settings import Settings
from bpjax.dynamics.simulation import Simulation, box_too_small
from bpjax.errors import ConfigError, DivergedError, ExtrapolationError, OutputExistsError, StructureError
from bpjax.io.atomic import one_file
from bpjax.io.trajectory import TrajectoryWriter
from bpjax.potential import Potential
from bpjax.potential.energy import Params
from bpjax.potential.evaluator import Evaluator
from bpjax.potential.extrapolation import Extrapolation
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
        and where they exist conserved (eV), pressure_gpa, volume (A^3), extrapolations (warnings since the record before).
      drift: slope of the conserved energy in eV per atom and ps; NaN for Langevin dynamics and runs of one record.
      rebuilds: how often the neighbour list was built anew.
      overflows: how often it had to be grown.
      slots: neighbour slots per atom at the end.
      timings: compile_s, run_s, total_s, us_per_atom_step.
      extrapolations: warnings (atom, function, step) of the run; None if they were not counted.
      devices: how many shared the atoms.
    """

    atoms: ase.Atoms
    log: dict[str, np.ndarray] = field(default_factory=dict)
    drift: float = math.nan
    rebuilds: int = 0
    overflows: int = 0
    slots: int = 0
    timings: dict[str, float] = field(default_factory=dict)
    extrapolations: int | None = None
    devices: int = 1


def run_md(
    model: Potential,
    params: Params,
    atoms: ase.Atoms,
    *,
    trajectory: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    extrapolation_file: str | os.PathLike[str] | None = None,
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
      extrapolation_file: extended XYZ file for frames outside of the training data, or None: the first of each `log_interval`
        steps that have any, with its step, its number of warnings (`extrapolations`) and that of each atom (`outside`); without
        an energy, so that nobody takes it for a label. Beside it a file with the suffix .jsonl gets a line for each of their
        warnings (see `bpjax.potential.Extrapolation`), with step and index of the frame. Both are empty if there were none.
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
        dtype: "float32" or "float64", whatever the precision of JAX outside.
        log_interval, trajectory_interval: steps between records and between frames; step 0 has both.
        chunk_steps: most steps between two looks at the results.
        skin: of the neighbour list in A; None chooses one.
        capacity: slots per atom to begin with; None counts. Lists that overflow are grown.
        use_momenta: start from the momenta of `atoms`.
        exact_temperature: scale the initial momenta to exactly `temperature`.
        max_temperature: in K, above which the run has exploded; None is ten times `temperature`, at least 5000 K.
        max_extrapolations: stop as soon as more extrapolation warnings than this were given, one for each atom, function and
          step (step 0 too); a large number counts and never stops. None does not count, which saves their small cost.
        devices: how many devices share the atoms; None for all of this process that pay (see `bpjax.dynamics.parallel`), 1 for
          the first alone. Any number gives the same trajectory to rounding.

    Returns: final structure, records, drift, counts and timings.

    Raises:
      ConfigError: an option out of range, or one that does not fit the structure.
      StructureError, UnknownSpeciesError: a structure that the model cannot run.
      OutputExistsError: a file is there, and `overwrite` was not asked for.
      CutoffError: under a barostat, the cell became too small for its neighbour list.
      MDDivergedError: energies that are not finite or a temperature above the limit; the last good frame has been written.
      ExtrapolationError: more warnings than `max_extrapolations`; offending frames and the last good one have been written.
    """
    began = time.perf_counter()
    settings = settings_of(options)
    details = None if extrapolation_file is None else Path(extrapolation_file).with_suffix(".jsonl")
    outputs = {"trajectory": trajectory, "log": log, "extrapolation_file": extrapolation_file, "its details": details}
    check_outputs({name: Path(path) for name, path in outputs.items() if path is not None}, overwrite)
    if extrapolation_file is not None and settings.max_extrapolations is None:
        raise ConfigError("needs max_extrapolations: nothing is counted without", field="extrapolation_file")
    run = Run(model, params, atoms, settings, bool(trajectory) or bool(observers))
    with ExitStack() as files:
        if extrapolation_file is not None and details is not None and run.watch is not None:
            run.watch.frames = files.enter_context(TrajectoryWriter(extrapolation_file, overwrite=overwrite))
            run.watch.lines = files.enter_context(LogWriter(details, overwrite))
        run.outputs(files, trajectory, log, observers, overwrite)
        run.chunk(1, 1, at=0)
        bar = files.enter_context(progress(settings.steps, f"{settings.ensemble} dynamics"))
        while run.step < settings.steps:
            before, grown = run.step, run.simulation.overflows
            run.next_chunk()
            bar.update(run.step - before, T=run.latest[2]["temperature"], E=run.latest[2]["total_energy"])
            if run.simulation.overflows > grown:
                bar.note(f"neighbour list grown to {run.simulation.neighbors.max_occupancy} per atom, steps repeated")
    return run.result(time.perf_counter() - began)


def settings_of(options: dict[str, Any]) -> Settings:
    """Options by name, checked."""
    unknown = options.keys() - Settings.__dataclass_fields__.keys()
    if unknown:
        allowed = ", ".join(Settings.__dataclass_fields__)
        raise ConfigError(f"unknown option; allowed: {allowed}", field=sorted(unknown)[0])
    return Settings(**options)


def check_outputs(paths: dict[str, Path], overwrite: bool) -> None:
    """Refuses before anything is computed or created."""
    for (name, path), (other, another) in itertools.combinations(paths.items(), 2):
        if one_file(path, another):
            raise ConfigError(f"{path} cannot be both {name} and {other}")
    for path in paths.values():
        if path.is_file() and not overwrite:
            raise OutputExistsError(f"{path} already exists; it was left as it is")


class _Watch:
    """The extrapolation warnings of a run: how many since the last record, and the files of offending frames."""

    def __init__(self, evaluator: Evaluator, simulation: Simulation):
        self.evaluator, self.simulation = evaluator, simulation
        self.frames: TrajectoryWriter | None = None
        self.lines: LogWriter | None = None
        self.unlogged, self.stored = 0, 0

    def take(self, offences: Offences, block: int, start: int):
        """Counts the warnings of the block after step `start`; the first since the last record goes to the files."""
        count = int(offences.count[block])
        if count and not self.unlogged and self.frames is not None and self.lines is not None:
            frame, warnings = self.offender(offences, block, start)
            self.frames.write(frame)
            self.lines.write({"step": frame.info["step"], **asdict(warning)} for warning in warnings)
            self.stored += 1
        self.unlogged += count

    def offender(self, offences: Offences, block: int, start: int) -> tuple[ase.Atoms, list[Extrapolation]]:
        """The first offending frame of a block and its warnings: none if the frame is too broken to be evaluated."""
        outside = offences.outside[block]
        frame = self.simulation.body.structure(offences.positions[block], float(offences.volume[block]))
        step = start + int(offences.step[block])
        time_fs = step * self.simulation.settings.timestep_fs
        frame.info.update(step=step, time_fs=time_fs, extrapolations=int(outside.sum()))
        frame.arrays["outside"] = outside.astype(np.int64)
        try:
            return frame, self.evaluator.extrapolations(frame, self.stored)
        except StructureError:
            return frame, []

    def error(self, offences: Offences, block: int, start: int, step: int, kept: str) -> ExtrapolationError:
        """What to raise when a block has exceeded the limit."""
        found, limit = self.simulation.extrapolations, self.simulation.settings.max_extrapolations
        text = f"step {step}: {found} extrapolation warning{'s' * (found != 1)}, more than the limit of {limit}"
        frame, warnings = self.offender(offences, block, start)
        if warnings:
            w = max(warnings, key=lambda w: w.excess)
            text += f"; worst in step {frame.info['step']}: function {w.function} ({w.label}) of atom {w.atom} ({w.element}) is"
            text += f" {w.value:.6g}, in training {w.minimum:.6g} to {w.maximum:.6g}"
        if self.frames is not None:
            text += f"; offending frames are in {os.fspath(self.frames.path)}"
        return ExtrapolationError(
            f"{text}{kept}; the model is used outside of its training data: add such structures to it, or allow more"
        )


class Run:
    """Bookkeeping of a run: which step it is, what goes to which file."""

    def __init__(self, model, params, atoms, settings: Settings, frames: bool):
        self.model, self.settings = model, settings
        self.interval, blocks_per_frame = self.intervals(settings, frames)
        self.frames = frames
        self.simulation = Simulation(model, params, atoms, settings, self.interval, blocks_per_frame)
        self.watch = None
        if settings.max_extrapolations is not None:
            self.watch = _Watch(Evaluator(model, params, settings.dtype), self.simulation)
        self.step = 0
        self.records: list[dict[str, Any]] = []
        self.last: tuple[np.ndarray, np.ndarray, dict[str, Any]] | None = None  # the last good state

    @staticmethod
    def intervals(settings: Settings, frames: bool) -> tuple[int, int]:
        """Steps per block, and blocks from one frame to the next."""
        log, every = settings.log_interval, settings.trajectory_interval
        interval = math.gcd(log, every) if frames else log
        return interval, every // interval if frames else 2**30

    @property
    def latest(self) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Positions, momenta and record of the last good state."""
        assert self.last is not None, "the first chunk has set it"
        return self.last

    def outputs(self, files: ExitStack, trajectory, log, observers, overwrite: bool):
        """Where frames and records go: observers, and files that are opened here and closed by `files`."""
        self.trajectory = None if trajectory is None else str(os.fspath(trajectory))  # for messages
        if trajectory is not None:
            writer = files.enter_context(TrajectoryWriter(trajectory, overwrite=overwrite))
            observers = (*observers, lambda frame, record: writer.write(frame))
        self.observers = observers
        self.log_writer = None if log is None else files.enter_context(LogWriter(log, overwrite))

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
        start = -1 if at == 0 else first
        try:
            for block in range(good):
                self.step = start + (block + 1) * steps
                record = sim.body.record(self.step, [column[block] for column in buffers.records])
                if self.watch is not None:
                    self.watch.take(buffers.offences, block, start + block * steps)
                    record["extrapolations"] = self.watch.unlogged
                slot = (phase + block) // sim.blocks_per_frame
                self.last = (buffers.positions[slot], buffers.momenta[slot], record)
                if self.step % self.settings.log_interval == 0 or self.step == self.settings.steps:
                    fresh.append(record)
                    if self.watch is not None:
                        self.watch.unlogged = 0
                if self.frames and self.step % self.settings.trajectory_interval == 0:
                    frame = sim.body.frame(*self.latest)
                    for observer in self.observers:
                        observer(frame, record)
        finally:  # also when a frame cannot be written, on a full disk say: the log ends with the last good state
            self.records += fresh
            if self.log_writer is not None:
                self.log_writer.write(fresh)
        if not fine:
            self.stop(buffers, good, start + good * steps, start + done * steps)

    def stop(self, buffers, block: int, start: int, step: int):
        """Raises what a chunk calls for that stopped early, in the block from `start` to `step`, after the frames are written."""
        last, kept = None, ""
        if self.last is not None:
            last, record = self.simulation.body.frame(*self.last), self.last[2]
            kept = f"; the last good frame is of step {record['step']}"
            kept += f", at the end of {self.trajectory}" if self.trajectory else ""
            if self.frames and record["step"] % self.settings.trajectory_interval:
                for observer in self.observers:
                    observer(last, record)
        if self.watch is not None:
            offences = buffers.offences
            self.watch.take(offences, block, start)
            if self.simulation.left < 0:
                error = self.watch.error(offences, block, start, start + int(offences.taken[block]), kept)
                error.atoms = last
                raise error
        bad = self.simulation.body.record(step, [column[block] for column in buffers.records])
        T, guard = bad["temperature"], self.settings.guard
        if math.isfinite(bad["total_energy"]) and T < guard:
            raise box_too_small(self.model, self.simulation.skin)
        what = f"temperature {T:.4g} K is above the limit of {guard:g} K" if T >= guard else "no finite energy"
        error = MDDivergedError(
            f"step {step}: {what}{kept}; try a smaller time step, or train the model near where it left its data"
        )
        error.atoms = last
        raise error

    def result(self, total_s: float) -> MDResult:
        """What the run leaves behind, after so many seconds."""
        sim, s = self.simulation, self.settings
        log = {name: np.array([r[name] for r in self.records]) for name in self.records[0]}
        drift = energy_drift(log["time_fs"], log["conserved"], sim.rows) if "conserved" in log else math.nan
        timings = {
            "compile_s": sim.compile_s,
            "run_s": sim.run_s,
            "total_s": total_s,
            "us_per_atom_step": 1e6 * sim.run_s / (s.steps * sim.rows),
        }
        found = None if self.watch is None else sim.extrapolations
        slots = sim.neighbors.max_occupancy
        devices = 1 if sim.mesh is None else sim.mesh.size
        return MDResult(
            sim.body.frame(*self.latest), log, drift, sim.rebuilds, sim.overflows, slots, timings, found, devices
        )
