"""Updaters: what turns the state of a run into the next one. A step is a function of the state, the options and its number."""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bpjax.errors import ConfigError
from bpjax.potential.energy import init
from bpjax.training.hyper import Hyper
from bpjax.training.losses import LikelihoodLoss
from bpjax.training.optimizers import LBFGS, OptimizerOptions
from bpjax.training.options import TrainingOptions
from bpjax.training.parallel import Shards, host
from bpjax.training.problem import (
    Batch,
    Problem,
    batch_loss,
    inputs_of,
    make_batch,
    plan_of,
    preconditioned,
    ready,
    trainable,
)


class State(NamedTuple):
    """All that changes in training; with members, each leaf but `step` has a leading axis of them.

    Attributes:
      step: updates made.
      trained: parameters.
      optimizer: state of the updater.
      average: moving average of the parameters, which is what is validated.
      best: the average that is kept: that which was validated best, or the last (`RunOptions.keep`).
      best_loss: the lowest validation loss.
      stale: evaluations since then.
      waited: evaluations since then or since the learning rate was last lowered.
      rate: factor of the learning rate.
      loss_sum: sum of the training losses since the last evaluation.
    """

    step: Any
    trained: Any
    optimizer: Any
    average: Any
    best: Any
    best_loss: Any
    stale: Any
    waited: Any
    rate: Any
    loss_sum: Any


@runtime_checkable
class Updater(Protocol):
    """What the loop knows of an optimiser.

    Attributes:
      steps: how many steps make a run.
      evaluate_every, checkpoint_every: steps between evaluations and checkpoints.
      per_epoch: steps that use each structure about once.
      remedy: what a user can do where the loss is not finite.
    """

    steps: int
    evaluate_every: int
    checkpoint_every: int
    per_epoch: int
    remedy: str

    def init(self, trained: Any) -> Any:
        """State of the optimiser for the first parameters, a pytree of arrays."""
        ...

    def advance(self, state: State, start: int, stop: int) -> State:
        """Makes the steps `start` to `stop` - 1: a pure function, so that a run that is resumed takes the same steps."""
        ...

    def shown(self, state: State) -> dict[str, Any]:
        """Further columns of a line of metrics."""
        ...


def start(problem: Problem, updater: Updater, seeds: np.ndarray | None = None, *, precondition: bool = False) -> State:
    """The state before the first step, with one member for each seed of first parameters; None for a single network."""
    trained, shape = trainable(problem.params), ()
    if seeds is not None:
        shape = (len(seeds),)

        def drawn(seed):
            first = init(problem.model, jax.random.key(seed))
            if precondition:
                first["networks"] = preconditioned(problem.model, first["networks"], problem.samples)
            return first

        first = jax.vmap(drawn)(jnp.asarray(seeds))
        repeated = jax.tree.map(lambda a: jnp.broadcast_to(a, (*shape, *a.shape)), trained)
        trained = {name: first.get(name, value) for name, value in repeated.items()}
    zero = jnp.zeros(shape, jnp.int32)
    return State(
        step=jnp.zeros((), jnp.int32),
        trained=trained,
        optimizer=updater.init(trained),
        average=trained,
        best=trained,
        best_loss=jnp.full(shape, jnp.inf, jnp.float32),
        stale=zero,
        waited=zero,
        rate=jnp.ones(shape, jnp.float32),
        loss_sum=jnp.zeros(shape, jnp.float32),
    )


TOGETHER = {"cpu": 16}
"""Members that are trained side by side, by kind of device; their intermediates then stay in the caches. All on other devices."""


def _over_members(function, members: int | None):
    """`function(hyper, state, *rest)`, for all members if there are any, so many side by side."""

    def mapped(hyper: Hyper, state: State, *rest) -> State:
        step = state.step

        def one(arguments):
            hyper, state = arguments
            return function(hyper, state._replace(step=step), *rest)._replace(step=None)

        together = min(members or 1, hyper.learning_rate.shape[0])
        found = jax.lax.map(one, (hyper, state._replace(step=None)), batch_size=together)
        return found._replace(step=step + 1)

    return function if members is None else mapped


@partial(jax.jit, static_argnames=("model", "loss", "options", "members"))
def _descend(
    model, loss: LikelihoodLoss, options: OptimizerOptions, members, params, hyper, state, arrays, batch: Batch
):
    inputs = inputs_of(arrays, batch)

    def one(hyper: Hyper, state: State, inputs, batch: Batch) -> State:
        wanted = _weighted(batch, hyper)

        def objective(values):
            full = {**params, **hyper.fixed, **values}
            progress = state.step / options.steps
            total, weight = batch_loss(model, loss, full, inputs, batch.layout, wanted, hyper.widths, progress)
            return total / jnp.maximum(weight, 1e-12)

        value, gradient = jax.value_and_grad(objective)(state.trained)
        direction: Any
        direction, optimizer = options.direction().update(gradient, state.optimizer, state.trained)
        rate = hyper.learning_rate * state.rate * options.shape(state.step)
        decay = {name: hyper.weight_decay * (name in ("networks", "noise")) for name in state.trained}
        values = {
            name: jax.tree.map(lambda p, d, w=decay[name]: p + rate * (d - w * p), state.trained[name], direction[name])
            for name in state.trained
        }
        return advanced(state, values, optimizer, value, options.average)

    return _over_members(one, members)(hyper, state, inputs, batch)


def _weighted(batch: Batch, hyper: Hyper):
    """Labels with the weights that structures have for this member."""
    if hyper.weights is None:
        return batch.wanted
    return batch.wanted._replace(weight=batch.wanted.weight * hyper.weights[jnp.maximum(batch.structures, 0)])


def advanced(state: State, values, optimizer, loss, average: float) -> State:
    """The state after a step to the parameters `values`."""
    step = state.step + 1
    # Early in the run the average follows closely: its memory is a tenth of the steps made.
    decay = jnp.minimum(average, step / (10.0 + step))
    mean = jax.tree.map(lambda a, new: decay * a + (1 - decay) * new, state.average, values)
    return state._replace(step=step, trained=values, optimizer=optimizer, average=mean, loss_sum=state.loss_sum + loss)


@partial(jax.jit, static_argnames=("model", "loss", "options", "members"))
def _search(model, loss: LikelihoodLoss, options: LBFGS, members, params, hyper, state, arrays, batches: Batch):
    def one(hyper: Hyper, state: State, arrays, batches: Batch) -> State:
        def objective(values):
            full = {**params, **hyper.fixed, **values}

            @jax.checkpoint
            def add(sums, batch: Batch):
                inputs = inputs_of(arrays, batch)
                wanted = _weighted(batch, hyper)
                progress = state.step / options.steps
                part = batch_loss(model, loss, full, inputs, batch.layout, wanted, hyper.widths, progress)
                return jax.tree.map(jnp.add, sums, part), None

            zero = jnp.zeros((), jnp.float32)
            (total, weight), _ = jax.lax.scan(add, (zero, zero), batches)
            return total / jnp.maximum(weight, 1e-12)

        method = options.direction()
        value, gradient = optax.value_and_grad_from_state(objective)(state.trained, state=state.optimizer)
        change, optimizer = method.update(
            gradient, state.optimizer, state.trained, value=value, grad=gradient, value_fn=objective
        )
        values = optax.apply_updates(state.trained, change)
        return advanced(state, values, optimizer, value, options.average)

    return _over_members(one, members)(hyper, state, arrays, batches)


class _ByGradient:
    """What updaters that take the gradient of the loss have in common, for one network or several at once."""

    def __init__(self, problem: Problem, options: TrainingOptions, hyper: Hyper, members: int | None = None):
        o = options.optimizer
        assert isinstance(o, OptimizerOptions | LBFGS)
        self.problem, self.options, self.loss, self.hyper, self.members = problem, o, options.loss, hyper, members
        self.steps, self.evaluate_every, self.checkpoint_every = o.steps, o.evaluate_every, o.checkpoint_every
        data, source, devices = problem.train, problem.inputs, problem.devices
        epochs = -(-o.steps // source.batches(data, o.batch_size).batches) if isinstance(o, OptimizerOptions) else 0
        self.plan = plan_of(problem, data, source, o.batch_size, o.seed, epochs)
        self.params = problem.params
        if devices is not None:
            self.params = devices.replicate(self.params)
            self.hyper = devices.replicate(hyper) if members is None else devices.members(hyper)

    def init(self, trained: Any) -> Any:
        """See `Updater`."""
        start = self.options.direction().init
        return (start if self.members is None else jax.vmap(start))(trained)

    def _call(self, function, state: State, arrays, batch: Batch) -> State:
        together, devices = self.members, self.problem.devices
        if together is not None and (devices is None or not devices.by_members):  # else each device has some of all
            together = min(TOGETHER.get(jax.default_backend(), together), together)
        model = self.problem.model
        return function(model, self.loss, self.options, together, self.params, self.hyper, state, arrays, batch)


class Descent(_ByGradient):
    """Stochastic gradient descent."""

    options: OptimizerOptions

    remedy = "lower optimizer.learning_rate"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.per_epoch = self.plan.batches
        self._order: tuple[int, np.ndarray] | None = None
        # What must be read from files or the host's memory, or sent to several devices, is so by a thread while the step
        # before runs.
        at_once = self.problem.inputs.on_device and self.problem.devices is None
        self._reader = None if at_once else ThreadPoolExecutor(1)
        self._next: tuple[int, Future] | None = None

    def advance(self, state: State, start: int, stop: int) -> State:
        """See `Updater`."""
        for step in range(start, stop):
            state = self._call(_descend, state, *self._ready(step))
        return state

    def _ready(self, step: int) -> tuple[Any, Batch]:
        """The batch of a step with its inputs; the next one is already on its way."""
        if self._reader is None:
            return self._batch(step)
        ahead = self._next
        found = ahead[1].result() if ahead is not None and ahead[0] == step else self._batch(step)
        self._next = (step + 1, self._reader.submit(self._batch, step + 1))
        return found

    def _batch(self, step: int) -> tuple[Any, Batch]:
        return ready(self.problem, self.problem.train, self.problem.inputs, self.plan, self._chosen(step))

    def shown(self, state: State) -> dict[str, Any]:
        """The learning rate."""
        shape = self.options.shape(max(int(state.step) - 1, 0))
        factors = host((self.hyper.learning_rate, state.rate, shape))
        return {"learning_rate": np.asarray(np.prod(np.broadcast_arrays(*factors), axis=0), np.float64)}

    def _chosen(self, step: int) -> np.ndarray:
        epoch, batch = divmod(step, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self.plan.epoch(self.options.seed, epoch))
        return self._order[1][batch]


class QuasiNewton(_ByGradient):
    """L-BFGS on all structures."""

    options: LBFGS

    per_epoch = 1
    remedy = "look for structures with absurd energies or forces"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        if not self.problem.inputs.on_device:
            raise ConfigError("'disk': L-BFGS needs all inputs in memory", field="optimizer.inputs")
        self.batches = self._all()

    def advance(self, state: State, start: int, stop: int) -> State:
        """See `Updater`."""
        for _ in range(start, stop):
            state = self._call(_search, state, self.problem.inputs.arrays, self.batches)
        return state

    def _all(self) -> Batch:
        """All batches, with a leading axis of them."""
        problem, plan = self.problem, self.plan
        if isinstance(plan, Shards):
            each = [
                plan.each(c, lambda own, part: make_batch(problem, problem.train, own, part)) for c in plan.in_order()
            ]
            shards = [jax.tree.map(lambda *a: np.stack(a), *own) for own in zip(*each, strict=True)]
            return plan.devices.stack(shards, axis=1)
        batches = [make_batch(problem, problem.train, plan, c) for c in plan.in_order()]
        stacked = jax.tree.map(lambda *a: np.stack(a), *batches)
        return jax.tree.map(jnp.asarray, stacked) if problem.devices is None else problem.devices.replicate(stacked)

    def shown(self, state: State) -> dict[str, Any]:
        """Nothing."""
        return {}
