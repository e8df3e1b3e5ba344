"""``input.nn``, the settings of RuNNer and n2p2: reading and writing. Everything stays in the file's units."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from bpjax.descriptors.symmetry import SymmetryFunction
from bpjax.elements import atomic_numbers
from bpjax.errors import FormatError, UnknownSpeciesError
from bpjax.interop.n2p2.functions import (
    as_evaluated,
    for_all_neighbors,
    function_text,
    in_order,
    number_text,
    parse_function,
    sorted_functions,
)
from bpjax.interop.n2p2.keywords import ALIASES, IGNORED, KNOWN, MANY, REFUSED, RUNNER
from bpjax.interop.n2p2.lines import Line, read_lines
from bpjax.interop.n2p2.shapes import read_shapes, shape_text, shapes_in_n2p2
from bpjax.networks import MLP

CUTOFFS = ("hard", "cosine", "tanh3", "tanh3n", "exp", "poly1", "poly2", "poly3", "poly4")
"""Cutoff functions by their numbers in ``cutoff_type``."""

WITHOUT_ALPHA = ("hard", "tanh3", "tanh3n")
"""Cutoff functions that take no heed of alpha."""

SCALINGS = {
    "none": (),
    "scale": ("scale_symmetry_functions",),
    "center": ("center_symmetry_functions",),
    "scale_center": ("center_symmetry_functions", "scale_symmetry_functions"),
    "sigma": ("scale_symmetry_functions_sigma",),
}
"""Ways to scale the functions, and the keywords that ask for each."""


@dataclass(frozen=True)
class Settings:
    """What ``input.nn`` says about a potential, in the units of the file.

    Attributes:
      elements: chemical symbols by atomic number.
      functions: symmetry functions of each central element, in n2p2's order.
      networks: network of each element.
      atom_energy: energy of each element's free atom.
      cutoff_kind: one of `CUTOFFS`.
      cutoff_inner: inner radius as a fraction of the cutoff (n2p2's alpha).
      scaling: one of `SCALINGS`.
      scale_min, scale_max: the range to which functions are scaled.
      normalize_nodes: whether the input of each neuron is divided by the number of neurons that feed it.
      mean_energy: energy per atom that is added.
      conv_energy: energies in the networks' unit per energy in the file's unit.
      conv_length: lengths likewise (of no consequence to predictions).
      networks_in_n2p2: networks as n2p2 reads them where that differs (see `bpjax.interop.n2p2.shapes`); empty if it does not.
    """

    elements: tuple[str, ...]
    functions: tuple[tuple[SymmetryFunction, ...], ...]
    networks: tuple[MLP, ...]
    atom_energy: tuple[float, ...]
    cutoff_kind: str = "cosine"
    cutoff_inner: float = 0.0
    scaling: str = "none"
    scale_min: float = 0.0
    scale_max: float = 1.0
    normalize_nodes: bool = False
    mean_energy: float = 0.0
    conv_energy: float = 1.0
    conv_length: float = 1.0
    networks_in_n2p2: tuple[MLP, ...] = ()


def read_settings(path: str | os.PathLike[str]) -> Settings:
    """Settings of an ``input.nn``.

    Keywords of training and, for short-range potentials, of electrostatics are ignored.

    Warns of ``atom_energy`` in a file of RuNNer that does not ask for it.

    Raises:
      FormatError: the file is missing, says something that is not understood or not supported, or lacks something.
    """
    return parse_settings(read_lines(path), path)


def parse_settings(lines: list[Line], path: str | os.PathLike[str]) -> Settings:
    """As `read_settings`, from lines."""
    if not lines:
        raise FormatError(path, "is empty")
    file = _File(lines, path)
    elements = _elements(file)
    cutoff_kind, cutoff_inner = _cutoff(file)
    scaling, scale_min, scale_max = _scaling(file)
    mean_energy, conv_energy, conv_length = _normalisation(file)
    networks = read_shapes(file.lines, elements, path)
    as_n2p2 = shapes_in_n2p2(file.lines, elements, networks)
    return Settings(
        elements=elements,
        functions=_functions(file, elements),
        networks=networks,
        networks_in_n2p2=() if as_n2p2 == networks else as_n2p2,
        atom_energy=_atom_energy(file, elements),
        cutoff_kind=cutoff_kind,
        cutoff_inner=cutoff_inner,
        scaling=scaling,
        scale_min=scale_min,
        scale_max=scale_max,
        normalize_nodes=file.flag("normalize_nodes"),
        mean_energy=mean_energy,
        conv_energy=conv_energy,
        conv_length=conv_length,
    )


class _File:
    """Lines by keyword, known to be keywords, and single where they must be."""

    def __init__(self, lines: list[Line], path: str | os.PathLike[str]):
        self.path = path
        self.lines: dict[str, list[Line]] = {}
        self.ignored: set[str] = set()
        for line in lines:  # first of all: what is not supported may have keywords of its own
            if ALIASES.get(line.words[0], line.words[0]) == "nnp_type":
                _check_type(line)
            if line.words[0] in REFUSED:
                raise line.error(f"{line.words[0]}: {REFUSED[line.words[0]]} beside the networks are not supported")
            if line.words[0] == "nn_type_short" and line.words[1:] != ("1",):
                raise line.error(f"{' '.join(line.words)}: only networks of atoms (nn_type_short 1) are supported")
        _check_keywords(lines)
        for line in lines:
            keyword = ALIASES.get(line.words[0], line.words[0])
            if keyword in IGNORED:
                self.ignored.add(keyword)
                continue
            earlier = self.lines.setdefault(keyword, [])
            if earlier and keyword not in MANY:
                raise line.error(f"{keyword} was already given in line {earlier[0].number}")
            earlier.append(line)

    def line(self, keyword: str, least: int = 1, most: int | None = None) -> Line | None:
        """The line of a keyword with its number of values checked, None where there is none."""
        found = self.lines.get(keyword)
        if not found:
            return None
        line, count = found[0], len(found[0].words) - 1
        most = least if most is None else most
        if not least <= count <= most:
            wanted = "no value" if most == 0 else f"{least} {'value' if least == 1 else 'values'}"
            wanted += f" to {most}" if most > least else ""
            raise line.error(f"{keyword} takes {wanted}, found {count} (comments begin with #)")
        return line

    def needed(self, keyword: str, least: int = 1, most: int | None = None) -> Line:
        line = self.line(keyword, least, most)
        if line is None:
            raise FormatError(self.path, f"{keyword} is missing")
        return line

    def flag(self, keyword: str) -> bool:
        return self.line(keyword, 0) is not None

    def real(self, keyword: str, default: float) -> float:
        line = self.line(keyword)
        return default if line is None else line.real(1, "a number")


def _check_keywords(lines: list[Line]) -> None:
    """Raises for keywords that are not known, all of them at once: which of them change predictions nobody can say."""
    unknown: dict[str, Line] = {}
    for line in lines:
        keyword = ALIASES.get(line.words[0], line.words[0])
        if keyword not in KNOWN:
            unknown.setdefault(keyword, line)
    if not unknown:
        return
    (keyword, line), *others = unknown.items()
    close = difflib.get_close_matches(keyword, KNOWN, n=1)
    message = f"unknown keyword {keyword!r}" + (f"; did you mean {close[0]}?" if close else "")
    if others:
        message += f"; unknown too are {', '.join(f'{name!r} (line {line.number})' for name, line in others)}"
    raise line.error(message)


def _check_type(line: Line) -> None:
    value = line.words[1].lower() if len(line.words) == 2 else ""
    if value in ("2", "2g", "2g-hdnnp"):
        return
    if value[:1] in ("3", "4"):
        kind = {"3": "with environment-dependent charges", "4": "with charge equilibration"}[value[0]]
        raise line.error(
            f"{' '.join(line.words)}: potentials of generation {value[0]}, {kind}, are not supported;"
            " only short-range ones (generation 2) are"
        )
    raise line.error(
        f"{line.words[0]} takes one value, 2 for a short-range potential; found {' '.join(line.words[1:])!r}"
    )


def _elements(file: _File) -> tuple[str, ...]:
    number = file.needed("number_of_elements")
    count = number.integer(1, "the number of elements", 1, 118)
    line = file.needed("elements", 1, 118)
    given = line.words[1:]
    if len(given) != count:
        raise line.error(f"lists {len(given)} elements, but number_of_elements in line {number.number} says {count}")
    if len(set(given)) != len(given):
        raise line.error("an element is listed twice")
    try:
        atomic_numbers(given)
    except UnknownSpeciesError as error:
        raise line.error(str(error)) from error
    return in_order(given)


def _functions(file: _File, elements: Sequence[str]) -> tuple[tuple[SymmetryFunction, ...], ...]:
    numbers: dict[str, dict[SymmetryFunction, int]] = {element: {} for element in elements}
    lines = list(file.lines.get("symfunction_short", []))
    for line in file.lines.get("element_symfunction_short", []):
        lines += for_all_neighbors(line, elements, line.words[1:2])
    for line in file.lines.get("global_symfunction_short", []):
        lines += for_all_neighbors(line, elements, elements)
    for line in lines:
        element, function = parse_function(line, elements)
        earlier = numbers[element].setdefault(function, line.number)
        if earlier != line.number:
            raise line.error(f"the same symmetry function of {element} stands in line {earlier}")
    for element, functions in numbers.items():
        if not functions:
            raise FormatError(file.path, f"element {element} has no symmetry functions")
    return tuple(as_evaluated(sorted_functions(numbers[element], elements)) for element in elements)


def _atom_energy(file: _File, elements: Sequence[str]) -> tuple[float, ...]:
    found: dict[str, tuple[float, int]] = {}
    for line in file.lines.get("atom_energy", []):
        if len(line.words) != 3:
            raise line.error(f"atom_energy takes an element and an energy, found {len(line.words) - 1} values")
        element = line.words[1]
        if element not in elements:
            raise line.error(f"element {element!r} is not among the elements {', '.join(elements)}")
        if element in found:
            raise line.error(f"atom_energy of {element} was already given in line {found[element][1]}")
        found[element] = (line.real(2, "an energy"), line.number)
    if found and file.ignored & set(RUNNER) and "remove_atom_energies" not in file.ignored:
        warnings.warn(
            f"{os.fspath(file.path)}: has atom_energy without remove_atom_energies; they are added to predictions, as n2p2 does, "
            "where RuNNer passes over them",
            stacklevel=2,
        )
    return tuple(found[element][0] if element in found else 0.0 for element in elements)


def _cutoff(file: _File) -> tuple[str, float]:
    line = file.needed("cutoff_type", 1, 2)
    kind = CUTOFFS[line.integer(1, "the type of the cutoff function", 0, len(CUTOFFS) - 1)]
    alpha = line.real(2, "alpha, the inner radius as a fraction of the cutoff") if len(line.words) == 3 else 0.0
    if not 0 <= alpha < 1:
        raise line.error(f"alpha={alpha:g} must be at least 0 and less than 1")
    if file.real("cutoff_alpha", alpha) != alpha:
        message = "is not alpha of cutoff_type; an inner radius is read there, as the second number"
        raise file.needed("cutoff_alpha").error(f"cutoff_alpha {message}")
    return kind, 0.0 if kind in WITHOUT_ALPHA else alpha


def _scaling(file: _File) -> tuple[str, float, float]:
    flags = ("center_symmetry_functions", "scale_symmetry_functions", "scale_symmetry_functions_sigma")
    given = tuple(keyword for keyword in flags if file.flag(keyword))
    mode = next((name for name, keywords in SCALINGS.items() if keywords == given), None)
    if mode is None:
        line = file.needed("scale_symmetry_functions_sigma", 0)
        others = " and ".join(keyword for keyword in given if keyword != line.words[0])
        raise line.error(f"{line.words[0]} (which also centers) cannot be combined with {others}")
    low, high = file.real("scale_min_short", 0.0), file.real("scale_max_short", 1.0)
    if mode not in ("none", "center") and not low < high:
        line = file.lines.get("scale_max_short") or file.lines["scale_min_short"]
        raise line[0].error(f"scale_min_short={low:g} must be less than scale_max_short={high:g}")
    return mode, low, high


def _normalisation(file: _File) -> tuple[float, float, float]:
    keywords = ("mean_energy", "conv_energy", "conv_length")
    given = [keyword for keyword in keywords if keyword in file.lines]
    if not given:
        return 0.0, 1.0, 1.0
    for keyword in keywords:
        if keyword not in given:
            line = file.lines[given[0]][0]
            raise line.error(f"{given[0]} is given without {keyword}; {', '.join(keywords)} go together")
    mean, energy, length = (file.real(keyword, 0.0) for keyword in keywords)
    for keyword, value in (("conv_energy", energy), ("conv_length", length)):
        if not value > 0:
            raise file.needed(keyword).error(f"{keyword}={value:g} must be positive")
    return mean, energy, length


def settings_text(settings: Settings, comments: Sequence[str] = ()) -> str:
    """Content of an ``input.nn``.

    Args:
      settings: what to write.
      comments: lines to put at the top, such as the units.
    """
    s = settings
    out = [f"# {comment}" for comment in comments]
    if (s.mean_energy, s.conv_energy, s.conv_length) != (0.0, 1.0, 1.0):
        out += ["", "# Units of the networks."]
        out += [_pair(name, number_text(getattr(s, name))) for name in ("mean_energy", "conv_energy", "conv_length")]
    out += ["", _pair("number_of_elements", str(len(s.elements))), _pair("elements", " ".join(s.elements))]
    out += [
        _pair("atom_energy", f"{element:2s} {number_text(energy)}")
        for element, energy in zip(s.elements, s.atom_energy, strict=True)
    ]
    out.append(_pair("cutoff_type", f"{CUTOFFS.index(s.cutoff_kind)} {number_text(s.cutoff_inner)}"))
    out += SCALINGS[s.scaling]
    out += [_pair("scale_min_short", number_text(s.scale_min)), _pair("scale_max_short", number_text(s.scale_max))]
    out += shape_text(s.elements, s.networks)
    if s.normalize_nodes:
        out.append("normalize_nodes")
    for element, functions in zip(s.elements, s.functions, strict=True):
        out += ["", f"# {len(functions)} symmetry functions of {element}, in the order of the networks' inputs."]
        out += [f"symfunction_short {function_text(element, function)}" for function in functions]
    return "\n".join(out) + "\n"


def _pair(keyword: str, value: str) -> str:
    return f"{keyword:31s} {value}"
