"""The extended Kalman filter as its formula stands, in NumPy; and symmetry functions and networks without this package."""

from itertools import pairwise

import numpy as np


class ReferenceFilter:
    """One filter, float64: X = P H, A = H^T X + R, K = X A^-1, with H (n, m) as in the papers."""

    def __init__(self, options, w, per_epoch):
        self.o, self.w, self.per_epoch = options, np.array(w, float), per_epoch
        self.P = np.eye(len(w)) / options.epsilon
        self.eta, self.q, self.lam = options.eta, options.q0, options.lambda_0

    def update(self, H, xi):
        o, fading = self.o, self.o.kind == "fading"
        if self.eta < o.eta_max:
            self.eta *= np.exp(o.eta_tau / self.per_epoch)
        X = self.P @ H
        A = H.T @ X + np.eye(H.shape[1]) * (self.lam if fading else 1) / self.eta
        K = X @ np.linalg.inv(A)
        self.P = self.P - K @ X.T
        if fading:
            self.P /= self.lam
        self.P += self.q * np.eye(len(self.P))
        self.w = self.w + K @ xi
        if self.q > o.q_min:
            self.q *= np.exp(-o.q_tau / self.per_epoch)
        if fading:
            self.lam = o.nue * self.lam + 1 - o.nue


def complex_step(function, x):
    """Derivatives of an analytic function with each of its arguments, exact to rounding, along the last axis."""
    step = 1e-40
    columns = []
    for k in range(x.size):
        shifted = x.astype(complex)
        shifted[k] += 1j * step
        columns.append(function(shifted).imag / step)
    return np.stack(columns, axis=-1)


def network(w, shape, x):
    """Outputs (N,) and derivatives with the inputs (N, D) of a tanh network, for weights flat as JAX sorts them by name."""
    layers, start = [], 0
    for fan_in, fan_out in pairwise(shape):
        bias, start = w[start : start + fan_out], start + fan_out
        kernel, start = w[start : start + fan_in * fan_out].reshape(fan_in, fan_out), start + fan_in * fan_out
        layers.append((kernel, bias))
    values = [x]
    for kernel, bias in layers[:-1]:
        values.append(np.tanh(values[-1] @ kernel + bias))
    out = (values[-1] @ layers[-1][0] + layers[-1][1])[:, 0]
    back = np.broadcast_to(layers[-1][0][:, 0], values[-1].shape)
    for (kernel, _), value in zip(layers[-2::-1], values[:0:-1], strict=True):
        back = (back * (1 - value**2)) @ kernel.T
    return out, back


def symmetry_functions(R, symbols, lines):
    """Symmetry functions (N, D) of types 2 and 3 with the cutoff tanh^3, of a cluster; lines as in input.nn, per element."""
    d = R[None, :, :] - R[:, None, :]
    r = np.sqrt(np.sum(d * d, axis=-1) + np.eye(len(R)))
    own = np.eye(len(R), dtype=bool)

    def cut(r_c):
        return np.where((r.real < r_c) & ~own, np.tanh(1 - r / r_c) ** 3, 0)

    def column(i, line):
        kind, rest = line[0], line[1:]
        if kind == 2:
            e, eta, r_s, r_c = rest
            here = symbols == e
            return np.sum((np.exp(-eta * (r[i] - r_s) ** 2) * cut(r_c)[i])[here])
        e1, e2, eta, lam, zeta, r_c = rest
        f = cut(r_c)
        total = 0
        for j in np.flatnonzero((f[i] != 0) & np.isin(symbols, (e1, e2))):
            k = np.arange(len(R))
            k = k[(k > j) & (f[i] != 0) & (f[j] != 0)]
            k = k[((symbols[j] == e1) & (symbols[k] == e2)) | ((symbols[j] == e2) & (symbols[k] == e1))]
            cosine = d[i, k] @ d[i, j] / (r[i, j] * r[i, k])
            squares = r[i, j] ** 2 + r[i, k] ** 2 + r[j, k] ** 2
            total += np.sum((1 + lam * cosine) ** zeta * np.exp(-eta * squares) * f[i, j] * f[i, k] * f[j, k])
        return 2.0 ** (1 - zeta) * total

    return [np.array([column(i, line) for line in lines[symbols[i]]]) for i in range(len(R))]
