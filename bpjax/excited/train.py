"""Training of diabatic potentials on energies, gradients, couplings and dipoles of several states.

Features and their derivatives are computed once, see `bpjax.excited.state_inputs`.
"""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bpjax.errors import ConfigError, DivergedError
from bpjax.excited.diabatic import DiabaticPotential, MultiStatePotential, Params, init
from bpjax.excited.state_inputs import features_and_factors, labels_of, prediction, state_inputs, without_energies
from bpjax.excited.state_losses import StatesLoss, states_loss
from bpjax.excited.states_data import StatesData
from bpjax.networks.scaling import fit_scaling
from bpjax.precision import precision, unrounded
from bpjax.progress import ProgressFn, silent
from bpjax.spec import check, check_seed, register


@register
@dataclass(frozen=True, kw_only=True)
class StatesTraining:
    """Options of a training run: AdamW on batches, warm-up and cosine, averaged parameters, the best by validation loss.

    Signs that fit best, and the freedom of the diabatic basis, make many minima, some of which fit couplings badly. Which of them
    a run ends in is decided early: several first parameters are trained for a sixth of the epochs, the best goes on.

    Attributes:
      loss: widths and weights.
      starts: first parameters that are tried, all in one program.
      epochs: passes over the training geometries.
      batch_size: geometries per step.
      learning_rate: at its highest.
      final_learning_rate: at the last step, as a fraction of `learning_rate`.
      warmup: steps of linear growth of the learning rate.
      weight_decay: decoupled, times the learning rate.
      clip: largest norm of a gradient.
      average: decay of the moving average of the parameters, which is what is validated and kept; 0 for none.
      validation: share of each family of geometries that is set aside, where no validation data are given.
      evaluate_every: epochs between two validations.
      seed: of the first parameters, the split and the order of the geometries.
      dtype: "float32" or "float64", in which all of it runs.

    Raises:
      ValueError: an option out of range.
    """

    loss: StatesLoss = field(default_factory=StatesLoss)
    starts: int = 6
    epochs: int = 1500
    batch_size: int = 32
    learning_rate: float = 3e-3
    final_learning_rate: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.01
    clip: float = 10.0
    average: float = 0.99
    validation: float = 0.1
    evaluate_every: int = 25
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        for name in ("starts", "epochs", "batch_size", "evaluate_every"):
            check(getattr(self, name) >= 1, f"StatesTraining {name}", getattr(self, name), "must be at least 1")
        check_seed(self.seed, "StatesTraining seed")
        for name in ("warmup", "weight_decay"):
            check(getattr(self, name) >= 0, f"StatesTraining {name}", getattr(self, name), "must be at least 0")
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            check(math.isfinite(value) and value > 0, f"StatesTraining {name}", value, "must be positive")
        check(
            0 <= self.final_learning_rate <= 1, "StatesTraining final_learning_rate", self.final_learning_rate, "0 to 1"
        )
        check(0 <= self.average < 1, "StatesTraining average", self.average, "must be in [0, 1)")
        check(0 < self.validation < 1, "StatesTraining validation", self.validation, "must be between 0 and 1")
        check(self.dtype in ("float32", "float64"), "StatesTraining dtype", self.dtype, "float32 or float64")


@dataclass(frozen=True)
class StatesFit:
    """A finished run.

    Attributes:
      model: the model, with the energies that are left out of the matrix.
      params: its arrays, the best of the run by validation loss.
      history: for each validation `epoch`, `training` (mean loss since the last one) and `validation`.
    """

    model: Any
    params: Params
    history: tuple[dict[str, float | int], ...]


def started(
    model: Any, data: StatesData, options: StatesTraining, initial: tuple[Any, Params] | None = None
) -> tuple[Any, Params]:
    """The model with its constants and first parameters, from the training data or from an earlier model.

    `zero` becomes the lowest energy, `offsets` the mean of each adiabatic state (further diabatic states lie above), and the
    scales of the terms are the spread of the energies, divided by what their factors amount to.

    Raises:
      ConfigError: a model of fewer states than the data, or of another molecule, or an adiabatic one with a coupling loss; or
        an earlier model with other options.
    """
    if model.states < data.states:
        raise ConfigError(f"the model has {model.states} states, the data have {data.states}", field="states")
    if tuple(model.atoms) != data.atoms:
        raise ConfigError(
            f"the model is one of {'-'.join(model.atoms)}, the data of {'-'.join(data.atoms)}", field="atoms"
        )
    if isinstance(model, MultiStatePotential) and options.loss.couplings is not None:
        raise ConfigError("an adiabatic model has no couplings; set couplings=None", field="loss.couplings")
    if options.loss.dipoles is not None and not model.has_dipoles:
        raise ConfigError(
            "the model has no dipoles; build it with dipoles=True or set dipoles=None", field="loss.dipoles"
        )
    if initial is not None:
        earlier, params = initial
        if without_energies(earlier) != without_energies(model):
            raise ConfigError("is a model of other options than the one to train", field="initial")
        return earlier, jax.tree.map(lambda p: jnp.asarray(p, options.dtype), params)
    zero = float(data.energies.min())
    means = (data.energies - zero).mean(axis=0)
    above = means[-1] + 2.0 * np.arange(1, model.states - data.states + 1)
    model = replace(model, zero=zero, offsets=tuple(np.round(np.append(means, above), 4).tolist()))
    params = init(model, jax.random.key(options.seed), np.dtype(options.dtype))
    R = jnp.asarray(data.positions, options.dtype)
    G, f = map(np.asarray, features_and_factors(without_energies(model), R))
    species = np.tile(model.species, len(data))
    params["scaling"] = fit_scaling(G.reshape(-1, G.shape[-1]), species, model.elements)
    spread = np.std(data.energies - zero, axis=0).mean() / len(model.atoms)
    size = np.sqrt(np.mean(f**2, axis=0))
    params["scales"] = jnp.asarray(spread / np.maximum(size, 0.05), options.dtype)
    return model, params


def train_states(
    model: DiabaticPotential | MultiStatePotential,
    data: StatesData,
    options: StatesTraining | None = None,
    validation: StatesData | None = None,
    progress: ProgressFn = silent,
    initial: tuple[Any, Params] | None = None,
) -> StatesFit:
    """Trains a diabatic or adiabatic potential; the same options and data give the same numbers.

    Args:
      model: what to train; its `zero` and `offsets` are set anew.
      data: to train on; without `validation` a share of each family is set aside from them.
      options: of the run.
      validation: data that decide which parameters are the best.
      progress: display.
      initial: a model of the same options and its parameters to go on from, say with more data, from one start; its constants
        and scaling are kept.

    Raises:
      ConfigError: options that do not fit the data or the model, see `started` and `labels_of`.
      DivergedError: the loss is not finite.
    """
    options = options or StatesTraining()
    with precision(options.dtype):
        found = _trained(model, data, options, validation, progress, initial)
    return replace(found, params=unrounded(found.params))


def _trained(model, data, options: StatesTraining, validation, progress: ProgressFn, initial) -> StatesFit:
    if validation is None:
        kept, aside = data.split(options.validation, options.seed)
        if len(aside) == 0:
            raise ConfigError(f"{options.validation} of {len(data)} geometries is none", field="validation")
        data, validation = data.pick(kept), data.pick(aside)
    model, params = started(model, data, options, initial)
    options = options if initial is None else replace(options, starts=1)
    dtype, loss = jnp.dtype(options.dtype), options.loss
    sets = []
    for part in (data, validation):
        inputs = state_inputs(model, params, jnp.asarray(part.positions, dtype))
        sets.append((inputs, labels_of(part, model.zero, loss, dtype)))
    return _run(model, params, options, sets, progress)


class _State(NamedTuple):
    trained: Any
    optimizer: Any
    average: Any
    step: Any


def _run(model, params, options: StatesTraining, sets, progress: ProgressFn) -> StatesFit:
    names = [name for name in ("networks", "dipoles") if name in params]
    fixed = {name: value for name, value in params.items() if name not in names}
    n, key = len(sets[0][0].R), jax.random.key(options.seed)
    per_epoch = max(1, n // options.batch_size)
    transform = _transform(options, per_epoch * options.epochs)

    def first_state(k):
        own = params if k == 0 else init(model, jax.random.fold_in(key, k), np.dtype(options.dtype))
        trained = {name: own[name] for name in names}
        return _State(trained, transform.init(trained), trained, jnp.zeros((), jnp.int32))

    state = jax.tree.map(lambda *a: jnp.stack(a), *map(first_state, range(options.starts)))
    best, best_loss, history = None, math.inf, []
    lowest, done = jnp.min(sets[0][1].energies), 0
    with progress(options.epochs, "training") as bar:
        while done < options.epochs:
            trial = options.starts > 1 and not done
            epochs = min(max(1, options.epochs // 6) if trial else options.evaluate_every, options.epochs - done)
            keys = jax.random.split(jax.random.fold_in(key, done), epochs)
            state, means = _advance(model, options, per_epoch, fixed, state, keys, *sets[0])
            if trial:  # the best goes on
                first = jnp.argmin(jnp.where(jnp.isfinite(means), means, jnp.inf))
                state, means = jax.tree.map(lambda a, first=first: a[first][None], (state, means))
            done += epochs
            training, average = float(means[0]), jax.tree.map(lambda a: a[0], state.average)
            value = float(_mean_loss(model, options.loss, {**fixed, **average}, *sets[1], lowest))
            if not math.isfinite(training + value):
                raise DivergedError(f"epoch {done}: the loss is not finite; try a smaller learning_rate")
            history.append({"epoch": done, "training": training, "validation": value})
            bar.update(epochs, training=training, validation=value)
            if value < best_loss:
                best, best_loss = average, value
    assert best is not None, "a finite loss is below infinity"
    return StatesFit(model, {**fixed, **best}, tuple(history))


def _transform(options: StatesTraining, steps: int) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=options.learning_rate / max(1, options.warmup),
        peak_value=options.learning_rate,
        warmup_steps=min(options.warmup, steps - 1),
        decay_steps=max(2, steps),
        end_value=options.final_learning_rate * options.learning_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(options.clip), optax.adamw(schedule, weight_decay=options.weight_decay)
    )


def _losses(model, loss, params, inputs, labels, lowest):
    states = labels.energies.shape[1]

    def one(inputs, labels):
        return states_loss(loss, prediction(model, params, inputs, states, loss.broadening), labels, lowest)

    return jnp.mean(jax.vmap(one)(inputs, labels))


_mean_loss = jax.jit(_losses, static_argnums=(0, 1))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _advance(model, options: StatesTraining, per_epoch: int, fixed, states: _State, keys, inputs, labels):
    """Some epochs of every start: its state, and its mean loss over the last of them."""
    n = len(inputs.R)
    size = min(options.batch_size, n)
    transform = _transform(options, per_epoch * options.epochs)
    lowest = jnp.min(labels.energies)

    def step(state: _State, rows):
        x, wanted = jax.tree.map(lambda a: a[rows], (inputs, labels))

        def objective(trained):
            return _losses(model, options.loss, {**fixed, **trained}, x, wanted, lowest)

        value, gradient = jax.value_and_grad(objective)(state.trained)
        update, optimizer = transform.update(gradient, state.optimizer, state.trained)
        trained = optax.apply_updates(state.trained, update)
        count = state.step + 1
        decay = jnp.minimum(options.average, count / (count + 10))  # early in the run the average follows closely
        average = jax.tree.map(lambda a, p: (decay * a + (1 - decay) * p).astype(p.dtype), state.average, trained)
        return _State(trained, optimizer, average if options.average else trained, count), value

    def epoch(state, key):
        rows = jax.random.permutation(key, n)[: per_epoch * size].reshape(per_epoch, size)
        return jax.lax.scan(step, state, rows)

    def one(state):
        state, values = jax.lax.scan(epoch, state, keys)
        return state, jnp.mean(values[-options.evaluate_every :])

    return jax.vmap(one)(states)
