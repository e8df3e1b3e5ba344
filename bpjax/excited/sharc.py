r"""Linear vibronic coupling models of molecules in Cartesian coordinates, and the files that SHARC keeps them in.

``LVC.template`` names the file with the geometry and the normal modes (``V0.txt``), gives the number of singlets,
doublets, ... and then, in any order, blocks whose rows count states and modes from 1::

    V0.txt
    4 0 3
    epsilon          energies                 number of rows, then: multiplicity state value
    kappa            gradients                ... multiplicity state mode value
    lambda           couplings of two states  ... multiplicity state state mode value
    charge           of the molecule, on the line itself; not used
    gamma, eta, lambda_soc  terms of second order and of the spin-orbit coupling; only with 0 rows
    Multipolar Density Fit  (and how it was made), number of rows, then multipoles of the states; not used
    SOC R, SOC I     spin-orbit matrix, real and imaginary part: all states with all their components
    DMX R, ... DMZ I dipole matrices
    MDMX R, EQMZ_dX R, ...  magnetic dipoles, quadrupoles and their like; not used

Everything is in atomic units, but masses are in amu. Text after # is a comment. The name of the file of modes is relative to the
template, and may hold variables of the environment, such as ``$SHARC``.

References: F. Plasser, S. Gomez, M. F. S. J. Menger, S. Mai, L. Gonzalez, Phys. Chem. Chem. Phys. 21, 57 (2019),
  doi:10.1039/C8CP05662E; the manual of SHARC, https://sharc-md.org.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Array, Float, Inexact

from bpjax.errors import FormatError
from bpjax.excited.lvc import LinearVibronic
from bpjax.excited.spin import SpinStates
from bpjax.precision import unrounded
from bpjax.units import ELECTRON_MASS

_Path = str | os.PathLike[str]
_Row = tuple[int, list[str]]  # number of a line, and its words

INDICES = {"epsilon": 1, "kappa": 2, "lambda": 3}
"""Blocks of single values, and how many numbers stand between the multiplicity and the value."""

UNKNOWN = ("gamma", "eta", "lambda_soc")
"""Blocks of terms that this model does not have: they must be empty."""

MATRICES = ("SOC R", "SOC I", *(f"DM{axis} {part}" for axis in "XYZ" for part in "RI"))
"""Blocks of whole matrices."""

_OTHER_MATRICES = re.compile(r"(MDM|E?QM)\w+ [RI]")
"""Names of further ones, which do not touch the dynamics."""

_MULTIPOLES = "MULTIPOLAR DENSITY FIT"


class NormalModes(NamedTuple):
    r"""Dimensionless normal coordinates, :math:`Q = \sqrt{\omega}\, K^T \sqrt{M} (R - R_0)`; translations and rotations
    have :math:`\omega = 0`.

    Attributes:
      reference: R_0 in bohr.
      masses: in electron masses.
      frequencies: omega in hartree.
      modes: K, a column for each mode, orthonormal in mass-weighted coordinates.
    """

    reference: Float[Array, "N 3"]
    masses: Float[Array, " N"]
    frequencies: Float[Array, " M"]
    modes: Float[Array, "N3 M"]

    def coordinates(self, R: Float[Array, "N 3"]) -> Float[Array, " M"]:
        """Q at Cartesian coordinates in bohr."""
        weighted = jnp.sqrt(self.masses)[:, None] * (R - self.reference)
        return jnp.sqrt(self.frequencies) * (weighted.reshape(-1) @ self.modes)

    def positions(self, Q: Float[Array, " M"]) -> Float[Array, "N 3"]:
        """Cartesian coordinates in bohr at Q; modes of zero frequency stay where the reference has them."""
        moving = self.frequencies > 0
        scaled = jnp.where(moving, Q / jnp.sqrt(jnp.where(moving, self.frequencies, 1.0)), 0.0)
        return self.reference + (self.modes @ scaled).reshape(-1, 3) / jnp.sqrt(self.masses)[:, None]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["modes", "blocks", "soc", "dipoles"],
    meta_fields=["basis", "symbols"],
)
@dataclass(frozen=True, eq=False)
class VibronicMolecule:
    """A linear vibronic coupling model of a molecule; call it for the spin-diabatic matrix at Cartesian coordinates.

    Attributes:
      modes: normal modes.
      blocks: by multiplicity, the spin-free model.
      soc: spin-orbit matrix of all components in hartree; real where the file has no imaginary part.
      dipoles: dipole matrices of all components, e bohr.
      basis: how many states of each multiplicity.
      symbols: elements of the atoms.
    """

    modes: NormalModes
    blocks: dict[int, LinearVibronic]
    soc: Any  # arrays (S, S) and (3, S, S), or what JAX puts in their place
    dipoles: Any
    basis: SpinStates
    symbols: tuple[str, ...]

    def __call__(self, R: Float[Array, "N 3"]) -> Inexact[Array, "S S"]:
        """Diabatic matrix with spin-orbit coupling in hartree, at coordinates in bohr."""
        H = self.basis.expand(self.spin_free(R))
        return H.astype(jnp.result_type(H, self.soc)) + self.soc

    def spin_free(self, R: Float[Array, "N 3"]) -> dict[int, Float[Array, "..."]]:
        """Diabatic matrix of each multiplicity in hartree, without spin-orbit coupling."""
        Q = self.modes.coordinates(R)
        return {m: block(Q) for m, block in self.blocks.items()}


# --------------------------------------------------------------------------------------------- reading


def read_lvc_template(path: _Path, geometry: _Path | None = None) -> VibronicMolecule:
    """Reads a model from SHARC's ``LVC.template`` and the file of normal modes that it names.

    Args:
      path: the template.
      geometry: file of normal modes; the one named in the first line, beside the template, if not given.

    Raises:
      FormatError: with the file, the line, and what is allowed there.
    """
    rows = _rows(path)
    if len(rows) < 2:
        raise FormatError(path, "must start with the name of the file of normal modes and the numbers of states")
    modes, symbols = read_normal_modes(_named_modes(path, rows) if geometry is None else geometry)
    basis = _counts(path, rows[1])
    values, matrices = _blocks(path, rows[2:], basis, len(modes.frequencies))
    blocks = {m: _model(modes, basis.counts[m - 1], values, m) for m in basis.multiplicities}
    parts = {name: matrices.get(name, np.zeros((basis.size, basis.size))) for name in MATRICES}
    soc = _complex(parts, matrices, "SOC")
    try:
        basis.check_coupling(soc)
    except ValueError as error:
        raise FormatError(path, str(error)) from error
    dipoles = [_complex(parts, matrices, f"DM{axis}") for axis in "XYZ"]
    dtype = np.result_type(*dipoles)
    return VibronicMolecule(
        modes,
        blocks,
        unrounded(0.5 * (soc + soc.conj().T)),
        unrounded(np.stack(dipoles).astype(dtype)),
        basis,
        symbols,
    )


def files_of_template(path: _Path) -> tuple[Path, Path]:
    """The files that a model is read from: ``LVC.template`` itself, and the file of normal modes that it names."""
    return Path(path), _named_modes(path, _rows(path))


def _named_modes(path: _Path, rows: list[_Row]) -> Path:
    return Path(path).parent / os.path.expandvars(" ".join(rows[0][1]))


def read_normal_modes(path: _Path) -> tuple[NormalModes, tuple[str, ...]]:
    """Reads SHARC's ``V0.txt``: reference geometry, frequencies, mass-weighted normal modes; and the elements.

    Raises:
      FormatError: with the line that is wrong.
    """
    rows = _rows(path)
    titles = ("geometry", "frequencies", "mass-weighted normal modes")
    starts = {" ".join(words).lower(): k for k, (_, words) in enumerate(rows)}
    missing = [title for title in titles if title not in starts]
    if missing:
        raise FormatError(path, f"has no line {missing[0]!r}; needed are {', '.join(titles)}, in this order")
    first, second, third = (starts[title] for title in titles)
    atoms, frequencies, table = rows[first + 1 : second], rows[second + 1 : third], rows[third + 1 :]
    if not atoms or not frequencies:
        raise FormatError(path, f"must have {', '.join(titles)} in this order, with rows after each")
    symbols = tuple(_symbol(path, row) for row in atoms)
    numbers = np.array(
        [_numbers(path, (line, words[1:]), 5, "element, nuclear charge, x, y, z, mass") for line, words in atoms]
    )
    if not (numbers[:, 4] > 0).all():
        raise FormatError(path, "masses must be positive, in amu", atoms[int(np.argmin(numbers[:, 4]))][0])
    w = np.array([x for row in frequencies for x in _numbers(path, row, len(row[1]), "frequencies in hartree")])
    if (w < -1e-6).any():
        raise FormatError(path, "frequencies must not be negative", frequencies[0][0])
    K = np.array([_numbers(path, row, len(w), f"a row of {len(w)} modes") for row in table])
    if K.shape != (3 * len(atoms), len(w)):
        raise FormatError(path, f"must have {3 * len(atoms)} rows of normal modes, got {len(K)}", rows[third][0])
    arrays = (numbers[:, 1:4], numbers[:, 4] / ELECTRON_MASS, np.maximum(w, 0.0), K)
    return NormalModes(*unrounded(arrays)), symbols


def read_geometry(path: _Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Elements, and positions (N, 3) in bohr, of SHARC's ``geom``: element, nuclear charge, x, y, z, mass.

    Raises:
      FormatError: with the line that is wrong.
    """
    rows = _rows(path)
    if not rows:
        raise FormatError(path, "is empty")
    what = "element, nuclear charge, x, y, z, mass"
    numbers = [_numbers(path, (line, words[1:]), 5, what) for line, words in rows]
    return tuple(_symbol(path, row) for row in rows), np.array(numbers)[:, 1:4]


def read_velocities(path: _Path, atoms: int) -> np.ndarray:
    """Velocities (N, 3) in atomic units of SHARC's ``veloc``.

    Raises:
      FormatError: with the line that is wrong.
    """
    rows = _rows(path)
    if len(rows) != atoms:
        raise FormatError(path, f"has {len(rows)} rows; needed is one for each of {atoms} atoms")
    return np.array([_numbers(path, row, 3, "a velocity x, y, z") for row in rows])


def _rows(path: _Path) -> list[_Row]:
    """Lines that are neither empty nor comments."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FormatError(path, "no such file") from error
    except (OSError, ValueError) as error:  # not UTF-8, or a null character in the name that a template gives
        raise FormatError(path, f"cannot be read: {error}") from error
    rows = ((number, line.split("#")[0].split()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, words) for number, words in rows if words]


def _counts(path: _Path, row: _Row) -> SpinStates:
    line, words = row
    try:
        return SpinStates(tuple(int(word) for word in words))
    except ValueError as error:
        raise FormatError(
            path, f"{' '.join(words)!r}: must be numbers of singlets, doublets, triplets, ...", line
        ) from error


def _blocks(path: _Path, rows: list[_Row], basis: SpinStates, modes: int):
    """Rows of every block of single values, and the matrices by name."""
    values: dict[str, list[tuple[Any, ...]]] = {}
    matrices: dict[str, np.ndarray] = {}
    k = 0
    while k < len(rows):
        line, words = rows[k]
        name = words[0].lower() if len(words) == 1 else " ".join(words).upper()
        if name in values or name in matrices:
            raise FormatError(path, f"a second block {' '.join(words)!r}", line)
        if name in INDICES:
            count = _count(path, rows, k)
            block = _some(path, rows, k + 2, count, name)
            values[name] = [_value(path, row, name, basis, modes) for row in block]
            k += 2 + count
        elif words[0].lower() == "charge" and len(words) > 1:
            k += 1
        elif name == _MULTIPOLES or name.startswith(f"{_MULTIPOLES} "):
            k += 2 + len(_some(path, rows, k + 2, _count(path, rows, k), name))
        elif name in UNKNOWN:
            if _count(path, rows, k):
                message = f"{words[0]!r} has rows: terms beyond linear vibronic coupling are not known here"
                raise FormatError(path, f"{message}; only a block of 0 rows is allowed", line)
            k += 2
        elif name in MATRICES or _OTHER_MATRICES.fullmatch(name):
            block = _some(path, rows, k + 1, basis.size, name)
            what = f"a row of {basis.size} numbers, one for each component of each state"
            matrices[name] = np.array([_numbers(path, row, basis.size, what) for row in block])
            k += 1 + basis.size
        else:
            allowed = ", ".join((*INDICES, *MATRICES, "charge", *UNKNOWN, "Multipolar Density Fit"))
            raise FormatError(path, f"{' '.join(words)!r} is not the start of a block; allowed are {allowed}", line)
    return values, matrices


def _count(path: _Path, rows: list[_Row], k: int) -> int:
    line, words = rows[k + 1] if k + 1 < len(rows) else rows[k]
    if k + 1 >= len(rows) or len(words) != 1 or not words[0].isdecimal():
        raise FormatError(path, f"the number of rows must follow {rows[k][1][0]!r}", line)
    return int(words[0])


def _some(path: _Path, rows: list[_Row], start: int, count: int, name: str) -> list[_Row]:
    if start + count > len(rows):
        raise FormatError(path, f"the file ends within the block {name!r} of {count} rows", rows[-1][0])
    return rows[start : start + count]


def _value(path: _Path, row: _Row, name: str, basis: SpinStates, modes: int) -> tuple[Any, ...]:
    """Multiplicity, indices from 0, value."""
    line, words = row
    shape = {"epsilon": "multiplicity state value", "kappa": "multiplicity state mode value"}
    layout = shape.get(name, "multiplicity state state mode value")
    if len(words) != INDICES[name] + 2:
        raise FormatError(path, f"{' '.join(words)!r} in {name!r}: must be {layout}", line)
    if not all(word.isdecimal() for word in words[:-1]):
        raise FormatError(
            path, f"{' '.join(words[:-1])!r} in {name!r}: must be {layout}, whole numbers before the value", line
        )
    m, *indices = (int(word) for word in words[:-1])
    if m not in basis.multiplicities:
        raise FormatError(
            path, f"multiplicity {m} in {name!r}: allowed are those with states, {basis.multiplicities}", line
        )
    states = indices if name == "epsilon" else indices[:-1]
    limits = [(i, basis.counts[m - 1], "state") for i in states] + [(i, modes, "mode") for i in indices[len(states) :]]
    for index, most, what in limits:
        if not 1 <= index <= most:
            raise FormatError(path, f"{what} {index} in {name!r}: allowed are 1 to {most}", line)
    if len(states) == 2 and states[0] == states[1]:
        raise FormatError(
            path, f"state {states[0]} twice in 'lambda': must be two different states (see 'kappa')", line
        )
    return (m, *(i - 1 for i in indices), _numbers(path, (line, words[-1:]), 1, "a number")[0])


def _numbers(path: _Path, row: _Row, count: int, what: str) -> list[float]:
    line, words = row
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(x) for x in numbers):
        raise FormatError(path, f"{' '.join(words[:8])!r}: must be {what}", line)
    return numbers


def _symbol(path: _Path, row: _Row) -> str:
    line, words = row
    symbol = words[0].capitalize()
    if symbol not in chemical_symbols[1:]:
        raise FormatError(path, f"{words[0]!r} is not an element", line)
    return symbol


def _model(modes: NormalModes, n: int, values: dict, multiplicity: int) -> LinearVibronic:
    """The block of one multiplicity; repeated rows add up."""
    C, L = np.zeros((n, n)), np.zeros((len(modes.frequencies), n, n))
    rows = {name: [row for m, *row in values.get(name, ()) if m == multiplicity] for name in INDICES}
    for i, x in rows["epsilon"]:
        C[i, i] += x
    for i, mode, x in rows["kappa"]:
        L[mode, i, i] += x
    for i, j, mode, x in rows["lambda"]:
        L[mode, i, j] += x
        L[mode, j, i] += x
    return LinearVibronic.build(modes.frequencies, C, L)


def _complex(parts: dict[str, np.ndarray], given: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Real and imaginary part together; real where the file has no imaginary part."""
    real = parts[f"{name} R"]
    return real + 1j * parts[f"{name} I"] if f"{name} I" in given else real
