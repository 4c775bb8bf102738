"""SciPy's conjugate gradients with ilupp's incomplete Cholesky factors: the shortest preparation and solution, and iterations.

    python3 incomplete_cholesky_peer.py SIDE RUNS TOLERANCE
"""
import sys
import time

import ilupp
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import cg

side, runs, tolerance = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
line = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(side, side))
one = sp.identity(side)
a = (sp.kron(sp.kron(line, one), one) + sp.kron(sp.kron(one, line), one) + sp.kron(sp.kron(one, one), line)).tocsr()
i = np.arange(side**3, dtype=float)
b = np.sin(1.7 * i + 0.001 * i * i)
preparation = solution = float("inf")
for _ in range(runs):
    begun = time.perf_counter()
    m = ilupp.IChol0Preconditioner(a)
    preparation = min(preparation, time.perf_counter() - begun)
    iterations = 0

    def count(_):
        global iterations
        iterations += 1

    begun = time.perf_counter()
    x, info = cg(a, b, rtol=tolerance, atol=0.0, M=m, maxiter=10000, callback=count)
    solution = min(solution, time.perf_counter() - begun)
    assert info == 0
print(preparation, solution, iterations)
