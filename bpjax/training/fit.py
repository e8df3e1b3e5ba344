"""The training loop: from prepared structures to a fitted potential.

Everything that a step depends on, the random order of the structures included, is a function of the state and the options; a
run that is resumed from a checkpoint therefore goes on to the same numbers as one that was never interrupted.
"""

import json
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from bpjax.descriptors.base import parameters_of
from bpjax.descriptors.choose import DescriptorSet
from bpjax.elements import fit_offsets
from bpjax.errors import ConfigError, DivergedError
from bpjax.io.atomic import write_error, write_text
from bpjax.networks.scaling import fit_scaling
from bpjax.potential.energy import Params, Potential, init
from bpjax.progress import ProgressFn, silent
from bpjax.spec import to_spec
from bpjax.training import checkpoint
from bpjax.training.dataset import BatchPlan, Dataset, build_dataset, targets
from bpjax.training.inputs import Environments, Stored, as_environments, evaluate_batch, store, stored_bytes
from bpjax.training.losses import Errors, LikelihoodLoss, error_sums, likelihood_loss
from bpjax.training.options import OptimizerOptions, TrainingOptions
from bpjax.training.prepare import Structures


class State(NamedTuple):
    """All that changes in training. `average` is the moving average of the parameters, `best` the one validated best."""

    step: Any
    trained: Any
    optimizer: Any
    average: Any
    best: Any
    best_loss: Float[Array, ""]
    stale: Any
    loss_sum: Float[Array, ""]


class Problem(NamedTuple):
    """All that does not change: model, arrays, data and their inputs."""

    model: Potential
    params: Params
    offsets: np.ndarray
    train: Dataset
    validation: Dataset
    inputs: Stored | Environments
    validation_inputs: Stored | Environments


@dataclass(frozen=True)
class Fit:
    """A finished (or interrupted) run.

    Attributes:
      model: the potential with its energy offsets.
      params: its arrays, the best of the run by validation loss.
      step: updates made.
      finished: False if the run was interrupted and can be resumed.
      history: the lines of `metrics.jsonl`.
    """

    model: Potential
    params: Params
    step: int
    finished: bool
    history: tuple[dict, ...]


def pose(structures: Structures, options: TrainingOptions, progress: ProgressFn = silent) -> Problem:
    """Builds the model and brings the data into the form that it is trained on.

    Args:
      structures: training and validation structures.
      options: of the run.
      progress: display for the evaluation of the descriptors.
    """
    elements = structures.elements
    descriptor = options.descriptor
    if isinstance(descriptor, DescriptorSet):
        descriptor = descriptor.build(elements)
    if set(descriptor.elements) != set(elements):
        raise ConfigError(
            f"{', '.join(descriptor.elements)}, but the data has {', '.join(elements)}", field="descriptor.elements"
        )
    elements = descriptor.elements
    train, validation = (
        build_dataset(s.frames, elements, descriptor.cutoff, weights=options.data.weights, sources=s.sources)
        for s in (structures.train, structures.validation)
    )
    if train.sizes.max() > 1 and not train.mask.any():
        message = f"a cutoff of {descriptor.cutoff:g} A is below the first neighbours: no atom of the training structures has any"
        raise ConfigError(message, field="descriptor")
    isolated = np.array([structures.isolated[e] for e in elements]) if structures.isolated else None
    known = np.isfinite(train.energy)
    offsets = np.zeros(len(elements))
    if known.any():
        offsets = fit_offsets(train.counts[known], train.energy[known], isolated)
    model = Potential(
        descriptor,
        options.network,
        offsets=tuple(offsets.tolist()),
        isolated=() if isolated is None else tuple(isolated.tolist()),
    )
    needed = stored_bytes(train, descriptor.size) + stored_bytes(validation, descriptor.size)
    choice, learns = options.optimizer.inputs, bool(parameters_of(descriptor, jnp.float32))
    if learns and choice == "stored":
        raise ConfigError("'stored' features cannot be learned; take environments or auto", field="optimizer.inputs")
    keep = choice == "stored" or (choice == "auto" and not learns and needed <= options.optimizer.memory_gb * 1e9)
    with progress(len(train.species) + len(validation.species), f"descriptors ({needed / 1e6:.0f} MB)") as bar:
        inputs = _inputs(keep, descriptor, train, bar)
        validation_inputs = _inputs(keep, descriptor, validation, bar)
    params = init(model, jax.random.key(options.optimizer.seed))
    features = inputs.G if isinstance(inputs, Stored) else store(descriptor, _sample(train)).G
    species = train.species if isinstance(inputs, Stored) else _sample(train).species
    params["scaling"] = fit_scaling(np.asarray(features), np.asarray(species), elements)
    params["energy_scale"] = jnp.float32(_energy_scale(train, offsets))
    on_device = jax.tree.map(jnp.asarray, (inputs, validation_inputs))
    return Problem(model, params, offsets, train, validation, *on_device)


def _inputs(keep: bool, descriptor, dataset: Dataset, bar) -> Stored | Environments:
    return store(descriptor, dataset, bar.update) if keep else as_environments(dataset)


def _sample(dataset: Dataset, atoms: int = 4000) -> Dataset:
    """Some of the atoms of a data set that is too large to keep all features of, for the scaling."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(dataset.species))[:atoms])
    per_atom = ("species", "R_ij", "species_j", "neighbor", "mask")
    first = np.arange(len(chosen) + 1)
    return replace(dataset, first=first, **{name: getattr(dataset, name)[chosen] for name in per_atom})


def _energy_scale(train: Dataset, offsets: np.ndarray) -> float:
    """Size of what the networks have to say: spread of the energy per atom, or a tenth of the forces where there is none."""
    with np.errstate(invalid="ignore"):
        spread = (
            np.nanstd((train.energy - train.counts @ offsets) / train.sizes) if np.isfinite(train.energy).any() else 0
        )
        typical = np.sqrt(np.nanmean(train.forces**2)) if np.isfinite(train.forces).any() else 0
    return float(max(spread, 0.1 * typical, 1e-3))


def trainable(params: Params) -> dict:
    """What training changes: the networks, and what the descriptor learns, if it does."""
    return {name: params[name] for name in ("networks", "descriptor") if name in params}


def make_optimizer(options: OptimizerOptions) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW behind gradient clipping, and its learning-rate schedule."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=options.learning_rate / max(1, options.warmup),
        peak_value=options.learning_rate,
        warmup_steps=min(options.warmup, options.steps - 1),
        decay_steps=max(2, options.steps),
        end_value=options.learning_rate * options.final_learning_rate,
    )
    adam = optax.adamw(schedule, weight_decay=options.weight_decay)
    return optax.chain(optax.clip_by_global_norm(options.clip), adam), schedule


@partial(jax.jit, static_argnames=("model", "loss", "options"))
def _update(model, loss: LikelihoodLoss, options: OptimizerOptions, params, state: State, inputs, rows, layout, wanted):
    optimizer, _ = make_optimizer(options)
    chosen = jax.tree.map(lambda a: a[rows], inputs)

    def objective(values):
        outputs = evaluate_batch(model, {**params, **values}, chosen, layout)
        return likelihood_loss(loss, outputs, wanted, layout)

    value, gradient = jax.value_and_grad(objective)(state.trained)
    change, optimizer_state = optimizer.update(gradient, state.optimizer, state.trained)
    values = optax.apply_updates(state.trained, change)
    step = state.step + 1
    # Early in the run the average follows closely: its memory is a tenth of the steps made.
    decay = jnp.minimum(options.average, step / (10.0 + step))
    average = jax.tree.map(lambda a, new: decay * a + (1 - decay) * new, state.average, values)
    return state._replace(
        step=step, trained=values, optimizer=optimizer_state, average=average, loss_sum=state.loss_sum + value
    )


@partial(jax.jit, static_argnames=("model", "loss"))
def _measure(model, loss, params, trained, inputs, rows, layout, wanted) -> Errors:
    chosen = jax.tree.map(lambda a: a[rows], inputs)
    outputs = evaluate_batch(model, {**params, **trained}, chosen, layout)
    return error_sums(loss, outputs, wanted, layout)


def validate(problem: Problem, loss: LikelihoodLoss, trained, batch_size: int) -> dict[str, float]:
    """Loss and errors on the validation structures; energies per atom, in eV, A."""
    data, plan = problem.validation, BatchPlan.of(problem.validation.sizes, batch_size)
    total = None
    for chosen in plan.in_order():
        rows, layout = plan.layout(data, chosen)
        wanted = targets(data, problem.offsets, chosen, rows, layout)
        part = jax.device_get(
            _measure(problem.model, loss, problem.params, trained, problem.validation_inputs, rows, layout, wanted)
        )
        part = jax.tree.map(np.float64, part)
        total = part if total is None else jax.tree.map(np.add, total, part)
    assert total is not None
    line = {"loss": float(total.loss[1] / max(total.loss[0], 1e-12))}
    for name in ("energy", "forces", "stress"):
        count, absolute, square = getattr(total, name)
        if count:
            line[f"{name}_mae"], line[f"{name}_rmse"] = float(absolute / count), float(np.sqrt(square / count))
    return line


def fit(
    structures: Structures,
    options: TrainingOptions,
    folder: Path | None = None,
    *,
    resume: bool = False,
    progress: ProgressFn = silent,
) -> Fit:
    """Trains a potential.

    Args:
      structures: from `bpjax.training.prepare.prepare`.
      options: of the run.
      folder: where `metrics.jsonl` and the checkpoint go; None to write nothing.
      resume: go on from the checkpoint in `folder`.
      progress: display.

    Returns: the best model by validation loss. After ctrl-C: the best so far, with `finished` False; the checkpoint is written.

    Raises:
      DivergedError: the loss is not finite.
      ConfigError, ModelFileError: a checkpoint that does not fit.
    """
    problem = pose(structures, options, progress)
    run = _Run(problem, options, folder, {"options": to_spec(options), "data": structures.fingerprint()})
    if resume:
        run.load()
    finished = run.advance(progress)
    params = {**problem.params, **jax.tree.map(jnp.asarray, run.state.best)}
    return Fit(problem.model, params, int(run.state.step), finished, tuple(run.history))


class _Run:
    """The loop with its state, checkpoints and metrics."""

    def __init__(self, problem: Problem, options: TrainingOptions, folder: Path | None, identity: dict):
        self.problem, self.options, self.folder, self.identity = problem, options, folder, identity
        trained = trainable(problem.params)
        optimizer, self.schedule = make_optimizer(options.optimizer)
        self.state = State(
            step=jnp.zeros((), jnp.int32),
            trained=trained,
            optimizer=optimizer.init(trained),
            average=trained,
            best=trained,
            best_loss=jnp.asarray(jnp.inf, jnp.float32),
            stale=jnp.zeros((), jnp.int32),
            loss_sum=jnp.zeros((), jnp.float32),
        )
        self.plan = BatchPlan.of(problem.train.sizes, options.optimizer.batch_size)
        self.history: list[dict] = []
        self.began = time.monotonic()

    def load(self) -> None:
        """Takes up the checkpoint, and of the metrics the lines up to it."""
        assert self.folder is not None
        self.state = checkpoint.read_checkpoint(self.folder / checkpoint.NAME, self.state, self.identity)
        self.state = jax.tree.map(jnp.asarray, self.state)
        metrics = self.folder / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the last line of a run that was killed
                break
            if entry["step"] <= int(self.state.step):
                self.history.append(entry)

    def save(self) -> None:
        if self.folder is not None:
            checkpoint.write_checkpoint(self.folder / checkpoint.NAME, self.state, self.identity)

    def advance(self, progress: ProgressFn) -> bool:
        """Runs to the end; False if interrupted."""
        o = self.options.optimizer
        start = int(self.state.step)
        try:
            record = _Metrics(None if self.folder is None else self.folder / "metrics.jsonl", self.history)
            with progress(o.steps, "training", start) as bar:
                for step in range(start, o.steps):
                    if self._stopped():
                        break
                    self.state = self._step(step)
                    if (step + 1) % o.evaluate_every == 0 or step + 1 == o.steps:
                        shown = record(self._evaluate(step + 1))
                        bar.update(step + 1 - start, **shown)
                        start = step + 1
                    if (step + 1) % o.checkpoint_every == 0:
                        self.save()
        except KeyboardInterrupt:
            self.save()
            return False
        self.save()
        return True

    def _step(self, step: int) -> State:
        problem, o = self.problem, self.options
        epoch, batch = divmod(step, self.plan.strata.shape[1])
        chosen = self._epoch(epoch)[batch]
        rows, layout = self.plan.layout(problem.train, chosen)
        wanted = targets(problem.train, problem.offsets, chosen, rows, layout)
        return _update(
            problem.model, o.loss, o.optimizer, problem.params, self.state, problem.inputs, rows, layout, wanted
        )

    def _epoch(self, epoch: int) -> np.ndarray:
        if getattr(self, "_order", (None, None))[0] != epoch:
            self._order = (epoch, self.plan.epoch(self.options.optimizer.seed, epoch))
        return self._order[1]

    def _evaluate(self, step: int) -> dict:
        """Validates the averaged parameters, keeps them if they are the best so far, and returns a line of metrics."""
        o = self.options.optimizer
        since = (step - 1) % o.evaluate_every + 1
        loss = float(self.state.loss_sum) / since
        if not np.isfinite(loss):
            raise DivergedError(f"the training loss is not finite at step {step}; lower optimizer.learning_rate")
        found = validate(self.problem, self.options.loss, self.state.average, o.batch_size)
        better = found["loss"] < float(self.state.best_loss)
        self.state = self.state._replace(
            best=self.state.average if better else self.state.best,
            best_loss=jnp.float32(found["loss"]) if better else self.state.best_loss,
            stale=jnp.int32(0) if better else self.state.stale + 1,
            loss_sum=jnp.zeros((), jnp.float32),
        )
        return {
            "step": step,
            "epoch": step / self.plan.strata.shape[1],
            "seconds": round(time.monotonic() - self.began, 3),
            "learning_rate": float(np.asarray(self.schedule(step - 1))),
            "train_loss": loss,
            **{f"validation_{name}": value for name, value in found.items()},
        }

    def _stopped(self) -> bool:
        patience = self.options.optimizer.patience
        return patience > 0 and int(self.state.stale) >= patience


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
