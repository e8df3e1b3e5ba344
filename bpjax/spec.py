"""Options as frozen dataclasses, and as plain values for JSON and TOML.

``to_spec`` turns nested frozen dataclasses into dicts of plain values with the class name under ``type``; ``from_spec``
builds them again and explains every mistake: file, dotted name of the option, what is allowed. Model files and
training configurations are read by this one piece of code.

>>> import dataclasses
>>> @dataclasses.dataclass(frozen=True)
... class Ball:
...     radius: float
...     colours: tuple[str, ...] = ("red",)
>>> to_spec(Ball(2.0))
{'type': 'Ball', 'radius': 2.0, 'colours': ['red']}
>>> from_spec(Ball, {"radius": 2}) == Ball(2.0)
True
>>> from_spec(Ball, {"radios": 2}, where="toys.toml")
Traceback (most recent call last):
bpjax.errors.ConfigError: toys.toml: radios: unknown option; did you mean 'radius'? allowed: radius, colours

Annotations that can be converted: None, bool, int, float, str, `pathlib.Path`, `Literal`, tuples, dicts with text keys,
dataclasses, unions of these, and base classes or protocols of dataclasses that were made known by `register`.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import inspect
import math
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from bpjax.errors import ConfigError, FormatError

_Class = TypeVar("_Class")

_registry: dict[str, type] = {}


def register(cls: type[_Class]) -> type[_Class]:
    """Class decorator that makes a dataclass known by its name, so that `from_spec` finds it under ``type``.

    Apply it above ``@dataclass``.

    Raises:
      TypeError: not a dataclass, a second class of the same name, or a field called ``type``.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass")
    if any(field.name == "type" for field in dataclasses.fields(cls)):
        raise TypeError(f"{cls.__name__}: a field must not be called 'type'")
    known = _registry.get(cls.__name__)
    # A reloaded module or a notebook cell run twice replaces its own class.
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(f"{cls.__name__} is already registered by {known.__module__}")
    _registry[cls.__name__] = cls
    return cls


def check(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raises a `ValueError` that names the option and what is allowed, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name}={value}: {allowed}")


SEEDS = 2**32
"""Random numbers begin with one of so many seeds: in single precision JAX takes no more bits."""


SEEDS_ALLOWED = f"must be a whole number from 0 to {SEEDS - 1}"
"""What to say of others."""


def is_seed(seed: Any) -> bool:
    """Whether numpy and JAX take it as seed, in either precision."""
    return isinstance(seed, int | np.integer) and not isinstance(seed, bool) and 0 <= int(seed) < SEEDS


def check_seed(seed: Any, name: str = "seed") -> None:
    """Raises a `ValueError` unless it is a seed that numpy and JAX take, in either precision."""
    check(is_seed(seed), name, seed, SEEDS_ALLOWED)


def registered() -> dict[str, type]:
    """The classes made known by `register`, by name."""
    return dict(_registry)


def named_class(spec: Any) -> type | None:
    """The registered class that plain values name under ``type``; None if they name none, whatever they are."""
    name = spec.get("type") if isinstance(spec, Mapping) else None
    return _registry.get(name) if isinstance(name, str) else None


# ----------------------------------------------------------------------------- objects -> plain values


def to_spec(value: Any) -> Any:
    """Plain values (dict, list, str, int, float, bool, None) for a dataclass or anything inside one.

    Raises:
      ConfigError: a value that JSON and TOML cannot hold, such as an array, a function or NaN.
    """
    return _plain(value, "")


def _plain(value: Any, field: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: _plain(getattr(value, f.name), _join(field, f.name)) for f in _fields(type(value))}
        return {"type": type(value).__name__, **inner}
    if isinstance(value, tuple | list):
        return [_plain(item, f"{field}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, _join(field, key)) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()  # numpy scalars creep in through arithmetic
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{value} cannot be stored; use None or leave it out", field=field)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{type(value).__name__} cannot be stored as plain values", field=field)


# ----------------------------------------------------------------------------- plain values -> objects


def from_spec(expected: Any, spec: Any, where: str = "spec") -> Any:
    """Builds an object from plain values; the inverse of `to_spec`.

    Fields that are left out take their defaults; "none" stands for None, where that is allowed. ``type`` may be left out where
    only one class is possible.

    Args:
      expected: a dataclass, a base class of registered dataclasses (`object` stands for all of them), or a union.
      spec: plain values, as read from JSON or TOML.
      where: the file, for messages.

    Raises:
      ConfigError: an option that is unknown, missing, of the wrong type or out of range.
    """
    return _convert(expected, spec, where, "")


def from_toml(expected: Any, path: str | os.PathLike[str]) -> Any:
    """Builds an object from a TOML file; see `from_spec`.

    Raises:
      FormatError: the file is missing or is not TOML.
      ConfigError: an option that is unknown, missing, of the wrong type or out of range.
    """
    try:
        spec = tomllib.loads(Path(path).read_bytes().decode())
    except OSError as error:
        raise FormatError(path, "no such file" if isinstance(error, FileNotFoundError) else str(error)) from error
    except UnicodeDecodeError as error:
        raise FormatError(path, "is not a text file in UTF-8") from error
    except RecursionError:
        raise FormatError(path, "not valid TOML: nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column \d+\)", str(error))
        message = str(error).replace(place.group(0), "") if place else str(error)
        raise FormatError(path, f"not valid TOML: {message}", int(place.group(1)) if place else None) from error
    return from_spec(expected, spec, os.fspath(path))


def _convert(annotation: Any, value: Any, where: str, field: str) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where, field)
    if origin is Literal:
        # `==` alone would take 1 for True.
        if not any(value == allowed and type(value) is type(allowed) for allowed in arguments):
            raise ConfigError(_choose(value, arguments), where, field)
        return value
    if origin is tuple or annotation is tuple:
        return _convert_tuple(arguments, value, where, field)
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"must be a table, got {_show(value)}", where, field)
        return {key: _convert(arguments[1], item, where, _join(field, key)) for key, item in value.items()}
    if annotation in (None, types.NoneType, bool, int, float, str, Path, Any):
        return _convert_plain(annotation, value, where, field)
    if isinstance(annotation, type):
        return _build([annotation], value, where, field)
    raise TypeError(f"{field}: options cannot be annotated with {annotation}")


def _convert_plain(annotation: Any, value: Any, where: str, field: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is Any:
        return tuple(value) if isinstance(value, list) else value
    if annotation is float and number:
        value = float(value)
        if not math.isfinite(value):
            raise ConfigError(f"must be a finite number, got {value}", where, field)
        return value
    if annotation is int and number and isinstance(value, int):
        return value
    if annotation is Path and isinstance(value, str):
        return Path(value)
    if annotation in (None, types.NoneType) and value is None:
        return None
    if annotation in (bool, str) and isinstance(value, annotation):
        return value
    raise ConfigError(f"must be {_name(annotation)}, got {_show(value)}", where, field)


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str, field: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"must be a list, got {_show(value)}", where, field)
    if not arguments:
        arguments = (Any, ...)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        items = [arguments[0]] * len(value)
    else:
        items = [] if arguments == ((),) else list(arguments)
    if len(items) != len(value):
        raise ConfigError(f"must have {len(items)} entries, got {len(value)}", where, field)
    return tuple(_convert(a, v, where, f"{field}[{i}]") for i, (a, v) in enumerate(zip(items, value, strict=True)))


def _convert_union(alternatives: tuple[Any, ...], value: Any, where: str, field: str) -> Any:
    if types.NoneType in alternatives and value == "none":  # TOML has no null
        return None
    classes = [a for a in alternatives if _is_options(a)]
    if classes and isinstance(value, Mapping):
        return _build(classes, value, where, field)
    errors = []
    for alternative in alternatives:
        if alternative in classes:
            continue
        try:
            return _convert(alternative, value, where, field)
        except ConfigError as error:
            errors.append(error)
    containers = [error for error in errors if error.field != field]
    if containers:  # the value had the right outer form, and an entry was wrong: say which
        raise containers[0]
    allowed = " or ".join(dict.fromkeys(_name(a) for a in alternatives))
    raise ConfigError(f"must be {allowed}, got {_show(value)}", where, field)


def _build(bases: list[type], value: Any, where: str, field: str) -> Any:
    """An instance of one of the dataclasses that `bases` admit."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"must be a table, got {_show(value)}", where, field)
    cls = _select(bases, value, where, field)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in _fields(cls)}
    for name in value:
        if name not in fields and name != "type":
            raise ConfigError(f"unknown option{_similar(name, fields)}", where, _join(field, name))
    missing = [
        name
        for name, f in fields.items()
        if name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"missing; {cls.__name__} needs it", where, _join(field, missing[0]))
    options = {name: _convert(hints[name], value[name], where, _join(field, name)) for name in fields if name in value}
    try:
        return cls(**options)
    except ConfigError as error:
        raise ConfigError(error.message, where, _join(field, error.field or "")) from error
    except ValueError as error:  # the class's own check of its options
        raise ConfigError(str(error), where, field) from error


def _select(bases: list[type], value: Mapping[str, Any], where: str, field: str) -> type:
    """The class that ``type`` names, or the only one possible."""
    classes = {cls.__name__: cls for base in bases for cls in _candidates(base)}
    if "type" in value:
        name = value["type"]
        if not isinstance(name, str) or name not in classes:
            raise ConfigError(_choose(name, classes), where, _join(field, "type"))
        return classes[name]
    if len(classes) == 1:
        return next(iter(classes.values()))
    if classes.get(bases[0].__name__) is bases[0]:
        return bases[
            0
        ]  # the first class of the annotation is the plain choice, subclasses and others are the special ones
    raise ConfigError(f"missing; allowed: {_listed(classes)}", where, _join(field, "type"))


def _candidates(base: type) -> list[type]:
    """Dataclasses that may stand where `base` is expected."""
    if getattr(base, "_is_protocol", False):  # nobody inherits from a protocol: any may fit
        return list(_registry.values())
    own = [base] if dataclasses.is_dataclass(base) and not inspect.isabstract(base) else []
    return own + [cls for cls in _registry.values() if cls is not base and base in cls.__mro__]


def _is_options(annotation: Any) -> bool:
    plain = (types.NoneType, bool, int, float, str, Path, tuple, dict)
    return isinstance(annotation, type) and typing.get_origin(annotation) is None and annotation not in plain


def _fields(cls: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init]


# -------------------------------------------------------------------------------------------- messages


def _join(field: str, name: str) -> str:
    return f"{field}.{name}" if field and name else field or name


def _listed(allowed: Iterable[Any]) -> str:
    return ", ".join(str(item) for item in allowed) or "none"


def _similar(name: Any, allowed: Iterable[Any]) -> str:
    close = difflib.get_close_matches(str(name), [str(item) for item in allowed], n=1)
    return f"; did you mean {close[0]!r}? allowed: {_listed(allowed)}" if close else f"; allowed: {_listed(allowed)}"


def _choose(value: Any, allowed: Iterable[Any]) -> str:
    return f"unknown choice {_show(value)}{_similar(value, allowed)}"


def _name(annotation: Any) -> str:
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}
    if annotation in (None, types.NoneType):
        return "nothing"
    if typing.get_origin(annotation) is Literal:
        return " or ".join(repr(item) for item in typing.get_args(annotation))
    if annotation is tuple or typing.get_origin(annotation) is tuple:
        return "a list"
    return words.get(annotation, "a table")


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
