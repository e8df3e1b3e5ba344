"""`SOAP`: the contract of descriptors for each convention and basis, and what is its own."""

import itertools

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import sph_harm_y, spherical_jn

from bpjax.descriptors import SOAP, Chosen, Weighting
from bpjax.descriptors.radial import BASES, radial_table
from bpjax.descriptors.soap_layout import CHANNELS, CONVENTIONS
from bpjax.errors import UnknownSpeciesError
from bpjax.potential.describe import describe
from bpjax.system import Environment
from tests.contracts import DescriptorContract, environment, features, rotations

TWO = ("O", "H")
EXAMPLES = {
    "own": SOAP(TWO, 4.0, n_max=3, l_max=3, sigma=0.5),
    "dscribe gto": SOAP(("Si",), 4.0, n_max=3, l_max=2, sigma=0.5, convention="dscribe"),
    "dscribe polynomial": SOAP(TWO, 4.0, 2, 3, 0.6, "dscribe", "polynomial", weighting=Weighting("pow", 2.0)),
    "featomic": SOAP(TWO, 4.0, n_max=3, l_max=2, sigma=0.5, convention="featomic", cutoff_inner=0.8),
    "alchemical": SOAP(
        ("H", "C", "O"), 4.0, 2, 2, 0.5, channels="crossover", species_weights=((1.0, 0.5, 0.2), (0.1, -0.3, 0.9))
    ),
    "mu1nu1": SOAP(TWO, 4.0, n_max=2, l_max=2, sigma=0.5, channels="mu1nu1", cutoff_kind="exp", centre=0.0),
    "mu2": SOAP(TWO, 4.0, n_max=3, l_max=2, sigma=0.5, channels="mu2", species_weights=(1.0, 0.5)),
}


MARKS = {"alchemical": [], "own": pytest.mark.slow, "featomic": pytest.mark.slow}


class TestSOAP(DescriptorContract):
    @pytest.fixture(
        params=[pytest.param(e, id=name, marks=MARKS.get(name, pytest.mark.exhaustive)) for name, e in EXAMPLES.items()]
    )
    def descriptor(self, request):
        return request.param


# ------------------------------------------------------------------------------------------- radial integrals


def primitive(basis, radius, n_max, l):
    """The functions that a basis is made of, not orthonormal, as functions of r."""
    if basis == "bessel":
        return [lambda r, z=z: spherical_jn(l, z * r / radius) for z in zeros_of(l, n_max)]
    if basis == "gto":
        a = np.linspace(1, radius, n_max)
        return [lambda r, x=x: r**l * np.exp(np.log(1e-3 / x**l) / x**2 * r**2) for x in a]
    if basis == "polynomial":
        return [lambda r, n=n: (radius - r) ** (n + 2) for n in range(1, n_max + 1)]
    width = [radius * max(np.sqrt(n), 1) / n_max for n in range(n_max)]
    return [lambda r, n=n, w=w: r**n * np.exp(-(r**2) / (2 * w**2)) for n, w in enumerate(width)]


def zeros_of(l, count):
    """The first zeros of j_l, by its changes of sign."""
    x = np.linspace(1e-3, 40, 4000)
    at = np.flatnonzero(np.diff(np.sign(spherical_jn(l, x))))[:count]
    return np.array([brentq(lambda x: spherical_jn(l, x), x[k], x[k + 1]) for k in at])


@pytest.mark.parametrize("basis", BASES)
def test_radial_integrals_are_those_of_the_definition(basis):
    """Projection of a Gaussian by brute force over r and the angle, in an orthonormal basis of the same span."""
    radius, n_max, l_max, sigma, reach = 4.0, 3, 2, 0.6, 5.0
    table = radial_table(basis, radius, reach, n_max, l_max, sigma)
    # Eigenfunctions are orthonormal in the ball, but integrals run over all space, since smearing does; DScribe's polynomials
    # end at the radius.
    end = radius if basis == "polynomial" else 12.0
    x, weight = np.polynomial.legendre.leggauss(400)
    r, w_r = end * (x + 1) / 2, weight * end / 2
    cos, w_cos = np.polynomial.legendre.leggauss(200)
    for l in range(l_max + 1):
        f = np.array([g(r) for g in primitive(basis, radius, n_max, l)])
        # In the ball by closed form: a step within the quadrature would cost its accuracy.
        norms = radius**3 / 2 * spherical_jn(l + 1, zeros_of(l, n_max)) ** 2
        S = np.diag(norms) if basis == "bessel" else (f * w_r * r**2) @ f.T
        if basis == "gto_featomic":  # functions are normalised one by one first
            f, S = f / np.sqrt(np.diag(S))[:, None], S / np.sqrt(np.outer(np.diag(S), np.diag(S)))
        values, vectors = np.linalg.eigh(S)
        R_nl = (vectors / np.sqrt(values)) @ vectors.T @ f
        for R in (0.0, 0.7, 2.9, 4.6):
            gauss = np.exp(-(r[:, None] ** 2 + R**2 - 2 * r[:, None] * R * cos) / (2 * sigma**2))
            angular = 2 * np.pi * (gauss * np.polynomial.legendre.Legendre.basis(l)(cos)) @ w_cos
            expected = R_nl @ (angular * r**2 * w_r)
            found = np.polynomial.chebyshev.chebval(2 * R / reach - 1, table.series[:, :, l])
            # Rounding of overlaps with condition numbers up to 1e5 in this test.
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_series_in_single_precision_is_shorter_and_good_to_rounding():
    table = radial_table("bessel", 5.0, 5.0, 8, 6, 0.4)
    short, full = table.terms(np.float32), table.terms(np.float64)
    assert len(short) < len(full)
    x = np.linspace(-1, 1, 500)
    difference = np.polynomial.chebyshev.chebval(x, short) - np.polynomial.chebyshev.chebval(x, table.series)
    assert np.abs(difference).max() < 1e-7 * np.abs(table.series).sum(axis=0).max()


# --------------------------------------------------------------------------------------------- what SOAP is


@jax.jit
def overlap_kernel(R, Q, sigma):
    """SOAP kernel of two sets of neighbours: the squared overlap of their densities, averaged over rotations, by quadrature."""
    alpha = jnp.linspace(0, 2 * jnp.pi, 25)[:-1]
    cos, weight = map(jnp.asarray, np.polynomial.legendre.leggauss(16))

    def turned(a, c, g):
        s = jnp.sqrt(1 - c * c)
        one = jnp.array([[jnp.cos(a), -jnp.sin(a), 0], [jnp.sin(a), jnp.cos(a), 0], [0, 0, 1]])
        two = jnp.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        three = jnp.array([[jnp.cos(g), -jnp.sin(g), 0], [jnp.sin(g), jnp.cos(g), 0], [0, 0, 1]])
        d2 = jnp.sum((R[:, None] - (Q @ (one @ two @ three).T)[None]) ** 2, axis=-1)
        return jnp.sum(jnp.exp(-d2 / (4 * sigma**2)) / (4 * jnp.pi * sigma**2) ** 1.5) ** 2

    over_g = jax.vmap(turned, (None, None, 0))
    over_c = jax.vmap(over_g, (None, 0, None))
    values = jax.vmap(over_c, (0, None, None))(alpha, cos, alpha)
    return jnp.mean(values, axis=(0, 2)) @ weight / 2


@pytest.mark.slow
def test_scalar_product_is_the_overlap_of_densities():
    """With many functions p . p' becomes the integral of the squared overlap over all rotations (Bartok 2013, eq. 36)."""
    sigma, radius = 0.6, 6.0
    random = np.random.default_rng(0)
    R, Q = (jnp.asarray(random.normal(size=(3, 3)) * 0.8) for _ in range(2))
    # A cutoff function that is 1 where the atoms are.
    options = SOAP(("Si",), radius, 14, 10, sigma, cutoff_inner=0.7, centre=0.0)
    p, q = (features(options, x, jnp.zeros(3, jnp.int32), jnp.ones(3, bool)) for x in (R, Q))
    for one, other, found in ((R, Q, p @ q), (R, R, p @ p)):
        # The tails of the Gaussians outside of the ball and above l_max are left out.
        np.testing.assert_allclose(found, overlap_kernel(one, other, sigma), rtol=2e-3)


def test_coefficients_are_projections_on_spherical_harmonics():
    options = SOAP(("Si",), 4.0, 3, 4, 0.5, "dscribe", centre=0.0)
    R = np.array([[0.3, -1.2, 1.5]])
    c = jax.jit(options.coefficients)(Environment(jnp.asarray(R), jnp.zeros(1, jnp.int32), jnp.ones(1, bool)), 0)
    r = np.linalg.norm(R)
    theta, phi = np.arccos(R[0, 2] / r), np.arctan2(R[0, 1], R[0, 0])
    column = 0
    for l, m in [(degree, m) for degree in range(5) for m in range(-degree, degree + 1)]:
        Y = sph_harm_y(l, abs(m), theta, phi) * (-1) ** m * (np.sqrt(2) if m else 1)
        Y = Y.real if m >= 0 else Y.imag
        I = np.polynomial.chebyshev.chebval(2 * r / options.cutoff - 1, options._table.series[:, :, l])
        np.testing.assert_allclose(c[0, :, column], I * Y, rtol=0, atol=1e-13)
        column += 1


@pytest.mark.parametrize("l_max", [pytest.param(6, marks=pytest.mark.slow), 12])
@pytest.mark.slow
def test_rotation_up_to_high_degrees(l_max):
    """Relative to the largest feature of its degree, so that small features of high degree count."""
    options = SOAP(TWO, 5.0, 4, l_max, 0.4)
    R, species, mask = environment(options)
    plain = np.asarray(features(options, R, species, mask))
    turned = np.asarray(features(options, R @ jnp.asarray(rotations()["rotation"]).T, species, mask))
    for l in range(l_max + 1):
        of_degree = options._columns.l == l
        scale = np.abs(plain[of_degree]).max()
        assert scale > 1e-10
        np.testing.assert_allclose(turned[of_degree], plain[of_degree], rtol=0, atol=1e-10 * scale)


@pytest.mark.slow
def test_flat_and_straight_environments_are_finite():
    options = SOAP(("Si",), 4.0, 2, 3, 0.5)
    rest = jnp.zeros(7, jnp.int32), jnp.ones(7, bool)
    second = jax.jit(jax.jacfwd(jax.grad(lambda R: options(Environment(R, *rest), 0).sum())))
    random = np.random.default_rng(1).uniform(0.8, 2.0, (7, 3))
    for R in (random * [1, 1, 0], random * [0, 0, 1], random * [0, 1, 0]):
        assert np.isfinite(second(jnp.asarray(R))).all()


@pytest.mark.slow
def test_elements_do_not_mix_in_crossover_and_only_sum_in_mu2():
    R, species, mask = environment(EXAMPLES["own"])
    swapped = 1 - species
    for channels, same in (("full", False), ("crossover", False), ("mu1nu1", False), ("mu2", True)):
        options = SOAP(TWO, 4.0, 2, 2, 0.5, channels=channels, centre=0.0)
        p, q = features(options, R, species, mask), features(options, R, swapped, mask)
        assert np.allclose(p, q, rtol=1e-12) == same


@pytest.mark.slow
def test_alchemical_mixture_of_one_for_each_element_is_no_mixture():
    R, species, mask = environment(EXAMPLES["own"])
    plain = SOAP(TWO, 4.0, 2, 2, 0.5)
    mixed = SOAP(TWO, 4.0, 2, 2, 0.5, species_weights=((1.0, 0.0), (0.0, 1.0)))
    np.testing.assert_allclose(features(mixed, R, species, mask), features(plain, R, species, mask), rtol=1e-13)
    assert mixed.labels[0] == "w1 n=0 w1 n=0 l=0"
    # Rotating the pseudo-elements among each other keeps every scalar product.
    c, s = np.cos(0.3), np.sin(0.3)
    turned = SOAP(TWO, 4.0, 2, 2, 0.5, species_weights=((c, s), (-s, c)))
    p = features(turned, R, species, mask)
    np.testing.assert_allclose(p @ p, features(plain, R, species, mask) @ features(plain, R, species, mask), rtol=1e-12)


def test_species_weights_can_be_learned():
    options = SOAP(TWO, 4.0, 2, 2, 0.5, species_weights=((1.0, 0.5),))
    R, species, mask = environment(options)

    @jax.jit
    def total(weights):
        return options.power_spectrum(options.coefficients(Environment(R, species, mask), 0, weights)).sum()

    weights = jnp.array([[1.0, 0.5]])
    np.testing.assert_allclose(total(weights), features(options, R, species, mask).sum(), rtol=1e-13)
    step = 1e-5
    for k in range(2):
        d = jnp.zeros((1, 2)).at[0, k].set(step)
        numeric = (total(weights + d) - total(weights - d)) / (2 * step)
        np.testing.assert_allclose(jax.grad(total)(weights)[0, k], numeric, rtol=1e-8)


@pytest.mark.parametrize(("convention", "channels"), itertools.product(CONVENTIONS, CHANNELS))
def test_sizes_and_labels(convention, channels):
    options = SOAP(("H", "C", "O"), 4.0, 3, 2, 0.5, convention, channels=channels)
    S, n, L = 3, 3, 3
    like = n * n if convention == "featomic" else n * (n + 1) // 2
    expected = {
        "full": S * like + S * (S - 1) // 2 * n * n,
        "crossover": S * like,
        "mu1nu1": S * n * n,
        "mu2": like,
    }[channels]
    assert options.size == expected * L == len(set(options.labels))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.slow
def test_chosen_features_are_those_of_all(convention):
    options = SOAP(TWO, 4.0, 3, 4, 0.5, convention, channels="mu1nu1" if convention == "dscribe" else "full")
    R, species, mask = environment(options)
    indices = tuple(int(n) for n in np.random.default_rng(3).permutation(options.size)[:11])
    found = jax.jit(lambda R: options.chosen(indices, Environment(R, species, mask), 0))(R)
    np.testing.assert_allclose(found, features(options, R, species, mask)[jnp.array(indices)], rtol=1e-12)


def test_what_is_learned_cannot_be_reduced():
    with pytest.raises(ValueError, match="Chosen descriptor: one that is learned"):
        Chosen(SOAP(TWO, 4.0, 2, 2, 0.5, learn_weights=True), (0, 1))


def test_chosen_features_cost_less():
    options = SOAP(("H", "C", "N", "O"), 5.0, 8, 6, 0.5)
    R, species, mask = (jnp.asarray(a) for a in environment(options))
    low = tuple(int(n) for n in np.flatnonzero((options._columns.l < 2) & (options._columns.c1 == 0))[::7])

    def cost(f):
        return jax.jit(f).lower(R).compile().cost_analysis()["flops"]

    everything = cost(lambda R: options(Environment(R, species, mask), 0))
    assert cost(lambda R: options.chosen(low, Environment(R, species, mask), 0)) < 0.4 * everything


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elements": ()}, "elements"),
        ({"elements": ("H", "H")}, "each once"),
        ({"elements": ("H", "Xx")}, "Xx"),
        ({"n_max": 0}, "n_max=0: must be between 1 and 30"),
        ({"n_max": 31}, "n_max=31"),
        ({"l_max": -1}, "l_max=-1: must be between 0 and 20"),
        ({"l_max": 21}, "l_max=21"),
        ({"radius": -1.0}, "radius=-1.0: must be positive"),
        ({"radius": 0.4}, "radius=0.4: below any bond of H, O"),
        ({"radius": float("nan")}, "radius=nan"),
        ({"sigma": 0.0}, "sigma=0.0: must be positive"),
        ({"basis": "gto", "radius": 0.9, "sigma": 0.1}, "above 1 A"),
        ({"basis": "polynomial", "sigma": 0.02}, "sigma=0.02: so small that the quadrature"),
        ({"basis": "gto", "n_max": 20}, "n_max=20: so many radial functions"),
        ({"basis": "gto_featomic", "sigma": 1e-3}, "sigma=0.001: too small"),
        ({"basis": "hermite"}, "basis='hermite': allowed are bessel, gto"),
        ({"convention": "quippy"}, "convention='quippy'"),
        ({"channels": "mu3"}, "channels='mu3'"),
        ({"species_weights": (1.0,)}, "species_weights"),
        ({"species_weights": ((1.0, 2.0, 3.0),)}, "species_weights"),
        ({"species_weights": (1.0, float("inf"))}, "species_weights"),
        ({"centre": -1.0}, "centre=-1.0"),
        ({"cutoff_kind": "square"}, "square"),
        ({"cutoff_inner": 1.5}, "1.5"),
    ],
)
def test_bad_options_are_refused_before_anything_is_computed(change, message):
    with pytest.raises((ValueError, UnknownSpeciesError), match=message):
        SOAP(**{"elements": ("H", "O"), "radius": 4.0, "n_max": 3, "l_max": 2, **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "gauss", "r_0": 1.0}, "allowed are poly, pow, exp"),
        ({"kind": "pow", "r_0": 0.0}, "r_0=0.0"),
        ({"kind": "pow", "r_0": 1.0, "d": 0.0}, "d=0.0"),
        ({"kind": "poly", "r_0": 1.0, "m": -1.0}, "m=-1.0"),
    ],
)
def test_bad_weighting(options, message):
    with pytest.raises(ValueError, match=message):
        Weighting(**options)


def test_small_cell_is_its_supercell():
    """Cells shorter than the radius: an atom sees images of itself and of others several times."""
    options = SOAP(("Na", "Cl"), 4.5, 3, 3, 0.5)
    atoms = ase.Atoms(
        "NaCl", [[0, 0, 0], [2.7, 0.1, 0.0]], cell=[[0, 2.8, 2.9], [2.8, 0, 2.7], [2.9, 2.8, 0]], pbc=True
    )
    small, large = describe(options, [atoms, atoms.repeat(3)], "float64")
    np.testing.assert_allclose(large, np.tile(small, (27, 1)), rtol=0, atol=1e-12 * np.abs(small).max())
