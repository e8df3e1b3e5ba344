"""Saving and loading a potential: options as JSON, arrays bit for bit, in one file (see `bpjax.io.model_file`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bpjax.errors import ModelFileError
from bpjax.io.model_file import read_model_file, write_model_file
from bpjax.potential.energy import Params, Potential, init, require_potential
from bpjax.precision import PRECISIONS, refuse_forked, unrounded
from bpjax.spec import from_spec, to_spec

UNITS = {"energy": "eV", "length": "angstrom"}
"""Of all models."""

OF_STATES = ("DiabaticPotential", "MultiStatePotential")
"""Types of models of several states, which have no one energy."""


def save(path: str | Path, model: Potential, params: Params, provenance: dict[str, Any] | None = None) -> None:
    """Writes a model file; what was at `path` stays whole until the new file is complete.

    Args:
      path: usually `NAME.bpjax`.
      model: the potential's options.
      params: its arrays; their types and bits are kept.
      provenance: what made the model (data, configuration, errors, versions): plain values.
    """
    require_potential(model)
    meta = {
        "spec": to_spec(model),
        "elements": list(model.elements),
        "units": UNITS,
        "provenance": provenance or {},
    }
    write_model_file(path, meta, jax.tree.map(np.asarray, params))


def load(path: str | Path) -> tuple[Potential, Params]:
    """Reads a model file.

    Returns: the potential and its arrays, bitwise as saved: those of 64 bits are NumPy's where JAX's double precision is off.

    Raises:
      ModelFileError: not there, not a model file, truncated, from a newer format, or with fields or arrays that do not fit.
    """
    refuse_forked()
    meta, arrays = read_model_file(path)
    kind = meta["spec"].get("type", "Potential") if isinstance(meta["spec"], dict) else "Potential"
    if kind in OF_STATES:
        raise ModelFileError(path, "is a potential of several states; bpjax hop and bpjax.excited.load_states take it")
    if kind == "Checkpoint":
        raise ModelFileError(path, "is the checkpoint of a run, not its model; bpjax train --resume takes it")
    model = from_spec(Potential, meta["spec"], where=f"{path}: model.json")
    check_meta(path, meta, model.elements)
    expected = jax.eval_shape(lambda key: init(model, key), jax.random.key(0))
    if "free_atoms" in arrays:
        if not model.isolated:
            raise ModelFileError(path, "arrays of free_atoms, but the model has no energies of isolated atoms")
        expected["free_atoms"] = {
            element: {"features": own["mean"], "steepness": expected["energy_scale"]}
            for element, own in expected["scaling"].items()
        }
    check_arrays(path, arrays, expected)
    return model, unrounded(arrays)


def check_meta(path: str | Path, meta: dict[str, Any], elements: Sequence[str]) -> None:
    """Compares what a file says beside its options with them.

    Raises:
      ModelFileError: other elements than those of the options, or in another order; units that are not those of models.
    """
    if meta["elements"] != list(elements):
        raise ModelFileError(
            path, f"model.json: elements are {meta['elements']}, those of its options {list(elements)}"
        )
    if meta["units"] != UNITS:
        raise ModelFileError(path, f"model.json: units are {meta['units']}; models are in {UNITS}")


def check_arrays(path: str | Path, arrays: dict[str, Any], expected: Any) -> None:
    """Compares the arrays of a file with those that its model needs.

    Raises:
      ModelFileError: the first array that is missing, unknown, of a wrong shape or kind of numbers, not finite, or a range of
        training that is none.
    """
    found = {jax.tree_util.keystr(k): np.asarray(a) for k, a in jax.tree_util.tree_leaves_with_path(arrays)}
    wanted = {jax.tree_util.keystr(k): a for k, a in jax.tree_util.tree_leaves_with_path(expected)}
    for name in sorted(wanted.keys() | found.keys()):
        array, like = found.get(name), wanted.get(name)
        if array is None or like is None or array.shape != like.shape:
            has = "is missing" if array is None else f"has shape {array.shape}"
            needs = "no such array" if like is None else f"shape {like.shape}"
            raise ModelFileError(path, f"array {name} {has}, the model needs {needs}")
        if array.dtype.kind != np.dtype(like.dtype).kind:
            raise ModelFileError(path, f"array {name} holds {array.dtype}, the model needs numbers like {like.dtype}")
        # Of features whose range is not known it is infinite.
        bad = np.isnan if name.endswith(("['min']", "['max']")) else lambda array: ~np.isfinite(array)
        if array.dtype.kind == "f" and bad(array).any():
            raise ModelFileError(path, f"array {name} holds numbers that are not finite")
        if array.dtype.kind == "f" and array.dtype.name not in PRECISIONS:
            raise ModelFileError(path, f"array {name} holds {array.dtype}; allowed are {', '.join(PRECISIONS)}")
        if name.endswith("['min']") and (array > found[name.replace("['min']", "['max']")]).any():
            raise ModelFileError(
                path, f"array {name} is above the largest values that the file says were met in training"
            )


def provenance(path: str | Path) -> dict[str, Any]:
    """What the model file says of its origin."""
    return read_model_file(path)[0]["provenance"]
