"""ACSF against DScribe and n2p2: numbers of other programs, read from ../shared/reference at run time."""

from functools import lru_cache, partial

import ase.data
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import ACSF
from bpjax.descriptors.acsf import Angular, Radial
from bpjax.geometry import environments
from bpjax.neighbors import neighbor_list
from bpjax.system import Neighbors, System, system_from_arrays
from tests.tiers import slow

pytestmark = pytest.mark.reference


def prepared(numbers, positions, cell, pbc, elements, cutoff, atoms=12, slots=None):
    system = system_from_arrays(numbers, positions, cell, pbc, elements, capacity=max(atoms, len(numbers)))
    neighbors = neighbor_list(positions, cell, pbc, cutoff, atoms=max(atoms, len(numbers)), capacity=slots)
    if neighbors.shift is None:
        neighbors = neighbors._replace(shift=np.zeros((*neighbors.idx.shape, 3), np.int32))
    if system.cell is None:
        system = system._replace(cell=np.eye(3))
    return jax.tree.map(jnp.asarray, (system, neighbors))


@partial(jax.jit, static_argnums=0)
def all_features(descriptor, system: System, neighbors: Neighbors):
    return jax.vmap(descriptor)(environments(system, neighbors), system.species)


@partial(jax.jit, static_argnums=0)
def _column(descriptor, system, neighbors, direction):
    def G(R):
        return all_features(descriptor, system._replace(positions=R), neighbors)

    return jax.jvp(G, (system.positions,), (direction,))[1]


def jacobian(descriptor, system, neighbors):
    """Derivatives of every feature of every atom with respect to every position, (N, D, N, 3), a column at a time."""

    N = len(system.positions)
    columns = [_column(descriptor, system, neighbors, e) for e in np.eye(3 * N).reshape(3 * N, N, 3)]
    return np.stack(columns, axis=-1).reshape(N, descriptor.size, N, 3)


# ------------------------------------------------------------------------------------------------ DScribe


def dscribe_columns(options, numbers):
    """Our label of each of DScribe's columns.

    DScribe lists, for each element in the order of atomic number, G1, G2, G3; then for each pair (0,0), (1,0), (1,1),
    (2,0), ... G4, G5. Its formulas, sums over j < k included, are ours.
    """
    elements = [ase.data.chemical_symbols[n] for n in sorted(set(numbers))]
    columns = []
    for e in elements:
        columns += [f"G1 {e}", *(f"G2 eta={p.eta:g} r_s={p.r_s:g} {e}" for p in options.g2)]
        columns += [f"G3 kappa={kappa:g} {e}" for kappa in options.g3]
    order = options.elements.index
    for s in range(len(elements)):
        for t in range(s + 1):
            pair = "-".join(sorted((elements[s], elements[t]), key=order))
            for name, functions in (("G4", options.g4), ("G5", options.g5)):
                columns += [f"{name} eta={p.eta:g} zeta={p.zeta:g} lam={p.lam:+g} r_s=0 {pair}" for p in functions]
    return [options.labels.index(label) for label in columns]


@pytest.mark.parametrize(
    "name", [pytest.param("water_molecule", marks=pytest.mark.slow), "ethanol", "si8_rattled", "nacl_prim"]
)
def test_dscribe(shared, name, strict_promotion):
    data = np.load(shared / "reference" / "dscribe" / f"acsf_{name}.npz")
    numbers = data["numbers"]
    # Not by atomic number, because our order is free; and elements that the structure does not have.
    elements = ("O", "C", "H") if name in ("water_molecule", "ethanol") else ("Na", "Si", "Cl")
    options = ACSF(
        elements,
        5.0,
        g1=True,
        g2=(Radial(0.05), Radial(0.5), Radial(1.0, 2.0)),
        g3=(1.0, 2.5),
        g4=(Angular(0.01, 1.0, 1.0), Angular(0.01, 1.0, -1.0), Angular(0.05, 4.0, 1.0), Angular(0.05, 16.0, -1.0)),
        g5=(Angular(0.01, 1.0, 1.0), Angular(0.02, 2.0, -1.0), Angular(0.05, 8.0, 1.0)),
    )
    N = len(numbers)
    system, neighbors = prepared(
        numbers, data["positions"], data["cell"], data["pbc"], elements, 5.0, atoms=9, slots=40
    )
    columns = dscribe_columns(options, numbers)
    found = np.asarray(all_features(options, system, neighbors))[:N, columns]
    expected = data["features"]
    assert found.shape == expected.shape
    # DScribe in float64: rounding, relative to the feature (the smallest ones to the largest of their kind).
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12 * np.abs(expected).max())
    # Its derivatives are central differences with a step that leaves about 1e-8. Moving an atom moves its images.
    found = jacobian(options, system, neighbors)[:N, columns, :N].transpose(0, 2, 3, 1)
    expected = data["deriv_numerical"]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


# --------------------------------------------------------------------------------------------------- n2p2

KINDS = {1: "cosine", 2: "tanh3", 3: "tanh3n", 4: "exp", 5: "poly1", 6: "poly2", 7: "poly3", 8: "poly4"}

CASES = [
    *("exp_cutoff2", "exp_cutoff6_alpha03", "weighted", "scaling_none"),
    *slow("all", *(f"exp_cutoff{n}" for n in KINDS if n != 2), *(f"exp_cutoff{n}_alpha03" for n in KINDS if n != 6)),
]
"""Every kind of cutoff function, which test_cutoffs has formulas of; 0 (a step) is not offered.

The other cases of n2p2 repeat these functions with other networks."""

WITH_DERIVATIVES = ("weighted", "all")
"""Where there are reference derivatives and nothing but these functions differs: all types, two cutoff functions."""


def parsed(path):
    """Elements, cutoff kind and inner fraction, symmetry function lines of an `input.nn`."""
    elements, kind, inner = (), 1, 0.0
    for line in path.read_text().splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["elements"]:
            elements = tuple(words[1:])
        if words[:1] == ["cutoff_type"]:
            kind, inner = int(words[1]), float(words[2]) if len(words) > 2 else 0.0
    kind = KINDS[kind]
    return elements, kind, 0.0 if kind.startswith("tanh3") else inner


def function(line, elements):
    """(cutoff, weighted?, field of ACSF, parameters, elements of the label) of a line, or None for another type."""
    keyword, _, kind, *rest = line.split()
    assert keyword == "symfunction_short"
    kind = int(kind)
    symbols = [rest.pop(0) for _ in range({2: 1, 3: 2, 9: 2}.get(kind, 0))]
    pair = "-".join(sorted(symbols, key=elements.index))
    x = [float(word) for word in rest] if kind in (2, 3, 9, 12, 13) else []
    if kind in (2, 12):
        return x[2], kind == 12, "g2", Radial(x[0], x[1]), pair or "*"
    if kind in (3, 9):
        r_s = x[4] if len(x) > 4 else 0.0
        return x[3], False, "g4" if kind == 3 else "g5", Angular(x[0], x[2], x[1], r_s), pair
    if kind == 13:
        return x[4], True, "g4", Angular(x[0], x[3], x[2], x[1]), "*-*"
    return None


def label(field, p, channel):
    if field == "g2":
        return f"G2 eta={p.eta:g} r_s={p.r_s:g} {channel}"
    return f"G{field[1]} eta={p.eta:g} zeta={p.zeta:g} lam={p.lam:+g} r_s={p.r_s:g} {channel}"


@lru_cache
def structures(path, elements):
    """The five structures, all with the same number of slots (of the largest cutoff), so that little is compiled."""
    data = np.load(path)
    slots = max(int(data[f"s{s}_num_neighbors"].max()) for s in range(5))
    out = {}
    for s in range(5):
        numbers = np.array([ase.data.atomic_numbers[e] for e in data[f"s{s}_elements"]])
        cell = data[f"s{s}_lattice"] if f"s{s}_lattice" in data else None
        args = numbers, data[f"s{s}_positions"], cell, cell is not None, elements, 6.0
        out[s] = prepared(*args, slots=slots)
    return out


def flat_to_atoms(flat, counts):
    return np.split(flat, np.cumsum(counts)[:-1])


@pytest.mark.parametrize("case", CASES)
def test_n2p2(shared, case):
    folder = shared / "reference" / "n2p2" / case
    elements, kind, inner = parsed(folder / "input.nn")
    data = np.load(folder / "reference.npz")
    lines = (folder / "input.nn").read_text().splitlines()
    # The last column of its sorted table is the line of input.nn.
    sorted_lines = {e: [lines[int(row.split()[-1]) - 1] for row in data[f"symfunc_lines_{e}"]] for e in elements}
    functions = {e: [function(line, elements) for line in sorted_lines[e]] for e in elements}
    groups = sorted({f[:2] for fs in functions.values() for f in fs if f})
    assert groups
    compared = 0
    for cutoff, weighted in groups:
        mine = {
            e: [(n, f[2:]) for n, f in enumerate(fs) if f and f[:2] == (cutoff, weighted)]
            for e, fs in functions.items()
        }
        fields = {
            field: tuple(dict.fromkeys(f[1] for fs in mine.values() for _, f in fs if f[0] == field))
            for field in ("g2", "g4", "g5")
        }
        weights = tuple(float(ase.data.atomic_numbers[e]) for e in elements) if weighted else None
        options = ACSF(elements, cutoff, kind, inner, weights=weights, **fields)
        for s, (system, neighbors) in structures(folder / "reference.npz", elements).items():
            symbols, counts = data[f"s{s}_elements"], data[f"s{s}_num_symfunc"]
            G = np.asarray(all_features(options, system, neighbors))
            assert np.isfinite(G).all()
            expected = flat_to_atoms(data[f"s{s}_G_raw"], counts)
            dG = jacobian(options, system, neighbors) if case in WITH_DERIVATIVES else None
            d_expected = flat_to_atoms(data[f"s{s}_dGraw_dR"], counts * 3 * len(symbols)) if dG is not None else None
            for i, symbol in enumerate(symbols):
                theirs = [n for n, _ in mine[symbol]]
                ours = [options.labels.index(label(*f)) for _, f in mine[symbol]]
                reference = expected[i][theirs]
                # Both in float64. A sum through moments is exact to rounding of the largest function.
                np.testing.assert_allclose(G[i, ours], reference, rtol=1e-9, atol=1e-13 * np.abs(expected[i]).max())
                compared += len(ours)
                if dG is None:
                    continue
                N = len(symbols)
                reference = d_expected[i].reshape(N, counts[i], 3)[:, theirs].transpose(1, 0, 2)
                np.testing.assert_allclose(
                    dG[i, ours][:, :N], reference, rtol=1e-9, atol=1e-12 * np.abs(d_expected[i]).max()
                )
    assert compared == sum(len([f for f in functions[e] if f]) for s in range(5) for e in data[f"s{s}_elements"])
