"""A small folder for n2p2, in text that is not as tidy as it could be."""

import itertools

import numpy as np

INPUT = """\
# A potential for carbon, hydrogen and oxygen.
number_of_elements 3   # this many
elements O\tH C
atom_energy H -0.5
atom_energy O -7.49D+1
atom_energy C -37.8

cutoff_type 6 0.25
center_symmetry_functions
scale_symmetry_functions
scale_min_short -1
scale_max_short 1.0
global_hidden_layers_short 2
global_nodes_short 3 2
global_activation_short t p l
epochs 10 and whatever else
symfunction_short H 2 O 0.02 0.0 6.0
symfunction H 2 H 0.02 0.0 6.0
symfunction_short H 3 O H 0.01 1 2 6.0
symfunction_short H 9 H H 0.01 -1 1.5 6.0 0.8
symfunction_short O 12 0.2 1.d0 6
symfunction_short O 13 0.05 0.5 -1 3.0 6.0
symfunction_short O 20 C -6.0 6.0 p2
symfunction_short O 21 C H 0.5 6.0 40 160 e
symfunction_short C 23 0.5 6.0 p3a
symfunction_short C 24 0.5 6.0 -90.0 90.0 p4   # last

"""
"""Elements, functions and neighbours are not in n2p2's order."""

FUNCTIONS = {"H": 4, "C": 2, "O": 4}
NUMBERS = {"H": 1, "C": 6, "O": 8}
HIDDEN = (3, 2)


def scaling(columns=6, seed=0):
    random = np.random.default_rng(seed)
    lines = ["# header"]
    for e, count in enumerate(FUNCTIONS.values(), start=1):
        for n in range(1, count + 1):
            low, width, sigma = random.uniform(0.1, 1, 3)
            values = (low, low + width, low + 0.4 * width, sigma)[: columns - 2]
            lines.append(f"{e:4d} {n:4d} " + " ".join(f"{value:24.16E}" for value in values))
    return "\n".join(lines) + "\n"


def weight_count(inputs, hidden=HIDDEN):
    widths = (inputs, *hidden, 1)
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def weights(inputs, seed=0, hidden=HIDDEN):
    values = np.random.default_rng(seed).normal(size=weight_count(inputs, hidden))
    return "# header\n" + "".join(f"{value:24.16E}\n" for value in values)


def write_example(path, seed=0, text=INPUT):
    path.mkdir(parents=True)
    (path / "input.nn").write_text(text)
    (path / "scaling.data").write_text(scaling(seed=seed))
    for element, inputs in FUNCTIONS.items():
        (path / f"weights.{NUMBERS[element]:03d}.data").write_text(weights(inputs, seed + inputs))
    return path
