"""Choosing features from a matrix: against scikit-matter and scikit-learn, matrices with a known answer, and brute force."""

import itertools

import numpy as np
import pytest

from bpjax.descriptors import selection
from bpjax.descriptors.selection import (
    correlations,
    cur,
    farthest_points,
    principal_components,
    standardised,
    uncorrelated,
    varying,
)
from bpjax.networks.scaling import fit_scaling

ROWS, COLUMNS = np.arange(40)[:, None], np.arange(15)[None, :]
G = (
    np.cos(0.7 * ROWS * (COLUMNS + 1) ** 0.5) * np.exp(-0.15 * COLUMNS)
    + 0.3 * np.sin(0.2 * ROWS * COLUMNS)
    + 0.1 * COLUMNS
)
"""Features of every size, none of them equal, by a formula that the reference programs were given too."""

# scikit-matter 0.4.1 on the deviations of G from their means, and on these divided by their spread: feature_selection.CUR
# (recompute_every=1), feature_selection.FPS and sample_selection.FPS, which start at the index given first.
SKMATTER = {
    "cur": ([0, 1, 2, 3, 4, 5, 6, 7, 10, 8], [8, 9, 12, 7, 0, 1, 2, 11, 3, 14]),
    "cur, three vectors": ([1, 2, 0, 3, 4, 5, 7, 14, 6, 8], [9, 12, 7, 0, 2, 14, 1, 11, 3, 4]),
    "farthest": ([0, 1, 3, 2, 5, 4, 6, 7, 8, 14], [1, 3, 0, 14, 13, 11, 10, 9, 6, 2]),
    "farthest atoms": ([22, 0, 13, 28, 5, 7, 35, 8, 30, 6], [22, 21, 38, 32, 28, 27, 31, 15, 8, 36]),
}


@pytest.mark.parametrize("scaled", [0, 1], ids=["deviations", "standardised"])
def test_equal_to_scikit_matter(scaled):
    X = standardised(G) if scaled else G
    expected = {name: both[scaled] for name, both in SKMATTER.items()}
    assert cur(X, 10).tolist() == expected["cur"]
    assert cur(X, 10, vectors=3).tolist() == expected["cur, three vectors"]
    start = expected["farthest"][0]
    assert farthest_points(X, 10, start=start).tolist() == expected["farthest"]
    assert farthest_points(X, 10, axis=0).tolist() == expected["farthest atoms"]


def test_principal_components_equal_scikit_learn():
    # PCA of scikit-learn 1.8.0; its signs happen to follow the same rule.
    found = principal_components(G, 3)
    np.testing.assert_allclose(
        found.explained, [0.2127678918430425, 0.17458238077730462, 0.14033037475138563], rtol=1e-12
    )
    first = [
        [0.9346762036561425, -0.22221177872961823, 0.07873127030258319, -0.102320448430716],
        [0.19244240446996638, 0.9465722831069953, 0.16072922672815577, -0.13731003018820562],
        [-0.06689892425702873, -0.04801435, 0.8509211771437518, 0.462946705025829],
    ]
    np.testing.assert_allclose(found.components[:, :4], first, atol=1e-8)


def test_principal_components_are_eigenvectors_of_the_covariance():
    found = principal_components(G, 15)
    X = G - G.mean(axis=0)
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(15), atol=1e-13)
    variances = np.diag(found.components @ np.cov(X.T, bias=True) @ found.components.T)
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1], rtol=1e-11)
    np.testing.assert_allclose(found.explained, variances / variances.sum(), rtol=1e-11)
    assert found.explained.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_array_equal(found.mean, G.mean(axis=0))


def with_copies():
    """Features 0 to 5, orthogonal, of spread 6 to 1; copies, multiples, sums of them; a constant one."""
    waves = np.stack([np.cos(2 * np.pi * (k + 1) * np.arange(32) / 32) for k in range(6)], axis=1)
    own = waves * np.arange(6, 0, -1) + 3.0
    return np.column_stack([own, own[:, 0], -0.5 * own[:, 1], own[:, 2] + 0.1 * own[:, 3], np.full(32, 1e3)])


def test_orthogonal_features_are_taken_by_size_and_copies_never():
    M = with_copies()
    # Squares of the singular values: 36 + 36 of 0 and its copy, 16 + 16.1 of 2 and 8 = 2 + 0.1 x 3 (the larger of these two),
    # 25 + 6 of 1 and its multiple; what is then left of 2 is small.
    assert cur(M, 6).tolist() == [0, 8, 1, 3, 4, 5]
    assert cur(M[:, :6], 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert varying(M).tolist() == [True] * 9 + [False]
    with pytest.raises(ValueError, match="only 6 of 10 features are not constant and linearly independent; 7 wanted"):
        cur(M, 7)
    with pytest.raises(ValueError, match="6 independent directions; 7 wanted"):
        principal_components(M, 7)
    assert 9 not in farthest_points(M, 8).tolist()
    with pytest.raises(ValueError, match="only 8 of 10 differ"):  # 0 and 6 are one point, 9 is constant
        farthest_points(M, 9)
    assert uncorrelated(M, largest=0.9).tolist() == [0, 1, 2, 3, 4, 5]
    # The copies 6 and 7 go (the later of two that are alike), then 8, which is like 3 too.
    assert uncorrelated(M, count=7).tolist() == [0, 1, 2, 3, 4, 5, 8]
    assert uncorrelated(M, count=6).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="only 9 of 10 features are not constant; 10 wanted"):
        uncorrelated(M, count=10)


def test_cur_finds_the_columns_of_a_planted_matrix():
    random = np.random.default_rng(0)
    basis = random.normal(size=(200, 5))
    mixed = basis @ random.normal(size=(5, 30)) * 0.1
    where = np.array([3, 8, 17, 21, 29])
    M = np.insert(mixed, where - np.arange(5), basis * 3, axis=1)
    assert M.shape == (200, 35)
    chosen = cur(M, 5)
    # Any five independent columns span the matrix: least squares leave nothing.
    X = M - M.mean(axis=0)
    left = X - X[:, chosen] @ np.linalg.lstsq(X[:, chosen], X, rcond=None)[0]
    assert np.abs(left).max() < 1e-10
    assert set(chosen.tolist()) == set(where.tolist())  # and these are the longest by far
    with pytest.raises(ValueError, match="only 5 of 35"):
        cur(M, 6)


def test_cur_spans_about_as_much_as_the_best_choice():
    M = standardised(G)[:, :9]

    def left_over(columns):
        S = M[:, list(columns)]
        return np.sum((M - S @ np.linalg.lstsq(S, M, rcond=None)[0]) ** 2)

    every = sorted(map(left_over, itertools.combinations(range(9), 3)))
    assert left_over(cur(M, 3)) <= every[len(every) // 4]
    assert left_over(cur(M, 9)) < 1e-20


def test_cost_turns_the_choice():
    M, cost = with_copies(), np.ones(10)
    assert cur(M, 1)[0] == 0
    cost[0] = 2.0
    assert cur(M, 1, cost=cost)[0] == 6  # the same feature, cheaper
    cost[6] = 5.0
    assert cur(M, 1, cost=cost)[0] == 0
    assert cur(M, 6, cost=np.full(10, 7.0)).tolist() == cur(M, 6).tolist()


def test_leading_vectors_by_iteration_are_those_of_lapack(monkeypatch):
    random = np.random.default_rng(1)
    M = random.normal(size=(60, 40)) * np.linspace(3, 0.1, 40)
    expected = cur(M, 20).tolist()
    called = []
    eigsh = selection.scipy.sparse.linalg.eigsh
    monkeypatch.setattr(selection, "LANCZOS", 30)
    monkeypatch.setattr(selection.scipy.sparse.linalg, "eigsh", lambda *a, **k: called.append(1) or eigsh(*a, **k))
    assert cur(M, 20).tolist() == expected and len(called) == 20


@pytest.mark.parametrize("axis", [0, 1])
def test_farthest_points_by_brute_force(axis):
    points = (G - G.mean(axis=0)).T if axis else G - G.mean(axis=0)
    chosen = [int(np.argmax(np.linalg.norm(points, axis=1)))]
    while len(chosen) < 8:
        nearest = [min(np.linalg.norm(p - points[n]) for n in chosen) for p in points]
        chosen.append(int(np.argmax(nearest)))
    assert farthest_points(G, 8, axis=axis).tolist() == chosen


def test_correlations_are_those_of_numpy():
    np.testing.assert_allclose(correlations(G), np.corrcoef(G.T), atol=1e-13)
    assert (correlations(with_copies())[9] == 0).all()


def test_uncorrelated_by_brute_force():
    r = np.abs(np.corrcoef(G.T))
    for largest in (0.05, 0.1, 0.2):
        kept = uncorrelated(G, largest=largest).tolist()
        expected = []
        for j in range(15):
            if all(r[j, k] <= largest for k in expected):
                expected.append(j)
        assert kept == expected and 1 < len(kept) < 15
    left = list(range(15))
    for count in range(14, 4, -1):
        i, j = max(itertools.combinations(left, 2), key=lambda pair: r[pair])
        left.remove(i if r[i, left].sum() > r[j, left].sum() else j)
        assert uncorrelated(G, count=count).tolist() == left


def test_features_in_other_units():
    """What is chosen from standardised features does not depend on their units; magnitudes of float32 rounding are constant."""
    units = 10.0 ** np.random.default_rng(2).uniform(-6, 6, 15)
    one, other = (standardised(M, floor=0.0) for M in (G, G * units))
    np.testing.assert_allclose(one, other, atol=1e-12)
    np.testing.assert_allclose(one.std(axis=0), 1.0, rtol=1e-13)
    assert cur(one, 12).tolist() == cur(other, 12).tolist()
    noisy = np.float32(1.7) * (1 + np.finfo(np.float32).eps * np.random.default_rng(0).integers(-1, 2, (40, 1)))
    assert not varying(noisy)[0]
    assert (standardised(np.hstack([G, noisy]))[:, -1] == 0).all()


def test_features_are_scaled_as_networks_see_them():
    """Next to nothing except for one atom: unit spread would make it the most remarkable feature."""
    extreme = np.where(ROWS == 7, 1e-20, 0.0)
    M = np.hstack([G, extreme, np.full((40, 1), 2.0)])
    network = fit_scaling(M, np.zeros(40, int), ("Si",))["Si"]
    X = standardised(M)
    np.testing.assert_allclose(X[:, :16], ((M - network["mean"]) * network["scale"])[:, :16], rtol=1e-5, atol=1e-5)
    assert (X[:, 16] == 0).all() and np.abs(X[:, 15]).max() < 1e-15
    assert cur(X, 15).tolist() == cur(standardised(G), 15).tolist()
    assert 15 in cur(standardised(M, floor=0.0), 15).tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cur(G, 0), "count=0: must be from 1 to 15, the number of features"),
        (lambda: cur(G, 16), "count=16"),
        (lambda: cur(G, 2, vectors=0), "vectors=0"),
        (lambda: cur(G, 2, cost=np.ones(3)), "one positive number for each of 15"),
        (lambda: cur(G, 2, cost=np.zeros(15)), "one positive number"),
        (lambda: cur(G[0], 2), r"shape \(15,\)"),
        (lambda: cur(np.where(COLUMNS == 3, np.nan, G), 2), "feature 3 is not finite"),
        (lambda: farthest_points(G, 41, axis=0), "from 1 to 40, the number of atoms"),
        (lambda: farthest_points(G, 2, axis=2), "axis=2"),
        (lambda: farthest_points(G, 2, start=15), "start=15"),
        (lambda: farthest_points(with_copies(), 2, start=9), "not constant"),
        (lambda: uncorrelated(G), "either largest or count"),
        (lambda: uncorrelated(G, largest=0.5, count=3), "either largest or count"),
        (lambda: uncorrelated(G, largest=1.5), "largest=1.5"),
        (lambda: principal_components(G, 16), "count=16"),
        (lambda: cur(np.ones((4, 3)), 1), "only 0 of 3"),
        (lambda: farthest_points(np.ones((4, 3)), 1), "not constant"),
        (lambda: principal_components(np.ones((4, 3)), 1), "0 independent directions"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
