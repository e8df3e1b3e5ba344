r"""Folders of RuNNer and n2p2 as potentials of this package.

Features of an atom are scaled as :math:`x = (G - \bar G)\,s`, whichever way the folder asks for; a division by the number of
inputs of each neuron (``normalize_nodes``) goes into the weights; the units of the networks go into the energy scale.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import jax
import numpy as np

from bpjax.descriptors import SymmetryFunctions
from bpjax.errors import FormatError
from bpjax.interop.n2p2.folder import SETTINGS, Folder, read_folder
from bpjax.interop.n2p2.settings import Settings
from bpjax.networks import PerElement
from bpjax.potential.energy import Params, Potential
from bpjax.units import unit_system


def read_potential(
    path: str | os.PathLike[str], units: str | None, *, element_nodes: str = "n2p2"
) -> tuple[Potential, Params]:
    """The potential of a folder, or the committee of a folder with subfolders ``nnp-1``, ``nnp-2``, ... (or ``nnp-data-1``, ...).

    Args:
      path: the folder.
      units: a name in `bpjax.units.SYSTEMS`; the files do not say it.
      element_nodes: how to read widths of single elements' layers, "n2p2" or "documented"; see `read_folder`.

    Returns: the model and its arrays, in float64 (NumPy); in a committee they have a leading axis of members.

    Raises:
      ConfigError: the units are not given, or are unknown.
      FormatError: a file is missing or cannot be understood, or the members of a committee do not fit together.
    """
    energy, length = unit_system(units, os.fspath(path))
    paths = _members(Path(path))
    if paths is None:
        folder = read_folder(path, element_nodes=element_nodes)
        return _model(folder.settings, energy, length, None), _params(folder, energy)
    folders = [read_folder(member, element_nodes=element_nodes) for member in paths]
    for member, folder in zip(paths, folders, strict=True):
        _check_member(member, folder.settings, paths[0], folders[0].settings)
    params = [_params(folder, energy) for folder in folders]
    model = _model(folders[0].settings, energy, length, len(folders))
    return model, jax.tree.map(lambda *leaves: np.stack(leaves), *params)


MEMBER = re.compile(r"(nnp-(?:data-)?)(\d+)")
"""Names of the members of a committee."""


def _members(path: Path) -> list[Path] | None:
    """Folders of a committee, in order; None for a single potential."""
    names = [p.name for p in path.iterdir()] if path.is_dir() else []
    found = [match for name in names if (match := MEMBER.fullmatch(name))]
    if len({match.group(1) for match in found}) > 1:
        raise FormatError(path, "holds members of two committees, nnp-1, ... and nnp-data-1, ...; give one of them")
    prefix = found[0].group(1) if found else "nnp-"
    numbers = sorted(int(match.group(2)) for match in found)
    if not numbers:
        return None
    if SETTINGS in names:
        raise FormatError(
            path, f"holds both {SETTINGS} and members of a committee ({prefix}{numbers[0]}); give one of them"
        )
    if numbers != list(range(1, len(numbers) + 1)):
        missing = next(n for n in range(1, len(numbers) + 2) if n not in numbers)
        names = f"{prefix}1, {prefix}2, ..."
        raise FormatError(path, f"{prefix}{missing} is missing: members of a committee are {names} without gaps")
    return [path / f"{prefix}{n}" for n in numbers]


_COMMON = {
    "elements": "elements",
    "functions": "symmetry functions",
    "networks": "shapes of the networks",
    "cutoff_kind": "cutoff function",
    "cutoff_inner": "inner radius of the cutoff function",
    "atom_energy": "atom_energy",
    "mean_energy": "mean_energy",
}
"""What the members of a committee have in common; scaling, weights and units of the networks may be their own."""


def _check_member(path: Path, settings: Settings, first_path: Path, first: Settings) -> None:
    for name, words in _COMMON.items():
        if getattr(settings, name) != getattr(first, name):
            raise FormatError(
                path / SETTINGS, f"{words} differ from those of {first_path.name}; a committee shares them"
            )


def _model(s: Settings, energy: float, length: float, members: int | None) -> Potential:
    descriptor = SymmetryFunctions(
        elements=s.elements,
        functions=s.functions,
        cutoff_kind=s.cutoff_kind,
        cutoff_inner=s.cutoff_inner,
        unit=length,
    )
    same = len(set(s.networks)) == 1
    return Potential(
        descriptor=descriptor,
        network=s.networks[0] if same else PerElement(s.networks),
        offsets=tuple((e + s.mean_energy) * energy for e in s.atom_energy),
        members=members,
    )


def _params(folder: Folder, energy: float) -> Params:
    s = folder.settings
    size = max(map(len, s.functions))
    networks, scaling = {}, {}
    for element in s.elements:
        weights = folder.weights[element]
        networks[element] = _padded(_normalised(weights) if s.normalize_nodes else weights, size)
        scaling[element] = linear_scaling(s, folder.scaling[element], size)
    # NumPy: jax.numpy would round to float32 where x64 is off.
    return {"networks": networks, "scaling": scaling, "energy_scale": np.array(energy / s.conv_energy)}


def _normalised(weights: dict) -> dict:
    """Weights that hold the division of each neuron's input by the number of neurons that feed it."""
    return {
        name: {part: values / len(layer["kernel"]) for part, values in layer.items()} for name, layer in weights.items()
    }


def _padded(weights: dict, size: int) -> dict:
    """Weights of as many inputs as the element with most functions has; the added ones are zero, as their features are."""
    first = "hidden_0" if "hidden_0" in weights else "output"
    kernel = weights[first]["kernel"]
    padded = np.pad(kernel, ((0, size - len(kernel)), (0, 0)))
    return {**weights, first: {**weights[first], "kernel": padded}}


def linear_scaling(settings: Settings, table: np.ndarray, size: int) -> dict[str, np.ndarray]:
    r"""Scaling :math:`(G - \bar G)\,s` of one element and the range of its functions, filled up to `size` functions.

    Args:
      settings: they say the way of scaling.
      table: minimum, maximum, mean and sigma of each function, (D, 4).
      size: number of features.
    """
    low, high, mean, sigma = table.T
    start, width = settings.scale_min, settings.scale_max - settings.scale_min
    center, scale = np.zeros(len(table)), np.ones(len(table))
    if settings.scaling == "center":
        center = mean
    elif settings.scaling != "none":
        scale = width / (sigma if settings.scaling == "sigma" else high - low)
        # start + scale (G - origin) = scale (G - center)
        center = (low if settings.scaling == "scale" else mean) - start / scale
    fill = size - len(table)
    columns = {"mean": (center, 0.0), "scale": (scale, 1.0), "min": (low, -np.inf), "max": (high, np.inf)}
    return {name: np.concatenate([values, np.full(fill, pad)]) for name, (values, pad) in columns.items()}


def members_of(model: Potential, params: Params) -> list[tuple[Potential, Params]]:
    """The members of a committee as single potentials; a single potential as a list of itself."""
    if model.members is None:
        return [(model, params)]
    one = dataclasses.replace(model, members=None)
    return [(one, jax.tree.map(lambda p, n=n: p[n], params)) for n in range(model.members)]
