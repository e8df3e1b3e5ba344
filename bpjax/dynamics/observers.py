"""What watches a run: log, pair correlation, drift. Frames go through `bpjax.io.trajectory.TrajectoryWriter`."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import ase
import numpy as np

from bpjax.errors import ConfigError, OutputExistsError
from bpjax.io.atomic import write_error
from bpjax.neighbors import pair_distances


class LogWriter:
    """Writes records as JSON lines, handed to the operating system whenever `write` returns.

    Args:
      path: the file; its folder must exist.
      overwrite: replace an existing file.

    Raises:
      OutputExistsError: the file is there, and `overwrite` was not asked for.
      BpjaxError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False):
        self.path = path
        try:
            self._file = open(path, "w" if overwrite else "x", encoding="utf-8")
        except FileExistsError as error:
            raise OutputExistsError(f"{os.fspath(path)} already exists; it was left as it is") from error
        except OSError as error:
            raise write_error(path, error) from error

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends records; numbers that JSON does not have become null."""
        lines = [json.dumps({k: _plain(v) for k, v in record.items()}) + "\n" for record in records]
        try:
            self._file.write("".join(lines))
            self._file.flush()
        except OSError as error:
            raise write_error(self.path, error) from error

    def close(self) -> None:
        """Closes the file; may be called twice."""
        self._file.close()

    def __enter__(self) -> "LogWriter":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def _plain(value: Any) -> Any:
    if isinstance(value, int | np.integer | str | None):
        return value if isinstance(value, str | None) else int(value)
    return float(value) if math.isfinite(value) else None


class PairCorrelation:
    r"""Pair correlation function g(r), averaged over the frames that it is shown.

    .. math:: g(r) = \frac{n(r)}{N \rho \, \frac{4\pi}{3} [(r + \Delta)^3 - r^3]}

    with n(r) the ordered pairs at distances from r to :math:`r + \Delta` and :math:`\rho = N/V`; it tends to 1 in a liquid.
    Images are counted, so `r_max` may exceed the cell. Cells must be periodic in all directions (there is no density
    otherwise).

    Args:
      r_max: largest distance in A.
      bins: number of bins.
      pair: two chemical symbols for the partial g(r) between them; None for all atoms.

    Raises:
      ConfigError: a length or number of bins that is not positive.
    """

    def __init__(self, r_max: float = 8.0, bins: int = 160, pair: tuple[str, str] | None = None):
        if not r_max > 0 or bins < 1:
            raise ConfigError(f"g(r) with r_max={r_max} and bins={bins}: both must be positive")
        self.edges = np.linspace(0.0, r_max, bins + 1)
        self.pair = pair
        self.frames = 0
        self._sum = np.zeros(bins)

    def __call__(self, atoms: ase.Atoms, record: Mapping[str, Any] | None = None) -> None:
        """Adds a frame."""
        if not atoms.pbc.all():
            raise ConfigError("g(r) needs a cell that is periodic in all directions")
        i, j, r = pair_distances(atoms.positions, atoms.cell.array, True, self.edges[-1])
        symbols = np.array(atoms.get_chemical_symbols())
        first = np.ones(len(atoms), bool) if self.pair is None else symbols == self.pair[0]
        second = np.ones(len(atoms), bool) if self.pair is None else symbols == self.pair[1]
        ways = (r, r) if self.pair is None else (r[first[i] & second[j]], r[first[j] & second[i]])
        n = sum(np.histogram(one, self.edges)[0] for one in ways)  # a pair counts in both orders
        shells = 4 * np.pi / 3 * np.diff(self.edges**3)
        pairs = first.sum() * second.sum()
        if pairs:
            self._sum += n * atoms.get_volume() / (pairs * shells)
        self.frames += 1

    @property
    def r(self) -> np.ndarray:
        """Centres of the bins in A."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def g(self) -> np.ndarray:
        """The average over the frames so far; NaN without frames."""
        return self._sum / self.frames if self.frames else np.full(len(self._sum), np.nan)


def energy_drift(time_fs: np.ndarray, energy: np.ndarray, atoms: int) -> float:
    """Slope of a straight line through a conserved energy (eV), in eV per atom and ps; NaN for fewer than two times."""
    t = np.asarray(time_fs, dtype=np.float64) / 1000
    E = np.asarray(energy, dtype=np.float64)
    if len(t) < 2 or np.ptp(t) == 0:
        return math.nan
    return float(np.polyfit(t - t.mean(), E - E.mean(), 1)[0] / atoms)
