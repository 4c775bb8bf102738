"""Milliseconds and MiB of a step in PyTorch, for `per_example.rs`: threads, model, way."""

import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

EXAMPLES = 256
threads, name, way = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.manual_seed(0)
torch.set_num_threads(threads)


def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


class Block(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        stride = 1 if inputs == width else 2
        self.first = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.norm_1 = nn.GroupNorm(8, width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm_2 = nn.GroupNorm(8, width)
        self.shortcut = nn.Identity()
        if stride == 2:
            conv = nn.Conv2d(inputs, width, 1, 2, bias=False)
            self.shortcut = nn.Sequential(conv, nn.GroupNorm(8, width))

    def forward(self, x):
        h = F.relu(self.norm_1(self.first(x)))
        return F.relu(self.norm_2(self.second(h)) + self.shortcut(x))


def resnet20():
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.GroupNorm(8, 16), nn.ReLU()]
    inputs = 16
    for width in (16, 32, 64):
        for _ in range(3):
            layers.append(Block(inputs, width))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


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
    model, x = resnet20(), torch.randn(EXAMPLES, 3, 32, 32)
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
