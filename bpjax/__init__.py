"""Behler-Parrinello neural-network potentials in JAX.

>>> import bpjax as bp
>>> descriptor = bp.DefaultACSF(cutoff=5.0).build(("Si",))
>>> model = bp.Potential(descriptor, bp.MLP(hidden=(16, 16)))
>>> model.elements
('Si',)

The names below are loaded when they are first used, so that `import bpjax` alone (and with it the command line's help) does
not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpjax.descriptors import (
        ACSF,
        ANI,
        SOAP,
        Angular,
        Chosen,
        Cutoff,
        DefaultACSF,
        GasteggerACSF,
        ImbalzanoACSF,
        Projected,
        Radial,
        choose_features,
    )
    from bpjax.networks import MLP
    from bpjax.potential import Potential, energy, energy_and_forces, init, load, predict, save
    from bpjax.potential.describe import describe
    from bpjax.potential.evaluator import Evaluator
    from bpjax.system import Environment, Neighbors, Prediction, System

_HOMES = {
    "bpjax.descriptors": (
        "ACSF",
        "ANI",
        "SOAP",
        "Angular",
        "Chosen",
        "Cutoff",
        "DefaultACSF",
        "GasteggerACSF",
        "ImbalzanoACSF",
        "Projected",
        "Radial",
        "choose_features",
    ),
    "bpjax.networks": ("MLP",),
    "bpjax.potential": ("Potential", "energy", "energy_and_forces", "init", "load", "predict", "save"),
    "bpjax.potential.describe": ("describe",),
    "bpjax.potential.evaluator": ("Evaluator",),
    "bpjax.system": ("Environment", "Neighbors", "Prediction", "System"),
}

__all__ = [
    "ACSF",
    "ANI",
    "MLP",
    "SOAP",
    "Angular",
    "Chosen",
    "Cutoff",
    "DefaultACSF",
    "Environment",
    "Evaluator",
    "GasteggerACSF",
    "ImbalzanoACSF",
    "Neighbors",
    "Potential",
    "Prediction",
    "Projected",
    "Radial",
    "System",
    "choose_features",
    "describe",
    "energy",
    "energy_and_forces",
    "init",
    "load",
    "predict",
    "save",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("bpjax")
    raise AttributeError(f"module 'bpjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
