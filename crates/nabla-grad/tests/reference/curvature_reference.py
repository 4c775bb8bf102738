#!/usr/bin/env python3
"""Writes curvature_reference.json: values for the tests of curvature, per_example and spectrum.

    python3 -m venv /tmp/venv
    /tmp/venv/bin/pip install numpy==2.4.6 scipy==1.17.1 torch==2.15.0
    /tmp/venv/bin/python crates/nabla-grad/tests/reference/curvature_reference.py

* network: a classifier of two layers with tanh and cross-entropy (mean). Its Hessian by torch's double
  backward, the Jacobian of its outputs by torch, its per-example gradients example by example.
* matrix: eigenvalues by numpy. The tridiagonal matrix of a Lanczos run by another route: Householder
  (scipy's hessenberg) after a rotation that makes the start the first axis, which is the same matrix up
  to signs beside the diagonal. Nodes, weights and PyHessian's density from scipy's eigh_tridiagonal.

Inputs are fractions with a power of two below, by formulas that the tests repeat exactly.
"""

import json
import os

import numpy as np
import scipy.linalg
import torch

torch.set_default_dtype(torch.float64)

EXAMPLES, INPUTS, HIDDEN, OUTPUTS = 5, 3, 4, 3
SIZES = [INPUTS * HIDDEN, HIDDEN, HIDDEN * OUTPUTS, OUTPUTS]
PARAMETERS = sum(SIZES)


def network(theta, x):
    """Weights [in, out], as Burn has them."""
    w1, b1, w2, b2 = torch.split(theta, SIZES)
    hidden = torch.tanh(x @ w1.reshape(INPUTS, HIDDEN) + b1)
    return hidden @ w2.reshape(HIDDEN, OUTPUTS) + b2


def network_reference():
    theta = torch.tensor([((7 * k + 3) % 13 - 6) / 8 for k in range(PARAMETERS)])
    v = torch.tensor([((3 * k + 1) % 7 - 3) / 4 for k in range(PARAMETERS)])
    x = torch.tensor([[((5 * i + 6 * j + 1) % 9 - 4) / 4 for j in range(INPUTS)] for i in range(EXAMPLES)])
    y = torch.tensor([i % OUTPUTS for i in range(EXAMPLES)])

    def loss(theta):
        return torch.nn.functional.cross_entropy(network(theta, x), y)

    def one(theta, i):
        return torch.nn.functional.cross_entropy(network(theta, x[i:i + 1]), y[i:i + 1])

    hessian = torch.autograd.functional.hessian(loss, theta)
    jacobian = torch.autograd.functional.jacobian(lambda t: network(t, x), theta)  # [n, out, d]
    p = torch.softmax(network(theta, x), 1)
    h = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    softmax = torch.einsum("nad,nab,nbe->de", jacobian, h, jacobian) / EXAMPLES
    squared = torch.einsum("nad,nae->de", jacobian, jacobian)
    gradients = torch.stack([torch.autograd.functional.jacobian(lambda t: one(t, i), theta)
                             for i in range(EXAMPLES)])
    fisher = gradients.T @ gradients / EXAMPLES
    return {
        "gradient": torch.autograd.functional.jacobian(loss, theta).tolist(),
        "hessian_product": (hessian @ v).tolist(),
        "softmax_gauss_newton_product": (softmax @ v).tolist(),
        "squared_gauss_newton_product": (squared @ v).tolist(),
        "fisher_product": (fisher @ v).tolist(),
        "per_example_gradients": gradients.tolist(),
        "hessian_eigenvalues": torch.linalg.eigvalsh(hessian).tolist(),
        "hessian_diagonal": hessian.diagonal().tolist(),
    }


def matrix_reference():
    n, steps = 24, 8
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    a = ((i * j * (i + j) + 3 * (i + j)) % 31 - 15) / 16
    start = ((5 * np.arange(n) + 1) % 7 - 3) / 4
    v = start / np.linalg.norm(start)
    basis, _ = np.linalg.qr(np.column_stack([v, np.eye(n)[:, 1:]]))
    # Householder leaves the first axis, which is ±v, where it is.
    t = scipy.linalg.hessenberg(basis.T @ a @ basis)
    alpha, beta = np.diag(t)[:steps], np.abs(np.diag(t, 1))[:steps]
    nodes, vectors = scipy.linalg.eigh_tridiagonal(alpha, beta[:-1])
    weights = vectors[0] ** 2
    moments = [float(v @ np.linalg.matrix_power(a, k) @ v) for k in range(2 * steps)]
    for k, moment in enumerate(moments):
        assert np.isclose(weights @ nodes ** k, moment, rtol=1e-9, atol=1e-9)
    # PyHessian's density_generate, with a grid that is given.
    grid, sigma = np.linspace(-12, 12, 241), 0.5
    density = sum(w * np.exp(-(grid - m) ** 2 / (2 * sigma ** 2)) / np.sqrt(2 * np.pi * sigma ** 2)
                  for m, w in zip(nodes, weights))
    density /= density.sum() * (grid[1] - grid[0])
    return {
        "eigenvalues": np.linalg.eigvalsh(a).tolist(),
        "alpha": alpha.tolist(),
        "beta": beta.tolist(),
        "nodes": nodes.tolist(),
        "weights": weights.tolist(),
        "moments": moments,
        "density": density.tolist(),
    }


if __name__ == "__main__":
    path = os.path.join(os.path.dirname(__file__), "curvature_reference.json")
    with open(path, "w") as file:
        json.dump({"network": network_reference(), "matrix": matrix_reference()}, file, indent=1)
        file.write("\n")
