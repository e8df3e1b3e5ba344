"""Folders as RuNNer writes them: other names of files, keywords of its own, comments after !, functions for all elements."""

import shutil

import jax
import numpy as np
import pytest

from bpjax.errors import FormatError
from bpjax.interop.n2p2 import read_potential, read_settings
from bpjax.io.structures import read_structures
from bpjax.potential.evaluator import Evaluator

INPUT = """\
### a toy potential, as RuNNer users write it
runner_mode 3
nn_type_short 1
number_of_elements 2
elements Ne Ar
random_number_type 5
use_short_nn
global_hidden_layers_short 1
global_nodes_short 2
global_activation_short t l
cutoff_type 1
points_in_memory 100
mix_all_points
fitting_unit eV
calculate_forces
"""

ONE_BY_ONE = """\
symfunction_short Ne 2 Ne 0.05 0.0 9.0   ! central type neighbour eta rshift cutoff
symfunction_short Ne 2 Ar 0.05 0.0 9.0
symfunction_short Ar 2 Ne 0.05 0.0 9.0
symfunction_short Ar 2 Ar 0.05 0.0 9.0
symfunction_short Ne 3 Ne Ne 0.01 1.0 2.0 9.0
symfunction_short Ne 3 Ne Ar 0.01 1.0 2.0 9.0
symfunction_short Ne 3 Ar Ar 0.01 1.0 2.0 9.0
"""

FOR_ALL = """\
global_symfunction_short 2 0.05 0.0 9.0
element_symfunction_short Ne 3 0.01 1.0 2.0 9.0  ! eta lambda zeta cutoff
"""


@pytest.fixture
def settings(tmp_path):
    def read(text):
        (tmp_path / "input.nn").write_text(text)
        return read_settings(tmp_path / "input.nn")

    return read


def test_functions_for_all_elements_are_those_written_one_by_one(settings):
    assert settings(INPUT + FOR_ALL) == settings(INPUT + ONE_BY_ONE)
    with pytest.raises(FormatError, match="line 23: the same symmetry function of Ne stands in line 16"):
        settings(INPUT + ONE_BY_ONE + "global_symfunction_short 2 0.05 0.0 9.0\n")
    with pytest.raises(FormatError, match="line 16: element_symfunction_short needs its central element and its type"):
        settings(INPUT + "element_symfunction_short Ne\n")


def test_unknown_keywords_are_named_all_at_once(settings):
    with pytest.raises(FormatError) as error:
        settings(INPUT + ONE_BY_ONE + "cutof_type 2\nqwerty 1\ncutof_type 3\n")
    assert "line 23: unknown keyword 'cutof_type'; did you mean cutoff_type?" in str(error.value)
    assert "unknown too are 'qwerty' (line 24)" in str(error.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("use_electrostatics", "use_electrostatics: electrostatic energies beside the networks are not supported"),
        ("use_vdw", "use_vdw: dispersion beside the networks are not supported"),
        ("cutoff_alpha 0.3", "cutoff_alpha is not alpha of cutoff_type; an inner radius is read there"),
        ("nn_type_short 2", "nn_type_short 2: only networks of atoms (nn_type_short 1) are supported"),
    ],
)
def test_what_changes_predictions_is_refused(settings, line, words):
    text = INPUT.replace("nn_type_short 1\n", "") if line.startswith("nn_type") else INPUT
    with pytest.raises(FormatError) as error:
        settings(text + ONE_BY_ONE + line + "\n")
    assert words in str(error.value)


def test_what_changes_nothing_is_read(settings):
    assert settings(INPUT + ONE_BY_ONE + "cutoff_alpha 0.0\nelectrostatic_type 1\n") == settings(INPUT + ONE_BY_ONE)


def test_energies_of_atoms_that_runner_would_not_add(settings):
    atoms = "atom_energy Ne -1.0\n"
    with pytest.warns(UserWarning, match="input.nn: has atom_energy without remove_atom_energies; they are added"):
        assert settings(INPUT + ONE_BY_ONE + atoms).atom_energy == (-1.0, 0.0)
    assert settings(INPUT + ONE_BY_ONE + atoms + "remove_atom_energies\n").atom_energy == (-1.0, 0.0)


@pytest.fixture
def neon(shared, tmp_path):
    """The folder of a case, in a place where it may be changed."""
    shutil.copytree(shared / "cases" / "runner_folder" / "ne", tmp_path / "ne")
    return tmp_path / "ne"


@pytest.mark.reference
def test_a_folder_of_runner_gives_what_n2p2_makes_of_it(shared, neon):
    """nnp-predict: -182.5673886886 eV, force on atom 0; with constants of another year, which differ by 8e-9."""
    (atoms,) = read_structures(shared / "cases" / "runner_folder" / "ne4.extxyz")
    (neon / "weights.010.data").rename(neon / "optweights.010.out")  # RuNNer's own name
    found = Evaluator(*read_potential(neon, "hartree-bohr"), "float64").evaluate(atoms)
    assert found.energy == pytest.approx(-182.5673886886, rel=1e-8)
    np.testing.assert_allclose(found.forces[0], [0.02151008, 0.01973986, 0.01875329], atol=1e-8)


def test_weights_that_differ_under_both_names(neon):
    shutil.copy(neon / "weights.010.data", neon / "optweights.010.out")
    expected = read_potential(neon, "hartree-bohr")[1]
    (neon / "optweights.010.out").write_text((neon / "weights.010.data").read_text().replace("1", "2", 1))
    with pytest.warns(
        UserWarning, match=r"weights\.010\.data is taken, as RuNNer does; optweights\.010\.out beside it differs"
    ):
        found = read_potential(neon, "hartree-bohr")[1]
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_mean_that_is_not_between_minimum_and_maximum(neon):
    lines = (neon / "scaling.data").read_text().splitlines()
    words = lines[0].split()
    (neon / "scaling.data").write_text("\n".join([" ".join([*words[:4], "1e3", *words[5:]]), *lines[1:]]))
    with pytest.raises(FormatError, match=r"scaling\.data: line 1: function 1 of Ne .*: the mean 1000 is not between"):
        read_potential(neon, "hartree-bohr")


def test_committees_under_both_names(neon):
    committee = neon.parent / "committee"
    for n in (1, 2):
        shutil.copytree(neon, committee / f"nnp-data-{n}")
    assert read_potential(committee, "hartree-bohr")[0].members == 2
    shutil.copytree(neon, committee / "nnp-1")
    with pytest.raises(FormatError, match="holds members of two committees"):
        read_potential(committee, "hartree-bohr")


def test_weights_that_say_that_they_belong_elsewhere(neon):
    path = neon / "weights.010.data"
    values = [line.split()[0] for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    places = [(0, j, 1, k) for j in (1, 2) for k in (1, 2, 3)] + [(1, k) for k in (1, 2, 3)]
    places += [(1, j, 2, 1) for j in (1, 2, 3)] + [(2, 1)]
    assert len(values) == len(places)
    rows = [
        f"{value} {'a' if len(place) == 4 else 'b'} {n} {' '.join(map(str, place))}"
        for n, (value, place) in enumerate(zip(values, places, strict=True), start=1)
    ]
    path.write_text("\n".join(rows))
    read_potential(neon, "hartree-bohr")
    first, second, *others = rows
    for changed, message in (
        (
            [first, rows[3], rows[2], second, *rows[4:]],
            "line 2: says a 4 0 2 1 1 behind the weight, but here stands a 2 0 1 1 2",
        ),
        ([first, second.replace(" a ", " A "), *others], "line 2: says A 2 0 1 1 2 behind"),
        ([first, second.replace(" 2 ", " 7 ", 1), *others], "line 2: says a 7 0 1 1 2 behind"),
        ([first, f"{second} 0.5", *others], "line 2: says a 2 0 1 1 2 0.5 behind"),
        ([first, " ".join(second.split()[:3]), *others], "line 2: says a 2 behind"),
        ([first, second.split()[0], *others], "line 2: says nothing behind"),
        (
            [first.split()[0], *rows[1:]],
            "line 2: says a 2 0 1 1 2 behind the weight, but here stands nothing but the number",
        ),
    ):
        path.write_text("\n".join(changed))
        with pytest.raises(FormatError, match=rf"weights\.010\.data: {message}"):
            read_potential(neon, "hartree-bohr")
