r"""Search for the lowest point of the seam on which two states have one energy.

A step from a geometry with gap :math:`\Delta` solves

.. math:: \min_x\; s \cdot x + \tfrac12 x^T B x, \qquad 2 g \cdot x = -\Delta, \quad h \cdot x = 0

with g, h, s of `bpjax.excited.couplings` and B the BFGS matrix of the Lagrangian, the mean energy less multipliers times the
constraints: the seam is curved, and without the second derivatives of the constraints steps along it overshoot. Their first
derivatives at two geometries are compared after the two states of one have been rotated into those of the other. The first
constraint closes the gap, the second keeps it closed; the rest moves down along the seam. This is the gradient projection with
Newton steps in both spaces. A step is taken if the mean energy plus a multiple of the gap is below the highest of the last
few; if not, a shorter one is tried.

References: M. J. Bearpark, M. A. Robb, H. B. Schlegel, Chem. Phys. Lett. 223, 269 (1994), doi:10.1016/0009-2614(94)00433-1;
J. Nocedal, S. J. Wright, Numerical Optimization, ch. 15 and 18 (sequential quadratic programming, exact penalty,
non-monotone acceptance, damped BFGS).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bpjax.excited.adiabatic import Diabatic, adiabatic, require_real, to_adiabatic
from bpjax.excited.couplings import BranchingPlane, branching_plane, orthogonalised
from bpjax.excited.gauge import parallel_transport
from bpjax.spec import check, check_seed, register

MEMORY = 5
"""The number of steps with which a step is compared. Demanding descent at each would turn away good steps along a curved seam."""


@register
@dataclass(frozen=True, kw_only=True)
class IntersectionOptions:
    """Options of the search, in the units of the model.

    Attributes:
      steps: at most so many.
      gap: largest gap at the end.
      slope: largest norm of the mean gradient along the seam at the end.
      stride: longest step.
      stiffness: first guess of the second derivatives of the Lagrangian.
      starts: number of searches, in one program; the first begins where it is told to, the others beside it. A search that begins
        at a symmetric geometry stays symmetric, also where the seam goes down towards lower symmetry.
      spread: standard deviation of the coordinates of the other starts.
      seed: of their random numbers.

    Raises:
      ValueError: an option out of range.
    """

    steps: int = 300
    gap: float = 1e-6
    slope: float = 1e-3
    stride: float = 0.1
    stiffness: float = 20.0
    starts: int = 4
    spread: float = 0.05
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "starts"):
            value = getattr(self, name)
            check(value >= 1, f"IntersectionOptions {name}", value, "must be at least 1")
        for name in ("gap", "slope", "stride", "stiffness", "spread"):
            value = getattr(self, name)
            check(math.isfinite(value) and value > 0, f"IntersectionOptions {name}", value, "must be positive")
        check_seed(self.seed, "IntersectionOptions seed")


class Intersection(NamedTuple):
    """Where a search ended.

    Attributes:
      R: coordinates.
      energies: of all states.
      gap: between the two.
      slope: norm of the mean gradient along the seam.
      plane: g and h, perpendicular, and s.
      steps: how many were made.
      converged: whether gap and slope are below their limits.
    """

    R: Float[Array, "*R"]
    energies: Float[Array, " S"]
    gap: Float[Array, ""]
    slope: Float[Array, ""]
    plane: BranchingPlane
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


class _Point(NamedTuple):
    """The two states at a geometry: columns in the diabatic basis (S, 2), gradients between them (2, 2, D)."""

    x: Array
    mean: Array
    gap: Array
    states: Array
    block: Array


class _Search(NamedTuple):
    """A search under way; `means` and `gaps` are those of the last few points, in any order."""

    point: _Point
    B: Array
    slope: Array
    stride: Array
    means: Array
    gaps: Array
    step: Array


def minimum_energy_intersection(
    model: Diabatic,
    R: Float[Array, "*R"],
    i: int = 0,
    j: int = 1,
    options: IntersectionOptions | None = None,
) -> Intersection:
    """Searches the minimum of the seam of states i < j near a geometry; can be jitted, and vmapped over geometries.

    Of several searches (option `starts`) that converge the one of lowest energy counts.

    Args:
      model: any real diabatic model, for a molecule with positions (N, 3) in A.
      R: where to start, best on the side of the intersection that is wanted.
      i, j: the two states.
      options: limits and steps.

    Raises:
      ValueError: states that the model does not have, or a complex model.
    """
    options = options or IntersectionOptions()
    matrix = jax.eval_shape(model, R)
    require_real(matrix, "minimum_energy_intersection")
    if not 0 <= i < j < matrix.shape[0]:
        raise ValueError(f"minimum_energy_intersection i={i}, j={j}: two states i < j of {matrix.shape[0]}")
    beside = options.spread * jax.random.normal(jax.random.PRNGKey(options.seed), (options.starts - 1, R.size), R.dtype)
    starts = jnp.concatenate([R.reshape(1, -1), R.reshape(1, -1) + beside])
    ends = jax.vmap(partial(_searched, partial(_look, model, R.shape, i, j), options))(starts)
    best = jnp.argmin(_rank(ends, options))
    last = jax.tree.map(lambda leaf: leaf[best], ends)
    R = last.point.x.reshape(R.shape)
    result = adiabatic(model, R)
    plane = orthogonalised(branching_plane(result, i, j))
    return Intersection(R, result.energies, last.point.gap, last.slope, plane, last.step, _converged(last, options))


def _converged(state: _Search, options: IntersectionOptions):
    return (state.point.gap <= options.gap) & (state.slope <= options.slope)


def _rank(ends: _Search, options: IntersectionOptions):
    """Lower is better: the mean energy of searches that converged, before all others."""
    mean, gap = ends.point.mean, ends.point.gap
    good = _converged(ends, options)
    rest = jnp.where(jnp.isfinite(mean + gap), mean + gap, jnp.inf)
    return jnp.where(good.any(), jnp.where(good, mean, jnp.inf), rest)


def _searched(look, options: IntersectionOptions, x) -> _Search:
    """The last state of one search."""
    start = look(x)
    past = jnp.full(MEMORY, -jnp.inf, x.dtype)
    first = _Search(
        start,
        options.stiffness * jnp.eye(x.size, dtype=x.dtype),
        _slope(start),
        jnp.asarray(options.stride, x.dtype),
        past.at[0].set(start.mean),
        past.at[0].set(start.gap),
        jnp.zeros((), jnp.int32),
    )

    def unfinished(state: _Search):
        return (state.step < options.steps) & jnp.isfinite(state.slope) & ~_converged(state, options)

    return jax.lax.while_loop(unfinished, partial(_advanced, look, options.stride), first)


def _look(model, shape, i, j, x) -> _Point:
    result = adiabatic(model, x.reshape(shape))
    pair = jnp.array([i, j])
    E, block = result.energies[pair], result.interstate[pair][:, pair]
    return _Point(x, E.mean(), E[1] - E[0], result.states[:, pair], block.reshape(2, 2, -1))


def _constraints(block):
    """Gradients of gap and coupling (2, D), and of the mean energy (D,)."""
    return jnp.stack([block[1, 1] - block[0, 0], block[0, 1]]), 0.5 * (block[0, 0] + block[1, 1])


def _slope(point: _Point):
    """Norm of the mean gradient along the seam."""
    A, s = _constraints(point.block)
    return jnp.linalg.norm(s - jnp.linalg.pinv(A) @ (A @ s))


def _advanced(look, longest: float, state: _Search) -> _Search:
    """The state after one more trial step, taken or not."""
    old = state.point
    dx = _step(old, state.B, state.stride)
    new = look(old.x + dx)
    # The two states of the new geometry, rotated until they resemble the old ones: only then are differences derivatives.
    turned = new.states.T @ parallel_transport(new.states, old.states)
    (A, s), (A0, s0) = _constraints(to_adiabatic(new.block, turned)), _constraints(old.block)
    multipliers = jnp.linalg.pinv(A.T) @ s
    B = _updated(state.B, dx, (s - multipliers @ A) - (s0 - multipliers @ A0))
    weight = 0.5 + 1.5 * jnp.hypot(multipliers[0], 0.5 * multipliers[1])
    rounding = 10 * jnp.finfo(dx.dtype).eps * jnp.abs(new.mean)
    taken = new.mean + weight * new.gap <= jnp.max(state.means + weight * state.gaps) + rounding
    point = jax.tree.map(partial(jnp.where, taken), new, old)
    stride = jnp.where(
        taken, jnp.minimum(2 * state.stride, longest), 0.5 * jnp.minimum(jnp.linalg.norm(dx), state.stride)
    )
    at = state.step % MEMORY
    means, gaps = state.means.at[at].set(point.mean), state.gaps.at[at].set(point.gap)
    return _Search(point, B, _slope(point), stride, means, gaps, state.step + 1)


def _step(point: _Point, B, stride):
    """Newton step to the seam and along it, each shortened to the stride."""
    A, s = _constraints(point.block)
    inverse = jnp.linalg.pinv(A)
    one = jnp.eye(len(s), dtype=s.dtype)
    along = one - inverse @ A
    closing = -inverse[:, 0] * point.gap
    closing = closing * jnp.minimum(1.0, stride / jnp.maximum(jnp.linalg.norm(closing), 1e-30))
    inner = along @ B @ along + (one - along)
    down = -along @ jnp.linalg.solve(inner, along @ (s + B @ closing))
    down = down * jnp.minimum(1.0, stride / jnp.maximum(jnp.linalg.norm(down), 1e-30))
    return closing + down


def _updated(B, dx, y):
    """Damped BFGS: stays positive definite whatever the curvature."""
    Bx = B @ dx
    curvature, along = dx @ Bx, dx @ y
    mix = jnp.where(
        along < 0.2 * curvature, 0.8 * curvature / jnp.where(curvature > along, curvature - along, 1.0), 1.0
    )
    r = mix * y + (1 - mix) * Bx
    moved = (curvature > 0) & (dx @ r > 0)
    safe_c, safe_r = jnp.where(moved, curvature, 1.0), jnp.where(moved, dx @ r, 1.0)
    return jnp.where(moved, B - jnp.outer(Bx, Bx) / safe_c + jnp.outer(r, r) / safe_r, B)
