"""The compiled inner loop: some thousand steps of a jax-md integrator with list updates, records and frames.

One evaluation of the potential serves a step and its record. Nothing raises in here; the loop stops early and says why in
its flags, and the host acts on them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from bpjax.dynamics.ensembles import Bath, Members, bath_energy, each, step_fn

MOST = 2**31 - 1
"""The largest int32."""


class Record(NamedTuple):
    """Thermodynamics after a step, in eV and A^3; the potential energy is relative to the model's offsets."""

    potential: Array
    kinetic: Array
    bath: Array
    virial: Array
    volume: Array


class Offences(NamedTuple):
    """Extrapolation warnings of a block: how many, and the first configuration that gave any.

    Attributes:
      count: warnings (atom, function, step) of the block.
      total: warnings of the chunk so far.
      taken: steps that the block took; fewer than planned where the limit stopped it.
      step: which step of the block was the first to give a warning, from 1; 0 for none.
      positions, volume: after that step.
      outside: warnings of each atom in that step.
    """

    count: Array
    total: Array
    taken: Array
    step: Array
    positions: Array
    volume: Array
    outside: Array


class Buffers(NamedTuple):
    """What a chunk hands to the host: one record per block, one frame (positions, momenta) per slot, and offences per block."""

    records: Record
    positions: Array
    momenta: Array
    offences: Offences | None = None


class Plan(NamedTuple):
    """Length of a chunk; traced, so that chunks of all lengths share one program.

    `blocks` blocks of `steps` steps; every `blocks_per_frame` blocks make a frame, `phase` of which lie before the chunk. The
    chunk ends with the step that gives more than `warnings` extrapolation warnings in all; None does not watch.
    """

    blocks: Array
    steps: Array
    blocks_per_frame: Array
    phase: Array
    warnings: Array | None = None


class Limits(NamedTuple):
    """Where a run must stop: kinetic energy in eV, and the logarithm of the smallest allowed scale of the box."""

    kinetic: float
    log_scale: float


def chunk_fn(
    ensemble: str,
    predict_fn: Callable,
    shift_fn: Callable,
    limits: Limits,
    blocks: int,
    frames: int,
    members: Members | None = None,
) -> Callable:
    """The function that runs a chunk, to be compiled.

    Args:
      ensemble: see `bpjax.dynamics.ensembles`.
      predict_fn: energy, forces, virial: `bpjax.dynamics.jaxmd.prediction_fn`, one that watches if the plan does.
      shift_fn: jax-md's shift without wrapping.
      limits: where to stop.
      blocks: largest number of blocks in a chunk.
      frames: largest number of frames that a chunk completes.
      members: of a batch of systems that are integrated at once. State, `seen`, bath, limits, records and frames then have a
        leading axis of members; `predict_fn` and `shift_fn` are called for one of them, on the axis `ensembles.AXIS`.

    Returns: `chunk(state, seen, neighbors, bath, plan) -> ((state, seen), neighbors, buffers, blocks done, fine)`; `seen` is
    potential energy, trace of the virial and, if anybody watches, warnings of each atom of the state.
    """
    # Traced once, though jax-md asks for the shapes of forces before it asks for forces.
    predict_fn = jax.jit(predict_fn)

    def chunk(state: Any, seen: tuple[Array, ...], neighbors: Any, bath: Bath, plan: Plan):
        def evaluate(R, **kwargs):
            prediction = predict_fn(R, **kwargs)
            watched = () if prediction.outside is None else (prediction.outside,)
            return prediction.forces, (prediction.energy, jnp.trace(prediction.virial), *watched)

        def step(_, carry):
            state, neighbors, seen = carry

            def apply(state, bath, seen):
                return step_fn(ensemble, bath, evaluate, shift_fn)(state, neighbors, seen)

            state, seen = each(members, apply, moves=True)(state, bath, seen)
            named = {"box": each(members, _box)(state)} if ensemble == "npt" else {}
            margin = each(members, _approach)(state, bath.dt)
            neighbors = neighbors.update(state.position, margin=margin, **named)
            return state, neighbors, seen

        def block(carry):
            state, neighbors, out, seen, done, _, offences = carry
            (state, neighbors, seen), offences = _steps(ensemble, step, (state, neighbors, seen), offences, plan)
            record = each(members, partial(_record, ensemble))(state, seen, bath)
            fine = (
                jnp.all(each(members, partial(_fine, ensemble))(state, record, limits)) & ~neighbors.did_buffer_overflow
            )
            fine = fine if offences is None else fine & _allowed(offences, plan)
            slot = jnp.where(fine, (plan.phase + done) // plan.blocks_per_frame, len(out.positions) - 1)
            out = Buffers(
                jax.tree.map(lambda b, r: b.at[done].set(r), out.records, record),
                out.positions.at[slot].set(state.position),
                out.momenta.at[slot].set(state.momentum),
                jax.tree.map(lambda b, o: b.at[done].set(o), out.offences, offences),
            )
            return state, neighbors, out, seen, done + 1, fine, offences

        with jax.default_matmul_precision("highest"):
            offences = None if plan.warnings is None else _no_offences(state)
            buffers = _empty_buffers(blocks, frames, state.position, offences)
            carry = (state, neighbors, buffers, seen, jnp.zeros((), jnp.int32), jnp.ones((), bool), offences)
            state, neighbors, out, seen, done, fine, _ = jax.lax.while_loop(
                lambda c: (c[4] < plan.blocks) & c[5], block, carry
            )
        return (state, seen), neighbors, out, done, fine

    return chunk


def _empty_buffers(blocks: int, frames: int, position: Array, offences: Offences | None) -> Buffers:
    """Buffers for so many blocks and frames (of each member); one more slot takes the states that must not be kept."""
    none = jnp.zeros((blocks, *position.shape[:-2]), position.dtype)
    coordinates = jnp.zeros((frames + 1, *position.shape), position.dtype)
    offences = jax.tree.map(lambda o: jnp.zeros((blocks, *o.shape), o.dtype), offences)
    return Buffers(Record(*[none] * len(Record._fields)), coordinates, coordinates, offences)


def _steps(ensemble, step: Callable, carry: tuple, offences: Offences | None, plan: Plan):
    """The steps of a block; if anybody watches, with its warnings, and only up to the step that exceeds the limit."""
    if offences is None:
        return jax.lax.fori_loop(0, plan.steps, step, carry), None

    def watched(carry):
        carry, offences = carry
        carry = step(None, carry)
        return carry, _noted(ensemble, offences, carry[0], carry[2][2])

    fresh = _no_offences(carry[0])._replace(total=offences.total)
    return jax.lax.while_loop(lambda c: (c[1].taken < plan.steps) & _allowed(c[1], plan), watched, (carry, fresh))


def _allowed(offences: Offences, plan: Plan) -> Array:
    """Whether the warnings of the chunk so far are within the limit."""
    assert plan.warnings is not None, "there are offences only if the plan watches"
    return offences.total <= plan.warnings


def _no_offences(state) -> Offences:
    zero, N = jnp.zeros((), jnp.int32), len(state.position)
    volume = jnp.zeros((), state.position.dtype)
    return Offences(zero, zero, zero, zero, jnp.zeros_like(state.position), volume, jnp.zeros((N,), jnp.int32))


def _noted(ensemble, offences: Offences, state, outside) -> Offences:
    """With the warnings of one more step. Sums stop at the largest int32 instead of wrapping around."""
    count = jnp.sum(outside, dtype=jnp.int32)
    taken = offences.taken + 1
    first = (count > 0) & (offences.step == 0)
    now = (taken, state.position, _volume(ensemble, state), outside)
    kept = (offences.step, offences.positions, offences.volume, offences.outside)
    block, total = (n + jnp.minimum(count, MOST - n) for n in (offences.count, offences.total))
    return Offences(block, total, taken, *(jnp.where(first, a, b) for a, b in zip(now, kept, strict=True)))


def _volume(ensemble, state) -> Array:
    """Of the box where it changes, else 0."""
    return jnp.linalg.det(state.box) if ensemble == "npt" else jnp.zeros((), state.position.dtype)


def _box(state) -> Array:
    """Of one system; jax-md makes it from the first box and the barostat's position."""
    return state.box


def _approach(state, dt):
    """By how much two atoms may approach each other during the next step, in A."""
    speed = jnp.sqrt(jnp.max(jnp.sum((state.momentum / state.mass) ** 2, axis=-1)))
    return 2.2 * speed * dt


def _record(ensemble, state, seen, bath) -> Record:
    dtype = state.position.dtype
    KE = jnp.sum(state.momentum**2 / state.mass) / 2
    V = _volume(ensemble, state)
    values = (seen[0], KE, bath_energy(ensemble, state, bath), seen[1], V)
    return Record(*[jnp.asarray(v, dtype) for v in values])


def _fine(ensemble, state, record, limits):
    """Whether energies are finite, and the limits are kept."""
    fine = jnp.isfinite(record.potential + record.kinetic) & (record.kinetic < limits.kinetic)
    if ensemble == "npt":
        fine &= state.box_position > limits.log_scale
    return fine
