r"""From a diabatic matrix to adiabatic states: energies, their gradients, and everything between two states.

A diabatic model is any function of the coordinates that returns a Hermitian matrix, :math:`R \to H(R)`, shape (S, S). It
may be real or complex (spin-orbit coupling), and R may have any shape: (D,) for a model, (N, 3) for a molecule. Units are
those of the
model: atomic units for `bpjax.excited.models`.

Gradients follow Hellmann and Feynman: no derivative of an eigenvector enters them, they are finite at every geometry.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from bpjax.excited.eigen import eigh

Diabatic = Callable[[Any], Any]
"""A diabatic model: coordinates, an array of any shape, to the matrix (S, S)."""


class Adiabatic(NamedTuple):
    r"""The electronic states at one geometry.

    Attributes:
      energies: E_i in ascending order.
      states: U, a column for each state in the diabatic basis; the phases are arbitrary.
      interstate: :math:`\langle i | \nabla H | j \rangle`, Hermitian in i, j, then the axes of the coordinates.
    """

    energies: Float[Array, "*batch S"]
    states: Inexact[Array, "*batch S S"]
    interstate: Inexact[Array, "*more"]


def matrix_gradient(model: Diabatic, R: Float[Array, "*R"]) -> tuple[Inexact[Array, "S S"], Inexact[Array, "S S *R"]]:
    r"""The diabatic matrix and its gradient :math:`\nabla H`.

    A real matrix of fewer elements than there are coordinates is differentiated in reverse, the rest forward.
    """
    H = model(R)
    _check_square(H)
    rows, columns = np.tril_indices(H.shape[0])
    if jnp.iscomplexobj(H) or R.size <= len(rows):
        return H, jax.jacfwd(model)(R)
    gradient = jax.jacrev(lambda R: model(R)[rows, columns])(R)
    full = jnp.zeros(H.shape + R.shape, H.dtype).at[rows, columns].set(gradient)
    return H, full.at[columns, rows].set(gradient)


def adiabatic(model: Diabatic, R: Float[Array, "*R"], broadening: float = 0.0) -> Adiabatic:
    r"""Energies, states and :math:`\langle i | \nabla H | j \rangle = (U^\dagger\, \nabla H\, U)_{ij}` at one geometry.

    Args:
      model: diabatic model, see the module.
      R: coordinates.
      broadening: for derivatives of the result only, see `eigen.inverse_gaps`.

    References: R. P. Feynman, Phys. Rev. 56, 340 (1939).
    """
    H, dH = matrix_gradient(model, R)
    E, U = eigh(H, broadening)
    return Adiabatic(E, U, jnp.einsum("ai,ab...,bj->ij...", U.conj(), dH.astype(U.dtype), U))


def energies(model: Diabatic, R: Float[Array, "*R"]) -> Float[Array, " S"]:
    """Adiabatic energies, ascending; derivatives of every order are finite."""
    return eigh(model(R))[0]


def gradients(result: Adiabatic) -> Float[Array, "S *R"]:
    r"""Gradients of the adiabatic energies, :math:`\nabla E_i = \langle i | \nabla H | i \rangle`; forces are their negatives."""
    i = np.arange(result.energies.shape[0], dtype=np.int32)
    return jnp.real(result.interstate[i, i])


def hessians(model: Diabatic, R: Float[Array, "*R"], broadening: float = 0.0) -> Float[Array, "S *RR"]:
    """Second derivatives of the adiabatic energies, (S, *R, *R).

    They grow as one over the gap near a crossing; at an exact one the infinite part is left out.
    """
    return jax.jacfwd(lambda R: gradients(adiabatic(model, R, broadening)))(R)


def to_adiabatic(operator: Inexact[Array, "S S *more"], states: Inexact[Array, "S S"]) -> Inexact[Array, "S S *more"]:
    r"""An operator of the diabatic basis (dipole, spin-orbit matrix) between adiabatic states, :math:`U^\dagger O U`."""
    return jnp.einsum("ai,ab...,bj->ij...", states.conj(), operator, states)


def to_diabatic(operator: Inexact[Array, "S S *more"], states: Inexact[Array, "S S"]) -> Inexact[Array, "S S *more"]:
    r"""The way back, :math:`U O U^\dagger`; of ``diag(energies)`` it is the diabatic matrix itself."""
    return jnp.einsum("ai,ij...,bj->ab...", states, operator, states.conj())


def require_real(values: Any, what: str) -> None:
    """Raises where a real symmetric matrix is needed and a complex one is given.

    Raises:
      ValueError: complex values. The dtype decides, not the numbers: they are not known while a function is compiled.
    """
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        raise ValueError(
            f"{what} needs a real symmetric diabatic matrix, got {values.dtype}; "
            "where all imaginary parts are zero pass its real part"
        )


def _check_square(H) -> None:
    if H.ndim != 2 or H.shape[0] != H.shape[1]:
        raise ValueError(f"diabatic model: must return a square matrix (S, S), got shape {H.shape}")
    if not jnp.issubdtype(H.dtype, jnp.inexact):
        raise ValueError(f"diabatic model: must return a real or complex matrix, got {H.dtype}")
