"""A methaniminium-like molecule and small models of it, for the tests of diabatic potentials."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.descriptors import ACSF
from bpjax.descriptors.acsf import Radial
from bpjax.excited.adiabatic import adiabatic
from bpjax.excited.diabatic import DiabaticPotential, MultiStatePotential, init
from bpjax.excited.odd import Chirality, Lean, SignedVolume, Torsion, Twist
from bpjax.networks.elemental import MLP

ATOMS = ("C", "N", "H", "H", "H", "H")

TWISTED = np.array([
    [0.0, 0.0, 0.0], [0.0, 0.05, 1.33],
    [0.0, 0.93, -0.56], [0.0, -0.94, -0.54],
    [0.84, -0.2, 1.80], [-0.84, -0.2, 1.80],
])  # fmt: skip
"""Twisted by 90 degrees, pyramidal at N; its own mirror image in x = 0, with the hydrogens on N exchanged."""

EXCHANGES = {"H on C": [0, 1, 3, 2, 4, 5], "H on N": [0, 1, 2, 3, 5, 4]}

TORSION = Torsion((0, 1), (2, 3), (4, 5), signs=("C", "N"))
TWIST = Twist((0, 1), (2, 3), (4, 5), signs=("C", "N", "mirror"))
BEND_C = SignedVolume(0, (1, 2, 3), ("C", "mirror"))
BEND_N = SignedVolume(1, (0, 4, 5), ("N", "mirror"))
LEAN_C = Lean((0, 1), (2, 3), ("C",))
LEAN_N = Lean((0, 1), (4, 5), ("N",))
CHIRALITY = Chirality(ATOMS, (1.5, 1.0, 1.5))

DESCRIPTOR = ACSF(("H", "C", "N"), 4.0, cutoff_kind="poly2", g2=(Radial(0.3), Radial(2.0, 1.5)))
"""Radial functions alone: they compile fast, and every pair of atoms is in them."""


def model(kind="odd", **options):
    """ "odd", "chiral", "invariant" (three states each) or "adiabatic"."""
    if kind == "adiabatic":
        return MultiStatePotential(DESCRIPTOR, ATOMS, 3, MLP((8,)), **options)
    odd, signs = {
        "odd": ((TORSION, TWIST, BEND_C, BEND_N, LEAN_C, LEAN_N), ((), ("C", "N"), ("mirror",))),
        "chiral": ((CHIRALITY,), ((), ("mirror",), ())),
        "invariant": ((), ()),
    }[kind]
    return DiabaticPotential(DESCRIPTOR, ATOMS, 3, MLP((8,)), odd=odd, signs=signs, **options)


def parameters(own, seed=0):
    return init(own, jax.random.key(seed), jnp.float64)


@partial(jax.jit, static_argnums=0)
def matrices(own, params, R):
    """Matrices of several geometries."""
    return jax.vmap(partial(own, params))(R)


@partial(jax.jit, static_argnums=0)
def states(own, params, R):
    """Adiabatic states of several geometries."""
    return jax.vmap(lambda R: adiabatic(partial(own, params), R))(R)


def shaken(seed, n=1, width=0.15):
    return TWISTED + width * np.random.default_rng(seed).normal(size=(n, 6, 3))


def rotation(seed):
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return Q * np.sign(np.linalg.det(Q))


def mirror_loop(radius, points=12, centre=TWISTED):
    """A loop in a symmetric and an antisymmetric direction: points k and n - k are mirror images, hydrogens on N exchanged."""
    stretch, twist = np.zeros((6, 3)), np.zeros((6, 3))
    stretch[1:2, 2], stretch[4:, 2] = 1.0, 0.8
    twist[4, 1], twist[5, 1] = 1.0, -1.0
    t = 2 * np.pi * np.arange(points) / points
    return centre + radius * (np.cos(t)[:, None, None] * stretch + np.sin(t)[:, None, None] * twist)
