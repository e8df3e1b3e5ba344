"""The model of these tests, and what prepares structures for it and compiles it once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.descriptors import ACSF
from bpjax.descriptors.acsf import Angular, Radial
from bpjax.neighbors import neighbor_list
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, energy, init, predict
from bpjax.system import system_from_arrays

CUTOFF = 4.0
ATOMS, SLOTS = 16, 48

# Neither alphabetical nor by atomic number: the keys of a dict change their order in jax.tree.map, species do not.
MODEL = Potential(
    ACSF(
        ("Si", "O"),
        CUTOFF,
        cutoff_kind="poly2",
        g2=(Radial(0.1), Radial(1.0, 2.0)),
        g4=(Angular(0.05, 1.0, 1.0),),
        g5=(Angular(0.1, 2.0, -1.0), Angular(0.3, 1.0, 1.0, 1.0)),
    ),
    MLP((5, 4), "tanh"),
)

SMALL = Potential(
    ACSF(("Si", "O"), CUTOFF, "poly2", g2=(Radial(0.3),), g5=(Angular(0.1, 1.0, -1.0),)), MLP((4,), "tanh")
)
"""For what does not depend on the functions but is compiled several times."""


def strong(model, seed=0, dtype=np.float64):
    """Parameters with energies of some eV per atom, and every element's network very different from the others."""
    random = np.random.default_rng(seed)
    params = init(model, jax.random.key(seed), dtype)
    params = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape) * 0.7, p.dtype), params)
    for n, element in enumerate(model.elements):
        D = model.descriptor.size
        params["networks"][element]["output"]["bias"] += jnp.asarray(3.0 * n + 1, dtype)
        params["scaling"][element] = {
            "mean": jnp.asarray(random.uniform(0, 1, D), dtype),
            "scale": jnp.asarray(random.uniform(0.2, 0.6, D), dtype),
            "min": jnp.full(D, -jnp.inf, dtype),
            "max": jnp.full(D, jnp.inf, dtype),
        }
    return params | {"energy_scale": jnp.asarray(1.7, dtype)}


PARAMS, SMALL_PARAMS = strong(MODEL), strong(SMALL)


def prepared(atoms, *, skin=0.0, dtype=np.float64, model=MODEL, capacity=ATOMS, slots=SLOTS):
    """System and neighbours on the device, padded; open systems get zero shifts so that all have the same structure."""
    cell, pbc, R = atoms.cell.array, atoms.pbc, atoms.positions
    system = system_from_arrays(atoms.numbers, R, cell, pbc, model.elements, dtype=dtype, capacity=capacity)
    neighbors = neighbor_list(R, cell, pbc, model.cutoff + skin, atoms=capacity, capacity=slots)
    if system.cell is None:
        system = system._replace(cell=np.zeros((3, 3), dtype))
        neighbors = neighbors._replace(shift=np.zeros((*neighbors.idx.shape, 3), np.int32))
    return jax.tree.map(jnp.asarray, (system, neighbors))


jit_energy = jax.jit(energy, static_argnums=0)
jit_predict = jax.jit(predict, static_argnums=0)


def close(found, expected, rtol=1e-12):
    """Equal to rounding (1e-12 of the largest: thousands of terms of either sign), or to `rtol`."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * max(np.abs(expected).max(), 1.0))


@jax.jit
def energy_and_gradient(params, system, neighbors):
    return jax.value_and_grad(lambda R: energy(MODEL, params, system._replace(positions=R), neighbors))(
        system.positions
    )


def force_loss(params, system, neighbors, target, model=MODEL):
    """As in training: depends on the energy and on its gradient."""
    E, F = jax.value_and_grad(lambda R: energy(model, params, system._replace(positions=R), neighbors))(
        system.positions
    )
    return E**2 / 100 + jnp.sum((F - target) ** 2)


jit_grad_of_force_loss = jax.jit(jax.grad(force_loss))
jit_grad_small = jax.jit(jax.grad(partial(force_loss, model=SMALL)))
