"""Tables of parameters from a list of symmetry functions: which parts are distinct, and which functions combine which.

A family is all that one kernel evaluates: radial or angular, exponential or compact, with the third distance or without. A
function of a family combines a distance part, a channel (the elements of the neighbours) and, if it is angular, an angular part.
Parts that several functions share are evaluated once. Channels with the same distance parts form a group; for it one kernel
evaluates every combination of channel, distance part and angular part, most of which a usual set of functions contains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bpjax.descriptors.symmetry import COMPACT, NARROW, RADIAL, SymmetryFunction

WEIGHTED = -1
"""Channel of functions to which all neighbours count, weighted by atomic number."""


class Family(NamedTuple):
    """What one kernel evaluates."""

    angular: bool
    compact: bool
    narrow: bool


@dataclass(frozen=True, eq=False)
class Group:
    """Channels with the same distance parts.

    Attributes:
      channels: (C,) element of the neighbour, or both as a number (see `channel_of`), or `WEIGHTED`.
      distance: (Q, 3) eta, r_s, r_c with one r_c for all, or (Q, 4) r_l, r_c, core of the first two distances, core of the third.
    """

    channels: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True, eq=False)
class Table:
    """All functions of one family.

    Attributes:
      family: what kernel evaluates them.
      groups: their channels and distance parts.
      angular: (A, 2) zeta, lambda or (A, 3) theta_l, theta_r in radians, core; (1, 0) for radial families.
      cores: names of the cores that the numbers in the other tables mean.
    """

    family: Family
    groups: tuple[Group, ...]
    angular: np.ndarray
    cores: tuple[str, ...]


def tables(functions: Sequence[SymmetryFunction], elements: Sequence[str]) -> tuple[tuple[Table, ...], np.ndarray]:
    """Tables of all families of one central element, and where the value of each function is.

    Returns: the tables; and the position of each function among the outputs (C, Q, A) of all groups of all tables, flattened and
    one after the other.
    """
    made, where, start = [], np.zeros(len(functions), dtype=np.int32), 0
    families = list(dict.fromkeys(map(_family, functions)))
    for family in families:
        chosen = [n for n, function in enumerate(functions) if _family(function) == family]
        table, places, size = _table(family, [functions[n] for n in chosen], elements)
        where[chosen] = start + places
        start += size
        made.append(table)
    return tuple(made), where


def _table(family: Family, functions: list[SymmetryFunction], elements: Sequence[str]) -> tuple[Table, np.ndarray, int]:
    cores = list(dict.fromkeys(c for f in functions for c in (f.core, f.core_jk or f.core, f.core.removesuffix("a"))))
    distance = [_distance_part(f, cores) for f in functions]
    angular = [_angular_part(f, cores) for f in functions]
    channels = [channel_of(f, elements) for f in functions]
    # One group holds one cutoff radius, so that its cutoff function is evaluated once; compact functions have none.
    radius = [None if family.compact else f.cutoff for f in functions]
    members: dict[tuple, dict] = {}
    for key in dict.fromkeys(zip(channels, radius, strict=True)):
        own = dict.fromkeys(d for d, c, r in zip(distance, channels, radius, strict=True) if (c, r) == key)
        members.setdefault((frozenset(own), key[1]), {"parts": list(own), "channels": []})["channels"].append(key[0])
    shapes = list(dict.fromkeys(angular))
    groups, first, start = [], {}, 0
    for (_, r_c), group in members.items():
        groups.append(Group(np.array(group["channels"]), np.array(group["parts"], dtype=np.float64)))
        for number, channel in enumerate(group["channels"]):
            first[channel, r_c] = start + number * len(group["parts"]) * len(shapes), group["parts"]
        start += len(group["channels"]) * len(group["parts"]) * len(shapes)
    places = []
    for d, a, c, r in zip(distance, angular, channels, radius, strict=True):
        begin, parts = first[c, r]
        places.append(begin + parts.index(d) * len(shapes) + shapes.index(a))
    table = Table(family, tuple(groups), np.array(shapes, dtype=np.float64), tuple(cores))
    return table, np.array(places), start


def _family(function: SymmetryFunction) -> Family:
    return Family(function.kind not in RADIAL, function.kind in COMPACT, function.kind in NARROW)


def _distance_part(f: SymmetryFunction, cores: list[str]) -> tuple:
    if f.kind in COMPACT:
        return f.r_l, f.cutoff, cores.index(f.core), cores.index(f.core_jk or f.core)
    return f.eta, f.r_s, f.cutoff


def _angular_part(f: SymmetryFunction, cores: list[str]) -> tuple:
    if f.kind in RADIAL:
        return ()
    if f.angles is None:
        return f.zeta, f.lam
    # Only radial parts are asymmetric.
    return *(float(np.deg2rad(angle)) for angle in f.angles), cores.index(f.core.removesuffix("a"))


def channel_of(function: SymmetryFunction, elements: Sequence[str]) -> int:
    """Species index of the neighbour; s + S t for a pair of species s <= t; or `WEIGHTED`."""
    if not function.neighbors:
        return WEIGHTED
    s, *t = sorted(elements.index(e) for e in function.neighbors)
    return s + len(elements) * t[0] if t else s
