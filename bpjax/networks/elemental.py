"""One feed-forward Flax network (or sparse Gaussian process) per element: features of an atom in, its energy out.

Flax is used here and nowhere else; parameters are plain nested dicts, one entry per element:
`{"Si": {"hidden_0": {"kernel", "bias"}, ..., "output": {...}}, ...}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from bpjax.networks.kernel import SparseGP, apply_sparse_gp, init_sparse_gp
from bpjax.spec import register

ACTIVATIONS = {
    "tanh": jnp.tanh,
    "silu": nn.silu,
    "gelu": nn.gelu,
    "gelu_erf": lambda x: nn.gelu(x, approximate=False),
    "softplus": nn.softplus,
    "logistic": nn.sigmoid,
    "reverse_logistic": lambda x: nn.sigmoid(-x),  # 1 - logistic, without the cancellation
    "gaussian": lambda x: jnp.exp(-x * x / 2),
    "cosine": jnp.cos,
    "exponential": lambda x: jnp.exp(-x),
    "harmonic": lambda x: x * x,
    "linear": lambda x: x,
    "relu": nn.relu,
    "celu": lambda x: nn.celu(x, alpha=0.1),
}
r"""Activation functions. All but "relu" and "celu" are smooth: forces need a derivative, training on forces a second one. Those
from "logistic" to "relu" are of use for potentials of RuNNer and n2p2, where they occur; with "relu" forces jump. "gelu" is the
form with tanh, "gelu_erf" the one with the error function. "celu" is that of the ANI potentials,
:math:`\max(x, 0) + \alpha (e^{\min(x, 0) / \alpha} - 1)` with :math:`\alpha = 0.1`: forces are continuous and have a kink."""


@register
@dataclass(frozen=True)
class MLP:
    """Options of a feed-forward network with one output.

    Attributes:
      hidden: width of each hidden layer.
      activation: one of `ACTIVATIONS`, or one for each hidden layer.
      output_activation: one of `ACTIVATIONS`, applied to the output.

    Raises:
      ValueError: an option out of range.
    """

    hidden: tuple[int, ...] = (32, 32)
    activation: str | tuple[str, ...] = "silu"
    output_activation: str = "linear"

    def __post_init__(self):
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"MLP hidden={self.hidden}: every width must be at least 1")
        if len(self.activations) != len(self.hidden):
            raise ValueError(
                f"MLP activation={self.activation}: one, or one for each of the {len(self.hidden)} hidden layers"
            )
        names = (self.activation,) if isinstance(self.activation, str) else self.activation
        for option, given in (("activation", names), ("output_activation", (self.output_activation,))):
            for name in given:
                if name not in ACTIVATIONS:
                    raise ValueError(f"MLP {option}={name!r}: allowed are {', '.join(ACTIVATIONS)}")

    @property
    def activations(self) -> tuple[str, ...]:
        """Name of the activation of each hidden layer."""
        return (self.activation,) * len(self.hidden) if isinstance(self.activation, str) else tuple(self.activation)


@register
@dataclass(frozen=True)
class PerElement:
    """A network of its own shape for each element.

    Attributes:
      networks: options of each element's network, in the order of the model's elements.

    Raises:
      ValueError: no network at all.
    """

    networks: tuple[MLP | SparseGP, ...]

    def __post_init__(self):
        if not self.networks:
            raise ValueError("PerElement networks: one for each element, got none")


def options_of(options: MLP | SparseGP | PerElement, index: int) -> MLP | SparseGP:
    """Options of the network of the element with this species index."""
    return options.networks[index] if isinstance(options, PerElement) else options


def mlp_of(options: MLP | SparseGP | PerElement, index: int) -> MLP:
    """`options_of`, for programs that know feed-forward networks only.

    Raises:
      ValueError: the element has something else.
    """
    own = options_of(options, index)
    if not isinstance(own, MLP):
        raise ValueError(f"network={own}: must be feed-forward (MLP) here")
    return own


class _Network(nn.Module):
    """Feed-forward network with one output; LeCun-normal start, zero biases."""

    options: MLP

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
        for layer, (width, name) in enumerate(zip(self.options.hidden, self.options.activations, strict=True)):
            x = ACTIVATIONS[name](nn.Dense(width, name=f"hidden_{layer}")(x))
        return ACTIVATIONS[self.options.output_activation](nn.Dense(1, name="output")(x)[..., 0])


def init_networks(
    options: MLP | SparseGP | PerElement, elements: Sequence[str], size: int, key: PRNGKeyArray, dtype=jnp.float32
) -> dict:
    """Random parameters of every element's network for `size` features.

    Raises:
      ValueError: networks that are given one by one, but not for as many elements.
    """
    if isinstance(options, PerElement) and len(options.networks) != len(elements):
        raise ValueError(f"PerElement networks: one for each of {', '.join(elements)}, got {len(options.networks)}")
    keys = jax.random.split(key, len(elements))
    features = jnp.zeros((size,), jnp.float32)
    params = {}
    for index, (element, k) in enumerate(zip(elements, keys, strict=True)):
        own = options_of(options, index)
        if isinstance(own, SparseGP):
            params[element] = init_sparse_gp(own, size, k, dtype)
            continue
        start = _Network(own).init(k, features)["params"]
        params[element] = jax.tree.map(lambda p: p.astype(dtype), start)
    return params


def apply_network(options: MLP | SparseGP, params: dict, x: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    """Output of the network of one element.

    Args:
      options: the network's options.
      params: the parameters of this element.
      x: features, scaled for this element.
    """
    if isinstance(options, SparseGP):
        return apply_sparse_gp(options, params, x)
    return _Network(options).apply({"params": params}, x)  # pyright: ignore[reportReturnType]
