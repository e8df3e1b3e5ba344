"""Neighbour search against ASE and against all images one by one."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from ase.neighborlist import primitive_neighbor_list
from hypothesis import given
from scipy.spatial import cKDTree

from bpjax.errors import CapacityError, StructureError
from bpjax.neighbors import bucket, neighbor_list, pair_list

SKEWED = np.array([[3.0, 0.0, 0.0], [2.5, 2.6, 0.0], [-1.2, 1.1, 3.1]])


def sites(n, seed=0, low=0.0, high=4.0):
    return np.random.default_rng(seed).uniform(low, high, (n, 3))


CASES = {
    "cubic": (sites(6), 6.0 * np.eye(3), True, 2.9),
    "cubic, cutoff longer than half the cell": (sites(5), 4.0 * np.eye(3), True, 3.9),
    "cubic, cutoff longer than twice the cell": (sites(2), 2.0 * np.eye(3), True, 4.7),
    "one atom, cubic": (np.array([[0.3, 9.1, -4.0]]), 2.5 * np.eye(3), True, 6.1),
    "one atom, primitive": (np.zeros((1, 3)), 2.0 * (1 - np.eye(3)), True, 5.1),
    "skewed": (sites(4), SKEWED, True, 4.1),
    "skewed, shorter than the cutoff": (sites(2), SKEWED, True, 7.3),
    "left-handed": (sites(4), SKEWED[[1, 0, 2]], True, 4.1),
    "left-handed by sign": (sites(4), SKEWED * [[1], [1], [-1]], True, 4.1),
    "flat": (sites(3), np.diag([12.0, 2.2, 2.1]), True, 4.3),
    "atoms outside the cell": (sites(5, low=-20, high=25), SKEWED * 1.4, True, 3.7),
    "slab with a third vector": (sites(5), np.diag([4.0, 4.0, 20.0]), (True, True, False), 3.9),
    "slab with a short third vector": (sites(5, high=9.0), np.diag([4.0, 4.0, 1.0]), (True, True, False), 3.9),
    "slab without a third vector": (
        sites(5),
        np.array([[4.0, 0.1, 0], [1.0, 3.5, 0], [0, 0, 0]]),
        (True, True, False),
        3.9,
    ),
    "tilted slab": (sites(5), np.array([[3.0, 1.0, 2.0], [0, 0, 0], [-1.0, 4.0, 0.5]]), (True, False, True), 4.4),
    "wire": (sites(4), np.diag([0.0, 3.0, 0.0]), (False, True, False), 5.2),
    "tilted wire": (sites(4), np.array([[1.0, 2.0, -1.5], [0, 0, 0], [0, 0, 0]]), (True, False, False), 5.2),
    "wire, other vectors given": (sites(4, high=9.0), SKEWED, (False, False, True), 4.4),
    "molecule": (sites(6), None, False, 2.5),
    "molecule with a cell": (sites(6, low=-3), SKEWED, False, 3.5),
    "molecule, all pairs": (sites(6), None, False, 50.0),
    "one atom, free": (np.array([[1.0, 2.0, 3.0]]), None, False, 5.0),
    "two atoms out of reach": (np.array([[0.0, 0, 0], [50.0, 0, 0]]), None, False, 5.0),
}


def every_image(R, cell, pbc, cutoff):
    """All pairs within the cutoff, from all images that could be near."""
    pbc = np.broadcast_to(pbc, 3)
    cell = np.zeros((3, 3)) if cell is None else np.where(pbc[:, None], cell, 0.0)
    reach = np.zeros(3, int)
    if pbc.any():
        spread = cutoff + np.linalg.norm(R.max(axis=0) - R.min(axis=0))
        # Rows of the pseudo-inverse are 1 / distance between lattice planes.
        reach[:] = np.ceil(spread * np.linalg.norm(np.linalg.pinv(cell), axis=0)) * pbc
    S = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    d = np.linalg.norm(R[None, :, None] + (S @ cell)[None, None] - R[:, None, None], axis=-1)
    d[:, :, (S == 0).all(axis=1)] += np.where(np.eye(len(R), dtype=bool), np.inf, 0.0)[:, :, None]
    i, j, s = np.nonzero(d < cutoff)
    return as_set(i, j, S[s])


def as_set(i, j, shift):
    pairs = [(int(a), int(b), *map(int, n)) for a, b, n in zip(i, j, shift, strict=True)]
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def check(R, cell, pbc, cutoff):
    i, j, shift = pair_list(R, cell, np.array(pbc), cutoff)
    found = as_set(i, j, shift)
    assert found == every_image(R, cell, pbc, cutoff)
    assert found == {(b, a, -x, -y, -z) for a, b, x, y, z in found}
    assert (np.diff(i) >= 0).all()
    return found


@pytest.mark.parametrize("name", CASES)
def test_equals_every_image(name):
    found = check(*CASES[name])
    if "out of reach" not in name and name != "one atom, free":
        assert found


@pytest.mark.parametrize("name", CASES)
def test_equals_ase(name):
    R, cell, pbc, cutoff = CASES[name]
    cell = np.zeros((3, 3)) if cell is None else cell
    theirs = primitive_neighbor_list("ijS", np.broadcast_to(pbc, 3), cell, R, cutoff, self_interaction=False)
    assert as_set(*pair_list(R, CASES[name][1], np.array(pbc), cutoff)) == as_set(*theirs)


@given(
    seed=st.integers(0, 10**6),
    atoms=st.integers(1, 4),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    cutoff=st.floats(0.5, 5.0),
    outside=st.booleans(),
)
def test_random_cells(seed, atoms, pbc, cutoff, outside):
    # Numbers from a seed: round ones would put atoms exactly at the cutoff, where either answer is right.
    random = np.random.default_rng(seed)
    cell = random.normal(size=(3, 3)) * random.uniform(1, 4, (3, 1))
    thinnest = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    cell *= max(1.0, 0.8 / thinnest.min())  # no less than 0.8 A between lattice planes, or there are 10^5 neighbours
    R = random.uniform(-8 if outside else 0, 8 if outside else 3, (atoms, 3))
    check(R, cell, pbc, cutoff + random.uniform(0, 1e-3))


@pytest.mark.parametrize("name", CASES)
def test_dense_list_holds_the_pairs(name):
    R, cell, pbc, cutoff = CASES[name]
    neighbors = neighbor_list(R, cell, np.array(pbc), cutoff, atoms=len(R) + 3)
    assert (neighbors.shift is None) == (not np.any(pbc))
    assert neighbors.idx.shape == neighbors.mask.shape and neighbors.idx.shape[0] == len(R) + 3
    assert not neighbors.mask[len(R) :].any()
    assert (neighbors.idx >= 0).all() and (neighbors.idx < len(R)).all()  # padding is a valid index
    i, k = np.nonzero(neighbors.mask)
    shift = np.zeros((len(i), 3), int) if neighbors.shift is None else neighbors.shift[i, k]
    assert as_set(i, neighbors.idx[i, k], shift) == every_image(R, cell, pbc, cutoff)
    # Real slots come first.
    assert (np.diff(neighbors.mask.astype(int), axis=1) <= 0).all()


def test_capacity():
    R, cell, pbc, cutoff = CASES["cubic"]
    counts = np.bincount(pair_list(R, cell, pbc, cutoff)[0])
    exact = neighbor_list(R, cell, pbc, cutoff, capacity=int(counts.max()))
    np.testing.assert_array_equal(exact.mask.sum(axis=1), counts)
    with pytest.raises(CapacityError, match=f"{counts.max()} neighbours .* capacity={counts.max() - 1}"):
        neighbor_list(R, cell, pbc, cutoff, capacity=int(counts.max()) - 1)
    with pytest.raises(CapacityError, match="atoms=5"):
        neighbor_list(R, cell, pbc, cutoff, atoms=5)


def test_buckets_are_a_ladder():
    sizes = [bucket(n) for n in range(3000)]
    assert all(size >= n for n, size in enumerate(sizes))
    assert sizes == sorted(sizes) and bucket(0) == bucket(8) == 8
    ladder = sorted(set(sizes))
    assert len(ladder) < 60
    assert all(bucket(size) == size for size in ladder)
    assert all(b <= 1.5 * a for a, b in itertools.pairwise(ladder))
    assert all(size % 8 == 0 for size in ladder if size > 64)


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (None, True),
        (np.zeros((3, 3)), True),
        (np.zeros((3, 3)), (True, False, False)),
        (np.diag([3.0, 3.0, 0.0]), True),
        (np.diag([3.0, 3.0, 0.0]), (False, False, True)),
        (np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 0.0, 5.0]]), True),
        (np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]), True),
        (np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 0.0, 5.0]]), (True, True, False)),
    ],
)
def test_cell_without_volume(cell, pbc):
    with pytest.raises(StructureError, match="volume"):
        pair_list(sites(2), cell, np.array(pbc), 3.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_cell_that_is_not_finite(bad):
    with pytest.raises(StructureError, match="not finite"):
        pair_list(sites(2), np.diag([3.0, 3.0, bad]), True, 3.0)
    check(sites(2), np.diag([3.0, 3.0, bad]), (True, True, False), 3.0)  # an open direction does not matter


def test_open_directions_of_a_flat_cell_do_not_matter():
    flat = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [8.0, 4.0, 0.0]])
    check(sites(4), flat, (True, True, False), 3.9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_position_that_is_not_a_number(bad):
    R = sites(3)
    R[1, 2] = bad
    for cell, pbc in ((4 * np.eye(3), True), (None, False)):
        with pytest.raises(StructureError, match="atom 1"):
            pair_list(R, cell, pbc, 3.0)


@pytest.mark.parametrize("L", [700.0, 3123.7, 1e5])
@pytest.mark.parametrize("pbc", [(1, 1, 0), (1, 0, 0), (0, 0, 0)], ids=["slab", "wire", "cluster"])
def test_wide_and_flat(L, pbc):
    """More bins than vesin can have, in a box that is thin: the process died. Against a tree of the atoms and their images."""
    rng = np.random.default_rng(0)
    R = rng.uniform(0, 1, (400, 3)) * [L, L, 10.0]
    R[200:] = R[:200] + 2 * rng.normal(size=(200, 3))
    cell, expected, own = np.diag([L, L, 30.0]), set(), cKDTree(R)
    for shift in itertools.product(*[(-1, 0, 1) if along else (0,) for along in pbc]):
        for i, near in enumerate(own.query_ball_tree(cKDTree(R + np.array(shift) @ cell), 6.0)):
            expected |= {(i, j, *shift) for j in near if i != j or any(shift)}
    i, j, shift = pair_list(R, cell, np.array(pbc, bool), 6.0)
    assert as_set(i, j, shift) == expected


def test_a_flat_periodic_cell_that_cannot_be_searched():
    with pytest.raises(StructureError, match=r"the cell, 1e\+05 x 1e\+05 x 30 A, is too wide and too flat"):
        pair_list(np.zeros((1, 3)), np.diag([1e5, 1e5, 30.0]), True, 6.0)
