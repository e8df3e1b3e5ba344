"""`ANI`: the contract of descriptors, its formulas written out, and TorchANI's arrays."""

import itertools
import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import ANI
from bpjax.descriptors.ani import angular_part, channel_sums
from bpjax.geometry import environments
from tests.contracts import DescriptorContract, environment, features
from tests.descriptors.test_reference import prepared

SETS = {
    "several of each": ANI(
        elements=("H", "O"),
        radial_cutoff=5.0,
        angular_cutoff=4.8,
        radial_eta=(0.5, 1.5),
        radial_shifts=(1.0, 2.5),
        angular_eta=(0.3, 1.0),
        zeta=(1.0, 7.3),
        angular_shifts=(1.0, 2.0, 3.0),
        sections=(0.0, 1.1, math.pi),
        cutoff_kind="exp",
    ),
    "one of each": ANI(("H", "C", "O"), 4.0, 4.0, (2.0,), (1.5,), (1.0,), (32.0,), (2.0,), (1.0, 2.0)),
}


class TestANI(DescriptorContract):
    @pytest.fixture(scope="class", params=SETS)
    def descriptor(self, request):
        return SETS[request.param]


def written_out(d, R, species):
    """Every feature as the formulas of the publications say it, neighbour by neighbour; only the factors are TorchANI's."""
    r = np.linalg.norm(R, axis=1)

    def f_c(r, r_c):
        if r >= r_c:
            return 0.0
        x = r / r_c
        return 0.5 * math.cos(math.pi * x) + 0.5 if d.cutoff_kind == "cosine" else math.exp(1 - 1 / (1 - x * x))

    G = []
    for s, eta, r_s in itertools.product(range(len(d.elements)), d.radial_eta, d.radial_shifts):
        terms = [
            math.exp(-eta * (x - r_s) ** 2) * f_c(x, d.radial_cutoff) for x, e in zip(r, species, strict=True) if e == s
        ]
        G.append(0.25 * sum(terms))
    pairs = [(s, t) for s in range(len(d.elements)) for t in range(s, len(d.elements))]
    for pair, eta, zeta, r_s, theta_s in itertools.product(pairs, d.angular_eta, d.zeta, d.angular_shifts, d.sections):
        total = 0.0
        for j, k in itertools.combinations(range(len(R)), 2):
            if tuple(sorted((int(species[j]), int(species[k])))) != pair:
                continue
            theta = math.acos(0.95 * (R[j] @ R[k]) / (r[j] * r[k]))
            value = 2 * ((1 + math.cos(theta - theta_s)) / 2) ** zeta * math.exp(-eta * ((r[j] + r[k]) / 2 - r_s) ** 2)
            total += value * f_c(r[j], d.angular_cutoff) * f_c(r[k], d.angular_cutoff)
        G.append(total)
    return G


@pytest.mark.parametrize("name", SETS)
def test_formulas(name):
    d = SETS[name]
    for seed in range(2):
        R, species, mask = environment(d, seed)
        expected = written_out(d, np.asarray(R), np.asarray(species))
        np.testing.assert_allclose(features(d, R, species, mask), expected, rtol=1e-12, atol=1e-15)


def test_labels_name_the_features():
    labels = SETS["several of each"].labels
    assert labels[1] == "H radial eta=0.5 r_s=2.5" and labels[2] == "H radial eta=1.5 r_s=1"
    assert labels[8:10] == (
        "H-H angular eta=0.3 zeta=1 r_s=1 theta_s=0",
        "H-H angular eta=0.3 zeta=1 r_s=1 theta_s=1.1",
    )
    assert labels[8 + 9] == "H-H angular eta=0.3 zeta=7.3 r_s=1 theta_s=0" and labels[8 + 36].startswith("H-O")


def test_angular_part_is_smooth_for_neighbours_in_line():
    def f(cos):
        return angular_part(cos[None], jnp.asarray([14.1]), jnp.asarray([0.3]))[0, 0]

    for cos in (-1.0, 1.0):
        g = f
        for _ in range(3):
            slope = jax.jit(jax.grad(g))
            h = 1e-4  # central differences: truncation h^2, rounding eps / h
            numeric = (jax.jit(g)(cos + h) - jax.jit(g)(cos - h)) / (2 * h)
            np.testing.assert_allclose(slope(jnp.asarray(cos)), numeric, rtol=1e-5, atol=1e-9)
            g = jax.grad(g)


def test_goes_smoothly_to_zero_at_the_angular_cutoff():
    d = ANI.ani1x(("H", "O"))
    R, species, mask = environment(d, farthest=0.6)
    u = R[-1] / jnp.linalg.norm(R[-1])
    angular = slice(32, None)

    def without(r):
        """What the last neighbour at distance r adds to angular features."""
        return [
            np.asarray(features(d, R.at[-1].set(r * u), species, m)[angular]) for m in (mask, mask.at[-1].set(False))
        ]

    with_it, rest = without(3.0)
    assert np.abs(with_it - rest).max() > 1e-3
    with_it, rest = without(3.5 - 1e-4)
    # f_c = (pi/2)^2 (1e-4 / 3.5)^2 = 2e-9 so near to the cutoff.
    assert 0 < np.abs(with_it - rest).max() < 1e-8
    with_it, rest = without(3.5 * (1 + 1e-12))
    np.testing.assert_array_equal(with_it, rest)


def test_channel_sums():
    values = np.random.default_rng(0).normal(size=(20, 3))
    channel = np.random.default_rng(1).integers(0, 4, 20).astype(np.int32)
    expected = [values[channel == c].sum(axis=0) for c in range(5)]
    found = jax.jit(channel_sums, static_argnums=2)(jnp.asarray(values), jnp.asarray(channel), 5)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)


def test_working_set_grows_with_the_pairs():
    d = ANI.ani2x()
    # 55 * 54 / 2 pairs of 32 products each, and their factors.
    assert 55 * 54 // 2 * 32 < d.working_set(55) < 55 * 54 // 2 * 100
    assert 0 < d.working_set(0) <= d.working_set(1) < d.working_set(2)


# ------------------------------------------------------------------------------------------------------------- TorchANI


@pytest.mark.parametrize("name", ["ani1x", "ani2x"])
def test_published_constants(shared, name):
    table = json.loads((shared / "reference" / "torchani" / f"{name}_constants.json").read_text())
    d, constants = getattr(ANI, name)(), table["constants"]
    assert list(d.elements) == table["species"] and d.cutoff_kind == "cosine"
    for part, angular in (("radial", False), ("angular", True)):
        own = {
            "eta": d.angular_eta if angular else d.radial_eta,
            "shifts": d.angular_shifts if angular else d.radial_shifts,
            "cutoff": d.angular_cutoff if angular else d.radial_cutoff,
            **({"zeta": d.zeta, "sections": d.sections} if angular else {}),
        }
        for key, value in own.items():
            assert value == (tuple(constants[part][key]) if isinstance(value, tuple) else constants[part][key]), key
    assert d.size == {"ani1x": 384, "ani2x": 1008}[name]


@partial(jax.jit, static_argnums=0)
def _with_product(descriptor, system, neighbors, cotangent):
    def G(R):
        return jax.vmap(descriptor)(environments(system._replace(positions=R), neighbors))

    values, pullback = jax.vjp(G, system.positions)
    return values, pullback(cotangent)[0]


@pytest.mark.reference
@pytest.mark.slow
def test_torchani(shared):
    files = sorted((shared / "reference" / "torchani").glob("aev_*.npz"))
    assert len(files) >= 10 and any("pbc" in file.name for file in files)
    for file in files:
        data = np.load(file)
        d = ANI.ani1x() if "ani1x" in file.name else ANI.ani2x()
        numbers, pbc = data["numbers"], bool(data["pbc"].any())
        cell = data["cell"] if pbc else None
        # Molecules are filled up to the same size, so that each set is compiled once for all of them.
        system, neighbors = prepared(
            numbers, data["positions"], cell, pbc, d.elements, d.cutoff, slots=None if pbc else 11
        )
        np.testing.assert_array_equal(np.asarray(system.species)[: len(numbers)], data["species_index"])
        cotangent = jnp.zeros((len(system.positions), d.size)).at[: len(numbers)].set(data["cotangent"])
        G, product = _with_product(d, system, neighbors, cotangent)
        # Both in float64 with the same constants: rounding.
        np.testing.assert_allclose(G[: len(numbers)], data["aev"], rtol=0, atol=1e-12, err_msg=file.name)
        np.testing.assert_allclose(product[: len(numbers)], data["vjp"], rtol=0, atol=1e-11, err_msg=file.name)


# ---------------------------------------------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(elements=()), "elements=.*at least one chemical symbol"),
        (dict(elements=("H", "H")), "each once"),
        (dict(radial_cutoff=0.0), "radial_cutoff=0.0: must be positive"),
        (dict(angular_cutoff=math.nan), "angular_cutoff=nan: must be positive"),
        (dict(angular_cutoff=5.3), "angular_cutoff=5.3: at most radial_cutoff=5.2"),
        (dict(radial_eta=()), "radial_eta=.*at least one value"),
        (dict(radial_shifts=(1.0, 1.0)), "radial_shifts=.*each once"),
        (dict(radial_shifts=(math.inf,)), "radial_shifts=.*must be finite, in A"),
        (dict(radial_eta=(-1.0,)), "radial_eta=.*must be positive"),
        (dict(angular_eta=(0.0,)), "angular_eta=.*must be positive"),
        (dict(zeta=(0.0,)), "zeta=.*must be positive"),
        (dict(angular_shifts=(math.nan,)), "angular_shifts=.*must be finite"),
        (dict(sections=(-0.1,)), "sections=.*must be angles from 0 to pi"),
        (dict(sections=(3.2,)), "sections=.*must be angles from 0 to pi"),
        (dict(cutoff_kind="biweight"), "cutoff kind='biweight'"),
    ],
)
def test_bad_options(arguments, message):
    options = {name: getattr(ANI.ani1x(), name) for name in ANI.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        ANI(**{**options, **arguments})
