"""Reference values for src/proximal.rs.

    pip install pyproximal==0.13.0 numpy==2.4.6 scipy==1.17.1
    python proximal_reference.py > proximal_reference.json

All values come from pyproximal, in float64, but those of the elastic net, which pyproximal has not:
its definition is minimised element by element with scipy. The inputs are float32 numbers.
"""

import json

import numpy as np
import pyproximal
import scipy
from scipy.optimize import minimize_scalar

ROWS, COLUMNS = 5, 7
N = ROWS * COLUMNS
TIGHT = dict(maxiter=10_000, xtol=1e-14)


def elastic_net(x, step, l1, l2):
    def minimise(v):
        f = lambda p: l1 * abs(p) + l2 / 2 * p * p + (p - v) ** 2 / (2 * step)
        # The kink at 0 is a candidate that a smooth search only comes near to.
        best = minimize_scalar(f, bounds=(-abs(v) - 1, abs(v) + 1), method="bounded",
                               options=dict(xatol=1e-12)).x
        return best if f(best) < f(0.0) else 0.0

    return np.array([minimise(v) for v in x])


def main():
    random = np.random.default_rng(7)
    x = random.normal(scale=1.5, size=N).astype(np.float32).astype(np.float64)
    # A group that vanishes, and one element that does.
    x[2::COLUMNS] *= 0.125
    x[3] = 0.0
    operators = {
        "l1": (pyproximal.L1(sigma=0.7), 0.9),
        "squared_l2": (pyproximal.L2(sigma=0.7), 0.9),
        "l2": (pyproximal.Euclidean(sigma=2.5), 0.9),
        "l2_inside": (pyproximal.Euclidean(sigma=25.0), 0.9),
        "group_columns": (pyproximal.L21(ndim=ROWS, sigma=1.5), 0.9),
        "nuclear": (pyproximal.Nuclear(dim=(ROWS, COLUMNS), sigma=2.0), 0.9),
        "l2_ball": (pyproximal.EuclideanBall(0.0, 2.0), 1.0),
        "l1_ball": (pyproximal.L1Ball(N, 6.0, **TIGHT), 1.0),
        "linf_ball": (pyproximal.Box(-0.6, 0.6), 1.0),
        "box": (pyproximal.Box(-0.25, 1.5), 1.0),
        "simplex": (pyproximal.Simplex(N, 2.0, **TIGHT), 1.0),
    }
    valued = ["l1", "squared_l2", "l2", "group_columns", "nuclear"]
    out = {
        "versions": {m.__name__: m.__version__ for m in (pyproximal, np, scipy)},
        "shape": [ROWS, COLUMNS],
        "x": x.tolist(),
        "prox": {
            name: {"step": step, "result": np.ravel(operator.prox(x.copy(), step)).tolist()}
            for name, (operator, step) in operators.items()
        },
        "value": {name: float(operators[name][0](x)) for name in valued},
    }
    out["prox"]["elastic_net"] = {
        "step": 0.9,
        "result": elastic_net(x, 0.9, 0.7, 1.3).tolist(),
    }
    print(json.dumps(out))


main()
