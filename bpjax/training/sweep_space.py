"""The space of a sweep: options of a training file with the values that they may take, and the points in it.

An option is named as it stands in the file, by sections and dots: `optimizer.learning_rate`, `network.hidden`,
`descriptor.g2[3].r_s`. Its values are a list, or an interval:

.. code-block:: toml

    [sweep.space]
    "optimizer.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
    "optimizer.start_seed" = { low = 0, high = 1000, integer = true }
    "network.hidden" = [[16, 16], [32, 32]]
"""

import copy
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bpjax.descriptors.choose import descriptor_for, lacks_elements
from bpjax.errors import ConfigError
from bpjax.spec import check, from_spec, to_spec
from bpjax.training.options import TrainingOptions

Point = dict[str, Any]
"""Value of each option of the space, as plain values."""


@dataclass(frozen=True)
class Interval:
    """Numbers between two limits.

    Attributes:
      low, high: the limits, both included.
      log: whether equal ratios are equally likely, in place of equal differences.
      integer: whether only integers count.
      points: how many values a grid takes of it; needed for sampler "grid" alone.

    Raises:
      ValueError: an empty interval, or limits that do not go with the rest.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False
    points: int = 0

    def __post_init__(self):
        check(
            math.isfinite(self.low) and math.isfinite(self.high), "low, high", (self.low, self.high), "must be finite"
        )
        check(self.low < self.high, "low", self.low, f"must be below high={self.high}")
        check(not self.log or self.low > 0, "low", self.low, "must be positive with log=true")
        whole = self.low == round(self.low) and self.high == round(self.high)
        check(not self.integer or whole, "low, high", (self.low, self.high), "must be integers with integer=true")
        check(self.points == 0 or self.points >= 2, "points", self.points, "must be at least 2")

    def at(self, u: float) -> float | int:
        """The value below which the part u of a uniform (or log-uniform) distribution lies."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.integer else (self.low, self.high)
        value = low * (high / low) ** u if self.log else low + u * (high - low)
        value = float(np.clip(value, self.low, self.high))
        return round(value) if self.integer else value

    def grid(self) -> list:
        """`points` values from end to end."""
        spaced = np.geomspace if self.log else np.linspace
        values = np.clip(spaced(self.low, self.high, self.points), self.low, self.high).tolist()
        return list(dict.fromkeys(map(round, values))) if self.integer else values

    def ends(self) -> list:
        """Both limits."""
        return [round(v) if self.integer else float(v) for v in (self.low, self.high)]


@dataclass(frozen=True)
class Choice:
    """Some values, all equally likely."""

    values: tuple

    def __post_init__(self):
        object.__setattr__(self, "values", frozen(self.values))
        check(len(self.values) > 0, "values", self.values, "at least one")
        check(len({repr(v) for v in self.values}) == len(self.values), "values", self.values, "each once")

    def at(self, u: float) -> Any:
        """The value below which the part u of the list lies."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def grid(self) -> list:
        """All values."""
        return list(self.values)

    def ends(self) -> list:
        """All values, too."""
        return list(self.values)


Space = dict[str, Interval | Choice]
"""Values of each option that differs, by name."""


def read_space(given: Mapping[str, Any]) -> Space:
    """The space as it stands in a training file; names with dots may also be written as tables in tables.

    Raises:
      ConfigError: no option, an empty list or interval, or an entry that is neither; names the option.
    """
    space = {name: _axis(name, value) for name, value in _flat(given, "")}
    if not space:
        raise ConfigError("names no option; give at least one", field="space")
    return space


def _flat(given: Mapping[str, Any], prefix: str):
    limits = {"low", "high", "log", "integer", "points", "type"}
    for name, value in given.items():
        full = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping) and not limits & set(value) and value:
            yield from _flat(value, full)
        else:
            yield full, value


def _axis(name: str, value: Any) -> Interval | Choice:
    field = f"space.{name}"
    if isinstance(value, Interval | Choice):
        return value
    if isinstance(value, list | tuple):
        try:
            return Choice(frozen(value))
        except ValueError as error:
            raise ConfigError(str(error), field=field) from error
    if not isinstance(value, Mapping):
        raise ConfigError(f"must be a list of values, or {{ low = ..., high = ... }}, got {value!r}", field=field)
    try:
        return from_spec(Interval | Choice, dict(value))
    except ConfigError as error:
        raise ConfigError(error.message, field=".".join(filter(None, (field, error.field)))) from error


def frozen(value: Any) -> Any:
    """Lists as tuples."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def random_point(space: Space, seed: int, number: int) -> Point:
    """The point of a trial, the same for the same seed and number."""
    u = np.random.default_rng([seed, number]).random(len(space))
    return {name: axis.at(float(x)) for (name, axis), x in zip(space.items(), u, strict=True)}


def grid_points(space: Space) -> list[Point]:
    """All combinations; the last option runs fastest.

    Raises:
      ConfigError: an interval that does not say how many of its values count.
    """
    for name, axis in space.items():
        if isinstance(axis, Interval) and not axis.points:
            raise ConfigError("a grid needs to know how many points to take of it: points = 5", field=f"space.{name}")
    values = itertools.product(*(axis.grid() for axis in space.values()))
    return [dict(zip(space, row, strict=True)) for row in values]


# ------------------------------------------------------------------------------------------ training files of points


@dataclass(frozen=True)
class TrainingFile:
    """A training file as plain values, from which those of the points are made.

    Attributes:
      spec: the sections, as read from TOML.
      elements: those of the data, for a descriptor that names none.
      where: the file, for messages.
      folder: what names of files in it are relative to; None to leave them as they are.
    """

    spec: dict[str, Any]
    elements: tuple[str, ...]
    where: str = "options"
    folder: Path | None = None

    def options(self, point: Mapping[str, Any] | None = None) -> TrainingOptions:
        """The run of a point; without one, that of the file.

        Raises:
          ConfigError: an option that is unknown, of the wrong type or out of range.
        """
        spec = self.at(point or {})
        asked = spec.get("descriptor")
        if not lacks_elements(asked):
            return from_spec(TrainingOptions, spec, self.where)
        found = descriptor_for(asked, self.elements, self.where, "descriptor")
        return from_spec(TrainingOptions, {**spec, "descriptor": to_spec(found)}, self.where)

    def at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The file with the values of a point."""
        spec = copy.deepcopy(self.spec)
        for name, value in point.items():
            self._set(spec, name, _plain(value))
        return spec

    def _set(self, spec: dict, name: str, value: Any) -> None:
        steps = _steps(name, self.where)
        here: Any = spec
        for depth, step in enumerate(steps[:-1]):
            known = step in here if isinstance(here, dict) else step < len(here)
            if not known and isinstance(steps[depth + 1], int):  # entry of a list that the file leaves at its default
                here[step] = self._default(steps[: depth + 1], name)
            elif not known and isinstance(here, dict):
                here[step] = {}
            elif not known:
                raise ConfigError(f"there are {len(here)} entries, counted from 0", self.where, name)
            here = here[step]
            if not isinstance(here, list if isinstance(steps[depth + 1], int) else dict):
                raise ConfigError("no such option", self.where, name)
        if isinstance(here, list) and steps[-1] >= len(here):
            raise ConfigError(f"there are {len(here)} entries, counted from 0", self.where, name)
        here[steps[-1]] = value

    def _default(self, steps: list, name: str) -> list:
        found: Any = to_spec(self.options())
        for step in steps:
            found = found.get(step) if isinstance(found, dict) else None
        if not isinstance(found, list):
            raise ConfigError("no such list", self.where, name)
        return found


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _steps(name: str, where: str) -> list:
    """Names and numbers on the way to an option: "descriptor.g2[3].r_s" is descriptor, g2, 3, r_s."""
    steps: list = []
    for part in name.split("."):
        found = re.fullmatch(r"(\w[\w-]*)((?:\[\d+\])*)", part)
        if not found:
            raise ConfigError("must look like section.option or section.list[0].option", where, name)
        steps += [found[1], *(int(n) for n in re.findall(r"\d+", found[2]))]
    return steps


def check_space(file: TrainingFile, space: Space) -> None:
    """Checks that every option of the space exists and may take all of its values.

    Raises:
      ConfigError: the first that does not, with the file and the name of the option.
    """
    refused = {
        "data": "the data are read and split once for all points; only data.weights may differ",
        "optimizer.seed": "decides the split of the data, too; take optimizer.start_seed",
        "ensemble": "a sweep trains single networks",
    }
    for name, axis in space.items():
        for prefix, reason in refused.items():
            if (name == prefix or name.startswith(f"{prefix}.")) and not name.startswith("data.weights."):
                raise ConfigError(reason, file.where, f"sweep.space.{name}")
        for value in axis.ends():
            try:
                file.options({name: value})
            except ConfigError as error:
                told = error.message if error.field in (None, name) else f"{error.field}: {error.message}"
                raise ConfigError(told, file.where, f"sweep.space.{name}") from error
