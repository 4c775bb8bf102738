#!/usr/bin/env python3
"""Rebuilds assets/panoramas, assets/photos and assets/sample from published packages.

    python3 -m venv /tmp/venv
    /tmp/venv/bin/pip install numpy==2.4.6 opencv-python-headless==5.0.0.93 OpenEXR==3.5.3 pillow==13.0.0
    /tmp/venv/bin/python assets/make_assets.py --cache /tmp/nabla-assets [--only panoramas|photos|readme]

Each source is named by package and exact version and is fetched with the ordinary client of its
registry (pip, npm, apt). Nothing else is downloaded. `zopflipng` (Debian package `zopfli`) makes
the PNG files smaller when it is installed; it does not change a pixel.

Tone mapping of a panorama, once, for every use:
    L   = 0.2126 R + 0.7152 G + 0.0722 B        (linear light, negatives clipped to 0)
    out = round(255 * clip(rgb / percentile_95(L), 0, 1) ^ (1 / 2.2))
The percentile is over the pixels of the equirectangular picture, without a weight for latitude.
"""

import argparse
import base64
import glob
import io
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

HERE = os.path.dirname(os.path.abspath(__file__))

# ---------------------------------------------------------------- panoramas

VISER = ("pip", "viser", "1.0.0")
PMNDRS = ("npm", "@pmndrs/assets", "1.7.0")
BLENDER = ("apt", "blender-data", "3.4.1+dfsg-2")

# (name, split, package, path inside, scene). Both packages hold nine scenes under two names
# (apartment = lebombo, city = potsdamer_platz, dawn = kiara_1_dawn, forest = forest_slope,
# lobby = st_fagans_interior, night = dikhololo_night, park = rooitou_park,
# studio = studio_small_03, warehouse = empty_warehouse_01): the 1024 x 512 one is taken.
# `sky` is left out: its lower half is a mirror image, not a photograph.
PANORAMAS = [
    ("dikhololo_night", "held_out", VISER, "viser/client/build/hdri/dikhololo_night_1k.hdr", "night, outdoor"),
    ("forest_slope", "held_out", VISER, "viser/client/build/hdri/forest_slope_1k.hdr", "outdoor, forest"),
    ("potsdamer_platz", "held_out", VISER, "viser/client/build/hdri/potsdamer_platz_1k.hdr", "city"),
    ("st_fagans_interior", "held_out", VISER, "viser/client/build/hdri/st_fagans_interior_1k.hdr", "indoor"),
    ("venice_sunset", "held_out", VISER, "viser/client/build/hdri/venice_sunset_1k.hdr", "city, sunset"),
    ("bridge", "held_out", PMNDRS, "hdri/bridge.exr.js", "indoor, glass and steel"),
    ("venice", "held_out", PMNDRS, "hdri/venice.exr.js", "city, dusk"),
    ("workshop", "held_out", PMNDRS, "hdri/workshop.exr.js", "indoor, machines"),
    ("empty_warehouse", "training", VISER, "viser/client/build/hdri/empty_warehouse_01_1k.hdr", "indoor"),
    ("kiara_dawn", "training", VISER, "viser/client/build/hdri/kiara_1_dawn_1k.hdr", "outdoor, dawn"),
    ("lebombo", "training", VISER, "viser/client/build/hdri/lebombo_1k.hdr", "indoor"),
    ("rooitou_park", "training", VISER, "viser/client/build/hdri/rooitou_park_1k.hdr", "outdoor, lawn"),
    ("studio_small", "training", VISER, "viser/client/build/hdri/studio_small_03_1k.hdr", "indoor, studio"),
    ("esplanade", "training", PMNDRS, "hdri/esplanade.exr.js", "indoor, shops"),
    ("hall", "training", PMNDRS, "hdri/hall.exr.js", "indoor"),
    ("lab", "training", PMNDRS, "hdri/lab.exr.js", "indoor"),
    ("sunrise", "training", PMNDRS, "hdri/sunrise.exr.js", "outdoor, field"),
    ("sunset", "training", PMNDRS, "hdri/sunset.exr.js", "city"),
]
SAMPLE = "st_fagans_interior"


def fetch(source, cache):
    """Downloads a package at its exact version, unpacks it, and returns the folder."""
    kind, name, version = source
    folder = os.path.join(cache, re.sub(r"[^A-Za-z0-9.-]", "_", f"{kind}-{name}-{version}"))
    if os.path.isdir(folder):
        return folder
    down = folder + ".download"
    shutil.rmtree(down, ignore_errors=True)
    os.makedirs(down)
    if kind == "pip":
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":none:",
                        "-d", down, f"{name}=={version}"], check=True)
        (file,) = os.listdir(down)
        with zipfile.ZipFile(os.path.join(down, file)) as z:
            z.extractall(folder)
    elif kind == "npm":
        subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=down, check=True,
                       stdout=subprocess.DEVNULL)
        (file,) = os.listdir(down)
        with tarfile.open(os.path.join(down, file)) as t:
            t.extractall(folder, filter="data")
    else:
        subprocess.run(["apt-get", "download", f"{name}={version}"], cwd=down, check=True)
        (file,) = os.listdir(down)
        subprocess.run(["dpkg-deb", "-x", os.path.join(down, file), folder], check=True)
    shutil.rmtree(down)
    return folder


def read_exr(data, cache):
    import OpenEXR

    path = os.path.join(cache, "panorama.exr")
    with open(path, "wb") as f:
        f.write(data)
    ch = OpenEXR.File(path).channels()
    rgb = ch["RGB"].pixels if "RGB" in ch else np.stack([ch[c].pixels for c in "RGB"], -1)
    return rgb.astype(np.float64)


def read_panorama(path, cache):
    """Linear-light RGB, [height, width, 3], float64."""
    if path.endswith(".hdr"):
        return cv2.imread(path, cv2.IMREAD_UNCHANGED)[:, :, ::-1].astype(np.float64)
    with open(path, "rb") as f:
        data = f.read()
    if path.endswith(".exr.js"):
        data = base64.b64decode(re.search(rb"base64,([^']+)'", data).group(1))
    return read_exr(data, cache)


def tone_map(rgb):
    rgb = np.maximum(rgb, 0.0)
    white = np.percentile(rgb @ np.array([0.2126, 0.7152, 0.0722]), 95)
    return np.floor(255.0 * np.clip(rgb / white, 0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8)


def write_png(path, rgb, xmp=None):
    info = PngImagePlugin.PngInfo()
    if xmp:
        info.add_itxt("XML:com.adobe.xmp", xmp)
    Image.fromarray(rgb).save(path, optimize=True, pnginfo=info)
    if shutil.which("zopflipng"):
        subprocess.run(["zopflipng", "-y", "--keepchunks=iTXt", path, path], check=True,
                       stdout=subprocess.DEVNULL)


GPANO = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"
    GPano:UsePanoramaViewer="True"
    GPano:ProjectionType="equirectangular"
    GPano:PoseHeadingDegrees="0.0"
    GPano:FullPanoWidthPixels="{w}"
    GPano:FullPanoHeightPixels="{h}"
    GPano:CroppedAreaImageWidthPixels="{w}"
    GPano:CroppedAreaImageHeightPixels="{h}"
    GPano:CroppedAreaLeftPixels="0"
    GPano:CroppedAreaTopPixels="0"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def cubic(x):
    """Keys' cubic kernel, a = -0.5."""
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1,
                    np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


def bicubic_down(x, factor, axis, wrap):
    """Antialiased bicubic reduction along one axis: the kernel is stretched by the factor."""
    n = x.shape[axis]
    taps = np.arange(-2 * factor, 2 * factor)
    w = cubic((taps + 0.5) / factor)
    w /= w.sum()
    centre = np.arange(n // factor) * factor + factor // 2
    out = 0
    for t, k in zip(taps, w):
        i = centre + t
        i = i % n if wrap else np.clip(i, 0, n - 1)
        out = out + k * np.take(x, i, axis=axis)
    return out


def make_panoramas(cache):
    out = os.path.join(HERE, "panoramas")
    os.makedirs(out, exist_ok=True)
    for name, _, package, path, _ in PANORAMAS:
        folder = fetch(package, cache)
        if package[0] == "npm":
            folder = os.path.join(folder, "package")
        rgb = tone_map(read_panorama(os.path.join(folder, path), cache))
        write_png(os.path.join(out, name + ".png"), rgb)
        if name == SAMPLE:
            sample = os.path.join(HERE, "sample")
            os.makedirs(sample, exist_ok=True)
            h, w = rgb.shape[:2]
            write_png(os.path.join(sample, f"panorama_{w}x{h}.png"), rgb, GPANO.format(w=w, h=h))
            x = rgb.astype(np.float64)
            x = bicubic_down(bicubic_down(x, 4, 1, wrap=True), 4, 0, wrap=False)
            low = np.clip(np.floor(x + 0.5), 0, 255).astype(np.uint8)
            h, w = low.shape[:2]
            write_png(os.path.join(sample, f"panorama_{w}x{h}.png"), low, GPANO.format(w=w, h=h))
    with open(os.path.join(out, "split.toml"), "w") as f:
        f.write("# The split of the panoramas by name, fixed once (written by make_assets.py).\n"
                "# No scene stands on both sides. `sample` is the held-out panorama that the\n"
                "# program carries inside.\n\n")
        f.write(f'sample = "{SAMPLE}"\n\n')
        for split in ("training", "held_out"):
            f.write(f"{split} = [\n")
            for name, s, _, _, scene in PANORAMAS:
                if s == split:
                    f.write(f'    "{name}", # {scene}\n')
            f.write("]\n" + ("\n" if split == "training" else ""))
