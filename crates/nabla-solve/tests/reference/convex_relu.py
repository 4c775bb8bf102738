"""Optima of convex programs of two-layer ReLU networks, by CVXPY and by the authors' code.

python convex_relu.py OFFICIAL > convex_relu.json

OFFICIAL is `mosek_convex_training.py` of https://github.com/Bai-YT/Convex-NN-Training (unofficial
implementation by the first author), which is run with Clarabel in place of MOSEK.

The data are 24 examples of scikit-learn's breast cancer data: the first two principal components of
the standardised features, divided by their largest absolute value.

Every optimum is Clarabel's, and SCS, a first-order method, has to agree within 1e-5.

Made with Python 3.11.7, cvxpy 1.9.3, clarabel 0.11.1, scs 3.3.1, numpy 2.4.6, scikit-learn 1.9.1.
"""

import importlib.util
import json
import sys
import types

import cvxpy as cp
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

N, BETA, EPSILON, PATTERNS = 24, 0.05, 0.04, 14
rng = np.random.default_rng(0)

data = load_breast_cancer()
x = PCA(2).fit_transform(StandardScaler().fit_transform(data.data))
pick = rng.permutation(len(x))[:N]
x, y = x[pick], 2.0 * data.target[pick] - 1.0
x = np.round(x / np.abs(x).max(), 6)
X = np.hstack([x, np.ones((N, 1))])
n, d = X.shape


def patterns(count):
    gates, seen = [], set()
    while len(gates) < count:
        h = rng.standard_normal(d)
        key = tuple(X @ h >= 0)
        if key not in seen:
            seen.add(key)
            gates.append(h)
    return np.array(gates)


def losses(z, residual, away):
    """The worst losses: z = y times output, residual = output - y, away = ε ‖p_k‖₁."""
    return {
        "squared": 0.5 * cp.sum_squares(cp.abs(residual) + away),
        "hinge": cp.sum(cp.pos(1 - z + away)),
        "binary-cross-entropy": cp.sum(cp.logistic(2 * (away - z))),
    }


def solve(D, epsilon, gated, loss):
    P = D.shape[1]
    V = cp.Variable((d, P))
    W = cp.Variable((d, P)) if not gated else np.zeros((d, P))
    out = cp.sum(cp.multiply(D, X @ (V - W)), axis=1)
    p = D @ (V - W).T  # [n, d]
    away = epsilon * cp.norm1(p[:, : d - 1], axis=1)
    regularizer = cp.mixed_norm(V.T, 2, 1) + (0 if gated else cp.mixed_norm(W.T, 2, 1))
    constraints = []
    if not gated:
        E = 2 * D - 1
        for U in (V, W):
            margin = epsilon * cp.reshape(cp.norm1(U[: d - 1], axis=0), (1, P), order="F")
            constraints.append(cp.multiply(E, X @ U) >= np.ones((n, 1)) @ margin)
    objective = losses(cp.multiply(y, out), out - y, away)[loss] + BETA * regularizer
    problem = cp.Problem(cp.Minimize(objective), constraints)
    optimum = problem.solve(solver=cp.CLARABEL)
    check = problem.solve(solver=cp.SCS, eps=1e-8, max_iters=200_000)
    assert abs(optimum - check) < 1e-5, (optimum, check)
    return optimum


gates = patterns(PATTERNS)
D = (X @ gates.T >= 0).astype(float)
names = ["squared", "hinge", "binary-cross-entropy"]
optima = {}
for loss in names:
    optima[loss] = {
        "relu": solve(D, 0.0, False, loss),
        "gated": solve(D, 0.0, True, loss),
        "robust": solve(D, EPSILON, False, loss),
    }

# The authors' code, on patterns that it draws itself.
sys.modules["mosek"] = types.ModuleType("mosek")
cp.MOSEK = cp.CLARABEL
spec = importlib.util.spec_from_file_location("official", sys.argv[1])
official = importlib.util.module_from_spec(spec)
spec.loader.exec_module(official)
authors = {}
stdout, sys.stdout = sys.stdout, sys.stderr
for loss, name, labels in [
    ("squared", "mse", y),
    ("binary-cross-entropy", "bce", (y + 1) / 2),
]:
    np.random.seed(1)
    v, w, value, dmat = official.nnfit_cvx(
        X, labels, 20, beta=BETA, solver=cp.CLARABEL, loss_type=name, verbose=False
    )
    u, alpha = official.recover_weights(v, w)
    authors[loss] = {
        "masks": ["".join(str(int(b)) for b in column) for column in dmat.T],
        "optimum": value,
        "network_output": (np.maximum(X @ u, 0) @ alpha).tolist(),
    }
sys.stdout = stdout

# How many patterns two million random directions make.
seen = set()
for _ in range(200):
    signs = np.packbits(rng.standard_normal((10_000, d)) @ X.T >= 0, axis=1)
    seen.update(map(bytes, signs))

print(
    json.dumps(
        {
            "x": x.tolist(),
            "y": y.tolist(),
            "beta": BETA,
            "epsilon": EPSILON,
            "gates": gates.tolist(),
            "optima": optima,
            "authors": authors,
            "patterns_found": len(seen),
        },
        indent=1,
    )
)
