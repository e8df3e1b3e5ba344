"""Trajectories of ASE (``.traj``): what a file says of itself against what it holds, before ASE reads it and makes room for it.

The file begins with ``- of Ulm``, a tag of 16 bytes, and three integers: version, number of frames, place of a table of places.
At each of these stands the length of a text, and the text: JSON, in which ``{"ndarray": [shape, type, place]}`` is an array.

References: the documentation of ase.io.ulm, https://wiki.fysik.dtu.dk/ase/ase/io/ulm.html.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, BinaryIO

import numpy as np

from bpjax.errors import FormatError

_Path = str | os.PathLike[str]


def check_ulm(path: _Path) -> None:
    """Refuses a file that claims to hold more than it has bytes. What else is wrong with it, ASE says.

    Raises:
      FormatError: naming the file and the frame.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file.read(24)[:8] != b"- of Ulm":
            raise FormatError(path, "is no trajectory of ASE: it does not begin as one")
        _, count, table = _integers(path, file, 3)
        if not (0 <= count and 0 <= table and table + 8 * count <= size):
            raise FormatError(path, f"damaged: it cannot have {count} frames in {size} bytes")
        file.seek(table)
        for number, place in enumerate(_integers(path, file, count)):
            if not 0 <= place <= size - 8:
                raise FormatError(path, f"damaged: frame {number} cannot begin at {place} in a file of {size} bytes")
            file.seek(place)
            (length,) = _integers(path, file, 1)
            if not 0 <= length <= size - place - 8:
                raise FormatError(path, f"damaged: frame {number} cannot be a text of {length} in {size} bytes")
            try:
                described = json.loads(file.read(length).decode())
            except (ValueError, RecursionError) as error:
                raise FormatError(path, f"damaged: frame {number} is described by no JSON: {error}") from error
            if (claimed := _largest(described)) > size:
                raise FormatError(path, f"damaged: an array of frame {number} cannot end at {claimed} in {size} bytes")


def _integers(path: _Path, file: BinaryIO, count: int) -> list[int]:
    data = file.read(8 * count)
    if len(data) != 8 * count:
        raise FormatError(path, "truncated")
    return np.frombuffer(data, "<i8").tolist()


def _largest(value: Any) -> int:
    """Where the last of the arrays in a description ends."""
    if isinstance(value, dict):
        array = value.get("ndarray")
        return _end(array) if isinstance(array, list) else max(map(_largest, value.values()), default=0)
    return max(map(_largest, value), default=0) if isinstance(value, list) else 0


def _end(array: list[Any]) -> int:
    """Where an array ends; 0 for what is none, which ASE refuses."""
    try:
        shape, dtype, place = array
        return place + math.prod(shape) * np.dtype(dtype).itemsize
    except (ValueError, TypeError):
        return 0
