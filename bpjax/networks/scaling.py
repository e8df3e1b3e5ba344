r"""Feature scaling: each element's features to zero mean and unit spread over the training data.

:math:`x = (G - \bar G) \cdot s` with :math:`s = 1/\max(\sigma_G, \text{floor})`. A feature that hardly varies for an element (an
element pair that never occurs, say) would be blown up by :math:`1/\sigma`: its scale is held at that of the floor. Beside mean
and scale each element keeps the smallest and largest value of its features, the range in which the network interpolates.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

FLOOR = 1e-3
"""Smallest spread, relative to the median spread of the element's features, that is scaled to one."""

NOISE = 1e-6
"""Spread, relative to the feature, that may be mere rounding in float32 and says nothing of what is typical."""


ROWS = 4096
"""Atoms whose features are read at a time."""


def init_scaling(elements: tuple[str, ...], size: int, dtype=np.float32) -> dict:
    """The identity: mean 0, scale 1, no limits, for every element."""
    zeros = jnp.zeros(size, dtype)
    return {e: {"mean": zeros, "scale": zeros + 1, "min": zeros - jnp.inf, "max": zeros + jnp.inf} for e in elements}


def fit_scaling(features: np.ndarray, species: np.ndarray, elements: tuple[str, ...]) -> dict:
    """Scaling from the features (A, D) and species (A,) of all atoms of a data set; elements without atoms keep the identity."""
    scaling = init_scaling(elements, features.shape[1])
    for s, element in enumerate(elements):
        atoms = np.flatnonzero(species == s)
        if len(atoms) == 0:
            continue
        # Some rows at a time in double precision: features may be files that are larger than the memory.
        parts = [atoms[start : start + ROWS] for start in range(0, len(atoms), ROWS)]
        mean = sum(features[part].sum(axis=0, dtype=np.float64) for part in parts) / len(atoms)
        square = sum(np.square(features[part] - mean).sum(axis=0) for part in parts) / len(atoms)
        low = np.min([features[part].min(axis=0) for part in parts], axis=0)
        high = np.max([features[part].max(axis=0) for part in parts], axis=0)
        spread = np.sqrt(square)
        varies = spread > NOISE * np.maximum(np.abs(low), np.abs(high))
        typical = np.median(spread[varies]) if varies.any() else 1.0
        scale = 1.0 / np.maximum(spread, FLOOR * typical)
        scaling[element] = {
            "mean": jnp.asarray(mean, jnp.float32),
            "scale": jnp.asarray(scale, jnp.float32),
            # Rounded outwards, so that no atom of the data lies outside.
            "min": jnp.asarray(np.nextafter(np.float32(low), -np.inf)),
            "max": jnp.asarray(np.nextafter(np.float32(high), np.inf)),
        }
    return scaling


def scaled(scaling: dict, G: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Features of an atom scaled for the network of its element; `scaling` is the entry of this element."""
    return (G - scaling["mean"]) * scaling["scale"]


def scaled_on_host(scaling: dict, G: np.ndarray) -> np.ndarray:
    """As `scaled`, of many atoms (A, D), in float64 on the host."""
    mean, scale = (np.asarray(scaling[name], np.float64) for name in ("mean", "scale"))
    return (np.asarray(G, np.float64) - mean) * scale


def outside(scaling: dict, G: Float[Array, " D"]) -> Bool[Array, " D"]:
    """Which features of an atom lie outside the range that its element's features had in training.

    In double precision the tolerance is that of n2p2, 1000 units of rounding. In lower precision it is 16 units of the limit and
    1e-4 of the spread of the feature, since small features are differences of large terms.
    """
    eps = jnp.finfo(G.dtype).eps

    def slack(limit):
        return 1000 * eps if G.dtype == jnp.float64 else 16 * eps * jnp.abs(limit) + 1e-4 / scaling["scale"]

    low, high = scaling["min"], scaling["max"]
    return (G < low - slack(low)) | (G > high + slack(high))


def ranges_known(scaling: dict[str, dict]) -> bool:
    """Whether the range of any feature in training is known, by element; without it there is nothing to watch."""
    return any(np.isfinite(np.asarray(table[limit])).any() for table in scaling.values() for limit in ("min", "max"))
