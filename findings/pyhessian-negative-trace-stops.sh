#!/usr/bin/env bash
# PyHessian's trace ends its iteration as soon as the running mean is negative, whatever the tolerance.
#
# `hessian.trace(maxIter, tol)` averages probes until the mean changes by less than `tol` of itself. The change is divided by
# the mean with its sign (the top eigenvalues divide by its absolute value), so that a negative mean makes the quotient
# negative, which is below every tolerance, also below 0. Networks away from a minimum have Hessians with negative parts, and
# one negative mean is enough: the estimate is then that of two or three probes, without a warning. Averages of many such traces are
# biased, too, because samples end by their own value.
#
# Seen: for a quadratic with the trace -6 and the tolerance 0, 100 probes are asked for and 3 are taken; for
# its negative, with the trace 6, all 100 are taken. pyhessian 0.1, torch 2.11.0.
# Needs Python 3 with venv and the PyPI registry (2 GB). Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.11.0 numpy==2.4.6 pyhessian==0.1 setuptools==80.9.0
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import torch
from torch import nn

warnings.filterwarnings("ignore")
from pyhessian import hessian


class Quadratic(nn.Module):
    """½ xᵀ A x of its own weights: the Hessian is A."""

    def __init__(self, matrix):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(3))
        self.matrix = matrix

    def forward(self, _):
        return 0.5 * self.weights @ self.matrix @ self.weights


# Off the diagonal, so that probes differ.
matrix = torch.tensor([[1.0, 0.3, 0.1], [0.3, 2.0, 0.2], [0.1, 0.2, 3.0]])
data = (torch.zeros(1, 1), torch.zeros(1))
counts = {}
for sign in [1, -1]:
    torch.manual_seed(0)
    model = Quadratic(sign * matrix)
    probes = hessian(model, lambda output, _: output, data=data, cuda=False).trace(maxIter=100, tol=0)
    counts[sign] = len(probes)
    print(f"trace {6 * sign}: {len(probes)} probes, mean {sum(probes) / len(probes):.3f}")
assert counts == {1: 100, -1: 3}, "the trace of a negative Hessian has changed"
PYTHON
