"""What goes wrong at the boundary of the package, as exceptions whose text is one clear line.

Whoever runs bpjax from a shell sees only `str(error)`: it says what is wrong and where (file, line, frame, field).
Inside jit nothing raises; see the flags of `Prediction`.
"""

from __future__ import annotations

import os
from typing import Any


class BpjaxError(Exception):
    """Base of all errors that a user can cause and mend.

    Args:
      message: what is wrong; line breaks are folded, so that the text is always one line.

    Subclasses with more arguments pass all of them on to `args`, which keeps them picklable, and override `_text`.

    Attributes:
      named_in: the file, and line, that names the file or option in question, where that is another one.
    """

    named_in: str | None = None

    def __str__(self) -> str:
        origin = "" if self.named_in is None else f" (named in {self.named_in})"
        return " ".join(self._text().split()) + origin

    def _text(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__


class UnknownSpeciesError(BpjaxError):
    """An element that the model or the table does not know."""


class CutoffError(BpjaxError):
    """A cutoff radius that does not fit the cell, the list or the other terms."""


class CapacityError(BpjaxError):
    """A neighbour list or batch that cannot be grown any further."""


class DivergedError(BpjaxError):
    """Training or dynamics that reached non-finite or absurd values."""


class ExtrapolationError(BpjaxError):
    """Dynamics that left the training data of its model too often.

    Attributes:
      atoms: the last good state of the run (ASE atoms), None if there was none.
    """

    atoms: Any = None


class OutputExistsError(BpjaxError):
    """An output that is already there and would be overwritten."""


class FormatError(BpjaxError):
    """A file that cannot be understood.

    Args:
      path: the file.
      message: what is wrong with it.
      line: 1-based line of the file, where known.
    """

    def __init__(self, path: str | os.PathLike[str], message: str, line: int | None = None):
        super().__init__(path, message, line)
        self.path, self.message, self.line = path, message, line

    def _text(self) -> str:
        place = os.fspath(self.path)
        return f"{place}: {self.message}" if self.line is None else f"{place}: line {self.line}: {self.message}"


class ModelFileError(FormatError):
    """A model file that is missing, damaged, from a later version, or no model at all."""


class ConfigError(BpjaxError):
    """An option that is missing, unknown, of the wrong type or out of range.

    Args:
      message: what is wrong and what is allowed.
      where: the file or object that holds the options.
      field: dotted name of the option.
    """

    def __init__(self, message: str, where: str | None = None, field: str | None = None):
        super().__init__(message, where, field)
        self.message, self.where, self.field = message, where, field

    def _text(self) -> str:
        return ": ".join(part for part in (self.where, self.field, self.message) if part)


class StructureError(BpjaxError):
    """A structure that makes no sense physically, or lacks what is needed.

    Args:
      message: what is wrong.
      path: the file, or None for structures made in memory.
      frame: 0-based index of the structure.
      field: the offending quantity, for example ``forces``.
    """

    def __init__(
        self,
        message: str,
        path: str | os.PathLike[str] | None = None,
        frame: int | None = None,
        field: str | None = None,
    ):
        super().__init__(message, path, frame, field)
        self.message, self.path, self.frame, self.field = message, path, frame, field

    def _text(self) -> str:
        path = None if self.path is None else os.fspath(self.path)
        frame = None if self.frame is None else f"frame {self.frame}"
        return ": ".join(part for part in (path, frame, self.field, self.message) if part)
