r"""Potentials of TorchANI (ANI-1x, ANI-1ccx, ANI-2x and models of one's own) as potentials of this package.

TorchANI's energy is that of one network per element on atomic environment vectors (`bpjax.descriptors.ANI`), or the mean over
an ensemble of such networks, plus an energy for each atom; all in hartree. Here the networks keep their weights, hartree goes
into the energy scale, the energies of the atoms become the offsets, and an ensemble becomes a committee. What this package
cannot express (dispersion, repulsion, charges, other terms or networks) is refused by its name, never left out.

Objects of TorchANI 2.9 are understood, and those of the older line 2.0 to 2.2. They are recognised by the names of their
classes, so that TorchANI is imported by `load_torchani` only.

References: Gao, Ramezanghorbani, Isayev, Smith, Roitberg, J. Chem. Inf. Model. 60, 3408 (2020), doi:10.1021/acs.jcim.0c00451
(TorchANI); see `bpjax.descriptors.ani` for the models.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import jax
import numpy as np

from bpjax.descriptors import ANI
from bpjax.errors import BpjaxError, ConfigError
from bpjax.networks import MLP, PerElement
from bpjax.potential.energy import Params, Potential
from bpjax.units import HARTREE

MODELS = {"ani1x": "ANI1x", "ani1ccx": "ANI1ccx", "ani2x": "ANI2x"}
"""Published models that `load_torchani` can name, and what TorchANI calls them."""


def load_torchani(name: str, member: int | None = None) -> tuple[Potential, Params]:
    """A published model from an installed TorchANI, which may download the weights.

    Args:
      name: "ani1x", "ani1ccx" or "ani2x".
      member: number of a single network of the ensemble, from 0; None for all of them.

    Raises:
      ConfigError: an unknown name, or a member that is not there.
      BpjaxError: TorchANI is not installed, does not have this model, or cannot get its weights.
    """
    if name not in MODELS:
        raise ConfigError(f"{name!r} is not known; give {', '.join(MODELS)}", field="name")
    try:
        torchani = import_module("torchani")
    except ImportError as error:
        raise BpjaxError(f"{name}: needs TorchANI, which cannot be imported ({error}); pip install torchani") from error
    build = getattr(torchani.models, MODELS[name], None)
    if build is None:
        raise BpjaxError(f"{name}: the installed TorchANI does not have this model")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # some versions print what they do
            model = build()
    except OSError as error:  # also those of urllib and requests
        message = f"{name}: TorchANI has no weights of this model on disk and could not download them ({error})"
        raise BpjaxError(message) from error
    return from_torchani(model, member)


def from_torchani(model: Any, member: int | None = None) -> tuple[Potential, Params]:
    """A model of TorchANI as a potential.

    Args:
      model: the object, such as ``torchani.models.ANI2x()``, ``torchani.models.ANI2x()[0]`` or one that was put together from
        parts and trained. Members of an ensemble that are not active, and terms that are not enabled, do not count.
      member: number of a single network of an ensemble, from 0; None for all of them.

    Returns: the model and its arrays (NumPy; weights in the precision that they have in TorchANI). In a committee they have a
      leading axis of members.

    Raises:
      ConfigError: no such member.
      BpjaxError: not a model of TorchANI, or one with something that cannot be expressed.
    """
    elements, computer, container, atoms = _parts(model)
    members = _members(container)
    if member is not None:
        if not 0 <= member < len(members):
            raise ConfigError(f"there are members 0 to {len(members) - 1}, got {member}", field="member")
        members = [members[member]]
    descriptor = _descriptor(computer, elements)
    layers = [[_layers(network) for network in _networks(one, len(elements))] for one in members]
    options = [tuple(_mlp(found, descriptor.size) for found in one) for one in layers]
    if len(set(options)) != 1:
        raise _unfit("the members of the ensemble have networks of unlike shapes")
    own = options[0]
    potential = Potential(
        descriptor=descriptor,
        network=own[0] if len(set(own)) == 1 else PerElement(own),
        offsets=tuple(float(energy) * HARTREE for energy in atoms),
        members=len(members) if len(members) > 1 else None,
    )
    params = [_params(potential, one) for one in layers]
    return potential, jax.tree.map(lambda *leaves: np.stack(leaves), *params) if len(params) > 1 else params[0]


def _unfit(what: str) -> BpjaxError:
    return BpjaxError(f"cannot take over this model of TorchANI: {what}")


def _name(thing: Any) -> str:
    return type(thing).__name__


def _expect(thing: Any, what: str, *names: str) -> Any:
    """The thing, if it is exactly of one of these classes: a class derived from it may compute something else."""
    if _name(thing) not in names:
        raise _unfit(f"its {what} is of class {_name(thing)}, supported: {', '.join(names)}")
    return thing


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()


# ------------------------------------------------------------------------------------------------------------ parts of models


def _parts(model: Any) -> tuple[tuple[str, ...], Any, Any, np.ndarray]:
    """Elements, AEV computer, container of networks, and energies of the atoms in hartree."""
    classes = {base.__name__ for base in type(model).__mro__}
    if classes & {"BuiltinNet", "BuiltinModel"}:  # 2.0 to 2.2
        shifter = _expect(model.energy_shifter, "energy shifter", "EnergyShifter")
        if shifter.fit_intercept:
            raise _unfit("its energy shifter has an intercept, an energy that does not grow with the number of atoms")
        species = tuple(model.consts.species)
        return species, model.aev_computer, model.neural_networks, _array(shifter.self_energies)
    if _name(model) != "ANI":
        known = "ANI and, of TorchANI 2.0 to 2.2, BuiltinNet, BuiltinModel, BuiltinEnsemble"
        raise _unfit(f"it is of class {_name(model)}; supported are {known}")
    extra = [f"{name} ({_name(term)})" for name, term in model.potentials.items() if name != "nnp" and term._enabled]
    if extra:
        raise _unfit(f"it has terms beside the networks: {', '.join(extra)}")
    networks = _expect(model.potentials["nnp"], "potential nnp", "NNPotential")
    if not networks._enabled:
        raise _unfit("its networks are not enabled")
    shifter = _expect(model.energy_shifter, "energy shifter", "SelfEnergy")
    energies = _array(shifter.self_energies) if shifter._enabled else np.zeros(len(model.symbols))
    return tuple(model.symbols), networks.aev_computer, networks.neural_networks, energies


def _members(container: Any) -> list:
    """The networks of an ensemble that count, or the only one."""
    _expect(container, "container of networks", "Ensemble", "ANINetworks", "ANIModel")
    if _name(container) != "Ensemble":
        return [container]
    if hasattr(container, "members"):
        return [container.members[index] for index in sorted(container.active_members_idxs)]
    return list(container)


def _networks(container: Any, count: int) -> list:
    """The network of each element."""
    _expect(container, "container of networks", "ANINetworks", "ANIModel")
    found = list((container.atomics if hasattr(container, "atomics") else container).values())
    if len(found) != count:
        raise _unfit(f"it has {len(found)} networks for {count} elements")
    return found


# -------------------------------------------------------------------------------------------------------- environment vectors


def _descriptor(computer: Any, elements: tuple[str, ...]) -> ANI:
    _expect(computer, "AEV computer", "AEVComputer")
    if hasattr(computer, "EtaR"):  # 2.0 to 2.2; cutoff functions are cosines
        cutoffs, kind = (computer.Rcr, computer.Rca), "cosine"
        tensors = [getattr(computer, name) for name in ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ")]
    else:
        radial = _expect(computer.radial, "radial term", "ANIRadial")
        angular = _expect(computer.angular, "angular term", "ANIAngular")
        cutoffs, kind = (radial.cutoff, angular.cutoff), _cutoff_kind(radial.cutoff_fn)
        if _cutoff_kind(angular.cutoff_fn) != kind:
            raise _unfit("its radial and angular terms have unlike cutoff functions")
        tensors = [radial.eta, radial.shifts, angular.eta, angular.zeta, angular.shifts, angular.sections]
    parameters = [tuple(float(value) for value in _array(tensor).reshape(-1)) for tensor in tensors]
    try:
        return ANI(elements, float(cutoffs[0]), float(cutoffs[1]), *parameters, cutoff_kind=kind)
    except ValueError as error:
        raise _unfit(str(error)) from error


def _cutoff_kind(function: Any) -> str:
    _expect(function, "cutoff function", "CutoffCosine", "CutoffSmooth")
    if _name(function) == "CutoffCosine":
        return "cosine"
    if function.order != 2:
        raise _unfit(f"its cutoff function is CutoffSmooth of order {function.order}, supported: 2")
    return "exp"


# ------------------------------------------------------------------------------------------------------------------- networks


def _layers(network: Any) -> tuple[list, list[str]]:
    """Linear layers of a network, and the activation after each but the last."""
    _expect(network, "atomic network", "AtomicNetwork", "Sequential")
    if _name(network) == "AtomicNetwork":
        linear = [*network.layers, network.final_layer]
        activations = [network.activation] * len(network.layers)
    else:
        parts = list(network)
        linear, activations = parts[::2], parts[1::2]
        if len(activations) != len(linear) - 1:
            raise _unfit("its atomic networks are not linear layers with an activation in between")
    for layer in linear:
        _expect(layer, "layer of an atomic network", "Linear")
    return linear, [_activation(found) for found in activations]


def _activation(module: Any) -> str:
    """Name of an activation in `bpjax.networks.elemental.ACTIVATIONS`."""
    name = _name(module)
    if name == "GELU":
        return {"none": "gelu_erf", "tanh": "gelu"}[module.approximate]
    if name == "CELU" and module.alpha != 0.1:
        raise _unfit(f"its activation is CELU with alpha={module.alpha}, supported: 0.1")
    known = {"TightCELU": "celu", "CELU": "celu", "Tanh": "tanh", "SiLU": "silu", "ReLU": "relu", "Sigmoid": "logistic"}
    _expect(module, "activation", *known, "GELU")
    return known[name]


def _mlp(layers: tuple[list, list[str]], size: int) -> MLP:
    linear, activations = layers
    widths = [layer.out_features for layer in linear]
    if linear[0].in_features != size or widths[-1] != 1:
        raise _unfit(
            f"its networks have {linear[0].in_features} inputs and {widths[-1]} outputs, expected {size} and 1"
        )
    activation: str | tuple[str, ...] = activations[0] if len(set(activations)) == 1 else tuple(activations)
    return MLP(tuple(widths[:-1]), activation)


def _params(potential: Potential, layers: Sequence[tuple[list, list[str]]]) -> Params:
    """Arrays of one member; NumPy, because jax.numpy would round float64 to float32 where x64 is off."""
    networks, scaling = {}, {}
    for element, (linear, _) in zip(potential.elements, layers, strict=True):
        names = [*(f"hidden_{number}" for number in range(len(linear) - 1)), "output"]
        networks[element] = {name: _weights(layer) for name, layer in zip(names, linear, strict=True)}
        zeros = np.zeros(potential.descriptor.size, networks[element]["output"]["kernel"].dtype)
        scaling[element] = {"mean": zeros, "scale": zeros + 1, "min": zeros - np.inf, "max": zeros + np.inf}
    return {"networks": networks, "scaling": scaling, "energy_scale": np.array(HARTREE)}


def _weights(layer: Any) -> dict[str, np.ndarray]:
    kernel = _array(layer.weight).T.copy()
    return {"kernel": kernel, "bias": np.zeros_like(kernel[0]) if layer.bias is None else _array(layer.bias).copy()}
