"""What is trained: the model with its data, brought into the form that the optimisers take."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.descriptors import Descriptor
from bpjax.descriptors.choose import DescriptorSet
from bpjax.elements import fit_offsets
from bpjax.errors import ConfigError
from bpjax.networks.elemental import options_of, precondition
from bpjax.networks.scaling import fit_scaling, scaled
from bpjax.potential.energy import Params, Potential, features_alone, init, noise_from_features
from bpjax.potential.free_atoms import free_atoms
from bpjax.progress import ProgressFn, silent
from bpjax.training import parallel
from bpjax.training.dataset import BatchPlan, Dataset, Layout, Rows, Targets, build_dataset, targets
from bpjax.training.hyper import Hyper
from bpjax.training.inputs import (
    Environments,
    Features,
    as_environments,
    evaluate_batch,
    features_of,
    store,
    store_features,
    take,
)
from bpjax.training.kalman_options import KalmanFilter
from bpjax.training.losses import KINDS, Errors, LikelihoodLoss, Noise, Widths, error_sums, loss_sums
from bpjax.training.memory import MemoryPlan
from bpjax.training.memory import plan as memory_plan
from bpjax.training.options import TrainingOptions
from bpjax.training.parallel import Devices, Shards
from bpjax.training.prepare import Structures
from bpjax.training.streaming import ABOUT, InMemory, Source, build


class Problem(NamedTuple):
    """All that does not change: model, arrays, data and their inputs; `samples` are scaled features of some atoms per element,
    for the preconditioning of networks; `devices` those that the run takes where there are several.
    """

    model: Potential
    params: Params
    offsets: np.ndarray
    train: Dataset
    validation: Dataset
    inputs: Source
    validation_inputs: Source
    memory: MemoryPlan | None = None
    samples: dict = {}  # noqa: RUF012  never changed
    devices: Devices | None = None


def pose(
    structures: Structures,
    options: TrainingOptions,
    progress: ProgressFn = silent,
    *,
    folder: Path | None = None,
    announce: Callable[[str], object] = lambda line: None,
    several: bool = False,
) -> Problem:
    """Builds the model and brings the data into the form that it is trained on.

    Args:
      structures: training and validation structures.
      options: of the run.
      progress: display for the evaluation of the descriptors.
      folder: where features go that are kept on disk.
      announce: called with each line of the memory plan, before anything large is made.
      several: whether to train on all devices that there are.
    """
    descriptor = descriptor_of(structures, options)
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
        noise=options.noise,
    )
    o, members = options.optimizer, None if options.ensemble is None else options.ensemble.members
    first = init(model, jax.random.key(o.starts_from))
    if options.loss.learned:
        first["widths"] = learned_widths(options.loss)
    memory = memory_plan(
        descriptor,
        train,
        validation,
        needs_derivatives=options.loss.forces is not None or options.loss.stress is not None,
        batch_size=o.batch_size,
        parameters=sum(a.size for a in jax.tree.leaves(trainable(first))),
        choice=o.inputs,
        memory_gb=o.memory_gb,
        members=members or 1,
    )
    for line in memory.lines():
        announce(line)
    devices = None
    if several:
        one = "the Kalman filter" if isinstance(o, KalmanFilter) else ""
        devices = parallel.choose(o.batch_size, members, announce, one=one)
    with progress(len(train.species) + len(validation.species), "descriptors") as bar:
        inputs, validation_inputs = (
            _source(memory.kind, descriptor, data, None if folder is None else folder / "features" / name, bar, devices)
            for data, name in ((train, "train"), (validation, "validation"))
        )
    arrays = store_features(descriptor, train) if isinstance(inputs.arrays, Environments) else inputs.arrays
    G = np.asarray(arrays.G)
    first["scaling"] = fit_scaling(G, train.species, elements)
    first["energy_scale"] = jnp.float32(_energy_scale(train, offsets))
    samples = _samples(elements, train.species, G, first["scaling"])
    if o.precondition:
        first["networks"] = preconditioned(model, first["networks"], samples)
    return Problem(model, first, offsets, train, validation, inputs, validation_inputs, memory, samples, devices)


def free_atoms_of(problem: Problem, model: Potential, params: Params) -> Params:
    """`{"free_atoms": ...}`, which makes the energies of isolated atoms exact, by the features of the atoms that were trained on;
    nothing where these energies are not known.

    Args:
      problem: what was trained.
      model: the potential that came of it.
      params: its arrays, with what the descriptor has learned.
    """
    if not model.isolated:
        return {}
    arrays, learned = problem.inputs.arrays, params.get("descriptor")
    if learned is not None or model.descriptor != problem.model.descriptor or isinstance(arrays, Environments):
        own = None if learned is None else {"descriptor": learned}
        arrays = store_features(model.descriptor, problem.train, params=own)
    alone = {e: np.asarray(features_alone(model, params, s)) for s, e in enumerate(model.elements)}
    scaling = parallel.host(params["scaling"])
    return {"free_atoms": free_atoms(model.elements, alone, scaling, np.asarray(arrays.G), problem.train.species)}


SAMPLE = 1000
"""Atoms of an element, at most, for which first networks are preconditioned."""


def _samples(elements: tuple[str, ...], species: np.ndarray, G, scaling: dict) -> dict:
    """Scaled features of some atoms of each element."""
    found = {}
    for s, element in enumerate(elements):
        own = np.flatnonzero(species == s)
        some = own[:: -(-len(own) // SAMPLE)] if len(own) else own
        found[element] = scaled(scaling[element], jnp.asarray(G[some]))
    return found


def preconditioned(model: Potential, networks: dict, samples: dict) -> dict:
    """Networks with their output layers scaled; see `RunOptions.precondition`."""
    return {
        element: precondition(options_of(model.network, s), networks[element], samples[element])
        for s, element in enumerate(model.elements)
    }


def _source(
    kind: str, descriptor: Descriptor, data: Dataset, folder: Path | None, bar, devices: Devices | None
) -> Source:
    """The inputs of a data set, kept as the memory plan says."""
    if kind == "disk":
        if folder is None:
            raise ConfigError("'disk' needs a folder for its files", field="optimizer.inputs")
        parallel.await_file(folder / ABOUT)
        return build(descriptor, data, folder, bar.update)
    if kind == "environments":
        arrays = as_environments(data)
    else:
        arrays = (store if kind == "stored" else store_features)(descriptor, data, bar.update)
    return InMemory.of(arrays) if devices is None else InMemory(devices.replicate(arrays))


def descriptor_of(structures: Structures, options: TrainingOptions) -> Descriptor:
    """The descriptor of a run, with the elements of its structures.

    Raises:
      ConfigError: it is for other elements.
    """
    elements, descriptor = structures.elements, options.descriptor
    if isinstance(descriptor, DescriptorSet):
        descriptor = descriptor.build(elements)
    if set(descriptor.elements) != set(elements):
        raise ConfigError(
            f"{', '.join(descriptor.elements)}, but the data has {', '.join(elements)}", field="descriptor.elements"
        )
    return descriptor


def _energy_scale(train: Dataset, offsets: np.ndarray) -> float:
    """Size of what the networks have to say: spread of the energy per atom, or a tenth of the forces where there is none."""
    with np.errstate(invalid="ignore"):
        spread = (
            np.nanstd((train.energy - train.counts @ offsets) / train.sizes) if np.isfinite(train.energy).any() else 0
        )
        typical = np.sqrt(np.nanmean(train.forces**2)) if np.isfinite(train.forces).any() else 0
    return float(max(spread, 0.1 * typical, 1e-3))


def trainable(params: Params) -> dict:
    """What training changes: the networks, what the descriptor learns, and widths of errors, predicted or learned."""
    return {name: params[name] for name in ("networks", "descriptor", "noise", "widths") if name in params}


class Batch(NamedTuple):
    """Structures of a step: rows of the inputs (None where these have been gathered already), where they go, their labels, and
    their numbers in the data set (-1 for none).

    On several devices, all arrays have a leading axis of shards.
    """

    rows: Rows | None
    layout: Layout
    wanted: Targets
    structures: np.ndarray


def make_batch(problem: Problem, data: Dataset, plan: BatchPlan, chosen: np.ndarray) -> Batch:
    """The batch of the structures `chosen`, one for each slot of the plan."""
    rows, layout = plan.layout(data, chosen)
    derivatives = not isinstance(problem.inputs.arrays, Features)
    return Batch(rows, layout, targets(data, problem.offsets, chosen, rows, layout, derivatives=derivatives), chosen)


def gathered(source: Source, batch: Batch) -> tuple[Any, Batch]:
    """What a step takes: all inputs and the rows of the batch, or its inputs alone where they are not on the device."""
    if source.on_device:
        return source.arrays, batch
    assert batch.rows is not None
    return jax.device_put(source.batch(batch.rows)), batch._replace(rows=None)


def plan_of(problem: Problem, data: Dataset, source: Source, batch_size: int, seed: int = 0, epochs: int = 0):
    """Batches of a data set: a `BatchPlan`, or `Shards` of it; the latter look through the epochs with this seed."""
    plan, devices = source.batches(data, batch_size), problem.devices
    return plan if devices is None or devices.by_members else Shards.of(plan, devices, seed, epochs)


def ready(
    problem: Problem, data: Dataset, source: Source, plan: BatchPlan | Shards, chosen: np.ndarray
) -> tuple[Any, Batch]:
    """What a step takes for the structures `chosen`, on the devices where it is made; see `gathered`."""
    devices = problem.devices
    if not isinstance(plan, Shards):
        arrays, batch = gathered(source, make_batch(problem, data, plan, chosen))
        if devices is None:
            return arrays, batch
        return (arrays if source.on_device else devices.replicate(arrays)), devices.replicate(batch)

    def one(own: BatchPlan, part: np.ndarray):
        batch = make_batch(problem, data, own, part)
        if source.on_device:
            return None, batch
        assert batch.rows is not None
        return source.batch(batch.rows), batch._replace(rows=None)

    arrays, batch = plan.devices.stack(plan.each(chosen, one))
    return (source.arrays if source.on_device else arrays), batch


def inputs_of(arrays, batch: Batch):
    """Inputs of a batch inside jit, shard by shard if it has any; see `ready`."""
    if batch.rows is None or batch.structures.ndim == 1:
        return take(arrays, batch.rows)
    return jax.vmap(take, in_axes=(None, 0))(arrays, batch.rows)


def over_shards(function, inputs, layout: Layout, wanted: Targets):
    """`function(inputs, layout, targets)` of a batch, which gives sums; of shards, the sums over all of them."""
    if layout.structure.ndim == 1:
        return function(inputs, layout, wanted)
    return jax.tree.map(lambda a: a.sum(axis=0), jax.vmap(function)(inputs, layout, wanted))


def widths_of(loss: LikelihoodLoss, params: Params, factors: Widths | None, progress) -> Widths:
    """Widths that hold now: learned ones, or those of the options; times the factors of a member of a sweep."""
    found = loss.widths(progress)
    if "widths" in params:
        found = Widths(
            **{kind: jnp.exp(params["widths"][kind]) if kind in params["widths"] else None for kind in KINDS}
        )
    if factors is None:
        return found
    return Widths(*(None if w is None or f is None else w * f for w, f in zip(found, factors, strict=True)))


def learned_widths(loss: LikelihoodLoss) -> dict:
    """Where widths that are learned start: their logarithms."""
    return {kind: jnp.log(jnp.float32(getattr(loss, kind))) for kind in KINDS if getattr(loss, kind) is not None}


def predicted_noise(model: Potential, params: Params, inputs, layout: Layout) -> Noise | None:
    """Widths that the model predicts for the structures and atoms of a batch; None for a model that does not."""
    if model.noise is None:
        return None
    G = features_of(model.descriptor, params, inputs) if isinstance(inputs, Environments) else inputs.G
    noise = jax.vmap(partial(noise_from_features, model, params))(G, inputs.species)
    square = jnp.where(layout.real, jnp.exp(2 * noise[:, 0]), 0)
    mean = jax.ops.segment_sum(square, layout.structure, layout.atoms.shape[0]) / layout.atoms
    # A slot without a structure has no atoms and a width of zero.
    return Noise(model.noise.of_mean(jnp.where(mean > 0, mean, 1), layout.atoms), model.noise.of_forces(noise))


def batch_loss(
    model,
    loss: LikelihoodLoss,
    params: Params,
    inputs,
    layout: Layout,
    wanted: Targets,
    factors,
    progress,
    sums=loss_sums,
):
    """Numerator and denominator of the loss of a batch; or what else `sums` makes of the predictions, such as `error_sums`."""
    widths = widths_of(loss, params, factors, progress)

    def of_shard(inputs, layout, wanted):
        outputs = evaluate_batch(model, params, inputs, layout)
        return sums(loss, outputs, wanted, layout, widths, predicted_noise(model, params, inputs, layout))

    return over_shards(of_shard, inputs, layout, wanted)


@partial(jax.jit, static_argnames=("model", "loss", "members"))
def _measure(model, loss, members, params, trained, hyper: Hyper | None, arrays, batch: Batch) -> Errors:
    inputs = inputs_of(arrays, batch)

    def one(trained, hyper):
        factors, fixed = (None, {}) if hyper is None else (hyper.widths, hyper.fixed)
        full = {**params, **fixed, **trained}
        return batch_loss(model, loss, full, inputs, batch.layout, batch.wanted, factors, 1.0, error_sums)

    return jax.vmap(one)(trained, hyper) if members else one(trained, hyper)


def validate(
    problem: Problem,
    loss: LikelihoodLoss,
    trained,
    batch_size: int,
    *,
    hyper: Hyper | None = None,
    members: bool = False,
) -> dict[str, np.ndarray]:
    """Errors on the validation set: the loss, and mean absolute and root mean square errors of each kind of label.

    With `members`, `trained` and `hyper` have a leading axis of members, and so have the errors.
    """
    data, source, params, devices = problem.validation, problem.validation_inputs, problem.params, problem.devices
    if devices is not None:
        params = devices.replicate(params)
        hyper = devices.members(hyper) if members else devices.replicate(hyper)
    plan = plan_of(problem, data, source, batch_size)
    total = None
    for chosen in plan.in_order():
        batch = ready(problem, data, source, plan, chosen)
        part = _measure(problem.model, loss, members, params, trained, hyper, *batch)
        part = jax.tree.map(np.float64, parallel.host(part))
        total = part if total is None else jax.tree.map(np.add, total, part)
    assert total is not None
    found = {"loss": total.loss[..., 1] / np.maximum(total.loss[..., 0], 1e-12)}
    for name in KINDS:
        count, absolute, square = np.moveaxis(getattr(total, name), -1, 0)
        if count.all():
            found[f"{name}_mae"], found[f"{name}_rmse"] = absolute / count, np.sqrt(square / count)
    return {name: np.asarray(value) for name, value in found.items()}
