r"""Widths of the errors of the labels, predicted atom by atom: the part that is noise (aleatoric uncertainty).

Two further networks per element, on the same features, give :math:`o_i^E` and :math:`o_i^F`;

.. math:: \sigma_{F,i} = \sigma_F\, e^{o_i^F}, \qquad
          \sigma_{E} = \sigma_E\, n^p \Big(\tfrac1n \sum_i e^{2 o_i^E}\Big)^{1/2}

are the widths of each component of the force on atom i, and of the energy of a structure of n atoms (p = 1 with
`energy_per="atom"`, 0 with "structure"). The networks start at zero, that is, at the widths given. They are trained by the
likelihood (Nix and Weigend, Proc. ICNN 1, 55, 1994); see `bpjax.training.losses`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from bpjax.networks.elemental import MLP, apply_network, init_networks
from bpjax.spec import check, register

OUTPUTS = ("energy", "forces")


@register
@dataclass(frozen=True)
class NoiseModel:
    """Options of the networks that predict widths.

    Attributes:
      energy: sigma_E in eV (per atom with `energy_per="atom"`).
      forces: sigma_F in eV/A.
      energy_per: "atom" or "structure".
      network: the networks, one for energies and one for forces of each element.
    """

    energy: float = 0.02
    forces: float = 0.1
    energy_per: str = "atom"
    network: MLP = field(default_factory=lambda: MLP((16,)))

    def __post_init__(self):
        for name in OUTPUTS:
            check(getattr(self, name) > 0, f"noise {name}", getattr(self, name), "sigma must be positive")
        allowed = ("atom", "structure")
        check(
            self.energy_per in allowed, "noise energy_per", repr(self.energy_per), f"allowed are {', '.join(allowed)}"
        )

    def of_mean(self, mean, atoms):
        r"""Width of the energy of structures of so many atoms, in eV, from the mean of :math:`e^{2 o_i^E}` over the atoms."""
        return self.energy * (atoms if self.energy_per == "atom" else 1.0) * jnp.sqrt(mean)

    def of_forces(self, noise):
        """Width of each component of the force on atoms, in eV/A, from their outputs, (..., 2)."""
        return self.forces * jnp.exp(noise[..., 1])


def init_noise(options: NoiseModel, elements: Sequence[str], size: int, key: PRNGKeyArray, dtype=jnp.float32) -> dict:
    """Random hidden layers and zero output layers, for each element and kind of label."""
    networks = {
        name: init_networks(options.network, elements, size, k, dtype)
        for name, k in zip(OUTPUTS, jax.random.split(key), strict=True)
    }
    for name in OUTPUTS:
        for own in networks[name].values():
            own["output"] = jax.tree.map(jnp.zeros_like, own["output"])
    return {element: {name: networks[name][element] for name in OUTPUTS} for element in elements}


def log_widths(options: NoiseModel, params: dict, x: Float[Array, " D"]) -> Float[Array, " 2"]:
    """The two outputs for an atom, from its scaled features and the parameters of its element."""
    return jnp.stack([apply_network(options.network, params[name], x) for name in OUTPUTS])
