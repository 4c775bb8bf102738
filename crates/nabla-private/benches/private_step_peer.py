"""Milliseconds and MiB of a step of private training in Opacus, for `private_step.rs`: threads, model, mode."""

import statistics
import sys
import time

import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BATCH, EXAMPLES = 256, 2560
threads, name, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.manual_seed(0)
torch.set_num_threads(threads)


def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def convolution(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride, self.more = stride, outputs - inputs
        self.first, self.norm_1 = convolution(inputs, outputs, stride), nn.GroupNorm(8, outputs)
        self.second, self.norm_2 = convolution(outputs, outputs), nn.GroupNorm(8, outputs)

    def forward(self, x):
        h = torch.relu(self.norm_1(self.first(x)))
        h = self.norm_2(self.second(h))
        kept = x[:, :, :: self.stride, :: self.stride]
        return torch.relu(h + nn.functional.pad(kept, (0, 0, 0, 0, 0, self.more)))


def resnet20():
    layers, inputs = [convolution(3, 16), nn.GroupNorm(8, 16), nn.ReLU()], 16
    for stage, outputs in enumerate((16, 32, 64)):
        for block in range(3):
            layers.append(Block(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def cnn():
    layers = []
    for inputs, outputs in ((3, 16), (16, 32)):
        layers += [convolution(inputs, outputs), nn.GroupNorm(8, outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 8 * 8, 10))


x = torch.randn(EXAMPLES, 3, 32, 32)
loader = DataLoader(TensorDataset(x, torch.arange(EXAMPLES) % 10), batch_size=BATCH)
before = status("VmRSS")
model = {"resnet20": resnet20, "cnn": cnn}[name]()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = nn.CrossEntropyLoss()
private = PrivacyEngine(accountant="rdp").make_private(
    module=model,
    optimizer=optimizer,
    criterion=loss,
    data_loader=loader,
    noise_multiplier=1.0,
    max_grad_norm=1.0,
    grad_sample_mode=mode,
)
if mode.startswith("ghost"):
    model, optimizer, loss, loader = private
else:
    model, optimizer, loader = private
times, begin = [], time.perf_counter()
while len(times) < 6 or time.perf_counter() - begin < 8:
    batches = iter(loader)
    for x, y in batches:
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
        times.append(1e3 * (time.perf_counter() - start))
print(statistics.median(times[1:]), status("VmHWM") - before)
