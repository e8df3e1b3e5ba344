"""The training loop: from prepared structures to a fitted potential.

Everything that a step depends on, the random order of the structures included, is a function of the state and the options; a
run that is resumed from a checkpoint therefore goes on to the same numbers as one that was never interrupted.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.errors import ConfigError, DivergedError, FormatError
from bpjax.io.atomic import write_error, write_text
from bpjax.potential.energy import Params, Potential, with_fixed_descriptor
from bpjax.progress import ProgressFn, silent
from bpjax.spec import to_spec
from bpjax.training import checkpoint, parallel
from bpjax.training.ensemble import committee
from bpjax.training.hyper import Hyper
from bpjax.training.kalman_options import KalmanFilter
from bpjax.training.kalman_updater import KalmanUpdater
from bpjax.training.memory import MemoryPlan
from bpjax.training.optimizers import LBFGS, OptimizerOptions
from bpjax.training.options import TrainingOptions
from bpjax.training.prepare import Structures
from bpjax.training.problem import Problem, free_atoms_of, pose, validate
from bpjax.training.updaters import Descent, QuasiNewton, State, Updater, start


@dataclass(frozen=True)
class Fit:
    """A finished (or interrupted) run.

    Attributes:
      model: the potential with its energy offsets.
      params: its arrays, those that `RunOptions.keep` names: the best of the run by validation loss, or the last.
      step: updates made.
      finished: False if the run was interrupted and can be resumed.
      history: the lines of `metrics.jsonl`.
      widths: widths of the errors, where they were learned.
      memory: what it was planned to take of memory.
    """

    model: Potential
    params: Params
    step: int
    finished: bool
    history: tuple[dict, ...]
    widths: dict[str, float] | None = None
    memory: MemoryPlan | None = None


def fit(
    structures: Structures,
    options: TrainingOptions,
    folder: Path | None = None,
    *,
    resume: bool = False,
    progress: ProgressFn = silent,
    announce: Callable[[str], object] = lambda line: None,
) -> Fit:
    """Trains a potential.

    Args:
      structures: from `bpjax.training.prepare.prepare`.
      options: of the run.
      folder: where `metrics.jsonl` and the checkpoint go, made if it is not there; None to write nothing.
      resume: go on from the checkpoint in `folder`.
      progress: display.
      announce: called with each line of the memory plan, before anything large is made.

    Returns: the best model by validation loss, or the last (`RunOptions.keep`). After ctrl-C: that so far, with `finished` False;
      the checkpoint is written.

    Raises:
      DivergedError: the loss is not finite.
      ConfigError, ModelFileError: a checkpoint that does not fit.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    problem = pose(structures, options, progress, folder=folder, announce=announce, several=True)
    identity = {"options": to_spec(options), "data": structures.fingerprint()}
    run = Run(problem, options, folder, identity, *_members(problem, options))
    if resume:
        run.load()
    finished = run.advance(progress)
    best = jax.tree.map(jnp.asarray, parallel.host(run.state.best))
    model, params = problem.model, {**problem.params, **best}
    if options.ensemble is not None:
        fixed = {**problem.params, **free_atoms_of(problem, model, problem.params)}
        model, params = committee(model, fixed, best, options.ensemble.members)
    widths = params.pop("widths", None)
    if widths is not None:
        widths = {kind: float(jnp.exp(jnp.mean(width))) for kind, width in widths.items()}
    model, params = with_fixed_descriptor(model, params)
    if options.ensemble is None:
        params = {**params, **free_atoms_of(problem, model, params)}
    return Fit(model, params, int(run.state.step), finished, tuple(run.history), widths, problem.memory)


def _members(problem: Problem, options: TrainingOptions) -> tuple[Hyper, np.ndarray | None]:
    """What differs between the networks of an ensemble, and the seeds of their first parameters; no seeds for a single one."""
    hyper, ensemble = Hyper.of(options), options.ensemble
    if ensemble is None:
        return hyper, None
    if "descriptor" in problem.params:
        raise ConfigError("members share their features, so the descriptor cannot learn", field="ensemble")
    hyper = jax.tree.map(lambda a: jnp.broadcast_to(a, (ensemble.members,)), hyper)
    weights = ensemble.weights(len(problem.train), options.optimizer.seed)
    return hyper._replace(weights=weights), ensemble.seeds(options.optimizer.starts_from)


def make_updater(problem: Problem, options: TrainingOptions, hyper: Hyper, members: int | None) -> Updater:
    """The updater that the `[optimizer]` section asks for."""
    if isinstance(options.optimizer, KalmanFilter):
        if members is not None:
            message = "the Kalman filter trains one network at a time; run it with several start_seed instead"
            raise ConfigError(message, field="ensemble")
        return KalmanUpdater(problem, options)
    kind = QuasiNewton if isinstance(options.optimizer, LBFGS) else Descent
    return kind(problem, options, hyper, members)


class Run:
    """The loop with its state, checkpoints and metrics.

    Args:
      problem: what is trained.
      options: of the run.
      folder: where `metrics.jsonl` and the checkpoint go; None to write nothing.
      identity: what a checkpoint must agree in to be resumed.
      hyper: what differs between members.
      seeds: of the first parameters of the members; None for a single network.
    """

    def __init__(
        self,
        problem: Problem,
        options: TrainingOptions,
        folder: Path | None,
        identity: dict,
        hyper: Hyper,
        seeds: np.ndarray | None = None,
    ):
        self.problem, self.options, self.folder, self.identity = problem, options, folder, identity
        self.hyper, self.members = hyper, None if seeds is None else len(seeds)
        self.updater = make_updater(problem, options, hyper, self.members)
        first = start(problem, self.updater, seeds, precondition=options.optimizer.precondition)
        self.state: State = self._placed(first)
        self.history: list[dict] = []
        self.began = time.monotonic()

    def load(self) -> None:
        """Takes up the checkpoint, and of the metrics the lines up to it."""
        assert self.folder is not None
        self.state = checkpoint.read_checkpoint(self.folder / checkpoint.NAME, self.state, self.identity)
        self.state = self._placed(jax.tree.map(jnp.asarray, self.state))
        metrics = self.folder / "metrics.jsonl"
        lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines() if metrics.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                step = int(entry["step"])
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                if number == len(lines):  # that of a run that was killed
                    break
                raise FormatError(metrics, "is not a record of a training", number) from error
            if step <= int(self.state.step):
                self.history.append(entry)

    def save(self) -> None:
        """Writes the checkpoint."""
        if self.folder is not None:
            state = parallel.host(self.state)
            if parallel.is_first():
                checkpoint.write_checkpoint(self.folder / checkpoint.NAME, state, self.identity)

    def _placed(self, state: State) -> State:
        """The state on the devices of the run."""
        devices = self.problem.devices
        if devices is None:
            return state
        return devices.replicate(state) if self.members is None else devices.state(state)

    def advance(self, progress: ProgressFn) -> bool:
        """Runs to the end; False if interrupted."""
        updater = self.updater
        begin = int(self.state.step)
        try:
            if begin == 0:
                self.save()  # from here on a run that is killed can be resumed
            folder = self.folder if parallel.is_first() else None
            record = _Metrics(None if folder is None else folder / "metrics.jsonl", self.history)
            with progress(updater.steps, "training", begin) as bar, parallel.together() as check:
                for step in range(begin, updater.steps):
                    if self._stopped():
                        break
                    check(step)
                    self.state = self._step(step)
                    if (step + 1) % updater.evaluate_every == 0 or step + 1 == updater.steps:
                        shown = record(self._evaluate(step + 1))
                        bar.update(step + 1 - begin, **shown)
                        begin = step + 1
                    if (step + 1) % updater.checkpoint_every == 0:
                        self.save()
        except KeyboardInterrupt:
            self.save()
            return False
        self.save()
        return True

    def _step(self, step: int) -> State:
        return self.updater.advance(self.state, step, step + 1)

    def _evaluate(self, step: int) -> dict:
        """Validates the averaged parameters, keeps them where they are to be, and returns a line of metrics."""
        o, state = self.options.optimizer, self.state
        loss = np.asarray(parallel.host(state.loss_sum), np.float64) / ((step - 1) % self.updater.evaluate_every + 1)
        if not np.isfinite(loss).any():
            raise DivergedError(f"the training loss is not finite at step {step}; {self.updater.remedy}")
        found = validate(
            self.problem,
            self.options.loss,
            state.average,
            o.batch_size,
            hyper=self.hyper,
            members=self.members is not None,
        )
        shown = self.updater.shown(state)
        self.state = self._placed(self._judged(np.asarray(found["loss"], np.float32)))
        line = {"train_loss": loss, **{f"validation_{name}": value for name, value in found.items()}, **shown}
        return {
            "step": step,
            "epoch": step / self.updater.per_epoch,
            "seconds": round(time.monotonic() - self.began, 3),
            **{name: float(np.mean(value)) for name, value in line.items()},
            **({} if self.members is None else {"members": {k: np.asarray(v).tolist() for k, v in line.items()}}),
        }

    def _judged(self, loss) -> State:
        """The state with the averaged parameters kept where they are the best (or usable, if the last are kept), and learning
        rates lowered on a plateau.
        """
        o, state = self.options.optimizer, self.state
        better = loss < state.best_loss
        chosen = better if o.keep == "best" else jnp.isfinite(loss)
        waited = jnp.where(better, 0, state.waited + 1)
        rate = state.rate
        if isinstance(o, OptimizerOptions) and o.schedule == "plateau":
            lower = waited >= o.plateau_patience
            rate = jnp.where(lower, rate * o.plateau_factor, rate)
            waited = jnp.where(lower, 0, waited)

        def kept(new, old):
            return jnp.where(chosen.reshape(chosen.shape + (1,) * (new.ndim - chosen.ndim)), new, old)

        return state._replace(
            best=jax.tree.map(kept, state.average, state.best),
            best_loss=jnp.where(better, loss, state.best_loss),
            stale=jnp.where(better, 0, state.stale + 1),
            waited=waited,
            rate=rate,
            loss_sum=jnp.zeros_like(state.loss_sum),
        )

    def _stopped(self) -> bool:
        patience = self.options.optimizer.patience
        return patience > 0 and int(np.min(parallel.host(self.state.stale))) >= patience


class _Metrics:
    """Appends lines to `metrics.jsonl`, each written out at once; what a resumed run will repeat is dropped first."""

    def __init__(self, path: Path | None, history: list[dict]):
        self.path, self.history = path, history
        if path is not None:
            write_text(path, "".join(json.dumps(line) + "\n" for line in history))

    def __call__(self, line: dict) -> dict[str, float]:
        """Adds a line; returns what of it a progress bar shows."""
        self.history.append(line)
        if self.path is not None:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:
                raise write_error(self.path, error) from error
        names = {"validation_energy_rmse": "E_rmse", "validation_forces_rmse": "F_rmse", "train_loss": "loss"}
        return {short: line[name] for name, short in names.items() if name in line}
