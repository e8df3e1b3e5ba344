"""What training will take of memory, stated before it starts, and the choice of what is kept.

The four ways to keep what networks are trained on (see `bpjax.training.inputs`, `bpjax.training.streaming`):

================  =======================================================  ====================================
kind              holds                                                    a step
================  =======================================================  ====================================
``stored``        features, their derivatives with positions and strain    a few matrix products
``features``      features: enough where only energies are fitted          the networks alone
``environments``  vectors to neighbours                                    evaluates the descriptor and back
``disk``          as ``stored``, in files                                  as ``stored``, and reads its batch
================  =======================================================  ====================================

A plan counts arrays exactly, by their shapes, and what is held for a time while they are made or while a step runs by measured
factors. It does not count Python, JAX and compiled code, which take some hundred MB in any case, nor the structures as read.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from bpjax.descriptors import Descriptor
from bpjax.descriptors.base import parameters_of
from bpjax.errors import ConfigError
from bpjax.training.dataset import BatchPlan, Dataset
from bpjax.training.inputs import chunk_size, degree_buckets, stored_shapes

KINDS = ("stored", "features", "environments", "disk")

COPIES = 7
"""Arrays of the size of the parameters: themselves, gradient, two moments, moving average, best, and the new ones of a step."""

GATHERED = 1.1
"""Memory of a step relative to the stored features and derivatives that it gathers."""

EVALUATED = 0.5
"""Memory of a Jacobian relative to the working sets of as many evaluations as it takes."""

DIFFERENTIATED = 1.0
"""Memory of a step that evaluates descriptors, relative to their working sets for all atoms of the batch."""


@dataclass(frozen=True)
class MemoryPlan:
    """What is kept, and what it takes in bytes.

    Attributes:
      kind: what is kept: one of `KINDS`.
      data: neighbour lists and labels of training and validation structures.
      features, strain, jacobians: stored features, and their derivatives with strain and positions.
      batch: what a step holds besides.
      making: what is held besides while features are made.
      parameters: parameters, with the copies that optimisers keep.
      disk: files.
      total: the most memory at any time.
      alternatives: the total of each kind.
      batches: batches of the training structures.
      stored_on_disk: files that the kind ``disk`` takes or would take.
    """

    kind: str
    data: int
    features: int
    strain: int
    jacobians: int
    batch: int
    making: int
    parameters: int
    disk: int
    total: int
    alternatives: dict[str, int]
    batches: BatchPlan
    stored_on_disk: int

    @property
    def waste(self) -> float:
        """Share of the atoms of the batches that are padding."""
        return self.batches.waste

    def lines(self) -> list[str]:
        """The plan in words."""
        what = {
            "stored": "features with derivatives stored",
            "features": "features stored",
            "environments": "features evaluated in every step",
            "disk": f"features with derivatives stored in files of {_size(self.disk)}",
        }
        parts = {name: getattr(self, name) for name in ("data", "features", "strain", "jacobians", "parameters")}
        if self.kind == "disk":
            parts = {name: parts[name] for name in ("data", "parameters")}
        parts["a step"] = self.batch
        listed = ", ".join(f"{name} {_size(size)}" for name, size in parts.items() if size)
        others = ", ".join(f"{kind} {_size(size)}" for kind, size in self.alternatives.items() if kind != self.kind)
        return [
            f"{what[self.kind]}: {_size(self.total)} of memory ({listed})",
            f"instead: {others} and files of {_size(self.stored_on_disk)}"
            if self.kind != "disk"
            else f"instead: {others}",
            self.batches.describe(),
        ]


def plan(
    descriptor: Descriptor,
    train: Dataset,
    validation: Dataset,
    *,
    needs_derivatives: bool,
    batch_size: int,
    parameters: int,
    choice: str = "auto",
    memory_gb: float = 4.0,
    members: int = 1,
) -> MemoryPlan:
    """Counts what each kind takes and chooses one.

    Args:
      descriptor: function of one environment.
      train, validation: structures with neighbours.
      needs_derivatives: whether forces or stresses are fitted.
      batch_size: structures in a batch.
      parameters: how many numbers a member learns.
      choice: one of `KINDS`, or "auto": what makes the fastest steps and stays below `memory_gb`, on disk excepted.
      memory_gb: in GB, for "auto".
      members: networks that are trained side by side.

    Raises:
      ConfigError: a choice that is unknown, or cannot give what is needed.
    """
    learns = bool(parameters_of(descriptor, jnp.float32))
    _check(choice, learns, needs_derivatives)
    found = {kind: _count(kind, descriptor, (train, validation), batch_size, members * parameters) for kind in KINDS}
    learned = 4 * COPIES * members * parameters
    totals = {kind: _total(parts, learned) for kind, parts in found.items()}
    kind = choice
    if choice == "auto":
        fitting = ["stored"] * (not learns) + ["features"] * (not learns and not needs_derivatives)
        kind = next((kind for kind in fitting if totals[kind] <= memory_gb * 1e9), "environments")
    on_disk = sum(_arrays(data, descriptor.size)[name] for data in (train, validation) for name in _ARRAYS)
    shown = {k: t for k, t in totals.items() if k != "features" or not needs_derivatives}
    return MemoryPlan(
        kind=kind,
        **found[kind],
        parameters=learned,
        disk=on_disk if kind == "disk" else 0,
        total=totals[kind],
        alternatives=shown,
        batches=_batches(kind, train, batch_size),
        stored_on_disk=on_disk,
    )


def _check(choice: str, learns: bool, needs_derivatives: bool) -> None:
    field = "optimizer.inputs"
    if choice not in ("auto", *KINDS):
        raise ConfigError(f"{choice!r}; allowed are auto, {', '.join(KINDS)}", field=field)
    if learns and choice not in ("auto", "environments"):
        raise ConfigError(
            f"{choice!r}: features that are learned cannot be kept; take environments or auto", field=field
        )
    if choice == "features" and needs_derivatives:
        raise ConfigError("'features' serve energies alone; forces and stress need stored or environments", field=field)


_ARRAYS = ("features", "strain", "jacobians")


def _arrays(data: Dataset, size: int) -> dict[str, int]:
    """Bytes of the stored arrays of a data set."""
    shapes = stored_shapes(data, size)._asdict()
    each = {name: int(np.prod(shape)) * np.dtype(dtype).itemsize for name, (shape, dtype) in shapes.items()}
    return {
        "features": each["species"] + each["G"],
        "strain": each["dG_dstrain"],
        "jacobians": each["dG_dR"] + each["center"] + each["other"],
    }


def _batches(kind: str, data: Dataset, batch_size: int) -> BatchPlan:
    return BatchPlan.of(data.sizes, batch_size, data.blocks if kind in ("stored", "disk") else None)


def _count(kind: str, descriptor: Descriptor, sets: tuple[Dataset, ...], batch_size: int, parameters: int) -> dict:
    """Bytes of each part for one kind."""
    found = {"data": sum(data.nbytes for data in sets), "features": 0, "strain": 0, "jacobians": 0}
    if kind in ("stored", "features"):
        for name in _ARRAYS if kind == "stored" else ("features",):
            found[name] = sum(_arrays(data, descriptor.size)[name] for data in sets)
    found["batch"] = max(_step(kind, descriptor, data, batch_size, parameters) for data in sets)
    found["making"] = max(_making(kind, descriptor, data) for data in sets)
    return found


def _step(kind: str, descriptor: Descriptor, data: Dataset, batch_size: int, parameters: int) -> int:
    """Bytes that a step holds for a time."""
    D = descriptor.size
    atoms, blocks = _batches(kind, data, batch_size).capacity
    if kind == "environments":
        return int(DIFFERENTIATED * 4 * atoms * descriptor.working_set(data.mask.shape[1]))
    # With more than one element, each atom has a gradient of its own before they are summed.
    gradients = 4 * atoms * parameters if len(descriptor.elements) > 1 else 0
    gathered = 4 * atoms * D * (1 if kind == "features" else 7) + 4 * blocks * data.block_length * (3 * D + 1)
    # Batches from files wait on the device, one in use and one ahead, besides what a step makes of them.
    waiting = 2 * gathered if kind == "disk" else 0
    return int(GATHERED * gathered) + gradients + waiting


def _making(kind: str, descriptor: Descriptor, data: Dataset) -> int:
    """Bytes that are held for a time while features are made."""
    if kind == "environments":
        return 0
    degree, derivatives = data.mask.sum(axis=1), kind != "features"
    largest = 0
    for low, high in degree_buckets(degree):
        if ((degree > low) & (degree <= high)).any():
            K = min(high, data.mask.shape[1])
            each = descriptor.working_set(K) * (min(descriptor.size, 3 * K) if derivatives else 1)
            largest = max(largest, int(EVALUATED * 4 * chunk_size(descriptor, K, derivatives) * each))
    return largest


def _total(parts: dict[str, int], parameters: int) -> int:
    """Most bytes at any time: what is kept, and the larger of what is held while features are made and while a step runs."""
    kept = parts["data"] + sum(parts[name] for name in _ARRAYS) + parameters
    return kept + max(parts["batch"], parts["making"])


def _size(count: int) -> str:
    """Bytes in words: 1.2 GB, 340 MB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
