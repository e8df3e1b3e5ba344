"""Models of this package as folders for n2p2, LAMMPS and CP2K."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from bpjax.descriptors import ACSF, SymmetryFunction, SymmetryFunctions
from bpjax.elements import atomic_numbers
from bpjax.errors import ConfigError
from bpjax.interop.n2p2.folder import Folder, folder_files, write_tree
from bpjax.interop.n2p2.functions import as_evaluated, in_order, number_text, sort_key, sorted_functions
from bpjax.interop.n2p2.potential import members_of
from bpjax.interop.n2p2.settings import CUTOFFS, Settings
from bpjax.interop.n2p2.shapes import LETTERS
from bpjax.networks import MLP
from bpjax.networks.elemental import mlp_of, options_of
from bpjax.potential.energy import Params, Potential, with_fixed_descriptor
from bpjax.units import BOHR, HARTREE, unit_system

READERS = {"n2p2": "n2p2", "lammps": "LAMMPS", "cp2k": "CP2K", "runner": "RuNNer"}
"""Programs that read such folders; pair_style hdnnp of LAMMPS is n2p2 itself."""

WIDE_RANGE = 1e6
"""Where the range of a function in training is not known: this many sigmas about the mean."""


def write_potential(
    path: str | os.PathLike[str],
    model: Potential,
    params: Params,
    units: str = "ev-angstrom",
    *,
    reader: str = "n2p2",
    overwrite: bool = False,
) -> list[str]:
    """Writes a model as a folder that n2p2 reads; a committee as folders ``nnp-1``, ``nnp-2``, ... inside of it.

    Args:
      path: the folder to make.
      model: a potential with an `ACSF` or `SymmetryFunctions` descriptor.
      params: its arrays.
      units: a name in `bpjax.units.SYSTEMS`, those of the files.
      reader: one of `READERS`, the program that is to read the folder; all but n2p2 and LAMMPS read less than n2p2 does.
      overwrite: whether to replace an earlier potential there.

    Returns: remarks for the user, among them the commands for LAMMPS.

    Raises:
      ConfigError: the model has what the reader has not (all of it is listed), or reader or units are unknown.
      OutputExistsError: something is there already.
      BpjaxError: the folder cannot be written.
    """
    energy, length = unit_system(units, os.fspath(path))
    if reader not in READERS:
        raise ConfigError(f"{reader!r} is not one of {', '.join(READERS)}", field="reader")
    model, params = with_fixed_descriptor(model, params)
    problems = export_problems(model, reader)
    problems += [] if problems else _number_problems(model, params)
    if reader == "cp2k" and units != "hartree-bohr":
        problems.append(f"units {units} (CP2K reads hartree and bohr)")
    if problems:
        raise ConfigError(f"cannot be written for {READERS[reader]}: " + "; ".join(problems), os.fspath(path))
    comments = ["Behler-Parrinello potential written by bpjax.", f"Units: {units.replace('-', ', ')}."]
    files: dict[str, str] = {}
    remarks: list[str] = []
    for number, (one, arrays) in enumerate(members_of(model, params), start=1):
        folder, own = _folder(one, arrays, energy, length)
        prefix = "" if model.members is None else f"nnp-{number}/"
        files |= {prefix + name: text for name, text in folder_files(folder, comments).items()}
        remarks += [remark for remark in own if remark not in remarks]
    write_tree(path, files, overwrite=overwrite)
    return remarks + _usage(os.fspath(path), model, energy, length)


# ------------------------------------------------------------------------------------------- what fits


def export_problems(model: Potential, reader: str = "n2p2") -> list[str]:
    """What of a model the program of this name in `READERS` cannot read, empty if nothing."""
    return _problems(model) or _problems_of(model, reader)


def _problems_of(model: Potential, reader: str) -> list[str]:
    """What of a model that n2p2 reads another program does not, or passes over without a word."""
    descriptor: Any = model.descriptor
    functions = {f for own in functions_of(descriptor) for f in own}
    kinds = sorted({f.kind for f in functions})
    networks = [mlp_of(model.network, index) for index in range(len(model.elements))]
    if reader == "cp2k":
        known, cutoffs, shifted = (2, 3), ("cosine", "tanh3"), {f.kind for f in functions if f.kind != 2 and f.r_s}
        problems = [f"symmetry functions of type {kind}" for kind in kinds if kind not in known]
        problems += [f"a shift r_s of type {kind}, which it passes over" for kind in sorted(shifted & set(known))]
    elif reader == "runner":
        known, cutoffs = (2, 3, 9), tuple(CUTOFFS)
        problems = [f"symmetry functions of type {kind}" for kind in kinds if kind not in known]
        shifted = {f.kind for f in functions if f.kind in (3, 9) and f.r_s}
        problems += [f"a shift r_s of type {kind}, which it passes over" for kind in sorted(shifted)]
        problems.append("scaling by sigma (scale_symmetry_functions_sigma)")
    else:
        return []
    if descriptor.cutoff_kind not in cutoffs:
        problems.append(f"cutoff function {descriptor.cutoff_kind} (only {', '.join(cutoffs)})")
    if descriptor.cutoff_inner and reader == "cp2k":
        problems.append("an inner cutoff radius, which it passes over")
    if any(network.output_activation != "linear" for network in networks):
        problems.append("an output activation, which needs a normalised data set")
    return problems


def _problems(model: Potential) -> list[str]:
    """What of a model cannot be expressed."""
    problems, descriptor = [], model.descriptor
    if not isinstance(descriptor, ACSF | SymmetryFunctions):
        problems.append(f"descriptor {type(descriptor).__name__} (only ACSF and SymmetryFunctions)")
    if isinstance(descriptor, ACSF):
        problems += _acsf_problems(descriptor)
    if isinstance(descriptor, SymmetryFunctions):
        distinct = [len({_in_unit(f, 1.0) for f in functions}) for functions in descriptor.functions]
        if distinct != list(map(len, descriptor.functions)):
            problems.append("functions that are the same but for the order of their two neighbours")
        ordered = [sorted_functions(functions, model.elements) for functions in descriptor.functions]
        if any(as_evaluated(functions) != functions for functions in ordered):
            problems.append(
                "functions with a core_jk, or of type 24 that differ in nothing but their core, which n2p2 mixes up"
            )
    if any(not isinstance(options_of(model.network, index), MLP) for index in range(len(model.elements))):
        return [*problems, "networks other than MLP"]
    if any(getattr(options_of(model.network, index), "skip", False) for index in range(len(model.elements))):
        return [*problems, "networks with a linear function of the features beside them (MLP.skip)"]
    networks = [mlp_of(model.network, index) for index in range(len(model.elements))]
    used = {name for network in networks for name in (*network.activations, network.output_activation)}
    problems += [f"activation {name} of the networks" for name in sorted(used - set(LETTERS.values()))]
    if len({(len(n.hidden), n.activations, n.output_activation) for n in networks}) > 1:
        problems.append("networks whose depth or activations differ from element to element")
    return problems


def _acsf_problems(acsf: ACSF) -> list[str]:
    problems = []
    if acsf.g3:
        problems.append("G3 functions")
    if acsf.weights is not None:
        if tuple(acsf.weights) != tuple(map(float, atomic_numbers(acsf.elements))):
            problems.append("weights other than the atomic numbers")
        if acsf.g5:
            problems.append("G5 functions with weights")
    if acsf.g1 and any(p.eta == 0 and p.r_s == 0 for p in acsf.g2):
        problems.append("G1 together with G2 of eta=0 and r_s=0, which is the same function twice")
    return problems


def _number_problems(model: Potential, params: Params) -> list[str]:
    problems = []
    for element in model.elements:
        scale = np.asarray(params["scaling"][element]["scale"])
        if not (np.isfinite(scale) & (scale > 0)).all():
            problems.append(f"a feature scale of {element} that is not positive")
        leaves = [v for layer in params["networks"][element].values() for v in layer.values()]
        if not all(np.isfinite(np.asarray(v)).all() for v in [*leaves, params["scaling"][element]["mean"]]):
            problems.append(f"weights or feature means of {element} that are not finite")
    if not (np.isfinite(params["energy_scale"]) & (np.asarray(params["energy_scale"]) > 0)).all():
        problems.append("an energy scale that is not positive")
    return problems


# ---------------------------------------------------------------------------------------- what is written


def functions_of(descriptor: ACSF | SymmetryFunctions) -> tuple[tuple[SymmetryFunction, ...], ...]:
    """Functions of each central element in the order of the features, lengths in the descriptor's own unit."""
    if isinstance(descriptor, SymmetryFunctions):
        return descriptor.functions
    weighted = descriptor.weights is not None
    one: list[tuple[str, ...]] = [()] if weighted else [(e,) for e in descriptor.elements]
    two = [in_order(one[s] + one[t]) for s, t in descriptor.pairs]
    r_c, functions = descriptor.cutoff, []
    radial = [(0.0, 0.0)] * descriptor.g1 + [(p.eta, p.r_s) for p in descriptor.g2]
    functions += [SymmetryFunction(12 if weighted else 2, r_c, e, eta, r_s) for eta, r_s in radial for e in one]
    for kind, parameters in ((13 if weighted else 3, descriptor.g4), (9, descriptor.g5)):
        functions += [SymmetryFunction(kind, r_c, e, p.eta, p.r_s, p.zeta, p.lam) for p in parameters for e in two]
    return (tuple(functions),) * len(descriptor.elements)


def _in_unit(function: SymmetryFunction, factor: float) -> SymmetryFunction:
    """The same function with its lengths times `factor` and its neighbours by atomic number."""
    f = dataclasses.replace(function, neighbors=in_order(function.neighbors))
    if factor == 1:  # numbers stay as they were written
        return f
    lengths = {"cutoff": f.cutoff * factor, "r_s": f.r_s * factor, "r_l": f.r_l * factor}
    return dataclasses.replace(f, eta=f.eta / factor**2, **lengths)


def _folder(model: Potential, params: Params, energy: float, length: float) -> tuple[Folder, list[str]]:
    """A single potential as a folder in units of `energy` and `length`, with remarks."""
    descriptor: Any = model.descriptor
    elements = in_order(model.elements)
    factor = getattr(descriptor, "unit", 1.0) / length
    widths = _widths(model)
    remarks = _shape_remarks(model, widths)
    if "free_atoms" in params:
        remarks.append("energies of isolated atoms are left to the networks: n2p2 has no place for them")
    # Programs that know nothing of normalisation then read the folder too.
    scale = float(params["energy_scale"]) / energy
    folded = all(mlp_of(model.network, n).output_activation == "linear" for n in range(len(elements)))
    functions, networks, scaling, weights, offsets = [], [], {}, {}, []
    for element in elements:
        index = model.elements.index(element)
        own = [_in_unit(f, factor) for f in functions_of(descriptor)[index]]
        order = sorted(range(len(own)), key=lambda n, own=own: sort_key(own[n], elements))
        functions.append(tuple(own[n] for n in order))
        shape = mlp_of(model.network, index)
        networks.append(MLP(widths, shape.activation, shape.output_activation))
        weights[element] = _weights(params["networks"][element], params["scaling"][element], order, widths)
        if folded:
            weights[element]["output"] = {part: w * scale for part, w in weights[element]["output"].items()}
        scaling[element], limited = _table(params["scaling"][element], order)
        if not limited:
            remarks.append(
                f"the range of the functions of {element} in training is not known; scaling.data holds the mean"
                f" -/+ {WIDE_RANGE:g} sigma, so that there are no extrapolation warnings"
            )
        offsets.append(model.offsets[index] / energy if model.offsets else 0.0)
    settings = Settings(
        elements=elements,
        functions=tuple(functions),
        networks=tuple(networks),
        atom_energy=tuple(offsets),
        cutoff_kind=descriptor.cutoff_kind,
        cutoff_inner=descriptor.cutoff_inner,
        scaling="sigma",
        conv_energy=1.0 if folded else 1 / scale,
    )
    return Folder(settings, scaling, weights), remarks


def _widths(model: Potential) -> tuple[int, ...]:
    """Widths of the hidden layers, the largest of all elements."""
    networks = [mlp_of(model.network, index) for index in range(len(model.elements))]
    return tuple(map(max, zip(*(network.hidden for network in networks), strict=True)))


def _shape_remarks(model: Potential, widths: tuple[int, ...]) -> list[str]:
    if all(mlp_of(model.network, n).hidden == widths for n in range(len(model.elements))):
        return []
    # Programs disagree on how element_nodes_short is meant; n2p2 2.3 reads RuNNer's form as something else.
    return [f"narrower networks were filled up with zero weights: all have {'-'.join(map(str, widths))} hidden nodes"]


def _weights(
    network: Params, scaling: Params, order: Sequence[int], widths: tuple[int, ...]
) -> dict[str, dict[str, np.ndarray]]:
    """Weights with the inputs in the folder's order, filled up with zeros to the given widths.

    Inputs beyond the functions of an element, whose features are zero, become part of the biases.
    """
    names = [f"hidden_{n}" for n in range(len(widths))] + ["output"]
    out, inputs = {}, len(order)
    for name, outputs in zip(names, (*widths, 1), strict=True):
        kernel, bias = (np.asarray(network[name][part], np.float64) for part in ("kernel", "bias"))
        if name == names[0]:
            mean, scale = (np.asarray(scaling[key], np.float64)[len(order) :] for key in ("mean", "scale"))
            bias = bias - (mean * scale) @ kernel[len(order) :]
            kernel = kernel[list(order)]
        filled = np.zeros((inputs, outputs)), np.zeros(outputs)
        filled[0][: kernel.shape[0], : kernel.shape[1]] = kernel
        filled[1][: len(bias)] = bias
        out[name] = {"kernel": filled[0], "bias": filled[1]}
        inputs = outputs
    return out


def _table(scaling: Params, order: Sequence[int]) -> tuple[np.ndarray, bool]:
    """Minimum, maximum, mean and sigma of each function, and whether the range is known."""
    columns = {name: np.asarray(values, np.float64)[list(order)] for name, values in scaling.items()}
    mean, sigma = columns["mean"], 1 / columns["scale"]
    low = columns.get("min", np.full(len(mean), -np.inf))
    high = columns.get("max", np.full(len(mean), np.inf))
    known = np.isfinite(low) & np.isfinite(high)
    low = np.where(known, low, mean - WIDE_RANGE * sigma)
    high = np.where(known, high, mean + WIDE_RANGE * sigma)
    return np.stack([low, high, mean, sigma], axis=1), bool(known.all())


# ---------------------------------------------------------------------------------------------- remarks


def _usage(path: str, model: Potential, energy: float, length: float) -> list[str]:
    """How to use the folder in other programs."""
    remarks = []
    for reader in ("cp2k", "runner"):
        if problems := _problems_of(model, reader):
            remarks.append(f"not for {READERS[reader]}: {'; '.join(problems)}")
    folder = path
    if model.members is not None:
        remarks.append(f"LAMMPS runs one member of the committee; the line below takes the first of {model.members}")
        folder = os.path.join(path, "nnp-1")
    conversions = [
        f"{1 / length:.10f}" if length == BOHR else "1.0",
        f"{1 / energy:.10f}" if energy == HARTREE else "1.0",
    ]
    remarks.append(
        f'LAMMPS, units metal: pair_style hdnnp {_cutoff_text(model.cutoff, length)} dir "{folder}" showew no showewsum 100'
        f" maxew 1000 resetew yes cflength {conversions[0]} cfenergy {conversions[1]}"
    )
    remarks.append(f"LAMMPS: pair_coeff * * {' '.join(in_order(model.elements))} (in the order of the atom types)")
    return remarks


def _cutoff_text(cutoff: float, length: float) -> str:
    """The cutoff in A for LAMMPS: never below that of the functions, which it computes with the rounded conversion."""
    if length == 1 and round(cutoff, 8) == cutoff:
        return number_text(cutoff)
    return number_text(math.ceil(cutoff * 1e8 + 0.1) / 1e8)
