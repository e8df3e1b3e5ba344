"""Single and double precision: JAX computes in the one that is asked for, whatever the process is set to."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.errors import BpjaxError, ConfigError

try:
    from jax._src import xla_bridge
except ImportError:  # not public: where it has moved, no child may compute
    xla_bridge = None

PRECISIONS = ("float32", "float64")

NEAR = 50.0
"""Distance in A from the origin up to which single precision holds positions well enough: to 4e-6 A."""

WIDE = 300.0
"""Distance in A from the origin beyond which it does not: to 2e-5 A, forces to some 1e-5 eV/A."""


def name_of_dtype(dtype: Any) -> str:
    """The precision "float32" or "float64", from such a word or a type of NumPy.

    Raises:
      ConfigError: another one.
    """
    name = None
    with contextlib.suppress(TypeError):
        name = None if dtype is None else np.dtype(dtype).name
    if name not in PRECISIONS:
        raise ConfigError(f"{dtype!r} is not one of {', '.join(PRECISIONS)}", field="dtype")
    return name


def precision(dtype: str) -> AbstractContextManager[Any]:
    """A context in which JAX computes in this precision, whatever it is set to outside, for the present thread.

    Libraries switch double precision on for the whole process when they are imported (Sella, pymbar): what is computed here does
    not depend on it.
    """
    refuse_forked()
    return jax.enable_x64(dtype == "float64")


def unrounded(arrays: Any) -> Any:
    """Arrays of a tree as JAX's; those that it would round, of 64 bits where double precision is off, stay NumPy's."""

    def kept(array: Any) -> Any:
        array = np.asarray(array)
        found = jnp.asarray(array)
        return found if found.dtype == array.dtype else array

    return jax.tree.map(kept, arrays)


_forked: list[bool] = []
"""Holds something where this process was forked from one that had used JAX."""


def _note_fork() -> None:
    """In the child: the devices are those that the parent had begun to use, without the threads that serve them."""
    if xla_bridge is None or xla_bridge.backends_are_initialized():
        _forked.append(True)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def refuse_forked() -> None:
    """In a child that was forked from a process that had used JAX every call would wait for ever.

    Raises:
      BpjaxError: this is one.
    """
    if _forked:
        raise BpjaxError(
            "this process was forked from one that had used JAX, whose threads are not in it: start processes by "
            'multiprocessing.get_context("spawn") or "forkserver", or before any model is made'
        )
