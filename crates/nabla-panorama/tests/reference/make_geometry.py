#!/usr/bin/env python3
"""Writes geometry.json: what other programs make of the same small panorama.

Needs numpy, scipy, torch, Pillow and py360convert:
    python make_geometry.py > geometry.json
"""

import json

import numpy as np
import py360convert
import py360convert.utils
import torch
from PIL import Image
from scipy.ndimage import map_coordinates

# OpenCV rounds positions to 1/32 pixel; without it py360convert samples with SciPy.
py360convert.utils.cv2 = None

H, W, P, FACE = 16, 32, 8, 8
ROWS = [(-67.5, 3), (-22.5, 6), (22.5, 6), (67.5, 3)]
rng = np.random.default_rng(7)
erp = rng.random((H, W)).round(4)
planar = rng.random((7, 10)).round(4)


def values(array):
    return [float(f"{x:.6g}") for x in np.asarray(array, dtype=np.float64).ravel()]


def padded(n):
    """The panorama with n pixels around it, from its other side and over its poles."""
    wide = np.concatenate([erp[n - 1 :: -1], erp, erp[: -n - 1 : -1]])
    wide[:n] = np.roll(wide[:n], W // 2, axis=1)
    wide[-n:] = np.roll(wide[-n:], W // 2, axis=1)
    return np.pad(wide, ((0, 0), (n, n)), mode="wrap")


def torch_bicubic(picture, columns, rows):
    """PyTorch's grid_sample: cubic convolution with a = -0.75, border repeated."""
    h, w = picture.shape
    grid = np.stack([2 * columns / (w - 1) - 1, 2 * rows / (h - 1) - 1], -1)
    out = torch.nn.functional.grid_sample(
        torch.tensor(picture)[None, None],
        torch.tensor(grid).reshape(1, 1, -1, 2),
        mode="bicubic",
        padding_mode="border",
        align_corners=True,
    )
    return out.numpy().ravel()


result = {"erp": values(erp), "planar": values(planar)}

# Sampling at points all over the panorama, beyond its sides too.
points = np.stack([rng.uniform(-4, W + 3, 60), rng.uniform(-0.5, H - 0.5, 60)], 1).round(3)
result["points"] = values(points)
result["erp_bilinear"] = values(
    map_coordinates(padded(8), [points[:, 1] + 8, points[:, 0] + 8], order=1)
)
result["erp_bicubic_075"] = values(torch_bicubic(padded(8), points[:, 0] + 8, points[:, 1] + 8))
inside = np.stack([rng.uniform(0, 9, 40), rng.uniform(0, 6, 40)], 1).round(3)
result["planar_points"] = values(inside)
result["planar_bicubic_075"] = values(torch_bicubic(planar, inside[:, 0], inside[:, 1]))

# Resizing of a planar picture.
filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos3": Image.LANCZOS}
result["resize"] = [
    {
        "interpolation": name,
        "height": h,
        "width": w,
        "values": values(
            np.asarray(Image.fromarray(planar.astype(np.float32)).resize((w, h), kind))
        ),
    }
    for name, kind in filters.items()
    for h, w in [(14, 20), (3, 4), (9, 5), (1, 1)]
]


# Planes by py360convert. It puts the outermost samples on the border of the field of view, so the
# field is that between the outermost pixel centres.
def plane(longitude, latitude, half, size):
    fov = 2 * np.degrees(np.arctan(half * (size - 1) / size))
    return py360convert.e2p(erp[..., None], (fov, fov), longitude, latitude, (size, size))


centres = [((j + 0.5) * 360 / n - 180, lat) for lat, n in ROWS for j in range(n)]
half = np.tan(np.radians(75) / 2)
result["tangent_bilinear"] = [values(plane(lon, lat, half, P)) for lon, lat in centres]
faces = [(0, 0), (90, 0), (180, 0), (-90, 0), (0, 90), (0, -90)]
result["cube_bilinear"] = [values(plane(lon, lat, 1.0, FACE)) for lon, lat in faces]

# The way back, written down from the equations, with SciPy's bilinear sampling.
planes = rng.random((18, P, P)).round(4)
result["planes"] = values(planes)
lon = np.radians((np.arange(W) + 0.5) / W * 360 - 180)[None, :]
lat = np.radians(90 - (np.arange(H) + 0.5) / H * 180)[:, None]
total, weight = np.zeros((H, W)), np.zeros((H, W))
for (lon0, lat0), x in zip(np.radians(centres), planes):
    k = np.sin(lat0) * np.sin(lat) + np.cos(lat0) * np.cos(lat) * np.cos(lon - lon0)
    seen = k > 0
    k = np.where(seen, k, 1)
    u = np.cos(lat) * np.sin(lon - lon0) / k / half
    v = np.cos(lat0) * np.sin(lat) - np.sin(lat0) * np.cos(lat) * np.cos(lon - lon0)
    v = v / k / half
    seen &= (abs(u) <= 1) & (abs(v) <= 1)
    g = np.exp(-((u / 2) ** 2 + (v / 2) ** 2) / (2 * 0.01)) * seen
    at = [(1 - v) / 2 * P - 0.5, (u + 1) / 2 * P - 0.5]
    total += g * map_coordinates(x, at, order=1, mode="nearest")
    weight += g
result["blend_bilinear"] = values(total / weight)

# The published code's way to the planes: its lattices and PyTorch's bicubic.
field = np.radians(75) / 2
grid = np.linspace(-1, 1, P)
official = []
for lon0, lat0 in np.radians(centres):
    x, y = np.meshgrid(grid * field, -grid * field)
    rho = np.sqrt(x**2 + y**2)
    c = np.arctan(rho)
    phi = np.arcsin(np.cos(c) * np.sin(lat0) + y * np.sin(c) * np.cos(lat0) / rho)
    lam = lon0 + np.arctan2(
        x * np.sin(c), rho * np.cos(lat0) * np.cos(c) - y * np.sin(lat0) * np.sin(c)
    )
    lam = (lam + np.pi) % (2 * np.pi) - np.pi
    official.append(
        values(
            torch_bicubic(
                erp, (lam / (2 * np.pi) + 0.5) * (W - 1), (0.5 - phi / np.pi) * (H - 1)
            )
        )
    )
result["official_tangent"] = official

print(json.dumps(result))
