r"""Exact quantum dynamics of any diabatic model of one or two coordinates: split operator on a grid.

.. math:: e^{-\mathrm i H \Delta t} \approx e^{-\mathrm i V \Delta t/2}\, e^{-\mathrm i T \Delta t}\, e^{-\mathrm i V \Delta t/2}

V is diagonal on the grid (a matrix of the electronic states at each point), T in momentum space. Each step is unitary,
its error of third order in the step. The grid is periodic: it must be wide enough that nothing comes round. Atomic units
(:math:`\hbar = 1`).

References: M. D. Feit, J. A. Fleck, A. Steiger, J. Comput. Phys. 47, 412 (1982), doi:10.1016/0021-9991(82)90091-2.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from bpjax.excited.adiabatic import Diabatic
from bpjax.excited.eigen import eigh
from bpjax.spec import check


@dataclass(frozen=True)
class Grid:
    """A periodic grid of one or more coordinates.

    Attributes:
      low, high: bounds of each coordinate in bohr; `high` itself is the image of `low`.
      points: of each coordinate; powers of two are fastest.

    Raises:
      ValueError: empty ranges, or numbers that do not fit each other.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    points: tuple[int, ...]

    def __post_init__(self):
        same = len(self.low) == len(self.high) == len(self.points) > 0
        check(same, "Grid low, high, points", (self.low, self.high, self.points), "must be of one length")
        check(
            all(a < b for a, b in zip(self.low, self.high, strict=True)),
            "Grid high",
            self.high,
            f"must be above {self.low}",
        )
        check(all(n > 1 for n in self.points), "Grid points", self.points, "must be more than one for each coordinate")

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance of neighbouring points in bohr. Momenta up to pi over it can be represented."""
        return tuple((b - a) / n for a, b, n in zip(self.low, self.high, self.points, strict=True))

    @property
    def element(self) -> float:
        """Volume that belongs to a point."""
        return float(np.prod(self.spacing))

    def coordinates(self) -> Float[np.ndarray, "*P D"]:
        """Coordinates of all points."""
        axes = [a + h * np.arange(n) for a, h, n in zip(self.low, self.spacing, self.points, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)

    def momenta(self) -> Float[np.ndarray, "*P D"]:
        """Momenta of all points of the transformed grid, in the order of the fast Fourier transform."""
        axes = [2 * np.pi * np.fft.fftfreq(n, h) for n, h in zip(self.points, self.spacing, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def gaussian_packet(
    grid: Grid,
    centre: Float[Array, " D"],
    momentum: Float[Array, " D"],
    width: Float[Array, " D"],
    state: Complex[Array, " S"],
) -> Complex[Array, "*P S"]:
    r"""Normalised packet :math:`\exp(-(x - x_0)^2 / 4\sigma^2 + \mathrm i\, p_0 (x - x_0))` times an electronic state.

    Args:
      grid: the grid.
      centre: x_0 in bohr.
      momentum: p_0.
      width: sigma, the standard deviation of |psi|^2; that of the momentum is 1/(2 sigma).
      state: amplitudes of the diabatic states.
    """
    x = jnp.asarray(grid.coordinates()) - centre
    psi = jnp.exp(jnp.sum(-((x / width) ** 2) / 4 + 1j * momentum * x, axis=-1))[..., None] * state
    return psi / jnp.sqrt(jnp.sum(jnp.abs(psi) ** 2) * grid.element)


def propagate(
    model: Diabatic, grid: Grid, masses: Float[Array, " D"], psi: Complex[Array, "*P S"], dt: float, steps: int
) -> Complex[Array, "*P S"]:
    """The packet after `steps` steps of `dt` atomic units of time.

    Args:
      model: diabatic model of coordinates (D,).
      grid: the grid; propagation is exact for momenta below pi/spacing and as long as nothing reaches its ends.
      masses: of each coordinate, in electron masses.
      psi: packet on the grid.
      dt: step; times the largest energy of interest it should be well below 1.
      steps: how many.
    """
    axes = tuple(range(len(grid.points)))
    half, full = potential_propagator(model, grid, 0.5 * dt), potential_propagator(model, grid, dt)
    kinetic = jnp.exp(-0.5j * dt * jnp.sum(jnp.asarray(grid.momenta()) ** 2 / masses, axis=-1))[..., None]

    def drift(psi):
        return jnp.fft.ifftn(kinetic * jnp.fft.fftn(psi, axes=axes), axes=axes)

    def step(_, psi):  # two half steps with the potential are one whole step
        return _apply(full, drift(psi))

    psi = jax.lax.fori_loop(0, steps, step, _apply(half, psi))
    return _apply(half.conj().swapaxes(-1, -2), psi)


def potential_propagator(model: Diabatic, grid: Grid, dt: float) -> Complex[Array, "*P S S"]:
    r""":math:`e^{-\mathrm i V \Delta t}` at every point."""

    def at(R):
        E, U = eigh(model(R))
        return (U * jnp.exp(-1j * E * dt)) @ U.conj().T

    x = jnp.asarray(grid.coordinates())
    flat = jax.lax.map(at, x.reshape(-1, x.shape[-1]), batch_size=1024)
    return flat.reshape(*grid.points, *flat.shape[1:])


def _apply(matrices, psi):
    return jnp.einsum("...ij,...j->...i", matrices, psi)


def populations(grid: Grid, psi: Complex[Array, "*P S"]) -> Float[Array, " S"]:
    """Populations of the diabatic states; their sum is the norm."""
    return jnp.sum(jnp.abs(psi) ** 2, axis=tuple(range(psi.ndim - 1))) * grid.element


def adiabatic_packet(model: Diabatic, grid: Grid, psi: Complex[Array, "*P S"]) -> Complex[Array, "*P S"]:
    """Amplitudes of the adiabatic states at every point; their phases are arbitrary from point to point."""
    x = jnp.asarray(grid.coordinates())
    U = jax.lax.map(lambda R: eigh(model(R))[1], x.reshape(-1, x.shape[-1]), batch_size=1024)
    return _apply(U.conj().swapaxes(-1, -2).reshape(*grid.points, *U.shape[1:]), psi)


class Scattering(NamedTuple):
    """Probabilities at given momenta, for each adiabatic state.

    Attributes:
      transmitted, reflected: their sum over the states and the two is 1.
    """

    transmitted: Float[Array, "K S"]
    reflected: Float[Array, "K S"]


def scattering(
    model: Diabatic,
    mass: float,
    momenta: Float[Array, " K"],
    packet: Complex[Array, "P S"],
    grid: Grid,
    edge: float,
    ramp: float,
    dt: float,
    steps: int,
) -> Scattering:
    r"""Energy-resolved probabilities of a one-dimensional model from one wave packet, which comes from the left on the
    lowest state.

    What leaves on state i with momentum k' had the energy :math:`k^2/2m + E_0 = k'^2/2m + E_i`, hence

    .. math:: T_i(k) = \frac{k}{k'}\, \frac{|\phi_i(k')|^2}{|\phi_\text{in}(k)|^2} .

    Args:
      model: must be constant beyond :math:`\pm` `edge`, or nearly so.
      mass: in electron masses.
      momenta: k, well inside those of the packet; the slowest wave of any open state must have left by the end.
      packet: at the start, to the left of -edge, moving to the right on the lowest adiabatic state.
      grid: of one coordinate.
      edge, ramp: in bohr; waves beyond `edge` count as having left, gradually over a distance of `ramp`. The slowest wave
        of interest must be past both. A sharp edge through a still slower one would disturb all momenta.
      dt, steps: as in `propagate`.

    References: G. G. Balint-Kurti, R. N. Dixon, C. C. Marston, Int. Rev. Phys. Chem. 11, 317 (1992),
      doi:10.1080/01442359209353274.
    """
    x = jnp.asarray(grid.coordinates()[:, 0])
    final = propagate(model, grid, jnp.asarray([mass]), packet, dt, steps)
    k = momenta
    incoming = _spectrum(x, packet @ eigh(model(x[:1]))[1].conj()[:, :1], k[:, None])[:, 0]

    def channel(end, sign):
        window = 0.5 - 0.5 * jnp.cos(jnp.pi * jnp.clip((sign * x - edge) / ramp, 0.0, 1.0))
        E, U = eigh(model(end))
        E_in = eigh(model(x[:1]))[0][0]
        k_squared = k[:, None] ** 2 + 2 * mass * (E_in - E)
        is_open = k_squared > 0
        k_out = jnp.sqrt(jnp.where(is_open, k_squared, 1.0))
        outgoing = _spectrum(x, (window[:, None] * final) @ U.conj(), sign * k_out)
        ratio = k[:, None] / k_out * jnp.abs(outgoing) ** 2 / jnp.abs(incoming[:, None]) ** 2
        return jnp.where(is_open, ratio, 0.0)

    return Scattering(channel(x[-1:], 1.0), channel(x[:1], -1.0))


def _spectrum(x, psi, k):
    """Fourier integral of psi (P, S) at momenta k (K, S), up to a constant factor."""
    return jax.lax.map(lambda k: jnp.sum(psi * jnp.exp(-1j * x[:, None] * k[None, :]), axis=0), k)
