"""The main job on the silicon data shipped with bpjax: train, test, phases, molecular dynamics, and a report.

After J. Behler and M. Parrinello, Phys. Rev. Lett. 98, 146401 (2007), who introduced the method with bulk silicon. Each stage is
a function that takes what the ones before have made, writes its files into a folder and returns its part of the report.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.build import bulk

from bpjax.analysis import plots
from bpjax.analysis.eos import at_volume, energy_volume
from bpjax.analysis.errors import error_metrics
from bpjax.analysis.report import write_report
from bpjax.analysis.silicon import (
    DATA,
    liquid_volume,
    phase_order,
    phase_properties,
    read_silicon,
    volume_series,
)
from bpjax.analysis.structure import first_minimum, mean_squared_displacement, radial_distribution
from bpjax.descriptors import SOAP
from bpjax.dynamics import MDDivergedError, MDResult, run_md
from bpjax.errors import DivergedError, StructureError
from bpjax.io.atomic import write_json
from bpjax.io.labels import group_of, labels
from bpjax.io.structures import read_structures
from bpjax.networks.elemental import MLP
from bpjax.potential.evaluator import Evaluator
from bpjax.potential.store import save
from bpjax.progress import ProgressFn, silent
from bpjax.spec import to_spec
from bpjax.training import Fit, LikelihoodLoss, OptimizerOptions, TrainingOptions, fit
from bpjax.training.prepare import Structures

Show = Callable[[str, dict[str, Any]], None]


TRAINING = TrainingOptions(
    data=DATA,
    descriptor=SOAP(elements=("Si",), radius=5.5, n_max=5, l_max=4),
    network=MLP(hidden=(32, 32), activation="silu"),
    loss=LikelihoodLoss(energy=0.02, forces=0.1, stress=0.01),
    optimizer=OptimizerOptions(
        steps=3000,
        batch_size=8,
        learning_rate=3e-3,
        weight_decay=0.3,
        average=0.995,
        keep="last",
        evaluate_every=250,
        checkpoint_every=1500,
    ),
)
"""Options of the training, chosen by the errors of the validation structures.

The width of the energies looks generous. Tighter ones make the energies of the training structures better and the forces
worse: forces are many, energies few, and the k meshes leave some meV/atom between kinds of structures. Of 27 validation
structures a few compressed metals decide which step has the lowest loss; the end of the run is kept in place of it, and the
weight decay sees to it that the errors do not grow on the way there.
"""


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
      training: options of the fit.
      repeat: cubic diamond cells of eight atoms along each edge of the MD cell.
      nvt_steps, nve_steps: length at 300 K, in steps of 1 fs.
      melt_steps: length at `melt_temperature`, in steps of 1 fs.
      melt_temperature: in K.
      frame_interval: steps between frames of the trajectories.
      seed: of everything that is random.
    """

    training: TrainingOptions = field(default_factory=lambda: TRAINING)
    repeat: int = 3
    nvt_steps: int = 2000
    nve_steps: int = 4000
    melt_steps: int = 4000
    melt_temperature: float = 3000.0
    frame_interval: int = 40
    seed: int = 0

    def with_training(self, **options: Any) -> Plan:
        """The same with other options of the optimiser."""
        optimizer = replace(self.training.optimizer, **options)
        return replace(self, training=replace(self.training, optimizer=optimizer))


def full_plan(seed: int = 0, steps: int | None = None) -> Plan:
    """The whole story, some minutes on two cores; `steps` of training if given."""
    chosen = {} if steps is None else {"steps": steps}
    return Plan(seed=seed).with_training(seed=seed, **chosen)


def fast_plan(seed: int = 0, steps: int | None = None) -> Plan:
    """Everything once and short, to see that it works; the model is poor and nothing melts."""
    plan = Plan(
        training=replace(TRAINING, descriptor=SOAP(elements=("Si",), radius=5.0, n_max=4, l_max=3)),
        repeat=2,
        nvt_steps=100,
        nve_steps=100,
        melt_steps=100,
        frame_interval=10,
        seed=seed,
    )
    return plan.with_training(seed=seed, steps=steps or 1000, evaluate_every=100, checkpoint_every=1000)


def quickstart(
    folder: Path, plan: Plan, progress: ProgressFn = silent, show: Show = lambda stage, part: None
) -> dict[str, Any]:
    """Runs all stages.

    Args:
      folder: an existing folder for the files; those of an earlier run are replaced.
      plan: how much of everything.
      progress: display.
      show: called with the name of each stage and its part of the report, when the stage is done.

    Returns: the report, as in `report.json`.
    """
    structures = read_silicon()
    report: dict[str, Any] = {"seed": plan.seed, "seconds": {}}

    def stage(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        part, *made = function(folder, plan, progress, *arguments)
        report[name] = part
        report["seconds"][name] = round(time.perf_counter() - began, 1)
        show(name, part)
        return made[0] if made else None

    result: Fit = stage("training", train, structures)
    evaluator = Evaluator(result.model, result.params)
    stage("errors", errors, structures, evaluator)
    stage("phases", phases, structures, evaluator)
    stage("dynamics", dynamics, structures, result, report["phases"])
    report["seconds"]["total"] = round(sum(report["seconds"].values()), 1)
    write_report(folder, report)
    write_json(folder / "report.json", report)
    return report


def train(folder: Path, plan: Plan, progress: ProgressFn, structures: Structures) -> tuple[dict[str, Any], Fit]:
    """Fits the potential."""
    result = fit(structures, plan.training, folder, progress=progress)
    if not result.finished:
        raise KeyboardInterrupt(f"training stopped at step {result.step}")
    options = to_spec(plan.training)
    save(folder / "model.bpjax", result.model, result.params, {"options": options, "data": structures.fingerprint()})
    plots.plot_learning_curve(result.history, path=folder / "learning_curve.png")
    return {
        "structures": {name: len(getattr(structures, name)) for name in ("train", "validation", "test")},
        "features": result.model.descriptor.size,
        "steps": result.step,
        "seconds": result.history[-1]["seconds"],
        "options": options,
    }, result


def errors(
    folder: Path, plan: Plan, progress: ProgressFn, structures: Structures, evaluator: Evaluator
) -> tuple[dict[str, Any]]:
    """Errors of all three splits by kind of structure, and the parity plot of the test structures."""
    found = {}
    for name in ("train", "validation", "test"):
        frames = getattr(structures, name).frames
        predicted = evaluator.evaluate_many(frames, progress)
        reference = [labels(atoms) for atoms in frames]
        groups = [group_of(atoms) for atoms in frames]
        found[name] = error_metrics(predicted, reference, [len(atoms) for atoms in frames], groups)
        plots.plot_parity(predicted, reference, groups, title=name, path=folder / f"parity_{name}.png")
    return (found,)


def phases(
    folder: Path, plan: Plan, progress: ProgressFn, structures: Structures, evaluator: Evaluator
) -> tuple[dict[str, Any]]:
    """Energy-volume curves of the crystal phases, and what follows from them, for the model and the DFT points."""
    series = volume_series([*structures.train.frames, *structures.validation.frames, *structures.test.frames])
    crystals = {phase: s.atoms for phase, s in series.items()}
    at_points = energy_volume(evaluator, crystals, {phase: s.volumes for phase, s in series.items()})
    smooth = {phase: s.dense() for phase, s in series.items()}
    curves = energy_volume(evaluator, crystals, smooth)
    volumes = {phase: s.volumes for phase, s in series.items()}
    reference = phase_properties(volumes, {phase: s.energies for phase, s in series.items()})
    # Fitted to the same volumes as the reference: the two then differ by what the model does, not by the fit.
    predicted = phase_properties(volumes, at_points)
    plots.plot_energy_volume(
        {phase: (smooth[phase], curves[phase]) for phase in series},
        {phase: (s.volumes, s.energies) for phase, s in series.items()},
        zero=float(min(s.energies.min() for s in series.values())),
        path=folder / "energy_volume.png",
    )
    rmse = {phase: float(np.sqrt(np.mean((at_points[phase] - s.energies) ** 2))) for phase, s in series.items()}
    return (
        {
            "model": predicted,
            "dft": reference,
            "rmse": rmse,
            "order": {"model": phase_order(predicted), "dft": phase_order(reference)},
            "lattice_constant": {
                name: None if found["diamond"]["volume"] is None else (8 * found["diamond"]["volume"]) ** (1 / 3)
                for name, found in (("model", predicted), ("dft", reference))
            },
        },
    )


def dynamics(
    folder: Path, plan: Plan, progress: ProgressFn, structures: Structures, result: Fit, found: Mapping[str, Any]
) -> tuple[dict[str, Any]]:
    """Diamond at 300 K under a thermostat and without, then the melt; g(r) and mean squared displacements."""
    a = found["lattice_constant"]["model"] or found["lattice_constant"]["dft"]
    crystal = bulk("Si", "diamond", a=a, cubic=True).repeat(plan.repeat)
    run = Runs(folder, plan, progress, result)
    warm = run("nvt_300K", crystal, "nvt", 300.0, plan.nvt_steps)
    run("nve_300K", warm.atoms, "nve", 300.0, plan.nve_steps, use_momenta=True)
    melt(run, crystal, liquid_volume(structures.train.frames))
    targets = {"nvt_300K": 300.0, "melt": plan.melt_temperature}
    plots.plot_dynamics(run.series, targets, path=folder / "dynamics.png")
    r_max = float(min(8.0, crystal.cell.lengths().min() / 2))
    g = {name: radial_distribution(run.second_half(name), r_max, 120) for name in targets if name in run.series}
    titles = {"nvt_300K": "diamond, 300 K", "melt": f"started as a crystal at {plan.melt_temperature:g} K"}
    plots.plot_radial_distribution({titles[name]: curve for name, curve in g.items()}, path=folder / "g_of_r.png")
    for name in g:
        run.report[name] |= {"g_minimum": first_minimum(*g[name]), **run.diffusion(name)}
    run.report["melt"]["molten"] = is_molten(run.report["melt"])
    return ({"atoms": len(crystal), **run.report},)


def melt(run: Runs, crystal: ase.Atoms, volume: float) -> None:
    """Heats the crystal, scaled to so many A^3 per atom, until it melts. A run that explodes goes into the report as such:
    a poor model does not know what to do when atoms meet.
    """
    dense, hot = at_volume(crystal, volume), run.plan.melt_temperature
    try:
        run("melt", dense, "nvt", hot, run.plan.melt_steps, max_temperature=3 * hot)
        run.frames("melt")  # refused if atoms have collapsed onto each other
    except (MDDivergedError, StructureError) as error:
        run.series.pop("melt", None)
        run.report["melt"] = {"target_temperature": hot, "diverged": str(error).replace(f"{run.folder}{os.sep}", "")}
    run.report["melt"]["volume"] = volume


def is_molten(found: Mapping[str, Any]) -> bool:
    """Whether a run ended as a liquid. In a crystal next to nothing is between the first and the second shell, and atoms stay
    at their sites; in a liquid they leave them, by more than the distance of neighbours, and go on moving.
    """
    if "diverged" in found:
        return False
    return found["g_minimum"] > 0.3 and found["displacement"] > 2.35**2 and found["diffusion"] > 0.1


class Runs:
    """Runs molecular dynamics and keeps what the report needs."""

    def __init__(self, folder: Path, plan: Plan, progress: ProgressFn, result: Fit):
        self.folder, self.plan, self.progress, self.result = folder, plan, progress, result
        self.series: dict[str, dict[str, np.ndarray]] = {}
        self.report: dict[str, dict[str, Any]] = {}

    def __call__(
        self, name: str, atoms: ase.Atoms, ensemble: str, temperature: float, steps: int, **options: Any
    ) -> MDResult:
        """One run, with trajectory and log; averages are over its second half."""
        found = run_md(
            self.result.model,
            self.result.params,
            atoms,
            ensemble=ensemble,
            temperature=temperature,
            steps=steps,
            seed=self.plan.seed,
            trajectory=self.folder / f"{name}.extxyz",
            log=self.folder / f"{name}.jsonl",
            trajectory_interval=self.plan.frame_interval,
            overwrite=True,
            progress=lambda total, description, start=0: self.progress(total, name, start),
            **options,
        )
        log, half = found.log, len(found.log["step"]) // 2
        self.series[name] = {
            "time": log["time_fs"] / 1000,
            "temperature": log["temperature"],
            "energy": log["conserved"] / len(atoms),
        }
        self.report[name] = {
            "ensemble": ensemble,
            "steps": steps,
            "target_temperature": temperature,
            "picoseconds": float(log["time_fs"][-1]) / 1000,
            "temperature": float(np.mean(log["temperature"][half:])),
            "pressure": float(np.mean(log["pressure_gpa"][half:])),
            "drift": found.drift,
            "us_per_atom_step": found.timings["us_per_atom_step"],
            "compile_seconds": found.timings["compile_s"],
        }
        return found

    def frames(self, name: str) -> list[ase.Atoms]:
        """All frames of a run."""
        return read_structures(self.folder / f"{name}.extxyz")

    def second_half(self, name: str) -> list[ase.Atoms]:
        """The frames that averages are taken over."""
        frames = self.frames(name)
        return frames[len(frames) // 2 :]

    def diffusion(self, name: str) -> dict[str, float]:
        """Mean squared displacement at the end (A^2), and the diffusion coefficient from its slope in the second half."""
        frames = self.frames(name)
        moved = mean_squared_displacement(frames)
        time_ps = np.array([atoms.info["time_fs"] for atoms in frames]) / 1000
        half = len(frames) // 2
        slope = np.polyfit(time_ps[half:], moved[half:], 1)[0]
        if not np.isfinite(slope):
            raise DivergedError(f"{name}: the displacements are not finite")
        return {"displacement": float(moved[-1]), "diffusion": float(slope / 6)}
