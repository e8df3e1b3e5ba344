"""Successive halving: several trainings side by side, of which the worse ones are given up on the way.

The state of the members that go on is picked by indexing and stays on the device; the program is compiled once more for each
number of members that is left.

References: Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016.
"""

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.errors import ConfigError, DivergedError
from bpjax.potential.energy import Params, Potential
from bpjax.progress import Progress, ProgressFn, silent
from bpjax.training.fit import Run, make_updater
from bpjax.training.hyper import Hyper
from bpjax.training.losses import KINDS, LikelihoodLoss, Widths
from bpjax.training.options import TrainingOptions
from bpjax.training.problem import Problem, validate
from bpjax.training.sweep_options import SweepOptions
from bpjax.training.sweep_program import Group, Programs
from bpjax.training.updaters import State


@dataclass(frozen=True)
class Outcome:
    """How the run of a point went.

    Attributes:
      state: "complete", "pruned" (given up) or "diverged".
      steps: how many it made.
      objective: what is minimised, of its best parameters; None if it diverged.
      errors: validation errors of these parameters: those of `bpjax.training.problem.validate`.
      rungs: steps made and objective at each rung, the last one included.
    """

    state: str
    steps: int
    objective: float | None
    errors: dict[str, float]
    rungs: tuple[tuple[int, float], ...]


class Members(Run):
    """The training loop for members that are at the same step, without files.

    Args:
      problem: what they train.
      options: of their program.
      hyper: what they differ in.
      state: where they are.
    """

    def __init__(self, problem: Problem, options: TrainingOptions, hyper: Hyper, state: State):
        self.problem, self.options, self.hyper, self.state = problem, options, hyper, state
        self.folder, self.history, self.began = None, [], time.monotonic()
        self.members = len(np.asarray(state.best_loss))
        self.updater = make_updater(problem, options, hyper, self.members)

    def train(self, stop: int, bar: Progress, **shown: object) -> None:
        """Trains up to a step, with evaluations on the way; stops before it where the loss of no member is finite."""
        every = self.updater.evaluate_every
        for step in range(int(self.state.step), stop):
            if self._stopped():
                break
            self.state = self._step(step)
            if (step + 1) % every == 0 or step + 1 == self.updater.steps:
                try:
                    self._evaluate(step + 1)
                except DivergedError:
                    break
                bar.update(0, step=step + 1, members=self.members, **shown)

    def _judged(self, loss) -> State:
        """See `Run`; a member whose patience is over keeps its best, as if it had stopped alone."""
        patience = self.options.optimizer.patience
        over = (self.state.stale >= patience) if patience else jnp.zeros(self.members, bool)
        return super()._judged(jnp.where(over, jnp.inf, loss))

    def errors(self, loss: LikelihoodLoss) -> dict[str, np.ndarray]:
        """Validation errors of the best parameters of each member; infinite where they or the present ones are not finite."""
        one = jnp.ones(self.members, jnp.float32)
        hyper = self.hyper._replace(widths=Widths(**dict.fromkeys(KINDS, one)))
        found = validate(
            self.problem, loss, self.state.best, self.options.optimizer.batch_size, hyper=hyper, members=True
        )
        good = np.isfinite(np.asarray(self.state.best_loss)) & self._sound()
        return {name: np.where(good & np.isfinite(value), value, np.inf) for name, value in found.items()}

    def _sound(self) -> np.ndarray:
        """Whether all parameters of each member are finite."""
        finite = [jnp.isfinite(a).all(axis=tuple(range(1, a.ndim))) for a in jax.tree.leaves(self.state.trained)]
        return np.asarray(jnp.stack(finite).all(axis=0))


@dataclass
class Side:
    """A group between two rungs.

    Attributes:
      group: its points.
      alive: which of its members (by their place in the group) still run, in the order of the leading axis of the arrays.
      hyper, state: of these.
    """

    group: Group
    alive: np.ndarray
    hyper: Hyper
    state: State

    def keep(self, wanted: np.ndarray) -> None:
        """Gives up all members but those for which `wanted` is true."""
        if wanted.all():
            return
        chosen = jnp.asarray(np.flatnonzero(wanted))
        self.alive = self.alive[wanted]
        self.hyper = jax.tree.map(lambda a: a[chosen], self.hyper)
        step = self.state.step
        self.state = jax.tree.map(lambda a: a[chosen], self.state._replace(step=None))._replace(step=step)


@dataclass
class Batch:
    """Points that are trained at once, and what came of them.

    Attributes:
      programs: how points become programs.
      settings: of the sweep.
      loss: of the training file, by which all are judged.
    """

    programs: Programs
    settings: SweepOptions
    loss: LikelihoodLoss
    _outcomes: dict[int, Outcome] = field(default_factory=dict)
    _sides: list[Side] = field(default_factory=list)

    def train(self, points: list[TrainingOptions], progress: ProgressFn = silent) -> list[Outcome]:
        """Trains the points, with halving; one outcome for each."""
        rungs = self.settings.prunings
        sides = self._sides = [self._begin(group, progress) for group in self.programs.groups(points)]
        with progress(len(points), "sweep") as bar:
            for rung in range(rungs + 1):
                for side in [s for s in sides if len(s.alive)]:
                    self._run(side, rung, bar)
                if rung < rungs:
                    self._prune(sides, bar)
            bar.update(sum(len(side.alive) for side in sides))
        return [self._outcomes[n] for n in range(len(points))]

    def potential(self, index: int) -> tuple[Potential, Params]:
        """The potential of a point whose run was not given up."""
        for side in self._sides:
            for place, member in enumerate(side.alive):
                if side.group.indices[member] == index:
                    only = side.group._replace(members=tuple(side.group.members[m] for m in side.alive))
                    problem = self.programs.pose(side.group)
                    return self.programs.finished(only, problem, side.hyper, side.state.best, place)
        raise KeyError(index)

    def _begin(self, group: Group, progress: ProgressFn) -> Side:
        problem = self.programs.pose(group, progress)
        hyper = self.programs.hyper(group, problem)
        updater = make_updater(problem, group.template, hyper, len(group.members))
        state = self.programs.start(group, problem, updater)
        return Side(group, np.arange(len(group.members)), hyper, state)

    def _run(self, side: Side, rung: int, bar: Progress) -> None:
        """Trains a group up to a rung and notes the errors."""
        run = Members(self.programs.pose(side.group), side.group.template, side.hyper, side.state)
        run.train(rung_steps(run.updater, self.settings, rung), bar, rung=rung)
        side.state = run.state
        errors, steps = run.errors(self.loss), int(run.state.step)
        name = self.settings.objective
        if name not in errors:
            raise ConfigError(f"{name!r}: the validation structures have no such labels", field="sweep.objective")
        for place, member in enumerate(side.alive):
            index, value = side.group.indices[member], float(errors[name][place])
            before = self._outcomes[index].rungs if index in self._outcomes else ()
            own = {k: float(v[place]) for k, v in errors.items()}
            good = math.isfinite(value)
            self._outcomes[index] = Outcome(
                "complete" if good else "diverged",
                steps,
                value if good else None,
                own if good else {},
                (*before, (steps, value)) if good else before,
            )
        side.keep(np.isfinite(errors[name]))

    def _prune(self, sides: list[Side], bar: Progress) -> None:
        """Gives up all but the best 1 / eta of all members that still run, whatever their group."""
        alive = [side.group.indices[m] for side in sides for m in side.alive]
        values = {n: self._outcomes[n].objective or 0.0 for n in alive}
        kept = set(sorted(alive, key=lambda n: (values[n], n))[: math.ceil(len(alive) / self.settings.halving)])
        for n in set(alive) - kept:
            self._outcomes[n] = replace(self._outcomes[n], state="pruned")
        for side in sides:
            side.keep(np.array([side.group.indices[m] in kept for m in side.alive], bool))
        best: dict[str, Any] = {self.settings.objective: min(values.values())} if values else {}
        bar.update(len(alive) - len(kept), **best)


def rung_steps(updater, settings: SweepOptions, rung: int) -> int:
    """Steps at the end of a rung, rounded up to a multiple of those between evaluations; all of them at the last."""
    share = updater.steps / max(settings.halving, 1) ** (settings.prunings - rung)
    return min(updater.steps, math.ceil(share / updater.evaluate_every) * updater.evaluate_every)
