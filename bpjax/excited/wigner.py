r"""Initial conditions: normal modes of a Hessian, and coordinates and velocities from their Wigner function.

The Wigner function of a harmonic oscillator at temperature T is a Gaussian in position and momentum. In dimensionless
coordinates both have the variance

.. math:: \langle Q^2 \rangle = \langle P^2 \rangle = \tfrac12 \coth \frac{\hbar\omega}{2 k T} \to \tfrac12 .

Host code in numpy. Units are those of the model, "atomic" or "ev-angstrom", see `bpjax.units.ELECTRONIC`.

References: E. Wigner, Phys. Rev. 40, 749 (1932), doi:10.1103/PhysRev.40.749; M. Hillery, R. F. O'Connell, M. O. Scully, E. P.
Wigner, Phys. Rep. 106, 121 (1984).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bpjax.errors import StructureError
from bpjax.spec import check_seed
from bpjax.units import ELECTRONIC

RIGID = 1e-6
"""Part of a rigid motion below which it does not exist: the third rotation of a linear molecule."""


class HarmonicModes(NamedTuple):
    r"""Normal modes, :math:`R = R_0 + M^{-1/2} K q`; modes of zero frequency are left out.

    Attributes:
      reference: R_0.
      masses: of every coordinate.
      frequencies: omega, ascending, per unit of time.
      modes: K, a column for each mode, orthonormal; rows are all coordinates.
    """

    reference: Float[np.ndarray, "*R"]
    masses: Float[np.ndarray, "*R"]
    frequencies: Float[np.ndarray, " M"]
    modes: Float[np.ndarray, "D M"]


def normal_modes(reference: Any, hessian: Any, masses: Any, lowest: float = 0.0) -> HarmonicModes:
    r"""Normal modes from second derivatives of the energy at a minimum, :math:`M^{-1/2} H M^{-1/2} K = K \omega^2`.

    Translations and rotations of a molecule, coordinates (N, 3), are projected out: six modes, or five if it is linear.

    Args:
      reference: the minimum.
      hessian: second derivatives, (D, D) or (*R, *R).
      masses: broadcast to the coordinates.
      lowest: modes below this frequency are left out as well.

    Raises:
      StructureError: shapes that do not fit, values that are not finite, a Hessian that is not symmetric or has imaginary
        frequencies.
    """
    R = np.asarray(reference, float)
    D = R.size
    if np.size(hessian) != D * D:
        raise StructureError(
            f"must have {D} x {D} elements for coordinates {R.shape}, got {np.shape(hessian)}", field="hessian"
        )
    H = np.asarray(hessian, float).reshape(D, D)
    m = np.broadcast_to(np.asarray(masses, float), R.shape)
    if not np.isfinite(H).all() or not (np.isfinite(m) & (m > 0)).all():
        raise StructureError("must be finite, and masses positive", field="hessian, masses")
    if np.abs(H - H.T).max() > 1e-4 * max(np.abs(H).max(), np.finfo(float).tiny):
        raise StructureError(f"must be symmetric; elements differ by {np.abs(H - H.T).max():.3g}", field="hessian")
    weighted = 0.5 * (H + H.T) / np.sqrt(np.outer(m, m))
    rigid = rigid_motions(R, m)
    free = np.linalg.svd(rigid, full_matrices=True)[0][:, rigid.shape[1] :] if rigid.shape[1] else np.eye(D)
    squares, K = np.linalg.eigh(free.T @ weighted @ free)
    w = np.sign(squares) * np.sqrt(np.abs(squares))
    keep = w > lowest
    scale = np.abs(w).max(initial=0)
    if (w < -1e-6 * scale).any() or (lowest == 0 and (w < 1e-6 * scale).any()):
        worst = ", ".join(f"{x:.4g}" for x in w[w < 1e-6 * scale][:3])
        raise StructureError(
            f"is not that of a minimum: frequencies {worst} (negative: imaginary); the highest is {scale:.4g}",
            field="hessian",
        )
    return HarmonicModes(R, m, w[keep], (free @ K)[:, keep])


def rigid_motions(R: Float[np.ndarray, "*R"], masses: Float[np.ndarray, "*R"]) -> Float[np.ndarray, "D n"]:
    """Orthonormal mass-weighted translations and rotations of a molecule, columns; none for the coordinates (D,) of a model."""
    if R.ndim != 2 or R.shape[1] != 3:
        return np.zeros((R.size, 0))
    root = np.sqrt(masses)
    x = R - (masses * R).sum(axis=0) / masses.sum(axis=0)
    moves = [root * np.eye(3)[a] for a in range(3)] + [root * np.cross(np.eye(3)[a], x) for a in range(3)]
    U, size, _ = np.linalg.svd(np.stack([move.ravel() for move in moves], axis=1), full_matrices=False)
    return U[:, size > RIGID * size[0]]


def wigner_variance(frequencies: Any, temperature: float, hbar: float, boltzmann: float) -> np.ndarray:
    """Variance of the dimensionless position and momentum of each mode; one half at 0 K."""
    w = np.asarray(frequencies, float)
    if temperature == 0:
        return np.full_like(w, 0.5)
    return np.asarray(0.5 / np.tanh(0.5 * hbar * w / (boltzmann * temperature)))


def wigner_samples(
    modes: HarmonicModes, number: int, temperature: float = 0.0, units: str = "atomic", seed: int = 0
) -> tuple[Float[np.ndarray, "T *R"], Float[np.ndarray, "T *R"]]:
    r"""Coordinates and velocities from the Wigner function of the normal modes.

    .. math:: R = R_0 + M^{-1/2} K \sqrt{\hbar/\omega}\, Q, \qquad v = M^{-1/2} K \sqrt{\hbar\omega}\, P

    Args:
      modes: from `normal_modes`.
      number: of samples.
      temperature: in K.
      units: of the modes, "atomic" or "ev-angstrom".
      seed: of the random numbers.

    Raises:
      ValueError: a number below 1, a negative temperature, unknown units.
    """
    if number < 1:
        raise ValueError(f"wigner_samples number={number}: must be at least 1")
    if not (np.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"wigner_samples temperature={temperature}: must be finite and at least 0 K")
    check_seed(seed, "wigner_samples seed")
    if units not in ELECTRONIC:
        raise ValueError(f"wigner_samples units={units!r}: must be {', '.join(ELECTRONIC)}")
    constants, w = ELECTRONIC[units], modes.frequencies
    width = np.sqrt(wigner_variance(w, temperature, constants.hbar, constants.boltzmann))
    Q, P = width * np.random.default_rng(seed).normal(size=(2, number, len(w)))
    root = np.sqrt(modes.masses)
    shape = (number, *modes.reference.shape)
    shift = (Q * np.sqrt(constants.hbar / w)) @ modes.modes.T
    speed = (P * np.sqrt(constants.hbar * w)) @ modes.modes.T
    return modes.reference + shift.reshape(shape) / root, speed.reshape(shape) / root
