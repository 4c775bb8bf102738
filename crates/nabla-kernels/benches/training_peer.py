"""Milliseconds (median) and MiB (peak) of a step of training in PyTorch, for `training.rs`: threads, name of the model, "kept" or "fresh"."""

import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

from peers import resnet20, status

torch.manual_seed(0)
torch.set_num_threads(int(sys.argv[1]))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(256) for _ in range(2))
        self.projections = nn.ModuleList(nn.Linear(256, 256) for _ in range(4))
        self.hidden, self.output = nn.Linear(256, 1024), nn.Linear(1024, 256)

    def forward(self, x):
        h = self.norms[0](x)
        q, k, v = (p(h).view(16, 128, 8, 32).transpose(1, 2) for p in self.projections[:3])
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(16, 128, 256)
        x = x + self.projections[3](h)
        return x + self.output(F.gelu(self.hidden(self.norms[1](x))))


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, 64) for i in (16, 64, 64))
        self.adjacency = torch.randn(64, 32, 32) / 32

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(torch.bmm(self.adjacency, layer(x)))
        return x


def chain(layers, activation):
    return nn.Sequential(*sum(([layer, activation] for layer in layers[:-1]), []), layers[-1])


def measure(make):
    if sys.argv[3] == "kept":
        # Freed, this lets the allocator keep arrays of this size instead of asking for fresh pages in each step, as in a
        # process that has trained something larger before.
        torch.ones(31 << 18)
    before = status("VmRSS")
    model, x, classes = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    target = torch.randn_like(model(x)) if classes is None else None

    def step():
        optimizer.zero_grad(set_to_none=True)
        y = model(x)
        loss = F.mse_loss(y, target) if classes is None else F.cross_entropy(y, classes)
        loss.backward()
        optimizer.step()

    times, begin = [], time.perf_counter()
    while len(times) < 7 or time.perf_counter() - begin < 0.7:
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    print(statistics.median(times[2:]), status("VmHWM") - before)


def convs(layer, *sizes):
    return [layer(i, o, 3, padding=1) for i, o in sizes]


classes = torch.arange(128) % 10
models = {
    "MLP 784-512-512-10, batch 128": lambda: (
        chain([nn.Linear(784, 512), nn.Linear(512, 512), nn.Linear(512, 10)], nn.ReLU()),
        torch.randn(128, 784),
        classes,
    ),
    "ResNet-20, 128 x 3 x 32 x 32": lambda: (
        resnet20(nn.BatchNorm2d),
        torch.randn(128, 3, 32, 32),
        classes,
    ),
    "small CNN, 8 x 3 x 64 x 64": lambda: (
        nn.Sequential(chain(convs(nn.Conv2d, (3, 32), (32, 64), (64, 32)), nn.ReLU()), nn.ReLU()),
        torch.randn(8, 3, 64, 64),
        None,
    ),
    "transformer's block, 16 x 128 x 256": lambda: (Transformer(), torch.randn(16, 128, 256), None),
    "graph network, 64 x 32 nodes": lambda: (Graph(), torch.randn(64, 32, 16), None),
    "three 1-D convolutions, 64 x 263 x 196": lambda: (
        chain(convs(nn.Conv1d, (263, 512), (512, 512), (512, 263)), nn.ReLU()),
        torch.randn(64, 263, 196),
        None,
    ),
    "right-hand side of a neural ODE, 512 x 100": lambda: (
        chain([nn.Linear(100, 100) for _ in range(3)], nn.Tanh()),
        torch.randn(512, 100),
        None,
    ),
}
measure(models[sys.argv[2]])
