"""What the benchmarks' scripts for PyTorch share."""

from torch import nn
from torch.nn import functional as F


def status(field):
    """A number of this process in MiB, such as "VmRSS" or "VmHWM"."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


class Block(nn.Module):
    def __init__(self, inputs, width, norm):
        super().__init__()
        stride = 1 if inputs == width else 2
        self.first = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.norm_1 = norm(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm_2 = norm(width)
        self.shortcut = nn.Identity()
        if stride == 2:
            conv = nn.Conv2d(inputs, width, 1, 2, bias=False)
            self.shortcut = nn.Sequential(conv, norm(width))

    def forward(self, x):
        h = F.relu(self.norm_1(self.first(x)))
        return F.relu(self.norm_2(self.second(h)) + self.shortcut(x))


def resnet20(norm):
    """ResNet-20 with projections.

    norm: makes a norm of so many channels
    """
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), norm(16), nn.ReLU()]
    inputs = 16
    for width in (16, 32, 64):
        for _ in range(3):
            layers.append(Block(inputs, width, norm))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
