"""Data and minima for tests/block_coordinate_descent.rs.

Writes diabetes.libsvm, breast_cancer.libsvm and digits.libsvm from the copies that scikit-learn
carries, and prints the minima of established solvers over these files:

    python block_coordinate_descent.py > block_coordinate_descent.json

The data: diabetes, Efron et al., Least Angle Regression, 2004, as distributed with scikit-learn
(BSD 3-Clause); breast cancer, Wolberg et al., Breast Cancer Wisconsin (Diagnostic), 1993, UCI
(CC BY 4.0), here with standardised features; digits, Alpaydin and Kaynak, Optical Recognition of
Handwritten Digits, 1998, UCI (CC BY 4.0), here the first 200 examples with values divided by 16.

scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6, cvxopt 1.3.3.
"""

import json
import os
import sys
import warnings

import numpy as np
from cvxopt import matrix, solvers
from scipy.optimize import lsq_linear, minimize, nnls
from scipy.special import logsumexp
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_svmlight_file
from sklearn.linear_model import Lasso, LogisticRegression, Ridge

warnings.simplefilter("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))


def write(name, x, y):
    path = os.path.join(HERE, name + ".libsvm")
    with open(path, "w") as out:
        for row, label in zip(x, y):
            pairs = [f"{j + 1}:{v:.6g}" for j, v in enumerate(row) if float(f"{v:.6g}") != 0]
            out.write(" ".join([f"{label:g}"] + pairs) + "\n")
    x, y = load_svmlight_file(path, n_features=x.shape[1])
    return x.toarray(), y


def group_lasso(x, y, weight, groups):
    """min 1/2 |xw - y|^2 + weight sum t_G with |w_G| <= t_G, by cvxopt."""
    d, m = x.shape[1], len(groups)
    p = np.zeros((d + m, d + m))
    p[:d, :d] = x.T @ x
    q = np.concatenate([-x.T @ y, weight * np.ones(m)])
    g, h = [], []
    for k, group in enumerate(groups):
        cone = np.zeros((len(group) + 1, d + m))
        cone[0, d + k] = -1
        for i, j in enumerate(group):
            cone[i + 1, j] = -1
        g.append(cone)
        h.append(np.zeros(len(group) + 1))
    options = {"show_progress": False, "abstol": 1e-13, "reltol": 1e-13, "feastol": 1e-13}
    dims = {"l": 0, "q": [len(group) + 1 for group in groups], "s": []}
    solution = solvers.coneqp(
        matrix(p), matrix(q), matrix(np.vstack(g)), matrix(np.concatenate(h)), dims, options=options
    )
    return np.array(solution["x"]).ravel()[:d]


def squares(x, y, w):
    return 0.5 * np.sum((x @ w - y) ** 2)


def logistic(x, y, w):
    return np.sum(np.logaddexp(0, -y * (x @ w)))


def softmax(x, y, w):
    z = x @ w
    return np.sum(logsumexp(z, axis=1)) - np.sum(z[np.arange(len(y)), y.astype(int)])


def main():
    diabetes = load_diabetes()
    x, y = write("diabetes", diabetes.data, diabetes.target)
    n = len(y)
    out = {}

    def keep(name, w, value):
        out[name] = {"objective": float(value), "x": np.asarray(w).ravel().tolist()}

    w = Ridge(alpha=0.1, fit_intercept=False, solver="cholesky").fit(x, y).coef_
    keep("ridge", w, squares(x, y, w) + 0.05 * w @ w)
    for name, positive in [("lasso", False), ("positive_lasso", True)]:
        model = Lasso(
            alpha=100.0 / n, fit_intercept=False, positive=positive, tol=1e-15, max_iter=1000000
        )
        w = model.fit(x, y).coef_
        keep(name, w, squares(x, y, w) + 100.0 * np.abs(w).sum())
    w, _ = nnls(x, y)
    keep("non_negative", w, squares(x, y, w))
    w = lsq_linear(x, y, bounds=(-200, 300), method="bvls", tol=1e-15).x
    keep("box", w, squares(x, y, w))
    groups = [[0, 1], [2, 3], [4, 5, 6, 7], [8, 9]]
    w = group_lasso(x, y, 150.0, groups)
    penalty = 150.0 * sum(np.linalg.norm(w[g]) for g in groups)
    keep("group_lasso", w, squares(x, y, w) + penalty)

    cancer = load_breast_cancer()
    scaled = (cancer.data - cancer.data.mean(0)) / cancer.data.std(0)
    x, y = write("breast_cancer", scaled, 2.0 * cancer.target - 1)
    model = LogisticRegression(
        C=1.0, fit_intercept=False, solver="newton-cholesky", tol=1e-14, max_iter=1000
    )
    w = model.fit(x, y).coef_.ravel()
    keep("logistic", w, logistic(x, y, w) + 0.5 * w @ w)
    model = LogisticRegression(
        C=0.2, l1_ratio=1.0, fit_intercept=False, solver="saga", tol=1e-13, max_iter=1000000,
        random_state=0,
    )
    w = model.fit(x, y).coef_.ravel()
    keep("l1_logistic", w, logistic(x, y, w) + 5.0 * np.abs(w).sum())

    digits = load_digits()
    x, y = write("digits", digits.data[:200] / 16, digits.target[:200].astype(float))
    model = LogisticRegression(
        C=1.0, fit_intercept=False, solver="newton-cholesky", tol=1e-14, max_iter=1000
    )
    w = model.fit(x, y).coef_.T  # [features, classes]
    keep("softmax", w, softmax(x, y, w) + 0.5 * np.sum(w * w))
    json.dump(out, sys.stdout)


main()
