#!/usr/bin/env python3
"""Rebuilds the slices in assets/scans, and the pictures that the denoiser there was trained on.

    python3 -m venv /tmp/venv
    /tmp/venv/bin/pip install numpy==2.4.6 scipy==1.17.1 pynrrd==1.1.3
    /tmp/venv/bin/python assets/make_scans.py SDIST TRAINING

SDIST is pyradiomics-3.0.1.tar.gz from PyPI. Its test data are scans of five patients, of which four are used: CT of the
chest (lung1, lung2; from -1000 to 400 Hounsfield units) and MR of the head (brain1, brain2; up to the percentile 99.7 of
each scan). Slices are averaged to 32 x 32 pixels. The first patient of each kind is known to the denoiser, the second is
for measuring.

TRAINING becomes a folder in the format of MNIST: 3000 slices of each kind, rotated, shifted, mirrored and scaled at
random, class 0 is CT and 1 is MR. From it, assets/scans/denoiser was trained:

    nabla train denoiser --data TRAINING --recipe assets/scans/denoiser/recipe.toml --out assets/scans/denoiser
"""

import hashlib
import os
import struct
import sys
import tarfile
import tempfile

import nrrd
import numpy as np
from scipy.ndimage import affine_transform

HERE = os.path.dirname(os.path.abspath(__file__))
SHA256 = "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5"
SIDE = 32
EXAMPLES = 3000


def load(folder, name):
    """Slices of 256 x 256 pixels with values in [0, 1]."""
    a, _ = nrrd.read(os.path.join(folder, f"{name}_image.nrrd"))
    a = np.moveaxis(np.asarray(a, float), -1, 0).transpose(0, 2, 1)  # slices, rows, columns
    if name.startswith("lung"):
        a = np.clip((a + 1000) / 1400, 0, 1)
    else:
        a = np.clip(a / np.percentile(a, 99.7), 0, 1)
    n = a.shape[1] // 256
    return a.reshape(len(a), 256, n, 256, n).mean((2, 4))


def reduced(a):
    return a.reshape(*a.shape[:-2], SIDE, 256 // SIDE, SIDE, 256 // SIDE).mean((-3, -1))


def changed(a, rng):
    angle, zoom = rng.uniform(-0.15, 0.15), np.exp(rng.uniform(-0.15, 0.15))
    flip = rng.choice([-1, 1])
    m = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom * [1, flip]
    c = np.array([127.5, 127.5]) + rng.uniform(-12, 12, 2)
    return affine_transform(a, m, c - m @ [127.5, 127.5], order=1, mode="nearest")


def write_idx(path, a):
    with open(path, "wb") as f:
        f.write(bytes([0, 0, 8, a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) + a.tobytes())


def bytes_of(a):
    return (a * 255).round().astype(np.uint8)


def make_training(folder, out):
    rng = np.random.default_rng(0)
    pictures, labels = [], []
    for label, name in enumerate(["lung1", "brain1"]):
        a = load(folder, name)
        a = a[a.mean((1, 2)) > 0.03]
        for i in range(EXAMPLES):
            pictures.append(reduced(changed(a[i % len(a)], rng)))
            labels.append(label)
    order = rng.permutation(len(labels))
    write_idx(os.path.join(out, "train-images-idx3-ubyte"), bytes_of(np.stack(pictures)[order]))
    write_idx(os.path.join(out, "train-labels-idx1-ubyte"), np.array(labels, np.uint8)[order])
    pictures, labels = [], []
    for label, name in enumerate(["lung2", "brain2"]):
        a = reduced(load(folder, name))
        a = a[a.mean((1, 2)) > 0.05]
        pictures.append(a)
        labels += [label] * len(a)
    write_idx(os.path.join(out, "t10k-images-idx3-ubyte"), bytes_of(np.concatenate(pictures)))
    write_idx(os.path.join(out, "t10k-labels-idx1-ubyte"), np.array(labels, np.uint8))


def make_slices(folder):
    """12 slices of the patients for measuring and 4 of the known ones, spread over the scan."""
    out = os.path.join(HERE, "scans")
    for kind, known, other in [("ct", "lung1", "lung2"), ("mr", "brain1", "brain2")]:
        for part, scan, count in [("", other, 12), ("_known", known, 4)]:
            a = reduced(load(folder, scan))
            a = a[a.mean((1, 2)) > 0.1]
            a = a[np.linspace(2, len(a) - 3, count).round().astype(int)]
            np.save(os.path.join(out, f"{kind}{part}.npy"), bytes_of(a))


def main():
    sdist, training = sys.argv[1:3]
    with open(sdist, "rb") as f:
        found = hashlib.sha256(f.read()).hexdigest()
    assert found == SHA256, f"{sdist} is another file than pyradiomics-3.0.1.tar.gz: {found}"
    os.makedirs(training, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(sdist) as archive:
        for name in ["lung1", "lung2", "brain1", "brain2"]:
            member = f"pyradiomics-3.0.1/data/{name}_image.nrrd"
            with archive.extractfile(member) as f, open(os.path.join(folder, f"{name}_image.nrrd"), "wb") as g:
                g.write(f.read())
        make_training(folder, training)
        make_slices(folder)


if __name__ == "__main__":
    main()
