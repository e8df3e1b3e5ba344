"""Lines of symmetry functions in ``input.nn``, and the order in which RuNNer and n2p2 feed them to the networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement, product
from typing import Any

from bpjax.descriptors.symmetry import COMPACT, NEIGHBORS, SymmetryFunction
from bpjax.elements import atomic_numbers
from bpjax.errors import FormatError
from bpjax.interop.n2p2.lines import Line

_FIELDS = {
    2: ("eta", "r_s", "cutoff"),
    3: ("eta", "lam", "zeta", "cutoff", "r_s"),
    9: ("eta", "lam", "zeta", "cutoff", "r_s"),
    12: ("eta", "r_s", "cutoff"),
    13: ("eta", "r_s", "lam", "zeta", "cutoff"),
    20: ("r_l", "cutoff", "core"),
    21: ("r_l", "cutoff", "left", "right", "core"),
    22: ("r_l", "cutoff", "left", "right", "core"),
    23: ("r_l", "cutoff", "core"),
    24: ("r_l", "cutoff", "left", "right", "core"),
    25: ("r_l", "cutoff", "left", "right", "core"),
}
"""What follows the type and the neighbours' elements, in order. Types 3 and 9 may lack r_s."""

_NAMES = {
    "eta": "eta",
    "r_s": "the shift r_s",
    "cutoff": "the cutoff radius",
    "lam": "lambda",
    "zeta": "zeta",
    "r_l": "the left end r_l",
    "left": "the left angle",
    "right": "the right angle",
}


def in_order(symbols: Iterable[str]) -> tuple[str, ...]:
    """Elements by atomic number; one element may occur twice."""
    return tuple(sorted(symbols, key=lambda symbol: int(atomic_numbers((symbol,))[0])))


def parse_function(line: Line, elements: Sequence[str]) -> tuple[str, SymmetryFunction]:
    """Central element and function of a line ``symfunction_short ...``.

    Args:
      line: the line, with its keyword.
      elements: elements of the potential.

    Raises:
      FormatError: a wrong number of values, an element that is not listed, an unknown type, a value out of range.
    """
    if len(line.words) < 3:
        raise line.error("a symmetry function needs its central element and its type")
    kind = line.integer(2, "the type of the symmetry function", 1, 99)
    if kind not in NEIGHBORS:
        raise line.error(f"symmetry functions of type {kind} are not known; known are {_listed(NEIGHBORS)}")
    first = 3 + NEIGHBORS[kind]
    fields, count = _FIELDS[kind], len(line.words) - first
    least = len(fields) - (kind in (3, 9))
    for stop in (least, len(fields)):  # words behind the numbers are a comment, as n2p2 and RuNNer read the line
        if count > stop and not _is_number(line, first + stop):
            count = stop
    if not least <= count <= len(fields):
        raise line.error(f"type {kind} needs {_needed(kind)} after the type, found {len(line.words) - 3} values")
    for element in (line.words[1], *line.words[3:first]):
        if element not in elements:
            raise line.error(f"element {element!r} is not among the elements {', '.join(elements)}")
    values = {name: _value(line, first + n, name) for n, name in enumerate(fields[:count])}
    if "left" in values:
        values["angles"] = (values.pop("left"), values.pop("right"))
    try:
        return line.words[1], SymmetryFunction(kind, neighbors=in_order(line.words[3:first]), **values)
    except ValueError as error:
        raise line.error(str(error)) from error


def for_all_neighbors(line: Line, elements: Sequence[str], centers: Sequence[str]) -> list[Line]:
    """Lines ``symfunction_short`` for ``global_symfunction_short TYPE ...`` and ``element_symfunction_short ELEMENT TYPE ...``:
    the same function for each central element and each (pair of) elements of neighbours.

    Args:
      line: the line, with its keyword.
      elements: elements of the potential.
      centers: the central elements.
    """
    at = 1 if line.words[0].startswith("global") else 2
    if len(line.words) <= at:
        raise line.error(f"{line.words[0]} needs {'' if at == 1 else 'its central element and '}its type")
    kind = line.integer(at, "the type of the symmetry function", 1, 99)
    if kind not in NEIGHBORS:
        raise line.error(f"symmetry functions of type {kind} are not known; known are {_listed(NEIGHBORS)}")
    neighbors = combinations_with_replacement(in_order(elements), NEIGHBORS[kind])
    rest = line.words[at + 1 :]
    made = product(centers, neighbors)
    return [replace(line, words=("symfunction_short", c, line.words[at], *n, *rest)) for c, n in made]


def _is_number(line: Line, index: int) -> bool:
    try:
        line.real(index, "a number")
    except FormatError:
        return False
    return True


def _value(line: Line, index: int, name: str) -> Any:
    return line.words[index] if name == "core" else line.real(index, _NAMES[name])


def _needed(kind: int) -> str:
    words = ["<element>"] * NEIGHBORS[kind] + [f"<{name}>" for name in _FIELDS[kind]]
    if kind in (3, 9):
        words[-1] = f"[{words[-1]}]"
    return " ".join(words)


def _listed(items: Iterable[Any]) -> str:
    return ", ".join(map(str, items))


def function_text(element: str, function: SymmetryFunction) -> str:
    """The line of a function, without the keyword; numbers return exactly."""
    values = {name: getattr(function, name) for name in ("eta", "r_s", "cutoff", "lam", "zeta", "r_l", "core")}
    if function.angles is not None:
        values["left"], values["right"] = function.angles
    fields = _FIELDS[function.kind]
    if function.kind in (3, 9) and function.r_s == 0:  # RuNNer and CP2K do not expect this one
        fields = fields[:-1]
    numbers = [values[n] if n == "core" else number_text(values[n]) for n in fields]
    return " ".join([f"{element:2s}", f"{function.kind:2d}", *(f"{e:2s}" for e in function.neighbors), *numbers])


def number_text(value: float) -> str:
    """The shortest decimal that returns exactly."""
    return repr(float(value))


def sort_key(function: SymmetryFunction, elements: Sequence[str]) -> tuple[Any, ...]:
    """Key by which the functions of one central element are sorted.

    The kind of the cutoff function and its inner radius are the same for all, so that they decide nothing.

    Args:
      function: the function.
      elements: elements of the potential, in any order.
    """
    order = in_order(elements)
    neighbors = tuple(order.index(e) for e in function.neighbors)
    f = function
    if f.kind in COMPACT:
        return f.kind, f.core, neighbors, f.cutoff, f.r_l, f.angles or ()
    angular = (f.zeta, f.lam) if f.kind in (3, 9, 13) else ()
    return f.kind, f.cutoff, f.eta, f.r_s, angular, neighbors


def sorted_functions(functions: Iterable[SymmetryFunction], elements: Sequence[str]) -> tuple[SymmetryFunction, ...]:
    """Functions of one central element in the order of the networks' inputs and of ``scaling.data``."""
    return tuple(sorted(functions, key=lambda f: sort_key(f, elements)))


def as_evaluated(functions: Iterable[SymmetryFunction]) -> tuple[SymmetryFunction, ...]:
    """Sorted functions of one central element with the cores that n2p2 evaluates them with.

    It groups functions of type 24 with equal radii and angles, and takes the core of the third distance from the first one
    of the group (seen in values that n2p2 2.3 computes). Potentials were trained that way, hence they are read that way.
    """
    first: dict[tuple[Any, ...], str] = {}
    out = []
    for f in functions:
        if f.kind == 24:
            core = first.setdefault((f.cutoff, f.r_l, f.angles), f.core)
            f = replace(f, core_jk="" if core == f.core else core)
        out.append(f)
    return tuple(out)
