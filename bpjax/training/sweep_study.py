"""Who chooses the points of a sweep: random or grid by ourselves, the samplers of Optuna by Optuna.

A study is asked for a batch of points, and told how each went. Studies of Optuna may be kept in a file or database, which several
processes or machines share: each asks for points of its own and learns from those of all.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from bpjax.errors import BpjaxError, ConfigError
from bpjax.training.halving import Outcome
from bpjax.training.sweep_options import SweepOptions
from bpjax.training.sweep_space import Choice, Point, grid_points, random_point


class Asked(NamedTuple):
    """A point with the number of its trial."""

    number: int
    point: Point


@runtime_checkable
class Study(Protocol):
    """What chooses points."""

    def ask(self, count: int, done: int) -> list[Asked]:
        """At most so many new points, fewer or none at the end; `done` is how many this process has trained."""
        ...

    def tell(self, asked: Sequence[Asked], outcomes: Sequence[Outcome]) -> None:
        """Says how they went."""
        ...


def open_study(settings: SweepOptions, folder: Path | None) -> Study:
    """The study of a sweep.

    Args:
      settings: of the sweep.
      folder: where a study of Optuna is kept that has no storage of its own; None for the memory.

    Raises:
      ConfigError: Optuna is needed and not there, or the storage cannot be used.
    """
    if settings.storage is None and settings.sampler == "random":
        return BuiltIn(settings.trials, lambda n: random_point(settings.space, settings.seed, n))
    if settings.storage is None and settings.sampler == "grid":
        points = grid_points(settings.space)
        return BuiltIn(min(settings.trials, len(points)), points.__getitem__)
    return OptunaStudy(settings, folder)


@dataclass
class BuiltIn:
    """Points that do not depend on how earlier ones went.

    Attributes:
      trials: how many.
      point: the point of a trial.
    """

    trials: int
    point: Callable[[int], Point]

    def ask(self, count: int, done: int) -> list[Asked]:
        """See `Study`."""
        return [Asked(n, self.point(n)) for n in range(done, min(done + count, self.trials))]

    def tell(self, asked: Sequence[Asked], outcomes: Sequence[Outcome]) -> None:
        """See `Study`."""


class OptunaStudy:
    """A study of Optuna. Values that are lists are kept as their JSON."""

    def __init__(self, settings: SweepOptions, folder: Path | None):
        self.optuna, self.settings = _optuna(settings), settings
        self.place = _storage(self.optuna, settings, folder)
        try:
            self.study = self.optuna.create_study(
                study_name=settings.study, storage=self.place, direction="minimize", load_if_exists=True
            )
        except Exception as error:  # whatever the database raises, by way of SQLAlchemy
            raise ConfigError(f"{settings.storage}: {error}", field="sweep.storage") from error
        # Processes that share a study draw different points; a process alone draws the same ones each time.
        shared = settings.storage is not None
        self.salt = [len(self.study.get_trials(deepcopy=False)), *map(ord, str(folder))] if shared else []

    def ask(self, count: int, done: int) -> list[Asked]:
        """See `Study`."""
        fail = self.optuna.trial.TrialState.FAIL
        known = sum(t.state != fail for t in self.study.get_trials(deepcopy=False))
        self.study.sampler = self._sampler(done)
        asked = []
        for _ in range(min(count, self._trials() - known)):
            trial = self.study.ask()
            asked.append(Asked(trial.number, self._point(trial)))
        return asked

    def tell(self, asked: Sequence[Asked], outcomes: Sequence[Outcome]) -> None:
        """See `Study`; a run that diverged counts as given up before its first rung."""
        states = self.optuna.trial.TrialState
        self.study.sampler = self.optuna.samplers.RandomSampler()  # that of a grid would stop a loop that is not there
        for (number, _), outcome in zip(asked, outcomes, strict=True):
            found = next(t for t in self.study.get_trials(deepcopy=False) if t.number == number)
            if found.state.is_finished():  # told before the process was killed
                continue
            trial = self.optuna.trial.Trial(self.study, found._trial_id)
            for steps, value in outcome.rungs:
                trial.report(value, steps)
            if outcome.state == "complete":
                self.study.tell(trial, outcome.objective)
            else:
                self.study.tell(trial, state=states.PRUNED)

    def _trials(self) -> int:
        if self.settings.sampler == "grid":
            return min(self.settings.trials, len(grid_points(self.settings.space)))
        return self.settings.trials

    def _point(self, trial: Any) -> Point:
        point = {}
        for name, axis in self.settings.space.items():
            if isinstance(axis, Choice) or self.settings.sampler == "grid":
                values = axis.grid()
                labels = [_label(v) for v in values]
                point[name] = values[labels.index(trial.suggest_categorical(name, labels))]
            elif axis.integer:
                point[name] = trial.suggest_int(name, round(axis.low), round(axis.high), log=axis.log)
            else:
                point[name] = trial.suggest_float(name, axis.low, axis.high, log=axis.log)
        return point

    def _sampler(self, done: int) -> Any:
        """The sampler for a batch: its random numbers depend on the batch alone, so that a resumed sweep asks for the same."""
        settings, samplers = self.settings, self.optuna.samplers
        seed = int(np.random.SeedSequence([settings.seed, done, *self.salt]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            if settings.sampler == "random":
                return samplers.RandomSampler(seed=seed)
            if settings.sampler == "grid":
                labels = {n: [_label(v) for v in a.grid()] for n, a in settings.space.items() if grid_points({n: a})}
                return samplers.GridSampler(labels, seed=settings.seed)
            if settings.sampler == "tpe":
                return samplers.TPESampler(seed=seed, constant_liar=True)
            if settings.sampler == "cmaes":
                pruned = bool(settings.prunings)
                return samplers.CmaEsSampler(seed=seed, popsize=max(settings.members, 4), consider_pruned_trials=pruned)
            if settings.sampler == "gp":
                return samplers.GPSampler(seed=seed)
            kind = "halton" if settings.sampler == "halton" else "sobol"
            # All parts of one sequence: the seed is that of the sweep.
            return samplers.QMCSampler(
                qmc_type=kind, scramble=True, seed=settings.seed, warn_asynchronous_seeding=False
            )


NEEDS = {"cmaes": "cmaes", "gp": "torch"}
"""Packages that samplers of Optuna need beside it."""


def _optuna(settings: SweepOptions) -> Any:
    """The package.

    Raises:
      ConfigError: it is not there, or what the sampler needs is not.
    """
    what = "sampler" if settings.storage is None else "storage"
    try:
        import optuna
    except ImportError as error:
        message = (
            f"{getattr(settings, what)!r} needs Optuna: pip install bpjax[sweep]; without it there are random and grid"
        )
        raise ConfigError(message, field=f"sweep.{what}") from error
    needed = NEEDS.get(settings.sampler)
    if needed:
        try:
            __import__(needed)
        except ImportError as error:
            message = f"{settings.sampler!r} needs the package {needed}: pip install {needed}"
            raise ConfigError(message, field="sweep.sampler") from error
    return optuna


def _storage(optuna: Any, settings: SweepOptions, folder: Path | None) -> Any:
    place = settings.storage
    if place is not None and "://" in place:
        return place
    path = Path(place) if place is not None else None if folder is None else folder / "study.log"
    if path is None:
        return None
    if not path.parent.is_dir():
        raise BpjaxError(f"cannot write {path}: the folder {path.parent} does not exist")
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _label(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple) else value
