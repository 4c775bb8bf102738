"""Descents of Barron PDE on a full grid by NumPy's FFT: python3 barron_pde.py > barron_pde.json

-div(a grad u + alpha (grad u)^3) + c u + beta u^3 = f on the unit square with periodic borders, with
a = 1 + 0.3 cos(2 pi x), c = 2 + 0.5 cos(2 pi (x + y)), f = 30 cos(2 pi x + 0.4) + 20 sin(2 pi (x - 2 y)).
All with 96 points a side, without truncation: 8 steps at the given rates from 0.
"""

import json

import numpy as np

n = 96
k = np.fft.fftfreq(n, 1 / n)
wx, wy = 2 * np.pi * np.meshgrid(k, k, indexing="ij")[0], 2 * np.pi * np.meshgrid(k, k, indexing="ij")[1]
x, y = np.meshgrid(np.arange(n) / n, np.arange(n) / n, indexing="ij")
a = 1 + 0.3 * np.cos(2 * np.pi * x)
c = 2 + 0.5 * np.cos(2 * np.pi * (x + y))
f = 30 * np.cos(2 * np.pi * x + 0.4) + 20 * np.sin(2 * np.pi * (x - 2 * y))
symbol = 1 + wx**2 + wy**2


def hat(u):
    return np.fft.fft2(u) / n**2


def values(h):
    return np.real(np.fft.ifft2(h * n**2))


def descent(alpha, beta, rate):
    u = np.zeros((n, n))
    history = []
    for step in range(9):
        h = hat(u)
        p = [values(1j * w * h) for w in (wx, wy)]
        density = 0.5 * c * u**2 + beta / 4 * u**4 - f * u
        flow = 0
        for w, slope in zip((wx, wy), p):
            density = density + 0.5 * a * slope**2 + alpha / 4 * slope**4
            flow = flow + 1j * w * hat(a * slope + alpha * slope**3)
        r = hat(c * u + beta * u**3 - f) - flow
        history.append(
            [
                float(density.mean()),
                float(np.sqrt((np.abs(r) ** 2 / symbol).sum())),
                float((np.sqrt(symbol - 1) + 1).ravel() @ np.abs(h).ravel()),
            ]
        )
        u = u - rate * values(r / symbol)
    return {"alpha": alpha, "beta": beta, "rate": rate, "history": history}


print(json.dumps({"numpy": np.__version__, "runs": [descent(0, 0, 0.6), descent(0, 2, 0.5), descent(0.02, 1, 0.2)]}, indent=1))
