"""ACSF: the contract, the formulas written out as loops, the two forms of G5, the options."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import ACSF, harmonics
from bpjax.descriptors.acsf import LARGEST_MOMENT, Angular, Radial, angular_powers, g5_moments, g5_pairs
from bpjax.system import Environment
from tests.contracts import DescriptorContract, environment

EXAMPLES = {
    "radial": ACSF(("Si",), 5.0, g1=True, g2=(Radial(0.1), Radial(0.8, 2.0)), g3=(1.0, 2.5)),
    "narrow": ACSF(("H", "O"), 4.0, "tanh3", g4=(Angular(0.05, 1.0, 1.0), Angular(0.2, 2.5, -1.0, 0.5))),
    "wide": ACSF(  # the first goes through pairs, the others through moments
        ("Si", "C"),
        4.5,
        "exp",
        0.2,
        g5=(Angular(0.3, 1.5, 1.0, 1.0), Angular(0.05, 1.0, -1.0), Angular(0.05, 2.0, 1.0)),
    ),
    "weighted": ACSF(
        ("Si", "C"),
        5.0,
        "poly2",
        g2=(Radial(0.2),),
        g4=(Angular(0.02, 1.0, -1.0),),
        g5=(Angular(0.02, 2.0, 1.0),),
        weights=(14.0, 6.0),
    ),
}
"""For the contract: few functions each, because every one is differentiated three times."""

MORE = EXAMPLES | {
    "moments": ACSF(
        ("O", "H"), 6.0, "poly1", 0.2, g5=(Angular(0.02, 16.0, -1.0), Angular(0.4, 5.0, 1.0, 1.0)), wide="moments"
    ),
    "pairs": ACSF(
        ("Cu", "Pd", "Au"), 3.5, "tanh3n", g5=(Angular(0.1, 1.0, 1.0), Angular(0.0, 16.0, -1.0)), wide="pairs"
    ),
    "all": ACSF(
        ("Si", "C", "O"),
        5.0,
        "poly4",
        0.3,
        g1=True,
        g2=(Radial(0.2), Radial(4.0, 3.0)),
        g3=(1.3, 0.2),
        g4=(Angular(0.02, 2.0, -1.0), Angular(0.3, 16.0, 1.0, 1.0), Angular(0.02, 1.5, 1.0)),
        g5=(Angular(0.02, 2.0, -1.0), Angular(0.5, 7.0, 1.0, 2.0)),
    ),
    "all weighted": ACSF(
        ("Si", "C"),
        5.0,
        "poly3",
        0.5,
        g1=True,
        g2=(Radial(0.2),),
        g3=(1.3,),
        g4=(Angular(0.02, 2.0, -1.0),),
        g5=(Angular(0.5, 7.0, 1.0, 2.0), Angular(0.5, 1.0, -1.0, 2.0)),
        weights=(14.0, -6.0),
    ),
}
"""For the comparison of values."""


@partial(jax.jit, static_argnums=0)
def features(options, R_ij, species_j, mask):
    return options(Environment(R_ij, species_j, mask))


class TestACSF(DescriptorContract):
    @pytest.fixture(params=EXAMPLES.values(), ids=EXAMPLES.keys())
    def descriptor(self, request):
        return request.param


def f_c(r, options):
    """Cutoff functions once more, from the table of their formulas, in plain Python."""
    r_c, inner = options.cutoff, options.cutoff_inner * options.cutoff
    if r >= r_c:
        return 0.0
    if options.cutoff_kind == "tanh3":
        return math.tanh(1 - r / r_c) ** 3
    if options.cutoff_kind == "tanh3n":
        return math.tanh(1 - r / r_c) ** 3 / math.tanh(1) ** 3
    x = max(r - inner, 0.0) / (r_c - inner)
    return {
        "cosine": lambda: 0.5 * (1 + math.cos(math.pi * x)),
        "exp": lambda: math.exp(1 - 1 / (1 - x * x)),
        "poly1": lambda: 1 - 3 * x**2 + 2 * x**3,
        "poly2": lambda: 1 - 10 * x**3 + 15 * x**4 - 6 * x**5,
        "poly3": lambda: 1 - 35 * x**4 + 84 * x**5 - 70 * x**6 + 20 * x**7,
        "poly4": lambda: 1 - 126 * x**5 + 420 * x**6 - 540 * x**7 + 315 * x**8 - 70 * x**9,
    }[options.cutoff_kind]()


def naive(options, R, species, mask):
    """The functions by their definitions: loops over neighbours and pairs, channels chosen by name."""
    real = [(np.asarray(R[k]), int(species[k])) for k in range(len(R)) if mask[k]]
    S = len(options.elements)
    fc = partial(f_c, options=options)

    def radial(g):
        per_neighbour = [(g(np.linalg.norm(Rj)) * fc(np.linalg.norm(Rj)), s) for Rj, s in real]
        if options.weights is not None:
            return [sum(options.weights[s] * x for x, s in per_neighbour)]
        return [sum(x for x, s in per_neighbour if s == e) for e in range(S)]

    def angular(p, narrow):
        out = dict.fromkeys([(s, t) for s in range(S) for t in range(s, S)], 0.0)
        total = 0.0
        for j in range(len(real)):
            for k in range(j + 1, len(real)):
                (Rj, s), (Rk, t) = real[j], real[k]
                rj, rk, rjk = np.linalg.norm(Rj), np.linalg.norm(Rk), np.linalg.norm(Rj - Rk)
                exponent = (rj - p.r_s) ** 2 + (rk - p.r_s) ** 2 + ((rjk - p.r_s) ** 2 if narrow else 0)
                x = max(1 + p.lam * float(Rj @ Rk) / (rj * rk), 0.0)
                x = 2 ** (1 - p.zeta) * x**p.zeta * math.exp(-p.eta * exponent)
                x *= fc(rj) * fc(rk) * (fc(rjk) if narrow else 1)
                out[min(s, t), max(s, t)] += x
                total += x * (options.weights[s] * options.weights[t] if options.weights else 0)
        return [total] if options.weights is not None else list(out.values())

    G = radial(lambda r: 1.0) if options.g1 else []
    for p in options.g2:
        G += radial(lambda r, p=p: math.exp(-p.eta * (r - p.r_s) ** 2))
    for kappa in options.g3:
        G += radial(lambda r, kappa=kappa: math.cos(kappa * r))
    for p in options.g4:
        G += angular(p, narrow=True)
    for p in options.g5:
        G += angular(p, narrow=False)
    return np.array(G)


@pytest.mark.parametrize("name", MORE)
def test_equals_the_definition(name, strict_promotion):
    options = MORE[name]
    R, species, mask = environment(options, 1, farthest=1.2)  # some beyond the cutoff
    mask = mask.at[2].set(False)
    # Sums of some tens of terms in another order: rounding.
    reference = naive(options, R, species, mask)
    np.testing.assert_allclose(
        features(options, R, species, mask), reference, rtol=0, atol=1e-13 * np.abs(reference).max()
    )


def test_labels_name_function_parameters_and_elements():
    options = ACSF(
        ("Si", "C"),
        5.0,
        g1=True,
        g2=(Radial(0.1, 2.0),),
        g3=(1.5,),
        g4=(Angular(0.2, 1.0, -1.0),),
        g5=(Angular(0.2, 4.0, 1.0),),
    )
    assert options.labels == (
        "G1 Si",
        "G1 C",
        "G2 eta=0.1 r_s=2 Si",
        "G2 eta=0.1 r_s=2 C",
        "G3 kappa=1.5 Si",
        "G3 kappa=1.5 C",
        "G4 eta=0.2 zeta=1 lam=-1 r_s=0 Si-Si",
        "G4 eta=0.2 zeta=1 lam=-1 r_s=0 Si-C",
        "G4 eta=0.2 zeta=1 lam=-1 r_s=0 C-C",
        "G5 eta=0.2 zeta=4 lam=+1 r_s=0 Si-Si",
        "G5 eta=0.2 zeta=4 lam=+1 r_s=0 Si-C",
        "G5 eta=0.2 zeta=4 lam=+1 r_s=0 C-C",
    )


def test_features_follow_the_order_of_the_elements():
    one = ACSF(("Si", "C"), 5.0, g2=(Radial(0.1),), g5=(Angular(0.1, 2.0, 1.0),))
    other = ACSF(("C", "Si"), 5.0, g2=(Radial(0.1),), g5=(Angular(0.1, 2.0, 1.0),))
    R, species, mask = environment(one)
    by_label = dict(zip(one.labels, features(one, R, species, mask), strict=True))
    swapped = dict(zip(other.labels, features(other, R, 1 - species, mask), strict=True))
    np.testing.assert_allclose(by_label["G2 eta=0.1 r_s=0 C"], swapped["G2 eta=0.1 r_s=0 C"], rtol=1e-14)
    label = "G5 eta=0.1 zeta=2 lam=+1 r_s=0 "
    for a, b in (("Si-Si", "Si-Si"), ("Si-C", "C-Si"), ("C-C", "C-C")):
        np.testing.assert_allclose(by_label[label + a], swapped[label + b], rtol=1e-13)


@pytest.mark.parametrize("lam", [1.0, -1.0])
def test_moments_equal_pairs(lam, strict_promotion):
    zetas = tuple(range(1, LARGEST_MOMENT + 1))
    K, random = 12, np.random.default_rng(0)
    u = random.normal(size=(K, 3))
    u[:4] = [[0, 0, 1], [0, 0, -1], [1, 0, 0], [-1, 0, 0]]  # poles, and neighbours in line
    u = jnp.asarray(u / np.linalg.norm(u, axis=1, keepdims=True))
    w = jnp.asarray(random.uniform(0, 1, (K, 2)))
    c = jnp.asarray(
        np.c_[np.eye(2)[np.arange(K) % 2], random.uniform(-3, 20, K)]
    )  # two elements and a weighted channel
    pairs = ((0, 0), (0, 1), (1, 1), (2, 2))
    shapes = tuple((float(zeta), lam) for zeta in zetas)
    power = jnp.where(~jnp.eye(K, dtype=bool)[None], angular_powers(u @ u.T, shapes), 0)
    expected = g5_pairs(w, power, c, pairs)
    found = g5_moments(u, w, c, shapes, pairs)
    # Both are sums of |w_j w_k|, the moments with cancellation: rounding of the sum of magnitudes.
    w_c = np.abs(np.asarray(w)[:, :, None] * np.asarray(c)[:, None, :]).sum(axis=0)
    scale = np.array([[w_c[q, s] * w_c[q, t] for s, t in pairs] for q in range(2)])
    assert (np.abs(found - expected) <= 1e-12 * scale[:, None, :]).all()


@pytest.mark.parametrize("weights", [None, (1.0, -2.0, 8.0)])
@pytest.mark.slow
def test_g5_through_moments_and_pairs_in_the_descriptor(weights, strict_promotion):
    g5 = tuple(Angular(eta, float(zeta), lam, 0.5) for eta in (0.02, 0.3) for zeta in (1, 2, 8) for lam in (1.0, -1.0))
    one, other = (ACSF(("H", "O", "C"), 5.0, g5=g5, weights=weights, wide=wide) for wide in ("moments", "pairs"))
    env = environment(one)
    a, b = features(one, *env), features(other, *env)
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())  # rounding, as above

    if weights is not None:
        return

    def gradient(options):
        return jax.jit(jax.grad(lambda R: jnp.sum(options(Environment(R, *env[1:])))))(env[0])

    np.testing.assert_allclose(gradient(one), gradient(other), rtol=0, atol=1e-11 * np.abs(gradient(other)).max())


def test_auto_mixes_moments_and_pairs(strict_promotion):
    # Integer zeta may go through moments, the rest cannot: the order of the features must not depend on it.
    g5 = (
        Angular(0.1, 1.5, 1.0),
        Angular(0.1, 2.0, -1.0),
        Angular(0.1, 17.0, 1.0),
        Angular(0.2, 1.0, 1.0),
        Angular(0.1, 2.5, 1.0),
    )
    options = ACSF(("Si", "C"), 6.0, g5=g5)
    R, species, mask = environment(options)
    np.testing.assert_allclose(features(options, R, species, mask), naive(options, R, species, mask), rtol=1e-11)


@pytest.mark.parametrize("l_max", [0, 1, 16])
def test_harmonics_of_one_size(l_max):
    assert harmonics.size(l_max) == len(harmonics.degrees(l_max)) == (l_max + 1) ** 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elements": ()}, "elements"),
        ({"elements": ("Si", "Si")}, "elements"),
        ({"cutoff": 0.0}, "radius"),
        ({"cutoff": math.nan}, "radius"),
        ({"cutoff_kind": "cosin"}, "cosin"),
        ({"cutoff_inner": 1.0}, "inner"),
        ({"cutoff_kind": "tanh3", "cutoff_inner": 0.5}, "inner"),
        ({"g2": ()}, "no function"),
        ({"g2": (Radial(0.1), Radial(0.1))}, "g2"),
        ({"weights": (1.0,)}, "weights"),
        ({"weights": (1.0, math.nan)}, "weights"),
        ({"g3": (math.inf,)}, "g3"),
        ({"wide": "moment"}, "wide"),
        ({"wide": "moments", "g5": (Angular(0.1, 1.5, 1.0),)}, "zeta"),
        ({"wide": "moments", "g5": (Angular(0.1, 17.0, 1.0),)}, "zeta"),
    ],
)
def test_options_out_of_range_are_named(change, message):
    good = {"elements": ("Si", "C"), "cutoff": 5.0, "g2": (Radial(0.1),)}
    ACSF(**good)
    with pytest.raises(ValueError, match=message):
        ACSF(**{**good, **change})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Radial(-0.1), "eta"),
        (lambda: Radial(math.nan), "eta"),
        (lambda: Radial(0.1, math.inf), "r_s"),
        (lambda: Angular(-0.1, 1.0, 1.0), "eta"),
        (lambda: Angular(0.1, 0.5, 1.0), "zeta"),
        (lambda: Angular(0.1, 1.0, 0.0), "lam"),
        (lambda: Angular(0.1, 1.0, 4.0), "lam"),
        (lambda: Angular(0.1, 1.0, 1.0, math.nan), "r_s"),
    ],
)
def test_parameters_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
