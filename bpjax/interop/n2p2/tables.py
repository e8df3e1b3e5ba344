"""``scaling.data`` and ``weights.NNN.data``, the numbers of RuNNer and n2p2: reading and writing."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from bpjax.errors import FormatError
from bpjax.interop.n2p2.functions import function_text
from bpjax.interop.n2p2.lines import Line, read_lines
from bpjax.interop.n2p2.settings import Settings
from bpjax.networks import MLP

COLUMNS = ("minimum", "maximum", "mean", "sigma")
"""Columns of scaling tables, of the functions before scaling."""

NEEDS = {
    "none": (),
    "scale": ("minimum", "maximum"),
    "center": ("mean",),
    "scale_center": ("minimum", "maximum", "mean"),
    "sigma": ("mean", "sigma"),
}
"""Columns that each way of scaling computes with."""


def read_scaling(path: str | os.PathLike[str], settings: Settings) -> dict[str, np.ndarray]:
    """Statistics of the functions of each element, (D, 4) in the order of `COLUMNS`; what the file does not give is nan.

    Lines belong to functions by their position alone, as in n2p2, but indices that contradict it are an error.

    Raises:
      FormatError: the file is missing, has too few or too many lines, or holds something that is no scaling.
    """
    lines = read_lines(path)
    if not lines:
        raise FormatError(path, "is empty")
    wanted = [(e, n) for e, functions in enumerate(settings.functions) for n in range(len(functions))]
    # RuNNer adds one line with the lowest and highest energy of its training set.
    if len(lines) == len(wanted) + 1 and len(lines[-1].words) == 2:
        for index in range(2):
            lines[-1].real(index, "an energy")
        lines.pop()
    if len(lines) > len(wanted):
        line = lines[len(wanted)]
        raise line.error(f"surplus line: input.nn has {_counts(settings)}, {len(wanted)} altogether")
    rows = [_scaling_row(line, settings, e, n) for line, (e, n) in zip(lines, wanted, strict=False)]
    if len(rows) < len(wanted):
        e, n = wanted[len(rows)]
        raise FormatError(
            path,
            f"ends before function {n + 1} of {settings.elements[e]}: {len(rows)} lines for {len(wanted)} functions",
            lines[-1].number,
        )
    columns = len(rows[0])
    ends = np.cumsum([len(functions) for functions in settings.functions])[:-1]
    table = np.full((len(rows), len(COLUMNS)), np.nan)
    for row, values, line in zip(table, rows, lines, strict=True):
        if len(values) != columns:
            raise line.error(f"has {len(values) + 2} columns, but the lines before it have {columns + 2}")
        row[:columns] = values
    return dict(zip(settings.elements, np.split(table, ends), strict=True))


def _counts(settings: Settings) -> str:
    pairs = zip(settings.elements, settings.functions, strict=True)
    return ", ".join(f"{len(functions)} functions of {element}" for element, functions in pairs)


def _scaling_row(line: Line, settings: Settings, e: int, n: int) -> list[float]:
    element = settings.elements[e]
    what = f"function {n + 1} of {element} ({' '.join(function_text(element, settings.functions[e][n]).split())})"
    if not 4 <= len(line.words) <= 6:
        raise line.error(f"{what} needs 4 to 6 columns, found {len(line.words)}")
    found = [line.integer(i, "an index", 0, 10**9) for i in range(2)]
    if found != [e + 1, n + 1]:
        raise line.error(f"has indices {found[0]} {found[1]}, but {what} has {e + 1} {n + 1}")
    values = [line.real(i, f"the {name}") for i, name in enumerate(COLUMNS[: len(line.words) - 2], start=2)]
    known = dict(zip(COLUMNS, values, strict=False))
    for name in NEEDS[settings.scaling]:
        if name not in known:
            raise line.error(f"{what}: the {name} is missing, but input.nn asks for scaling with it")
    if known["minimum"] > known["maximum"]:
        raise line.error(f"{what}: the minimum {values[0]:g} is greater than the maximum {values[1]:g}")
    slack = 1e-6 * (known["maximum"] - known["minimum"]) + 1e-9 * abs(known["maximum"])
    if not known["minimum"] - slack <= known.get("mean", known["minimum"]) <= known["maximum"] + slack:
        raise line.error(f"{what}: the mean {known['mean']:g} is not between {values[0]:g} and {values[1]:g}")
    if known.get("sigma", 0.0) < 0:
        raise line.error(f"{what}: sigma {known['sigma']:g} is negative")
    if "maximum" in NEEDS[settings.scaling] and known["minimum"] == known["maximum"]:
        raise line.error(f"{what}: minimum and maximum are both {values[0]:g}, but scaling divides by their difference")
    if "sigma" in NEEDS[settings.scaling] and known["sigma"] == 0:
        raise line.error(f"{what}: sigma is 0, but scaling divides by it")
    return values


_SCALING_HEADER = """\
# Statistics of the symmetry functions, before scaling.
# e_index sf_index, then:       sf_min                   sf_max                  sf_mean                 sf_sigma
"""


def scaling_text(settings: Settings, scaling: Mapping[str, np.ndarray]) -> str:
    """Content of ``scaling.data``; numbers return exactly, columns that are not known are left out."""
    tables = [scaling[element] for element in settings.elements]
    known = int(np.isfinite(np.concatenate(tables)).all(axis=0).sum())
    rows = [
        f"{e:10d} {n:10d} " + " ".join(f"{value:24.16E}" for value in row[:known])
        for e, table in enumerate(tables, start=1)
        for n, row in enumerate(table, start=1)
    ]
    return _SCALING_HEADER + "\n".join(rows) + "\n"


def _layers(network: MLP, size: int) -> list[tuple[str, int, int]]:
    """Name, number of inputs and number of outputs of each layer."""
    widths = (size, *network.hidden, 1)
    names = [f"hidden_{n}" for n in range(len(network.hidden))] + ["output"]
    return list(zip(names, widths[:-1], widths[1:], strict=True))


def weights_count(network: MLP, size: int) -> int:
    """Number of weights and biases of a network of `size` inputs."""
    return sum((inputs + 1) * outputs for _, inputs, outputs in _layers(network, size))


def read_weights(path: str | os.PathLike[str], network: MLP, size: int, *, surplus: bool = False) -> dict:
    """Parameters of one network.

    Args:
      path: the file, of whose lines only the first word counts.
      network: shape of the network.
      size: number of its inputs.
      surplus: whether the file may hold more than that.

    Raises:
      FormatError: the file is missing, or does not hold as many numbers as the network needs.
    """
    lines = read_lines(path)
    if not lines:
        raise FormatError(path, "is empty")
    layers = _layers(network, size)
    wanted = weights_count(network, size)
    shape = f"{'-'.join(map(str, (size, *network.hidden, 1)))} network"
    numbers = [line.real(0, "a weight") for line in lines[:wanted]]
    if len(numbers) < wanted:
        raise FormatError(path, f"ends after {len(numbers)} of the {wanted} weights of a {shape}", lines[-1].number)
    if len(lines) > wanted and not surplus:
        raise lines[wanted].error(f"surplus line: a {shape} has {wanted} weights, found {len(lines)}")
    if not surplus:  # n2p2 may take the first numbers of a larger network for another one
        _check_places(lines[:wanted], layers)
    params, start, flat = {}, 0, np.array(numbers)
    for name, inputs, outputs in layers:
        middle, stop = start + inputs * outputs, start + (inputs + 1) * outputs
        params[name] = {"kernel": flat[start:middle].reshape(inputs, outputs), "bias": flat[middle:stop]}
        start = stop
    return params


def _check_places(lines: list[Line], layers: list[tuple[str, int, int]]) -> None:
    """Raises where a line says that it belongs elsewhere, or has other columns than n2p2 and RuNNer write.

    These are the number alone, or with its kind, its running number, and its layers and neurons. Numbers count by their position
    alone, as in these programs.
    """
    places: list[tuple] = []
    for number, (_, inputs, outputs) in enumerate(layers, start=1):
        places += [("a", number - 1, j, number, k) for j in range(1, inputs + 1) for k in range(1, outputs + 1)]
        places += [("b", number, k) for k in range(1, outputs + 1)]
    bare = len(lines[0].words) == 1
    for count, (line, (kind, *indices)) in enumerate(zip(lines, places, strict=True), start=1):
        said, meant = list(line.words[1:]), [kind, *map(str, (count, *indices))]
        if said != ([] if bare else meant):
            shown = (
                "nothing but the number" if bare else f"{' '.join(meant)} (kind, number, layers and neurons) behind it"
            )
            raise line.error(f"says {' '.join(said) or 'nothing'} behind the weight, but here stands {shown}")


_WEIGHTS_HEADER = """\
# Weights (a) and biases (b) of one network.
#                  value t     index   l_s   n_s   l_e   n_e
"""


def weights_text(params: Mapping[str, Mapping[str, np.ndarray]], network: MLP) -> str:
    """Content of a ``weights.NNN.data``; numbers return exactly."""
    rows: list[str] = []
    for layer, (name, *_) in enumerate(_layers(network, 0), start=1):
        kernel, bias = (np.asarray(params[name][part], np.float64) for part in ("kernel", "bias"))
        for j, row in enumerate(kernel, start=1):
            for k, value in enumerate(row, start=1):
                rows.append(f"{value:24.16E} a {len(rows) + 1:9d} {layer - 1:5d} {j:5d} {layer:5d} {k:5d}")
        for k, value in enumerate(bias, start=1):
            rows.append(f"{value:24.16E} b {len(rows) + 1:9d} {layer:5d} {k:5d}")
    return _WEIGHTS_HEADER + "\n".join(rows) + "\n"
