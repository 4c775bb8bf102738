#!/usr/bin/env python3
"""Writes metrics.json: reference values for tests/metrics_reference.rs, from other people's code.

    python3 -m venv /tmp/venv
    /tmp/venv/bin/pip install numpy==2.4.6 scikit-image==0.26.0 torch==2.15.0
    /tmp/venv/bin/python crates/nabla-panorama/tests/reference/make_metrics.py

* PSNR and SSIM: scikit-image. WS-PSNR and WS-SSIM: its SSIM map, weighted here with numpy.
* A and its pseudo-inverse: dense matrices built tap by tap, and numpy.linalg.pinv.
* AdaIN and the wavelet colour fix: written with torch operations (conv2d with dilation, replicate
  padding), as StableSR does.

The pictures are made of 8-bit levels by a formula that the test repeats exactly, so the file holds
results only.
"""

import json
import os

import numpy as np
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def picture(channels, height, width, a, b, m):
    """Integer levels 0..255, [channels, height, width]: no rounding differs between languages."""
    c, y, x = np.meshgrid(np.arange(channels), np.arange(height), np.arange(width), indexing="ij")
    return (a * x * x + b * y * y + 3 * x * y + 57 * c + (x // 7) * (y // 5) * m) % 256


def pair(channels, height, width):
    """A picture and a distorted copy, as float64 in [0, 1]."""
    base = picture(channels, height, width, 1, 2, 11)
    noise = picture(channels, height, width, 5, 7, 3) - 128
    other = np.clip(base + noise // 4, 0, 255)
    return other / 255.0, base / 255.0


def weights(h):
    return np.cos((np.arange(h) - h / 2 + 0.5) * np.pi / h)


def metrics(channels, height, width):
    a, b = pair(channels, height, width)
    score, ssim_map = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=1.0, channel_axis=0, full=True)
    valid = ssim_map[:, 5:-5, 5:-5]
    # scikit-image's own mean is that of the valid region, per channel.
    assert abs(valid.mean() - score) < 1e-12
    q = weights(height)
    rows = valid.mean(axis=(0, 2))
    mse = ((a - b) ** 2).mean(axis=(0, 2))
    return {
        "shape": [channels, height, width],
        "psnr": peak_signal_noise_ratio(b, a, data_range=1.0),
        "ssim": score,
        "ws_psnr": 10 * np.log10(q.sum() / (q * mse).sum()),
        "ws_ssim": (q[5:-5] * rows).sum() / q[5:-5].sum(),
        "ws_ssim_cropped": (weights(height - 10) * rows).sum() / weights(height - 10).sum(),
    }


def cubic(x):
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    if x < 2:
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return 0.0


def matrix(n, s, wrap):
    """A_1, [n/s, n]: a tap for each sample within two output samples of an output's centre."""
    a = np.zeros((n // s, n))
    for i in range(n // s):
        centre = (i + 0.5) * s - 0.5
        taps = {j: cubic((j - centre) / s)
                for j in range(int(np.ceil(centre - 2 * s)), int(np.floor(centre + 2 * s)) + 1)}
        total = sum(taps.values())
        for j, k in taps.items():
            if wrap:
                j %= n
            else:
                j = j if j >= 0 else -j - 1
                j = j if j < n else 2 * n - 1 - j
            a[i, j] += k / total
    return a


def operator(scale, height, width, wrap):
    av, ah = matrix(height, scale, False), matrix(width, scale, wrap)
    x = picture(1, height, width, 1, 2, 11)[0] / 255.0
    y = picture(1, height // scale, width // scale, 5, 7, 3)[0] / 255.0
    pinv = np.linalg.pinv(av) @ y @ np.linalg.pinv(ah).T
    return {
        "scale": scale, "height": height, "width": width, "wrap": wrap,
        "apply": (av @ x @ ah.T).ravel().round(9).tolist(),
        "pseudo_inverse": pinv.ravel().round(9).tolist(),
    }


def colour(height, width):
    content, style = (torch.tensor(p)[None] for p in pair(3, height, width))
    style = style * torch.tensor([0.5, 0.75, 1.0], dtype=torch.float64)[None, :, None, None] + 0.125

    def moments(t):
        flat = t.reshape(1, 3, -1)
        return flat.mean(2)[:, :, None, None], (flat.var(2) + 1e-5).sqrt()[:, :, None, None]

    (cm, cs), (sm, ss) = moments(content), moments(style)

    def split(t):
        one = torch.tensor([1.0, 2.0, 1.0], dtype=t.dtype) / 4
        kernel = (one[:, None] * one[None])[None, None].repeat(3, 1, 1, 1)
        high = torch.zeros_like(t)
        for level in range(5):
            r = 2**level
            low = F.conv2d(F.pad(t, (r, r, r, r), mode="replicate"), kernel, groups=3, dilation=r)
            high += t - low
            t = low
        return high, t

    wavelet = split(content)[0] + split(style)[1]
    adain = (content - cm) / cs * ss + sm
    return {
        "shape": [3, height, width],
        "adain": adain.ravel().numpy().round(8).tolist(),
        "wavelet": wavelet.ravel().numpy().round(8).tolist(),
    }


def main():
    out = {
        "metrics": [metrics(3, 64, 128), metrics(1, 37, 74), metrics(3, 11, 22)],
        "operators": [operator(2, 16, 32, True), operator(3, 24, 48, True),
                      operator(4, 24, 48, True), operator(8, 32, 64, True),
                      operator(2, 16, 32, False), operator(4, 32, 64, False)],
        "colour": colour(20, 24),
    }
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "metrics.json"), "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
