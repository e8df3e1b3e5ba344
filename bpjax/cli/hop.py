"""``bpjax hop``: surface hopping with a diabatic model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bpjax.cli.common import check_apart, check_output_folder, read_frames, say, use_all_cores, use_dtype
from bpjax.errors import BpjaxError

if TYPE_CHECKING:
    from bpjax.excited.hopping_run import Hopping, HoppingRun
    from bpjax.excited.library import MovingModel

RESTART = "restart.npz"
RESULTS = (
    *(RESTART, "report.json", "hops.jsonl", "populations.csv", "populations.json", "populations.png"),
    *("trajectories.extxyz", "trajectories.npz"),
)
"""Files in DIR."""

SHARC_GEOMETRY, SHARC_VELOCITIES = "geom", "veloc"
"""Name by which a start of SHARC is known, and of the file beside it."""


@dataclass(frozen=True)
class Options:
    """Surface hopping: an ensemble of trajectories of a model of several electronic states, in compiled calls.

    The folder DIR gets populations.csv and .json (time, share of trajectories on each adiabatic state with its binomial error,
    amplitudes, diabatic populations), populations.png, hops.jsonl (every attempted hop), report.json (energy drift, internal
    consistency, where trajectories went, which were lost), restart.npz, and on request trajectories.

    Example: bpjax hop model.bpjax start.extxyz --state 2 --steps 1000 --timestep 0.25 -o hops
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A .bpjax file of diabatic states, SHARC's LVC.template under any name, or a name: tully1, tully2, tully3, pyrazine,
    pyrazine4."""

    start: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """Where to start: structures with velocities (any format that ASE reads; a trajectory for each frame; SHARC's geom, with
    veloc beside it), a Hessian to sample from (.npz with positions, hessian, units), or the word sample: from the model's own
    modes, or for Tully's models from the left with --momentum."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder for the results."""

    state: int
    """State at the start, from 0 in order of energy (or of the diabatic matrix, see --basis)."""

    steps: int = 1000
    """Number of steps; with --resume so many more."""

    timestep: Annotated[float, tyro.conf.arg(metavar="FS")] = 0.5
    """Time step in fs."""

    integrator: Literal["velocity_verlet", "omelyan"] = "omelyan"
    """Of the nuclei: of second order with one force in a step, of fourth order with four."""

    energy_tolerance: Annotated[float | None, tyro.conf.arg(metavar="EV")] = None
    """How far the total energy of a trajectory may go from its start, in eV; its steps are divided to keep it. 0 for steps of one
    length. By default 1e-4, and 0 with --method landau_zener or --dtype float32."""

    max_drift: Annotated[float, tyro.conf.arg(metavar="EV")] = 1.0
    """A trajectory whose total energy would go farther from its start, in eV, cannot go on (see --lost); 0 for no limit."""

    closest: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.6
    """A trajectory of a molecule goes astray where two atoms come nearer than so many sums of their covalent radii: no model
    knows what is there. 0 for no limit."""

    max_extrapolations: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """It goes astray with more extrapolation warnings than this, one for each atom, feature and step outside of training. By
    default what a tenth of all features for 100 fs would give; -1 for no limit."""

    astray: Literal["mark", "lose"] = "mark"
    """What becomes of such trajectories: they go on, and results are given with and without them, or they cannot go on
    (see --lost)."""

    trajectories: Annotated[int, tyro.conf.arg(metavar="N")] = 100
    """How many, where they are sampled."""

    basis: Literal["adiabatic", "diabatic"] = "adiabatic"
    """What --state counts."""

    method: Literal["fewest_switches", "landau_zener", "ehrenfest", "born_oppenheimer"] = "fewest_switches"
    """How trajectories change states: Tully's fewest switches, at minima of the gap, by the mean field, never."""

    amplitudes: Literal["local_diabatisation", "coupling"] = "local_diabatisation"
    """Amplitudes from overlaps of states, or from couplings times velocities in substeps."""

    substeps: int = 20
    """Electronic steps in each step, with --amplitudes coupling."""

    decoherence: Literal["energy", "none"] = "energy"
    """Energy-based decoherence of Granucci and Persico, or none."""

    decoherence_hartree: Annotated[float, tyro.conf.arg(metavar="C")] = 0.1
    """Its constant."""

    rescale: Literal["coupling", "gradients", "velocity", "isotropic"] = "coupling"
    """Momentum that pays for a hop: along the coupling, the difference of gradients, the internal velocity, or all velocities."""

    frustrated: Literal["keep", "reverse", "gradient"] = "keep"
    """What happens to the velocity when a hop cannot be paid for; gradient: reversed where the other state pushes back."""

    lost: Literal["stop", "leave_out"] | None = None
    """What happens when a trajectory cannot go on, say in a hole of the model: the run stops, or goes on without it, which biases
    averages where there are more than a few. By default stop, and with --resume as before."""

    temperature: float = 0.0
    """In K, for sampling from a Hessian or modes."""

    momentum: float | None = None
    """Of Tully's models, in atomic units."""

    seed: int = 0
    """Of sampling and hops."""

    log_interval: int = 1
    """Steps between records."""

    save: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Write the first N trajectories: of molecules to trajectories.extxyz, of models to trajectories.npz."""

    dtype: Literal["float32", "float64"] = "float64"
    """Precision."""

    resume: bool = False
    """Go on from restart.npz in DIR, of the same model and start, with the options of that run; of those given here only --steps
    and --lost count."""

    overwrite: bool = False
    """Replace results in DIR."""

    def __post_init__(self) -> None:
        for name in ("steps", "trajectories", "log_interval", "substeps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        from bpjax.spec import check_seed  # here, because it needs numpy, which the help does not

        check_seed(self.seed)
        if self.energy_tolerance is not None and self.energy_tolerance < 0:
            raise ValueError(f"energy_tolerance {self.energy_tolerance}: must be at least 0")
        for name in ("max_drift", "closest"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 0")
        if self.max_extrapolations is not None and self.max_extrapolations < -1:
            raise ValueError(f"max_extrapolations {self.max_extrapolations}: must be at least 0, or -1 for no limit")
        if self.save < 0:
            raise ValueError(f"save {self.save}: must be at least 0")
        if self.steps % self.log_interval:
            raise ValueError(f"steps {self.steps}: must be a multiple of log_interval, {self.log_interval}")


def run(options: Options) -> None:
    """Runs the trajectories and writes what they say."""
    from bpjax.io.lock import only_run

    again, outputs = options.overwrite or options.resume, [options.output / name for name in RESULTS]
    check_output_folder(options.output, again)
    check_apart(outputs, [Path(options.model), *_start_files(options.start)], "is read")
    dtype = _precision(options)
    use_dtype(dtype)
    use_all_cores()
    # Before anything is read, and until the last result is written: nobody else may take the folder meanwhile.
    with only_run(options.output, again, "use --overwrite to replace it"):
        _run(options, dtype)


def _precision(options: Options) -> str:
    """That of the run to resume, else as asked for."""
    if not options.resume:
        return options.dtype
    from bpjax.excited.hopping_files import precision_of_run

    return precision_of_run(options.output / RESTART)


def _run(options: Options, dtype: str) -> None:
    """The trajectories, in a folder that is their own."""
    from bpjax.excited.hopping_files import load_run, save_run
    from bpjax.excited.hopping_run import Hopping
    from bpjax.excited.library import find_model
    from bpjax.progress import progress

    model = find_model(options.model)
    check_apart([options.output / name for name in RESULTS], model.files, "is read")
    read = [file for file in _start_files(options.start) if file.is_file()]
    identity = {"model": _fingerprint(options.model, model.files), "start": _fingerprint(options.start, read)}
    if options.resume:
        done: Any = load_run(options.output / RESTART)
        for what, hashed in identity.items():
            if done.identity.get(what) != hashed:
                message = f"is of another {what} than {getattr(options, what)} is now; a run resumes as it began"
                raise BpjaxError(f"{options.output / RESTART}: {message}")
        done.options = replace(done.options, lost=options.lost or done.options.lost)
        hopping = Hopping(model.model, model.masses, done.options, watch=model.watch, dtype=dtype)
        _check_fits(options.output / RESTART, done, model)
        interval = done.interval
        if options.steps % interval:
            raise BpjaxError(
                f"--steps {options.steps}: must be a multiple of {interval}, the interval of the run to resume"
            )
    else:
        hopping, done = _begun(options, model)
        interval = options.log_interval
    left, piece = options.steps, max(1, 200 // interval) * interval
    with progress(options.steps, "hopping") as bar:
        while left > 0:
            now = min(piece, left) // interval * interval or interval
            done = hopping.run(done, now, interval, keep=options.save > 0)
            done.identity = identity
            save_run(options.output / RESTART, done)
            left -= now
            counts = done.populations().counts[-1]
            bar.update(now, **{f"S{i}": float(share) for i, share in enumerate(counts)})
    _write(options, model, done)


def _fingerprint(word: str, files: Iterable[Path]) -> str:
    """Hash of files; without any the word, such as the name of a model, stands for itself."""
    contents = [path.read_bytes() for path in files]
    return f"sha256:{hashlib.sha256(b''.join(contents)).hexdigest()}" if contents else word


def _start_files(start: str) -> list[Path]:
    """The file where trajectories start, or both of SHARC's: geometry and velocities."""
    path = Path(start)
    return [path, path.with_name(SHARC_VELOCITIES)] if path.name == SHARC_GEOMETRY else [path]


def _check_fits(path: Path, done: HoppingRun, model: MovingModel) -> None:
    """Compares what a restart file holds with the model.

    Raises:
      BpjaxError: it is of other coordinates, units or elements.
    """
    pairs = 0 if model.watch is None else len(model.watch.pairs)
    for what, has, needs in (
        (
            "coordinates",
            done.state.R.shape[1:],
            model.masses.shape if model.symbols is None else (len(model.symbols), 3),
        ),
        ("units", done.options.units, model.units),
        ("so many pairs of elements:", done.state.watched.closest.shape[1], pairs),
    ):
        if has != needs:
            raise BpjaxError(f"{path}: is of {what} {has}, the model of {needs}")


def _begun(options: Options, model: MovingModel) -> tuple[Hopping, Any]:
    """The dynamics and the trajectories at their beginning."""
    from bpjax.excited.hopping_options import HoppingOptions
    from bpjax.excited.hopping_run import Hopping

    same = "integrator method amplitudes substeps decoherence decoherence_hartree rescale frustrated"
    names = f"{same} closest max_extrapolations astray".split()
    settings = HoppingOptions(
        timestep_fs=options.timestep,
        energy_tolerance_ev=options.energy_tolerance,
        max_drift_ev=options.max_drift,
        region=None if model.edge is None else (-model.edge, model.edge),
        units=model.units,
        lost=options.lost or "stop",
        **{name: getattr(options, name) for name in names},
    )
    hopping = Hopping(model.model, model.masses, settings, watch=model.watch, dtype=options.dtype)
    R, v = _initial(options, model)
    return hopping, hopping.start(R, v, options.state, options.seed, options.basis)


def _initial(options: Options, model: MovingModel) -> tuple[Any, Any]:
    """Coordinates and velocities of all trajectories."""
    import numpy as np

    from bpjax.excited.library import from_sharc, from_structures, read_hessian
    from bpjax.excited.wigner import wigner_samples

    if options.start == "sample" and model.edge is not None:
        if options.momentum is None or not options.momentum > 0:
            raise BpjaxError(f"{options.model}: needs --momentum, a positive number of atomic units")
        one = np.ones((options.trajectories, 1))
        return -model.edge * one, options.momentum / model.masses * one
    if options.momentum is not None:
        raise BpjaxError("--momentum: is for Tully's models started with the word sample")
    if options.start == "sample":
        modes = model.modes
        if modes is None:
            raise BpjaxError(
                f"{options.model}: knows no modes to sample; give structures with velocities or a Hessian (.npz)"
            )
    elif options.start.endswith(".npz"):
        modes = read_hessian(Path(options.start), model)
    else:
        path = Path(options.start)
        sharc = path.name == SHARC_GEOMETRY
        read = from_sharc(path, path.with_name(SHARC_VELOCITIES), model) if sharc else None
        return _faced(options, model, *(read or from_structures(read_frames(path), model, path)))
    R, v = wigner_samples(modes, options.trajectories, options.temperature, model.units, options.seed)
    return (R, v) if options.start == "sample" else _faced(options, model, R, v)


def _faced(options: Options, model: MovingModel, R: Any, v: Any) -> tuple[Any, Any]:
    """Geometries and velocities as they face in the model, and a word where they did not."""
    R, v, angle = model.faced(R, v)
    if angle:
        say(f"{options.start}: turned by up to {angle:.0f} degrees to face as the geometry of {options.model} does")
    return R, v


def _write(options: Options, model: MovingModel, done: HoppingRun) -> None:
    """All results but the restart file, and a line of summary."""
    import jax.numpy as jnp
    import numpy as np

    from bpjax.analysis.excited_plots import plot_populations
    from bpjax.excited.hopping_files import write_hops, write_populations
    from bpjax.io.atomic import write_json
    from bpjax.units import ELECTRONIC, HARTREE

    folder, found = options.output, done.populations()
    write_populations(folder / "populations.csv", done)
    write_populations(folder / "populations.json", done)
    write_hops(folder / "hops.jsonl", done)
    plot_populations(done.times_fs, found, path=folder / "populations.png")
    eV = HARTREE / ELECTRONIC[model.units].hartree
    outcome, drift = done.outcomes(), done.drift[np.asarray(done.state.mark) == 0]
    report = {
        "model": options.model,
        "trajectories": int(done.records.active.shape[1]),
        "time_fs": float(done.times_fs[-1]),
        "hops": int(done.hops["accepted"].sum()),
        "frustrated_hops": int((~done.hops["accepted"]).sum()),
        "lost": [lost._asdict() for lost in done.lost],
        "largest_energy_drift_ev": float(drift.max() * eV),
        "mean_energy_drift_ev": float(drift.mean() * eV),
        "largest_inconsistency": float(found.inconsistency.max()),
        "populations": found.counts[-1].tolist(),
        "errors": found.errors[-1].tolist(),
        **_astray(done),
    }
    if model.edge is not None:
        report |= {"transmitted": outcome.transmitted.tolist(), "reflected": outcome.reflected.tolist()}
        report["unfinished"] = outcome.unfinished
    if model.basis is not None:
        shares = np.asarray(model.basis.populations(jnp.asarray(found.diabatic)))
        report["multiplicities"] = list(model.basis.multiplicities)
        report["multiplicity_populations"] = shares[-1].tolist()
    write_json(folder / "report.json", report)
    if done.records.R is not None:
        _write_trajectories(options, model, done)
    last = ", ".join(f"{share:.3f}" for share in found.counts[-1])
    size = f"{report['trajectories']} trajectories, {done.times_fs[-1]:g} fs"
    counts = {"lost": report["lost"], "gone astray": report.get("astray", [])}
    without = ", ".join(f"{len(found)} {word}" for word, found in counts.items() if found)
    without = f" ({without}, see report.json)" if without else ""
    print(f"wrote {folder}: {size}{without}, {report['hops']} hops; populations {last}")
    if report.get("astray"):
        sound = report["sound_populations"]
        text = "none is left" if sound is None else f"populations {', '.join(f'{share:.3f}' for share in sound)}"
        print(f"without those gone astray: {report['sound']} trajectories, {text}")


def _astray(done: HoppingRun) -> dict[str, Any]:
    """What was seen of the geometries of a molecule, and what is left without the trajectories that went astray."""
    import numpy as np

    watch, seen = done.watch, done.state.watched
    if watch is None:
        return {}
    closest = np.asarray(seen.closest) * watch.length
    sound = done.populations(done.sound)
    some = bool(sound.number[-1])
    gone = done.astray
    return {
        "closest_contacts": {pair: closest[:, p].tolist() for p, pair in enumerate(watch.pairs)},
        "extrapolations": None if watch.outside is None else np.asarray(seen.outside).tolist(),
        "astray": [one._asdict() | {"time_fs": one.steps * done.options.timestep_fs} for one in gone],
        "sound": int(sound.number[-1]),
        "sound_populations": sound.counts[-1].tolist() if some else None,
        "sound_errors": sound.errors[-1].tolist() if some else None,
    }


def _write_trajectories(options: Options, model: MovingModel, done: HoppingRun) -> None:
    from bpjax.excited.hopping_files import write_trajectories
    from bpjax.io.atomic import write_npz
    from bpjax.units import BOHR, ELECTRONIC, HARTREE, TIME_UNIT_FS

    which = range(min(options.save or done.state.R.shape[0], done.state.R.shape[0]))
    if model.symbols is not None:
        units = ELECTRONIC[model.units]
        length = BOHR / units.bohr
        speed = length * TIME_UNIT_FS / units.time_fs
        write_trajectories(
            options.output / "trajectories.extxyz", done, model.symbols, which, length, speed, HARTREE / units.hartree
        )
        return
    rows = list(which)
    kept = {name: getattr(done.records, name)[:, rows] for name in ("active", "adiabatic", "diabatic", "R", "v")}
    write_npz(options.output / "trajectories.npz", kept | {"going": done.going[:, rows], "times_fs": done.times_fs})
