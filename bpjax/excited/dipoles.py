r"""Permanent and transition dipoles as a property of a diabatic potential, rotated with the adiabatic states.

The dipole matrix in the diabatic basis comes from learned charges and, where odd factors :math:`f_t` are at work, from learned
multiples of their gradients:

.. math:: \mu_{ij}(R) = \sum_t \sum_a \left[ f_t\, q_{ta} (R_a - \bar R) + c_{ta} \frac{\partial f_t}{\partial R_a} \right]
   + \delta_{ij}\, Q \bar R, \qquad \sum_a q_{ta} = 0

with :math:`\bar R` the mean of the positions and Q the charge of the molecule. Moving the molecule by x adds :math:`Q x` to
permanent dipoles and nothing to transition dipoles. A gradient of :math:`f_t` is a vector that changes sign just as
:math:`f_t` does: it gives the transition dipoles that are not zero where the coupling itself is (out of plane in a planar
molecule), which charges cannot.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bpjax.excited.diabatic import Params, StateModel


def dipole_parts(
    factors: Float[Array, " T"], gradients: Float[Array, "T N 3"], R: Float[Array, "N 3"]
) -> tuple[Float[Array, "T N 3"], Float[Array, "T N 3"]]:
    """What the two outputs of every atom are multiplied with: factor times distance from the mean, and gradient of the factor."""
    centred = R - jnp.mean(R, axis=0)
    return factors[:, None, None] * centred[None], gradients


def dipoles_from_outputs(
    model: StateModel,
    y: Float[Array, "N C"],
    parts: tuple[Float[Array, "T N 3"], Float[Array, "T N 3"]],
    R: Float[Array, "N 3"],
) -> Float[Array, "S S 3"]:
    """The dipole matrix in e A in the diabatic basis, from the outputs of the dipole networks."""
    T, S = len(model.terms), model.states
    # Positions are relative to their mean, so that any mean of the charges drops out: they are neutral.
    along, gradient = parts
    vectors = jnp.einsum("at,tax->tx", y[:, :T], along) + jnp.einsum("at,tax->tx", y[:, T:], gradient)
    mu = jnp.einsum("tx,tij->ijx", vectors, jnp.asarray(model.places, R.dtype))
    charge = getattr(model, "charge", 0.0)
    return mu + charge * jnp.asarray(np.eye(S), R.dtype)[:, :, None] * jnp.mean(R, axis=0)


def diabatic_dipoles(model: StateModel, params: Params, R: Float[Array, "N 3"]) -> Float[Array, "S S 3"]:
    """Dipole matrix (S, S, 3) in e A in the diabatic basis at one geometry; `to_adiabatic` rotates it to the states.

    Raises:
      ValueError: a model without dipoles.
    """
    if not model.has_dipoles:
        raise ValueError(f"{type(model).__name__} dipoles=False: the model has no dipoles; build it with dipoles=True")

    def factors(R):
        return model.term_factors(model.factor_values(R))

    y = model.outputs(params["dipoles"], model.scaled_features(params["scaling"], model.features(R)))
    return dipoles_from_outputs(model, y, dipole_parts(factors(R), jax.jacrev(factors)(R), R), R)
