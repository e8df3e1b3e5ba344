"""What several commands need: models, precision, and outputs that are not overwritten by accident."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpjax.errors import BpjaxError, ModelFileError, OutputExistsError

if TYPE_CHECKING:
    from bpjax.potential.energy import Params, Potential


def check_output(path: Path, overwrite: bool = False) -> None:
    """Refuses an output file that exists or cannot be made, before any work is done.

    Raises:
      OutputExistsError: the file is there, and `overwrite` was not asked for.
      BpjaxError: it is a folder, or its folder does not exist or may not be written.
    """
    if path.is_dir():
        raise BpjaxError(f"cannot write {path}: it is a folder")
    if os.path.lexists(path) and not overwrite:
        raise OutputExistsError(f"{path} already exists; it was left as it is (use --overwrite to replace it)")
    if not path.parent.is_dir():
        raise BpjaxError(f"cannot write {path}: the folder {path.parent} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BpjaxError(f"cannot write {path}: permission denied")


def use_dtype(dtype: str) -> None:
    """Puts JAX into double precision if "float64" is asked for. Must come before any array is made."""
    if dtype == "float64":
        import jax

        jax.config.update("jax_enable_x64", True)


def load_model(path: Path) -> tuple[Potential, Params]:
    """Reads a model.

    Raises:
      ModelFileError: there is none, or it cannot be used.
    """
    if path.is_dir():
        raise ModelFileError(path, "is a folder; models are files (NAME.bpjax), n2p2 folders cannot be read yet")
    from bpjax.potential.store import load

    return load(path)


def print_table(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """Prints a table on standard output: by rich on a terminal, as aligned plain text elsewhere.

    The first column is text, the others are numbers; None is shown as ``-``.
    """
    cells = [
        ["-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
        for row in rows
    ]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(title), title_justify="left")
        for number, name in enumerate(header):
            table.add_column(escape(name), justify="right" if number else "left")
        for row in cells:
            table.add_row(*map(escape, row))
        Console().print(table)
        return
    widths = [max(len(row[column]) for row in [header, *cells]) for column in range(len(header))]
    print(title)
    for name, *numbers in [header, *cells]:
        right = (number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
        print("  ".join([name.ljust(widths[0]), *right]).rstrip())
