"""One feed-forward Flax network (or sparse Gaussian process) per element: features of an atom in, its energy out.

Flax is used here and nowhere else; parameters are plain nested dicts, one entry per element:
`{"Si": {"hidden_0": {"kernel", "bias"}, ..., "output": {...}}, ...}`, and `"skip": {"kernel"}` for networks with `MLP.skip`.

The options of a network are static: another width or activation is another compiled program. `NetworkChoices` are choices among
them that are arrays, so that a sweep can run over them (`vmap`) within one program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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

STARTS = ("lecun", "nguyen_widrow")
"""How weights are drawn, see `MLP`."""


@register
@dataclass(frozen=True)
class MLP:
    r"""Options of a feed-forward network with one output.

    Weights of a layer of H nodes with n inputs are drawn at random:

    ==============  ============================================================================================================
    init            start
    ==============  ============================================================================================================
    lecun           weights normal with variance 1 / n, biases 0
    nguyen_widrow   hidden layers: the weights of each node point in a random direction and have the norm
                    :math:`\beta = 0.7\, H^{1/n}`, biases are uniform in :math:`[-\beta, \beta]`; output: weights uniform in
                    [-1/2, 1/2], bias 0. Made for inputs in [-1, 1] and activations like tanh, which are nearly linear in [-1, 1]:
                    the nodes then share out the space of the inputs evenly.
    ==============  ============================================================================================================

    Attributes:
      hidden: width of each hidden layer.
      activation: one of `ACTIVATIONS`, or one for each hidden layer.
      output_activation: one of `ACTIVATIONS`, applied to the output.
      init: how weights start, see the table.
      skip: whether a linear function of the features, w . x, is added to the output; w starts at zero.

    Raises:
      ValueError: an option out of range.

    References: Nguyen, Widrow, IJCNN 1990, vol. 3, 21.
    """

    hidden: tuple[int, ...] = (32, 32)
    activation: str | tuple[str, ...] = "silu"
    output_activation: str = "linear"
    init: str = "lecun"
    skip: bool = False

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
        if self.init not in STARTS:
            raise ValueError(f"MLP init={self.init!r}: allowed are {', '.join(STARTS)}")
        if self.skip and not self.hidden:
            raise ValueError("MLP skip=True: a network without hidden layers is linear already")

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
    if own.skip:
        raise ValueError("MLP skip=True: a linear function of the features beside the hidden layers has no place here")
    return own


class NetworkChoices(NamedTuple):
    """Choices of a network as arrays, for sweeps: within one compiled program each run has its own.

    Attributes:
      masks: for layers such as "hidden_0" a factor for each node, (width,), multiplied onto its output. With ones for some nodes
        and zeros for the rest the network is the narrower one of these nodes, whatever the other weights (which then do not
        learn). None, or a layer left out: all nodes. The start is that of the full width: multiply the kernel of the next layer
        by the square root of full over masked width for LeCun's variance.
      activation: factors a_k of some activations by name, {"silu": a, "tanh": b}: the hidden layers apply sum_k a_k act_k(x). A
        one among zeros is a choice, other numbers are a mixture. The activations must not overflow where they are not chosen
        either (0 times infinity is not a number): "exponential" should not be among them. None: those of the options.
    """

    masks: dict | None = None
    activation: dict | None = None


class _Network(nn.Module):
    """Feed-forward network with one output, or with several as a further axis."""

    options: MLP
    outputs: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"], choices: NetworkChoices) -> Float[Array, "*outputs"]:
        own, features, outputs = self.options, x, self.outputs or 1
        for layer, width in enumerate(own.hidden):
            name = f"hidden_{layer}"
            x = self._activated(layer, self._dense(width, name, x), choices.activation)
            if name in (choices.masks or {}):
                x = x * _broadcast(choices.masks[name], x)  # pyright: ignore[reportOptionalSubscript]
        y = ACTIVATIONS[own.output_activation](self._dense(outputs, "output", x))
        if own.skip:
            y = y + nn.Dense(outputs, use_bias=False, kernel_init=nn.initializers.zeros, name="skip")(features)
        return y[..., 0] if self.outputs is None else y

    def _activated(self, layer: int, x: Float[Array, "*batch H"], chosen) -> Float[Array, "*batch H"]:
        if chosen is None:
            return ACTIVATIONS[self.options.activations[layer]](x)
        terms = [jnp.asarray(factor, x.dtype) * ACTIVATIONS[name](x) for name, factor in chosen.items()]
        return sum(terms[1:], start=terms[0])

    def _dense(self, width: int, name: str, x: Float[Array, "*batch n"]) -> Float[Array, "*batch H"]:
        if self.options.init == "lecun":
            return nn.Dense(width, name=name)(x)
        beta = 0.7 * width ** (1 / max(x.shape[-1], 1))
        if name == "output":
            return nn.Dense(width, kernel_init=_uniform(0.5), name=name)(x)
        return nn.Dense(width, kernel_init=_directions(beta), bias_init=_uniform(beta), name=name)(x)


def _uniform(largest: float):
    """Start of weights uniform in [-largest, largest]."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -largest, largest)


def _directions(norm: float):
    """Start of a kernel (n, H): the weights of each node uniform in [-1, 1], then scaled to this norm."""

    def start(key, shape, dtype=jnp.float32):
        w = jax.random.uniform(key, shape, dtype, -1.0, 1.0)
        return norm * w / jnp.linalg.norm(w, axis=0, keepdims=True)

    return start


def _broadcast(mask, x: Float[Array, "*batch H"]) -> Float[Array, "*ones H"]:
    return jnp.asarray(mask, x.dtype).reshape((1,) * (x.ndim - 1) + x.shape[-1:])


def init_networks(
    options: MLP | SparseGP | PerElement,
    elements: Sequence[str],
    size: int,
    key: PRNGKeyArray,
    dtype=jnp.float32,
    outputs: int | None = None,
) -> dict:
    """Random parameters of every element's network for `size` features.

    Args:
      options: the networks.
      elements: chemical symbols.
      size: number of features.
      key: random key.
      dtype: float type of the parameters.
      outputs: number of outputs, for `apply_outputs`; None for a single one, the atomic energy.

    Raises:
      ValueError: networks that are given one by one, but not for as many elements; several outputs of a sparse Gaussian
        process.
    """
    if isinstance(options, PerElement) and len(options.networks) != len(elements):
        raise ValueError(f"PerElement networks: one for each of {', '.join(elements)}, got {len(options.networks)}")
    keys = jax.random.split(key, len(elements))
    features = jnp.zeros((size,), jnp.float32)
    params = {}
    for index, (element, k) in enumerate(zip(elements, keys, strict=True)):
        own = options_of(options, index)
        if isinstance(own, SparseGP):
            if outputs is not None:
                raise ValueError(f"network={own}: must be feed-forward (MLP) where several outputs are needed")
            params[element] = init_sparse_gp(own, size, k, dtype)
            continue
        start = _Network(own, outputs).init(k, features, NetworkChoices())["params"]
        params[element] = jax.tree.map(lambda p: p.astype(dtype), start)
    return params


def apply_network(
    options: MLP | SparseGP,
    params: dict,
    x: Float[Array, "*batch D"],
    choices: NetworkChoices | None = None,
) -> Float[Array, "*batch"]:
    """Output of the network of one element.

    Args:
      options: the network's options.
      params: the parameters of this element.
      x: features, scaled for this element.
      choices: widths and activation as arrays, in place of those of the options.

    Raises:
      ValueError: choices that do not fit the network.
    """
    if choices is not None:
        _check_choices(options, choices)
    if isinstance(options, SparseGP):
        return apply_sparse_gp(options, params, x)
    return _Network(options).apply({"params": params}, x, choices or NetworkChoices())  # pyright: ignore[reportReturnType]


def apply_outputs(options: MLP, params: dict, x: Float[Array, "*batch D"]) -> Float[Array, "*batch C"]:
    """All outputs of the network of one element, for parameters of `init_networks` with `outputs`."""
    outputs = params["output"]["kernel"].shape[-1]
    return _Network(options, outputs).apply({"params": params}, x, NetworkChoices())  # pyright: ignore[reportReturnType]


def _check_choices(options: MLP | SparseGP, choices: NetworkChoices) -> None:
    if not isinstance(options, MLP):
        raise ValueError(f"choices: only for a feed-forward network (MLP), not {type(options).__name__}")
    widths = {f"hidden_{layer}": (width,) for layer, width in enumerate(options.hidden)}
    for name, mask in (choices.masks or {}).items():
        if name not in widths or jnp.shape(mask) != widths[name]:
            raise ValueError(f"choices.masks[{name!r}]: shape {jnp.shape(mask)}, but the hidden layers are {widths}")
    for name in {} if choices.activation is None else (choices.activation or {"none": 0.0}):
        if name not in ACTIVATIONS:
            raise ValueError(f"choices.activation[{name!r}]: allowed are {', '.join(ACTIVATIONS)}")


LINEAR = ("output", "skip")
"""Layers that add up to the output."""


def precondition(options: MLP | SparseGP, params: dict, X: Float[Array, "A D"]) -> dict:
    """Parameters of one element with the output layer scaled so that the outputs have zero mean and unit standard deviation.

    Training then starts from energies of the right size, where the energy scale of the potential is that of the data; what
    `precondition_weights` is for in RuNNer and n2p2. Outputs that are all the same (of a single atom, say) are only shifted.

    Args:
      options: the network's options; the output must be linear.
      params: the parameters of this element.
      X: scaled features of this element's atoms.

    Raises:
      ValueError: not a feed-forward network with linear output; no atom.
    """
    if not isinstance(options, MLP) or options.output_activation != "linear":
        raise ValueError("precondition: only for a feed-forward network (MLP) with output_activation='linear'")
    if len(X) == 0:
        raise ValueError("precondition: needs the features of at least one atom")
    y = apply_network(options, params, X)
    mean, spread = jnp.mean(y), jnp.std(y)
    rounding = 8 * jnp.finfo(y.dtype).eps * jnp.max(jnp.abs(y))
    factor = jnp.where(spread > rounding, 1 / jnp.where(spread > rounding, spread, 1), 1)
    scaled = {
        layer: jax.tree.map(lambda p: p * factor.astype(p.dtype), params[layer]) for layer in LINEAR if layer in params
    }
    shift = (mean * factor).astype(scaled["output"]["bias"].dtype)
    scaled["output"]["bias"] = scaled["output"]["bias"] - shift
    return {**params, **scaled}
