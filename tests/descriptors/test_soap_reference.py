"""SOAP against DScribe 2.1.2 and featomic 0.6.7: every reference array, values and derivatives."""

import json
from functools import lru_cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest
from ase.data import atomic_numbers, chemical_symbols
from scipy.linalg import sqrtm
from scipy.special import gamma

from bpjax.geometry import environments
from bpjax.interop.soap import soap_from_dscribe, soap_from_featomic
from tests.descriptors.test_reference import jacobian, prepared

STRUCTURES = ("water_molecule", "ethanol", "si8_rattled", "nacl_prim")
PARAMETERS = [
    f"p{n}_{rbf}_{average}" for n in range(5) for rbf in ("gto", "polynomial") for average in ("off", "inner", "outer")
]
OTHERS = [*(f"w{n}" for n in range(4)), "c_mu2", "c_mu1nu1", "c_crossover"]
FAST = [f"p1_{rbf}_{average}" for rbf in ("gto", "polynomial") for average in ("off", "inner")] + OTHERS[3:]
"""Cases that are run with one structure each time; the others with that one among the slow tests."""

COMPARED = pytest.mark.reference
"""One of each kind is compiled as users have it; the others are other numbers and sizes of the same formulas."""


def cases():
    for case in PARAMETERS + OTHERS:
        for name in STRUCTURES:
            marks = pytest.mark.exhaustive if name != "ethanol" else COMPARED if case in FAST else pytest.mark.slow
            yield pytest.param(case, name, marks=marks, id=f"{name}-{case}")


@partial(jax.jit, static_argnums=0)
def coefficients(options, system, neighbors):
    return jax.vmap(options.coefficients)(environments(system, neighbors), system.species)


@partial(jax.jit, static_argnums=0)
def spectrum(options, c):
    return options.power_spectrum(c)


def system_of(data, options):
    """The structure in the order of the options' elements, with an element order of its own."""
    numbers = data["numbers"]
    return prepared(
        numbers, data["positions"], data["cell"], data["pbc"], options.elements, options.cutoff, atoms=len(numbers)
    )


def dscribe_options(entry, elements):
    numbers = {name: entry[name] for name in ("n_max", "l_max", "sigma", "rbf")}
    compression = {"mode": entry["compression"]} if "compression" in entry else None
    return soap_from_dscribe(
        elements, entry.get("r_cut"), **numbers, weighting=entry.get("weighting"), compression=compression
    )


@lru_cache
def defect(rbf, r_cut, n_max, l_max):
    """How far the radial functions of DScribe are from orthonormal: it inverts their overlap in double precision.

    Its own steps: S, S^-1, square root. What is left of B S B^T - 1 is the relative error of its features.
    """
    worst = 0.0
    for l in range(l_max + 1 if rbf == "gto" else 1):
        if rbf == "gto":
            a = np.linspace(1, r_cut, n_max)
            alpha = -np.log(1e-3 / np.power(a, l)) / a**2
            S = 0.5 * gamma(l + 1.5) * (alpha[:, None] + alpha[None, :]) ** (-l - 1.5)
        else:
            p, q = np.mgrid[1 : n_max + 1, 1 : n_max + 1]
            S = 2 * r_cut ** (7 + p + q) / ((5 + p + q) * (6 + p + q) * (7 + p + q))
        B = sqrtm(np.linalg.inv(S)).real.astype(np.longdouble)
        worst = max(worst, float(np.abs(B @ S.astype(np.longdouble) @ B.T - np.eye(n_max)).max()))
    return worst


@pytest.mark.parametrize(("case", "name"), cases())
def test_dscribe(shared, case, name, strict_promotion):
    file = f"soap_{name}_{case}.npz"
    folder = shared / "reference" / "dscribe"
    entry = next(e for e in json.loads((folder / "manifest.json").read_text())["entries"] if e["file"] == file)
    data = np.load(folder / file)
    entry = entry if "n_max" in entry else json.loads(str(data["params"]))
    # Our order of elements is free; DScribe sorts.
    elements = tuple(sorted(entry["species"], key=lambda e: -atomic_numbers[e]))
    options = dscribe_options(entry, elements)
    system, neighbors = system_of(data, options)
    c = coefficients(options, system, neighbors)
    average = entry.get("average", "off")
    if average == "inner":
        found = spectrum(options, c.mean(axis=0))
    else:
        found = jax.vmap(partial(spectrum, options))(c)
        found = found.mean(axis=0) if average == "outer" else found
    expected = data["features"]
    assert found.shape == expected.shape
    # 1e-8 of the largest feature. Where the functions are nearly dependent DScribe's own orthonormalisation is worse than
    # that, and differs from one processor to the next; ours is made with 80 digits.
    tolerance = max(1e-8, 10 * defect(options._basis, options.radius, options.n_max, options.l_max))
    assert tolerance < 1e-7 or (options.n_max >= 8 and tolerance < 0.1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    kinds = [kind for kind in ("deriv_analytical", "deriv_numerical") if kind in data.files]
    if kinds:
        found = jacobian(options, system, neighbors).transpose(0, 2, 3, 1)
    for kind in kinds:
        # Numerical ones are central differences, good to about 1e-8.
        np.testing.assert_allclose(found, data[kind], rtol=0, atol=1e-6 * np.abs(data[kind]).max(), err_msg=kind)


# ----------------------------------------------------------------------------------------------- featomic


def featomic_columns(options, data):
    """Our column of each of featomic's."""
    names = [str(name) for name in data["property_names"]]
    labels = []
    for row in data["properties"]:
        p = dict(zip(names, row.tolist(), strict=True))
        one, two = (chemical_symbols[p[f"neighbor_{k}_type"]] for k in (1, 2))
        labels.append(f"{one} n={p['n_1']} {two} n={p['n_2']} l={p['l']}")
    return [options.labels.index(label) for label in labels]


@pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(case, name, marks=COMPARED if (case, name) == ("p1", "ethanol") else pytest.mark.slow)
        for case in ("p0", "p1", "p2", "p3_willatt")
        for name in STRUCTURES
    ],
)
def test_featomic(shared, case, name, strict_promotion):
    # featomic splines its radial integrals to an accuracy of 1e-8; derivatives of splines are less accurate: set to 1e-13, its
    # own gradients change by 1.4e-6 of the largest.
    data = np.load(shared / "reference" / "featomic" / f"soap_power_spectrum_{name}_{case}.npz")
    compare_with_featomic(data, 1e-7, 5e-6)


@COMPARED
def test_featomic_without_its_spline_errors(strict_promotion):
    data = np.load(Path(__file__).parents[1] / "reference" / "featomic_soap_nacl.npz")
    compare_with_featomic(data, 1e-10, 1e-9)


def compare_with_featomic(data, tolerance, gradient_tolerance):
    present = sorted(set(data["numbers"].tolist()), reverse=True)
    options = soap_from_featomic([chemical_symbols[z] for z in present], json.loads(str(data["hypers"])))
    columns = featomic_columns(options, data)
    assert columns == sorted(columns)  # the same order, without the pairs that never meet
    system, neighbors = system_of(data, options)
    found = np.asarray(jax.vmap(partial(spectrum, options))(coefficients(options, system, neighbors)))
    atoms = data["samples"][:, [str(n) for n in data["sample_names"]].index("atom")]
    expected = data["values"]
    np.testing.assert_allclose(found[np.ix_(atoms, columns)], expected, rtol=0, atol=tolerance * np.abs(expected).max())
    if "grad_values" not in data.files:
        return
    found = jacobian(options, system, neighbors)[:, columns].transpose(0, 2, 3, 1)
    names = [str(n) for n in data["grad_sample_names"]]
    sample, moved = (data["grad_samples"][:, names.index(n)] for n in ("sample", "atom"))
    expected = np.zeros_like(found)
    expected[atoms[sample], moved] = data["grad_values"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=gradient_tolerance * np.abs(expected).max())
