r"""Eigenvalues and eigenvectors of small Hermitian matrices, with derivatives that are finite at degeneracies.

The textbook derivative of an eigenvector is a sum over the other states divided by the gaps. At a crossing it is
infinite, and one NaN there spoils the gradient of a whole training batch. The rule below leaves out pairs of states that
are degenerate to rounding:

.. math:: \mathrm dE_i = M_{ii}, \qquad \mathrm dU = U (F \circ M), \qquad M = U^\dagger\, \mathrm dH\, U, \qquad
   F_{ij} = \frac{1}{E_j - E_i} \text{ or } 0 .

What is left out is infinite in truth (a cone has no curvature at its tip) or depends on the arbitrary basis of the
degenerate states. The rule calls the function itself, so that derivatives of any order follow: training on gradients
needs the second.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

RESOLVED = 16.0
"""Gaps below so many units of rounding of the largest energy count as degenerate."""


def eigh(H: Inexact[Array, "S S"], broadening: float = 0.0) -> tuple[Float[Array, " S"], Inexact[Array, "S S"]]:
    r"""Energies in ascending order and eigenvectors, the columns of U: :math:`H U = U \operatorname{diag}(E)`.

    Args:
      H: real symmetric or complex Hermitian matrix; of any other the Hermitian part is taken.
      broadening: width in units of H, see `inverse_gaps`; it changes derivatives of U only, never a value.

    Returns: energies, states. The phases of the states are arbitrary; derivatives are those of parallel transport,
      :math:`\langle u_i | \mathrm du_i \rangle = 0`. At an exact degeneracy first derivatives of the energies are those of the
      states returned, and higher ones leave out the degenerate pairs.
    """
    return _eigh(0.5 * (H + H.conj().T), broadening)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _eigh(H, broadening):
    # Two real states are by far the most frequent case: the closed form is exact and needs no library call per geometry.
    if H.shape[0] == 2 and not jnp.iscomplexobj(H):
        return _two_states(H)
    E, U = jnp.linalg.eigh(H, symmetrize_input=False)
    return E, U


@_eigh.defjvp
def _eigh_jvp(broadening, primals, tangents):
    (H,), (dH,) = primals, tangents
    E, U = _eigh(H, broadening)
    M = U.conj().T @ dH @ U
    dU = U @ (inverse_gaps(E, broadening).astype(U.dtype) * M)
    return (E, U), (jnp.real(jnp.diagonal(M)), dU)


def _two_states(H):
    a, b, c = H[0, 0], H[1, 1], H[0, 1]
    mean, half_gap = 0.5 * (a + b), 0.5 * jnp.hypot(a - b, 2 * c)
    theta = 0.5 * jnp.arctan2(2 * c, a - b)  # 0 at an exact degeneracy: the diabatic states themselves
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    return jnp.stack([mean - half_gap, mean + half_gap]), jnp.stack([jnp.stack([-sin, cos]), jnp.stack([cos, sin])])


def degenerate_pairs(E: Float[Array, " S"]):
    """Which pairs of states (S, S) are degenerate to rounding, each state with itself among them."""
    rounding = RESOLVED * jnp.finfo(E.dtype).eps * jnp.max(jnp.abs(E))
    return jnp.abs(E[None, :] - E[:, None]) <= rounding


def inverse_gaps(E: Float[Array, " S"], broadening: float = 0.0) -> Float[Array, "S S"]:
    r""":math:`F_{ij} = \Delta / (\Delta^2 + \eta^2)` with :math:`\Delta = E_j - E_i`; 0 for degenerate pairs and on the diagonal.

    Args:
      E: energies.
      broadening: :math:`\eta` in units of E. 0 gives the exact :math:`1/\Delta`; with a positive width nothing exceeds
        :math:`1/2\eta`, which keeps single geometries near a seam from ruling a training step.
    """
    same = degenerate_pairs(E)
    gap = jnp.where(same, 1.0, E[None, :] - E[:, None])
    return jnp.where(same, 0.0, gap / (gap * gap + broadening**2))
