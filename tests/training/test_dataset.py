"""Batches hold every structure once, with the labels that it came with."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.errors import StructureError, UnknownSpeciesError
from bpjax.training.batches import balance
from bpjax.training.dataset import VOIGT, BatchPlan, build_dataset, targets
from tests.training.labelled import structures

ELEMENTS = ("Al", "Cu")


@pytest.mark.parametrize(
    ("sizes", "batch"),
    [([3, 1, 8, 2, 2, 5, 5], 3), ([4, 4, 4, 4], 8), ([1, 2, 3, 4, 5], 2), ([7], 1), ([9] * 3 + [1] * 40, 6)],
)
@pytest.mark.parametrize("with_blocks", [False, True])
def test_epoch_draws_every_structure_once(sizes, batch, with_blocks):
    sizes = np.array(sizes)
    blocks = sizes * (sizes - 1) if with_blocks else None
    plan = BatchPlan.of(sizes, batch, blocks)
    for drawn in [plan.epoch(0, epoch) for epoch in range(3)] + [plan.in_order()]:
        assert sorted(drawn[drawn >= 0].tolist()) == list(range(len(sizes)))
        assert drawn.shape == (plan.batches, len(plan.strata)) and drawn.shape[1] <= batch
        for size, capacity in zip((sizes, blocks), plan.capacity, strict=True):
            if size is not None:
                assert (np.where(drawn >= 0, size[drawn], 0).sum(axis=1) <= capacity).all()
    assert plan.waste == pytest.approx(1 - sum(sizes) / (plan.capacity[0] * plan.batches))
    if blocks is not None:
        assert plan.block_waste == pytest.approx(1 - sum(blocks) / (plan.capacity[1] * plan.batches))
    assert f"{100 * plan.waste:.1f} %" in plan.describe() and f"{sizes.min()} to {sizes.max()}" in plan.describe()


def test_batches_of_mixed_sizes_hold_little_padding_and_stay_random():
    # One large structure among many of unlike size: with a slot as large as the largest of its stratum, a third was padding.
    sizes = np.random.default_rng(0).choice([6, 22, 23, 24, 46, 94], 400, p=[0.25, 0.2, 0.2, 0.3, 0.04, 0.01])
    plan = BatchPlan.of(sizes, 8)
    assert plan.waste < 0.1
    together = np.zeros((400, 400), int)
    for epoch in range(60):
        for batch in plan.epoch(0, epoch):
            together[np.ix_(batch, batch)] += 1
    # Whom a structure of 24 atoms meets: in 60 epochs of 7 companions, many different ones, none nearly always.
    middle = np.flatnonzero(sizes == 24)
    np.fill_diagonal(together, 0)
    assert (together[middle] > 0).sum(axis=1).min() > 150
    assert together[middle].max() < 20


def test_balance_says_when_it_cannot():
    sizes = np.array([[5], [5], [1], [1]])
    start = np.array([[0, 1], [2, 3]])
    rng = np.random.default_rng(0)
    found = balance(start, sizes, np.array([6]), rng)
    assert sorted(sizes[found].sum(axis=(1, 2)).tolist()) == [6, 6]
    assert balance(start, sizes, np.array([5]), rng) is None


def test_epochs_differ_and_repeat():
    plan = BatchPlan.of(np.full(40, 4), 4)
    assert not np.array_equal(plan.epoch(0, 0), plan.epoch(0, 1))
    assert not np.array_equal(plan.epoch(0, 0), plan.epoch(1, 0))
    np.testing.assert_array_equal(plan.epoch(3, 5), plan.epoch(3, 5))


def test_layout_and_targets_carry_the_labels():
    frames = structures(9)
    frames[0].arrays["forces_weight"] = np.arange(len(frames[0])) / 2
    data = build_dataset(frames, ELEMENTS, 4.0, weights={"alloy": 2.5})
    plan = BatchPlan.of(data.sizes, 4)
    offsets = np.array([0.3, -0.7])
    for chosen in plan.epoch(1, 2):
        rows, layout = plan.layout(data, chosen)
        wanted = targets(data, offsets, chosen, rows, layout)
        for slot, n in enumerate(chosen):
            here = layout.real & (layout.structure == slot)
            if n < 0:
                assert not here.any() and wanted.weight[slot] == 0 and wanted.energy_mask[slot] == 0
                continue
            atoms = frames[n]
            symbols = atoms.get_chemical_symbols()
            offset = sum(offsets[ELEMENTS.index(s)] for s in symbols)
            assert wanted.energy[slot] == pytest.approx(atoms.get_potential_energy() - offset, abs=1e-5)
            np.testing.assert_allclose(wanted.forces[here], atoms.get_forces(), atol=1e-6)
            assert wanted.weight[slot] == (2.5 if atoms.info["config_type"] == "alloy" else 1.0)
            np.testing.assert_array_equal(wanted.forces_mask[here], atoms.arrays.get("forces_weight", 1.0))
            assert wanted.stress_mask[slot] == atoms.pbc.all()
            if atoms.pbc.all():
                np.testing.assert_allclose(wanted.stress[slot], atoms.get_stress(voigt=False)[VOIGT], atol=1e-6)
                assert layout.volume[slot] == pytest.approx(atoms.get_volume(), rel=1e-6)
            assert layout.atoms[slot] == len(atoms)


def test_missing_labels_are_masked():
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.5]])
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    data = build_dataset([atoms], ELEMENTS, 4.0)
    plan = BatchPlan.of(data.sizes, 1)
    rows, layout = plan.layout(data, np.array([0]))
    wanted = targets(data, np.zeros(2), np.array([0]), rows, layout)
    assert wanted.energy_mask[0] == 1
    assert not wanted.forces_mask.any() and not wanted.stress_mask.any()
    assert np.isfinite(wanted.forces).all() and np.isfinite(wanted.stress).all()


def test_bad_structures_are_named():
    bare = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.5]])
    with pytest.raises(StructureError, match=r"set\.xyz: frame 7: .*neither energy nor forces"):
        build_dataset([bare], ELEMENTS, 4.0, sources=[("set.xyz", 7)])
    with pytest.raises(UnknownSpeciesError, match=r"set\.xyz: frame 0.*Cu.*Al"):
        build_dataset(structures(1), ("Al",), 4.0, sources=[("set.xyz", 0)])
    with pytest.raises(StructureError, match="no structures"):
        build_dataset([], ELEMENTS, 4.0)
    heavy = structures(1)
    heavy[0].info["weight"] = -1.0
    with pytest.raises(StructureError, match="weight: -1.0: must be finite and at least 0"):
        build_dataset(heavy, ELEMENTS, 4.0)
    for weights, message in ((np.full(len(bare), -0.5), "at least 0"), (np.ones((len(bare), 3)), "each of 2 atoms")):
        bare.calc = SinglePointCalculator(bare, energy=1.0)
        bare.arrays["forces_weight"] = weights
        with pytest.raises(StructureError, match=rf"set\.xyz: frame 3: forces_weight: .*{message}"):
            build_dataset([bare], ELEMENTS, 4.0, sources=[("set.xyz", 3)])
