"""Trajectories of the authors' implementation, for tests/block_coordinate_descent.rs.

The argument is a checkout of the repository that the paper names,
IssamLaradji/BlockCoordinateDescent; nothing of it is kept here but the numbers that it computes:

    python block_coordinate_descent_official.py CHECKOUT > block_coordinate_descent_official.json

Problems: A least squares (diabetes.libsvm), B logistic (breast_cancer.libsvm), C softmax
(digits.libsvm), D a 12 x 12 lattice and E five nearest neighbours of breast_cancer.libsvm for label
propagation, A+ non-negative least squares with an l1 term (diabetes.libsvm). Of each combination of a
partition, a rule and an update, the objective before every one of 20 steps and after the last.

numpy 2.4.6, scipy 1.17.1, numba 0.68.1, cvxopt 1.3.3.
"""

import contextlib
import io
import json
import os
import sys
import types

import numpy as np
from scipy.sparse.linalg import eigsh
from sklearn.datasets import load_svmlight_file

# scipy no longer has the place that is imported from.
for name in ["scipy.sparse.linalg.eigen", "scipy.sparse.linalg.eigen.arpack"]:
    sys.modules[name] = types.ModuleType(name)
sys.modules["scipy.sparse.linalg.eigen.arpack"].eigsh = eigsh
# Its `src.utils` draws plots.
for name in ["pandas", "pylab", "matplotlib", "matplotlib.transforms", "src.utils"]:
    sys.modules[name] = types.ModuleType(name)
sys.modules["matplotlib.transforms"].Bbox = object
sys.path.insert(0, sys.argv[1])

from src import losses  # noqa: E402
from src.partition_rules import partition_rules  # noqa: E402
from src.selection_rules import FB_selection_rules, VB_selection_rules  # noqa: E402
from src.update_rules import update_rules  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS = 20


def data(name, features):
    x, y = load_svmlight_file(os.path.join(HERE, name + ".libsvm"), n_features=features)
    return x.toarray(), y


def lattice(side):
    """Nodes down the columns, weights 1, every eleventh label known."""
    w = np.zeros((side * side, side * side))
    for i in range(side * side):
        if i % side != side - 1:
            w[i, i + 1] = w[i + 1, i] = 1
        if i + side < side * side:
            w[i, i + side] = w[i + side, i] = 1
    y = np.zeros(side * side)
    known = np.arange(3, side * side, 11)
    y[known] = known % 7 - 3.5
    return w, y


def nearest(x, count, labels):
    n = len(x)
    w = np.zeros((n, n))
    distances = ((x[:, None, :] - x[None, :, :]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    for i in range(n):
        for j in np.argsort(distances[i], kind="stable")[:count]:
            w[i, j] = w[j, i] = 1
    y = np.zeros(n)
    y[::10] = labels[::10]
    return w, y


def system(w, y):
    free, known = y == 0, y != 0
    a = np.diag(w.sum(0)) - w
    return a[free][:, free], (w[known].T @ y[known])[free]


def run(kind, a, b, partition, selection, update, size, l1, args):
    args = dict(args, L2=0, L1=l1, block_size=size, update_rule=update)
    loss = losses.create_lossObject(kind, a, b, args)
    blocks = partition_rules.get_partition(a, b, loss, size, p_rule=partition)
    x = np.sin(np.arange(loss.n_params) + 1.0) if kind == "bp" else np.zeros(loss.n_params)
    values, chosen = [], []
    for i in range(STEPS + 1):
        values.append(float(loss.f_func(x, a, b)))
        if i == STEPS:
            break
        if blocks is None:
            block, args = VB_selection_rules.select(selection, x, a, b, loss, args, iteration=i)
        else:
            block, args = FB_selection_rules.select(
                selection, x, a, b, loss, args, blocks, iteration=i
            )
        chosen.append(block.tolist())
        x, args = update_rules.update(update, x, a, b, loss, args=args, block=block, iteration=i)
    if selection in ["RedBlackTree", "TreePartitions"]:
        return values, [list(b) for b in dict.fromkeys(tuple(b) for b in chosen)]
    if kind == "sf" and blocks is not None:
        return values, blocks.tolist()
    return values, None


def main():
    cases = []

    def add(problem, kind, a, b, choices, l1=0, args={}):
        for partition, selection, update, size in choices:
            with contextlib.redirect_stdout(io.StringIO()):
                np.random.seed(1)
                values, blocks = run(kind, a, b, partition, selection, update, size, l1, args)
            cases.append(
                {
                    "problem": problem,
                    "partition": partition,
                    "selection": selection,
                    "update": update,
                    "size": size,
                    "blocks": blocks,
                    "objectives": values,
                }
            )

    fixed = [
        (partition, selection, update, 5)
        for partition in ["Order", "Sort", "Avg"]
        for selection in ["Cyclic", "GS", "GSL", "GSD", "GSQ"]
        for update in ["Lb", "Hb"]
    ]
    more = [("Hsort", "GSL", "Lb", 5), ("Havg", "GSL", "Lb", 5)]
    variable = [
        ("VB", selection, update, 5)
        for selection in ["GS", "GSD", "GSDHb"]
        for update in ["Lb", "Hb"]
    ]
    backtracked = [("Order", "Cyclic", "LA", 5), ("Order", "GS", "LA", 5), ("Order", "GSD", "LA", 5)]
    newton = [
        (partition, selection, "LS", 5)
        for partition, selection in [("Sort", "GS"), ("Sort", "GSL"), ("VB", "GS"), ("VB", "GSD")]
    ]
    x, y = data("diabetes", 10)
    add("A", "ls", x, y, fixed + more + variable + backtracked)
    positive = [
        ("VB", "gsq-nn", update, size)
        for size in [3, 5]
        for update in (["Lb-NN"] if size == 3 else ["qp-nn", "TMP-NN", "Lb-NN"])
    ]
    add("A+", "lsl1nn", x, y, positive, l1=100)
    x, y = data("breast_cancer", 30)
    add("B", "lg", x, y, fixed + more + variable + backtracked + newton)
    w, labels = nearest(x, 5, y)
    trees = [
        ("VB", selection, update, -1)
        for selection in ["GSTree", "GSLTree", "GSDTree", "RedBlackTree", "TreePartitions"]
        for update in ["bpExact", "bpGabp"]
    ]
    general = {"data_lattice": False, "data_W": w, "data_y": labels}
    add("E", "bp", *system(w, labels), trees + variable, args=general)
    w, labels = lattice(12)
    add(
        "D",
        "bp",
        *system(w, labels),
        trees,
        args={"data_lattice": False, "data_W": w, "data_y": labels},
    )
    x, y = data("digits", 64)
    one_hot = np.eye(10)[y.astype(int)]
    # Not 5 of the 10 classes: the slopes of both halves have the same size.
    some = [
        ("Sort", selection, update, 4)
        for selection in ["GS", "GSL", "GSD"]
        for update in ["Lb", "Hb"]
    ]
    used = x.any(0)
    add("C", "sf", x[:, used][:, :40], one_hot, some + variable + [("VB", "GS", "LS", 5)])
    json.dump({"steps": STEPS, "cases": cases}, sys.stdout)


main()
