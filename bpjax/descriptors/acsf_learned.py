r"""Parameters of symmetry functions as arrays: constants of the compiled program, or values that are learned.

Functions of a kind (G4, say) with the same :math:`(\eta, r_s)` have one radial part between them. It is computed once, and what
is learned of it is one value for all of them: parameters are arrays over the distinct radial parts of each kind. As arrays they
are arguments of the compiled program, so that training may change them and a sweep may run over them (`vmap`) without another
compilation.

Widths are kept as roots, :math:`\eta = \rho^2`: no step of an optimizer can make :math:`\eta` negative, where a function grows
with the distance instead of fading. (A bound would have to be known to every optimizer; :math:`\ln\eta` cannot be 0.) The
derivative with :math:`\rho` vanishes at :math:`\rho = 0`, hence a function that starts without a Gaussian, at :math:`\eta = 0`,
keeps :math:`\eta = 0` under gradient descent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bpjax.descriptors.acsf_parts import pick

LEARNABLE = {"g2": ("eta", "r_s"), "g3": ("kappa",), "g4": ("eta", "r_s"), "g5": ("eta", "r_s")}
"""Parameters of the functions of each kind that can be learned."""

STORED = {"eta": "root_eta", "r_s": "r_s", "kappa": "kappa"}
"""Name of the array in which each of them is kept."""


class Parts(NamedTuple):
    """Distinct radial parts of the functions of one kind, in the order of their first occurrence.

    Attributes:
      start: value of each parameter in every part, (Q,), as the options have it.
      numbers: number of the part of each function.
    """

    start: dict[str, np.ndarray]
    numbers: tuple[int, ...]


def parts_of(kind: str, functions: Sequence[Any]) -> Parts:
    """Radial parts of functions of a kind: `Radial`, `Angular`, or the kappa of G3."""
    names = LEARNABLE[kind]
    rows = [(f,) if kind == "g3" else tuple(getattr(f, name) for name in names) for f in functions]
    distinct = list(dict.fromkeys(rows))
    table = np.array(distinct, float).reshape(-1, len(names)).T
    return Parts(dict(zip(names, table, strict=True)), tuple(map(distinct.index, rows)))


def learned_names(learn: bool | tuple[str, ...], kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parameters to be learned of each kind of functions, of those kinds that have some.

    Args:
      learn: True for all, or their names.
      kinds: kinds of which there are functions.

    Raises:
      ValueError: a name that is unknown, listed twice, or a parameter of no function.
    """
    if learn is False or learn == ():
        return {}
    present = {name for kind in kinds for name in LEARNABLE.get(kind, ())}
    names = tuple(STORED) if learn is True else learn
    if not isinstance(names, tuple) or not set(names) <= set(STORED) or len(set(names)) != len(names):
        raise ValueError(f"ACSF learn={learn!r}: allowed are False, True, or some of {', '.join(STORED)}, each once")
    if not present or (learn is not True and not set(names) <= present):
        raise ValueError(
            f"ACSF learn={learn!r}: no function has such a parameter; here are {sorted(present) or 'none'}"
        )
    found = {kind: tuple(name for name in LEARNABLE.get(kind, ()) if name in names) for kind in kinds}
    return {kind: own for kind, own in found.items() if own}


def start_of(parts: Mapping[str, Parts], learned: Mapping[str, tuple[str, ...]], dtype) -> dict:
    """Arrays of the learned parameters at their start: kind -> name in `STORED` -> (Q,)."""

    def stored(name, value):
        return jnp.asarray(np.sqrt(value) if name == "eta" else value, dtype)

    return {k: {STORED[name]: stored(name, parts[k].start[name]) for name in names} for k, names in learned.items()}


def check_shapes(params: Any, parts: Mapping[str, Parts], learned: Mapping[str, tuple[str, ...]]) -> None:
    """Checks that arrays are those of `start_of`, but for their values.

    Raises:
      ValueError: they are not.
    """
    expected = {k: {STORED[n]: parts[k].start[n].shape for n in names} for k, names in learned.items()}
    found = {k: {name: np.shape(value) for name, value in own.items()} for k, own in params.items()}
    if found != expected:
        raise ValueError(f"ACSF params: arrays of shapes {expected} are learned here, got {found}")


def values(parts: Parts, name: str, numbers: np.ndarray, learned: Mapping[str, Array], dtype) -> Float[Array, " Q"]:
    """A parameter of some radial parts: a constant, or what was learned."""
    if STORED[name] not in learned:
        return jnp.asarray(parts.start[name][numbers], dtype)
    value = pick(jnp.asarray(learned[STORED[name]]).astype(dtype), numbers)
    return value * value if name == "eta" else value


def with_values(functions: Sequence[Any], kind: str, parts: Parts, learned: Mapping[str, Any]) -> tuple:
    """The functions of a kind with learned values as their options."""
    new = {name: np.asarray(learned[STORED[name]], float) for name in LEARNABLE[kind] if STORED[name] in learned}
    if not new:
        return tuple(functions)
    new = {name: (value**2 if name == "eta" else value).tolist() for name, value in new.items()}
    if kind == "g3":
        return tuple(new["kappa"][q] for q in parts.numbers)
    changes = [{name: value[q] for name, value in new.items()} for q in parts.numbers]
    return tuple(replace(f, **change) for f, change in zip(functions, changes, strict=True))
