"""Reference values for tests/probability_flow.rs.

    pip install numpy scipy==1.17.1
    python probability_flow_reference.py > probability_flow_reference.json

The probability-flow equation of Gaussian data with independent pixels, whose denoiser has a closed form,
solved by scipy's RK45 in float64. The time runs from 0 to 1 over the training steps 0 to 999, between which
the logarithm of the signal-to-noise ratio is scipy's PCHIP. Below tolerances of about 1e-8 rounding decides
how many calls scipy makes.
"""

import json

import numpy as np
import scipy
from scipy.integrate import solve_ivp
from scipy.interpolate import PchipInterpolator

MEAN = np.array([0.5, -0.4, 0.3, -0.2, 0.1, 0.0, -0.6, 0.7])
VARIANCE = np.array([0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.5, 3.0])
START = np.array([0.8, -1.1, 0.3, 1.7, -0.6, 0.2, -1.9, 0.9])
LAST = 999

alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, LAST + 1))
log_snr = PchipInterpolator(np.arange(LAST + 1), np.log(alpha_bar) - np.log1p(-alpha_bar))
rate = log_snr.derivative()


def slope(u, x):
    a = 1 / (1 + np.exp(-log_snr(u * LAST)))
    sample = MEAN + np.sqrt(a) * VARIANCE / (a * VARIANCE + 1 - a) * (x - np.sqrt(a) * MEAN)
    epsilon = (x - np.sqrt(a) * sample) / np.sqrt(1 - a)
    return 0.5 * rate(u * LAST) * LAST * ((1 - a) * x - np.sqrt(1 - a) * epsilon)


def main():
    cases = []
    for start, end, tolerances in [
        (999, 1, [(1e-1, 1e-1), (1e-2, 1e-2), (1e-3, 1e-3), (1e-5, 1e-5), (1e-6, 1e-8), (1e-3, 1e-6)]),
        (999, 0, [(1e-4, 1e-4)]),
        (700, 300, [(1e-2, 0.0), (1e-4, 1e-4)]),
        (1, 999, [(1e-4, 1e-4)]),
    ]:
        for rtol, atol in tolerances:
            found = solve_ivp(slope, (start / LAST, end / LAST), START, method="RK45", rtol=rtol, atol=atol)
            assert found.success
            cases.append(
                {
                    "from": start,
                    "to": end,
                    "rtol": rtol,
                    "atol": atol,
                    "calls": found.nfev,
                    "steps": len(found.t) - 1,
                    "end": found.y[:, -1].tolist(),
                }
            )
    values = {"mean": MEAN.tolist(), "variance": VARIANCE.tolist(), "start": START.tolist()}
    print(json.dumps({"scipy": scipy.__version__, **values, "cases": cases}))


main()
