"""Where AdamP and AdaBelief add eps shows with gradients as small as 1e-6: a few steps in double precision.

    python epsilon_place.py > epsilon_place.json

adamp 0.3.0, adabelief-pytorch 0.2.1, pytorch_optimizer 4.1.0, torch 2.15.0.
"""

import contextlib
import io
import json
import sys

import torch
import torch.optim.optimizer as base

if not hasattr(base, "required"):
    base.required = object()

import pytorch_optimizer
from adabelief_pytorch import AdaBelief
from adamp import AdamP

START = [0.5, -1.0, 2.0]
GRADIENTS = [[1e-6, -2e-6, 5e-7], [2e-6, 1e-6, -1e-6], [-1e-6, 3e-6, 1e-6]]


def run(make):
    weight = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = make([weight])
    weights = []
    for gradient in GRADIENTS:
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        weights.append(weight.detach().tolist())
    return weights


plain = dict(weight_decouple=False, rectify=False, print_change_log=False)
out = {
    "start": START,
    "gradients": GRADIENTS,
    "adamp": run(lambda p: AdamP(p, lr=0.01, eps=1e-8)),
    "adamp_elsewhere": run(lambda p: pytorch_optimizer.AdamP(p, lr=0.01, eps=1e-8)),
    "adabelief": run(lambda p: AdaBelief(p, lr=0.01, eps=1e-8, **plain)),
}
json.dump(out, sys.stdout, indent=1)
print()
