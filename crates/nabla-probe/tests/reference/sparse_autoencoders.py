"""Losses and gradients of four sparse autoencoders by PyTorch's autodiff, in double precision.

numpy 2.4.6, torch 2.15.0:  python3 sparse_autoencoders.py > sparse_autoencoders.json
"""

import json

import torch

torch.set_default_dtype(torch.float64)
draw = torch.Generator().manual_seed(3)


def normal(*shape):
    return torch.randn(*shape, generator=draw)


B, D, M, K = 7, 6, 15, 3
x, gradient = normal(B, D), normal(B, D)
encoder, encoder_bias = normal(M, D), 0.3 * normal(M)
decoder = normal(M, D)
decoder = decoder / decoder.norm(dim=1, keepdim=True)
bias = 0.2 * normal(D)
out = {
    "x": x.tolist(),
    "gradient": gradient.tolist(),
    "encoder": encoder.tolist(),
    "encoder_bias": encoder_bias.tolist(),
    "decoder": decoder.tolist(),
    "bias": bias.tolist(),
}


def leaves():
    return [t.clone().requires_grad_() for t in (encoder, encoder_bias, decoder, bias)]


def written(loss, parts, **more):
    loss.backward()
    return {"loss": loss.item(), "gradients": [p.grad.flatten().tolist() for p in parts], **more}


# Top-k and with gradients, without and with dead latents.
for name, alpha, beta, batch, dead in (
    ("top-k", 1.0, 0.0, False, []),
    ("with gradients", 1.0, 1.5, False, []),
    ("attribution", 0.0, 1.0, False, []),
    ("batch", 1.0, 0.5, True, []),
    ("revived", 1.0, 1.0, False, [1, 4, 5, 9, 13]),
):
    We, be, Wd, b = parts = leaves()
    z = torch.relu((x - b) @ We.T + be)
    a = (gradient @ Wd.T).abs().detach()
    mean = 0.8
    score = z.detach() * (alpha + beta * a / mean)
    if batch:
        top = score.flatten().topk(K * B)
        mask = torch.zeros(B * M).scatter(0, top.indices, (top.values > 0).double()).view(B, M)
    else:
        top = score.topk(K, dim=1)
        mask = torch.zeros(B, M).scatter(1, top.indices, (top.values > 0).double())
    y = (z * mask) @ Wd + b
    error = x - y
    loss = error.square().sum() / (x - x.mean(0)).square().sum()
    if dead:
        e = error.detach()
        zd = z[:, dead]
        top = zd.topk(3, dim=1)
        md = torch.zeros(B, len(dead)).scatter(1, top.indices, (top.values > 0).double())
        loss = loss + (e - (zd * md) @ Wd[dead]).square().sum() / e.square().sum() / 32
    out[name] = written(loss, parts, active=(mask > 0).int().tolist())

# Gated.
We, be, Wd, b = parts = leaves()
r, bm = (0.3 * normal(M)).requires_grad_(), (0.2 * normal(M)).requires_grad_()
out["magnitude"], out["magnitude_bias"] = r.tolist(), bm.tolist()
p = (x - b) @ We.T
gate = torch.relu(p + be)
f = (gate > 0).double() * torch.relu(p * r.exp() + bm)
loss = (x - f @ Wd - b).square().sum() + 0.7 * gate.sum()
loss = loss + (x - gate @ Wd.detach() - b.detach()).square().sum()
out["gated"] = written(loss / B, [*parts, r, bm])


# JumpReLU, with its two estimated derivatives.
class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, threshold):
        ctx.save_for_backward(z, threshold)
        return (z > threshold).double()

    @staticmethod
    def backward(ctx, upstream):
        z, threshold = ctx.saved_tensors
        near = ((z - threshold).abs() < EPSILON / 2).double()
        return torch.zeros_like(z), (-near / EPSILON * upstream).sum(0)


class Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, threshold):
        ctx.save_for_backward(z, threshold)
        return z * (z > threshold)

    @staticmethod
    def backward(ctx, upstream):
        z, threshold = ctx.saved_tensors
        near = ((z - threshold).abs() < EPSILON / 2).double()
        return (z > threshold) * upstream, (-threshold * near / EPSILON * upstream).sum(0)


EPSILON, PENALTY = 0.4 * D**0.5, 0.05 * D
We, be, Wd, b = parts = leaves()
t = (0.2 * normal(M) - 0.5).requires_grad_()
out["log_threshold"] = t.tolist()
z = torch.relu((x - b) @ We.T + be)
loss = (x - Jump.apply(z, t.exp()) @ Wd - b).square().sum() + PENALTY * Step.apply(z, t.exp()).sum()
out["jump"] = written(loss / B, [*parts, t])
print(json.dumps(out))
