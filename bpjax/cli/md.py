"""``bpjax md``: molecular dynamics with a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bpjax.cli.common import (
    FileOptions,
    Units,
    check_outputs,
    load_model,
    read_frames,
    say,
    say_without_cells,
    use_all_cores,
    use_dtype,
)

if TYPE_CHECKING:
    from bpjax.dynamics import MDResult


@dataclass(frozen=True)
class Options(FileOptions):
    """Molecular dynamics with the integrators of jax-md.

    Frames (positions, momenta, potential energy) go to OUT.extxyz, one record per line to OUT.jsonl beside it: step, time_fs,
    potential_energy, kinetic_energy, total_energy, conserved (eV), temperature (K), pressure_gpa, volume (A^3).

    With --replicas, --temperatures or --all-frames many small systems run at once, in one program; records and frames of all go
    to the same two files, with the number of the system as `replica`.

    Example: bpjax md model.bpjax diamond.xyz --ensemble nvt --temperature 300 --steps 10000 -o run.extxyz
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """The model: a .bpjax file, or a folder of n2p2 or RuNNer (also a committee: a folder with nnp-1, nnp-2, ...)."""

    structure: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IN")]
    """Where to start: any format that ASE reads, or a RuNNer data file."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="OUT.extxyz")]
    """The trajectory; the log gets the same name with the ending .jsonl."""

    frame: int = -1
    """Which frame of IN, counted from 0; negative numbers count from the end."""

    ensemble: Literal["nve", "nvt", "nvt_langevin", "npt"] = "nve"
    """nvt and npt use Nose-Hoover chains; npt keeps the shape of the cell."""

    temperature: float = 300.0
    """In K, for the initial momenta and the thermostat."""

    timestep: Annotated[float, tyro.conf.arg(metavar="FS")] = 1.0
    """Time step in fs."""

    steps: int = 1000
    """Number of steps."""

    pressure: Annotated[float, tyro.conf.arg(metavar="GPA")] = 0.0
    """Pressure for npt, in GPa."""

    thermostat_time: Annotated[float, tyro.conf.arg(metavar="FS")] = 100.0
    """Relaxation time of the thermostat in fs (nvt_langevin: the inverse of the friction)."""

    barostat_time: Annotated[float, tyro.conf.arg(metavar="FS")] = 1000.0
    """Relaxation time of the barostat in fs."""

    seed: int = 0
    """Of the initial momenta and the noise."""

    log_interval: int = 10
    """Steps between records."""

    trajectory_interval: int = 100
    """Steps between frames."""

    use_momenta: bool = False
    """Start from the momenta in IN, as when a run is continued."""

    max_temperature: float | None = None
    """In K, above which the run has exploded and is stopped (default: 10 times the temperature, at least 5000)."""

    units: Units = None
    """Units of the files of n2p2 and RuNNer among MODEL and IN, which do not say them; required with such files alone."""

    dtype: Literal["float32", "float64"] = "float32"
    """Precision."""

    max_extrapolations: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Stop when the run has met more symmetry functions than this outside the range that they had in training, one for each
    atom, function and step (default: do not count)."""

    extrapolation_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE.extxyz")] = None
    """Write frames with such functions to this file, at most one in --log-interval steps and without labels, and the functions,
    values and ranges to FILE.jsonl beside it. Needs --max-extrapolations."""

    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Devices that share the atoms (default: all, as long as each gets 100 atoms, off CPUs 2000; 1 takes the first alone).
    Each core of a CPU is a device, unless JAX_NUM_CPU_DEVICES or XLA_FLAGS say how many there are."""

    replicas: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Run so many copies of the structure at once, with the seeds SEED, SEED + 1, ..."""

    temperatures: Annotated[tuple[float, ...], tyro.conf.arg(metavar="T")] = ()
    """Temperatures in K, one for each system, in place of --temperature; alone, they also say how many copies run."""

    all_frames: bool = False
    """Run all frames of IN at once, each as a system of its own; they may be unlike."""

    overwrite: bool = False
    """Replace the output files if they exist."""

    def __post_init__(self) -> None:
        for name, path in (("output", self.output), ("extrapolation_file", self.extrapolation_file)):
            if path is not None and path.suffix not in ("", ".extxyz", ".xyz"):
                raise ValueError(f"{name} {path}: frames are written as extended XYZ; the name must end in .extxyz")
        from bpjax.spec import check_seed  # here, because it needs numpy, which the help does not

        check_seed(self.seed)
        if self.max_extrapolations is not None and self.max_extrapolations < 0:
            raise ValueError(f"max_extrapolations {self.max_extrapolations}: must be at least 0")
        if self.extrapolation_file is not None and self.max_extrapolations is None:
            raise ValueError("extrapolation_file: needs --max-extrapolations (a large number counts and never stops)")
        if self.several:
            self._check_several()

    @property
    def several(self) -> bool:
        """Whether more than one system runs."""
        return self.replicas is not None or bool(self.temperatures) or self.all_frames

    def _check_several(self) -> None:
        if self.replicas is not None and self.replicas < 1:
            raise ValueError(f"replicas {self.replicas}: must be at least 1")
        if self.replicas is not None and self.all_frames:
            raise ValueError("replicas: not with --all-frames, where each frame is a system")
        if self.replicas is not None and self.temperatures and len(self.temperatures) != self.replicas:
            raise ValueError(f"temperatures: {len(self.temperatures)} of them, but {self.replicas} replicas")
        if self.max_extrapolations is not None:
            raise ValueError("max_extrapolations: not with --replicas, --temperatures or --all-frames")
        if self.devices not in (None, 1):
            raise ValueError("devices: more than 1, but --replicas, --temperatures and --all-frames take one")


def run(options: Options) -> None:
    """Runs the simulation and says how it went."""
    log, extrapolating = options.output.with_suffix(".jsonl"), options.extrapolation_file
    more = () if extrapolating is None else (extrapolating, extrapolating.with_suffix(".jsonl"))
    check_outputs((options.output, log, *more), options.overwrite, (options.model, options.structure))
    use_dtype(options.dtype)
    use_all_cores()
    model, params = load_model(options.model, options.units)

    from bpjax.dynamics import run_md, run_replicas
    from bpjax.progress import progress

    names = (
        "ensemble",
        "temperature",
        "steps",
        "pressure",
        "seed",
        "log_interval",
        "trajectory_interval",
        "use_momenta",
    )
    names += ("max_temperature", "dtype", "overwrite", "devices")
    arguments: dict[str, Any] = {name: getattr(options, name) for name in names}
    arguments |= {
        "trajectory": options.output,
        "log": log,
        "timestep_fs": options.timestep,
        "thermostat_time_fs": options.thermostat_time,
        "barostat_time_fs": options.barostat_time,
        "progress": progress,
    }
    frames = read_frames(options.structure, ":" if options.all_frames else options.frame, options.units, how=options)
    moving = sum(atoms.has("momenta") for atoms in frames)
    if moving and not options.use_momenta:
        count = "" if len(frames) == 1 else f", in {moving} of {len(frames)} frames"
        drawn = "the temperatures asked for" if options.temperatures else f"{options.temperature:g} K"
        say(f"{options.structure} has momenta{count}, which are not used: these are drawn at {drawn} (--use-momenta)")
    say_without_cells(options.model, frames)
    if options.several:
        several = {"replicas": options.replicas, "temperatures": options.temperatures or None}
        results = run_replicas(model, params, frames if options.all_frames else frames[0], **several, **arguments)
        _say(options, log, results[0], f"{len(results)} systems, ")
        return
    watched = {"max_extrapolations": options.max_extrapolations, "extrapolation_file": extrapolating}
    result = run_md(model, params, frames[0], **watched, **arguments)
    _say(options, log, result)
    if result.extrapolations is not None:
        kept = f"; frames are in {extrapolating}" if extrapolating is not None and result.extrapolations else ""
        print(f"extrapolation: {result.extrapolations} warnings{kept}")


def _say(options: Options, log: Path, result: MDResult, systems: str = "") -> None:
    speed = result.timings["us_per_atom_step"]
    shared = f" on {result.devices} devices" if result.devices > 1 else ""
    steps = f"{systems}{options.steps} steps"
    print(f"wrote {options.output} and {log}: {steps}, {speed:.1f} us per atom and step{shared}")
