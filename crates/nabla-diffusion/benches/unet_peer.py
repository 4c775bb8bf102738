"""PyTorch's milliseconds for the networks of unet_backends.rs: CNN, UNet forward, UNet training."""

import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def seconds(call):
    call()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[2]


class Block(nn.Module):
    def __init__(self, i, o, t):
        super().__init__()
        self.conv_in = nn.Conv2d(i, o, 3, padding=1)
        self.modulation = nn.Linear(t, 2 * o)
        self.conv_out = nn.Conv2d(o, o, 3, padding=1)
        self.shortcut = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x, time):
        h = self.conv_in(F.silu(x))
        scale, shift = self.modulation(time)[:, :, None, None].chunk(2, 1)
        h = h * (scale + 1) + shift
        return self.conv_out(F.silu(h)) + self.shortcut(x)


class UNet(nn.Module):
    def __init__(self, channels=3, condition=3, base=64, multipliers=(1,), blocks=2, patch=4):
        super().__init__()
        widths = [base * m for m in multipliers]
        t = 4 * base
        self.base, self.patch = base, patch
        self.hidden, self.output = nn.Linear(base, t), nn.Linear(t, t)
        w = widths[0]
        self.stem = nn.Conv2d((channels + condition) * patch**2, w, 3, padding=1)
        skips = [w]
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        for level, o in enumerate(widths):
            row = nn.ModuleList()
            for _ in range(blocks):
                row.append(Block(w, o, t))
                w = o
                skips.append(w)
            self.encoder.append(row)
            if level + 1 < len(widths):
                self.down.append(nn.Conv2d(w, w, 3, stride=2, padding=1))
                skips.append(w)
        self.middle = nn.ModuleList([Block(w, w, t), Block(w, w, t)])
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            row = nn.ModuleList()
            for _ in range(blocks + 1):
                row.append(Block(w + skips.pop(), widths[level], t))
                w = widths[level]
            self.decoder.append(row)
            if level:
                self.up.append(nn.Conv2d(w, w, 3, padding=1))
        self.head = nn.Conv2d(w, channels * patch**2, 3, padding=1)

    def forward(self, x, timestep, condition):
        half = self.base // 2
        freq = torch.exp(-torch.log(torch.tensor(1e4)) * torch.arange(half) / half)
        phase = timestep[:, None] * freq
        time = self.output(F.silu(self.hidden(torch.cat([phase.cos(), phase.sin()], 1))))
        time = F.silu(time)
        h = self.stem(F.pixel_unshuffle(torch.cat([x, condition], 1), self.patch))
        skips = [h]
        for level, row in enumerate(self.encoder):
            for block in row:
                h = block(h, time)
                skips.append(h)
            if level < len(self.down):
                h = self.down[level](h)
                skips.append(h)
        for block in self.middle:
            h = block(h, time)
        for level, row in enumerate(self.decoder):
            for block in row:
                h = block(torch.cat([h, skips.pop()], 1), time)
            if level < len(self.up):
                h = self.up[level](F.interpolate(h, scale_factor=2, mode="nearest"))
        return F.pixel_shuffle(self.head(F.silu(h)), self.patch)


def main():
    torch.manual_seed(0)
    torch.set_num_threads(2)
    cnn = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(),
    )
    batch = torch.randn(8, 3, 64, 64)
    print(seconds(lambda: cnn(batch).pow(2).mean().backward()) * 1e3)
    unet = UNet()
    tile = torch.randn(1, 3, 256, 256)
    t1, t16 = torch.tensor([500.0]), torch.full((16,), 500.0)
    with torch.inference_mode():
        print(seconds(lambda: unet(tile, t1, tile)) * 1e3)
    batch = torch.randn(16, 3, 64, 64)
    step = lambda: (unet(batch, t16, batch) - batch).abs().mean().backward()
    print(seconds(step) * 1e3)


if __name__ == "__main__":
    main()
