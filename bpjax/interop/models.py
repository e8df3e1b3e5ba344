"""Models of any kind that has one energy: files of the package, folders of n2p2 and RuNNer."""

from __future__ import annotations

from pathlib import Path

from bpjax.errors import ModelFileError
from bpjax.interop.n2p2 import read_potential
from bpjax.interop.n2p2.potential import MEMBER
from bpjax.potential.energy import Params, Potential
from bpjax.potential.store import load


def load_model(path: Path, units: str | None = None) -> tuple[Potential, Params]:
    """Reads a model: a .bpjax file, or a folder of n2p2 or RuNNer, also one with the members of a committee.

    Args:
      path: the file or folder.
      units: a name in `bpjax.units.SYSTEMS`, those of a folder; not used for files.

    Raises:
      ModelFileError: there is none, or it cannot be used.
      FormatError: a file in the folder cannot be used.
      ConfigError: a folder without units.
    """
    if not path.is_dir():
        return load(path)
    if not any(found.name == "input.nn" or MEMBER.fullmatch(found.name) for found in path.iterdir()):
        message = "is a folder without input.nn; a model is a .bpjax file or a folder of n2p2 or RuNNer"
        raise ModelFileError(path, message)
    return read_potential(path, units)
