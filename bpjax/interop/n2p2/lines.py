"""Text files of RuNNer and n2p2: lines of words, comments after # or !, numbers in C or Fortran style."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from bpjax.errors import FormatError

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Line:
    """Words of one line.

    Attributes:
      path: the file.
      number: 1-based line of the file.
      words: what stands on it before any comment.
    """

    path: str
    number: int
    words: tuple[str, ...]

    def error(self, message: str) -> FormatError:
        """The error to raise for this line."""
        return FormatError(self.path, message, self.number)

    def real(self, index: int, what: str) -> float:
        """A word as a finite number.

        Raises:
          FormatError: it is none; `what` says what it should have been.
        """
        word = self.words[index]
        if _NUMBER.fullmatch(word):
            value = float(word.lower().replace("d", "e"))  # Fortran writes 1.0D-3
            if math.isfinite(value):
                return value
        raise self.error(f"expected {what}, found {word!r}")

    def integer(self, index: int, what: str, least: int, most: int) -> int:
        """A word as a whole number from `least` to `most`.

        Raises:
          FormatError: it is none.
        """
        value = self.real(index, what)
        if not value.is_integer() or not least <= value <= most:
            raise self.error(f"expected {what} ({least} to {most}), found {self.words[index]!r}")
        return int(value)


def read_lines(path: str | os.PathLike[str]) -> list[Line]:
    """Lines that hold more than blanks and comments.

    Raises:
      FormatError: the file is missing or cannot be read.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", errors="replace")  # comments may be in any encoding
    except OSError as error:
        raise FormatError(path, "no such file" if isinstance(error, FileNotFoundError) else str(error)) from error
    return split_lines(text, path)


def split_lines(text: str, path: str | os.PathLike[str]) -> list[Line]:
    """As `read_lines`, of a text."""
    # Not splitlines: it would also break lines at form feeds and the like, and count them wrong.
    words = (re.split("[#!]", line, maxsplit=1)[0].split() for line in text.split("\n"))
    return [Line(os.fspath(path), n, tuple(w)) for n, w in enumerate(words, start=1) if w]
