"""What a model file says of the run that made it, and that run once more."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from bpjax.errors import BpjaxError, ConfigError, ModelFileError
from bpjax.io.atomic import one_file
from bpjax.io.model_file import read_model_file
from bpjax.machine import versions
from bpjax.potential.store import OF_STATES
from bpjax.spec import from_spec, to_spec
from bpjax.training.options import TrainingOptions
from bpjax.training.prepare import Structures, prepare


def how_made(
    settings: TrainingOptions, structures: Structures, step: int, data_folder: Path | None, folder: Path
) -> dict[str, Any]:
    """How to make a model again.

    Args:
      settings: the options of the run.
      structures: its data.
      step: how many steps it made.
      data_folder: what names of data in the options are relative to; None if nobody knows.
      folder: where the model is going to be.

    Returns: plain values: ``options``, ``data`` (a hash), ``versions``, ``step``, ``periodic`` (see `periodicity`), ``folder``
      (of the data, as seen from the model).
    """
    return {
        "options": to_spec(settings),
        "data": structures.fingerprint(),
        "versions": versions(),
        "step": step,
        "periodic": periodicity(structures),
        "folder": _relative(data_folder or Path(), folder),
    }


def periodicity(structures: Structures) -> str:
    """Whether "all", "some" or "none" of the structures that are trained on are periodic."""
    periodic = [bool(atoms.pbc.any()) for atoms in structures.train.frames]
    return "all" if all(periodic) else "some" if any(periodic) else "none"


def _relative(place: Path, to: Path) -> str:
    """A folder as seen from another: both may move together. On another drive there is no way to it."""
    try:
        return Path(os.path.relpath(place, to)).as_posix()
    except ValueError:
        return "."


def read_repetition(path: Path, data_folder: Path | None = None) -> tuple[TrainingOptions, Structures, Path]:
    """Options and structures of the run that made a model, and the folder of the data.

    The data are looked for in `data_folder`; without one, in the current folder and where they were, as seen from the model, when
    it was made. What counts is that they are the same: files of the same names that hold something else are passed over.

    Raises:
      FormatError, StructureError: a file or structure that cannot be used.
      ModelFileError: a model that does not say how it was trained.
      ConfigError: data that are not there, or are others.
    """
    meta = read_model_file(path)[0]
    if isinstance(meta["spec"], dict) and meta["spec"].get("type") in OF_STATES:
        raise ModelFileError(
            path, "is a potential of several states; bpjax.excited trains such, and bpjax hop takes it"
        )
    made = meta["provenance"]
    if not isinstance(made, dict) or not {"options", "data"} <= set(made):
        raise ModelFileError(path, "does not say how it was trained: it was not made by bpjax train or sweep")
    settings = from_spec(TrainingOptions, made["options"], f"{path}: provenance")
    places = [data_folder] if data_folder else [Path(), path.parent / str(made.get("folder", "."))]
    structures, place = _found(path, settings, made["data"], places)
    present = versions()
    other = [f"{name} {was}" for name, was in made.get("versions", {}).items() if present.get(name) != was]
    if other:
        warnings.warn(f"{path} was made with {', '.join(other)}: numbers may differ", stacklevel=2)
    return settings, structures, place


def _found(path: Path, settings: TrainingOptions, wanted: str, places: list[Path]) -> tuple[Structures, Path]:
    """The data of a model, in the first place that has them."""
    names = [*settings.data.train, *settings.data.validation, *settings.data.test]
    there = [place for place in places if all((place / name).exists() for name in names)]
    if not there:
        looked = " and in ".join(str(place.resolve()) for place in places)
        missing = next(name for name in names if not (places[-1] / name).exists())
        raise ConfigError(f"{missing} of its data is not in {looked}; --data-folder says where they are", str(path))
    if len(there) == 2 and one_file(*there):
        there = there[:1]
    batch_size, faults = getattr(settings.optimizer, "batch_size", None), []
    for place in there:
        try:
            structures = prepare(settings.data, place, settings.optimizer.seed, batch_size)
        except BpjaxError as error:
            faults.append(error)
            continue
        found = structures.fingerprint()
        if found == wanted:
            return structures, place
        message = f"was trained on other data than {', '.join(settings.data.train)} now hold in {place.resolve()}"
        faults.append(ConfigError(f"{message} (hash {wanted[:12]}, not {found[:12]})", str(path)))
    raise faults[-1]
