r"""Search for the lowest point of the seam on which two states have one energy.

A step from a geometry with gap :math:`\Delta` solves

.. math:: \min_x\; s \cdot x + \tfrac12 x^T B x, \qquad 2 g \cdot x = -\Delta, \quad h \cdot x = 0

with g, h, s of `bpjax.excited.couplings` and B the BFGS matrix of the mean energy, which is smooth on the seam too. The first
constraint closes the gap, the second keeps it closed; the rest moves down along the seam. This is the gradient projection with
Newton steps in both spaces.

References: M. J. Bearpark, M. A. Robb, H. B. Schlegel, Chem. Phys. Lett. 223, 269 (1994), doi:10.1016/0009-2614(94)00433-1;
J. Nocedal, S. J. Wright, Numerical Optimization, ch. 18 (sequential quadratic programming, damped BFGS).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bpjax.excited.adiabatic import Diabatic, adiabatic, require_real
from bpjax.excited.couplings import BranchingPlane, branching_plane, orthogonalised
from bpjax.spec import check, register


@register
@dataclass(frozen=True, kw_only=True)
class IntersectionOptions:
    """Options of the search, in the units of the model.

    Attributes:
      steps: at most so many.
      gap: largest gap at the end.
      slope: largest norm of the mean gradient along the seam at the end.
      stride: longest step.
      stiffness: first guess of the second derivatives of the mean energy.

    Raises:
      ValueError: an option out of range.
    """

    steps: int = 300
    gap: float = 1e-6
    slope: float = 1e-3
    stride: float = 0.1
    stiffness: float = 20.0

    def __post_init__(self):
        check(self.steps >= 1, "IntersectionOptions steps", self.steps, "must be at least 1")
        for name in ("gap", "slope", "stride", "stiffness"):
            value = getattr(self, name)
            check(math.isfinite(value) and value > 0, f"IntersectionOptions {name}", value, "must be positive")


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


class _Search(NamedTuple):
    x: Array
    gap: Array
    A: Array
    s: Array
    B: Array
    slope: Array
    step: Array


def minimum_energy_intersection(
    model: Diabatic,
    R: Float[Array, "*R"],
    i: int = 0,
    j: int = 1,
    options: IntersectionOptions | None = None,
) -> Intersection:
    """Searches the minimum of the seam of states i < j from a geometry; can be jitted, and vmapped over starts.

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
    look = partial(_look, model, R.shape, i, j)
    gap, A, s, slope = look(R.reshape(-1))
    B = options.stiffness * jnp.eye(R.size, dtype=R.dtype)
    first = _Search(R.reshape(-1), gap, A, s, B, slope, jnp.zeros((), jnp.int32))

    def unfinished(state: _Search):
        return (state.step < options.steps) & ((state.gap > options.gap) | (state.slope > options.slope))

    def advance(state: _Search):
        dx = _step(state, options.stride)
        gap, A, s, slope = look(state.x + dx)
        return _Search(state.x + dx, gap, A, s, _updated(state.B, dx, s - state.s), slope, state.step + 1)

    last = jax.lax.while_loop(unfinished, advance, first)
    R = last.x.reshape(R.shape)
    result = adiabatic(model, R)
    plane = orthogonalised(branching_plane(result, i, j))
    done = (last.gap <= options.gap) & (last.slope <= options.slope)
    return Intersection(R, result.energies, last.gap, last.slope, plane, last.step, done)


def _look(model, shape, i, j, x):
    """Gap, the two constraints (2, D), the mean gradient, and its norm along the seam."""
    result = adiabatic(model, x.reshape(shape))
    g, h, s = (v.reshape(-1) for v in branching_plane(result, i, j))
    A = jnp.stack([2 * g, h])
    return result.energies[j] - result.energies[i], A, s, jnp.linalg.norm(s - jnp.linalg.pinv(A) @ (A @ s))


def _step(state: _Search, stride: float):
    """Newton step to the seam and along it, shortened to the stride."""
    inverse = jnp.linalg.pinv(state.A)
    along = jnp.eye(len(state.x), dtype=state.x.dtype) - inverse @ state.A
    closing = -inverse[:, 0] * state.gap
    closing = closing * jnp.minimum(1.0, stride / jnp.maximum(jnp.linalg.norm(closing), 1e-30))
    inner = along @ state.B @ along + (jnp.eye(len(state.x), dtype=state.x.dtype) - along)
    down = -along @ jnp.linalg.solve(inner, along @ (state.s + state.B @ closing))
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
