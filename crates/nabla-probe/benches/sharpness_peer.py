"""Seconds that PyHessian takes for products with the Hessian of ResNet-20, for benches/sharpness.rs:

    python sharpness_peer.py THREADS EXAMPLES PRODUCTS

It prints the seconds of the faster of its two ways, all examples as one batch and a loader of batches, with what each
needs before its first product. torch 2.15.0, pyhessian 0.1.
"""

import sys
import time
import warnings

import torch
from torch import nn
from torch.nn import functional

warnings.filterwarnings("ignore")
from pyhessian import hessian

threads, examples, products = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.convolution_1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm_1 = nn.BatchNorm2d(outputs)
        self.convolution_2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm_2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        y = functional.relu(self.norm_1(self.convolution_1(x)))
        y = self.norm_2(self.convolution_2(y))
        x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return functional.relu(y + x)


def resnet20():
    blocks, inputs = [], 16
    for outputs in (16, 32, 64):
        for block in range(3):
            blocks.append(Block(inputs, outputs, 2 if outputs > 16 and block == 0 else 1))
            inputs = outputs
    first = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


x, y = torch.randn(examples, 3, 32, 32), torch.randint(10, (examples,))
model = resnet20()
loss = functional.cross_entropy


def seconds(**data):
    begun = time.perf_counter()
    # Each probe takes one product. Any tolerance from 0 on is met by the first sum that is negative.
    found = hessian(model, loss, cuda=False, **data).trace(maxIter=products, tol=float("-inf"))
    assert len(found) == products
    return time.perf_counter() - begun


loader = list(zip(x.split(250), y.split(250)))
print(min(seconds(dataloader=loader), seconds(data=(x, y))))
