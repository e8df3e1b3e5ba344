import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.analysis.roofline import Peaks, Work, measured_peaks, narrow, neighbours, powers, radial, work_of
from bpjax.descriptors import ACSF, SOAP, Angular, Radial
from bpjax.system import Environment

G2 = tuple(Radial(4.0, r) for r in (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0))
ANGULAR = tuple(Angular(e, z, s) for e in (0.01, 0.05, 0.2) for z in (1.0, 2.0, 3.0, 4.0) for s in (1.0, -1.0))
DESCRIPTORS = {
    "radial": ACSF(("Si",), 6.0, g2=G2),
    "narrow": ACSF(("Si",), 6.0, g4=ANGULAR),
    "moments": ACSF(("Si",), 6.0, g5=ANGULAR, wide="moments"),
    "soap": SOAP(("Si",), 6.0, n_max=8, l_max=6, sigma=0.5),
}


def compiled(descriptor, K):
    """Operations and functions in one environment of K neighbours, energy (a weighted sum) with gradient, as XLA counts them."""
    random = np.random.default_rng(0)
    R = random.normal(size=(K, 3))
    R *= (random.uniform(2.0, 2.9, K) / np.linalg.norm(R, axis=1))[:, None]  # all pairs within the cutoff
    weights = jnp.asarray(random.normal(size=descriptor.size))

    def energy(R):
        return descriptor(Environment(R, jnp.zeros(K, jnp.int32), jnp.ones(K, bool)), 0) @ weights

    cost = jax.jit(jax.value_and_grad(energy)).lower(jnp.asarray(R)).compile().cost_analysis()
    return cost["flops"], cost["transcendentals"]


def counted(descriptor, K):
    return work_of(descriptor, np.array([K]), np.array([K * (K - 1) / 2]), 8)


# What the compiled code does beyond the formula: every pair of neighbours twice (narrow); a Chebyshev series of the radial
# integrals, whose terms are as many again as radial functions, instead of a spline (soap).
@pytest.mark.parametrize(("kind", "most"), [("radial", 3.0), ("narrow", 4.0), ("moments", 2.0), ("soap", 8.0)])
def test_compiled_code_does_no_less_than_the_formula(kind, most):
    operations, functions = compiled(DESCRIPTORS[kind], 12)
    work = counted(DESCRIPTORS[kind], 12)
    assert 1.0 <= operations / work.operations <= most
    assert 0.9 <= functions / work.functions <= 4.0


def test_count_by_hand():
    """One G2 function of two neighbours, and one G4 function (zeta 1, lam 1) of the pair."""
    work = neighbours(2, 4) + radial(2, 1)
    assert (work.operations, work.functions) == (2 * 14 + 2 * 10, 2 * 3 + 2)
    # In: three numbers, an index and a truth value for each; out: three numbers for each and the energy.
    assert work.bytes == 2 * (3 * 4 + 4 + 1) + 2 * 3 * 4 + 4
    one = narrow(2, 1, 1, (Angular(0.1, 1.0, 1.0),))
    # Radial weights of two; the pair, its distance, radial part, (1 + cos) / 2 and slope, and the function.
    assert one.operations == 2 * 9 + 30 + 10 + 16 + (2 + 4) + 6
    assert one.functions == 2 + 3 + 1
    assert narrow(2, 1, 0, (Angular(0.1, 1.0, 1.0),)).operations == 2 * 9 + 30  # too far apart


def test_powers_are_counted_as_they_are_computed():
    """zeta 1, 2, 4, 16 is four squarings; zeta 3 and 5 two squarings and a product each; a fraction a logarithm and an exp."""
    few = powers([Angular(0.1, z, 1.0) for z in (1.0, 2.0, 4.0, 16.0)])
    assert (few.operations, few.functions) == (2 + 4 * 4 + 4, 0)
    assert powers([Angular(0.1, z, 1.0) for z in (3.0, 5.0)]).operations == 2 + 2 * 4 + 2 + 2
    assert powers([Angular(0.1, 1.5, 1.0)]).functions == 2
    # The same shape with another radial part is the same power.
    assert powers([Angular(e, 2.0, 1.0) for e in (0.1, 0.2)]) == powers([Angular(0.1, 2.0, 1.0)])


def test_growth_with_neighbours():
    """Pairs grow with the square of the neighbours, moments and SOAP in proportion."""
    for kind, power in (("narrow", 2), ("moments", 1), ("soap", 1), ("radial", 1)):
        few, many = (counted(DESCRIPTORS[kind], K).operations for K in (10_000, 20_000))
        assert many / few == pytest.approx(2.0**power, rel=1e-2)


def test_least_time_is_what_binds():
    peaks = Peaks(flops=1e9, functions=1e8, bandwidth=1e10)
    assert peaks.seconds(Work(2e9, 0, 1.0)) == pytest.approx(2.0)
    assert peaks.seconds(Work(1e9, 1e8, 1.0)) == pytest.approx(2.0)
    assert peaks.seconds(Work(1.0, 1.0, 3e10)) == pytest.approx(3.0)
    assert Work(6.0, 1.0, 2.0).intensity == 3.0 and 2 * Work(1.0, 2.0, 3.0) == Work(2.0, 4.0, 6.0)


def test_means_over_unlike_environments():
    """Pairs are averaged, not the pairs of the average."""
    found = work_of(DESCRIPTORS["narrow"], np.array([2, 10]), np.array([1, 45]), 4)
    one, other = (narrow(K, K * (K - 1) / 2, K * (K - 1) / 2, ANGULAR) for K in (2, 10))
    assert found.operations == pytest.approx(14 * 6 + (one.operations + other.operations) / 2)


def test_zeta_without_moments():
    with pytest.raises(ValueError, match="zeta"):
        work_of(ACSF(("Si",), 6.0, g5=(Angular(0.1, 1.5, 1.0),)), np.array([4]), np.array([6]), 4)


def test_measured_peaks():
    """Any machine does more than ten million and less than 10^16 of each a second; products of matrices are what it does best."""
    peaks = measured_peaks("float32", size=256, repeats=3)
    assert all(1e7 < rate < 1e16 for rate in (peaks.flops, peaks.functions, peaks.bandwidth))
    assert peaks.flops > peaks.functions
