"""Trajectories of published implementations, for tests/published_trajectories.rs.

Fifty steps in double precision over a vector, a matrix and a kernel of a convolution, from one
sequence of random numbers; the weights after every tenth step. With `mode`, the gradients are the
random numbers without their part along the weights (of each channel, or of the whole tensor), as
those of a scale-invariant weight are.

    python optimizers.py > optimizers.json

adamp 0.3.0, torch_optimizer 0.3.0, adabelief-pytorch 0.2.1,
torch 2.15.0, numpy 2.4.6.
"""

import contextlib
import io
import json
import math
import sys

import numpy as np
import torch

import torch.optim.optimizer as base

# Removed from torch; the packages below only name it as a default.
if not hasattr(base, "required"):
    base.required = object()

from adabelief_pytorch import AdaBelief
from adamp import SGDP, AdamP
from torch_optimizer import SGDP as SGDPOfOthers
from torch_optimizer import AdamP as AdamPOfOthers
from torch_optimizer import DiffGrad

STEPS, EVERY = 50, 10
SHAPES = [[7], [5, 8], [3, 2, 3, 3]]


class DiffGradAfterDecay(DiffGrad):
    """diffGrad after the decay `w <- (1 - decay) w`."""

    def __init__(self, params, decay, **options):
        super().__init__(params, **options)
        self.decay = decay

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.mul_(1.0 - self.decay)
        super().step()


class Copying:
    """Projects a copy of the step. Without Nesterov's momentum, the step of the published SGDP is the
    momentum itself, which it thus projects, too, against the algorithm of the paper."""

    def _projection(self, p, grad, perturb, *options):
        return super()._projection(p, grad, perturb.clone(), *options)


class SGDPOfThePaper(Copying, SGDP):
    pass


class SGDPOfOthersOfThePaper(Copying, SGDPOfOthers):
    pass


def numbers(generator, shape, scale):
    """Numbers that 32 bits represent, so that they are the same in both precisions."""
    return (scale * generator.standard_normal(shape)).astype(np.float32).astype(np.float64)


def radial(x, w, mode):
    if mode == "raw" or x.dim() < 2:
        return torch.zeros_like(x)
    rows = w.shape[0] if mode == "channel" else 1
    w, x = w.reshape(rows, -1), x.reshape(rows, -1)
    return (w * (w * x).sum(1, keepdim=True) / (w * w).sum(1, keepdim=True))


def run(make, mode, starts, gradients):
    weights = [torch.nn.Parameter(torch.tensor(s)) for s in starts]
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = make(weights)
    kept = []
    for t in range(STEPS):
        for w, g in zip(weights, gradients):
            g = torch.tensor(g[t])
            g = g - radial(g, w.data, mode).reshape(g.shape)
            margin(optimizer, w.data, g)
            w.grad = g
        optimizer.step()
        if (t + 1) % EVERY == 0:
            kept.append([w.detach().flatten().tolist() for w in weights])
    return kept


def margin(optimizer, w, g):
    """No cosine may be so near its threshold that rounding in 32 bits changes the branch."""
    delta = optimizer.param_groups[0].get("delta")
    if delta is None or w.dim() < 2:
        return
    for rows in [w.shape[0], 1]:
        cosines = torch.cosine_similarity(g.reshape(rows, -1), w.reshape(rows, -1), dim=1)
        threshold = delta / math.sqrt(w.numel() / rows)
        assert abs(cosines.abs().max() - threshold) > 1e-4, "choose another seed"


def cases():

    def adamp(mode="raw", **options):
        rust = dict(options)
        python = dict(options)
        if "beta_1" in python:
            python["betas"] = (python.pop("beta_1"), python.pop("beta_2"))
        if "epsilon" in python:
            python["eps"] = python.pop("epsilon")
        return ("adamp", mode, 0.05, rust, [
            lambda p: AdamP(p, lr=0.05, **python),
            lambda p: AdamPOfOthers(p, lr=0.05, **python),
        ])

    yield adamp()
    yield adamp(weight_decay=0.1, delta=1.0)
    yield adamp(weight_decay=0.1, delta=10.0, wd_ratio=0.5)
    yield adamp(nesterov=True, weight_decay=0.1, delta=1.0)
    yield adamp(mode="channel", weight_decay=0.2)
    yield adamp(mode="layer", weight_decay=0.2)
    yield adamp(mode="channel", weight_decay=0.2, nesterov=True, beta_1=0.8, beta_2=0.99)
    yield adamp(mode="layer", epsilon=1e-3)

    def sgdp(mode="raw", **options):
        return ("sgdp", mode, 0.02, options, [
            lambda p: SGDPOfThePaper(p, lr=0.02, **options),
            lambda p: SGDPOfOthersOfThePaper(p, lr=0.02, **options),
        ])

    yield sgdp()
    yield sgdp(momentum=0.9, weight_decay=0.01, delta=1.0)
    yield sgdp(momentum=0.9, weight_decay=0.01, nesterov=True, delta=10.0)
    yield sgdp(momentum=0.9, dampening=0.3, delta=1.0)
    yield sgdp(mode="channel", momentum=0.9, weight_decay=0.05, nesterov=True)
    yield sgdp(mode="layer", momentum=0.9, weight_decay=0.05, wd_ratio=0.7)

    def diffgrad(mode, **options):
        python = {k: v for k, v in options.items() if k in ("weight_decay",)}
        if "beta_1" in options:
            python["betas"] = (options["beta_1"], options["beta_2"])
        if "epsilon" in options:
            python["eps"] = options["epsilon"]
        # The published implementations only have coupled decay.
        decay = options.get("weight_decay", 0.0) * {"Coupled": 0.0, "Decoupled": 0.05, "Fixed": 1.0}[mode]
        if mode != "Coupled":
            python["weight_decay"] = 0.0
        makes = [lambda p: DiffGradAfterDecay(p, decay, lr=0.05, **python)]
        return ("diffgrad", "raw", 0.05, dict(options, weight_decay_mode=mode), makes)

    yield diffgrad("Coupled")
    yield diffgrad("Coupled", weight_decay=0.1)
    yield diffgrad("Coupled", weight_decay=0.1, beta_1=0.95, beta_2=0.99, epsilon=1e-3)
    yield diffgrad("Decoupled", weight_decay=0.1)
    yield diffgrad("Fixed", weight_decay=0.01)

    def adabelief(mode="Decoupled", **options):
        python = dict(options)
        if "beta_1" in python:
            python["betas"] = (python.pop("beta_1"), python.pop("beta_2"))
        if "epsilon" in python:
            python["eps"] = python.pop("epsilon")
        python["weight_decouple"] = mode != "Coupled"
        python["fixed_decay"] = mode == "Fixed"
        rust = dict(options, weight_decay_mode=mode)
        return ("adabelief", "raw", 0.05, rust, [lambda p: AdaBelief(p, lr=0.05, **python)])

    yield adabelief()
    yield adabelief(rectify=False)
    yield adabelief(rectify=False, epsilon=1e-8, weight_decay=0.1)
    yield adabelief("Coupled", rectify=False, epsilon=1e-8, weight_decay=0.1)
    yield adabelief("Fixed", rectify=False, weight_decay=0.01)
    yield adabelief(rectify=False, amsgrad=True, epsilon=1e-3)
    yield adabelief("Coupled", rectify=True, amsgrad=True, weight_decay=0.1)
    yield adabelief(rectify=True, degenerated_to_sgd=False, weight_decay=0.1)
    yield adabelief(rectify=True, beta_1=0.5, beta_2=0.9, epsilon=1e-12)


def main():
    generator = np.random.default_rng(20260101)
    starts = [numbers(generator, s, 0.5) for s in SHAPES]
    gradients = [numbers(generator, [STEPS, *s], 1.0) for s in SHAPES]
    out = []
    for name, mode, lr, options, makes in cases():
        kept, *others = [run(make, mode, starts, gradients) for make in makes]
        for other in others:
            for a, b in zip(kept, other):
                for a, b in zip(a, b):
                    assert np.allclose(a, b, rtol=1e-12, atol=1e-14), (name, options)
        out.append(dict(optimizer=name, mode=mode, lr=lr, options=options, weights=kept))
    # A number of 32 bits in the fewest digits that give it back.
    flat = lambda a: [float(str(np.float32(x))) for x in a.flatten()]
    document = dict(
        every=EVERY,
        shapes=SHAPES,
        starts=[flat(s) for s in starts],
        gradients=[flat(g) for g in gradients],
        cases=out,
    )
    sys.stdout.write(json.dumps(document, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
