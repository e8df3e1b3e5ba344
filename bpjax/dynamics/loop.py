"""The compiled inner loop: some thousand steps of a jax-md integrator with list updates, records and frames.

One evaluation of the potential serves a step and its record. Nothing raises in here; the loop stops early and says why in
its flags, and the host acts on them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from bpjax.dynamics.ensembles import Bath, bath_energy, step_fn


class Record(NamedTuple):
    """Thermodynamics after a step, in eV and A^3; the potential energy is relative to the model's offsets."""

    potential: Array
    kinetic: Array
    bath: Array
    virial: Array
    volume: Array


class Buffers(NamedTuple):
    """What a chunk hands to the host: one record per block, one frame (positions, momenta) per slot."""

    records: Record
    positions: Array
    momenta: Array


class Plan(NamedTuple):
    """Length of a chunk; traced, so that chunks of all lengths share one program.

    `blocks` blocks of `steps` steps; every `blocks_per_frame` blocks make a frame, `phase` of which lie before the chunk.
    """

    blocks: Array
    steps: Array
    blocks_per_frame: Array
    phase: Array


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
) -> Callable:
    """The function that runs a chunk, to be compiled.

    Args:
      ensemble: see `bpjax.dynamics.ensembles`.
      predict_fn: energy, forces, virial: `bpjax.dynamics.jaxmd.prediction_fn`.
      shift_fn: jax-md's shift without wrapping.
      limits: where to stop.
      blocks: largest number of blocks in a chunk.
      frames: largest number of frames that a chunk completes.

    Returns: `chunk(state, seen, neighbors, bath, plan) -> ((state, seen), neighbors, buffers, blocks done, fine)`; `seen` is
    potential energy and trace of the virial of the state.
    """

    def chunk(state: Any, seen: tuple[Array, Array], neighbors: Any, bath: Bath, plan: Plan):
        def evaluate(R, **kwargs):
            prediction = predict_fn(R, **kwargs)
            return prediction.forces, (prediction.energy, jnp.trace(prediction.virial))

        apply = step_fn(ensemble, bath, evaluate, shift_fn)

        def step(_, carry):
            state, neighbors, seen = carry
            state, seen = apply(state, neighbors, seen)
            named = {"box": state.box} if ensemble == "npt" else {}
            neighbors = neighbors.update(state.position, margin=_approach(state, bath.dt), **named)
            return state, neighbors, seen

        def block(carry):
            state, neighbors, out, seen, done, _ = carry
            state, neighbors, seen = jax.lax.fori_loop(0, plan.steps, step, (state, neighbors, seen))
            record = _record(ensemble, state, seen, bath)
            fine = _fine(ensemble, state, neighbors, record, limits)
            slot = jnp.where(fine, (plan.phase + done) // plan.blocks_per_frame, len(out.positions) - 1)
            out = Buffers(
                jax.tree.map(lambda b, r: b.at[done].set(r), out.records, record),
                out.positions.at[slot].set(state.position),
                out.momenta.at[slot].set(state.momentum),
            )
            return state, neighbors, out, seen, done + 1, fine

        with jax.default_matmul_precision("highest"):
            buffers = _empty_buffers(blocks, frames, len(state.position), state.position.dtype)
            carry = (state, neighbors, buffers, seen, jnp.zeros((), jnp.int32), jnp.ones((), bool))
            state, neighbors, out, seen, done, fine = jax.lax.while_loop(
                lambda c: (c[4] < plan.blocks) & c[5], block, carry
            )
        return (state, seen), neighbors, out, done, fine

    return chunk


def _empty_buffers(blocks: int, frames: int, atoms: int, dtype) -> Buffers:
    """Buffers for so many blocks and frames; one more slot takes the states that must not be kept."""
    none = jnp.zeros((blocks,), dtype)
    coordinates = jnp.zeros((frames + 1, atoms, 3), dtype)
    return Buffers(Record(*[none] * len(Record._fields)), coordinates, coordinates)


def _approach(state, dt):
    """By how much two atoms may approach each other during the next step, in A."""
    speed = jnp.sqrt(jnp.max(jnp.sum((state.momentum / state.mass) ** 2, axis=-1)))
    return 2.2 * speed * dt


def _record(ensemble, state, seen, bath) -> Record:
    dtype = state.position.dtype
    KE = jnp.sum(state.momentum**2 / state.mass) / 2
    V = jnp.linalg.det(state.box) if ensemble == "npt" else jnp.zeros((), dtype)
    values = (seen[0], KE, bath_energy(ensemble, state, bath), seen[1], V)
    return Record(*[jnp.asarray(v, dtype) for v in values])


def _fine(ensemble, state, neighbors, record, limits):
    fine = jnp.isfinite(record.potential + record.kinetic) & (record.kinetic < limits.kinetic)
    if ensemble == "npt":
        fine &= state.box_position > limits.log_scale
    return fine & ~neighbors.did_buffer_overflow
