"""Seconds of a step of a sparse autoencoder in PyTorch: python3 sparse_autoencoder_peer.py THREADS WIDTH LATENTS ACTIVE BATCH STEPS

Prints those of top-k and of g-SAE. Adam is the fused one; the largest are taken by torch.topk, the rest is dense, as in the
published implementations of top-k autoencoders.
"""

import sys
import time

import torch

threads, width, latents, active, batch, steps = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)


def seconds(gradients):
    decoder = torch.randn(latents, width)
    decoder /= decoder.norm(dim=1, keepdim=True)
    parts = [decoder.clone(), torch.zeros(latents), decoder, torch.zeros(width)]
    We, be, Wd, b = parts = [p.requires_grad_() for p in parts]
    adam = torch.optim.Adam(parts, lr=1e-3, eps=6.25e-10, fused=True)
    data = torch.randn(batch * 8, width)
    slopes = torch.randn(batch * 8, width)
    begun = None
    for step in range(steps + 3):
        if step == 3:
            begun = time.perf_counter()
        rows = slice(step % 8 * batch, (step % 8 + 1) * batch)
        x, g = data[rows], slopes[rows]
        z = torch.relu((x - b) @ We.T + be)
        score = z.detach()
        if gradients:
            with torch.no_grad():
                score = score * (1 + (g @ Wd.T).abs())
        top = score.topk(active, dim=1)
        values = z.gather(1, top.indices)
        f = torch.zeros_like(z).scatter(1, top.indices, values)
        loss = (x - f @ Wd - b).square().sum() / (x - x.mean(0)).square().sum()
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            Wd.grad -= (Wd.grad * Wd).sum(1, keepdim=True) * Wd
        adam.step()
        with torch.no_grad():
            Wd /= Wd.norm(dim=1, keepdim=True)
    return (time.perf_counter() - begun) / steps


print(seconds(False), seconds(True))
