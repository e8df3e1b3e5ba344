r"""Inputs that do not fit into the memory of the device: kept on the host or on disk, and sent batch by batch.

A *source* is what the training loop draws from: `InMemory` arrays, of which the compiled step gathers the rows itself, or arrays
outside the device, from which the host gathers each batch while the device is busy with the one before (see
`bpjax.training.updaters.Descent`). Both give the same numbers, bit for bit.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bpjax.descriptors import Descriptor
from bpjax.errors import ConfigError
from bpjax.io.archive import Entry, map_array
from bpjax.io.atomic import write_error, write_text
from bpjax.io.json_file import read_json
from bpjax.spec import to_spec
from bpjax.training.dataset import BatchPlan, Dataset, Rows
from bpjax.training.inputs import Environments, Features, Stored, batches_of, fill, gather, stored_shapes, to_device

ABOUT = "about.json"
"""Name of the file that says what the arrays of a folder belong to. It is written last."""


@runtime_checkable
class Source(Protocol):
    """Inputs of a data set, wherever they are.

    Attributes:
      arrays: all inputs.
      on_device: a step takes `arrays` and the rows of its batch; otherwise `batch(rows)`, and no rows.
    """

    @property
    def arrays(self) -> Environments | Features | Stored:
        """All inputs."""
        ...

    @property
    def on_device(self) -> bool:
        """Whether the step gathers."""
        ...

    def batch(self, rows: Rows) -> Environments | Features | Stored:
        """Inputs of one batch."""
        ...

    def batches(self, dataset: Dataset, batch_size: int) -> BatchPlan:
        """Batches of the data set that these are the inputs of."""
        ...


@dataclass(frozen=True)
class _Held:
    """Inputs, and how batches are taken from them."""

    arrays: Any

    def batch(self, rows: Rows):
        """Inputs of one batch."""
        return gather(self.arrays, rows)

    def batches(self, dataset: Dataset, batch_size: int) -> BatchPlan:
        """Batches of the data set that these are the inputs of."""
        return batches_of(self.arrays, dataset, batch_size)


@dataclass(frozen=True)
class InMemory(_Held):
    """Inputs on the device."""

    on_device = True

    @classmethod
    def of(cls, inputs: Environments | Features | Stored) -> "InMemory":
        """Puts inputs on the device; see `bpjax.training.inputs.to_device`."""
        return cls(to_device(inputs))


@dataclass(frozen=True)
class OnHost(_Held):
    """Inputs as arrays of NumPy, in the memory of the host."""

    on_device = False


@dataclass(frozen=True)
class DiskStored(OnHost):
    """Stored features and derivatives in files of a folder, mapped into memory: the system reads and drops what it needs."""

    folder: Path


def fingerprint(descriptor: Descriptor, dataset: Dataset) -> str:
    """Hash of all that stored features and derivatives depend on."""
    digest = hashlib.sha256(json.dumps(to_spec(descriptor), sort_keys=True).encode())
    for array in (dataset.first, dataset.species, dataset.R_ij, dataset.species_j, dataset.neighbor, dataset.mask):
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def build(
    descriptor: Descriptor, dataset: Dataset, folder: Path, progress: Callable[[int], Any] | None = None
) -> DiskStored:
    """Stores features and derivatives of a data set in a folder, or takes up those that are there.

    Args:
      descriptor: function of one environment.
      dataset: structures and neighbours.
      folder: made where it is missing; what a build that was interrupted has left is made anew.
      progress: called with the number of atoms that are done.

    Raises:
      ConfigError: the folder holds features of another data set or descriptor.
      FormatError: a file that cannot be written or read.
    """
    identity = {"fingerprint": fingerprint(descriptor, dataset)}
    shapes = stored_shapes(dataset, descriptor.size)._asdict()
    about = folder / ABOUT
    if about.exists():
        if read_json(about, dict) != identity:
            raise ConfigError("holds features of other structures or another descriptor; remove it", str(folder))
        if progress:
            progress(len(dataset.species))
    else:
        _write(descriptor, dataset, folder, shapes, progress)
        write_text(about, json.dumps(identity))
    return DiskStored(Stored(**{name: _mapped(folder / f"{name}.npy", *shapes[name]) for name in shapes}), folder)


def _write(descriptor, dataset, folder: Path, shapes: dict, progress) -> None:
    """Writes the arrays under temporary names and renames them when all are complete."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = {name: folder / f"{name}.npy.part" for name in shapes}
        arrays = {
            name: np.lib.format.open_memmap(part[name], "w+", dtype, shape) for name, (shape, dtype) in shapes.items()
        }
        fill(Stored(**arrays), descriptor, dataset, progress)
        for name, array in arrays.items():
            array.flush()
            os.replace(part[name], folder / f"{name}.npy")
    except OSError as error:
        raise write_error(folder, error) from error


def _mapped(path: Path, shape: tuple[int, ...], dtype) -> np.ndarray:
    return map_array(path, Entry(shape=shape, dtype=np.dtype(dtype)))
