r"""The likelihood loss: Gaussian errors of known width in energies, forces and stresses.

.. math:: L = \frac{1}{\sum_k w_k} \sum_k w_k \left[ \left(\frac{E_k - E_k^\mathrm{ref}}{\sigma_E\, n_k^p}\right)^2
   + \frac{1}{3 n_k} \sum_i \frac{|F_{ki} - F_{ki}^\mathrm{ref}|^2}{\sigma_F^2}
   + \frac{1}{9} \sum_{ab} \frac{(\sigma_{k,ab} - \sigma_{k,ab}^\mathrm{ref})^2}{\sigma_S^2} \right]

with p = 0 for errors of the total energy and p = 1 for errors per atom: structures of different sizes are then held to the
same error per atom. The negative logarithm of the likelihood is L/2 but for constants.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from bpjax.spec import register
from bpjax.training.dataset import Layout, Targets
from bpjax.training.inputs import Outputs

STRESS_MULTIPLICITY = (1.0, 1.0, 1.0, 2.0, 2.0, 2.0)
"""How often each Voigt component stands in the 3 x 3 tensor."""


@register
@dataclass(frozen=True)
class LikelihoodLoss:
    """Widths of the errors that are expected of the model and the data.

    Attributes:
      energy: sigma_E in eV (per atom with `energy_per="atom"`), or None to leave energies out.
      forces: sigma_F in eV/A, or None.
      stress: sigma_S in eV/A^3 (0.00624 is 1 GPa), or None.
      energy_per: "atom" or "structure", what sigma_E is the error of.

    Raises:
      ValueError: a width that is not positive, or nothing to fit.
    """

    energy: float | None = 0.02
    forces: float | None = 0.1
    stress: float | None = 0.01
    energy_per: str = "atom"

    def __post_init__(self):
        for name in ("energy", "forces", "stress"):
            width = getattr(self, name)
            if width is not None and not (math.isfinite(width) and width > 0):
                raise ValueError(f"loss {name}={width}: sigma must be positive, or left out")
        if self.energy is None and self.forces is None and self.stress is None:
            raise ValueError("loss: nothing to fit; give sigma for at least one of energy, forces, stress")
        if self.energy_per not in ("atom", "structure"):
            raise ValueError(f"loss energy_per={self.energy_per!r}: allowed are atom, structure")


def likelihood_loss(loss: LikelihoodLoss, outputs: Outputs, targets: Targets, layout: Layout) -> Float[Array, ""]:
    """Weighted mean over the structures of a batch; labels that are missing contribute nothing."""
    per_structure = jnp.zeros_like(outputs.energy)
    if loss.energy is not None:
        width = loss.energy * (layout.atoms if loss.energy_per == "atom" else 1.0)
        per_structure += targets.energy_mask * ((outputs.energy - targets.energy) / width) ** 2
    if loss.forces is not None:
        square = targets.forces_mask * jnp.sum((outputs.forces - targets.forces) ** 2, axis=1)
        summed = jnp.zeros_like(per_structure).at[layout.structure].add(square)
        per_structure += summed / (3 * layout.atoms * loss.forces**2)
    if loss.stress is not None:
        multiplicity = jnp.asarray(STRESS_MULTIPLICITY, outputs.stress.dtype)
        square = jnp.sum(multiplicity * (outputs.stress - targets.stress) ** 2, axis=1)
        per_structure += targets.stress_mask * square / (9 * loss.stress**2)
    return jnp.sum(targets.weight * per_structure) / jnp.maximum(jnp.sum(targets.weight), 1e-12)


class Errors(NamedTuple):
    """Sums from which mean absolute and root mean square errors are made; energies per atom."""

    energy: Float[Array, " 3"]
    forces: Float[Array, " 3"]
    stress: Float[Array, " 3"]
    loss: Float[Array, " 2"]


def error_sums(loss: LikelihoodLoss, outputs: Outputs, targets: Targets, layout: Layout) -> Errors:
    """Count, sum of absolute errors and sum of squares of each kind, and the loss with its weight."""

    def sums(difference, mask):
        mask = mask.reshape(-1, *[1] * (difference.ndim - 1)) * jnp.ones_like(difference)
        d = difference * mask
        return jnp.stack([mask.sum(), jnp.abs(d).sum(), (d**2).sum()])

    weight = jnp.sum(targets.weight)
    return Errors(
        sums((outputs.energy - targets.energy) / layout.atoms, targets.energy_mask),
        sums(outputs.forces - targets.forces, targets.forces_mask),
        sums(outputs.stress - targets.stress, targets.stress_mask),
        jnp.stack([weight, weight * likelihood_loss(loss, outputs, targets, layout)]),
    )
