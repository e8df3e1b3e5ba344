"""Training with the extended Kalman filter: choice of candidates, and epochs of updates.

The host makes the schedule of an epoch (which kind of update, which candidates to try); the device runs through it in one loop.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from bpjax.errors import ConfigError
from bpjax.potential.energy import Potential
from bpjax.training.inputs import Features, Stored, evaluate_batch, take
from bpjax.training.kalman import Filter, block_sizes, init_filter, update
from bpjax.training.kalman_candidates import (
    ENERGY,
    FORCES,
    Table,
    energy_table,
    force_table,
    predict_energy,
    predict_force,
    shapes_of,
)
from bpjax.training.kalman_options import KalmanFilter
from bpjax.training.losses import LikelihoodLoss
from bpjax.training.options import TrainingOptions
from bpjax.training.problem import Problem, trainable
from bpjax.training.streaming import Source
from bpjax.training.updaters import advanced

CHUNK = 256
"""Updates between two returns to the host, where a run can be interrupted."""


class Schedule(NamedTuple):
    """Updates U of an epoch: the branch (kind and shape) of each, and its candidates, g at a time, T to try for each."""

    branch: Int[Array, " U"]
    candidates: Int[Array, "U g T"]


class KalmanState(NamedTuple):
    """Weights in the precision of the filter, the filter, and errors in units of their widths, of energies and forces.

    `rmse` is that of the whole training set after the last epoch (with "threshold"), `innovation` the root mean square error that
    the updates of the last epoch found.
    """

    w: Float[Array, " n"]
    filter: Filter
    rmse: Float[Array, " 2"]
    innovation: Float[Array, " 2"]


@dataclass(frozen=True)
class _Setting:
    """What is fixed when an epoch is compiled; `shapes` are kind and rows of each branch."""

    model: Potential
    options: KalmanFilter
    per_epoch: int
    shapes: tuple[tuple[int, int], ...]


def _place(options: KalmanFilter, kind: int, candidate):
    """Row of the table that a candidate belongs to, and the first component of the label that it takes.

    Components of forces are candidates 3 atom + axis where each is one of its own.
    """
    if kind == ENERGY or options.components == 3:
        return candidate, 0
    return candidate // 3, candidate % 3


def _errors(setting: _Setting, params, inputs, table: Table, shape, template, w, candidate):
    """Errors (c,) of a candidate, in units of their widths, as a function of the flat weights."""
    kind, size = shape
    _, unravel = ravel_pytree(jax.tree.map(lambda a: a.astype(w.dtype), template))
    values = jax.tree.map(lambda a, old: a.astype(old.dtype), unravel(w), template)
    full = {**params, **values}
    c = 1 if kind == ENERGY else setting.options.components
    place, first = _place(setting.options, kind, candidate)
    rows, toward, away = (a[place, :size] for a in (table.rows, table.toward, table.away))

    def one(axis):
        if kind == ENERGY:
            predicted = predict_energy(setting.model, full, inputs, rows)
        else:
            predicted = predict_force(setting.model, full, inputs, rows, toward, away, axis)
        return table.scale[place] * (table.reference[place, axis] - predicted.astype(w.dtype))

    return jax.vmap(one)(jnp.arange(c) + first)


# ----------------------------------------------------------------------------------------------- updates


def _choose(options: KalmanFilter, kind: int, errors, rmse, candidates):
    """Of the candidates (g, T) tried, for each of g the first above the threshold, else the one with the largest error."""
    if candidates.shape[1] == 1:
        return candidates[:, 0]
    threshold = (options.energy_threshold, options.forces_threshold)[kind]
    size = jax.vmap(jax.vmap(lambda one: jnp.sqrt(jnp.mean(errors(one) ** 2))))(candidates)
    above = size > threshold * rmse[kind]
    picked = jnp.where(above.any(axis=1), jnp.argmax(above, axis=1), jnp.argmax(size, axis=1))
    return jnp.take_along_axis(candidates, picked[:, None], axis=1)[:, 0]


def _observe(setting: _Setting, params, inputs, tables, template, shape, w, rmse, candidates):
    """Derivatives H (m, n), errors (S, m) as each block sees them, and the sum and count of the squares of the errors."""
    options, kind = setting.options, shape[0]
    table = tables[kind]
    candidates = candidates[: (options.energies_per_update, options.forces_per_update)[kind]]
    errors = partial(_errors, setting, params, inputs, table, shape, template)
    chosen = _choose(options, kind, partial(errors, w), rmse, candidates)

    def both(one):
        xi, pull = jax.vjp(lambda w: errors(w, one), w)
        return xi, -jax.vmap(lambda e: pull(e)[0])(jnp.eye(len(xi), dtype=w.dtype))

    xi, H = jax.vmap(both)(chosen)  # (g, c), (g, c, n)
    place, _ = _place(options, kind, chosen)
    shared = (table.share[place][:, :, None] * xi[:, None, :]).swapaxes(0, 1).reshape(table.share.shape[1], -1)
    H, squares = H.reshape(-1, len(w)), jnp.stack([jnp.sum(xi**2), jnp.asarray(xi.size, w.dtype)])
    if options.group == "sum":
        H, shared = H.sum(axis=0, keepdims=True), shared.sum(axis=1, keepdims=True)
    fill = options.columns - len(H)  # rows of zeros change nothing
    return jnp.pad(H, ((0, fill), (0, 0))), jnp.pad(shared, ((0, 0), (0, fill))), squares


@partial(jax.jit, static_argnames="setting", donate_argnames="carry")
def _run(setting: _Setting, params, template, inputs, tables, carry, rmse, schedule: Schedule, start, stop):
    """Updates `start` to `stop` - 1 of an epoch; `carry` are weights, filter and sums of squares (2, 2)."""
    branches = [partial(_observe, setting, params, inputs, tables, template, shape) for shape in setting.shapes]
    kinds = jnp.asarray([kind for kind, _ in setting.shapes])

    def body(u, carry):
        w, state, sums = carry
        branch = schedule.branch[u]
        H, xi, squares = jax.lax.switch(branch, branches, w, rmse, schedule.candidates[u])
        state, w = update(setting.options, setting.per_epoch, state, w, H, xi)
        return w, state, sums.at[kinds[branch]].add(squares)

    with jax.default_matmul_precision("highest"):
        return jax.lax.fori_loop(start, stop, body, carry)


@partial(jax.jit, static_argnames="model")
def _predict(model, params, trained, inputs, rows, layout):
    outputs = evaluate_batch(model, {**params, **trained}, take(inputs, rows), layout)
    return outputs.energy, outputs.forces


# ----------------------------------------------------------------------------------------------- updater


class KalmanUpdater:
    """Epochs of updates of the extended Kalman filter; a step of the run is an epoch.

    Args:
      problem: model and data.
      options: of the run; `options.optimizer` is a `KalmanFilter`.

    Raises:
      ConfigError: double precision where JAX has it switched off, a loss that is not one of constant widths, or no labels to fit.
    """

    per_epoch = 1
    remedy = "lower optimizer.eta, or take float64; with fading memory lambda_0 nearer to 1 or a smaller nue"

    def __init__(self, problem: Problem, options: TrainingOptions):
        o: Any = options.optimizer
        self.problem, self.loss, self.options = problem, options.loss, o
        self.steps, self.evaluate_every, self.checkpoint_every = o.epochs, o.evaluate_every, o.checkpoint_every
        self.dtype = _dtype(o.precision)
        _check_loss(problem, options.loss)
        _check_inputs(problem.inputs, o.inputs, options.loss)
        self.places = block_sizes(o.blocks, trainable(problem.params))
        data, stored = problem.train, isinstance(problem.inputs.arrays, Stored)
        weight = data.weight / max(data.weight.mean(), 1e-300)
        share = np.ones((len(data), len(self.places)))
        if o.blocks == "element":
            order = [problem.model.elements.index(place[-1]) for place in self.places]
            share = data.counts[:, order] / data.sizes[:, None]
        energies, structures = energy_table(data, problem.offsets, options.loss, weight, share)
        forces, atoms = force_table(data, options.loss, weight, len(self.places), stored)
        components = atoms if o.components == 3 else (3 * atoms[:, None] + np.arange(3)).reshape(-1)
        self.usable = (structures, components)
        self.updates = _updates(o, len(structures) or len(data), len(structures), len(components))
        if not sum(self.updates):
            raise ConfigError("no energies or forces to fit", field="loss")
        self._host = tables = (energies, forces)
        self._rows = tuple((t.rows >= 0).sum(axis=1) for t in tables)
        shapes = [(kind, n) for kind in (ENERGY, FORCES) for n in shapes_of(self._rows[kind]) if self.updates[kind]]
        self._setting = _Setting(problem.model, o, sum(self.updates), tuple(shapes))
        self._tables = tuple(
            Table(*map(jnp.asarray, t[:3]), *(jnp.asarray(a, self.dtype) for a in t[3:])) for t in tables
        )
        self._plan = problem.inputs.batches(data, o.batch_size)

    def init(self, trained: Any) -> KalmanState:
        """Weights and filter before the first epoch."""
        w, _ = ravel_pytree(jax.tree.map(lambda a: jnp.asarray(a, self.dtype), trained))
        state = init_filter(self.options, tuple(self.places.values()), self.dtype)
        nothing = jnp.zeros(2, self.dtype)
        return KalmanState(w, state, self._rmse(trained), nothing)

    def advance(self, state: Any, start: int, stop: int) -> Any:
        """Runs epochs `start` to `stop` - 1."""
        for epoch in range(start, stop):
            state = self._epoch(state, epoch)
        return state

    def shown(self, state: Any) -> dict[str, float]:
        """Noise of the schedule and errors, in units of their widths, that the updates of the last epoch found."""
        o, kalman = self.options, jax.device_get(state.optimizer)
        found = {"eta": kalman.filter.eta, "q": kalman.filter.q}
        if o.kind == "fading":
            found["lambda"] = kalman.filter.lam
        for kind, name in ((ENERGY, "energy_innovation"), (FORCES, "forces_innovation")):
            if self.updates[kind]:
                found[name] = kalman.innovation[kind]
        return {name: float(value) for name, value in found.items()}

    def _epoch(self, state, epoch: int):
        kalman: KalmanState = state.optimizer
        schedule = self._schedule(epoch, state.trained)
        # The loop works in place, on a copy: the state that was given stays as it is.
        sums = jnp.zeros((2, 2), self.dtype)
        carry = jax.tree.map(jnp.copy, (kalman.w, kalman.filter, sums))
        total = len(schedule.branch)
        p = self.problem
        for first in range(0, total, CHUNK):
            carry = _run(
                self._setting, p.params, state.trained, p.inputs.arrays, self._tables, carry, kalman.rmse, schedule,
                jnp.int32(first), jnp.int32(min(first + CHUNK, total)),
            )  # fmt: skip
        w, filtered, sums = carry
        _, unravel = ravel_pytree(jax.tree.map(lambda a: jnp.asarray(a, self.dtype), state.trained))
        trained = jax.tree.map(lambda new, old: new.astype(old.dtype), unravel(w), state.trained)
        mean = sums[:, 0] / jnp.maximum(sums[:, 1], 1)
        kalman = KalmanState(w, filtered, self._rmse(trained), jnp.sqrt(mean))
        return advanced(state, trained, kalman, mean.sum().astype(state.loss_sum.dtype), self.options.average)

    def _schedule(self, epoch: int, trained) -> Schedule:
        """The updates of an epoch: a function of the seed and the epoch (and, with "sorted", of the errors)."""
        o, rng = self.options, np.random.default_rng([self.options.seed, epoch])
        errors = self._errors(trained) if o.selection == "sorted" else (None, None)
        trials = o.trials if o.selection == "threshold" else 1
        groups = (o.energies_per_update, o.forces_per_update)
        kinds = rng.permutation(np.repeat([ENERGY, FORCES], self.updates))
        candidates = np.zeros((len(kinds), max(groups), trials), np.int32)
        branch = np.zeros(len(kinds), np.int32)
        for kind in (ENERGY, FORCES):
            here, group = np.flatnonzero(kinds == kind), groups[kind]
            if not len(here):
                continue
            found = _draw(rng, self.usable[kind], errors[kind], len(here) * group * trials)
            found = found.reshape(len(here), group, trials)
            candidates[here, :group] = found
            place, _ = _place(o, kind, found)
            needed = self._rows[kind][place].max(axis=(1, 2))
            sizes = [n for k, n in self._setting.shapes if k == kind]
            branch[here] = self._setting.shapes.index((kind, sizes[0])) + np.searchsorted(sizes, needed)
        return Schedule(jnp.asarray(branch), jnp.asarray(candidates))

    def _errors(self, trained) -> tuple[np.ndarray, np.ndarray]:
        """Sizes of the errors of all usable candidates, in units of their widths."""
        p = self.problem
        energy, forces = np.zeros(len(p.train)), np.zeros((len(p.train.species), 3))
        for chosen in self._plan.in_order():
            rows, layout = self._plan.layout(p.train, chosen)
            E, F = jax.device_get(_predict(p.model, p.params, trained, p.inputs.arrays, rows, layout))
            energy[chosen[chosen >= 0]], forces[rows.atoms[layout.real]] = E[chosen >= 0], F[layout.real]
        tables = self._host
        xi = [t.scale[:, None] * (t.reference - y) for t, y in zip(tables, (energy[:, None], forces), strict=True)]
        if self.options.components == 3:
            size = np.sqrt(np.mean(xi[FORCES] ** 2, axis=1))
        else:
            size = np.abs(xi[FORCES]).reshape(-1)
        return np.abs(xi[ENERGY][self.usable[ENERGY], 0]), size[self.usable[FORCES]]

    def _rmse(self, trained) -> Float[Array, " 2"]:
        if self.options.selection != "threshold":
            return jnp.zeros(2, self.dtype)
        errors = self._errors(trained)
        return jnp.asarray([np.sqrt(np.mean(e**2)) if len(e) else 0.0 for e in errors], self.dtype)


def _draw(rng, usable: np.ndarray, errors: np.ndarray | None, count: int) -> np.ndarray:
    """So many candidates, each again only when all have been drawn: those with the largest errors first, or in random order."""
    rounds = -(-count // len(usable))
    if errors is not None:
        return np.tile(usable[np.argsort(-errors, kind="stable")], rounds)[:count]
    return np.concatenate([rng.permutation(usable) for _ in range(rounds)])[:count]


def _updates(o: KalmanFilter, structures: int, energies: int, forces: int) -> tuple[int, int]:
    """Updates per epoch by energies and by forces."""
    base = -(-round(o.energy_fraction * structures) // o.energies_per_update) or 1
    by_forces = round(o.force_energy_ratio * base)
    if o.forces_fraction is not None:
        by_forces = -(-round(o.forces_fraction * forces) // o.forces_per_update)
    return base if energies else 0, max(1, by_forces) if forces else 0


def _check_loss(problem: Problem, loss: LikelihoodLoss) -> None:
    """Raises unless widths are constants: noise of the filter is that of Gaussian errors of known width."""
    if loss.beyond_squares:
        message = "the Kalman filter takes squared errors of constant widths; leave it out"
        raise ConfigError(message, field=f"loss.{loss.beyond_squares[0]}")
    if {"noise", "widths"} & set(problem.params):
        raise ConfigError("the Kalman filter cannot learn widths of errors; leave it out", field="noise")


def _check_inputs(inputs: Source, choice: str, loss: LikelihoodLoss) -> None:
    if not inputs.on_device:
        raise ConfigError(f"{choice!r}: the Kalman filter needs all inputs in memory", field="optimizer.inputs")
    if isinstance(inputs.arrays, Features) and loss.forces is not None:
        raise ConfigError(f"{choice!r}: forces need derivatives of the features", field="optimizer.inputs")


def _dtype(precision: str):
    double = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    if precision == "float64" and not double:
        raise ConfigError("'float64' needs JAX_ENABLE_X64=1; or take auto or float32", field="optimizer.precision")
    return jnp.float64 if double and precision != "float32" else jnp.float32
