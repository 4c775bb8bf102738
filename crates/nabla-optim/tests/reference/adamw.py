"""Trajectories of PyTorch's AdamW, for tests/published_trajectories.rs: 20 steps in double precision over a
vector, a matrix and a kernel of a convolution, and the weights after every fifth step.

    python adamw.py > adamw.json

torch 2.15.0.
"""

import itertools
import json

import torch

STEPS, EVERY, LR = 20, 5, 0.05
SHAPES = [[7], [5, 8], [3, 2, 3, 3]]


def numbers(shape, scale):
    """Numbers that 32 bits represent, so that they are the same in both precisions."""
    return (scale * torch.randn(shape, dtype=torch.float64)).float()


def run(starts, gradients, **options):
    weights = [torch.nn.Parameter(s.double()) for s in starts]
    optimizer = torch.optim.AdamW(weights, lr=LR, **options)
    kept = []
    for t in range(STEPS):
        for w, g in zip(weights, gradients):
            w.grad = g[t].double()
        optimizer.step()
        if (t + 1) % EVERY == 0:
            kept.append([w.detach().flatten().tolist() for w in weights])
    return kept


def flat(x):
    return [float(f"{v:.9g}") for v in x.flatten().tolist()]


def main():
    torch.manual_seed(20260101)
    starts = [numbers(s, 0.5) for s in SHAPES]
    gradients = [numbers([STEPS, *s], 1.0) for s in SHAPES]
    # Gradients that shrink, so that AMSGrad makes a difference.
    gradients = [(g.double() * 0.9 ** torch.arange(STEPS).reshape(-1, *[1] * (g.dim() - 1))).float() for g in gradients]
    cases = []
    every = itertools.product([False, True], [0.0, 0.1], [{}, dict(beta_1=0.8, beta_2=0.95, epsilon=1e-3)])
    for amsgrad, decay, others in every:
        rust = dict(dict(epsilon=1e-8), amsgrad=amsgrad, weight_decay=decay)
        rust.update(others)
        options = dict(amsgrad=amsgrad, weight_decay=decay, eps=rust["epsilon"])
        if others:
            options["betas"] = (others["beta_1"], others["beta_2"])
        weights = run(starts, gradients, **options)
        cases.append(dict(optimizer="adamw", mode="raw", lr=LR, options=rust, weights=weights))
    document = dict(
        every=EVERY,
        shapes=SHAPES,
        starts=[flat(s) for s in starts],
        gradients=[flat(g) for g in gradients],
        cases=cases,
    )
    print(json.dumps(document, separators=(",", ":")))


if __name__ == "__main__":
    main()
