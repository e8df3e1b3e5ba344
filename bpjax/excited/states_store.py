"""Saving and loading potentials of several states, in the package's model files (see `bpjax.io.model_file`)."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from bpjax.errors import ModelFileError
from bpjax.excited.diabatic import DiabaticPotential, MultiStatePotential, Params, init
from bpjax.io.model_file import read_model_file, write_model_file
from bpjax.potential.energy import Potential
from bpjax.potential.store import UNITS, check_arrays, check_meta
from bpjax.precision import unrounded
from bpjax.spec import from_spec, named_class, to_spec

_KINDS = (DiabaticPotential, MultiStatePotential)


def save_states(
    path: str | Path,
    model: DiabaticPotential | MultiStatePotential,
    params: Params,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Writes a model file; what was at `path` stays whole until the new file is complete.

    Args:
      path: usually `NAME.bpjax`.
      model: the options.
      params: its arrays; their types and bits are kept.
      provenance: what made the model: plain values.
    """
    meta = {
        "spec": to_spec(model),
        "elements": list(model.elements),
        "units": UNITS,
        "provenance": provenance or {},
    }
    write_model_file(path, meta, jax.tree.map(np.asarray, params))


def load_states(path: str | Path) -> tuple[DiabaticPotential | MultiStatePotential, Params]:
    """Reads a model file of several states.

    Returns: the model and its arrays, bitwise as saved.

    Raises:
      ModelFileError: not there, not a model file, one of another kind, or with arrays that do not fit.
    """
    meta, arrays = read_model_file(path)
    kind = named_class(meta["spec"])
    if kind not in _KINDS:
        allowed = ", ".join(cls.__name__ for cls in _KINDS)
        held = f"a model of kind {kind.__name__}" if kind else "a model of no known kind"
        hint = "; bpjax predict, evaluate, md and the ASE calculator take it" if kind is Potential else ""
        raise ModelFileError(path, f"holds {held}, not one of several states ({allowed}){hint}")
    model = from_spec(kind, meta["spec"], where=f"{path}: model.json")
    check_meta(path, meta, model.elements)
    check_arrays(path, arrays, jax.eval_shape(lambda key: init(model, key), jax.random.key(0)))
    return model, unrounded(arrays)
