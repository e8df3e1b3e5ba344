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
``checksum``    SHA-256 of all of this and of the arrays; files of version 1 have none
==============  =====================================================================================
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from bpjax.errors import ModelFileError
from bpjax.io.archive import Archive, Entry
from bpjax.io.atomic import write_bytes

FORMAT = "bpjax-model"
VERSION = 2

META_FIELDS = ("spec", "elements", "units", "provenance")
_FIELDS = ("format", "version", *META_FIELDS, "arrays", "checksum")
_KINDS = "biufc"  # bool, integers, floats, complex: nothing that could hide an object
_EPOCH = (1980, 1, 1, 0, 0, 0)


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
    members = {_member(key): _npy(array) for key, array in flat.items()}
    try:
        header["checksum"] = _checksum(header, members)
    except (TypeError, ValueError) as error:
        raise ModelFileError(path, f"meta is not plain JSON: {error}") from error
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "model.json", json.dumps(header, indent=1, allow_nan=False).encode())
        for name, data in members.items():
            _add(archive, name, data)
    write_bytes(path, buffer.getvalue())


def read_model_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a model file.

    Returns: `meta` and `arrays` as given to `write_model_file`; arrays are equal bit by bit.

    Raises:
      ModelFileError: the file is not there, is no model, is damaged or was changed since, or is of a later version.
    """
    with Archive(path, "a bpjax model file", ModelFileError) as archive:
        if "model.json" not in archive.members:
            raise ModelFileError(path, "not a bpjax model file: a zip without model.json")
        # Stored members cannot be larger than the file: a small file cannot fill the memory.
        if archive.compressed:
            raise ModelFileError(path, "model files are not compressed; this one is")
        header = _header(path, archive.bytes("model.json"))
        flat = {key: _array(path, archive, key, entry) for key, entry in _declared(path, header, archive).items()}
        nested = _nest(path, flat)
        if header["version"] > 1:
            members = {name: archive.bytes(name) for name in sorted(archive.members) if name != "model.json"}
            if header["checksum"] != _checksum(header, members):
                raise ModelFileError(path, "was changed after it was written: its content has another checksum")
    return {name: header[name] for name in META_FIELDS}, nested


def _npy(array: np.ndarray) -> bytes:
    member = io.BytesIO()
    np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
    return member.getvalue()


def _checksum(header: Mapping[str, Any], members: Mapping[str, bytes]) -> str:
    """SHA-256 of what the header says, beside the checksum itself, and of all arrays."""
    said = {name: value for name, value in header.items() if name != "checksum"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, allow_nan=False).encode())
    for name, data in sorted(members.items()):
        digest.update(f"\0{name}\0{len(data)}\0".encode() + data)
    return f"sha256:{digest.hexdigest()}"


def _header(path: str | os.PathLike[str], text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(path, f"damaged model file: model.json: {error}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFileError(path, f"not a bpjax model file: model.json does not say format {FORMAT!r}")
    version = header.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelFileError(path, f"model.json: version must be a positive integer, not {version!r}")
    if version > VERSION:
        raise ModelFileError(
            path, f"has format version {version}; this bpjax reads up to version {VERSION}: upgrade bpjax to load it"
        )
    fields = _FIELDS if version > 1 else [name for name in _FIELDS if name != "checksum"]
    for name in sorted(set(header) - set(fields)):
        raise ModelFileError(path, f"model.json: unknown field {name!r}; allowed: {', '.join(fields)}")
    for name in fields:
        if name not in header:
            raise ModelFileError(path, f"model.json: missing field {name!r}")
    return header


def _declared(path: str | os.PathLike[str], header: dict[str, Any], archive: Archive) -> dict[str, Any]:
    """The table of arrays in ``model.json``, checked against the members of the zip."""
    declared = header["arrays"]
    if not isinstance(declared, dict):
        raise ModelFileError(path, "model.json: arrays must be a table")
    expected, members = {_member(key): key for key in declared}, set(archive.members)
    for member in sorted(set(expected) - members):
        raise ModelFileError(path, f"array {expected[member]!r} is missing")
    for member in sorted(members - set(expected) - {"model.json"}):
        raise ModelFileError(path, f"unexpected member {member!r}")
    return declared


def _array(path: str | os.PathLike[str], archive: Archive, key: str, entry: Any) -> np.ndarray:
    array = archive.array(f"arrays/{key}", Entry(_KINDS))
    if entry != {"dtype": array.dtype.str, "shape": list(array.shape)}:
        raise ModelFileError(
            path, f"array {key!r} is not what model.json says: {array.dtype.str} {array.shape}, not {entry}"
        )
    return array


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
        leaves.append((name, np.asarray(array, array.dtype.newbyteorder("="), order="C")))
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
