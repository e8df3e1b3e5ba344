"""RuNNer and n2p2 data files: any text, writing, and real files."""

import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from hypothesis import assume, given
from hypothesis import strategies as st

from bpjax.errors import BpjaxError, ConfigError, FormatError, StructureError
from bpjax.io.checks import check_structure
from bpjax.io.labels import labels, require_labels
from bpjax.io.runner import read_runner
from bpjax.io.runner_writer import write_runner
from bpjax.io.structures import read_structures, write_structures
from bpjax.units import BOHR, HARTREE, SYSTEMS
from tests.io.runner_text import TEXT, assert_same, read

# ---------------------------------------------------------------------------------------- any text


def survives(folder, data: bytes):
    path = folder / "fuzz.data"
    path.write_bytes(data)
    for units in SYSTEMS:
        try:
            frames = read_structures(path, units=units)
        except (FormatError, StructureError) as error:
            assert "\n" not in str(error) and str(error).startswith(str(path))
            continue
        for frame, atoms in enumerate(frames):
            check_structure(atoms, path, frame)
        write_runner(folder / "again.data", frames, units)
        for a, b in zip(read_runner(folder / "again.data", units), frames, strict=True):
            b.info.setdefault("charge", 0.0)
            assert_same(a, b, rtol=1e-15)


WORDS = st.sampled_from(
    "begin end atom lattice energy charge comment set=train # H Si X 0 0.0 -1.5 1e9 1e308 1e-308 1D0 nan inf 1_0 x \n".split(
        " "
    )
)


@given(
    st.one_of(st.binary(max_size=300), st.text().map(str.encode), st.lists(WORDS).map(lambda w: " ".join(w).encode()))
)
def test_any_text_after_begin_is_read_or_refused(tmp_path_factory, data):
    survives(tmp_path_factory.getbasetemp(), b"begin\natom 0 0 0 H 0 0 0 0 0\n" + data)
    survives(tmp_path_factory.getbasetemp(), b"begin\n" + data + b"\nend")
    survives(tmp_path_factory.getbasetemp(), data)


@given(st.data())
def test_changed_words_are_read_or_refused(tmp_path_factory, data):
    words = re.findall(r"\S+|\n", TEXT)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(words) - 1))
        words[at : at + data.draw(st.integers(0, 2))] = [data.draw(WORDS)]
    survives(tmp_path_factory.getbasetemp(), " ".join(words).encode())


@given(st.integers(0, len(TEXT)), st.integers(0, 10), st.binary(max_size=5))
def test_changed_bytes_are_read_or_refused(tmp_path_factory, at, length, new):
    data = TEXT.encode()
    survives(tmp_path_factory.getbasetemp(), data[:at] + new + data[at + length :])


@given(st.integers(0, len(TEXT) - 1))
def test_truncated_files_never_give_a_broken_structure(tmp_path_factory, length):
    folder = tmp_path_factory.getbasetemp()
    whole = read(folder, TEXT)
    try:
        frames = read(folder, TEXT[:length])
    except FormatError:
        return
    for a, b in zip(frames, whole, strict=False):
        assert_same(a, b)


# ---------------------------------------------------------------------------------------- writing

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: x + 0.0)


@st.composite
def structures(draw) -> Atoms:
    count = draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    atoms = Atoms(draw(st.lists(st.sampled_from(("H", "O", "Si", "Og")), min_size=count, max_size=count)))
    atoms.positions = random.normal(size=(count, 3)) * 10 ** random.uniform(-1, 3)
    if draw(st.booleans()):
        atoms.set_cell(random.normal(size=(3, 3)) * 10 ** random.uniform(0.5, 3))
        atoms.pbc = True
    results = {}
    if draw(st.booleans()):
        results["energy"] = draw(NUMBERS)
    if results or draw(st.booleans()):
        results["forces"] = random.normal(size=(count, 3)) * 10 ** random.uniform(-10, 3)
    if draw(st.booleans()):
        atoms.set_initial_charges(random.normal(size=count))
    if draw(st.booleans()):
        atoms.set_array("runner_unused", random.normal(size=count))
    atoms.info["charge"] = draw(NUMBERS)
    if draw(st.booleans()):
        atoms.info["set"] = draw(st.sampled_from(("train", "test")))
    lines = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n")), min_size=1, max_size=3)
    comment = "\n".join(line.strip(" \t\v\f") for line in draw(lines))
    if comment:
        atoms.info["comment"] = comment
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.mark.parametrize(("units", "rtol"), [("ev-angstrom", 0.0), ("hartree-bohr", 1e-15)])
@given(frames=st.lists(structures(), min_size=1, max_size=3))
def test_written_structures_return(tmp_path_factory, units, rtol, frames):
    for atoms in frames:
        try:
            check_structure(atoms)
        except StructureError:
            assume(False)
    path = tmp_path_factory.getbasetemp() / "round.data"
    assert write_runner(path, frames, units) == []
    for a, b in zip(read_structures(path, units=units), frames, strict=True):
        assert_same(a, b, rtol)


def test_labels_survive_conversion_from_and_to_extended_xyz(tmp_path):
    frames = read(tmp_path, TEXT, "hartree-bohr")
    write_structures(tmp_path / "a.extxyz", frames)
    found = read_structures(tmp_path / "a.extxyz")
    assert write_runner(tmp_path / "b.data", found, "hartree-bohr") == []
    for a, b in zip(read_runner(tmp_path / "b.data", "hartree-bohr"), frames, strict=True):
        np.testing.assert_allclose(labels(a).energy, labels(b).energy, rtol=1e-12)
        np.testing.assert_allclose(labels(a).forces, labels(b).forces, rtol=1e-12)
        np.testing.assert_allclose(a.positions, b.positions, rtol=1e-12)
        np.testing.assert_allclose(a.get_initial_charges(), b.get_initial_charges(), rtol=1e-12)
        assert a.info["charge"] == b.info.get("charge", 0.0) and a.info.get("set") == b.info.get("set")


def test_structures_without_labels_stay_so(tmp_path):
    path = tmp_path / "a.data"
    assert write_runner(path, molecule("H2O"), "hartree-bohr") == []
    assert "energy" not in path.read_text()
    assert all(len(line.split()) == 10 for line in path.read_text().splitlines() if "atom" in line)  # n2p2 needs them
    with pytest.raises(StructureError, match="energy: missing"):
        require_labels(read_runner(path, "hartree-bohr"), path)


def test_losses_are_told(tmp_path):
    plain, rich = bulk("Cu"), bulk("Cu")
    rich.set_tags([1])
    rich.set_momenta([[1, 0, 0]])
    rich.set_constraint(FixAtoms([0]))
    rich = rich.repeat((2, 1, 1))
    rich.set_constraint(FixAtoms([0]))
    rich.info.update(config_type="bulk", set="validation")
    rich.calc = SinglePointCalculator(rich, energy=1.0, free_energy=1.0, stress=np.ones(6), charges=[0.5, 0.5])
    lonely = Atoms("H", cell=[5, 5, 5])
    lonely.set_initial_charges([0.5])
    with pytest.raises(
        StructureError, match="frame 1: forces: missing beside an energy; the zeros that would be written"
    ):
        write_runner(tmp_path / "a.data", [plain, rich, lonely], "ev-angstrom")
    with pytest.raises(ConfigError, match="missing_forces: 'none' is neither"):
        write_runner(tmp_path / "a.data", [plain], "ev-angstrom", missing_forces="none")
    remarks = write_runner(tmp_path / "a.data", [plain, rich, lonely], "ev-angstrom", missing_forces="zeros")
    named = [remark.split(":")[0] for remark in remarks]
    assert named == [
        "cell that is not periodic", "config_type", "constraints", "forces", "momenta", "set", "stress", "tags",
    ]  # fmt: skip
    assert remarks[1] == (
        "config_type: not written, RuNNer files cannot hold it (1 of 3 structures, the first is frame 1)"
    )
    assert "zeros written" in remarks[3]
    found = read_runner(tmp_path / "a.data", "ev-angstrom")
    assert found[1].get_initial_charges().tolist() == [0.5, 0.5] and labels(found[1]).forces.tolist() == [[0.0] * 3] * 2


def test_calculated_charges_go_before_initial_ones(tmp_path):
    atoms = Atoms("H")
    atoms.set_initial_charges([1.0])
    atoms.calc = SinglePointCalculator(atoms, charges=[0.25])
    (remark,) = write_runner(tmp_path / "a.data", atoms, "ev-angstrom")
    assert remark.startswith("initial_charges: not written")
    assert read_runner(tmp_path / "a.data", "ev-angstrom")[0].get_initial_charges().tolist() == [0.25]


def test_results_for_other_positions_are_not_written(tmp_path):
    atoms = Atoms("H")
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, charges=[0.25])
    atoms.positions += 1.0
    write_runner(tmp_path / "a.data", atoms, "ev-angstrom")
    (found,) = read_runner(tmp_path / "a.data", "ev-angstrom")
    assert found.calc is None and not found.has("initial_charges")


def refused(name: str) -> Atoms:
    atoms = Atoms("H", cell=[5, 5, 5], pbc=True)
    if name == "pbc":
        atoms.pbc = [True, True, False]
    elif name == "positions":
        atoms.positions[0, 0] = np.nan
    elif name == "charge":
        atoms.info["charge"] = "none"
    elif name == "charges":
        atoms.set_initial_charges([np.inf])
    else:
        atoms.arrays["runner_unused"] = np.array([["a"]])
    return atoms


@pytest.mark.parametrize("name", ["pbc", "positions", "charge", "charges", "runner_unused"])
def test_what_cannot_be_written_is_refused_by_name(tmp_path, name):
    path = tmp_path / "a.data"
    path.write_text("before")
    with pytest.raises(StructureError, match=f"^frame 1: {name}: "):
        write_runner(path, [bulk("Cu"), refused(name)], "ev-angstrom")
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_mixed_periodicity_names_the_axes_and_nothing_is_not_written(tmp_path):
    with pytest.raises(StructureError, match="is periodic along a and b only"):
        write_runner(tmp_path / "a.data", refused("pbc"), "ev-angstrom")
    with pytest.raises(StructureError, match="no structures to write"):
        write_runner(tmp_path / "a.data", [], "ev-angstrom")
    with pytest.raises(BpjaxError, match="cannot write"):
        write_runner(tmp_path / "none" / "a.data", bulk("Cu"), "ev-angstrom")


# ---------------------------------------------------------------------------------------- real files


@pytest.mark.reference
def test_reference_cases(shared):
    folders = sorted(path.parent for path in (shared / "reference" / "n2p2").glob("*/input.data"))
    assert len(folders) == 37
    for folder in folders:
        arrays = np.load(folder / "reference.npz")
        frames = read_structures(folder / "input.data", units="ev-angstrom")
        assert len(frames) == sum(name.endswith("_positions") for name in arrays.files)
        for i, atoms in enumerate(frames):
            periodic = f"s{i}_lattice" in arrays
            assert atoms.pbc.tolist() == [periodic] * 3
            # n2p2 moves atoms into the cell.
            moved = atoms.get_positions(wrap=True, eps=0) if periodic else atoms.positions
            np.testing.assert_allclose(moved, arrays[f"s{i}_positions"], rtol=1e-13, atol=1e-13)
            if periodic:
                np.testing.assert_array_equal(atoms.cell.array, arrays[f"s{i}_lattice"])
            elements = arrays[f"s{i}_elements"].tolist()
            assert elements in (atoms.get_chemical_symbols(), atoms.numbers.tolist())
            assert atoms.info == {"comment": "synthetic", "charge": 0.0} and labels(atoms).energy == 0.0


REAL = {
    # structures, atoms of the first one, units
    "Carbon_chain_4G": (1, 12, "hartree-bohr"),
    "Cu2S_PBE": (1, 144, "ev-angstrom"),
    "H2O_RPBE-D3": (1, 1080, "hartree-bohr"),
    "train_Carbon_chain_4G": (128, 12, "hartree-bohr"),
    "train_H2O_RPBE-D3": (20, 192, "hartree-bohr"),
    "train_LJ": (101, 2, "ev-angstrom"),
}


@pytest.mark.reference
@pytest.mark.parametrize("name", REAL)
def test_files_of_n2p2(shared, tmp_path, name):
    count, atoms, units = REAL[name]
    paths = sorted((shared / "data" / "n2p2" / name).glob("*put.data"))
    assert paths
    for path in paths:
        frames = read_structures(path, units=units)
        assert (len(frames), len(frames[0])) == (count, atoms)
        require_labels(frames, path)
        assert write_runner(tmp_path / "a.data", frames, units) == []
        for a, b in zip(read_structures(tmp_path / "a.data", units=units), frames, strict=True):
            b.info.setdefault("charge", 0.0)
            assert_same(a, b, 1e-15)


@pytest.mark.reference
def test_labels_of_real_files(shared):
    folder = shared / "data" / "n2p2"
    ((given,), (found,)) = (
        read_structures(folder / "Cu2S_PBE" / f"{name}.data", units="ev-angstrom") for name in ("input", "output")
    )
    assert labels(given).energy == -573.700369
    np.testing.assert_array_equal(labels(given).forces[0], [-0.125331, 0.028415, 0.031193])
    assert given.info == {"comment": "source_file_name=OUTCAR_0_1", "charge": 0.0}
    predicted = np.load(folder / "Cu2S_PBE" / "repo_reference.npz")
    np.testing.assert_allclose(labels(found).energy, predicted["energy"], rtol=1e-12)
    np.testing.assert_allclose(labels(found).forces, predicted["forces"], rtol=0, atol=1e-11)
    water = read_structures(folder / "train_H2O_RPBE-D3" / "input.data", 0, "hartree-bohr")[0]
    np.testing.assert_allclose(water.cell.lengths(), 24.623508 * BOHR, rtol=1e-15)
    np.testing.assert_allclose(labels(water).energy, -4900.14395256 * HARTREE, rtol=1e-3)
    assert water.get_initial_charges()[0] < 0 and water.symbols[0] == "O"
    dimers = read_structures(folder / "train_LJ" / "input.data", units="ev-angstrom")
    assert dimers[0].info["comment"].startswith("r =   1.00000000E+00, E =")
