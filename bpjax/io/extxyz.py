"""Extended XYZ as text: frames at full precision, and a check that says which line is wrong.

ASE reads these files well, but writes coordinates with eight decimals, stops without a word at an empty line, and
does not know line numbers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import ase
import numpy as np
from ase.constraints import FixAtoms
from ase.data import atomic_numbers, chemical_symbols
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict
from ase.stress import voigt_6_to_full_3x3_stress

from bpjax.errors import FormatError, StructureError
from bpjax.io import xyz_dialects
from bpjax.io.label_keys import A_COLUMN, NAMES
from bpjax.io.labels import NOT_SYMMETRIC, is_symmetric

# Results whose first axis is atoms; anything else might only by chance have as many entries as there are atoms.
_PER_ATOM = ("forces", "energies", "stresses", "charges", "magmoms")
_NAMES = {"positions": "pos"}

_PIECE = 2**16
"""Atoms whose numbers are held as text at a time, about 1 kB each."""


def format_frame(atoms: ase.Atoms, digits: int | None = None) -> str:
    """One structure as extended XYZ, with its arrays, info and the results of its calculator.

    Args:
      atoms: the structure.
      digits: significant digits of the columns; None writes the shortest text that reads back to the same number.
    """
    return "".join(frame_pieces(atoms, digits))


def frame_pieces(atoms: ase.Atoms, digits: int | None = None) -> Iterator[str]:
    """`format_frame` piece by piece: a large structure is never held as text as a whole."""
    info, arrays = _contents(atoms)
    names, tables = ["species:S:1"], []
    for name, array in arrays.items():
        kind, text = _column_format(name, array, digits)
        table = array.reshape(len(atoms), math.prod(array.shape[1:]))  # -1 would not do for zero atoms
        names.append(f"{_NAMES.get(name, name)}:{kind}:{table.shape[1]}")
        tables.append((table, text))
    lattice = " ".join(repr(float(x)) for x in atoms.cell.array.ravel())
    comment = f'Lattice="{lattice}" ' if atoms.cell.array.any() else ""
    comment += f"Properties={':'.join(names)} {key_val_dict_to_str({**info, 'pbc': atoms.get_pbc()})}"
    yield f"{len(atoms)}\n{' '.join(comment.splitlines())}\n"
    for start in range(0, len(atoms), _PIECE):
        piece = slice(start, start + _PIECE)
        columns = [[chemical_symbols[Z] for Z in atoms.numbers[piece].tolist()]]
        for table, text in tables:
            columns += [[text(value) for value in column] for column in table[piece].T.tolist()]
        yield "".join(f"{' '.join(row)}\n" for row in zip(*columns, strict=True))


def _contents(atoms: ase.Atoms) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What goes to the comment line, and what to the columns."""
    info = {name: value for name, value in atoms.info.items() if name}  # no name: a lone { or " in a comment, to ASE
    arrays = {"positions": atoms.positions}
    arrays |= {name: array for name, array in atoms.arrays.items() if name not in ("positions", "numbers")}
    fixed = [constraint.index for constraint in atoms.constraints if isinstance(constraint, FixAtoms)]
    if fixed:
        arrays["move_mask"] = ~np.isin(np.arange(len(atoms)), np.concatenate(fixed))
    results = getattr(atoms.calc, "results", {})
    for name, value in results.items():
        if value is not None:
            (arrays if name in _PER_ATOM else info)[name] = np.asarray(value)
    stress = np.asarray(info.get("stress", 0.0))
    if stress.shape == (6,):
        info["stress"] = voigt_6_to_full_3x3_stress(stress)
    return info, arrays


def _column_format(name: str, array: np.ndarray, digits: int | None) -> tuple[str, Callable[[Any], str]]:
    """Type letter of a column and the function that writes one entry."""
    if array.dtype.kind == "f":
        if digits is None:
            return "R", lambda x: repr(x).rjust(23)
        return "R", f"{{:{digits + 7}.{digits}g}}".format
    if array.dtype.kind in "iu":
        return "I", str
    if array.dtype.kind == "b":
        return "L", lambda x: "T" if x else "F"
    if array.dtype.kind == "U" and all(text and not any(c.isspace() for c in text) for text in array.ravel().tolist()):
        return "S", str
    raise StructureError(f"entries of type {array.dtype} cannot be written as a column", field=name)


def keep_texts(atoms: ase.Atoms) -> None:
    """Prepares texts in `info`, say the comments of RuNNer files, so that ASE reads them back from extended XYZ as they are.

    It would take "1.0" for a number and "T" for a truth value, drop backslashes, and break at line feeds.
    """
    for key, value in atoms.info.items():
        if not isinstance(value, str):
            continue
        line = key_val_dict_to_str({key: value, "next": "x"})
        if len(line.splitlines()) == 1 and not value.startswith("_JSON"):
            read = key_val_str_to_dict(line)
            if isinstance(read.get(key), str) and read == {key: value, "next": "x"}:
                continue
        # ASE's own notation for what is not plain; it takes off one layer of backslashes.
        atoms.info[key] = "_JSON " + json.dumps(value).replace("\\", "\\\\")


def complete_length(path: str | os.PathLike[str]) -> int:
    """Bytes up to the end of the last complete frame; more follow when a run was killed while it wrote.

    Raises:
      FormatError: what stands there is not extended XYZ.
    """
    ends = [0]
    with open(path, "rb") as file:
        with contextlib.suppress(_TruncatedError):
            for end in _frames(path, file):
                ends.append(end)
        file.seek(max(ends[-1] - 1, 0))
        if ends[-1] and file.read(1) != b"\n":  # the last number may have been cut
            ends.pop()
    return ends[-1]


def check_extxyz(path: str | os.PathLike[str], file: Any, numbers: bool = False) -> bool:
    """Checks the layout of an extended XYZ file; whether it is plain, or has to be rewritten (`bpjax.io.xyz_dialects`) for ASE.

    Args:
      path: for messages.
      file: the content, as an open binary file.
      numbers: whether to parse the numbers too, which takes longer; to be used once something is known to be wrong.

    Raises:
      FormatError: with the line where the layout breaks.
    """
    seen: set[bytes] = set()
    plain = [True]
    for _ in _frames(path, file, numbers, seen, plain):
        pass
    return plain[0] and all(map(xyz_dialects.is_symbol, seen))


class _TruncatedError(FormatError):
    """The file ends inside a frame."""


def _frames(
    path: str | os.PathLike[str],
    file: Any,
    numbers: bool = False,
    seen: set[bytes] | None = None,
    plain: list[bool] | None = None,
) -> Iterator[int]:
    """Position after each frame; raises where the layout breaks. Elements go to `seen`, to `plain` whether comments are."""
    at, line, frame = 0, 0, 0
    head: bytes = file.readline()
    while True:
        line += 1
        if not head.strip():
            rest = head
            while rest and not rest.strip():
                rest = file.readline()
            if rest:
                raise FormatError(path, "empty line where the number of atoms should stand", line)
            return
        if not head.strip().isdigit() or len(head.strip()) > 12:
            raise FormatError(path, f"expected the number of atoms, found {excerpt(head)}", line)
        atoms = int(head)
        comment = file.readline()
        columns, named = xyz_dialects.columns(comment), b"Properties=" in comment
        if plain is not None and not xyz_dialects.is_plain(comment):
            plain[0] = False
        at += len(head) + len(comment)
        line += 1
        if not comment.endswith(b"\n"):
            raise _TruncatedError(path, f"truncated: frame {frame} ends in its comment line", line)
        if columns is None:
            raise FormatError(path, "Properties must be name:type:number:name:type:number...", line)
        _check_comment(path, comment, {one.name for one in columns}, line)
        kinds = "".join(one.kinds for one in columns)
        species, number = (xyz_dialects.first_column(columns, *names) for names in (("species",), ("z", "numbers")))
        for index in range(atoms):
            row = file.readline()
            at += len(row)
            line += 1
            if not row:
                raise _TruncatedError(path, f"truncated: frame {frame} has {index} of {atoms} atoms", line - 1)
            entries = row.split()
            # Plain XYZ may have more columns than are read; then all rows have them.
            wanted = len(kinds) if named or index == 0 else wanted
            if len(entries) != wanted and (len(entries) < len(kinds) or named or index > 0):
                message = f"frame {frame} needs {wanted} columns, found {len(entries)}"
                if not row.endswith(b"\n"):
                    raise _TruncatedError(path, f"truncated: {message}", line)
                raise FormatError(path, message, line)
            wanted = len(entries)
            if seen is not None and species is not None:
                seen.add(entries[species])
            if numbers or b"_" in row or not row.isascii():
                _check_numbers(path, entries, kinds, line)
            if species is not None and number is not None:
                _check_species(path, entries[species], entries[number], line)
        yield at
        frame += 1
        head = file.readline()
        while head.lstrip().startswith(b"VEC"):  # cell vectors as pseudo-atoms, a dialect that ASE reads
            at += len(head)
            line += 1
            head = file.readline()


_OF_STRUCTURE = {*NAMES["energy"], *NAMES["stress"], "dipole", "magmom", "weight"}
_QUOTED = rb"\"(?:[^\"\\]|\\.)*\"|'[^']*'"
_KEY = re.compile(rb"(" + _QUOTED + rb"|[^\s=\"']+)(?:(\s*=\s*)(" + _QUOTED + rb"|\{[^}]*\}|\[[^\]]*\]|[^\s\"']*))?")
"""A word of the comment line, and where it is a key the = after it and its value."""
_COUNTS = {
    b"energy": (1,),
    b"free_energy": (1,),
    b"stress": (6, 9),
    b"virial": (6, 9),
    b"dipole": (3,),
    b"Lattice": (9,),
}
"""How many numbers belong to a key of the comment line."""


def _check_comment(path: str | os.PathLike[str], comment: bytes, columns: set[str], line: int) -> None:
    """Raises where ASE would take one of two things that a comment line says.

    These are keys that stand twice, labels of the structure that are columns (a stress, with six atoms), digits of other scripts,
    "1_0" for 10, stresses that are not symmetric; and where there are too few or too many numbers, which ASE does not say well.
    """
    pairs = [(word.strip(b"\"'"), value) for word, sign, value in _KEY.findall(comment) if sign]
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        twice = next(key for n, key in enumerate(keys) if key in keys[:n])
        raise FormatError(path, f"{excerpt(twice)} stands twice in the comment line", line)
    if wrong := _OF_STRUCTURE & columns:
        raise FormatError(path, f"{min(wrong)!r} {A_COLUMN}", line)
    if twice := columns & {key.decode(errors="replace") for key in keys} - {"pos", "species"}:
        raise FormatError(path, f"{min(twice)!r} stands in the comment line and is a column", line)
    for key, value in pairs:
        if key in _COUNTS:
            _check_values(path, key, value, line)
    if not comment.isascii():
        text = comment.decode(errors="replace")
        wrong = next((word for word in text.split() if any(c.isdecimal() and not c.isascii() for c in word)), None)
        if wrong is not None and "=" in text:
            raise FormatError(path, f"digits that are not those of ASCII: {wrong[:40]!r}", line)


def _check_values(path: str | os.PathLike[str], key: bytes, value: bytes, line: int) -> None:
    """Raises where there are too few or too many numbers, or they make no symmetric tensor."""
    words = value.strip(b"\"'{}[] ").replace(b",", b" ").split()
    name = key.decode()
    if wrong := [word for word in words if b"_" in word]:
        raise FormatError(path, f"{name}: expected a number, found {excerpt(wrong[0])}", line)
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return  # of another kind, or of digits of other scripts: ASE or the checks after it will say so
    if len(words) not in _COUNTS[key]:
        wanted = " or ".join(map(str, _COUNTS[key]))
        raise FormatError(path, f"{name} has {len(words)} numbers; expected {wanted}", line)
    if len(words) == 9 and key != b"Lattice" and not is_symmetric(numbers):
        raise FormatError(path, f"{name} {NOT_SYMMETRIC}", line)


def _check_species(path: str | os.PathLike[str], symbol: bytes, number: bytes, line: int) -> None:
    known = atomic_numbers.get(symbol.decode(errors="replace"))
    if known is not None and number != str(known).encode():
        raise FormatError(path, f"says {excerpt(symbol)} and the atomic number {excerpt(number)}", line)


def _check_numbers(path: str | os.PathLike[str], entries: list[bytes], kinds: str, line: int) -> None:
    parsers = {"R": float, "I": int}
    for entry, kind in zip(entries, kinds, strict=False):
        try:
            if kind in parsers and (b"_" in entry or not entry.isascii()):  # Python takes both for numbers
                raise ValueError
            parsers.get(kind, bytes)(entry)
        except ValueError:
            raise FormatError(path, f"expected a number, found {excerpt(entry)}", line) from None


def excerpt(text: bytes) -> str:
    """The beginning of a piece of a file, for messages."""
    shown = text.strip().decode(errors="replace")
    return repr(shown if len(shown) <= 40 else f"{shown[:37]}...")
