"""The dimension of a sphere and a Swiss roll, by scikit-dimension: writes dimension.json beside itself.

    pip install numpy==2.4.6 scikit-dimension==0.5.0
    python dimension.py
"""

import json
from pathlib import Path

import numpy as np
import skdim

rng = np.random.default_rng(5)
POINTS = 400


def sphere(ambient):
    x = rng.normal(size=(POINTS, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.hstack([x, np.zeros((POINTS, ambient - 3))])


def circle():
    angle = rng.uniform(0, 2 * np.pi, POINTS)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def swiss_roll():
    t = 1.5 * np.pi * (1 + 2 * rng.random(POINTS))
    return np.stack([t * np.cos(t), 21 * rng.random(POINTS), t * np.sin(t)], 1) / 10


found = {}
for name, points in [
    ("circle in 2", circle()),
    ("sphere in 3", sphere(3)),
    ("sphere in 5", sphere(5)),
    ("Swiss roll in 3", swiss_roll()),
]:
    points = points.round(6)
    local = skdim.id.lPCA(ver="FO").fit_pw(points, n_neighbors=20)
    found[name] = {
        "points": points.tolist(),
        "two_nn": float(skdim.id.TwoNN().fit(points).dimension_),
        "local_pca": float(np.median(local.dimension_pw_)),
    }
    print(name, found[name]["two_nn"], found[name]["local_pca"])
Path(__file__).with_suffix(".json").write_text(json.dumps(found) + "\n")
