"""Reference values of LSQ, from a published implementation: zhutmost/lsq-net, commit 1f644e9 (MIT).

Run: git clone https://github.com/zhutmost/lsq-net && python lsq.py lsq-net > lsq.json        (torch 2.x, numpy)
"""

import json
import sys

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, sys.argv[1])
from quan.quantizer.lsq import LsqQuan  # noqa: E402

rng = np.random.default_rng(7)


def single(values):
    return torch.tensor(values, dtype=torch.float32)


def numbers(tensor):
    return tensor.detach().flatten().tolist()


cases = []
for bits, signed, per_channel in [
    (2, True, False),
    (3, True, True),
    (4, True, True),
    (8, True, False),
    (2, False, False),
    (3, False, False),
    (4, False, False),
    (8, False, False),
]:
    x = rng.normal(size=(5, 12))
    if not signed:
        x = np.maximum(x, -0.2)
    x = single(x).requires_grad_(True)
    upstream = single(rng.normal(size=(5, 12)))
    quantizer = LsqQuan(bits, all_positive=not signed, per_channel=per_channel)
    quantizer.init_from(x)
    y = quantizer(x)
    y.backward(upstream)
    cases.append(
        {
            "bits": bits,
            "signed": signed,
            "x": numbers(x),
            "upstream": numbers(upstream),
            "step": numbers(quantizer.s),
            "y": numbers(y),
            "by_x": numbers(x.grad),
            "by_step": numbers(quantizer.s.grad),
        }
    )

layers = []
for kind, bits in [("linear", 2), ("linear", 4), ("conv2d", 3), ("conv2d", 4)]:
    if kind == "linear":
        x, w, b = rng.normal(size=(4, 6)), rng.normal(size=(5, 6)), rng.normal(size=5)
    else:
        x, w, b = rng.normal(size=(2, 3, 5, 6)), rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    x = single(np.maximum(x, 0)).requires_grad_(True)
    w = single(w).requires_grad_(True)
    b = single(b).requires_grad_(True)
    on_weight = LsqQuan(bits, per_channel=True)
    on_weight.init_from(w)
    on_input = LsqQuan(bits, all_positive=True, per_channel=False)
    on_input.init_from(x)
    if kind == "linear":
        y = F.linear(on_input(x), on_weight(w), b)
    else:
        y = F.conv2d(on_input(x), on_weight(w), b, stride=2, padding=1)
    loss = (y**2).mean()
    loss.backward()
    layers.append(
        {
            "kind": kind,
            "bits": bits,
            "shape": list(x.shape),
            "x": numbers(x),
            "weight": numbers(w),
            "bias": numbers(b),
            "y": numbers(y),
            "by_x": numbers(x.grad),
            "by_weight": numbers(w.grad),
            "by_weight_step": numbers(on_weight.s.grad),
            "by_input_step": numbers(on_input.s.grad),
        }
    )
print(
    json.dumps(
        {"torch": torch.__version__, "shape": [5, 12], "cases": cases, "layers": layers}, indent=1
    )
)
