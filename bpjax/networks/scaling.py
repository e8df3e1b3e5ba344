r"""Feature scaling: each element's features to zero mean and unit spread over the training data.

:math:`x = (G - \bar G) \cdot s` with :math:`s = 1/\max(\sigma_G, \text{floor})`. A feature that hardly varies for an element (an
element pair that never occurs, say) would be blown up by :math:`1/\sigma`: its scale is held at that of the floor.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

FLOOR = 1e-3
"""Smallest spread, relative to the median spread of the element's features, that is scaled to one."""

NOISE = 1e-6
"""Spread, relative to the feature, that may be mere rounding in float32 and says nothing of what is typical."""


def init_scaling(elements: tuple[str, ...], size: int, dtype=np.float32) -> dict:
    """The identity: mean 0, scale 1, for every element."""
    return {e: {"mean": jnp.zeros(size, dtype), "scale": jnp.ones(size, dtype)} for e in elements}


def fit_scaling(features: np.ndarray, species: np.ndarray, elements: tuple[str, ...]) -> dict:
    """Scaling from the features (A, D) and species (A,) of all atoms of a data set; elements without atoms keep the identity."""
    scaling = init_scaling(elements, features.shape[1])
    for s, element in enumerate(elements):
        G = np.asarray(features[species == s], dtype=np.float64)
        if len(G) == 0:
            continue
        spread = G.std(axis=0)
        varies = spread > NOISE * np.abs(G).max(axis=0)
        typical = np.median(spread[varies]) if varies.any() else 1.0
        scale = 1.0 / np.maximum(spread, FLOOR * typical)
        scaling[element] = {
            "mean": jnp.asarray(G.mean(axis=0), jnp.float32),
            "scale": jnp.asarray(scale, jnp.float32),
        }
    return scaling


def scaled(scaling: dict, elements: tuple[str, ...], G: Float[Array, "*batch D"]) -> Float[Array, "*batch S D"]:
    """Features scaled for each element's network, elements in the order of the species indices."""
    mean = jnp.stack([scaling[e]["mean"] for e in elements])
    scale = jnp.stack([scaling[e]["scale"] for e in elements])
    shape = (1,) * (G.ndim - 1) + mean.shape
    return (G[..., None, :] - mean.reshape(shape)) * scale.reshape(shape)
