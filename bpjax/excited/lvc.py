r"""Linear vibronic coupling models of any number of states and modes.

.. math:: H(Q) = \tfrac12 \sum_m \omega_m Q_m^2 + C + \sum_m Q_m \Lambda_m

with dimensionless normal coordinates Q, in atomic units (hartree). The diagonal of :math:`\Lambda` holds the gradients
:math:`\kappa`, the rest the couplings :math:`\lambda`. The kinetic energy is :math:`\frac12 \sum_m \omega_m P_m^2`: mode
m has the mass :math:`1/\omega_m`.

References: H. Koppel, W. Domcke, L. S. Cederbaum, Adv. Chem. Phys. 57, 59 (1984), doi:10.1002/9780470142813.ch2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bpjax.precision import unrounded
from bpjax.units import HARTREE


@partial(jax.tree_util.register_dataclass, data_fields=["frequencies", "constant", "linear"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class LinearVibronic:
    """A linear vibronic coupling model; call it for the diabatic matrix. Use `build`, which checks.

    Attributes:
      frequencies: omega in hartree.
      constant: C in hartree, symmetric.
      linear: Lambda in hartree, a symmetric matrix for each mode.
    """

    frequencies: Any  # arrays (M,), (S, S), (M, S, S), or what JAX puts in their place
    constant: Any
    linear: Any

    def __call__(self, Q: Float[Array, " M"]) -> Float[Array, "S S"]:
        """Diabatic matrix in hartree at dimensionless coordinates."""
        harmonic = 0.5 * jnp.sum(self.frequencies * Q * Q)
        identity = jnp.eye(self.constant.shape[0], dtype=self.constant.dtype)
        return harmonic * identity + self.constant + jnp.einsum("m,mij->ij", Q, self.linear)

    @property
    def masses(self) -> Float[Array, " M"]:
        """Mass of each coordinate, 1/omega."""
        return 1 / self.frequencies

    @classmethod
    def build(cls, frequencies: Any, constant: Any, linear: Any) -> LinearVibronic:
        """A model from numbers (M,), (S, S), (M, S, S), with checks.

        Raises:
          ValueError: shapes that do not fit, complex or non-finite numbers, matrices that are not symmetric.
        """
        w, C, L = (
            _real_array(name, x)
            for name, x in (("frequencies", frequencies), ("constant", constant), ("linear", linear))
        )
        S = C.shape[0] if C.ndim else 0
        for name, x, shape in (("frequencies", w, (w.size,)), ("constant", C, (S, S)), ("linear", L, (w.size, S, S))):
            if x.shape != shape:
                raise ValueError(f"LinearVibronic {name}: must have shape {shape}, got {x.shape}")
        for name, x in (("constant", C), ("linear", L)):
            if not np.array_equal(x, np.swapaxes(x, -1, -2)):
                raise ValueError(f"LinearVibronic {name}: must be symmetric")
        return cls(*unrounded((w, C, L)))


def _real_array(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if np.iscomplexobj(array):
        raise ValueError(f"LinearVibronic {name}: must be real; spin-orbit couplings go into `VibronicMolecule.soc`")
    array = array.astype(float)
    if not np.isfinite(array).all():
        raise ValueError(f"LinearVibronic {name}: must be finite")
    return array


def pyrazine_3_modes() -> LinearVibronic:
    """Pyrazine, S1 and S2, modes v1, v6a (tuning) and v10a (coupling), in this order.

    References: R. Schneider and W. Domcke, Chem. Phys. Lett. 150, 235 (1988), doi:10.1016/0009-2614(88)80034-4.
    """
    kappa = [[0.037, -0.105], [-0.254, 0.149]]
    linear = np.zeros((3, 2, 2))
    linear[:2, 0, 0], linear[:2, 1, 1] = kappa
    linear[2] = [[0, 0.262], [0.262, 0]]
    eV = 1 / HARTREE
    return LinearVibronic.build(eV * np.array([0.126, 0.074, 0.118]), eV * np.diag([3.94, 4.84]), eV * linear)


def pyrazine_4_modes() -> LinearVibronic:
    """Pyrazine, S1 and S2 at -0.423 and +0.423 eV, modes v10a (coupling), v6a, v1 and v9a (tuning): the linear part of 24 modes.

    References: A. Raab, G. A. Worth, H.-D. Meyer, L. S. Cederbaum, J. Chem. Phys. 110, 936 (1999), doi:10.1063/1.478061.
    """
    linear = np.zeros((4, 2, 2))
    linear[0] = [[0, 0.20804], [0.20804, 0]]
    linear[1:, 0, 0] = [0.09806, 0.05033, 0.14521]
    linear[1:, 1, 1] = [-0.13545, 0.171, 0.03746]
    eV = 1 / HARTREE
    return LinearVibronic.build(
        eV * np.array([0.1139, 0.0739, 0.1258, 0.1525]), eV * np.diag([-0.423, 0.423]), eV * linear
    )


# ------------------------------------------------------------------------------------------- spin-boson


def spin_boson(
    bias: float, coupling: float, frequencies: Sequence[float] | np.ndarray, couplings: Sequence[float] | np.ndarray
) -> LinearVibronic:
    r"""Two states in a bath of oscillators.

    .. math:: H = \epsilon \sigma_z + \Delta \sigma_x + \sum_m \tfrac12 \omega_m^2 q_m^2 + \sigma_z \sum_m c_m q_m

    Args:
      bias: epsilon, half the energy difference of the states.
      coupling: Delta.
      frequencies: omega of the bath.
      couplings: c for mass-weighted coordinates q of unit mass.

    Returns: the model in dimensionless :math:`Q = \sqrt\omega q`, where the coupling is :math:`c/\sqrt\omega`; the units
      are the caller's.

    References: A. J. Leggett et al., Rev. Mod. Phys. 59, 1 (1987), doi:10.1103/RevModPhys.59.1.
    """
    w, c = np.asarray(frequencies, float), np.asarray(couplings, float)
    if w.shape != c.shape or not (w > 0).all():
        raise ValueError(
            f"spin_boson frequencies: must be positive, one for each coupling, got shapes {w.shape} and {c.shape}"
        )
    linear = (c / np.sqrt(w))[:, None, None] * np.diag([1.0, -1.0])
    return LinearVibronic.build(w, [[bias, coupling], [coupling, -bias]], linear)


def ohmic_bath(kondo: float, cutoff: float, modes: int, highest: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    r"""Modes of an ohmic bath with exponential cutoff.

    .. math:: J(\omega) = \frac\pi2 \xi\, \omega\, e^{-\omega/\omega_c}
       \approx \frac\pi2 \sum_m \frac{c_m^2}{\omega_m} \delta(\omega - \omega_m)

    Args:
      kondo: xi.
      cutoff: omega_c.
      modes: how many.
      highest: largest frequency, 5 omega_c if not given.

    Returns: frequencies, couplings for `spin_boson`.

    References: N. Makri, J. Phys. Chem. B 103, 2823 (1999), doi:10.1021/jp9847540.
    """
    for name, value in (("kondo", kondo), ("cutoff", cutoff), ("modes", modes)):
        if not value > 0:
            raise ValueError(f"ohmic_bath {name}={value}: must be positive")
    top = 5 * cutoff if highest is None else highest
    w_0 = -cutoff * math.expm1(-top / cutoff) / modes
    w = -cutoff * np.log1p(-np.arange(1, modes + 1) * w_0 / cutoff)
    return w, w * np.sqrt(kondo * w_0)


def debye_bath(reorganisation: float, cutoff: float, modes: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Modes of a Debye (Drude) bath.

    .. math:: J(\omega) = \frac{2 \lambda\, \omega\, \omega_c}{\omega^2 + \omega_c^2}, \qquad
       \lambda = \sum_m \frac{c_m^2}{2 \omega_m^2}

    Each mode stands for an equal share of :math:`\lambda`, :math:`\omega_m = \omega_c \tan \frac{\pi (m - 1/2)}{2 M}`.

    Args:
      reorganisation: lambda.
      cutoff: omega_c.
      modes: M.

    References: I. R. Craig, M. Thoss, H. Wang, J. Chem. Phys. 127, 144503 (2007), doi:10.1063/1.2772265.
    """
    for name, value in (("reorganisation", reorganisation), ("cutoff", cutoff), ("modes", modes)):
        if not value > 0:
            raise ValueError(f"debye_bath {name}={value}: must be positive")
    w = cutoff * np.tan(0.5 * math.pi * (np.arange(1, modes + 1) - 0.5) / modes)
    return w, w * math.sqrt(2 * reorganisation / modes)
