"""Iterations and residuals of linear solvers that we did not write, for src/linear/tests.rs.

    python3 linear.py > linear.json
"""
import json
import sys

import ilupp
import numpy as np
import pyamg
import scipy
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, cg


def poisson(sides, border="dirichlet", solid=None):
    """The negative Laplacian, unknowns row by row; rows of solid cells are zero."""
    count = int(np.prod(sides))
    index = np.arange(count).reshape(sides)
    solid = np.zeros(sides, bool) if solid is None else solid
    rows, columns, values = [], [], []
    degree = np.zeros(sides)
    for axis in range(len(sides)):
        one = np.moveaxis(index, axis, 0)
        free = np.moveaxis(~solid, axis, 0)
        both = free[:-1] & free[1:]
        a, b = one[:-1][both], one[1:][both]
        rows += [a, b]
        columns += [b, a]
        values += [-np.ones(len(a))] * 2
        np.add.at(degree.reshape(-1), a, 1)
        np.add.at(degree.reshape(-1), b, 1)
        if border == "dirichlet":
            for end in (0, -1):
                np.add.at(degree.reshape(-1), one[end][free[end]], 1)
    rows.append(index.reshape(-1))
    columns.append(index.reshape(-1))
    values.append(degree.reshape(-1))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    a = sp.csr_matrix(entries, shape=(count, count))
    a.eliminate_zeros()
    return a


def disc(n):
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    return x**2 + y**2 < (n / 5) ** 2


def right_side(count):
    i = np.arange(count, dtype=float)
    return np.sin(1.7 * i + 0.001 * i * i)


def history(a, b, m, tolerance):
    norms = [1.0]
    size = np.linalg.norm(b)
    x, info = cg(a, b, rtol=tolerance, atol=0.0, M=m, maxiter=10000,
                 callback=lambda x: norms.append(np.linalg.norm(b - a @ x) / size))
    assert info == 0
    return x, norms


def deflated(a, b, vectors, tolerance):
    """Saad et al. 2000 with Ritz vectors of the Krylov space of b, and the diagonal inside."""
    q = [b / np.linalg.norm(b)]
    for _ in range(vectors - 1):
        w = a @ q[-1]
        for _ in range(2):
            for v in q:
                w = w - v * (v @ w)
        q.append(w / np.linalg.norm(w))
    w = np.array(q).T
    aw = a @ w
    small = w.T @ aw
    m = lambda r: r / a.diagonal()
    x = w @ np.linalg.solve(small, w.T @ b)
    r = b - a @ x
    z = m(r)
    p = z - w @ np.linalg.solve(small, aw.T @ z)
    rz = r @ z
    iterations = 0
    while np.linalg.norm(r) > tolerance * np.linalg.norm(b):
        ap = a @ p
        alpha = rz / (p @ ap)
        x, r = x + alpha * p, r - alpha * ap
        z = m(r)
        rz, before = r @ z, rz
        p = z + rz / before * p - w @ np.linalg.solve(small, aw.T @ z)
        iterations += 1
    return iterations


def problem(name, sides, border, solid, tolerance=1e-8):
    full = poisson(sides, border, solid)
    fluid = np.flatnonzero(full.diagonal())
    a = full[fluid][:, fluid].tocsr()
    b = right_side(full.shape[0])[fluid]
    out = {"name": name, "sides": list(sides), "tolerance": tolerance, "entries": int(full.nnz)}
    out["product"] = float(np.sum((full @ right_side(full.shape[0])) ** 2))
    methods = {
        "cg": None,
        "jacobi": LinearOperator(a.shape, lambda r: r / a.diagonal(), dtype=float),
        "ic": ilupp.IChol0Preconditioner(sp.csr_matrix(a)),
    }
    sweep = lambda which: ("gauss_seidel", {"sweep": which})
    amg = pyamg.smoothed_aggregation_solver(
        a, strength=("symmetric", {"theta": 0.0}), smooth=("jacobi", {"omega": 4 / 3}), aggregate="standard",
        presmoother=sweep("forward"), postsmoother=sweep("backward"), max_coarse=100, max_levels=20,
        improve_candidates=None, coarse_solver="pinv")
    methods["amg"] = amg.aspreconditioner(cycle="V")
    out["amg_rows"] = [level.A.shape[0] for level in amg.levels]
    for key, m in methods.items():
        x, norms = history(a, b, m, tolerance)
        out[key] = {"iterations": len(norms) - 1, "residuals": norms[:8]}
    out["deflated"] = deflated(a, b, 16, tolerance)
    out["x"] = float(np.sum(x * b))
    return out


def white(n):
    """Conjugate gradients to 1e-4 for white noise, as in the notes on DCDM."""
    a = poisson((n, n))
    b = np.random.RandomState(0).randn(n * n)
    b /= np.linalg.norm(b)
    _, norms = history(a, b, None, 1e-4)
    return {"n": n, "b": b.tolist(), "cg": len(norms) - 1}


json.dump({
    "versions": {"python": sys.version.split()[0], "numpy": np.__version__, "scipy": scipy.__version__,
                 "ilupp": "1.0.2", "pyamg": pyamg.__version__},
    "problems": [
        problem("square", (32, 32), "dirichlet", None),
        problem("disc", (64, 64), "dirichlet", disc(64)),
        problem("cube", (16, 16, 16), "dirichlet", None),
        problem("large square", (128, 128), "dirichlet", None),
    ],
    "white": [white(16), white(32)],
}, sys.stdout)
