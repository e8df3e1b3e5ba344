"""JSON files, from sources that nobody answers for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bpjax.errors import FormatError


def read_json(path: str | os.PathLike[str], what: type) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      what: what it must hold, `dict` or `list`.

    Raises:
      FormatError: the file cannot be read, or holds something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(path, "no such file") from None
    except (OSError, ValueError, RecursionError) as error:  # of permissions, of text that is none, of JSON that is none
        raise FormatError(path, f"cannot be read: {error}") from error
    if not isinstance(found, what):
        raise FormatError(path, f"must hold a JSON {'object' if what is dict else 'array'}")
    return found
