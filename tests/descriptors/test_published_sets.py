"""Published rules for sets of functions: against the parameters that the generator published with n2p2 makes."""

import numpy as np
import pytest

from bpjax.descriptors import ACSF, Angular, Radial
from bpjax.descriptors.choose import DefaultACSF, DescriptorSet
from bpjax.descriptors.published_sets import GasteggerACSF, ImbalzanoACSF
from bpjax.spec import from_spec, to_spec

# Output files kept with n2p2's tools/python/symfunc_paramgen (tests/reference_outputs.txt), printed with four decimals.
IMBALZANO_SHIFTED = {1.2: 4.816, 1.6557: 2.5299, 2.2844: 1.329, 3.1518: 0.6981, 4.3487: 0.3667}
"""r_s: eta for a cutoff of 6 A and five functions."""

IMBALZANO_CENTRED = (0.04, 0.08, 0.16, 0.32, 0.64)
"""eta for a cutoff of 5 A and five functions."""

GASTEGGER_CENTRED = (0.2222, 0.03556, 0.01389)
"""eta for three radii from 1.5 to 6 A."""

GASTEGGER_SHIFTED = {1.5: 0.5, 2.5: 0.5, 3.5: 0.5, 4.5: 0.5, 5.5: 0.5}
"""r_s: eta for five radii from 1.5 to 5.5 A."""


def radial(acsf, centred):
    return [(p.r_s, p.eta) for p in acsf.g2 if (p.r_s == 0) == centred]


def close(found, expected):
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=0, atol=5.1e-5)  # printed with four decimals


def test_imbalzano():
    acsf = ImbalzanoACSF(6.0, intervals=5, angular_intervals=5, angular_families=("shifted",)).build(("S", "Cu"))
    close(radial(acsf, centred=False), IMBALZANO_SHIFTED.items())
    close({(p.r_s, p.eta) for p in acsf.g4}, IMBALZANO_SHIFTED.items())
    assert len(radial(acsf, centred=True)) == 6
    acsf = ImbalzanoACSF(5.0, intervals=4, families=("centred",)).build(("S", "Cu"))
    close(radial(acsf, centred=True), [(0.0, eta) for eta in IMBALZANO_CENTRED])
    assert radial(acsf, centred=False) == []
    assert {(p.eta, p.r_s) for p in acsf.g4} == {(eta, 0.0) for eta in IMBALZANO_CENTRED}
    shapes = {(p.zeta, p.lam) for p in acsf.g4}
    assert shapes == {(zeta, lam) for zeta in (1.0, 4.0, 16.0) for lam in (1.0, -1.0)}
    assert len(acsf.g4) == 5 * len(shapes) and acsf.g5 == () and acsf.weights is None


def test_imbalzano_is_finer_near_the_atom():
    places = radial(ImbalzanoACSF(6.0, intervals=8).build(("Si",)), centred=False)
    r_s, eta = np.array(places).T
    assert (np.diff(r_s) > 0).all() and (np.diff(eta) < 0).all() and r_s[-1] < 6.0
    # Each is as wide as the distance to the next, the last one to the cutoff.
    np.testing.assert_allclose(1 / np.sqrt(eta), np.diff([*r_s, 6.0]), rtol=1e-3)


def test_gastegger():
    options = GasteggerACSF(
        6.0, radial=3, angular=5, smallest=1.5, largest=6.0, families=("centred",), angular_families=("shifted",)
    )
    acsf = options.build(("H", "O", "Cu"))
    close(radial(acsf, centred=True), [(0.0, eta) for eta in GASTEGGER_CENTRED])
    assert acsf.weights == (1.0, 8.0, 29.0) and acsf.size == 3 + 5 * 4
    options = GasteggerACSF(6.0, radial=5, angular=0, smallest=1.5, largest=5.5, families=("shifted",), weighted=False)
    acsf = options.build(("H", "O"))
    close(radial(acsf, centred=False), GASTEGGER_SHIFTED.items())
    assert acsf.weights is None and acsf.size == 10 and acsf.g4 == ()


def test_gastegger_ends_one_spacing_before_the_cutoff():
    acsf = GasteggerACSF(6.5, radial=12, smallest=0.5, families=("shifted",)).build(("Si",))
    r_s, eta = np.array(radial(acsf, centred=False)).T
    np.testing.assert_allclose(r_s, 0.5 + 0.5 * np.arange(12))
    np.testing.assert_allclose(eta, 2.0)


def test_wide_functions_on_demand():
    for options in (ImbalzanoACSF(narrow=False), GasteggerACSF(narrow=False)):
        acsf = options.build(("Si",))
        assert acsf.g4 == () and len(acsf.g5) > 0


@pytest.mark.parametrize("cls", [ImbalzanoACSF, GasteggerACSF, DefaultACSF])
def test_a_set_is_options_that_build_a_descriptor(cls):
    options = from_spec(DefaultACSF | GasteggerACSF | ImbalzanoACSF | ACSF, {"type": cls.__name__, "cutoff": 5})
    assert isinstance(options, DescriptorSet) and isinstance(options, cls)
    assert from_spec(cls, to_spec(options)) == options and hash(options) == hash(cls(5.0))
    acsf = options.build(("O", "Si"))
    assert isinstance(acsf, ACSF) and acsf.elements == ("O", "Si") and acsf.cutoff == 5.0
    assert not isinstance(acsf, DescriptorSet)
    assert from_spec(ACSF, to_spec(acsf)) == acsf
    assert all(isinstance(p, Radial) for p in acsf.g2) and all(isinstance(p, Angular) for p in acsf.g4 + acsf.g5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImbalzanoACSF(intervals=1), "intervals=1"),
        (lambda: ImbalzanoACSF(angular_intervals=1), "angular_intervals=1"),
        (lambda: ImbalzanoACSF(families=()), "families"),
        (lambda: ImbalzanoACSF(angular_families=("wide",)), "angular_families=.*centred, shifted"),
        (lambda: ImbalzanoACSF(zeta=(0.5,)), "zeta"),
        (lambda: ImbalzanoACSF(cutoff=-1.0), "radius"),
        (lambda: GasteggerACSF(radial=1), "radial=1"),
        (lambda: GasteggerACSF(angular=1), "angular=1"),
        (lambda: GasteggerACSF(smallest=0.0), "smallest=0.0"),
        (lambda: GasteggerACSF(cutoff=4.0, largest=4.5), "largest=4.5"),
        (lambda: GasteggerACSF(families=("shifted", "shifted")), "families"),
        (lambda: GasteggerACSF(cutoff_kind="cos"), "cos"),
    ],
)
def test_options_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
