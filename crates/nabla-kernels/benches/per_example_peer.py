"""Milliseconds and MiB of a step in PyTorch, for `per_example.rs`: threads, model, way."""

import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

from peers import resnet20, status

EXAMPLES = 256
threads, name, way = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.manual_seed(0)
torch.set_num_threads(threads)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 128)
        self.norms = nn.ModuleList(nn.LayerNorm(128) for _ in range(2))
        self.projections = nn.ModuleList(nn.Linear(128, 128) for _ in range(4))
        self.hidden, self.output = nn.Linear(128, 512), nn.Linear(512, 128)
        self.classes = nn.Linear(128, 10)

    def forward(self, ids):
        x = self.table(ids)
        h = self.norms[0](x)
        n = x.shape[0]
        q, k, v = (p(h).view(n, 32, 4, 32).transpose(1, 2) for p in self.projections[:3])
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, 32, 128)
        x = x + self.projections[3](h)
        x = x + self.output(F.gelu(self.hidden(self.norms[1](x))))
        return self.classes(x.mean(1))


before = status("VmRSS")
if name == "resnet20":
    model = resnet20(lambda channels: nn.GroupNorm(8, channels))
    x = torch.randn(EXAMPLES, 3, 32, 32)
else:
    model, x = Transformer(), torch.randint(1000, (EXAMPLES, 32))
classes = torch.arange(EXAMPLES) % 10

if way == "plain":

    def step():
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), classes, reduction="sum").backward()

elif way == "vmap":
    from torch.func import functional_call, grad, vmap

    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, y):
        scores = functional_call(model, parameters, (x.unsqueeze(0),))
        return F.cross_entropy(scores, y.unsqueeze(0))

    of_examples = vmap(grad(loss), in_dims=(None, 0, 0))

    def step():
        gradients = of_examples(parameters, x, classes)
        squares = sum(g.flatten(1).square().sum(1) for g in gradients.values())
        weights = squares.rsqrt().clamp(max=1)
        return {k: torch.einsum("i,i...->...", weights, g) for k, g in gradients.items()}

else:
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
        GradSampleModuleFastGradientClipping,
    )

    if way == "ghost":
        private = GradSampleModuleFastGradientClipping(
            model, max_grad_norm=1.0, use_ghost_clipping=True, loss_reduction="sum"
        )

        def step():
            private.zero_grad(set_to_none=True)
            private.enable_hooks()
            losses = F.cross_entropy(private(x), classes, reduction="none")
            losses.sum().backward(retain_graph=True)
            weights = private.get_clipping_coef().detach()
            private.zero_grad(set_to_none=True)
            private.disable_hooks()
            (weights * losses).sum().backward()

    else:
        private = GradSampleModule(model, loss_reduction="sum")

        def step():
            private.zero_grad(set_to_none=True)
            F.cross_entropy(private(x), classes, reduction="sum").backward()
            gradients = [p.grad_sample for p in private.parameters()]
            squares = sum(g.flatten(1).square().sum(1) for g in gradients)
            weights = squares.rsqrt().clamp(max=1)
            for p, g in zip(private.parameters(), gradients):
                p.grad = torch.einsum("i,i...->...", weights, g)
                p.grad_sample = None


times, begin = [], time.perf_counter()
while len(times) < 6 or time.perf_counter() - begin < 2:
    start = time.perf_counter()
    step()
    times.append(1e3 * (time.perf_counter() - start))
print(statistics.median(times[1:]), status("VmHWM") - before)
