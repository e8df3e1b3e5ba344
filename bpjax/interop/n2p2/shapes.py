"""Shapes of the networks in ``input.nn``: hidden layers, their widths and activations, for all elements or for one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from bpjax.errors import FormatError
from bpjax.interop.n2p2.lines import Line
from bpjax.networks import MLP

LETTERS = {
    "l": "linear",
    "t": "tanh",
    "s": "logistic",
    "p": "softplus",
    "r": "relu",
    "g": "gaussian",
    "c": "cosine",
    "S": "reverse_logistic",
    "e": "exponential",
    "h": "harmonic",
}
"""Activations by their letters."""

MOST_LAYERS, MOST_NODES = 99, 100_000
"""What passes for a network; more is a slip of the pen."""

_Shape = tuple[list[int | None], list[str | None]]
"""Widths of the hidden layers; activations of these and of the output."""


def read_shapes(lines: dict[str, list[Line]], elements: Sequence[str], path: str | os.PathLike[str]) -> tuple[MLP, ...]:
    """Network of each element.

    An element with as many hidden layers as ``global_hidden_layers_short`` says starts from the global widths and
    activations; one with another number of layers starts from nothing but the activation of the output.

    Args:
      lines: lines by keyword.
      elements: elements of the potential.
      path: the file.

    Raises:
      FormatError: wrong values, or something that is not given.
    """
    layers, nodes, letters = _globals(lines)
    overrides = _layer_overrides(lines, elements)
    shapes: dict[str, _Shape] = {}
    for element in elements:
        count = overrides.get(element, layers)
        if count is None:
            raise FormatError(path, "global_hidden_layers_short is missing")
        if count == layers:
            shapes[element] = (list(nodes), list(letters))
        else:
            shapes[element] = ([None] * count, [None] * count + letters[-1:])
    _override(lines, elements, shapes)
    return tuple(_finished(element, shapes[element], path) for element in elements)


def shapes_in_n2p2(lines: dict[str, list[Line]], elements: Sequence[str], networks: Sequence[MLP]) -> tuple[MLP, ...]:
    """Networks as n2p2 2.3 makes them.

    It takes the number after the element in ``element_nodes_short C 1 4``, which is the layer, for the width of the first layer;
    the others keep the global widths. (Seen in energies that it computes.)
    """
    nodes = _globals(lines)[1]
    out = []
    for element, network in zip(elements, networks, strict=True):
        own = [line for line in lines.get("element_nodes_short", []) if line.words[1] == element]
        plain = len(own) == 1 and len(network.hidden) == len(nodes) and None not in nodes
        hidden = (own[0].integer(2, "the layer", 1, MOST_LAYERS), *nodes[1:]) if plain else network.hidden
        out.append(replace(network, hidden=tuple(n for n in hidden if n is not None)))
    return tuple(out)


def _globals(lines: dict[str, list[Line]]) -> tuple[int | None, list[int | None], list[str | None]]:
    """Number of hidden layers, widths and activations for all elements; None for what is not given."""
    found = lines.get("global_hidden_layers_short")
    if not found:
        for keyword in ("global_nodes_short", "global_activation_short"):
            if keyword in lines:
                raise lines[keyword][0].error(f"{keyword} without global_hidden_layers_short")
        return None, [], [None]
    line = found[0]
    if len(line.words) != 2:
        raise line.error(f"{line.words[0]} takes 1 value, found {len(line.words) - 1} (comments begin with #)")
    layers = line.integer(1, "the number of hidden layers", 0, MOST_LAYERS)
    nodes: list[int | None] = [None] * layers
    letters: list[str | None] = [None] * (layers + 1)
    if "global_nodes_short" in lines:
        line = lines["global_nodes_short"][0]
        if len(line.words) - 1 != layers:
            raise line.error(f"one width for each of the {layers} hidden layers is needed, found {len(line.words) - 1}")
        nodes = [_width(line, n) for n in range(1, layers + 1)]
    if "global_activation_short" in lines:
        line = lines["global_activation_short"][0]
        if len(line.words) - 1 != layers + 1:
            raise line.error(
                f"{layers + 1} activations are needed, of the {layers} hidden layers and the output,"
                f" found {len(line.words) - 1}"
            )
        letters = [_letter(line, n) for n in range(1, layers + 2)]
    return layers, nodes, letters


def _width(line: Line, index: int) -> int:
    return line.integer(index, "the number of nodes of a layer", 1, MOST_NODES)


def _letter(line: Line, index: int) -> str:
    if line.words[index] not in LETTERS:
        known = ", ".join(f"{letter} {name}" for letter, name in LETTERS.items())
        raise line.error(f"unknown activation {line.words[index]!r}; known are {known}")
    return LETTERS[line.words[index]]


def _layer_overrides(lines: dict[str, list[Line]], elements: Sequence[str]) -> dict[str, int]:
    overrides: dict[str, int] = {}
    for line in lines.get("element_hidden_layers_short", []):
        element = _element(line, 2, elements)
        if element in overrides:
            raise line.error(f"{line.words[0]} of {element} is given twice")
        overrides[element] = line.integer(2, "the number of hidden layers", 0, MOST_LAYERS)
    return overrides


def _override(lines: dict[str, list[Line]], elements: Sequence[str], shapes: dict[str, _Shape]) -> None:
    """Puts in what lines say of one layer of one element."""
    seen: dict[tuple[str, str, int], int] = {}
    for which, (keyword, value) in enumerate((("element_nodes_short", _width), ("element_activation_short", _letter))):
        for line in lines.get(keyword, []):
            element = _element(line, 3, elements)
            target = shapes[element][which]
            if not target:
                raise line.error(f"the network of {element} has no hidden layers")
            layer = line.integer(2, f"the layer, of {len(target)} of {element},", 1, len(target))
            earlier = seen.setdefault((keyword, element, layer), line.number)
            if earlier != line.number:
                raise line.error(f"{keyword} of layer {layer} of {element} was already given in line {earlier}")
            target[layer - 1] = value(line, 3)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _element(line: Line, values: int, elements: Sequence[str]) -> str:
    if len(line.words) - 1 != values:
        raise line.error(f"{line.words[0]} takes {values} values, found {len(line.words) - 1} (comments begin with #)")
    if line.words[1] not in elements:
        raise line.error(f"element {line.words[1]!r} is not among the elements {', '.join(elements)}")
    return line.words[1]


def _finished(element: str, shape: _Shape, path: str | os.PathLike[str]) -> MLP:
    nodes, activations = shape
    for what, values in (("global_nodes_short", nodes), ("global_activation_short", activations)):
        if None in values:
            raise FormatError(
                path, f"layer {values.index(None) + 1} of {element}: {what} (or that of the element) is missing"
            )
    hidden = tuple(n for n in nodes if n is not None)
    *inner, output = (a for a in activations if a is not None)
    return MLP(hidden, inner[0] if len(set(inner)) == 1 else tuple(inner), output)


def shape_text(elements: Sequence[str], networks: Sequence[MLP]) -> list[str]:
    """Lines that say the network of each element; the first one's is the global one."""
    letters = {name: letter for letter, name in LETTERS.items()}
    first = networks[0]

    def activations(network: MLP) -> list[str]:
        return [letters[name] for name in (*network.activations, network.output_activation)]

    out = [
        f"{'global_hidden_layers_short':31s} {len(first.hidden)}",
        f"{'global_activation_short':31s} {' '.join(activations(first))}",
    ]
    if first.hidden:
        out.insert(1, f"{'global_nodes_short':31s} {' '.join(map(str, first.hidden))}")
    for element, network in zip(elements, networks, strict=True):
        if network == first:
            continue
        if len(network.hidden) != len(first.hidden):
            out.append(f"{'element_hidden_layers_short':31s} {element:2s} {len(network.hidden)}")
        out += [f"{'element_nodes_short':31s} {element:2s} {n} {w}" for n, w in enumerate(network.hidden, start=1)]
        out += [
            f"{'element_activation_short':31s} {element:2s} {n} {letter}"
            for n, letter in enumerate(activations(network), start=1)
        ]
    return out
