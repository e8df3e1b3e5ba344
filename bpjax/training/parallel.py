"""Training on several devices, of one process or of several processes on one or more machines.

What is divided among the devices is decided here, and nowhere else:

===========  =====================================================================================================
axis         what a device holds
===========  =====================================================================================================
``batch``    its share of the structures of each batch; parameters and optimiser on every device. The sums of the
             loss, and with them its gradient, are added up over the devices in each step.
``members``  its share of the networks of an ensemble whose members the number of devices divides; every device
             sees all structures, and nothing is exchanged while training.
===========  =====================================================================================================

A batch holds the same structures as on one device, so the numbers agree to rounding: sums are taken in another order. Inputs
that are kept on the device are kept on each; from files, each device gets its share of the batch alone.

With several processes every one of them runs the same program, and reads the same files. The first one alone writes.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bpjax.errors import BpjaxError, ConfigError
from bpjax.training.batches import ROOM
from bpjax.training.dataset import BatchPlan

AXIS = "shards"
"""Name of the only axis of the mesh."""

LOOK = 32
"""Epochs that are looked at for how large the share of a device becomes."""

# ---------------------------------------------------------------------------------------------- processes

COUNT, INDEX = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Environment variables for the number of processes and which one this is, where no launcher is known to JAX."""

REACHED = 300
"""Seconds that a process waits for the others at the start and at the end."""

ALIVE = 60
"""Seconds after which a process that is not heard of is taken for dead, and the others end."""


def connect(address: str) -> None:
    """Joins the processes of a run; before anything else is done with JAX.

    Args:
      address: HOST:PORT of the first process, or "auto" where a launcher tells it (Slurm, Open MPI). How many processes there are
        and which one this is comes from the environment variables `COUNT` and `INDEX`, or else from the launcher.

    Raises:
      ConfigError: an address that is none, or nothing that says how many processes there are.
      BpjaxError: the others do not answer in time.
    """
    if address != "auto" and not address.rpartition(":")[2].isdigit():
        raise ConfigError(f"{address!r}; must be HOST:PORT of the first process, or auto", field="--distributed")
    count, index = _number(COUNT), _number(INDEX)
    if (count is None) != (index is None) or (count is not None and index is not None and index >= count):
        message = f"{COUNT}={count} and {INDEX}={index}; give both, the second counted from 0, or neither"
        raise ConfigError(message, field="--distributed")
    try:
        jax.distributed.initialize(
            None if address == "auto" else address,
            count,
            index,
            cluster_detection_method=None if count is None else "deactivate",
            initialization_timeout=REACHED,
            heartbeat_timeout_seconds=ALIVE,
            shutdown_timeout_seconds=REACHED,
        )
    except ValueError as error:  # what the environment leaves open
        message = f"{address}: no launcher says how many processes there are; set {COUNT} and {INDEX}"
        raise ConfigError(message, field="--distributed") from error
    except RuntimeError as error:
        raise BpjaxError(f"processes do not reach each other at {address} ({error})") from error


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdigit():
        raise ConfigError(f"{text!r}; must be a number", field=name)
    return int(text)


def disconnect() -> None:
    """Leaves the other processes, when all have come here; what follows may take as long as it likes."""
    jax.distributed.shutdown()


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def first_does(action: Callable[[], Any]) -> None:
    """Has the first process do something that the others wait for.

    Raises:
      BpjaxError: in the others, if it fails in the first one, which raises what went wrong.
    """
    failed: Exception | None = None
    if is_first():
        try:
            action()
        except Exception as error:
            failed = error
    if multihost_utils.broadcast_one_to_all(np.int32(failed is not None)):
        raise failed or BpjaxError("the first process has stopped")


def await_file(path: Path) -> None:
    """Waits until the first process has made a file. One that dies takes this process with it, see `ALIVE`."""
    while not is_first() and not path.exists():
        time.sleep(0.5)


@contextmanager
def together() -> Iterator[Callable[[int], None]]:
    """Lets all processes stop after the same step when one gets ctrl-C, or SIGTERM from a batch system.

    Gives a function that is called with the number of each step, and raises KeyboardInterrupt in all processes at the same one.
    A second ctrl-C stops this process at once. With one process, nothing is changed.

    Raises:
      BpjaxError: a step that fails, in all likelihood because another process has ended.
    """
    if jax.process_count() == 1:
        yield lambda step: None
        return

    def tell(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGTERM)  # which JAX tells the other processes

    def check(step: int) -> None:
        if multihost_utils.reached_preemption_sync_point(step):
            raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()  # no other may set handlers
    before = signal.signal(signal.SIGINT, tell) if here else None
    try:
        yield check
    except jax.errors.JaxRuntimeError as error:
        raise BpjaxError(f"a step failed: another process may have ended, go on with --resume ({error})") from error
    finally:
        if here:
            signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------------------ devices


def host(tree: Any) -> Any:
    """Arrays of NumPy; all processes must call this where they hold different parts."""

    def one(a):
        whole = not isinstance(a, jax.Array) or a.is_fully_addressable or a.is_fully_replicated
        return np.asarray(a if whole else multihost_utils.process_allgather(a, tiled=True))

    return jax.tree.map(one, tree)


@dataclass(frozen=True)
class Devices:
    """The devices of a run, two or more, and what is divided among them.

    Attributes:
      mesh: the devices, those of one process after those of the other.
      by_members: whether members are divided, not batches.
    """

    mesh: Mesh
    by_members: bool = False

    @property
    def count(self) -> int:
        """How many devices."""
        return self.mesh.size

    def sharding(self, axis: int | None = None) -> NamedSharding:
        """Arrays that are divided along an axis, or are on every device."""
        spec = () if axis is None else (*[None] * axis, AXIS)
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def replicate(self, tree: Any) -> Any:
        """Puts arrays that are the same in all processes on every device."""
        return self._put(tree, None)

    def members(self, tree: Any) -> Any:
        """Puts arrays with a leading axis of members where these are trained."""
        return self._put(tree, 0 if self.by_members else None)

    def _put(self, tree: Any, axis: int | None) -> Any:
        to = self.sharding(axis)

        def one(a):
            if isinstance(a, jax.Array) and a.sharding.is_equivalent_to(to, a.ndim):
                return a
            if jax.process_count() == 1:
                return jax.device_put(a, to)
            a = host(a)
            return jax.make_array_from_callback(a.shape, to, lambda index: a[index])

        return jax.tree.map(one, tree)

    def state(self, state: Any) -> Any:
        """Puts the state of a run where it belongs; its `step` is on every device."""
        return self.members(state._replace(step=None))._replace(step=self.replicate(state.step))

    def stack(self, parts: list[Any], axis: int = 0) -> Any:
        """Makes arrays with an axis of shards of the shards that this process holds; see `own`."""

        def one(*leaves):
            local = np.stack(leaves, axis)
            shape = (*local.shape[:axis], self.count, *local.shape[axis + 1 :])
            return jax.make_array_from_process_local_data(self.sharding(axis), local, shape)

        return jax.tree.map(one, *parts)

    @property
    def own(self) -> list[int]:
        """Numbers of the devices of this process."""
        return [n for n, device in enumerate(self.mesh.devices) if device.process_index == jax.process_index()]


def choose(batch_size: int, members: int | None, announce: Callable[[str], object], *, one: str = "") -> Devices | None:
    """The devices that a run takes: all, but no more than there are structures in a batch; None for the first alone.

    Args:
      batch_size: structures in a batch.
      members: of an ensemble; None for a single network.
      announce: called with what there is to say of it.
      one: why there can only be one, for example "the Kalman filter".

    Raises:
      ConfigError: several processes where one device has to do, or with more devices than structures.
    """
    found = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if len(found) == 1:
        return None
    if one:
        if jax.process_count() > 1:
            raise ConfigError(f"{one} runs on one device; start one process", field="optimizer.type")
        announce(f"1 of {len(found)} devices is used: {one} runs on one")
        return None
    if members is not None and members % len(found) == 0:
        announce(f"{len(found)} devices train {members // len(found)} members each")
        return Devices(_mesh(found), by_members=True)
    count = min(len(found), batch_size)
    if count < len(found) and jax.process_count() > 1:
        raise ConfigError(f"{batch_size}, fewer structures than {len(found)} devices", field="optimizer.batch_size")
    if count < len(found):
        announce(f"{count} of {len(found)} devices are used: a batch has no more structures")
    if count == 1:
        return None
    announce(f"{count} devices share each batch: {-(-batch_size // count)} structures each")
    return Devices(_mesh(found[:count]))


def _mesh(devices: list) -> Mesh:
    return Mesh(np.array(devices), (AXIS,))


# ------------------------------------------------------------------------------------------------- shards


def assign(chosen: np.ndarray, sizes: np.ndarray, count: int) -> np.ndarray:
    """Structures of batches (batches, slots) dealt to shards of nearly equal totals, (batches, count, slots of a shard).

    The largest first, each to the least filled shard that has room.

    Args:
      chosen: structures of each batch, -1 for none.
      sizes: of each structure, (structures, columns).
      count: shards.
    """
    batches, slots = chosen.shape
    room = -(-slots // count)
    weight = (sizes / np.maximum(sizes.mean(axis=0), 1e-9)).sum(axis=1)
    weight = np.where(chosen >= 0, weight[chosen], 0)
    order = np.argsort(-weight, axis=1, kind="stable")
    chosen, weight = np.take_along_axis(chosen, order, 1), np.take_along_axis(weight, order, 1)
    dealt = np.full((batches, count, room), -1)
    total, filled, batch = np.zeros((batches, count)), np.zeros((batches, count), int), np.arange(batches)
    for slot in range(slots):
        shard = np.argmin(np.where(filled < room, total, np.inf), axis=1)
        dealt[batch, shard, filled[batch, shard]] = chosen[:, slot]
        total[batch, shard] += weight[:, slot]
        filled[batch, shard] += 1
    return dealt


def _largest(dealt: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Largest total of a shard in each column."""
    return np.where((dealt >= 0)[..., None], sizes[dealt], 0).sum(axis=2).max(axis=(0, 1))


@dataclass(frozen=True)
class Shards:
    """Batches of a plan, each dealt to the devices of a run.

    Attributes:
      plan: whose batches they are: `batches`, `epoch` and `in_order` are its own.
      devices: that they are dealt to.
      capacity: atoms and blocks of a shard, padding included. A batch that does not fit, of an epoch that was not looked at,
        gets twice as much (or four times, and so on): one more compilation.
    """

    plan: BatchPlan
    devices: Devices
    capacity: tuple[int, int]

    @classmethod
    def of(cls, plan: BatchPlan, devices: Devices, seed: int = 0, epochs: int = 0) -> "Shards":
        """Looks through the batches in order, and those of the first of so many epochs with this seed."""
        drawn = [plan.in_order(), *(plan.epoch(seed, epoch) for epoch in range(min(epochs, LOOK)))]
        largest = np.max([_largest(assign(d, plan.sizes, devices.count), plan.sizes) for d in drawn], axis=0)
        if epochs > LOOK:
            largest = np.ceil((1 + ROOM) * largest).astype(int)
        # No shard is larger than its batch, and none has less than a block where there are blocks.
        limit = np.minimum(np.maximum(largest, 1), plan.capacity)
        return cls(plan, devices, tuple(limit.tolist()))

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return self.plan.batches

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """See `BatchPlan`."""
        return self.plan.epoch(seed, epoch)

    def in_order(self) -> np.ndarray:
        """See `BatchPlan`."""
        return self.plan.in_order()

    def each(self, chosen: np.ndarray, make: Callable[[BatchPlan, np.ndarray], Any]) -> list[Any]:
        """`make(plan, structures)` for each shard of a batch that belongs to a device of this process."""
        dealt = assign(chosen[None], self.plan.sizes, self.devices.count)
        limit = np.array(self.capacity)
        while (_largest(dealt, self.plan.sizes) > limit).any():
            limit = 2 * limit
        own = replace(self.plan, capacity=tuple(limit.tolist()))
        return [make(own, dealt[0, shard]) for shard in self.devices.own]
