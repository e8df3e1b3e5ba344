r"""Surface hopping: the state of trajectories and one step of them, pure functions for `jit`, `vmap` and `scan`.

Nuclei move on the active state, :math:`F = -\langle k | \nabla H | k \rangle`. Amplitudes are kept in
the diabatic basis, :math:`C = U c`: what a step needs of the adiabatic states it makes anew, so that their phases are
forgotten and nothing can depend on them. Nothing raises in here: a trajectory that cannot go on gets a mark
of `hopping_marks` and stays where it was; `hopping_run` raises.

With an energy tolerance every trajectory has a clock of its own: its step is divided into :math:`2^\text{level}` parts, one of
which `attempt` tries. A part that changes the total energy too much is taken back and tried with half the length. At a cone,
where the force of a state turns within a length that nothing but the distance of the passage sets, no fixed step is short enough.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int, UInt32

from bpjax.excited.adiabatic import Diabatic
from bpjax.excited.eigen import degenerate_pairs
from bpjax.excited.frames import frame, interstate_vector, mean_gradient, state_gradient, time_couplings
from bpjax.excited.hopping_amplitudes import (
    ElectronicStep,
    by_coupling,
    chosen,
    decohered,
    landau_zener_probability,
    local_diabatisation,
    swapped_order,
)
from bpjax.excited.hopping_marks import ASTRAY, DRIFTED, NO_DIRECTION, NOT_FINITE, TOO_STEEP
from bpjax.excited.hopping_options import HoppingOptions
from bpjax.excited.hopping_velocities import internal_velocity, kinetic_energy, rescaled
from bpjax.excited.hopping_watch import NEVER, Watch, Watched, looked
from bpjax.excited.integrators import SCHEMES
from bpjax.units import HARTREE

HALVINGS = 12
"""Of a step, at most; what is left of an error then is accepted."""

PARTS = 2**HALVINGS
"""Shortest parts of a step."""

SHARE = 0.05
"""Part of the energy tolerance by which a single part of a step may change the total energy."""


class HopLog(NamedTuple):
    """Attempted hops of a trajectory since the log was last emptied; slots beyond `count` are meaningless.

    Attributes:
      count: attempts, also those beyond the slots.
      step: number of the step.
      source, target: states.
      gap: energy of the target less that of the source.
      accepted: whether there was energy enough.
    """

    count: Int[Array, "*T"]
    step: Int[Array, "*T L"]
    source: Int[Array, "*T L"]
    target: Int[Array, "*T L"]
    gap: Float[Array, "*T L"]
    accepted: Bool[Array, "*T L"]


class HoppingState(NamedTuple):
    """Where trajectories are; a leading axis T outside of this file.

    Attributes:
      R, v: coordinates and velocities.
      E, U: energies and states there.
      earlier: energies one step before, for gaps in time.
      force: on the nuclei.
      C: amplitudes in the diabatic basis.
      active: state whose force acts.
      key: random numbers; they depend on it and on the time alone.
      step: number of steps done.
      part: how much of the next one is done, in units of 1/`PARTS`.
      level: halvings of the step, with an energy tolerance.
      outcome: 0, or -1 and 1 for a trajectory that left the region at its lower or upper end.
      mark: 0, or why the trajectory cannot go on.
      energy: total energy at the start.  drift: largest deviation from it so far.
      watched: what was seen of its geometries.
      log: attempted hops.
    """

    R: Float[Array, "*T R"]
    v: Float[Array, "*T R"]
    E: Float[Array, "*T S"]
    U: Inexact[Array, "*T S S"]
    earlier: Float[Array, "*T S"]
    force: Float[Array, "*T R"]
    C: Complex[Array, "*T S"]
    active: Int[Array, "*T"]
    key: UInt32[Array, "*T 2"]
    step: Int[Array, "*T"]
    part: Int[Array, "*T"]
    level: Int[Array, "*T"]
    outcome: Int[Array, "*T"]
    mark: Int[Array, "*T"]
    energy: Float[Array, "*T"]
    drift: Float[Array, "*T"]
    watched: Watched
    log: Any  # HopLog; None inside a step


class Attempt(NamedTuple):
    """A step before its hop: the new state, and the state to hop to (the active one for none)."""

    state: HoppingState
    target: Int[Array, ""]


def potential_energy(state: HoppingState, options: HoppingOptions) -> Float[Array, ""]:
    """Energy of the active state, or of the mean field of Ehrenfest dynamics; one trajectory."""
    if options.method != "ehrenfest":
        return state.E[state.active]
    return jnp.sum(jnp.abs(state.U.conj().T @ state.C) ** 2 * state.E)


# ------------------------------------------------------------------------------------------------ the step


class Moved(NamedTuple):
    """Nuclei after a step, with the frame there; the state that has the character of the active one, amplitudes (Ehrenfest's)."""

    R: Float[Array, "*R"]
    v: Float[Array, "*R"]
    force: Float[Array, "*R"]
    E: Float[Array, " S"]
    U: Inexact[Array, "S S"]
    now: Int[Array, ""]
    C: Complex[Array, " S"]


def move_nuclei(
    model: Diabatic, masses: Float[Array, "*R"], options: HoppingOptions, s: HoppingState, h: Float[Array, ""]
) -> Moved:
    """The nuclei a time h on, by the kicks and drifts of the integrator; for one trajectory."""
    scheme = SCHEMES[options.integrator]

    def stage(m: Moved, ab):
        a, b = ab
        R = m.R + a * h * m.v
        at = frame(model, R)
        now, C = m.now, m.C
        if options.method == "ehrenfest":
            phase, T = a * h / options.unit_values.hbar, m.U.conj().T @ at.U
            C = at.U @ local_diabatisation(m.E, at.E, T, m.U.conj().T @ C, now, now, phase).c
            force = -mean_gradient(at, C)
        else:
            if options.follows_character:
                now = _followed(options, m.U, at.U, now)
            force = -state_gradient(at, now)
        return Moved(R, m.v + b * h * force / masses, force, at.E, at.U, now, C), None

    m = Moved(s.R, s.v + scheme.kicks[0] * h * s.force / masses, s.force, s.E, s.U, s.active, s.C)
    stages = tuple(zip(scheme.drifts, scheme.kicks[1:], strict=True))
    if len(stages) == 1:
        return stage(m, stages[0])[0]
    return jax.lax.scan(stage, m, jnp.asarray(stages, s.R.dtype))[0]  # compiled once for all stages


def _followed(options: HoppingOptions, U0, U1, k):
    """The state after that has the character of k before; with couplings pairs that swap, so that all states keep an order."""
    if options.amplitudes == "coupling":
        return swapped_order(U0, U1)[k].astype(k.dtype)
    return jnp.argmax(jnp.abs(U0.conj().T @ U1)[k]).astype(k.dtype)


def move(
    model: Diabatic,
    masses: Float[Array, "*R"],
    options: HoppingOptions,
    s: HoppingState,
    h: Float[Array, ""],
    goes: Bool[Array, ""],
) -> Attempt:
    """Everything of a step of length h up to the choice of a hop, for one trajectory; hops are tried by those that go."""
    m = move_nuclei(model, masses, options, s, h)
    new = s._replace(R=m.R, v=m.v, force=m.force, E=m.E, U=m.U, earlier=s.E)
    if options.method == "ehrenfest":
        return Attempt(new._replace(C=m.C), s.active)
    T = s.U.conj().T @ m.U
    c, k, now = s.U.conj().T @ s.C, s.active, m.now
    if options.amplitudes == "coupling":
        electronic = _by_coupling(model, options, s, m, h, T, c)
    else:
        electronic = local_diabatisation(s.E, m.E, T, c, k, now, h / options.unit_values.hbar)
    new = new._replace(C=m.U @ electronic.c, active=now)
    if not options.hops:
        return Attempt(new, now)
    random = _uniform(options, s)
    if options.method == "landau_zener":
        P = landau_zener_probability(s.earlier, s.E, m.E, k, options.dt, options.unit_values.hbar)
        P = jnp.where(s.step > 0, P, 0.0)  # the first step knows two gaps only
        target = chosen(P, k, random)
    else:
        target = chosen(electronic.probability, now, random)
    return Attempt(new, jnp.where(goes, target, now).astype(k.dtype))


def running(s: HoppingState) -> Bool[Array, "*T"]:
    """Whether a trajectory goes on."""
    return (s.mark == 0) & (s.outcome == 0)


def _by_coupling(model, options, s, m: Moved, h, T, c) -> ElectronicStep:
    """Tully's amplitudes: the couplings of both ends of the step with the phases and the order of its beginning."""
    order = swapped_order(s.U, m.U) if options.follows_character else jnp.arange(T.shape[0])
    sign = jnp.where(jnp.diagonal(T[:, order]) < 0, -1.0, 1.0).astype(T.dtype)
    U1, E1 = m.U[:, order] * sign, m.E[order]
    sigma0 = time_couplings(model, s.R, s.v, s.E, s.U)
    sigma1 = time_couplings(model, m.R, m.v, E1, U1)
    phase = h / options.unit_values.hbar
    step = by_coupling(s.E, E1, sigma0, sigma1, c, s.active, phase, h, options.substeps)
    back = jnp.argsort(order)  # to the order by energy after the step
    return ElectronicStep((step.c * sign)[back], step.probability[back])


def hop(model: Diabatic, masses: Float[Array, "*R"], options: HoppingOptions, attempt: Attempt) -> HoppingState:
    """Carries out the hop of a step, or refuses it; without an attempt nothing changes. For one trajectory."""
    s, k, target = attempt.state, attempt.state.active, attempt.target
    tried = target != k
    at = frame(model, s.R)
    # The basis of degenerate states is the library's whim: the states are those of the move.
    at = at._replace(E=s.E, U=s.U)
    force = -state_gradient(at, target)
    if options.rescale == "coupling":
        u = interstate_vector(at, k, target)
    elif options.rescale == "gradients":
        u = s.force - force
    else:
        u = masses * (internal_velocity(s.R, s.v, masses) if options.rescale == "velocity" else s.v)
    gap = s.E[target] - s.E[k]
    paid = rescaled(s.v, masses, u, gap)
    free = degenerate_pairs(s.E)[k, target]  # Kramers pairs do not couple at all, and cost nothing
    accepted = tried & (paid.accepted | free)
    kept = s.v
    if options.frustrated == "reverse":
        kept = paid.reversed
    elif options.frustrated == "gradient":
        pushes_back = jnp.sum(s.v * u) * jnp.sum(force * u / masses) < 0
        kept = jnp.where(pushes_back, paid.reversed, s.v)
    v = jnp.where(accepted, jnp.where(free, s.v, paid.velocity), jnp.where(tried, kept, s.v))
    mark = jnp.where(tried & ~paid.directed & ~free, NO_DIRECTION, s.mark)
    return s._replace(
        v=v,
        force=jnp.where(accepted, force, s.force),
        active=jnp.where(accepted, target, k),
        mark=mark.astype(s.mark.dtype),
        log=_logged(s.log, tried & (paid.directed | free), s.step + 1, k, target, gap, accepted),
    )


def _logged(log: HopLog, tried, step, source, target, gap, accepted) -> HopLog:
    """One more entry where a hop was tried; what does not fit is counted."""
    here = tried & (jnp.arange(log.step.shape[0]) == log.count)

    def put(slots, value):
        return jnp.where(here, value.astype(slots.dtype), slots)

    return HopLog(
        log.count + tried.astype(log.count.dtype),
        put(log.step, step),
        put(log.source, source),
        put(log.target, target),
        put(log.gap, gap),
        put(log.accepted, accepted),
    )


def finish(
    masses: Float[Array, "*R"],
    options: HoppingOptions,
    watch: Watch | None,
    old: HoppingState,
    s: HoppingState,
    h: Float[Array, ""],
    goes: Bool[Array, ""],
) -> HoppingState:
    """Thermostat, decoherence, marks, ends; for one trajectory. One that does not go stays as it was."""
    units = options.unit_values
    v = s.v
    if options.friction_per_fs:
        # The Ornstein-Uhlenbeck part of Langevin dynamics, exact for the whole step.
        keep = jnp.exp(jnp.asarray(-options.friction_per_fs * options.timestep_fs, v.dtype))
        noise = jax.random.normal(_step_key(options, s), v.shape, v.dtype)
        v = keep * v + jnp.sqrt((1 - keep**2) * units.boltzmann * options.temperature / masses) * noise
    kinetic, C = kinetic_energy(v, masses), s.C
    if options.decoherence == "energy" and options.hops:
        c = decohered(
            s.U.conj().T @ C,
            s.E,
            s.active,
            kinetic,
            h / units.hbar,
            options.decoherence_hartree * units.hartree,
        )
        C = s.U @ c
    new = s._replace(v=v, C=C)
    total = kinetic + potential_energy(new, options)
    drift = jnp.maximum(new.drift, jnp.abs(total - new.energy))
    new = new._replace(drift=drift, outcome=_outcome(options, new))
    fine = jnp.isfinite(total)
    limited = options.max_drift_ev > 0 and not options.friction_per_fs
    far = drift > (_of_ev(options.max_drift_ev, options) + _rounding(total, new.energy) if limited else jnp.inf)
    for values in (new.R, new.v, new.force, new.E, jnp.abs(new.C)):
        fine = fine & jnp.all(jnp.isfinite(values))
    part, level, good, steep = _clock(masses, options, old, total)
    fine = fine | ~good  # a part that is taken back may have gone anywhere
    new = new._replace(part=part % PARTS, step=s.step + part // PARTS)
    watched = looked(watch, options, old.watched, new.R, old.step + 1, new.part == 0)
    held = jnp.where(steep, TOO_STEEP, jnp.where(far, DRIFTED, s.mark))
    if options.astray == "lose":
        held = jnp.where((held == 0) & (watched.astray < NEVER), ASTRAY, held)
    mark = jnp.where(good, jnp.where(fine, held, NOT_FINITE), old.mark)
    mark = jnp.where(goes, mark, old.mark).astype(old.mark.dtype)
    go = goes & good & (mark == 0)
    # The log has entries of running trajectories only, and is too long to be copied at every step.
    kept = jax.tree.map(lambda a, b: jnp.where(go, a, b), new._replace(log=None), old._replace(log=None))
    log = s.log._replace(count=jnp.where(goes & good, s.log.count, old.log.count))
    seen = jax.tree.map(lambda a, b: jnp.where(goes & good & fine, a, b), watched, old.watched)
    return kept._replace(mark=mark, level=jnp.where(goes, level, old.level), watched=seen, log=log)


def _of_ev(energy: float, options: HoppingOptions) -> float:
    """An energy in eV in the units of the model."""
    return energy / HARTREE * options.unit_values.hartree


def _rounding(one, other):
    """Difference of two energies that is none."""
    return 64 * jnp.finfo(one.dtype).eps * (jnp.abs(one) + jnp.abs(other))


def _clock(masses, options: HoppingOptions, old: HoppingState, total):
    """Part of the step done after this one, halvings of the next attempt, whether this one stands, and whether it should not."""
    size = PARTS >> old.level
    tolerance = options.tolerance_ev(total.dtype)
    if not tolerance:
        return old.part + size, old.level, jnp.ones((), bool), jnp.zeros((), bool)
    allowed = _of_ev(tolerance, options)
    before = kinetic_energy(old.v, masses) + potential_energy(old, options)
    change = jnp.abs(total - before)
    rounding = _rounding(total, before)
    good = (change <= jnp.maximum(SHARE * allowed, rounding)) | (jnp.abs(total - old.energy) <= 0.5 * allowed)
    finest = old.level >= HALVINGS
    good, steep = good | finest, finest & (change > 100 * allowed)
    # An error of fifth order, that of a fourth-order step, grows by 32 when the step is doubled.
    part = old.part + size
    wider = (change < SHARE * allowed / 32) & (part % (2 * size) == 0) & (old.level > 0)
    level = jnp.where(good, old.level - wider.astype(old.level.dtype), old.level + 1)
    return part, level, good, steep


def _outcome(options: HoppingOptions, s: HoppingState):
    if options.region is None:
        return s.outcome
    x, v = s.R.reshape(-1)[0], s.v.reshape(-1)[0]
    low, high = options.region
    left = jnp.where((x > high) & (v > 0), 1, jnp.where((x < low) & (v < 0), -1, 0))
    return left.astype(s.outcome.dtype)


def _step_key(options: HoppingOptions, s: HoppingState):
    key = jax.random.fold_in(jax.random.wrap_key_data(s.key, impl="threefry2x32"), s.step)
    return jax.random.fold_in(key, s.part) if options.tolerance_ev(s.R.dtype) else key


def _uniform(options: HoppingOptions, s: HoppingState):
    """A random number in [0, 1) that belongs to the trajectory and the time: the 64 bits of the step's key themselves.

    Another hash, as in `jax.random.uniform`, would take as long as all the rest of a step of a small model.
    """
    high, low = jax.random.key_data(_step_key(options, s)).astype(s.R.dtype)
    return (high + low * 2.0**-32) * 2.0**-32


def attempt(
    model: Diabatic,
    masses: Float[Array, "*R"],
    options: HoppingOptions,
    watch: Watch | None,
    s: HoppingState,
    until: Int[Array, " T"],
) -> HoppingState:
    """One step, or with an energy tolerance one part of a step, of a block of trajectories with leading axis T.

    The second gradient of a hop is computed only if one is tried. Trajectories that have done `until` steps stay as they are.
    """
    h = options.dt / jnp.asarray(2, s.R.dtype) ** s.level
    goes = running(s) & (s.step < until)
    moved = jax.vmap(lambda *a: move(model, masses, options, *a))(s, h, goes)
    after = moved.state
    if options.hops:
        carry_out = jax.vmap(lambda a: hop(model, masses, options, a))
        after = jax.lax.cond(jnp.any(moved.target != after.active), carry_out, lambda a: a.state, moved)
    return jax.vmap(lambda *a: finish(masses, options, watch, *a))(s, after, h, goes)
