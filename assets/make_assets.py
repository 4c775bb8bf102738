#!/usr/bin/env python3
"""Rebuilds assets/panoramas, assets/photos and crates/nabla-data/assets/sample from published packages.

    python3 -m venv /tmp/venv
    /tmp/venv/bin/pip install numpy==2.4.6 opencv-python-headless==5.0.0.93 OpenEXR==3.5.3 pillow==13.0.0
    /tmp/venv/bin/python assets/make_assets.py --cache /tmp/nabla-assets [--only panoramas|sample|photos|readme]

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
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

HERE = os.path.dirname(os.path.abspath(__file__))

# ---------------------------------------------------------------- panoramas

VISER = ("pip", "viser", "1.0.0")
PMNDRS = ("npm", "@pmndrs/assets", "1.7.0")
BLENDER = ("apt", "blender-data", "3.4.1+dfsg-2")

WORLD = "usr/share/blender/datafiles/studiolights/world/"

# (name, split, package, path inside, scene). viser and @pmndrs/assets share nine scenes
# (apartment = lebombo, city = potsdamer_platz, dawn = kiara_1_dawn, forest = forest_slope,
# lobby = st_fagans_interior, night = dikhololo_night, park = rooitou_park,
# studio = studio_small_03, warehouse = empty_warehouse_01), and of Blender's eight, `sunset` is
# viser's venice_sunset and `sunrise` is @pmndrs/assets' sunrise: each scene is taken once, at
# 1024 x 512 where there is one.
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
    ("blender_city", "training", BLENDER, WORLD + "city.exr", "city"),
    ("blender_courtyard", "training", BLENDER, WORLD + "courtyard.exr", "outdoor, courtyard"),
    ("blender_forest", "training", BLENDER, WORLD + "forest.exr", "outdoor, park"),
    ("blender_interior", "training", BLENDER, WORLD + "interior.exr", "indoor, hotel room"),
    ("blender_night", "training", BLENDER, WORLD + "night.exr", "night, outdoor"),
    ("blender_studio", "training", BLENDER, WORLD + "studio.exr", "indoor, studio"),
    ("sunrise", "training", BLENDER, WORLD + "sunrise.exr", "outdoor, field"),
    ("esplanade", "training", PMNDRS, "hdri/esplanade.exr.js", "indoor, shops"),
    ("hall", "training", PMNDRS, "hdri/hall.exr.js", "indoor"),
    ("lab", "training", PMNDRS, "hdri/lab.exr.js", "indoor"),
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
    # A sample that overflowed half precision is brighter than white.
    rgb = np.nan_to_num(np.maximum(rgb, 0.0), nan=65504.0, posinf=65504.0)
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
    """Antialiased bicubic reduction along one axis by an even factor: the kernel is stretched.

    This is the operator A of OmniSSR as in crates/nabla-panorama/src/degradation.rs: longitude
    wraps, latitude is reflected.
    """
    n = x.shape[axis]
    taps = np.arange(-2 * factor, 2 * factor)
    w = cubic((taps + 0.5) / factor)
    w /= w.sum()
    centre = np.arange(n // factor) * factor + factor // 2
    out = 0
    for t, k in zip(taps, w):
        i = centre + t
        i = i % n if wrap else np.where(i < 0, -1 - i, np.where(i < n, i, 2 * n - 1 - i))
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
            make_sample(rgb)


def make_sample(rgb):
    """The sample and its x4 degradation, with the metadata of a camera."""
    sample = os.path.join(HERE, "..", "crates", "nabla-data", "assets", "sample")
    os.makedirs(sample, exist_ok=True)
    x = bicubic_down(bicubic_down(rgb.astype(np.float64), 4, 1, wrap=True), 4, 0, wrap=False)
    low = np.clip(np.floor(x + 0.5), 0, 255).astype(np.uint8)
    for picture in (rgb, low):
        h, w = picture.shape[:2]
        write_png(os.path.join(sample, f"panorama_{w}x{h}.png"), picture, GPANO.format(w=w, h=h))


def write_split():
    with open(os.path.join(HERE, "panoramas", "split.toml"), "w") as f:
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


# ---------------------------------------------------------------- photographs

SKIMAGE = ("pip", "scikit-image", "0.26.0")
SKLEARN = ("pip", "scikit-learn", "1.7.0")
SCIPY = ("pip", "scipy", "1.9.3")
PALAPELI = ("apt", "palapeli-data", "4:22.12.3-1")
LOMIRI16 = ("apt", "lomiri-wallpapers-16.04", "20.04.0-2")
LOMIRI20 = ("apt", "lomiri-wallpapers-20.04", "20.04.0-2")

PD = "public domain"
QUALITY = 94
# (name, package, path inside, author, licence, integer reduction factor)
PHOTOS = [
    ("astronaut", SKIMAGE, "skimage/data/astronaut.png", "NASA", PD, 1),
    ("brick", SKIMAGE, "skimage/data/brick.png", "CC0Textures (Bricks25)", "CC0-1.0", 1),
    ("camera", SKIMAGE, "skimage/data/camera.png", "Lav Varshney", "CC0-1.0", 1),
    ("chelsea", SKIMAGE, "skimage/data/chelsea.png", "Stefan van der Walt", "CC0-1.0", 1),
    ("coffee", SKIMAGE, "skimage/data/coffee.png", "Rachel Michetti", "CC0-1.0", 1),
    ("grass", SKIMAGE, "skimage/data/grass.png", "linolafett", "CC0-1.0", 1),
    ("gravel", SKIMAGE, "skimage/data/gravel.png", "CC0Textures (Gravel04)", "CC0-1.0", 1),
    ("hubble_deep_field", SKIMAGE, "skimage/data/hubble_deep_field.jpg", "NASA", PD, 1),
    ("retina", SKIMAGE, "skimage/data/retina.jpg", "Mikael Häggström", "CC0-1.0", 2),
    ("rocket", SKIMAGE, "skimage/data/rocket.jpg", "SpaceX", PD, 1),
    ("china", SKLEARN, "sklearn/datasets/images/china.jpg", "danielbuechele (Flickr)", "CC-BY-2.0", 1),
    ("flower", SKLEARN, "sklearn/datasets/images/flower.jpg", "vultilion (Flickr)", "CC-BY-2.0", 1),
    ("ascent", SCIPY, "scipy/misc/ascent.dat", "unnamed (public-domain-image.com, accent-to-the-top)", PD, 1),
    ("raccoon", SCIPY, "scipy/misc/face.dat", "unnamed (public-domain-image.com, raccoon)", PD, 1),
    ("cincinnati_bridge", PALAPELI, "usr/share/palapeli/collection/cincinnati-bridge.jpg", "Derek Jensen", PD, 1),
    ("citrus_fruits", PALAPELI, "usr/share/palapeli/collection/citrus-fruits.jpg", "US Department of Agriculture", PD, 1),
    ("honey_bee", PALAPELI, "usr/share/palapeli/collection/european-honey-bee.jpg", "John Severns", PD, 2),
    ("aitzgorri", LOMIRI16, "usr/share/backgrounds/aitzgorri_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi, 2018", "CC-BY-4.0", 2),
    ("bridge_cables", LOMIRI16, "usr/share/backgrounds/Bridge_by_Sander_Klootwijk.jpg", "Sander Klootwijk, 2018", "CC-BY-SA-4.0", 4),
    ("dragonfly", LOMIRI16, "usr/share/backgrounds/Dragonfly_by_Bolly.jpg", "Bolly, 2018", "CC-BY-SA-4.0", 3),
    ("greenfinch", LOMIRI16, "usr/share/backgrounds/free_by_Peter_Nerlich.jpg", "Peter Nerlich, 2018", "CC-BY-SA-4.0", 3),
    ("friends", LOMIRI16, "usr/share/backgrounds/friends_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi, 2018", "CC-BY-4.0", 2),
    ("clock", LOMIRI16, "usr/share/backgrounds/greentock_by_Peter_Nerlich.jpg", "Peter Nerlich, 2018", "CC-BY-SA-4.0", 2),
    ("life", LOMIRI16, "usr/share/backgrounds/life_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi, 2018", "CC-BY-4.0", 2),
    ("picos_de_europa", LOMIRI16, "usr/share/backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi, 2018", "CC-BY-4.0", 2),
    ("fig", LOMIRI16, "usr/share/backgrounds/Picture_0B_by_freespace.jpg", "Trevor 'Freespace', 2018", "CC-BY-4.0", 2),
    ("brushes", LOMIRI16, "usr/share/backgrounds/Picture_1A_by_freespace.jpg", "Trevor 'Freespace', 2018", "CC-BY-4.0", 1),
    ("dandelion", LOMIRI16, "usr/share/backgrounds/seeding_by_Clements_Engelhardt.jpg", "Clemens Engelhardt, 2018", "CC0-1.0", 4),
    ("hilltop", LOMIRI16, "usr/share/backgrounds/sunset_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi, 2018", "CC-BY-4.0", 3),
    ("wine", LOMIRI16, "usr/share/backgrounds/Wine_by_Jakkub_Mede.jpg", "Jakub Mede, 2018", "CC-BY-4.0", 2),
    ("nuthatch", LOMIRI20, "usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg", "Lukas Baubkus, 2021", "CC-BY-SA-3.0", 4),
]


def read_scipy_dat(path):
    """scipy.misc keeps `face` as bz2 of raw RGB bytes and `ascent` as a pickled array."""
    if path.endswith("face.dat"):
        import bz2

        with open(path, "rb") as f:
            return np.frombuffer(bz2.decompress(f.read()), np.uint8).reshape(768, 1024, 3)
    import pickle

    with open(path, "rb") as f:
        return np.asarray(pickle.load(f)).astype(np.uint8)


def make_photos(cache):
    out = os.path.join(HERE, "photos")
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    for name, package, path, _, _, factor in PHOTOS:
        path = os.path.join(fetch(package, cache), path)
        if path.endswith(".dat"):
            picture = Image.fromarray(read_scipy_dat(path))
        else:
            picture = Image.open(path)
        if picture.mode not in ("L", "RGB"):
            picture = picture.convert("RGB")
        if factor > 1:
            size = (picture.width // factor, picture.height // factor)
            box = (0, 0, size[0] * factor, size[1] * factor)
            picture = picture.resize(size, Image.Resampling.LANCZOS, box=box)
        # A JPEG that is taken as it is stays byte for byte: no second loss.
        if factor == 1 and path.endswith(".jpg"):
            shutil.copyfile(path, os.path.join(out, name + ".jpg"))
        else:
            picture.save(os.path.join(out, name + ".jpg"), quality=QUALITY, subsampling=0, optimize=True)


# ---------------------------------------------------------------- the table of sources

README_HEAD = """# Pictures of the repository

`make_assets.py` rebuilds the pictures here, `make_labelled_pictures.py` those of `digits` and `fashion`, and
`make_scans.py` those of `scans`, from published packages with exact versions. `make_assets.py` also writes the tables
below. Files that are built into a crate are in that crate's folder, so that it can be packaged: `sample`, `digits` and
`fashion` in `crates/nabla-data/assets`, `clip` and `prior` in `crates/nabla-diffusion/assets`.

* `panoramas/*.png`: equirectangular panoramas, 8-bit RGB, tone-mapped once: linear light (negative
  samples clipped) divided by the 95th percentile of its luminance, clamped to [0, 1], gamma 1/2.2.
  No scene occurs twice. `panoramas/split.toml` is the split by name into training and held-out panoramas.
  In `sunrise`, `hall`, `lab`, `esplanade` and `workshop` the package's own lossy EXR compression left dark
  specks around the sun and the lamps.
* `photos/*.jpg`: photographs that the prior is trained on. JPEG files that needed no reduction are
  byte for byte those of the package; the others were reduced by an integer factor
  (Lanczos) and saved at quality {quality}, 4:4:4. None is a painting, a rendering or a logo.
* `sample/`: the ground truth of the README's command, and its x4 degradation (bicubic, antialiased,
  wrapped in longitude, reflected at the poles), both with GPano metadata as a camera writes it.
* `digits/`: 1797 handwritten digits, 8 x 8, as IDX files: the test set of "Optical Recognition of
  Handwritten Digits" (E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998,
  doi 10.24432/C50P49), CC BY 4.0, from PyPI `scikit-learn` 1.7.0
  (`sklearn/datasets/data/digits.csv.gz`); the values are unchanged, only the format differs.
* `fashion/`: for each class of Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf, 2017), the first 550
  pictures of the training set and the first 100 of the test set, 28 x 28, as IDX files; MIT licence,
  copyright 2017 Zalando SE; from Debian `dataset-fashion-mnist` 0.0~git20200523.55506a9-1.
* `scans/*.npy`: slices of CT scans of two chests and MR scans of two heads, reduced to 32 x 32 pixels of 8 bits: `ct` and
  `mr` of the patients for measuring, `ct_known` and `mr_known` of those that the network in `scans/denoiser` was
  trained on; BSD 3-Clause licence, copyright 2017 Harvard Medical School (`scans/LICENSE.txt`); from PyPI `pyradiomics` 3.0.1
  (`data/{{lung1,lung2,brain1,brain2}}_image.nrrd` of the source distribution). `scans/denoiser` is a folder of
  `nabla train denoiser` (0 is CT, 1 is MR), with its recipe and loss.
* `clip/bpe_simple_vocab_16e6.txt.gz`: the merges of CLIP's tokenizer, byte for byte as OpenAI published
  them with CLIP (A. Radford et al., 2021, arXiv 2103.00020); MIT licence, copyright 2021 OpenAI; from PyPI
  `open_clip_torch` 3.3.0 (`open_clip/bpe_simple_vocab_16e6.txt.gz`), sha256
  `924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a`.

Outside this folder, `crates/nabla-cli/tests/panorama_files/venice_sunset_256.hdr` is the linear light of the
held-out panorama `venice_sunset` below (same file, author and licence), averaged over 4 x 4 pixels; the
pictures in `crates/nabla-data/tests/reference/` are synthetic, made by `make_pictures.py` there.

The pictures are under their authors' licences, not under that of Nabla's code. CC-BY and CC-BY-SA
files carry the attribution below; the reduced files of CC-BY-SA authors are under the same CC-BY-SA
licence.
"""


def source(package):
    registry = {"pip": "PyPI", "npm": "npm", "apt": "Debian"}[package[0]]
    return f"{registry} `{package[1]}` {package[2]}"


def write_readme():
    authors = {
        VISER: "Poly Haven (HDRI Haven)",
        PMNDRS: "Poly Haven (HDRI Haven), packed by Antoine Bernier",
        BLENDER: "Greg Zaal (HDRI Haven)",
    }
    lines = [README_HEAD.format(quality=QUALITY), "## Panoramas\n"]
    lines.append("| file | split | size | scene | source | path inside | author | licence |")
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, split, package, path, scene in PANORAMAS:
        w, h = Image.open(os.path.join(HERE, "panoramas", name + ".png")).size
        lines.append(f"| `{name}.png` | {split.replace('_', '-')} | {w}x{h} | {scene} | {source(package)} | `{path}` "
                     f"| {authors[package]} | CC0-1.0 |")
    lines += ["", f"`sample/panorama_1024x512.png` is `{SAMPLE}` with GPano metadata; "
              "`sample/panorama_256x128.png` is its x4 degradation.", "", "## Photographs\n"]
    lines.append("| file | size | source | path inside | author | licence | what was done |")
    lines.append("|---|---|---|---|---|---|---|")
    for name, package, path, author, licence, factor in PHOTOS:
        w, h = Image.open(os.path.join(HERE, "photos", name + ".jpg")).size
        done = f"reduced by {factor}, JPEG" if factor > 1 else "as it is" if path.endswith(".jpg") else "JPEG"
        lines.append(f"| `{name}.jpg` | {w}x{h} | {source(package)} | `{path}` | {author} | {licence} | {done} |")
    with open(os.path.join(HERE, "README.md"), "w") as f:
        f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="rebuild the pictures of the repository")
    parser.add_argument("--cache", default="/tmp/nabla-assets", help="folder for the packages")
    parser.add_argument("--only", choices=["panoramas", "sample", "photos", "readme"])
    args = parser.parse_args()
    os.makedirs(args.cache, exist_ok=True)
    if args.only in (None, "panoramas"):
        make_panoramas(args.cache)
        write_split()
    if args.only == "sample":
        # From the panorama as it lies here: no package is needed.
        make_sample(np.asarray(Image.open(os.path.join(HERE, "panoramas", SAMPLE + ".png"))))
    if args.only in (None, "photos"):
        make_photos(args.cache)
    write_readme()
