"""The data sets that travel with the package.

A wheel carries them in ``bpjax/_data`` (see ``force-include`` in ``pyproject.toml``); a checkout, and an editable
installation of it, has them in ``data`` beside the package.
"""

from __future__ import annotations

from pathlib import Path

from bpjax.errors import BpjaxError

_PACKAGE = Path(__file__).resolve().parent


def _root() -> Path:
    """The folder that holds the data sets; it need not exist."""
    inside = _PACKAGE / "_data"
    return inside if inside.is_dir() else _PACKAGE.parent / "data"


def names() -> list[str]:
    """Names of the available data sets, sorted."""
    root = _root()
    # A data set has a README: that keeps a stranger's folder named "data" from being taken for ours.
    return sorted(folder.parent.name for folder in root.glob("*/README.md"))


def path(name: str) -> Path:
    """Folder of a data set.

    >>> path("silicon").joinpath("silicon_train.extxyz").is_file()
    True

    Args:
      name: one of `names`.

    Raises:
      BpjaxError: there is no such data set; the message lists those that are there.
    """
    available = names()
    if name not in available:
        listed = ", ".join(available) if available else f"none (looked in {_root()}; is the installation complete?)"
        raise BpjaxError(f"unknown data set {name!r}; available: {listed}")
    return _root() / name
