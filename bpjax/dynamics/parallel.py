"""Dynamics on several devices of one process: what is divided among them is decided here, and nowhere else.

==================  ==============================================================================================
axis                what a device holds
==================  ==============================================================================================
centres             its share of the neighbour list, and the energies and pair gradients of its atoms
(nothing else)      positions, momenta, forces, thermostats: the same on every device
==================  ==============================================================================================

See `bpjax.dynamics.divided` for how, and why so. A trajectory agrees to rounding with that of one device: sums are taken in
another order.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bpjax.errors import ConfigError

AXIS = "centres"
"""Name of the only axis of the mesh."""

WORTH = {"cpu": 100}
"""Atoms for each device of a platform from which on it is taken unasked: with fewer, sums over devices take what it saves. On two
cores 216 atoms take 21 us per atom and step as two devices, 34 as one.
"""

WORTH_ELSEWHERE = 2000
"""The same for other platforms; an estimate."""

LARGE = 20_000
"""Atoms from which on one device lists and evaluates its centres block by block too, in a small part of the memory."""


def choose(atoms: int, devices: int | None, *, always: bool = False) -> Mesh | None:
    """The devices that share the centres of a system.

    Args:
      atoms: how many there are.
      devices: how many to take; None for all of this process, but no more than have `WORTH` atoms
        each.
      always: give a mesh of one device also where the undivided functions would do.

    Returns: a mesh; None for one device and a small system.

    Raises:
      ConfigError: more devices than there are, or than atoms.
    """
    found = jax.local_devices()
    count = number(len(found), atoms, devices)
    if count == 1 and atoms < LARGE and not always:
        return None
    return Mesh(np.array(found[:count]), (AXIS,))


def number(found: int, atoms: int, devices: int | None) -> int:
    """How many of the devices that were found a system takes; see `choose`."""
    if devices is None:
        return max(1, min(found, atoms // WORTH.get(jax.default_backend(), WORTH_ELSEWHERE)))
    if devices > found:
        raise ConfigError(f"{devices}, but there {'is' if found == 1 else 'are'} {found}", field="devices")
    if devices > atoms:
        raise ConfigError(f"{devices}, more than the {atoms} atoms of the structure", field="devices")
    return devices


def everywhere(mesh: Mesh) -> NamedSharding:
    """Arrays that are the same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicated(mesh: Mesh, tree: Any) -> Any:
    """Puts arrays on every device of a mesh."""
    return jax.device_put(tree, everywhere(mesh))


def placed(mesh: Mesh | None, tree: Any) -> Any:
    """Puts arrays on every device of a mesh that are not divided among its devices already; without a mesh, leaves them."""

    def one(a):
        there = isinstance(a, jax.Array) and isinstance(a.sharding, NamedSharding) and a.sharding.mesh == mesh
        return a if there else jax.device_put(a, everywhere(mesh))  # pyright: ignore[reportArgumentType]

    return tree if mesh is None else jax.tree.map(one, tree)
