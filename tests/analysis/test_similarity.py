"""Kernels between structures against DScribe, against their limits, and against what they must be by definition.

The reference numbers come from DScribe 2.1.2 with scikit-learn 1.8.0:

    rng = np.random.default_rng(0)
    features = [np.round(rng.normal(size=(n, 4)) + 1.0, 3) for n in (3, 5, 4)]
    unit = [sklearn.preprocessing.normalize(G) for G in features]
    options = {"linear": {}, "rbf": {"gamma": 0.3}, "laplacian": {"gamma": 0.2},
               "polynomial": {"gamma": 0.7, "coef0": 0.5, "degree": 3}}
    upper = np.triu_indices(3)
    AverageKernel(metric=metric, normalize_kernel=normalize, **options[metric]).create(features)[upper]
    REMatchKernel(metric=metric, alpha=alpha, threshold=1e-16, normalize_kernel=True, **options[metric]).create(unit)[upper]
    REMatchKernel(metric="linear", alpha=0.5, threshold=1e-16, normalize_kernel=False).create(unit)[upper]
    REMatchKernel(metric="rbf", gamma=0.3, alpha=0.5, threshold=1e-16).create(features[:1], features[1:])
"""

import itertools

import ase.build
import numpy as np
import pytest

from bpjax.analysis import similarity
from bpjax.analysis.similarity import (
    LaplacianKernel,
    average_kernel,
    best_match_kernel,
    distances,
    kernel_pca,
    rematch_kernel,
)
from bpjax.errors import BpjaxError, ConfigError, StructureError
from bpjax.networks import GaussianKernel, LinearKernel, PolynomialKernel
from bpjax.networks.kernel import unit
from bpjax.potential.describe import describe
from tests.small_model import MODEL, crystal, liquid, molecule

FEATURES = [
    np.array([[1.126, 0.868, 1.64, 1.105], [0.464, 1.362, 2.304, 1.947], [0.296, -0.265, 0.377, 1.041]]),
    np.array(
        [
            [-1.325, 0.781, -0.246, 0.268],
            [0.456, 0.684, 1.412, 2.043],
            [0.871, 2.366, 0.335, 1.352],
            [1.903, 1.094, 0.257, 0.078],
            [0.542, 1.22, -0.01, 0.791],
        ]
    ),
    np.array(
        [
            [0.841, 1.541, 1.215, 1.355],
            [0.346, 0.87, 1.784, 2.493],
            [-0.259, 2.514, 2.346, 1.781],
            [1.264, 0.686, 2.458, 2.96],
        ]
    ),
]
UNIT = [unit(G) for G in FEATURES]
KERNELS = {  # with scikit-learn's gamma, coef0 and degree
    "linear": LinearKernel(),
    "rbf": GaussianKernel(np.sqrt(1 / 0.6)),  # gamma = 0.3
    "laplacian": LaplacianKernel(5.0),  # gamma = 0.2
    "polynomial": PolynomialKernel(zeta=3, normalize=False, gamma=0.7, offset=0.5),
}
AVERAGE = {
    ("linear", True): [1, 0.7966844905118031, 0.9819223172753715, 1, 0.8612609209064899, 1],
    ("rbf", True): [1, 0.5957989834080473, 0.7351088014231603, 1, 0.509637903707184, 1],
    ("laplacian", True): [1, 0.7919934557726445, 0.8332030284439008, 1, 0.7066936984174014, 1],
    ("polynomial", True): [1, 0.6779414184714608, 0.9595436781023056, 1, 0.7187100604253686, 1],
    ("linear", False): [
        4.760212333333333,
        2.8528367333333335,
        7.002605583333332,
        2.69373448,
        4.62042055,
        10.6841196875,
    ],
    ("rbf", False): [
        0.5632506287690008,
        0.28195235050780204,
        0.39582189486274627,
        0.39760353594421394,
        0.23056011919157887,
        0.514748034112045,
    ],
    ("laplacian", False): [
        0.6669719232701932,
        0.49137562794600326,
        0.5386485413582687,
        0.5771337676205974,
        0.42498180185308304,
        0.6266163814378725,
    ],
    ("polynomial", False): [
        124.13905106999684,
        44.86276575644158,
        262.8573659771508,
        35.27599978756106,
        104.95293359979519,
        604.5084627223841,
    ],
}
REMATCH = {
    ("linear", 1.0): [1, 0.6397065454913945, 0.9522035748078767, 1, 0.7692709424017455, 1],
    ("linear", 0.1): [1, 0.5479494723151339, 0.9215813729743202, 1, 0.6870392115459859, 1],
    ("rbf", 1.0): [1, 0.871660124769576, 0.9775885635663814, 1, 0.9118674588306022, 1],
    ("rbf", 0.1): [1, 0.7883322318981415, 0.95997828606174, 1, 0.8450420141445357, 1],
    ("laplacian", 1.0): [1, 0.8719636345450023, 0.9471988168803602, 1, 0.8970479668508647, 1],
    ("laplacian", 0.1): [1, 0.7615581104311091, 0.8867956906113087, 1, 0.8143034833366468, 1],
    ("polynomial", 1.0): [1, 0.5621339795091742, 0.90870452256271, 1, 0.6697265582211755, 1],
    ("polynomial", 0.1): [1, 0.48787703724351755, 0.8552728008808563, 1, 0.5892413474705301, 1],
}
REMATCH_RAW = [
    0.8799008545161344,
    0.48840372899163764,
    0.8507083248600347,
    0.7694886651487315,
    0.6069101333610147,
    0.9201343356581297,
]
"""alpha=0.5, metric linear, normalize_kernel=False."""
REMATCH_OTHERS = [[0.41916096085378995, 0.547618911887498]]
"""`.create(FEATURES[:1], FEATURES[1:])`, alpha=0.5, metric rbf."""
UPPER = np.triu_indices(3)


@pytest.mark.parametrize(("metric", "normalize"), AVERAGE)
def test_average_kernel_is_that_of_dscribe(metric, normalize):
    K = average_kernel(FEATURES, KERNELS[metric], normalize=normalize)
    np.testing.assert_allclose(K[UPPER], AVERAGE[metric, normalize], rtol=1e-13)
    np.testing.assert_array_equal(K, K.T)


@pytest.mark.parametrize(("metric", "alpha"), REMATCH)
def test_rematch_kernel_is_that_of_dscribe(metric, alpha):
    K = rematch_kernel(UNIT, KERNELS[metric], alpha, tolerance=1e-12)
    np.testing.assert_allclose(K[UPPER], REMATCH[metric, alpha], rtol=1e-7)  # as far as the reference has converged
    np.testing.assert_array_equal(K, K.T)


def test_rematch_kernel_without_normalisation_and_with_others():
    K = rematch_kernel(UNIT, LinearKernel(), 0.5, tolerance=1e-12, normalize=False)
    np.testing.assert_allclose(K[UPPER], REMATCH_RAW, rtol=1e-7)
    K = rematch_kernel(FEATURES[:1], KERNELS["rbf"], 0.5, tolerance=1e-12, others=FEATURES[1:])
    np.testing.assert_allclose(K, REMATCH_OTHERS, rtol=1e-7)


ALL = {
    "average": average_kernel,
    "best": best_match_kernel,
    "rematch": rematch_kernel,
}


@pytest.mark.parametrize("name", ALL)
def test_order_of_atoms_and_copies_do_not_matter(name):
    K = ALL[name]([FEATURES[1], FEATURES[1][[3, 0, 4, 2, 1]], FEATURES[2]], GaussianKernel(0.8))
    np.testing.assert_allclose(K[:2, :2], 1, atol=1e-5)  # Sinkhorn to 1e-6
    np.testing.assert_allclose(K[0, 2], K[1, 2], atol=1e-5)
    # A supercell is the same material.
    doubled = ALL[name]([FEATURES[1], np.tile(FEATURES[1], (2, 1))], GaussianKernel(0.8))
    assert doubled[0, 1] == pytest.approx(1, abs=1e-5)


def test_limits_of_rematch():
    """Large alpha: the average; small alpha: the best match, found here by trying all permutations."""
    kernel = PolynomialKernel(zeta=2)
    flat = rematch_kernel(FEATURES, kernel, 1e5, normalize=False)
    np.testing.assert_allclose(flat, average_kernel(FEATURES, kernel, normalize=False), rtol=1e-4)
    pair = [FEATURES[1][:4], FEATURES[2]]
    best = best_match_kernel(pair, kernel, normalize=False)[0, 1]
    k = kernel(*pair)
    assert best == pytest.approx(max(k[range(4), p].mean() for p in itertools.permutations(range(4))), rel=1e-14)
    gaps = [best - rematch_kernel(pair, kernel, alpha, normalize=False)[0, 1] for alpha in (0.1, 0.01, 0.001)]
    assert gaps[0] > gaps[1] > 0 and gaps[1] > abs(gaps[2]) and abs(gaps[2]) < 2e-6
    # Different sizes: the best plan is a linear programme whose solution the limit must be, too.
    uneven = [FEATURES[0], FEATURES[2]]
    found = best_match_kernel(uneven, kernel, normalize=False)[0, 1]
    assert found == pytest.approx(rematch_kernel(uneven, kernel, 5e-4, normalize=False)[0, 1], abs=1e-5)


def test_positive_semidefinite_and_distances():
    rng = np.random.default_rng(1)
    frames = [rng.normal(size=(rng.integers(2, 6), 5)) for _ in range(12)]
    for kernel in (LinearKernel(), PolynomialKernel(2), GaussianKernel(1.5), LaplacianKernel(2.0)):
        K = average_kernel(frames, kernel, normalize=False)
        values = np.linalg.eigvalsh(K)
        assert values[0] > -1e-12 * values[-1]
        d = distances(K)
        # The kernel is an inner product of means, so that distances obey the triangle inequality.
        assert (d[:, :, None] <= d[:, None, :] + d.T[None, :, :] + 1e-7).all()
    means = np.array([G.mean(axis=0) for G in frames])
    expected = np.linalg.norm(means[:, None] - means[None, :], axis=2)
    found = distances(average_kernel(frames, LinearKernel(), normalize=False))
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_linear_average_kernel_maps_as_principal_components():
    rng = np.random.default_rng(2)
    frames = [rng.normal(size=(4, 6)) * np.arange(1, 7) for _ in range(9)]
    means = np.array([G.mean(axis=0) for G in frames])
    means -= means.mean(axis=0)
    _, size, axes = np.linalg.svd(means, full_matrices=False)
    found = kernel_pca(average_kernel(frames, normalize=False), 3)
    np.testing.assert_allclose(np.abs(found.coordinates), np.abs(means @ axes[:3].T), atol=1e-10)
    np.testing.assert_allclose(found.shares, size[:3] ** 2 / np.sum(size**2), rtol=1e-10)
    assert (found.coordinates.max(axis=0) >= -found.coordinates.min(axis=0)).all()
    assert kernel_pca(average_kernel(frames, normalize=False), 6).shares.sum() == pytest.approx(1)
    with pytest.raises(ConfigError, match="count: must be from 1 to 6"):
        kernel_pca(average_kernel(frames, normalize=False), 7)


def test_species_keep_elements_apart():
    """By an explicit double loop; with the other convention elements do not matter."""
    species = [np.array([0, 1, 1]), np.array([0, 0, 1, 1, 2]), np.array([2, 1, 0, 0])]
    kernel = PolynomialKernel(3)
    K = average_kernel(FEATURES, kernel, species=species, normalize=False)
    for a, b in itertools.product(range(3), repeat=2):
        terms = [
            kernel(x[None], y[None])[0, 0] * (s == t)
            for x, s in zip(FEATURES[a], species[a], strict=True)
            for y, t in zip(FEATURES[b], species[b], strict=True)
        ]
        assert K[a, b] == pytest.approx(np.mean(terms), rel=1e-12)
    cross = average_kernel(
        FEATURES[:2], kernel, species=species[:2], others=FEATURES[2:], other_species=species[2:], normalize=False
    )
    np.testing.assert_allclose(cross, K[:2, 2:], rtol=1e-13)
    same = [np.zeros(len(G), int) for G in FEATURES]
    np.testing.assert_array_equal(average_kernel(FEATURES, kernel, species=same), average_kernel(FEATURES, kernel))


@pytest.mark.parametrize("name", ALL)
def test_batches_are_the_same_as_one_by_one(name, monkeypatch):
    rng = np.random.default_rng(3)
    frames = [rng.normal(size=(n, 3)) for n in (1, 4, 2, 5, 3, 1)]
    together = ALL[name](frames, GaussianKernel(1.0))
    monkeypatch.setattr(similarity, "PAIRS", 6)
    rtol = 1e-6 if name == "rematch" else 1e-12  # the tolerance of the iteration, which a batch shares
    np.testing.assert_allclose(ALL[name](frames, GaussianKernel(1.0)), together, rtol=rtol)
    crossed = ALL[name](frames[:2], GaussianKernel(1.0), others=frames)
    np.testing.assert_allclose(crossed, together[:2], atol=1e-5)


def test_small_alpha_neither_overflows_nor_stops_early():
    K = rematch_kernel(UNIT, GaussianKernel(0.5), 1e-3, iterations=100_000)
    assert np.isfinite(K).all() and (K[UPPER] <= 1 + 1e-6).all() and (K > 0).all()
    np.testing.assert_allclose(K, best_match_kernel(UNIT, GaussianKernel(0.5)), atol=1e-4)
    with pytest.raises(BpjaxError, match="did not converge: after 2 iterations .*alpha"):
        rematch_kernel(UNIT, GaussianKernel(0.5), 1e-3, iterations=2)


def test_phases_of_silicon_fall_into_groups():
    """With features of structures: rattled copies of a phase are closer to each other than to another phase."""
    phases = [("diamond", 5.43), ("sc", 2.5), ("fcc", 3.9)]
    frames = [ase.build.bulk("Si", phase, a=a).repeat(2) for phase, a in phases for _ in range(3)]
    for n, atoms in enumerate(frames):
        atoms.rattle(0.03, seed=n)
    G = describe(MODEL.descriptor, frames)
    for K in (average_kernel(G, PolynomialKernel(4)), rematch_kernel(G, PolynomialKernel(4), 0.05)):
        d = distances(K)
        group = np.arange(9) // 3
        same = group[:, None] == group[None, :]
        assert d[same].max() < 0.5 * d[~same].min()


def test_bad_input():
    with pytest.raises(StructureError, match="there are no structures"):
        average_kernel([])
    with pytest.raises(StructureError, match=r"frame 1: features: have shape \(0, 4\), not \(atoms, 4\)"):
        average_kernel([FEATURES[0], np.zeros((0, 4))])
    with pytest.raises(StructureError, match=r"frame 0: features: have shape \(3,\)"):
        average_kernel([np.zeros(3)])
    with pytest.raises(StructureError, match="frame 0: features: have shape"):
        average_kernel(FEATURES, others=[np.zeros((2, 3))])
    with pytest.raises(StructureError, match="frame 0: features: are not finite"):
        average_kernel([np.full((2, 2), np.nan)])
    with pytest.raises(StructureError, match="frame 1: has no similarity to itself"):
        average_kernel([FEATURES[0], np.zeros((2, 4))])
    with pytest.raises(ConfigError, match="species: must have one entry for each atom"):
        average_kernel(FEATURES, species=[np.zeros(2, int)] * 3)
    with pytest.raises(ConfigError, match="species: species are needed of both sides"):
        average_kernel(FEATURES, others=FEATURES, species=[np.zeros(len(G), int) for G in FEATURES])
    with pytest.raises(ConfigError, match="other_species: given without others"):
        average_kernel(FEATURES, other_species=[np.zeros(len(G), int) for G in FEATURES])
    for options in ({"alpha": 0.0}, {"alpha": np.nan}, {"tolerance": -1.0}, {"iterations": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))}: must be positive"):
            rematch_kernel(FEATURES, **options)
    for wrong in (distances, kernel_pca):
        with pytest.raises(ConfigError, match="K: must be a square matrix"):
            wrong(np.zeros((2, 3)))
    for make, message in (
        (lambda: LaplacianKernel(0.0), "LaplacianKernel length"),
        (lambda: GaussianKernel(-1.0), "GaussianKernel length"),
        (lambda: PolynomialKernel(0), "PolynomialKernel zeta"),
        (lambda: PolynomialKernel(gamma=0.0), "PolynomialKernel gamma"),
        (lambda: PolynomialKernel(offset=-1.0), "PolynomialKernel offset"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_structures_of_every_kind():
    """Molecules beside crystals; features from the host."""
    frames = [crystal(), liquid(), molecule()]
    K = rematch_kernel(describe(MODEL.descriptor, frames), species=[a.numbers for a in frames])
    assert K.shape == (3, 3) and np.isfinite(K).all() and (np.diag(K) == pytest.approx(1)) and (K <= 1 + 1e-6).all()
