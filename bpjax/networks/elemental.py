"""One feed-forward Flax network per element: features of an atom in, its energy out.

Flax is used here and nowhere else; parameters are plain nested dicts, one entry per element:
`{"Si": {"hidden_0": {"kernel", "bias"}, ..., "output": {...}}, ...}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bpjax.spec import register

ACTIVATIONS = {
    "tanh": jnp.tanh,
    "silu": nn.silu,
    "gelu": nn.gelu,
    "softplus": nn.softplus,
    "logistic": nn.sigmoid,
}
"""Smooth activations only: forces need a derivative, training needs a second one."""


@register
@dataclass(frozen=True)
class MLP:
    """Options of the per-element networks.

    Attributes:
      hidden: width of each hidden layer.
      activation: one of `ACTIVATIONS`.

    Raises:
      ValueError: an option out of range.
    """

    hidden: tuple[int, ...] = (32, 32)
    activation: str = "silu"

    def __post_init__(self):
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"MLP hidden={self.hidden}: every width must be at least 1")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"MLP activation={self.activation!r}: allowed are {', '.join(ACTIVATIONS)}")


class _Network(nn.Module):
    """Feed-forward network with one linear output; LeCun-normal start, zero biases."""

    options: MLP

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
        activation = ACTIVATIONS[self.options.activation]
        for layer, width in enumerate(self.options.hidden):
            x = activation(nn.Dense(width, name=f"hidden_{layer}")(x))
        return nn.Dense(1, name="output")(x)[..., 0]


def init_networks(options: MLP, elements: Sequence[str], size: int, key: PRNGKeyArray, dtype=jnp.float32) -> dict:
    """Random parameters of every element's network for `size` features."""
    keys = jax.random.split(key, len(elements))
    network = _Network(options)
    features = jnp.zeros((size,), jnp.float32)
    return {
        element: jax.tree.map(lambda p: p.astype(dtype), network.init(k, features)["params"])
        for element, k in zip(elements, keys, strict=True)
    }


def apply_networks(
    options: MLP,
    params: dict,
    elements: Sequence[str],
    features: Float[Array, "*batch S D"],
    species: Int[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Output of the network of each atom's own element.

    Args:
      options: the networks' options.
      params: parameters by element.
      elements: symbols in the order of the species indices (a pytree's dict has an order of its own).
      features: input of each element's network (scaled for that element), on the axis S.
      species: species index of the atom.
    """
    network = _Network(options)
    outputs: list[Any] = [network.apply({"params": params[e]}, features[..., s, :]) for s, e in enumerate(elements)]
    if len(outputs) == 1:
        return outputs[0]
    return jnp.choose(species, outputs, mode="clip")
