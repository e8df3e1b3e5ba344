"""input.nn: what is understood, and what is said about the rest."""

import dataclasses
import itertools
from dataclasses import replace

import numpy as np
import pytest

from bpjax.descriptors import SymmetryFunction
from bpjax.errors import FormatError
from bpjax.interop.n2p2 import read_settings, settings_text, sort_key, sorted_functions
from bpjax.interop.n2p2.functions import function_text, parse_function
from bpjax.interop.n2p2.lines import Line, read_lines
from bpjax.interop.n2p2.shapes import LETTERS
from bpjax.networks import MLP
from tests.interop.n2p2.example import INPUT


@pytest.fixture
def read(tmp_path):
    def _read(text):
        (tmp_path / "input.nn").write_bytes(text.encode() if isinstance(text, str) else text)
        return read_settings(tmp_path / "input.nn")

    return _read


def test_everything_is_found_and_in_order(read):
    s = read(INPUT)
    assert s.elements == ("H", "C", "O")
    assert s.atom_energy == (-0.5, -37.8, -74.9)
    assert (s.cutoff_kind, s.cutoff_inner) == ("poly2", 0.25)
    assert (s.scaling, s.scale_min, s.scale_max) == ("scale_center", -1.0, 1.0)
    assert s.networks == (MLP((3, 2), ("tanh", "softplus")),) * 3
    assert (s.normalize_nodes, s.mean_energy, s.conv_energy, s.conv_length) == (False, 0.0, 1.0, 1.0)
    H, C, O = s.functions
    assert H == (
        SymmetryFunction(2, 6.0, ("H",), eta=0.02),
        SymmetryFunction(2, 6.0, ("O",), eta=0.02),
        SymmetryFunction(3, 6.0, ("H", "O"), eta=0.01, lam=1.0, zeta=2.0),
        SymmetryFunction(9, 6.0, ("H", "H"), eta=0.01, lam=-1.0, zeta=1.5, r_s=0.8),
    )
    assert C == (
        SymmetryFunction(23, 6.0, r_l=0.5, core="p3a"),
        SymmetryFunction(24, 6.0, r_l=0.5, angles=(-90.0, 90.0), core="p4"),
    )
    assert O == (
        SymmetryFunction(12, 6.0, eta=0.2, r_s=1.0),
        SymmetryFunction(13, 6.0, eta=0.05, r_s=0.5, lam=-1.0, zeta=3.0),
        SymmetryFunction(20, 6.0, ("C",), r_l=-6.0, core="p2"),
        SymmetryFunction(21, 6.0, ("H", "C"), r_l=0.5, angles=(40.0, 160.0), core="e"),
    )


def test_line_ends_blanks_and_encodings_do_not_matter(read):
    expected = read(INPUT)
    assert read(INPUT.replace("\n", "\r\n")) == expected
    assert read("\ufeff" + INPUT + "\n\n  \n\t\n") == expected
    assert read(INPUT.rstrip()) == expected
    assert read(b"# \xe9\xff\n" + INPUT.encode()) == expected


def test_order_of_lines_does_not_matter(read):
    lines = INPUT.splitlines()
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(lines)
        assert read("\n".join(shuffled)) == read(INPUT)


@pytest.mark.parametrize(
    ("old", "new", "field", "value"),
    [
        ("cutoff_type 6 0.25", "cutoff_type 6", "cutoff_inner", 0.0),
        ("cutoff_type 6 0.25", "cutoff_type 2 0.25", "cutoff_inner", 0.0),  # tanh3 takes no heed of it
        ("cutoff_type 6 0.25", "cutoff_type 0", "cutoff_kind", "hard"),
        ("cutoff_type 6 0.25", "cutoff_type 8.0", "cutoff_kind", "poly4"),
        ("center_symmetry_functions\n", "", "scaling", "scale"),
        ("\nscale_symmetry_functions\n", "\n", "scaling", "center"),
        ("center_symmetry_functions\nscale_symmetry_functions\n", "", "scaling", "none"),
        ("center_symmetry_functions\nscale_symmetry_functions\n", "scale_symmetry_functions_sigma\n", "scaling", "sigma"),
        ("scale_min_short -1\n", "", "scale_min", 0.0),
        ("epochs 10", "normalize_nodes\nepochs 10", "normalize_nodes", True),
        ("epochs 10", "mean_energy -2\nconv_energy 3.5\nconv_length 1\nepochs", "conv_energy", 3.5),
        ("epochs 10", "nnp_type 2\nfixed_gausswidth H 2.0\nepochs", "mean_energy", 0.0),
        ("epochs 10", "nnp_gen 2G-HDNNP\newald_prec 1.0\nepochs", "mean_energy", 0.0),
        ("atom_energy H -0.5\natom_energy O -7.49D+1\natom_energy C -37.8\n", "", "atom_energy", (0.0,) * 3),
        ("atom_energy C -37.8\n", "", "atom_energy", (-0.5, 0.0, -74.9)),
        ("epochs 10", "element_nodes_short C 1 4\nelement_activation_short C 3 h\nepochs", "networks",
         (MLP((3, 2), ("tanh", "softplus")), MLP((4, 2), ("tanh", "softplus"), "harmonic"),
          MLP((3, 2), ("tanh", "softplus")))),
        ("epochs 10", "element_hidden_layers_short O 1\nelement_nodes_short O 1 4\nelement_activation_short O 1 g\nepochs",
         "networks", (MLP((3, 2), ("tanh", "softplus")),) * 2 + (MLP((4,), "gaussian"),)),
    ],
)  # fmt: skip
def test_other_choices(read, old, new, field, value):
    assert old in INPUT
    found = read(INPUT.replace(old, new))
    assert getattr(found, field) == value
    again = read(settings_text(found))  # how n2p2 takes widths of single elements depends on how they are written
    assert dataclasses.replace(again, networks_in_n2p2=()) == dataclasses.replace(found, networks_in_n2p2=())


@pytest.mark.parametrize("letter", "ltsprgcSeh")
def test_activations(read, letter):
    found = read(INPUT.replace("t p l", f"{letter} {letter} {letter}"))
    assert found.networks[0] == MLP((3, 2), LETTERS[letter], LETTERS[letter])
    assert read(settings_text(found)) == found


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cutoff_type", "cutof_type", "line 8: unknown keyword 'cutof_type'; did you mean cutoff_type?"),
        ("epochs 10", "qwertyuiop 10", "line 16: unknown keyword 'qwertyuiop'"),
        ("elements O\tH C", "elements O H", "line 3: lists 2 elements, but number_of_elements in line 2 says 3"),
        ("elements O\tH C", "elements O H H", "line 3: an element is listed twice"),
        ("elements O\tH C", "elements O H Xx", "line 3: not a chemical symbol: 'Xx'"),
        ("number_of_elements 3", "number_of_elements three", "line 2: expected the number of elements, found 'three'"),
        ("number_of_elements 3", "number_of_elements 2.5", "line 2: expected the number of elements (1 to 118), found '2.5'"),
        ("number_of_elements 3", "elements", "line 3: elements was already given in line 2"),
        ("number_of_elements 3", "", "number_of_elements is missing"),
        ("number_of_elements 3", "number_of_elements 3 4",
         "line 2: number_of_elements takes 1 value, found 2 (comments begin with #)"),
        ("atom_energy C", "atom_energy N", "line 6: element 'N' is not among the elements H, C, O"),
        ("atom_energy C", "atom_energy H", "line 6: atom_energy of H was already given in line 4"),
        ("atom_energy C -37.8", "atom_energy C", "line 6: atom_energy takes an element and an energy, found 1 value"),
        ("-37.8", "nan", "line 6: expected an energy, found 'nan'"),
        ("-37.8", "1e999", "line 6: expected an energy, found '1e999'"),
        ("-37.8", "1_0", "line 6: expected an energy, found '1_0'"),
        ("cutoff_type 6 0.25", "cutoff_type 9", "line 8: expected the type of the cutoff function (0 to 8), found '9'"),
        ("cutoff_type 6 0.25", "cutoff_type 6 1.0", "line 8: alpha=1 must be at least 0 and less than 1"),
        ("cutoff_type 6 0.25", "cutoff_type 2 -0.1", "line 8: alpha=-0.1 must be"),
        ("cutoff_type 6 0.25", "", "cutoff_type is missing"),
        ("epochs 10", "cutoff_type 1\nepochs", "line 16: cutoff_type was already given in line 8"),
        ("epochs 10", "scale_symmetry_functions_sigma\nepochs",
         "line 16: scale_symmetry_functions_sigma (which also centers) cannot be combined with center_symmetry_functions"),
        ("scale_symmetry_functions\n", "scale_symmetry_functions 1\n", "line 10: scale_symmetry_functions takes no value"),
        ("scale_min_short -1", "scale_min_short 1", "line 12: scale_min_short=1 must be less than scale_max_short=1"),
        ("global_hidden_layers_short 2", "global_hidden_layers_short 3",
         "line 14: one width for each of the 3 hidden layers is needed, found 2"),
        ("global_hidden_layers_short 2", "global_hidden_layers_short 1e9", "line 13: expected the number of hidden layers"),
        ("global_hidden_layers_short 2\n", "", "line 13: global_nodes_short without global_hidden_layers_short"),
        ("global_nodes_short 3 2\n", "", "layer 1 of H: global_nodes_short (or that of the element) is missing"),
        ("global_nodes_short 3 2", "global_nodes_short 3 0", "line 14: expected the number of nodes of a layer"),
        ("global_activation_short t p l\n", "", "layer 1 of H: global_activation_short (or that of the element) is missing"),
        ("t p l", "t p", "line 15: 3 activations are needed, of the 2 hidden layers and the output, found 2"),
        ("t p l", "t T l", "line 15: unknown activation 'T'; known are l linear, t tanh"),
        ("epochs 10", "element_nodes_short C 3 4\nepochs", "line 16: expected the layer, of 2 of C, (1 to 2), found '3'"),
        ("epochs 10", "element_nodes_short C 5\nepochs", "line 16: element_nodes_short takes 3 values, found 2"),
        ("epochs 10", "element_nodes_short N 1 5\nepochs", "line 16: element 'N' is not among the elements"),
        ("epochs 10", "element_nodes_short C 1 5\nelement_nodes_short C 1 5\nepochs",
         "line 17: element_nodes_short of layer 1 of C was already given in line 16"),
        ("epochs 10", "element_hidden_layers_short C 3\nepochs", "layer 1 of C: global_nodes_short (or that of"),
        ("epochs 10", "mean_energy 1\nconv_length 1\nepochs", "line 16: mean_energy is given without conv_energy"),
        ("epochs 10", "mean_energy 1\nconv_energy 0\nconv_length 1\nepochs", "line 17: conv_energy=0 must be positive"),
        ("epochs 10", "ewald_prec 1\nnnp_generation 4\nepochs",
         "line 17: nnp_generation 4: potentials of generation 4, with charge equilibration, are not supported"),
        ("epochs 10", "unheard_of 1\nnnp_type 3G-HDNNP\nepochs", "line 17: nnp_type 3G-HDNNP: potentials of generation 3"),
        ("epochs 10", "nnp_type 5\nepochs", "line 16: nnp_type takes one value, 2 for a short-range potential; found '5'"),
        ("H 2 O 0.02 0.0 6.0", "H", "line 17: a symmetry function needs its central element and its type"),
        ("H 2 O 0.02 0.0 6.0", "N 2 O 0.02 0.0 6.0", "line 17: element 'N' is not among the elements H, C, O"),
        ("H 2 O 0.02 0.0 6.0", "H 2 N 0.02 0.0 6.0", "line 17: element 'N' is not among the elements H, C, O"),
        ("H 2 O 0.02 0.0 6.0", "H 2 0.02 0.0 6.0",
         "line 17: type 2 needs <element> <eta> <r_s> <cutoff> after the type, found 3 values"),
        ("H 2 O 0.02 0.0 6.0", "H 4 O 0.02 0.0 6.0", "line 17: symmetry functions of type 4 are not known; known are 2, 3, 9"),
        ("H 2 O 0.02 0.0 6.0", "H two O 0.02 0.0 6.0", "line 17: expected the type of the symmetry function, found 'two'"),
        ("H 2 O 0.02 0.0 6.0", "H 2 O 0.02 0.0 -6.0",
         "line 17: symmetry function of type 2: cutoff=-6.0 must be positive"),
        ("H 2 O 0.02 0.0 6.0", "H 2 O 0.02 x 6.0", "line 17: expected the shift r_s, found 'x'"),
        ("H 2 O 0.02 0.0 6.0", "H 2 H 2d-2 0 6",
         "line 18: the same symmetry function of H stands in line 17"),
        ("H 2 O 0.02 0.0 6.0", "H 3 H O 0.01 1 2 6.0 0",
         "line 19: the same symmetry function of H stands in line 17"),
        ("O 20 C -6.0 6.0 p2", "O 20 C -6.0 6.0 p5", "line 23: symmetry function of type 20: core='p5', allowed are p1"),
        ("40 160", "160 40", "line 24: symmetry function of type 21: angles 160 to 40 must be increasing"),
        ("symfunction_short C", "symfunction_short O", "element C has no symmetry functions"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(read, tmp_path, old, new, message):
    assert old in INPUT
    with pytest.raises(FormatError) as caught:
        read(INPUT.replace(old, new))
    assert str(caught.value).startswith(f"{tmp_path}/input.nn: {message}"), str(caught.value)


@pytest.mark.parametrize(
    ("line", "behind", "r_s"), [("H 2 O 0.02 0.5 6.0", "for water", 0.5), ("H 3 H O 0.01 1 2 6.0", "for water", 0.0),
                                ("H 3 H O 0.01 1 2 6.0 5d-1", "", 0.5), ("H 3 H O 0.01 1 2 6.0 5d-1", "for water", 0.5)]
)  # fmt: skip
def test_words_behind_a_function_are_a_comment(line, behind, r_s):
    words = ("symfunction_short", *line.split(), *behind.split())
    element, function = parse_function(Line("input.nn", 1, words), ("H", "C", "O"))
    assert element == "H" and function.r_s == r_s and function.cutoff == 6.0


def test_missing_and_empty_files(read, tmp_path):
    with pytest.raises(FormatError, match=r"none\.nn: no such file"):
        read_settings(tmp_path / "none.nn")
    with pytest.raises(FormatError, match=r"input\.nn: is empty"):
        read("# nothing\n\n")
    with pytest.raises(FormatError):
        read_settings(tmp_path)


def test_written_settings_return(read):
    expected = read(INPUT)
    text = settings_text(expected, ["Units: hartree, bohr."])
    assert text.startswith("# Units: hartree, bohr.\n")
    assert read(text) == expected
    assert "0.01 1.0 2.0 6.0\n" in text  # without a shift of zero, which not all programs know


def test_keys_differ_where_functions_differ():
    f = SymmetryFunction(3, 6.0, ("H", "O"), eta=0.1, zeta=2.0, lam=1.0)
    ordered = [
        SymmetryFunction(2, 8.0, ("O",), eta=0.5),
        SymmetryFunction(3, 5.0, ("O", "O"), eta=0.9),
        SymmetryFunction(3, 6.0, ("H", "O"), eta=0.05, zeta=4.0),
        SymmetryFunction(3, 6.0, ("H", "O"), eta=0.1, zeta=1.0),
        SymmetryFunction(3, 6.0, ("O", "O"), eta=0.1, zeta=2.0, lam=-1.0),
        SymmetryFunction(3, 6.0, ("H", "H"), eta=0.1, zeta=2.0, lam=1.0),
        f,
        SymmetryFunction(3, 6.0, ("H", "O"), eta=0.1, r_s=0.1),
        SymmetryFunction(20, 9.0, ("H",), core="e"),
        SymmetryFunction(20, 9.0, ("H",), core="p1"),
        SymmetryFunction(20, 5.0, ("O",), r_l=1.0, core="p1"),
        SymmetryFunction(21, 6.0, ("H", "O"), angles=(0.0, 90.0), core="p1"),
        SymmetryFunction(21, 6.0, ("H", "O"), angles=(0.0, 120.0), core="p1"),
    ]
    for shift in range(len(ordered)):
        assert list(sorted_functions(ordered[shift:] + ordered[:shift], ("O", "H"))) == ordered
    assert all(sort_key(a, ("H", "O")) < sort_key(b, ("H", "O")) for a, b in itertools.pairwise(ordered))


@pytest.mark.reference
def test_order_is_that_of_n2p2(shared):
    cases = sorted((shared / "reference" / "n2p2").glob("*/input.nn"))
    assert len(cases) == 37
    for path in cases:
        settings = read_settings(path)
        lines = {line.number: line for line in read_lines(path)}
        reference = np.load(path.parent / "reference.npz")
        for element, functions in zip(settings.elements, settings.functions, strict=True):
            # The last word of n2p2's table is the line of the function in input.nn.
            numbers = [int(text.split()[-1]) for text in reference[f"symfunc_lines_{element}"]]
            expected = [parse_function(lines[n], settings.elements) for n in numbers]
            assert [(element, replace(f, core_jk="")) for f in functions] == expected, path


@pytest.mark.reference
def test_published_files_are_read_and_return(shared, read):
    names = ["n2p2/Cu2S_PBE", "n2p2/H2O_RPBE-D3", "n2p2/train_H2O_RPBE-D3", "n2p2/train_LJ"]
    for name in [*names, *(f"mlearn_nnp/{element}" for element in ("Cu", "Li", "Si"))]:
        settings = read_settings(shared / "data" / name / "input.nn")
        assert read(settings_text(settings)) == settings
    with pytest.raises(FormatError, match=r"line 10: nnp_generation 4: .* charge equilibration, are not supported"):
        read_settings(shared / "data" / "n2p2" / "Carbon_chain_4G" / "input.nn")


def test_text_of_a_function():
    assert function_text("H", SymmetryFunction(9, 6.0, ("H", "O"), eta=0.1, zeta=2.0, lam=-1.0, r_s=0.3)).split() == (
        "H 9 H O 0.1 -1.0 2.0 6.0 0.3".split()
    )


def test_functions_of_type_24_share_the_core_of_the_third_distance(read):
    lines = [f"symfunction_short C 24 0.5 {r_c} -90.0 90.0 {core}" for r_c in (6, 7) for core in ("p4", "e", "p1")]
    text = INPUT.replace("symfunction_short C 24 0.5 6.0 -90.0 90.0 p4   # last", "\n".join(lines))
    found = read(text)
    assert [(f.core, f.cutoff, f.core_jk) for f in found.functions[1] if f.kind == 24] == [
        ("e", 6.0, ""),
        ("e", 7.0, ""),
        ("p1", 6.0, "e"),
        ("p1", 7.0, "e"),
        ("p4", 6.0, "e"),
        ("p4", 7.0, "e"),
    ]
    assert read(settings_text(found)) == found
