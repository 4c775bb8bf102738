"""The sharpness of a small classifier, by PyTorch and PyHessian: writes sharpness.json beside itself.

The whole Hessian comes from torch.func, the Gauss-Newton matrix from torch.func's Jacobian, and the threshold of SGD
from iterating the second moment of the linearised steps as the definition has it.

    pip install torch==2.15.0 numpy==2.4.6 pyhessian==0.1
    python sharpness.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from pyhessian import hessian
from torch.func import functional_call, jacrev

torch.manual_seed(3)
torch.set_default_dtype(torch.float64)
EXAMPLES, WIDTHS = 40, [6, 8, 5, 3]

layers = []
for inputs, outputs in zip(WIDTHS, WIDTHS[1:]):
    layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
model = torch.nn.Sequential(*layers[:-1])
x = torch.randn(EXAMPLES, WIDTHS[0])
y = torch.randint(WIDTHS[-1], (EXAMPLES,))
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
for _ in range(60):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()

names = [name for name, _ in model.named_parameters()]
shapes = [p.shape for p in model.parameters()]
# Burn has the matrices transposed: the parameters are numbered in its order.
flat = torch.cat([(p.T if p.dim() == 2 else p).reshape(-1) for p in model.parameters()]).detach()


def placed(theta):
    parts, at = {}, 0
    for name, shape in zip(names, shapes):
        size = shape.numel()
        part = theta[at : at + size]
        parts[name] = part.reshape(shape[::-1]).T if len(shape) == 2 else part
        at += size
    return parts


def loss(theta):
    return torch.nn.functional.cross_entropy(functional_call(model, placed(theta), (x,)), y)


H = torch.func.hessian(loss)(flat)
values = torch.linalg.eigvalsh(H)

scores = lambda theta: functional_call(model, placed(theta), (x,))
J = jacrev(scores)(flat)  # [examples, classes, parameters]
p = torch.softmax(scores(flat), 1).detach()
each = torch.stack([j.T @ (torch.diag(q) - torch.outer(q, q)) @ j for j, q in zip(J, p)])  # H_i
G = each.mean(0)
gauss_newton = torch.linalg.eigvalsh(G)


def threshold(batch, replaced):
    """2 / the largest t with D(S) = t C(S), by iterating S <- C^-1 D(S) in the eigenvectors of G."""
    e, U = torch.linalg.eigh(G)
    keep = e > 1e-9 * e[-1]
    e, U = e[keep], U[:, keep]
    A = torch.einsum("pa,ipq,qb->iab", U, each, U)
    n = EXAMPLES
    share = 1 / batch if replaced else (n - batch) / (batch * (n - 1))
    C = (e[:, None] + e[None, :]) / 2
    S = torch.diag(torch.ones_like(e))
    before = 0.0
    for _ in range(200000):
        D = share * torch.einsum("iab,bc,icd->ad", A, S, A) / n + (1 - share) * e[:, None] * S * e[None, :]
        S = D / C
        top = S.norm()
        S = S / top
        if abs(top - before) < 1e-13 * top:
            break
        before = top
    return 2 / float(top)


probe = hessian(model, torch.nn.functional.cross_entropy, data=(x, y), cuda=False)
power, _ = probe.eigenvalues(maxIter=10000, tol=1e-10, top_n=1)
np.random.seed(0)
traces = probe.trace(maxIter=3000, tol=0)

found = {
    "versions": {"torch": torch.__version__, "pyhessian": "0.1"},
    "widths": WIDTHS,
    "weights": flat.tolist(),
    "inputs": x.tolist(),
    "labels": y.tolist(),
    "loss": float(loss(flat)),
    "trace": float(H.trace()),
    "frobenius": float(H.norm()),
    "highest": values.flip(0)[:3].tolist(),
    "lowest": float(values[0]),
    "gauss_newton": {
        "trace": float(G.trace()),
        "frobenius": float(G.norm()),
        "lambda_max": float(gauss_newton[-1]),
        "example_traces": [float(h.trace()) for h in each],
        "thresholds": {
            f"{batch} {'with' if replaced else 'without'}": threshold(batch, replaced)
            for batch in (1, 4, 40)
            for replaced in (True, False)
        },
    },
    "pyhessian": {"highest": float(power[0]), "trace": float(np.mean(traces))},
}
Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
print({key: found[key] for key in ("loss", "trace", "frobenius", "highest", "lowest", "pyhessian")})
print(found["gauss_newton"]["thresholds"], found["gauss_newton"]["trace"])
