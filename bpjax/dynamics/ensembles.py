"""The integrators of jax-md as one step function per ensemble, started and measured with the right degrees of freedom.

jax-md counts 3N degrees of freedom. Total momentum is conserved by its Nose-Hoover integrators, so 3N - 3 of them share the
heat: the thermostat chains started here say so, otherwise 8 atoms would be 14 % too hot. Its Langevin integrator heats the
centre of mass too and keeps 3N.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax_md import simulate
from jaxtyping import Array, Bool, Float

from bpjax.dynamics.lists import product

CHAIN = {"chain_length": 3, "chain_steps": 2, "sy_steps": 3}
"""Nose-Hoover chains: length, substeps, order of the Suzuki-Yoshida scheme."""


class Bath(NamedTuple):
    """What the surroundings impose, in natural units (eV, A, amu); traced, so that one compiled step serves all values."""

    dt: Array
    kT: Array
    pressure: Array
    thermostat_time: Array
    barostat_time: Array


def degrees_of_freedom(ensemble: str, atoms: int) -> int:
    """Momenta that share the heat: all of them under Langevin noise, else all but the total momentum."""
    return 3 * atoms if ensemble == "nvt_langevin" or atoms == 1 else 3 * atoms - 3


def start(ensemble: str, bath: Bath, position, momentum, mass, box, key):
    """State of the jax-md integrator; its forces are still zero (a first step with dt = 0 fills them in)."""
    R, p, m = jnp.asarray(position), jnp.asarray(momentum), jnp.asarray(mass)[:, None]
    none = jnp.zeros_like(p)
    if ensemble == "nve":
        return simulate.NVEState(R, p, none, m)  # pyright: ignore[reportCallIssue]
    if ensemble == "nvt_langevin":
        return simulate.NVTLangevinState(R, p, none, m, key)  # pyright: ignore[reportCallIssue]
    dof = degrees_of_freedom(ensemble, len(R))
    KE = jnp.sum(p**2 / m) / 2
    thermostat = _chain(bath.dt, bath.thermostat_time).initialize(dof, KE, bath.kT)
    if ensemble == "nvt":
        return simulate.NVTNoseHooverState(R, p, none, m, thermostat)  # pyright: ignore[reportCallIssue]
    zero = jnp.zeros((), R.dtype)
    box_mass = jnp.asarray((dof + 3) * bath.kT * bath.barostat_time**2, R.dtype)
    barostat = _chain(bath.dt, bath.barostat_time).initialize(1, zero, bath.kT)
    coupled = (jnp.asarray(box), zero, zero, box_mass, barostat, thermostat)
    return simulate.NPTNoseHooverState(R, p, none, m, *coupled)  # pyright: ignore[reportCallIssue]


def step_fn(ensemble: str, bath: Bath, evaluate: Callable, shift_fn: Callable) -> Callable:
    """One step, `step(state, neighbor, seen) -> (state, seen)`, with a single evaluation of the potential.

    Args:
      ensemble: one of `bpjax.dynamics.settings.ENSEMBLES`.
      bath: what the surroundings impose.
      evaluate: `evaluate(R, neighbor=..., box=...)`, forces and a summary of the other results.
      shift_fn: jax-md's shift, without wrapping.

    Returns: the step; `seen` is the summary that belongs to the state: potential energy and trace of the virial.
    """
    if ensemble == "npt":
        return partial(_npt_step, bath, evaluate)
    kept = []

    def force_fn(R, **kwargs):
        forces, summary = evaluate(R, **kwargs)
        kept[:] = [summary]
        return forces

    if ensemble == "nve":
        apply = simulate.nve(force_fn, shift_fn, bath.dt)[1]
    elif ensemble == "nvt":
        apply = simulate.nvt_nose_hoover(force_fn, shift_fn, bath.dt, bath.kT, tau=bath.thermostat_time, **CHAIN)[1]
    else:
        apply = simulate.nvt_langevin(force_fn, shift_fn, bath.dt, bath.kT, 1 / bath.thermostat_time)[1]
    # jax-md's own jit is taken off, so that the values that force_fn keeps belong to the trace of the loop around the step.
    apply = inspect.unwrap(apply)

    def step(state, neighbor, seen):
        state = apply(state, neighbor=neighbor)
        return state, kept.pop()

    return step


def _npt_step(bath: Bath, evaluate: Callable, state, neighbor, seen):
    r"""Isotropic Nose-Hoover barostat and thermostat, on jax-md's state and chains.

    .. math::
        \dot R = p/m + v_\varepsilon R, \quad \dot p = F - \alpha v_\varepsilon p, \quad
        \dot p_\varepsilon = \alpha \textstyle\sum p^2/m + \mathrm{tr} W - 3 P V, \quad
        \alpha = 1 + 3/N_f, \quad V = V_0 e^{3\varepsilon}

    In fractional coordinates the dilation of R is that of the box. `simulate.npt_nose_hoover` of jax-md 0.2.29 adds it to
    fractional positions as well, as if they were A, which strains the crystal against its own box, and it evaluates the
    potential twice a step: the reasons for this function.

    References: Martyna, Tobias, Klein, J. Chem. Phys. 101, 4177 (1994), doi:10.1063/1.467468; Tuckerman et al., J. Phys. A 39,
    5629 (2006), doi:10.1088/0305-4470/39/19/S18.
    """
    dt, kT = bath.dt, bath.kT
    m, W = state.mass, state.box_mass
    thermostat, barostat = _chain(dt, bath.thermostat_time), _chain(dt, bath.barostat_time)
    alpha = 1 + 3 / state.thermostat.degrees_of_freedom

    def push(p_box, p, box, trace):
        return p_box + dt / 2 * (alpha * jnp.sum(p**2 / m) + trace - 3 * bath.pressure * jnp.linalg.det(box))

    def kick(p, F, v_box):
        x = alpha * v_box * dt / 2
        return p * jnp.exp(-x) + dt / 2 * F * jnp.exp(-x / 2) * _sinhc(x / 2)

    p_box, bath_box = barostat.half_step(state.box_momentum, state.barostat, kT)
    p, bath_atoms = thermostat.half_step(state.momentum, state.thermostat, kT)
    p_box = push(p_box, p, state.box, seen[1])
    p = kick(p, state.force, p_box / W)
    x = p_box / W * dt
    state = state.set(box_position=state.box_position + x)
    dR = dt * p / m * jnp.exp(x / 2) * _sinhc(x / 2)
    R = state.position + product(jnp.linalg.inv(state.box), dR)
    F, seen = evaluate(R, neighbor=neighbor, box=state.box)
    p = kick(p, F, p_box / W)
    p_box = push(p_box, p, state.box, seen[1])
    bath_atoms = bath_atoms.set(kinetic_energy=jnp.sum(p**2 / m) / 2)
    bath_box = bath_box.set(kinetic_energy=p_box**2 / (2 * W))
    p, bath_atoms = thermostat.half_step(p, bath_atoms, kT)
    p_box, bath_box = barostat.half_step(p_box, bath_box, kT)
    state = state.set(position=R, momentum=p, force=F, box_momentum=p_box, barostat=bath_box, thermostat=bath_atoms)
    return state, seen


def _sinhc(x: Array) -> Array:
    """sinh(x)/x for the small x of a time step."""
    return 1 + x**2 / 6 * (1 + x**2 / 20 * (1 + x**2 / 42))


def bath_energy(ensemble: str, state, bath: Bath) -> Array:
    """What must be added to potential and kinetic energy to give the conserved quantity (0 where there is none)."""
    if ensemble == "nvt":
        return _chain_energy(state.chain, bath.kT)
    if ensemble == "npt":
        box = state.box_momentum**2 / (2 * state.box_mass) + bath.pressure * jnp.linalg.det(state.box)
        return box + _chain_energy(state.thermostat, bath.kT) + _chain_energy(state.barostat, bath.kT)
    return jnp.zeros((), state.position.dtype)


def _chain(dt, tau):
    return simulate.nose_hoover_chain(dt, **CHAIN, tau=tau)


def _chain_energy(chain, kT):
    """Energy of a Nose-Hoover chain; its first link weighs as much as the degrees of freedom that it heats."""
    links = chain.position.at[0].set(chain.degrees_of_freedom * chain.position[0])
    return jnp.sum(chain.momentum**2 / (2 * chain.mass) + kT * links)


AXIS = "members"
"""Name of the axis over which a batch of systems is mapped; see `each`."""


class Members(NamedTuple):
    """What distinguishes the systems of a batch beside their states.

    Attributes:
      dof: degrees of freedom that share the heat.
      real: which rows of the padded arrays are atoms; None where all are.
    """

    dof: Float[Array, " R"]
    real: Bool[Array, "R N"] | None


def each(members: Members | None, function: Callable, *, moves: bool = False) -> Callable:
    """A function of the state (and more) of one system, for all members of a batch; without members, as it is.

    Args:
      members: of the batch. Arguments and results of the function have a leading axis for them.
      function: `function(state, ...)`; on the axis `AXIS`.
      moves: whether it returns a state, and something more; rows that are no atoms then stay where they are.
    """
    if members is None:
        return function

    def one(member: Members, state, *rest):
        result = function(with_dof(state, _Traced(member.dof)), *rest)
        if not moves:
            return result
        after = with_dof(result[0], 0)
        if member.real is not None:
            real = member.real[:, None]
            after = after.set(
                position=jnp.where(real, after.position, state.position),
                momentum=jnp.where(real, after.momentum, state.momentum),
            )
        return after, *result[1:]

    return lambda *arguments: jax.vmap(one, axis_name=AXIS)(members, *arguments)


def with_dof(state: Any, dof: Any) -> Any:
    """The state with another number of degrees of freedom in the thermostat of its atoms, if it has one."""
    chains = {name: getattr(state, name) for name in ("chain", "thermostat") if hasattr(state, name)}
    return state.set(**{name: chain.set(degrees_of_freedom=dof) for name, chain in chains.items()}) if chains else state


class _Traced:
    """A traced number of degrees of freedom, where jax-md has a static one: members of a batch then may differ."""

    def __init__(self, dof: Array):
        self.dof = dof

    def __deepcopy__(self, memo):
        return self  # jax-md copies what it holds static, and would no longer find it equal

    def __jax_array__(self):
        return self.dof

    def __mul__(self, other):
        return self.dof * other

    def __rtruediv__(self, other):
        return other / self.dof
