"""`SOAP` from the options of DScribe and featomic, under their own names, so that their inputs can be taken over as they are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bpjax.descriptors.soap import SOAP, Weighting
from bpjax.errors import ConfigError


def soap_from_dscribe(
    species: Sequence[str],
    r_cut: float | None = None,
    n_max: int = 8,
    l_max: int = 6,
    sigma: float = 1.0,
    rbf: str = "gto",
    weighting: Mapping[str, Any] | None = None,
    compression: Mapping[str, Any] | None = None,
) -> SOAP:
    """The descriptor that `dscribe.descriptors.SOAP` with these options computes, feature by feature.

    Averages over atoms (`average` of DScribe) are functions of a structure: `bpjax.potential.describe.average_features`.

    Args:
      species: chemical symbols.
      r_cut: radius in A; None to take it from `weighting` as DScribe does.
      n_max, l_max, sigma, rbf: as there; `rbf` is "gto" or "polynomial".
      weighting: `function` ("poly", "pow", "exp") with its `r0`, `c`, `d`, `m`, `threshold`; `w0`.
      compression: `mode` ("off", "mu2", "mu1nu1", "crossover") and `species_weighting`.

    Raises:
      ConfigError: an option that DScribe does not have, or none of `r_cut` and a weighting function.
      ValueError: a value out of range, see `bpjax.descriptors.SOAP`.
    """
    weighting, compression = dict(weighting or {}), dict(compression or {})
    _known("weighting", weighting, ("function", "r0", "c", "d", "m", "threshold", "w0"))
    _known("compression", compression, ("mode", "species_weighting"))
    if rbf not in ("gto", "polynomial"):
        raise ConfigError(f"{rbf!r}; allowed are gto, polynomial", field="rbf")
    mode = compression.get("mode", "off")
    if mode not in ("off", "mu2", "mu1nu1", "crossover"):
        raise ConfigError(f"{mode!r}; allowed are off, mu2, mu1nu1, crossover", field="compression.mode")
    function = None
    if weighting.get("function") is not None:
        given = {name: float(weighting[name]) for name in ("c", "d", "m") if name in weighting}
        function = Weighting(weighting["function"], float(_required("weighting", weighting, "r0")), **given)
    if r_cut is None:
        r_cut = _reach(function, float(weighting.get("threshold", 1e-2)))
    elements, weights = tuple(species), compression.get("species_weighting")
    if weights is not None:
        weights = tuple(float(_required("compression.species_weighting", weights, e)) for e in elements)
    return SOAP(
        elements,
        float(r_cut),
        n_max,
        l_max,
        float(sigma),
        "dscribe",
        rbf,
        weighting=function,
        centre=None if weighting.get("w0") is None else float(weighting["w0"]),
        channels="full" if mode == "off" else mode,
        species_weights=weights,
    )


def _reach(weighting: Weighting | None, threshold: float) -> float:
    """Radius at which DScribe takes a weighting function to be over."""
    if weighting is None:
        raise ConfigError("is missing, and there is no weighting function to take it from", field="r_cut")
    if weighting.kind == "poly":
        return weighting.r_0
    rest = weighting.c / threshold - weighting.d
    if rest <= 0 or (weighting.kind == "pow" and weighting.m == 0):
        raise ConfigError(f"the weighting function never falls to threshold={threshold}; give r_cut", field="weighting")
    return weighting.r_0 * (rest ** (1 / weighting.m) if weighting.kind == "pow" else math.log(rest))


def soap_from_featomic(elements: Sequence[str], hypers: Mapping[str, Any]) -> SOAP:
    """The descriptor that featomic's `SoapPowerSpectrum` with these hyperparameters computes.

    Columns stand in the order of featomic's blocks, sorted by the types of both neighbours; pairs of elements that never meet,
    for which featomic has no block, are zero here.

    Args:
      elements: chemical symbols of all atoms.
      hypers: `cutoff`, `density` and `basis` as in featomic 0.6: shifted cosine or step, Gaussian density with or without
        the scaling of Willatt, tensor product of angular functions and GTO.

    Raises:
      ConfigError: hyperparameters that are not known here, with their name.
      ValueError: a value out of range, see `bpjax.descriptors.SOAP`.
    """
    _known("hypers", hypers, ("cutoff", "density", "basis"))
    cutoff, density, basis = (dict(_required("hypers", hypers, name)) for name in ("cutoff", "density", "basis"))
    _known("cutoff", cutoff, ("radius", "smoothing"))
    radius = float(_required("cutoff", cutoff, "radius"))
    smoothing = dict(cutoff.get("smoothing", {"type": "Step"}))
    step = _kind("cutoff.smoothing", smoothing, ("ShiftedCosine", "Step")) == "Step"
    _known("cutoff.smoothing", smoothing, ("type",) if step else ("type", "width"))
    _kind("density", density, ("Gaussian",))
    _known("density", density, ("type", "width", "scaling", "center_atom_weight"))
    scaling, weighting = density.get("scaling"), None
    if scaling is not None:
        _kind("density.scaling", scaling, ("Willatt2018",))
        _known("density.scaling", scaling, ("type", "exponent", "rate", "scale"))
        rate, scale, exponent = (float(_required("density.scaling", scaling, n)) for n in ("rate", "scale", "exponent"))
        weighting = Weighting("pow", scale, c=rate, d=rate, m=exponent)
    _kind("basis", basis, ("TensorProduct",))
    _known("basis", basis, ("type", "max_angular", "radial", "spline_accuracy"))
    radial = dict(_required("basis", basis, "radial"))
    _kind("basis.radial", radial, ("Gto",))
    _known("basis.radial", radial, ("type", "max_radial", "radius"))
    if radial.get("radius") not in (None, radius):
        raise ConfigError("another radius than that of the cutoff is not known here", field="basis.radial.radius")
    return SOAP(
        tuple(elements),
        radius,
        int(_required("basis.radial", radial, "max_radial")) + 1,
        int(_required("basis", basis, "max_angular")),
        float(_required("density", density, "width")),
        "featomic",
        cutoff_kind="hard" if step else "cosine",
        cutoff_inner=0.0 if step else 1 - float(_required("cutoff.smoothing", smoothing, "width")) / radius,
        weighting=weighting,
        centre=float(density.get("center_atom_weight", 1.0)),
    )


def _known(field: str, given: Mapping[str, Any], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            raise ConfigError(f"unknown option; allowed are {', '.join(allowed)}", field=f"{field}.{name}")


def _required(field: str, given: Mapping[str, Any], name: str) -> Any:
    if name not in given:
        raise ConfigError("is missing", field=f"{field}.{name}")
    return given[name]


def _kind(field: str, given: Mapping[str, Any], allowed: Sequence[str]) -> str:
    kind = _required(field, given, "type")
    if kind not in allowed:
        raise ConfigError(f"{kind!r}; allowed are {', '.join(allowed)}", field=f"{field}.type")
    return kind
