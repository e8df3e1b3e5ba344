r"""Data of several electronic states: energies, gradients, couplings and dipoles at many geometries of one molecule.

Files of this kind agree in nothing: units, signs and the meaning of "coupling" differ and are seldom written down. A
`StatesFormat` says them; what it leaves out is an error where it matters, never a guess. In memory everything is in eV and
angstrom, gradients are gradients (not forces), and couplings are

.. math:: h_{ij} = \langle i | \nabla H | j \rangle = (E_j - E_i)\, d_{ij}, \qquad d_{ij} = \langle i | \nabla j \rangle

for the pairs i < j in the order (0, 1), (0, 2), ..., (1, 2), ...: they stay finite where states meet.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import ase.data
import numpy as np
from jaxtyping import Float, Int

from bpjax.errors import BpjaxError, ConfigError, FormatError
from bpjax.io.archive import NUMBERS, TEXT, WHOLE, Archive, Entry
from bpjax.spec import check_seed, register
from bpjax.units import ENERGIES, LENGTHS

COUPLINGS = ("derivative", "interstate", "minus interstate")
AXES = ("states, atoms", "atoms, states")
PHASES = ("arbitrary", "consistent")

_ARRAYS = ("positions", "energies", "gradients", "couplings", "dipoles")
"""Fields of `StatesData` with a row for each geometry, beside the tags."""

_DEFAULTS = {
    "numbers": ("Z", "numbers", "z", "atomic_numbers"),
    "positions": ("R", "positions"),
    "energies": ("E", "energies"),
    "gradients": ("G", "gradients"),
    "tags": ("tag", "tags"),
}
"""Names of fields that mean one thing wherever they occur; others must be given."""

ASCENDING = 1e-6
"""Energies in eV by which neighbouring states may be out of order, the rounding of codes at a degeneracy."""


def _allowed(name: str, value, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"StatesFormat {name}={value!r}: allowed are {', '.join(allowed)}")


@register
@dataclass(frozen=True)
class StatesFormat:
    """What a file of several states does not say itself.

    Attributes:
      energy: unit of energies, see `bpjax.units.ENERGIES`.
      length: unit of positions, see `bpjax.units.LENGTHS`.
      gradient_length: unit of length in gradients and couplings; None for `length`.
      axes: "states, atoms" where gradients, forces and couplings are (n, S, N, 3) and (n, pairs, N, 3), "atoms, states" where
        they are (n, N, S, 3) and (n, N, pairs, 3), as in SPaiNN's own databases; None where their shapes tell, which those of
        as many atoms as states do not.
      gradients, forces: name of the field of gradients, or of forces; None for "G" or "gradients", or for none.
      couplings: name of the field of couplings; None to read none.
      coupling_kind: "derivative" for d, "interstate" for h = (E_j - E_i) d, "minus interstate" for its negative.
      coupling_unit: factor of couplings whose unit differs, in the units given by `energy` and `gradient_length`.
      dipoles: name of the field of dipoles, (n, S, S, 3), or (n, pairs, 3) of permanent and transition ones in the order 00, 01,
        02, 11, ...; None to read none.
      dipole_length: unit of length in dipoles, which are in e times that; None for `length`.
      phases: "arbitrary" where each state of each geometry has a sign of its own, "consistent" where a neighbour's are kept;
        needed with couplings and dipoles.
      states: which states to keep, of the file's; None for all.

    Raises:
      ValueError: an unknown unit, kind or phase; couplings of no stated kind or phase.
    """

    energy: str
    length: str
    gradient_length: str | None = None
    axes: str | None = None
    gradients: str | None = None
    forces: str | None = None
    couplings: str | None = None
    coupling_kind: str | None = None
    coupling_unit: float = 1.0
    dipoles: str | None = None
    dipole_length: str | None = None
    phases: str | None = None
    states: tuple[int, ...] | None = None

    def __post_init__(self):
        _allowed("energy", self.energy, ENERGIES)
        for name in ("length", "gradient_length", "dipole_length"):
            if name == "length" or getattr(self, name) is not None:
                _allowed(name, getattr(self, name), LENGTHS)
        if self.axes is not None:
            _allowed("axes", self.axes, AXES)
        if self.gradients is not None and self.forces is not None:
            raise ValueError(f"StatesFormat gradients={self.gradients!r}, forces={self.forces!r}: one of the two")
        if self.couplings is not None and self.coupling_kind is None:
            raise ValueError(
                f"StatesFormat coupling_kind=None: the file does not say what {self.couplings!r} are; "
                f"allowed are {', '.join(COUPLINGS)}"
            )
        if self.coupling_kind is not None:
            _allowed("coupling_kind", self.coupling_kind, COUPLINGS)
        if (self.couplings is not None or self.dipoles is not None) and self.phases is None:
            raise ValueError(
                "StatesFormat phases=None: say whether signs of states are arbitrary from geometry to geometry or consistent; "
                f"allowed are {', '.join(PHASES)}"
            )
        if self.phases is not None:
            _allowed("phases", self.phases, PHASES)
        if not (np.isfinite(self.coupling_unit) and self.coupling_unit != 0):
            raise ValueError(f"StatesFormat coupling_unit={self.coupling_unit}: must be finite and not zero")


METHANIMINIUM = StatesFormat(
    "hartree", "bohr", couplings="d_etf", coupling_kind="derivative", dipoles="mu", phases="arbitrary"
)
"""The form of the methaniminium data: hartree and bohr, derivative couplings with electron-translation factors."""

SPAINN = StatesFormat(
    "hartree", "angstrom", gradient_length="bohr", forces="forces", couplings="smooth_nacs",
    coupling_kind="minus interstate", dipoles="dipoles", dipole_length="bohr", phases="arbitrary",
)  # fmt: skip
"""The form of SchNarc and SPaiNN: hartree, forces per bohr, "smooth" couplings that are those of the gap with a minus. Which axis
is that of the atoms differs from file to file: say `axes` where the shapes do not."""


def pairs_of(states: int) -> tuple[tuple[int, int], ...]:
    """The pairs i < j, in the order of couplings."""
    return tuple((i, j) for i in range(states) for j in range(i + 1, states))


@dataclass(frozen=True, eq=False)
class StatesData:
    """Labels of n geometries of one molecule, in eV, A and e A.

    Attributes:
      numbers: atomic numbers (N,).
      positions: in A.
      energies: of the S states, ascending, absolute.
      gradients: of the energies; None if there are none.
      couplings: h of the P = S (S - 1) / 2 pairs, see the module; None if there are none.
      dipoles: permanent and transition dipoles; None if there are none.
      tags: the family of each geometry.
      phases: "arbitrary" or "consistent" signs of the states; None where nothing depends on them.
    """

    numbers: Int[np.ndarray, " N"]
    positions: Float[np.ndarray, "n N 3"]
    energies: Float[np.ndarray, "n S"]
    gradients: Float[np.ndarray, "n S N 3"] | None
    couplings: Float[np.ndarray, "n P N 3"] | None
    dipoles: Float[np.ndarray, "n S S 3"] | None
    tags: tuple[str, ...]
    phases: str | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def states(self) -> int:
        """Number of states S."""
        return self.energies.shape[1]

    @property
    def atoms(self) -> tuple[str, ...]:
        """Chemical symbols."""
        return tuple(ase.data.chemical_symbols[z] for z in self.numbers)

    def possible_losses(self) -> tuple[str, ...]:
        """The kinds of losses that these data have labels for."""
        kinds = ("energies", "gradients", "couplings", "dipoles")
        return tuple(kind for kind in kinds if getattr(self, kind) is not None)

    def pick(self, chosen) -> "StatesData":
        """The geometries with these indices."""
        index = np.asarray(chosen, dtype=int)
        arrays = {
            f.name: None if getattr(self, f.name) is None else getattr(self, f.name)[index]
            for f in fields(self)
            if f.name in _ARRAYS
        }
        return replace(self, **arrays, tags=tuple(self.tags[k] for k in index))

    def split(self, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices that stay and indices set aside: of each family its share, rounded, at random.

        Raises:
          ValueError: a fraction that is not between 0 and 1, or no seed.
        """
        check_seed(seed)
        if not 0 < fraction < 1:
            raise ValueError(f"fraction={fraction}: must be between 0 and 1")
        rng, tags, aside = np.random.default_rng(seed), np.array(self.tags), []
        for tag in dict.fromkeys(self.tags):
            members = rng.permutation(np.flatnonzero(tags == tag))
            aside += members[: round(fraction * len(members))].tolist()
        aside = np.sort(np.array(aside, int))
        return np.setdiff1d(np.arange(len(self)), aside), aside


def concatenated(parts: Sequence[StatesData]) -> StatesData:
    """Data of one molecule from several sources; a kind of label that one of them lacks is left out.

    Raises:
      ValueError: no parts, or of different molecules, numbers of states or kinds of phases.
    """
    if not parts:
        raise ValueError("concatenated: no data")
    first = parts[0]
    for part in parts[1:]:
        if not np.array_equal(part.numbers, first.numbers):
            raise ValueError(f"concatenated: data of {'-'.join(first.atoms)} and of {'-'.join(part.atoms)}")
        if part.states != first.states:
            raise ValueError(f"concatenated: data of {first.states} and of {part.states} states")
        if part.phases != first.phases:
            raise ValueError(f"concatenated: phases are {first.phases} and {part.phases}")
    arrays = {}
    for name in _ARRAYS:
        values = [getattr(part, name) for part in parts]
        arrays[name] = None if any(v is None for v in values) else np.concatenate(values)
    return replace(first, **arrays, tags=tuple(tag for part in parts for tag in part.tags))


def read_states(path: str | os.PathLike[str], form: StatesFormat) -> StatesData:
    """Reads a numpy archive of one molecule; pickled objects in it are refused.

    Args:
      path: the file.
      form: units, signs, names of fields.

    Raises:
      FormatError: no such archive; a field that is missing, of a wrong shape, complex or not finite; states out of order.
      ConfigError: states that are not in the file; no `axes` where the shapes do not tell them.
    """
    with Archive(path, "an npz archive") as archive:
        return _states(path, _Fields(archive), form)


def _states(path: str | os.PathLike[str], fields: "_Fields", form: StatesFormat) -> StatesData:
    name = fields.name("numbers")
    numbers = fields.read(name, Entry(WHOLE, (None,))).astype(np.int64)
    if not len(numbers) or numbers.min() < 1 or numbers.max() >= len(ase.data.chemical_symbols):
        raise fields.fault(name, f"must be atomic numbers from 1 to {len(ase.data.chemical_symbols) - 1}")
    R = fields.real(fields.name("positions"), (None, len(numbers), 3)) * LENGTHS[form.length]
    n = len(R)
    E = fields.real(fields.name("energies"), (n, None)) * ENERGIES[form.energy]
    kept = np.arange(E.shape[1]) if form.states is None else np.array(form.states, int)
    if len(set(kept.tolist())) != len(kept) or min(kept, default=-1) < 0 or max(kept) >= E.shape[1]:
        raise ConfigError(f"{form.states} are no different states of {E.shape[1]}", os.fspath(path), "states")
    per_length = ENERGIES[form.energy] / LENGTHS[form.gradient_length or form.length]
    form = replace(form, axes=form.axes or _axes(fields, form, E.shape[1], len(numbers)))
    G = _gradients(fields, form, (n, E.shape[1], len(numbers), 3))
    _check_lengths(path, numbers, R)
    if G is not None:
        _check_axes(path, form, G)
    h = _couplings(fields, form, E, len(numbers))
    mu = _dipoles(fields, form, n, E.shape[1])
    tags = ("all",) * n
    if fields.has("tags"):
        found = fields.read(fields.name("tags"), Entry(NUMBERS + TEXT, (n,)))
        tags = tuple(t.decode(errors="replace") if isinstance(t, bytes) else str(t) for t in found.tolist())
    data = StatesData(
        numbers, R, E[:, kept],
        None if G is None else per_length * G[:, kept],
        None if h is None else h[:, _kept_pairs(E.shape[1], kept)],
        None if mu is None else mu[:, kept][:, :, kept],
        tags, form.phases if h is not None or mu is not None else None,
    )  # fmt: skip
    _check_order(path, data.energies)
    return data


def _check_lengths(path: str | os.PathLike[str], numbers: np.ndarray, R: np.ndarray) -> None:
    """Raises where the nearest atoms are as far apart as they are in another unit of length."""
    if len(numbers) < 2 or not len(R):
        return
    radii = ase.data.covalent_radii[numbers]
    i, j = np.triu_indices(len(numbers), 1)
    bonds = np.where((numbers[i] == 1) & (numbers[j] == 1), _BETWEEN_HYDROGENS, radii[i] + radii[j])
    nearest = (np.linalg.norm(R[:, i] - R[:, j], axis=2) / bonds).min(axis=1)
    # Some molecules may have fallen apart, or be squeezed: not nine of ten.
    low, high = np.quantile(nearest, [0.1, 0.9])
    for wrong, ratio, unit in ((low > _BONDED[1], low, "bohr"), (high < _BONDED[0], high, "angstrom")):
        if wrong:
            message = f"nearest atoms are {ratio:.2f} times as far apart as the sum of their covalent radii"
            raise FormatError(path, f"positions: {message}; is their length in {unit}?")


_BONDED, _BETWEEN_HYDROGENS = (0.6, 1.4), 0.76
"""Distance of the nearest atoms over the sum of their covalent radii: 0.77 (N2) to 1.1 in molecules, which is 1.46 to 2.1 where
bohr are taken for angstrom; and this sum in A for two hydrogens, whose radius is that of bonds to other elements (H2 0.74, H3+
0.87, H2+ 1.06 A)."""


def _check_axes(path: str | os.PathLike[str], form: StatesFormat, G: np.ndarray) -> None:
    """Raises where gradients (n, S, N, 3) sum to zero over the states, and not over the atoms."""
    size = np.sqrt((G**2).sum())
    over_states, over_atoms = (np.linalg.norm(G.sum(axis=axis)) for axis in (1, 2))
    if size > 0 and over_atoms > 0.3 * size and over_states < 0.1 * size:
        message = "gradients (or forces) sum to zero over states and not over atoms: are their axes geometries"
        other = AXES[form.axes == AXES[0]]
        raise FormatError(path, f"{message}, {other}, 3? The format says {form.axes!r} (StatesFormat axes)")


def _axes(fields: "_Fields", form: StatesFormat, states: int, atoms: int) -> str:
    """Which axes gradients and couplings have, by their shapes.

    Raises:
      ConfigError: these do not tell.
    """
    wanted = {_name_of_gradients(fields, form): states, form.couplings: len(pairs_of(states))}
    unclear = None
    for name, count in wanted.items():
        shape = () if name is None else fields.shape(name)
        if len(shape) != 4:
            continue
        if shape[1:3] == (atoms, count) != (count, atoms):
            return AXES[1]
        if shape[1:3] == (count, atoms) != (atoms, count):
            return AXES[0]
        unclear = unclear or (name if atoms == count == shape[1] == shape[2] else None)
    if unclear is not None:
        message = f"the shape of {unclear}, {fields.shape(unclear)}, does not tell which axis is that of the atoms"
        raise ConfigError(f"{message}; allowed are {' and '.join(map(repr, AXES))}", fields.path, "StatesFormat axes")
    return AXES[0]


def _of_atoms(fields: "_Fields", form: StatesFormat, name: str, shape: tuple[int, int, int, int]) -> np.ndarray:
    """A field with vectors of states, or of pairs of them, and atoms, in this order, (n, S, N, 3)."""
    if form.axes == AXES[0]:
        return fields.real(name, shape)
    return fields.real(name, (shape[0], shape[2], shape[1], 3)).swapaxes(1, 2)


def _gradients(fields: "_Fields", form: StatesFormat, shape) -> np.ndarray | None:
    if form.forces is not None:
        return -_of_atoms(fields, form, form.forces, shape)
    name = _name_of_gradients(fields, form)
    return None if name is None else _of_atoms(fields, form, name, shape)


def _name_of_gradients(fields: "_Fields", form: StatesFormat) -> str | None:
    """The field of forces or gradients, if there is one."""
    return form.forces or form.gradients or (fields.name("gradients") if fields.has("gradients") else None)


def _couplings(fields: "_Fields", form: StatesFormat, E: np.ndarray, atoms: int) -> np.ndarray | None:
    """H in eV/A; `E` in eV."""
    if form.couplings is None:
        return None
    pairs = pairs_of(E.shape[1])
    C = _of_atoms(fields, form, form.couplings, (len(E), len(pairs), atoms, 3)) * form.coupling_unit
    length = LENGTHS[form.gradient_length or form.length]
    if form.coupling_kind == "derivative":
        gap = np.stack([E[:, j] - E[:, i] for i, j in pairs], axis=1)
        return C / length * gap[:, :, None, None]
    sign = -1.0 if form.coupling_kind == "minus interstate" else 1.0
    return sign * C * ENERGIES[form.energy] / length


def _dipoles(fields: "_Fields", form: StatesFormat, n: int, S: int) -> np.ndarray | None:
    if form.dipoles is None:
        return None
    rows, columns = np.triu_indices(S)
    raw = fields.read(form.dipoles, Entry(NUMBERS))
    unit = LENGTHS[form.dipole_length or form.length]
    if raw.ndim == 4:
        return fields.real(form.dipoles, (n, S, S, 3)) * unit
    packed = fields.real(form.dipoles, (n, len(rows), 3)) * unit
    mu = np.zeros((n, S, S, 3))
    mu[:, rows, columns] = mu[:, columns, rows] = packed
    return mu


def _kept_pairs(states: int, kept: np.ndarray) -> list[int]:
    """Which of the couplings belong to the states kept; h is symmetric, so that their order does not matter."""
    place = {pair: k for k, pair in enumerate(pairs_of(states))}
    chosen = [(int(kept[i]), int(kept[j])) for i, j in pairs_of(len(kept))]
    return [place[min(a, b), max(a, b)] for a, b in chosen]


def _check_order(path, E: np.ndarray) -> None:
    wrong = np.argwhere(np.diff(E, axis=1) < -ASCENDING)
    if len(wrong):
        k, i = wrong[0]
        raise FormatError(
            path,
            f"field energies: geometry {k}: state {i + 1} ({E[k, i + 1]:.6f} eV) lies below state {i} ({E[k, i]:.6f} eV); "
            "states must ascend (choose those of one multiplicity with `states`)",
        )


class _Fields:
    """Fields of an archive by what they mean, each read once."""

    def __init__(self, archive: Archive):
        self._archive, self._found = archive, {}

    @property
    def path(self) -> str:
        return os.fspath(self._archive.path)

    def has(self, meaning: str) -> bool:
        return any(name in self._archive.arrays for name in _DEFAULTS[meaning])

    def name(self, meaning: str) -> str:
        for name in _DEFAULTS[meaning]:
            if name in self._archive.arrays:
                return name
        raise FormatError(self.path, f"has no field for {meaning}: one of {', '.join(_DEFAULTS[meaning])}")

    def read(self, name: str, wanted: Entry) -> np.ndarray:
        if name not in self._found:
            self._found[name] = self._archive.array(name, Entry(NUMBERS + TEXT))
        if (wrong := wanted.wrong(self._found[name])) is not None:
            raise self.fault(name, wrong)
        return self._found[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.read(name, Entry(NUMBERS)).shape

    def fault(self, name: str, message: str) -> BpjaxError:
        return self._archive.fault(name, message)

    def real(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        found = self.read(name, Entry(NUMBERS, shape))
        if np.iscomplexobj(found):
            raise self.fault(name, "is complex; real states are needed, whose couplings and dipoles are real")
        found = found.astype(np.float64)
        bad = ~np.isfinite(found.reshape(len(found), math.prod(found.shape[1:]))).all(axis=1)
        if bad.any():
            raise self.fault(name, f"geometry {int(np.argmax(bad))} holds a number that is not finite")
        return found


def without_rigid_motions(vectors: Float[np.ndarray, "n P N 3"], positions: Float[np.ndarray, "n N 3"]) -> np.ndarray:
    r"""Vectors with translations and rigid rotations of the molecule projected out (Euclidean).

    Electron-translation factors remove translations from computed couplings, but not rotations; a matrix that depends on
    the shape of the molecule alone has none. Leave them out before fitting, judging, or rescaling velocities.
    """
    found = np.empty_like(vectors)
    for k, R in enumerate(positions):
        c = R - R.mean(axis=0)
        rigid = [np.tile(e, (len(R), 1)).ravel() for e in np.eye(3)] + [np.cross(e, c).ravel() for e in np.eye(3)]
        U, size, _ = np.linalg.svd(np.array(rigid).T, full_matrices=False)
        Q = U[:, size > 1e-8 * size[0]]  # a linear molecule has one rotation less
        flat = vectors[k].reshape(len(vectors[k]), -1)
        found[k] = (flat - flat @ Q @ Q.T).reshape(vectors[k].shape)
    return found
