"""What the members of a sweep or an ensemble differ in."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from bpjax.training.losses import Widths
from bpjax.training.options import TrainingOptions


class Hyper(NamedTuple):
    """What may differ between the members of a sweep or an ensemble, as traced numbers.

    Attributes:
      learning_rate, weight_decay: as in `OptimizerOptions`.
      widths: factors of the widths of the loss.
      weights: factors of the weight of each training structure, (structures,); None for one.
      fixed: arrays of the model that take the place of those of the problem: "descriptor", "scaling", "choices"; see
        `bpjax.potential.energy.Params`.
    """

    learning_rate: Float[Array, "*members"]
    weight_decay: Float[Array, "*members"]
    widths: Widths
    weights: Float[Array, "*members structures"] | None = None
    fixed: dict = {}  # noqa: RUF012  a NamedTuple's default, never changed

    @classmethod
    def of(cls, options: TrainingOptions) -> "Hyper":
        """The values of a training file."""
        o = options.optimizer
        one = jnp.ones((), jnp.float32)
        rate, decay = (jnp.float32(getattr(o, name, 0.0)) for name in ("learning_rate", "weight_decay"))
        return cls(rate, decay if getattr(o, "method", "") != "adam" else 0 * one, Widths(one, one, one))
