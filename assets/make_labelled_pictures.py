#!/usr/bin/env python3
"""Rebuilds digits and fashion in crates/nabla-data/assets from published packages.

    python3 -m venv /tmp/venv
    /tmp/venv/bin/pip install numpy==2.4.6
    /tmp/venv/bin/python assets/make_labelled_pictures.py --cache /tmp/nabla-assets

Each source is named by package and exact version and is fetched with the ordinary client of its
registry (pip, apt). Both sets are written as IDX files (the format of MNIST), gzip-compressed,
without a time stamp, so that the same packages give the same bytes.

* digits: all 1797 pictures of scikit-learn's copy of the test set of "Optical Recognition of
  Handwritten Digits", 8 x 8, grey values 0 ... 16 as they are, in the order of the file.
* fashion: of each class of Fashion-MNIST the first 550 pictures of the training set and the first
  100 of the test set, 28 x 28, in the order of the files.
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
CARRIED = os.path.join(HERE, "..", "crates", "nabla-data", "assets")
SKLEARN = "scikit-learn==1.7.0"
FASHION = "dataset-fashion-mnist=0.0~git20200523.55506a9-1"
PER_CLASS = {"train": 550, "t10k": 100}


def write_idx(path, array):
    """unsigned bytes: 0, 0, 8, rank, the sizes as big-endian 32-bit numbers, the values."""
    array = np.asarray(array, np.uint8)
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f, gzip.GzipFile("", "wb", 9, f, mtime=0) as z:
        z.write(head + array.tobytes())


def read_idx(path):
    with gzip.open(path) as f:
        data = f.read()
    assert data[:3] == bytes([0, 0, 8])
    rank = data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def make_digits(cache):
    down = os.path.join(cache, "pip-digits")
    os.makedirs(down, exist_ok=True)
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", down, SKLEARN], check=True)
    (wheel,) = [f for f in os.listdir(down) if f.endswith(".whl")]
    with zipfile.ZipFile(os.path.join(down, wheel)) as z:
        rows = gzip.decompress(z.read("sklearn/datasets/data/digits.csv.gz")).decode()
    table = np.array([[float(x) for x in line.split(",")] for line in rows.split()])
    assert table.shape == (1797, 65) and (table == table.astype(np.uint8)).all()
    out = os.path.join(CARRIED, "digits")
    write_idx(os.path.join(out, "digits-images-idx3-ubyte.gz"), table[:, :64].reshape(-1, 8, 8))
    write_idx(os.path.join(out, "digits-labels-idx1-ubyte.gz"), table[:, 64])


def make_fashion(cache):
    down = os.path.join(cache, "apt-fashion")
    if not os.path.isdir(os.path.join(down, "usr")):
        shutil.rmtree(down, ignore_errors=True)
        os.makedirs(down)
        subprocess.run(["apt-get", "download", FASHION], cwd=down, check=True)
        (file,) = os.listdir(down)
        subprocess.run(["dpkg-deb", "-x", os.path.join(down, file), down], check=True)
    found = {f: os.path.join(folder, f) for folder, _, files in os.walk(down) for f in files}
    for part, count in PER_CLASS.items():
        images = read_idx(found[f"{part}-images-idx3-ubyte.gz"])
        labels = read_idx(found[f"{part}-labels-idx1-ubyte.gz"])
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)]))
        out = os.path.join(CARRIED, "fashion")
        write_idx(os.path.join(out, f"{part}-images-idx3-ubyte.gz"), images[chosen])
        write_idx(os.path.join(out, f"{part}-labels-idx1-ubyte.gz"), labels[chosen])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="rebuild the labelled pictures of the repository")
    parser.add_argument("--cache", default="/tmp/nabla-assets", help="folder for the packages")
    args = parser.parse_args()
    os.makedirs(args.cache, exist_ok=True)
    make_digits(args.cache)
    make_fashion(args.cache)
