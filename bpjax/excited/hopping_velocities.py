r"""Velocities at a hop: who pays for the energy, and what happens where nobody can. For one trajectory.

A direction u is one of momentum: :math:`v' = v - \gamma\, u/m`. Energy is conserved for

.. math:: \tfrac12 \gamma^2 \sum_a u_a^2/m_a - \gamma\, u \cdot v + \Delta E = 0 ,

of whose two solutions the smaller is taken; without a real one the hop is frustrated.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Rescaled(NamedTuple):
    """Velocities after a hop that was tried.

    Attributes:
      velocity: the new one where there is energy enough, the old one else.
      accepted: whether there is.
      reversed: the old velocity with its part along the direction reversed.
      directed: whether there is a direction at all.
    """

    velocity: Float[Array, "*R"]
    accepted: Bool[Array, ""]
    reversed: Float[Array, "*R"]
    directed: Bool[Array, ""]


def kinetic_energy(v: Float[Array, "*R"], masses: Float[Array, "*R"]) -> Float[Array, ""]:
    r""":math:`\frac12 \sum_a m_a v_a^2`."""
    return 0.5 * jnp.sum(masses * v * v)


def rescaled(
    v: Float[Array, "*R"], masses: Float[Array, "*R"], u: Float[Array, "*R"], change: Float[Array, ""]
) -> Rescaled:
    """Velocities that pay for a change of the potential energy along a direction of momentum.

    Args:
      v: velocities.
      masses: of every coordinate.
      u: direction, of any length and sign.
      change: energy of the new state less that of the old one.
    """
    length = jnp.sqrt(jnp.sum(u * u / masses))
    directed = (length > 0) & jnp.isfinite(length)
    step = u / masses / jnp.where(directed, length, 1.0)  # unit length: a = 1/2 below
    b = jnp.sum(v * u) / jnp.where(directed, length, 1.0)
    root = b * b - 2 * change
    accepted = directed & (root >= 0)
    gamma = b - jnp.where(b < 0, -1.0, 1.0) * jnp.sqrt(jnp.where(accepted, root, 0.0))
    paid = jnp.where(accepted, v - gamma * step, v)
    return Rescaled(paid, accepted, jnp.where(directed, v - 2 * b * step, v), directed)


def is_molecule(R) -> bool:
    """Whether coordinates are those of atoms, (N, 3), not of a model, (D,)."""
    return R.ndim == 2 and R.shape[1] == 3


def internal_velocity(R: Float[Array, "*R"], v: Float[Array, "*R"], masses: Float[Array, "*R"]) -> Float[Array, "*R"]:
    """Velocities without translation and rotation of the molecule as a whole; those of a model, (D,), as they are."""
    if not is_molecule(R):
        return v
    m = masses[:, :1]
    x = R - jnp.sum(m * R, axis=0) / jnp.sum(m)
    v = v - jnp.sum(m * v, axis=0) / jnp.sum(m)
    inertia = jnp.sum(
        m[..., None] * (jnp.sum(x * x, axis=1)[:, None, None] * jnp.eye(3) - x[:, :, None] * x[:, None, :]), axis=0
    )
    # A linear molecule has no inertia about its axis: the pseudo-inverse leaves that rotation out.
    omega = jnp.linalg.pinv(inertia, rtol=1e-9, hermitian=True) @ jnp.sum(m * jnp.cross(x, v), axis=0)
    return v - jnp.cross(omega, x)
