r"""Which products of expansion coefficients a power spectrum lists, in which order, and with which factor.

==========  =================================================================================================
channels    products
==========  =================================================================================================
full        every pair of elements
crossover   pairs of like elements only ("crossover off" elsewhere; the name is DScribe's)
mu1nu1      each element with the sum over all elements
mu2         the sum over all elements with itself
==========  =================================================================================================

==========  =======================================  ===========  ==================  ========================
convention  density of a neighbour                   elements     like elements        :math:`f_l`
==========  =======================================  ===========  ==================  ========================
bpjax       integral 1                               as given     n <= n'; the others  :math:`1/\sqrt{2l+1}`
                                                                  with :math:`\sqrt2`
dscribe     height 1                                 sorted by Z  n <= n'              :math:`\pi\sqrt{8/(2l+1)}`
featomic    integral of the square 1                 sorted by Z  all n, n'            :math:`(-1)^l/\sqrt{2l+1}`
==========  =======================================  ===========  ==================  ========================

In "bpjax" and "featomic" products of unlike elements carry :math:`\sqrt2`, so that the scalar product of two spectra is the SOAP
kernel, in which every pair counts twice. Columns run over pairs of elements, then l, then n and n'.

References: channels: Darby, Kermode, Csányi, npj Comput. Mater. 8, 166 (2022), doi:10.1038/s41524-022-00847-y.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

CHANNELS = ("full", "crossover", "mu1nu1", "mu2")
CONVENTIONS = ("bpjax", "dscribe", "featomic")


class Columns(NamedTuple):
    """One entry for each feature: channels and radial numbers of both factors, degree, factor. Channel -1 is the sum."""

    c1: np.ndarray
    n1: np.ndarray
    c2: np.ndarray
    n2: np.ndarray
    l: np.ndarray
    factor: np.ndarray


def amplitude(convention: str, sigma: float) -> float:
    """Height of the Gaussian of a neighbour."""
    return {
        "bpjax": (2 * math.pi * sigma**2) ** -1.5,
        "dscribe": 1.0,
        "featomic": (math.pi * sigma**2) ** -0.75,
    }[convention]


def columns(convention: str, channels: str, order: Sequence[int], n_max: int, l_max: int) -> Columns:
    """All features.

    Args:
      convention: one of `CONVENTIONS`.
      channels: one of `CHANNELS`; with "mu2" there is one channel, the sum, and `order` has one entry.
      order: indices of the channels in the order of the convention.
      n_max: number of radial functions.
      l_max: highest degree.
    """
    if channels == "mu1nu1":
        pairs = [(s, -1) for s in order]
    elif channels == "crossover":
        pairs = [(s, s) for s in order]
    else:
        pairs = [(s, t) for k, s in enumerate(order) for t in order[k:]]
    rows = []
    for s, t in pairs:
        once = s == t and convention != "featomic"
        for l in range(l_max + 1):
            f = math.pi * math.sqrt(8 / (2 * l + 1)) if convention == "dscribe" else 1 / math.sqrt(2 * l + 1)
            f *= (-1) ** l if convention == "featomic" else 1
            for n in range(n_max):
                for m in range(n if once else 0, n_max):
                    twice = convention != "dscribe" and t != -1 and (s != t or (once and n != m))
                    rows.append((s, n, t, m, l, f * (math.sqrt(2) if twice else 1)))
    *index, factor = zip(*rows, strict=True)
    s, n, t, m, l = (np.array(i, np.int32) for i in index)
    return Columns(s, n, t, m, l, np.array(factor))


@dataclass(frozen=True, eq=False)
class Products:
    """How chosen features are taken from matrices of products, one for each degree that occurs.

    Attributes:
      degrees: the degrees l.
      left, right: rows of the coefficients (C n, 2l + 1) that are multiplied; rows of the sum stand behind all others.
      place: of each feature in the matrices laid end to end, (D,).
      factor: of each feature, (D,).
    """

    degrees: tuple[int, ...]
    left: tuple[np.ndarray, ...]
    right: tuple[np.ndarray, ...]
    place: np.ndarray
    factor: np.ndarray


def products(columns: Columns, channels: int, n_max: int) -> Products:
    """The smallest matrices that hold these features."""
    row = columns.c1 * n_max + columns.n1
    column = np.where(columns.c2 < 0, channels, columns.c2) * n_max + columns.n2
    degrees, left, right = tuple(int(l) for l in np.unique(columns.l)), [], []
    place, start = np.zeros(len(row), np.int32), 0
    for l in degrees:
        here = np.flatnonzero(columns.l == l)
        rows, r = np.unique(row[here], return_inverse=True)
        cols, c = np.unique(column[here], return_inverse=True)
        place[here] = start + r * len(cols) + c
        start += len(rows) * len(cols)
        left.append(rows)
        right.append(cols)
    return Products(degrees, tuple(left), tuple(right), place, columns.factor)
