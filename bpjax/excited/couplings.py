r"""Couplings between adiabatic states by the motion of the nuclei, from a diabatic matrix.

.. math:: d_{ij} = \langle i | \nabla j \rangle = \frac{\langle i | \nabla H | j \rangle}{E_j - E_i} = \frac{h_{ij}}{E_j - E_i}

The diabatic states are taken not to depend on the geometry. d is antisymmetric for real states, anti-Hermitian in
general, and its diagonal is zero here: for complex states it is a matter of phases, see `bpjax.excited.gauge`. d diverges
at a crossing, h does not: fit and interpolate h. Units are those of the model; in atomic units d is in 1/bohr and h in
hartree/bohr.

References: D. R. Yarkony, Rev. Mod. Phys. 68, 985 (1996); G. A. Worth and L. S. Cederbaum, Annu. Rev. Phys. Chem. 55, 127 (2004).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from bpjax.excited.adiabatic import Adiabatic, Diabatic, adiabatic, gradients, require_real
from bpjax.excited.eigen import inverse_gaps


class BranchingPlane(NamedTuple):
    r"""The two directions that lift a degeneracy, and the tilt of the cone.

    Attributes:
      g: half the gradient of the gap, :math:`\frac12 \nabla (E_j - E_i)`.
      h: :math:`\langle i | \nabla H | j \rangle`. Along either of the two the gap opens as :math:`2 |g| x` and :math:`2 |h| y`.
      s: gradient of the mean energy, :math:`\frac12 \nabla (E_i + E_j)`.
    """

    g: Float[Array, "*R"]
    h: Float[Array, "*R"]
    s: Float[Array, "*R"]


def derivative_couplings(result: Adiabatic, broadening: float = 0.0) -> Inexact[Array, "S S *R"]:
    r"""Derivative couplings :math:`d_{ij} = \langle i | \nabla j \rangle`, by the Hellmann-Feynman quotient.

    Args:
      result: the states at one geometry.
      broadening: replaces :math:`1/\Delta` by :math:`\Delta/(\Delta^2 + \eta^2)`; in units of the energy.

    Returns: exactly anti-Hermitian; 0 on the diagonal and for pairs that are degenerate to rounding (`eigen.degenerate_pairs`).
    """
    F = inverse_gaps(result.energies, broadening).astype(result.interstate.dtype)
    d = F.reshape(F.shape + (1,) * (result.interstate.ndim - 2)) * result.interstate
    return 0.5 * (d - jnp.swapaxes(d.conj(), 0, 1))


def time_derivative_couplings(
    result: Adiabatic, velocity: Float[Array, "*R"], broadening: float = 0.0
) -> Inexact[Array, "S S"]:
    r""":math:`\langle i | \partial_t j \rangle = v \cdot d_{ij}`, anti-Hermitian."""
    d = derivative_couplings(result, broadening)
    return jnp.sum(d * velocity.astype(d.dtype)[None, None], axis=tuple(range(2, d.ndim)))


def second_order_couplings(model: Diabatic, R: Float[Array, "*R"], broadening: float = 0.0) -> Float[Array, "S S *RR"]:
    r"""Second-order couplings :math:`\langle i | \partial_a \partial_b j \rangle`, all pairs of coordinates.

    .. math:: \langle i | \partial_a \partial_b j \rangle = \partial_a d_{b,ij} + \sum_k d_{a,ik}\, d_{b,kj}

    The sum over states is complete, because the diabatic basis is. The Laplacian term of the nuclear equation is
    its trace over a = b, divided by twice the masses.

    Raises:
      ValueError: the model is complex. Mixed second derivatives of complex states depend on the choice of phases.
    """
    require_real(jax.eval_shape(model, R), "second_order_couplings")

    def couplings(R):
        result = adiabatic(model, R, broadening)
        return (d := derivative_couplings(result, broadening)), d

    derivative, d = jax.jacfwd(couplings, has_aux=True)(R)  # (S, S, b, a)
    S, D = d.shape[0], R.size
    d = d.reshape(S, S, D)
    first = derivative.reshape(S, S, D, D).swapaxes(2, 3)
    return (first + jnp.einsum("ika,kjb->ijab", d, d)).reshape(S, S, *R.shape, *R.shape)


def diagonal_correction(result: Adiabatic, masses: Float[Array, "*R"]) -> Float[Array, " S"]:
    r"""Diagonal Born-Oppenheimer correction :math:`\sum_a \frac{1}{2 m_a} \sum_k |d_{a,ki}|^2` of each state.

    Args:
      result: the states at one geometry.
      masses: of every coordinate, in the units of the model (electron masses for atomic units).
    """
    d = derivative_couplings(result)
    weight = jnp.abs(d) ** 2 / (2 * masses)[None, None]
    return jnp.sum(weight, axis=(0, *range(2, d.ndim)))


def branching_plane(result: Adiabatic, i: int, j: int) -> BranchingPlane:
    """The vectors g, h and s of two states, as they come from the states at hand.

    Near an intersection g and h are any two perpendicular directions' mixture: `orthogonalised` makes them unique.

    Raises:
      ValueError: i = j, or the model is complex (h then has a real and an imaginary part, and three directions lift a
        degeneracy).
    """
    if i == j:
        raise ValueError(f"branching_plane i={i}, j={j}: must be two different states")
    require_real(result.interstate, "branching_plane")
    gradient = gradients(result)
    return BranchingPlane(0.5 * (gradient[j] - gradient[i]), result.interstate[i, j], 0.5 * (gradient[i] + gradient[j]))


def orthogonalised(plane: BranchingPlane) -> BranchingPlane:
    r"""Rotates the two degenerate states into each other until :math:`g \cdot h = 0`, the longer vector first.

    .. math:: g' = g \cos\varphi + h \sin\varphi, \quad h' = h \cos\varphi - g \sin\varphi, \quad
       \tan 2\varphi = \frac{2\, g \cdot h}{g \cdot g - h \cdot h}

    References: D. R. Yarkony, J. Chem. Phys. 112, 2111 (2000).
    """
    g, h = plane.g, plane.h
    a, b = 2 * jnp.sum(g * h), jnp.sum(g * g) - jnp.sum(h * h)
    round_cone = (a == 0) & (b == 0)  # any angle will do, and that of (0, 0) has no derivative
    phi = 0.5 * jnp.arctan2(a, jnp.where(round_cone, 1.0, b))
    cos, sin = jnp.cos(phi), jnp.sin(phi)
    return BranchingPlane(g * cos + h * sin, h * cos - g * sin, plane.s)
