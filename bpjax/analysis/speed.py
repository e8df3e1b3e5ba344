r"""How fast a model is on this machine: energy and forces, molecular dynamics, memory, and the largest system that fits.

A structure is repeated to several sizes. For each, energy and forces are timed with the neighbour list given, and NVE
dynamics in the driver of `bpjax.dynamics`, where lists are updated; compilation is timed apart. With a time :math:`t` per step
for N atoms and a time step :math:`\Delta t`,

.. math:: \text{atom steps per second} = N / t, \qquad
          \text{ns per day} = 86400\,\mathrm{s}\; \Delta t / t
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import ase
import jax
import numpy as np

from bpjax.dynamics.settings import Settings
from bpjax.dynamics.simulation import Simulation
from bpjax.elements import species_of
from bpjax.errors import ConfigError, DivergedError
from bpjax.machine import (
    Timing,
    cores,
    device_memory_peak_gb,
    memory_limit_gb,
    memory_peak_gb,
    reset_memory_peak,
    timed,
    versions,
)
from bpjax.neighbors import neighbor_list
from bpjax.potential import Potential
from bpjax.potential.energy import Params
from bpjax.potential.forces import predict
from bpjax.potential.preparation import Place, check
from bpjax.precision import name_of_dtype, precision
from bpjax.progress import ProgressFn, silent
from bpjax.system import system_from_arrays

ROOM = 0.9
"""Share of the memory that a size may need by extrapolation and still be tried."""

LONGEST = 20.0
"""Seconds that a timed run of the dynamics may take."""


@dataclass(frozen=True)
class Speed:
    """What was measured for one size.

    Attributes:
      atoms: number of atoms.
      neighbors: mean number of neighbours within the cutoff.
      energy_per_atom: of the structure in eV, offsets included: that of the repeated structure, to rounding.
      evaluation_compile_s, md_compile_s: seconds to compile energy and forces, and the dynamics.
      ms_per_evaluation: milliseconds for energy and forces, list given; median.
      ms_per_step: milliseconds for a step of the dynamics, list updates included; median.
      timestep_fs: its time step.
      list_builds: neighbour lists built per step.
      program_gb: memory of the compiled dynamics, as the compiler says, in 10^9 bytes.
      memory_gb: largest memory held during the dynamics, but for its compilation, in 10^9 bytes: of the process on a CPU, of the
        device else.
    """

    atoms: int
    neighbors: float
    energy_per_atom: float
    evaluation_compile_s: float
    md_compile_s: float
    ms_per_evaluation: float
    ms_per_step: float
    timestep_fs: float
    list_builds: float
    program_gb: float | None
    memory_gb: float | None

    @property
    def atom_steps_per_s(self) -> float:
        """Steps per second times atoms."""
        return 1e3 * self.atoms / self.ms_per_step

    @property
    def ns_per_day(self) -> float:
        """Simulated time per day of computing, in ns."""
        return 86400 * 1e3 / self.ms_per_step * self.timestep_fs * 1e-6

    def line(self) -> dict[str, Any]:
        """Everything as plain values, with times per atom in microseconds."""
        return asdict(self) | {
            "us_per_atom_evaluation": 1e3 * self.ms_per_evaluation / self.atoms,
            "us_per_atom_step": 1e3 * self.ms_per_step / self.atoms,
            "atom_steps_per_s": self.atom_steps_per_s,
            "ns_per_day": self.ns_per_day,
        }


@dataclass(frozen=True)
class Largest:
    """An estimate of the largest system that fits, by the growth of memory from one size to the next.

    Attributes:
      atoms: how many fit.
      kb_per_atom: growth in 10^3 bytes per atom.
      limit_gb: memory that there is, in 10^9 bytes.
    """

    atoms: int
    kb_per_atom: float
    limit_gb: float


def surroundings(dtype: str) -> dict[str, Any]:
    """Device, number of devices, cores, dtype and versions, for a line of results."""
    device = jax.local_devices()[0]
    where = {"device": device.device_kind, "devices": jax.local_device_count(), "cores": cores(), "dtype": dtype}
    return where | {"versions": versions()}


def repeated(atoms: ase.Atoms, wanted: int) -> ase.Atoms:
    """The structure repeated along its periodic directions, the shortest first, until it has at least `wanted` atoms.

    Without periodic directions it is returned as it is.
    """
    repeats, periodic = np.ones(3, int), np.flatnonzero(atoms.pbc)
    lengths = np.linalg.norm(atoms.cell.array, axis=1)
    while len(periodic) and len(atoms) * repeats.prod() < wanted:
        repeats[periodic[np.argmin((repeats * lengths)[periodic])]] += 1
    return atoms.repeat(repeats)


def evaluation_timing(
    model: Potential, params: Params, atoms: ase.Atoms, *, repeats: int = 5, dtype: str = "float32"
) -> tuple[Timing, float, float]:
    """Times energy and forces with the neighbour list given.

    Args:
      model: the potential.
      params: its arrays.
      atoms: the structure.
      repeats: how many evaluations are timed.
      dtype: "float32" or "float64".

    Returns: the timing, the energy in eV with offsets, and the mean number of neighbours.

    Raises:
      StructureError, UnknownSpeciesError: a structure that cannot be evaluated.
    """
    check(atoms, model.elements, Place(None, None))
    neighbors = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, model.cutoff)
    cell = atoms.cell.array if atoms.pbc.any() else None
    system = system_from_arrays(atoms.numbers, atoms.positions, cell, atoms.pbc, model.elements, dtype=np.dtype(dtype))

    def step(params, system, neighbors):
        found = predict(model, params, system, neighbors)
        return found.energy, found.forces

    with precision(name_of_dtype(dtype)):
        timing = timed(step, params, system, neighbors, repeats=repeats)
    energy = float(timing.result[0])
    offset = float(model.offset_energies(species_of(atoms.numbers, model.elements)).sum())
    return timing, energy + offset, float(np.asarray(neighbors.mask).sum() / len(atoms))


class Dynamics(NamedTuple):
    """What `dynamics_timing` finds: the timing of one step; for the others see `Speed`."""

    timing: Timing
    list_builds: float
    program_gb: float | None
    memory_gb: float | None


def dynamics_timing(
    model: Potential,
    params: Params,
    atoms: ase.Atoms,
    *,
    steps: int = 50,
    repeats: int = 5,
    timestep_fs: float = 1.0,
    temperature: float = 300.0,
    dtype: str = "float32",
) -> Dynamics:
    """Times the steps of NVE dynamics in the driver, neighbour lists updated, without output.

    A run in which a list had to be grown does not count; neither does the first.

    Args:
      model: the potential.
      params: its arrays.
      atoms: where to start.
      steps: in each timed run; fewer where they would take more than `LONGEST` seconds.
      repeats: how many runs are timed.
      timestep_fs: time step in fs.
      temperature: of the initial momenta, in K.
      dtype: "float32" or "float64".

    Raises:
      ConfigError, StructureError, UnknownSpeciesError, CapacityError: what cannot be run.
      DivergedError: the dynamics exploded.
    """
    settings = Settings("nve", temperature, timestep_fs, steps * (repeats + 1), dtype=dtype)
    reset_memory_peak()
    simulation = Simulation(model, params, atoms, settings, steps, 2**30)
    held = _memory_gb()
    _advance(simulation, 1, dt=0.0)
    compile_s = simulation.compile_s
    steps = int(np.clip(LONGEST / simulation.run_s, 1, steps))
    reset_memory_peak()
    _advance(simulation, steps)
    runs: list[float] = []
    built, before = 0, simulation.run_s
    for _ in range(3 * repeats):
        grown, lists = simulation.overflows, simulation.rebuilds
        _advance(simulation, steps)
        now = simulation.run_s
        if simulation.overflows == grown:
            runs.append((now - before) / steps)
            built += simulation.rebuilds - lists
        before = now
        if len(runs) == repeats:
            most = None if held is None else max(held, _memory_gb() or 0.0)
            program = simulation.program_bytes
            program_gb = None if program is None else program / 1e9
            return Dynamics(Timing(compile_s, tuple(runs)), built / (steps * repeats), program_gb, most)
    raise DivergedError("the neighbour lists had to be grown again and again; is the system collapsing?")


def _advance(simulation: Simulation, steps: int, dt: float | None = None) -> None:
    _, _, fine = simulation.advance(1, steps, 0, dt=dt)
    if not fine:
        raise DivergedError(
            "the dynamics exploded; start from a structure closer to equilibrium, at a lower temperature or with a smaller"
            " time step"
        )


def measure(
    model: Potential,
    params: Params,
    atoms: ase.Atoms,
    *,
    steps: int = 50,
    repeats: int = 5,
    timestep_fs: float = 1.0,
    temperature: float = 300.0,
    dtype: str = "float32",
) -> Speed:
    """Everything about one size; arguments and errors of `evaluation_timing` and `dynamics_timing`."""
    evaluation, energy, neighbors = evaluation_timing(model, params, atoms, repeats=repeats, dtype=dtype)
    gc.collect()  # what the evaluation held
    dynamics = dynamics_timing(
        model,
        params,
        atoms,
        steps=steps,
        repeats=repeats,
        timestep_fs=timestep_fs,
        temperature=temperature,
        dtype=dtype,
    )
    return Speed(
        atoms=len(atoms),
        neighbors=neighbors,
        energy_per_atom=energy / len(atoms),
        evaluation_compile_s=evaluation.compile_s,
        md_compile_s=dynamics.timing.compile_s,
        ms_per_evaluation=1e3 * evaluation.median,
        ms_per_step=1e3 * dynamics.timing.median,
        timestep_fs=timestep_fs,
        **{name: getattr(dynamics, name) for name in ("list_builds", "program_gb", "memory_gb")},
    )


def _memory_gb() -> float | None:
    device = jax.local_devices()[0]
    return memory_peak_gb() if device.platform == "cpu" else device_memory_peak_gb(device)


def measure_sizes(
    model: Potential,
    params: Params,
    atoms: ase.Atoms,
    sizes: Sequence[int],
    *,
    progress: ProgressFn = silent,
    **options: Any,
) -> tuple[list[Speed], str | None]:
    """`measure` for a structure that is repeated to several sizes, from the smallest on, as long as memory lasts.

    Args:
      model: the potential.
      params: its arrays.
      atoms: the structure; one without periodic directions is measured as it is.
      sizes: wanted numbers of atoms, at least 1; what is measured is the next that repeating the structure gives.
      progress: shows how many sizes are done.
      options: of `measure`.

    Returns: what was measured, and why larger sizes were left out (None if none was).

    Raises:
      ConfigError: no size, or one below 1.
    """
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"{list(sizes)}: at least one number of atoms, each at least 1", field="sizes")
    found: list[Speed] = []
    with progress(len(sizes), "sizes") as bar:
        for wanted in sorted(sizes):
            larger = repeated(atoms, wanted)
            if not found or len(larger) > found[-1].atoms:
                refused = _refused(found, len(larger))
                if refused is None:
                    try:
                        found.append(measure(model, params, larger, **options))
                    except (MemoryError, jax.errors.JaxRuntimeError) as error:
                        if not found or not _out_of_memory(error):
                            raise
                        refused = f"{len(larger)} atoms do not fit into memory"
                if refused is not None:
                    return found, refused
            bar.update(1, atoms=found[-1].atoms, us_per_atom_step=1e3 * found[-1].ms_per_step / found[-1].atoms)
    return found, None


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _refused(found: Sequence[Speed], atoms: int) -> str | None:
    """Why a size is not tried: on a CPU, running out of memory would end the process."""
    estimate = largest_system(found, memory_limit_gb(jax.local_devices()[0]))
    if estimate is None or atoms <= ROOM * estimate.atoms:
        return None
    need = found[-1].memory_gb or 0.0
    need += (atoms - found[-1].atoms) * estimate.kb_per_atom * 1e-6
    return f"{atoms} atoms would need about {need:.3g} GB of memory, and there are {estimate.limit_gb:.3g}"


def largest_system(found: Sequence[Speed], limit_gb: float | None) -> Largest | None:
    """Estimates the largest system that fits: memory on a straight line through the compiled programs of the two largest sizes.

    The compiler's numbers give the slope because they are exact; what the process holds grows with each program that it
    compiles. Where lists are built by comparing all pairs of atoms (small or skewed cells, open directions), memory grows faster.

    Args:
      found: what was measured, from the smallest size on.
      limit_gb: memory that there is; see `bpjax.machine.memory_limit_gb`.

    Returns: the estimate; None where memory or limit are not known, or there is only one size.
    """
    sizes = [(speed.atoms, speed.program_gb) for speed in found if speed.program_gb is not None]
    held = found[-1].memory_gb if found else None
    if limit_gb is None or held is None or len(sizes) < 2:
        return None
    (fewer, less), (atoms, more) = sizes[-2:]
    if more <= less:
        return None
    per_atom = (more - less) / (atoms - fewer)
    return Largest(int(atoms + max(0.0, limit_gb - held) / per_atom), 1e6 * per_atom, limit_gb)
