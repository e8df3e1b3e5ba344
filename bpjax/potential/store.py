"""Saving and loading a potential: options as JSON, arrays bit for bit, in one file (see `bpjax.io.model_file`)."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.errors import ModelFileError
from bpjax.io.model_file import read_model_file, write_model_file
from bpjax.potential.energy import Params, Potential, init
from bpjax.spec import from_spec, to_spec


def save(path: str | Path, model: Potential, params: Params, provenance: dict[str, Any] | None = None) -> None:
    """Writes a model file; what was at `path` stays whole until the new file is complete.

    Args:
      path: usually `NAME.bpjax`.
      model: the potential's options.
      params: its arrays; their types and bits are kept.
      provenance: what made the model (data, configuration, errors, versions): plain values.
    """
    meta = {
        "spec": to_spec(model),
        "elements": list(model.elements),
        "units": {"energy": "eV", "length": "angstrom"},
        "provenance": provenance or {},
    }
    write_model_file(path, meta, jax.tree.map(np.asarray, params))


def load(path: str | Path) -> tuple[Potential, Params]:
    """Reads a model file.

    Returns: the potential and its arrays, bitwise as saved.

    Raises:
      ModelFileError: not there, not a model file, truncated, from a newer format, or with fields or arrays that do not fit.
    """
    meta, arrays = read_model_file(path)
    model = from_spec(Potential, meta["spec"], where=f"{path}: model.json")
    expected = jax.eval_shape(lambda key: init(model, key), jax.random.key(0))
    if "free_atoms" in arrays:
        if not model.isolated:
            raise ModelFileError(path, "arrays of free_atoms, but the model has no energies of isolated atoms")
        expected["free_atoms"] = {
            element: {"features": own["mean"], "steepness": expected["energy_scale"]}
            for element, own in expected["scaling"].items()
        }
    check_arrays(path, arrays, expected)
    return model, jax.tree.map(jnp.asarray, arrays)


def check_arrays(path: str | Path, arrays: dict[str, Any], expected: Any) -> None:
    """Compares names and shapes of the arrays of a file with those that its model needs.

    Raises:
      ModelFileError: the first array that is missing, unknown, or of a wrong shape.
    """
    found = {jax.tree_util.keystr(k): np.shape(a) for k, a in jax.tree_util.tree_leaves_with_path(arrays)}
    wanted = {jax.tree_util.keystr(k): a.shape for k, a in jax.tree_util.tree_leaves_with_path(expected)}
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name):
            has = f"has shape {found[name]}" if name in found else "is missing"
            needs = f"shape {wanted[name]}" if name in wanted else "no such array"
            raise ModelFileError(path, f"array {name} {has}, the model needs {needs}")


def provenance(path: str | Path) -> dict[str, Any]:
    """What the model file says of its origin."""
    return read_model_file(path)[0]["provenance"]
