"""The model file: one zip with ``model.json`` and one ``.npy`` member for each array.

There is no pickle: reading an untrusted file builds numbers and strings and cannot run code. The bytes depend on
the content alone (no clock, no compression), so equal models give equal files. ``model.json`` holds

==============  =====================================================================================
``format``      always ``bpjax-model``
``version``     version of this layout, an integer
``spec``        the options of the model, see `bpjax.spec`
``elements``    chemical symbols in the order of the species index
``units``       of energies and lengths
``provenance``  how the model was made: free-form
``arrays``      for each array its ``dtype`` and ``shape``; the data are in ``arrays/NAME.npy``
==============  =====================================================================================
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bpjax.errors import ModelFileError
from bpjax.io.atomic import write_bytes

FORMAT = "bpjax-model"
VERSION = 1

META_FIELDS = ("spec", "elements", "units", "provenance")
_FIELDS = ("format", "version", *META_FIELDS, "arrays")
_KINDS = "biufc"  # bool, integers, floats, complex: nothing that could hide an object
_EPOCH = (1980, 1, 1, 0, 0, 0)

# What zipfile, json and numpy raise on damaged input. The list was completed by fuzzing, see the tests.
_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
)


def write_model_file(path: str | os.PathLike[str], meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Writes a model file, whole or not at all.

    Args:
      path: the file; by convention its suffix is ``.bpjax``.
      meta: ``spec``, ``elements``, ``units`` and ``provenance``, all of them plain JSON values.
      arrays: nested dict of numpy arrays; the keys are non-empty strings without ``/``.

    Raises:
      ModelFileError: something that the format cannot hold.
      BpjaxError: the file cannot be written.
    """
    if set(meta) != set(META_FIELDS):
        raise ModelFileError(path, f"meta must have exactly {', '.join(META_FIELDS)}; got {', '.join(sorted(meta))}")
    flat = dict(sorted(_flatten(path, arrays)))
    header = {"format": FORMAT, "version": VERSION, **{name: meta[name] for name in META_FIELDS}}
    header["arrays"] = {key: {"dtype": a.dtype.str, "shape": list(a.shape)} for key, a in flat.items()}
    try:
        text = json.dumps(header, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelFileError(path, f"meta is not plain JSON: {error}") from error

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "model.json", text.encode())
        for key, array in flat.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            _add(archive, _member(key), member.getvalue())
    write_bytes(path, buffer.getvalue())


def read_model_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a model file.

    Returns: `meta` and `arrays` as given to `write_model_file`; arrays are equal bit by bit.

    Raises:
      ModelFileError: the file is not there, is no model, is damaged, or is of a later version.
    """
    data = _bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(path, archive)
            header = _header(path, archive)
            declared = _declared(path, header, members)
            flat = {key: _array(path, archive, key, entry) for key, entry in declared.items()}
    except _DAMAGE as error:
        raise ModelFileError(path, f"damaged model file ({type(error).__name__}: {error})") from error
    return {name: header[name] for name in META_FIELDS}, _nest(path, flat)


def _bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ModelFileError(path, "no such file") from error
    except IsADirectoryError as error:
        raise ModelFileError(path, "is a folder, not a bpjax model file") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ModelFileError(path, f"cannot be read: {error}") from error
    if not data:
        raise ModelFileError(path, "is empty")
    if not data.startswith(b"PK\x03\x04"):
        raise ModelFileError(path, "not a bpjax model file")
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise ModelFileError(path, "truncated or damaged: the table of contents at its end is missing")
    return data


def _members(path: str | os.PathLike[str], archive: zipfile.ZipFile) -> set[str]:
    infos = archive.infolist()
    names = {info.filename for info in infos}
    if "model.json" not in names:
        raise ModelFileError(path, "not a bpjax model file: a zip without model.json")
    if len(names) != len(infos):
        raise ModelFileError(path, "damaged model file: it holds a member twice")
    # Stored members cannot be larger than the file: a small file cannot fill the memory.
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
        raise ModelFileError(path, "model files are neither compressed nor encrypted; this one is")
    return names


def _header(path: str | os.PathLike[str], archive: zipfile.ZipFile) -> dict[str, Any]:
    header = json.loads(archive.read("model.json").decode(), parse_constant=_refuse)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFileError(path, f"not a bpjax model file: model.json does not say format {FORMAT!r}")
    version = header.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelFileError(path, f"model.json: version must be a positive integer, not {version!r}")
    if version > VERSION:
        raise ModelFileError(
            path, f"has format version {version}; this bpjax reads up to version {VERSION}: upgrade bpjax to load it"
        )
    for name in sorted(set(header) - set(_FIELDS)):
        raise ModelFileError(path, f"model.json: unknown field {name!r}; allowed: {', '.join(_FIELDS)}")
    for name in _FIELDS:
        if name not in header:
            raise ModelFileError(path, f"model.json: missing field {name!r}")
    return header


def _declared(path: str | os.PathLike[str], header: dict[str, Any], members: set[str]) -> dict[str, Any]:
    """The table of arrays in ``model.json``, checked against the members of the zip."""
    declared = header["arrays"]
    if not isinstance(declared, dict):
        raise ModelFileError(path, "model.json: arrays must be a table")
    expected = {_member(key): key for key in declared}
    for member in sorted(set(expected) - members):
        raise ModelFileError(path, f"array {expected[member]!r} is missing")
    for member in sorted(members - set(expected) - {"model.json"}):
        raise ModelFileError(path, f"unexpected member {member!r}")
    return declared


def _array(path: str | os.PathLike[str], archive: zipfile.ZipFile, key: str, entry: Any) -> np.ndarray:
    data = archive.read(_member(key))
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ModelFileError(path, f"array {key!r}: unknown version of the npy format")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in _KINDS:
        raise ModelFileError(path, f"array {key!r}: dtype {dtype} is not allowed")
    if entry != {"dtype": dtype.str, "shape": list(shape)} or fortran_order:
        raise ModelFileError(path, f"array {key!r} is not what model.json says: {dtype.str} {shape}, not {entry}")
    # Compare sizes before anything is allocated: the header may say anything.
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ModelFileError(path, f"array {key!r}: has not the size that its header says")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape).copy()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _member(key: str) -> str:
    return f"arrays/{key}.npy"


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.create_system = 3  # the same bytes from every operating system
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def _flatten(path: str | os.PathLike[str], tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, np.ndarray]]:
    """Leaves of a nested dict as (``a/b/c``, array)."""
    leaves = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if not isinstance(key, str) or key in ("", ".", "..") or "/" in key or not key.isprintable():
            raise ModelFileError(path, f"array name {name!r}: keys are non-empty text without '/'")
        if isinstance(value, Mapping):
            if not value:
                raise ModelFileError(path, f"array group {name!r} is empty, which the format cannot hold")
            leaves += _flatten(path, value, f"{name}/")
            continue
        array = np.asarray(value)
        if array.dtype.kind not in _KINDS:
            raise ModelFileError(path, f"array {name!r}: dtype {array.dtype} cannot be stored; use plain numbers")
        leaves.append((name, np.asarray(array, order="C")))
    return leaves


def _nest(path: str | os.PathLike[str], flat: dict[str, np.ndarray]) -> dict[str, Any]:
    """Inverse of `_flatten`."""
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *groups, last = name.split("/")
        node: Any = tree
        for group in groups:
            node = node.setdefault(group, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last in node:
            raise ModelFileError(path, f"array {name!r}: the same name is a group and an array")
        node[last] = array
    return tree
