"""Values for the tests of `xor_grokking`: gradient descent on a two-layer ReLU network with a frozen outer layer, by
PyTorch's own differentiation in double precision.

    pip install torch==2.15 numpy && python xor_grokking.py > xor_grokking.json
"""

import json

import torch

torch.manual_seed(5)
torch.set_default_dtype(torch.float64)
examples, inputs, units, steps, rate = 9, 12, 6, 4, 0.3
x = torch.randn(examples, inputs)
labels = torch.where(torch.rand(examples) < 0.5, 1.0, -1.0)
inner = (0.3 * torch.randn(units, inputs)).requires_grad_()
outer = torch.where(torch.rand(units) < 0.5, 1.0, -1.0) / units**0.5
begin = inner.detach().clone()
for _ in range(steps):
    f = torch.relu(x @ inner.T) @ outer
    loss = torch.nn.functional.softplus(-labels * f).mean()
    (gradient,) = torch.autograd.grad(loss, inner)
    inner = (inner - rate * gradient).detach().requires_grad_()
print(
    json.dumps(
        {
            "x": x.tolist(),
            "labels": labels.tolist(),
            "inner": begin.tolist(),
            "outer": outer.tolist(),
            "steps": steps,
            "rate": rate,
            "trained": inner.tolist(),
            "outputs": (torch.relu(x @ inner.T) @ outer).tolist(),
        }
    )
)
