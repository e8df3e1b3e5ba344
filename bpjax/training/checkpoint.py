"""Checkpoints: everything that the rest of a run depends on, in one file that is replaced whole.

The file has the layout of a model file (no pickle). It carries the options and a hash of the data, so that a run cannot be
resumed as something else.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from bpjax.errors import ConfigError, ModelFileError
from bpjax.io.model_file import read_model_file, write_model_file

NAME = "checkpoint.bpjax"


def write_checkpoint(path: Path, state: Any, identity: dict[str, Any]) -> None:
    """Writes the leaves of the pytree `state`, bit for bit, and what identifies the run."""
    leaves = {f"{n:04d}": np.asarray(leaf) for n, leaf in enumerate(jax.tree.leaves(jax.device_get(state)))}
    meta = {"spec": {"type": "Checkpoint"}, "elements": [], "units": {}, "provenance": identity}
    write_model_file(path, meta, {"leaves": leaves})


def read_checkpoint(path: Path, template: Any, identity: dict[str, Any]) -> Any:
    """Reads a checkpoint into the structure of `template`.

    Raises:
      ModelFileError: not there, damaged, or no checkpoint.
      ConfigError: made by a run with other options or data; names the first difference.
    """
    meta, arrays = read_model_file(path)
    if meta["spec"] != {"type": "Checkpoint"}:
        raise ModelFileError(path, "is a model, not a checkpoint")
    difference = _difference(meta["provenance"], identity)
    if difference:
        name, then, now = difference
        raise ConfigError(
            f"was {then!r} when the run began and is {now!r} now; a run resumes as it began", str(path), name
        )
    leaves, expected = arrays.get("leaves"), [np.asarray(leaf) for leaf in jax.tree.leaves(template)]
    leaves = [leaves[key] for key in sorted(leaves)] if isinstance(leaves, dict) else []
    if [(np.shape(a), getattr(a, "dtype", None)) for a in leaves] != [(a.shape, a.dtype) for a in expected]:
        raise ModelFileError(path, "its arrays do not fit this run")
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _difference(then: Any, now: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """First leaf in which two nested dicts differ: dotted name and both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}):
            found = _difference(then.get(key), now.get(key), f"{name}.{key}" if name else key)
            if found:
                return found
        return None
    return None if then == now else (name, then, now)
