"""Hyperparameter sweeps: points are chosen in batches, a batch is trained at once, the best model is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bpjax.errors import BpjaxError
from bpjax.io.atomic import write_json, write_text
from bpjax.machine import timed
from bpjax.potential.energy import Params, Potential, local_energies
from bpjax.potential.store import load, provenance, save
from bpjax.progress import ProgressFn, silent
from bpjax.spec import to_spec
from bpjax.system import Environment
from bpjax.training.halving import Batch, Outcome
from bpjax.training.options import TrainingOptions
from bpjax.training.prepare import Structures
from bpjax.training.problem import Problem
from bpjax.training.repeat import how_made
from bpjax.training.sweep_files import (
    PENDING,
    Trial,
    check_identity,
    read_pending,
    read_trials,
    to_toml,
    write_trials,
)
from bpjax.training.sweep_options import SweepOptions, check_sweep
from bpjax.training.sweep_program import Programs
from bpjax.training.sweep_space import TrainingFile
from bpjax.training.sweep_study import Asked, Study, open_study


@dataclass(frozen=True)
class SweepResult:
    """A finished (or interrupted) sweep.

    Attributes:
      trials: all of this process, in order.
      finished: False if it was interrupted and can be resumed.
      best: the trial with the lowest objective among those that were trained to the end; None if there is none yet.
      model, params: its potential, ready to use: narrow networks, ordinary symmetry functions.
      options: its training options.
    """

    trials: tuple[Trial, ...]
    finished: bool
    best: Trial | None = None
    model: Potential | None = None
    params: Params | None = None
    options: TrainingOptions | None = None


def sweep(
    structures: Structures,
    options: TrainingOptions | TrainingFile,
    settings: SweepOptions,
    folder: Path | None = None,
    *,
    resume: bool = False,
    progress: ProgressFn = silent,
) -> SweepResult:
    """Trains many points of a space of options, and keeps the best.

    Args:
      structures: from `bpjax.training.prepare.prepare`.
      options: those that all points share, or the training file that has them.
      settings: of the sweep.
      folder: where `trials.jsonl`, `trials.csv` and `best/` go; None to write nothing.
      resume: go on with the sweep in `folder`. Batches that were finished are taken from there; the one that was running is
        trained again.
      progress: display.

    Returns: the trials and the best model. After ctrl-C: those of the batches that were finished, with `finished` False.

    Raises:
      ConfigError: an option of the space or of the sweep that cannot be used.
      BpjaxError: the objective needs labels that the validation structures do not have.
    """
    file = options
    if isinstance(file, TrainingOptions):
        file = TrainingFile(to_spec(file), structures.elements)
    base = check_sweep(file, settings.space)
    run = _Sweep(structures, file, base, settings, folder, progress)
    if folder is not None:
        identity = {"sweep": {**to_spec(settings), "trials": None}, "options": file.spec}
        check_identity(folder, {**identity, "data": structures.fingerprint()})
    if resume:
        run.load()
    try:
        while run.batch():
            pass
        finished = True
        run.measure()
    except KeyboardInterrupt:
        finished = False
    best = run.best
    if best is None or run.potential is None:
        return SweepResult(tuple(run.trials), finished)
    return SweepResult(tuple(run.trials), finished, best, *run.potential, file.options(best.point))


@dataclass
class _Sweep:
    """A sweep under way."""

    structures: Structures
    file: TrainingFile
    base: TrainingOptions
    settings: SweepOptions
    folder: Path | None
    progress: ProgressFn
    trials: list[Trial] = field(default_factory=list)
    pending: list[Asked] = field(default_factory=list)
    potential: tuple[Potential, Params] | None = None

    def __post_init__(self):
        self.programs = Programs(self.structures, self.settings.space, self.base)
        self.study: Study = open_study(self.settings, self.folder)

    @property
    def best(self) -> Trial | None:
        """The best of the trials that were trained to the end."""
        complete = [t for t in self.trials if t.state == "complete" and t.objective is not None]
        return min(complete, key=lambda t: (t.objective, t.number), default=None)

    def load(self) -> None:
        """Takes up what an earlier run of the sweep has left."""
        assert self.folder is not None
        self.trials = read_trials(self.folder)
        known = {t.number for t in self.trials}
        self.pending = [Asked(n, point) for n, point in read_pending(self.folder) if n not in known]
        model = self.folder / "best" / "model.bpjax"
        if self.best is not None and model.exists() and provenance(model).get("trial") == self.best.number:
            self.potential = load(model)
        # A process that was killed between two files has the model of a trial of the batch that is trained again.
        elif self.best is not None and not self.pending:
            raise BpjaxError(f"{model} is not that of the best trial, {self.best.number}; begin the sweep anew")

    def batch(self) -> bool:
        """Trains the next points; False if there are none."""
        done = len(self.trials)
        asked = self.pending or self.study.ask(self.settings.members, done)
        self.pending = []
        if not asked:
            return False
        if self.folder is not None:
            write_json(self.folder / PENDING, [list(a) for a in asked])
        batch = Batch(self.programs, self.settings, self.base.loss)
        outcomes = batch.train([self.file.options(a.point) for a in asked], self.progress)
        new = [_trial(a, o) for a, o in zip(asked, outcomes, strict=True)]
        before = self.best
        self.trials += new
        best = self.best
        if best is not None and best is not before:
            self.potential = batch.potential(new.index(best))
            self._save(best)
        if self.folder is not None:
            write_trials(self.folder, self.trials)
        self.study.tell(asked, outcomes)
        return True

    def _save(self, best: Trial) -> None:
        """Writes the model of the best trial and the training file that makes it again."""
        if self.folder is None or self.potential is None:
            return
        place = self.folder / "best"
        place.mkdir(exist_ok=True)
        spec = self.file.at(best.point)
        write_text(place / "config.toml", _config(spec, self.file.folder))
        made = how_made(self.file.options(best.point), self.structures, best.steps, self.file.folder, place)
        save(place / "model.bpjax", *self.potential, {**made, "trial": best.number})

    def measure(self) -> None:
        """Measures what the models of the trials that were trained to the end cost."""
        complete = [t for t in self.trials if t.state == "complete" and t.cost is None]
        members = {t.number: self.programs.member(self.file.options(t.point)) for t in complete}
        shapes: dict[Any, float] = {}
        problems: dict[float, Problem] = {}
        with self.progress(len(complete), "timing") as bar:
            for trial in complete:
                member = members[trial.number]
                key = self.programs.shape(member)
                if key not in shapes:
                    group = self.programs.groups([member.options])[0]
                    cutoff = member.descriptor.cutoff
                    if cutoff not in problems:
                        problems[cutoff] = self.programs.pose(group)
                    problem = problems[cutoff]
                    shapes[key] = time_per_atom(*self.programs.alone(member, problem, first=True), problem)
                self.trials[self.trials.index(trial)] = replace(trial, cost=shapes[key])
                bar.update(1)
        if self.folder is not None and complete:
            write_trials(self.folder, self.trials)


def _trial(asked: Asked, outcome: Outcome) -> Trial:
    o = outcome
    return Trial(asked.number, asked.point, o.state, o.steps, o.objective, o.errors, o.rungs)


def _config(spec: dict[str, Any], folder: Path | None) -> str:
    """A training file whose data are named by their full paths, as it stands in another folder than the first."""
    data = dict(spec.get("data", {}))
    for name in ("train", "validation", "test"):
        if name in data and folder is not None:
            data[name] = [str((folder / path).resolve()) for path in data[name]]
    return to_toml({**spec, "data": data})


TIMED_ATOMS = 256
"""Atoms whose energies and pair gradients are timed."""


def time_per_atom(model: Potential, params: Params, problem: Problem, repeats: int = 5) -> float:
    """Time of energy and forces in microseconds per atom: the shortest of several evaluations of atoms of the training set.

    Neighbours are given, as in `tests/benchmarks/energy_forces.py`; on the device that is trained on.
    """
    data = problem.train
    atoms = np.resize(np.arange(len(data.species)), TIMED_ATOMS)
    env = Environment(*(jax.numpy.asarray(a[atoms]) for a in (data.R_ij, data.species_j, data.mask)))
    species = jax.numpy.asarray(data.species[atoms])

    def evaluate(params, env, species):
        return local_energies(model, params, env, species)[:2]

    return 1e6 * timed(evaluate, params, env, species, repeats=repeats).shortest / TIMED_ATOMS


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Trials than which no other is both cheaper and better, from the cheapest on; of those with a cost."""
    measured = [(t.cost, t.objective, t) for t in trials if t.cost is not None and t.objective is not None]
    front: list[Trial] = []
    lowest = float("inf")
    for _, objective, trial in sorted(measured, key=lambda row: row[:2]):
        if objective < lowest:
            front.append(trial)
            lowest = objective
    return front
