#!/usr/bin/env python3
"""scikit-image's time for SSIM of two panoramas: `metrics.py HEIGHT RUNS` prints milliseconds.

    pip install numpy==2.4.6 scikit-image==0.26.0

The peer of benches/metrics.rs. f32 samples as ours; scikit-image then filters in f32 too.
"""

import sys
import time

import numpy as np
from skimage.metrics import structural_similarity

height, runs = int(sys.argv[1]), int(sys.argv[2])
y, x, c = np.meshgrid(np.arange(height), np.arange(2 * height), np.arange(3), indexing="ij")


def level(y, x, seed):
    return ((x * x + 2 * y * y + 3 * x * y + 57 * c + seed) % 256).astype(np.float32) / 255


a = level(y, x, 0)
b = (0.9 * a + 0.1 * level(x, y, 5)).astype(np.float32)
least = float("inf")
for _ in range(runs):
    start = time.perf_counter()
    structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                          data_range=1.0, channel_axis=2)
    least = min(least, time.perf_counter() - start)
print(least * 1e3)
