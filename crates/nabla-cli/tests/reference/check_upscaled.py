"""What other programs say of pictures that `nabla upscale` wrote: exiftool finds every byte that the
metadata announce, and libultrahdr opens the gain maps. By hand, since both must be installed:

    pip install numpy==2.4.6 imagecodecs==2026.3.6 viser==1.1.1 OpenEXR==3.5.3 \\
        opencv-python-headless==5.0.0.*
    apt install libimage-exiftool-perl        # 12.57
    python check_upscaled.py path/to/nabla

With `--light` it measures instead how close the bright regions of linear light come to the truth after
they were halved (averages of 2 x 2 pixels, in linear light) and doubled again, beside bicubic
interpolation of the logarithm and of the light itself, on the ten panoramas of viser 1.0.0, of which
`--light FOLDER` is the folder.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import imagecodecs
import numpy as np

nabla = Path(sys.argv[1]).resolve()
folder = Path(tempfile.mkdtemp())
foreign = Path(__file__).parents[3] / "nabla-data/tests/reference"


def upscale(source, target, *options):
    command = [nabla, "upscale", source, "-o", target, "--scale", "2", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stderr.strip().splitlines()


def exiftool(path):
    command = ["exiftool", "-j", "-a", "-G1", "-validate", "-warning", "-error", "-ee", "-struct"]
    command += ["-MPF:all", "-XMP:all", "-File:all", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]


def dangling(path):
    """What the metadata announce that is not in the file."""
    data = path.read_bytes()
    found = []
    tags = exiftool(path)
    names = {tag.split(":")[-1]: value for tag, value in tags.items()}
    for tag, value in tags.items():
        # To exiftool deflate is no compression of TIFF, in files of Pillow too.
        known = "[minor]" in str(value) or "tag 0x0103 Compression" in str(value)
        if tag.endswith(("Warning", "Error")) and not known:
            found.append(f"{tag}: {value}")
    items = tags.get("XMP-Container:Directory", [])
    length = sum(int(i.get("Item", i).get("Length", 0)) for i in items)
    if length:
        start = len(data) - length
        if data[start : start + 2] != b"\xff\xd8":
            found.append(f"the container announces {length} bytes that are no picture")
    if "HasExtendedXMP" in names and b"http://ns.adobe.com/xmp/extension/" not in data:
        found.append("extended XMP is announced and not there")
    if b"hdrgm:Version" in data and not items:
        found.append("a gain map is announced and not there")
    second = [v for t, v in tags.items() if t.startswith("MPImage2")]
    if second:
        at, size = tags["MPImage2:MPImageStart"], tags["MPImage2:MPImageLength"]
        if data[at : at + 2] != b"\xff\xd8" or at + size > len(data):
            found.append("the multi-picture index points at no picture")
    return found


def check_metadata():
    package = Path(importlib.util.find_spec("viser").submodule_search_locations[0])
    sources = sorted(package.glob("_assets/hdri/*.jpg"))
    sources += sorted(p for p in foreign.iterdir() if p.name.startswith(("gpano", "ultra", "ext")))
    wrong = 0
    for source in sources:
        for suffix in [".jpg", ".png", ".webp", ".tif"]:
            target = folder / (source.stem + suffix)
            told = upscale(source, target, "--steps", "1")
            found = dangling(target)
            line = f"{target.name}: {', '.join(found) or 'nothing dangles'}"
            if suffix == ".jpg":
                try:
                    before = imagecodecs.ultrahdr_decode(source.read_bytes())
                except Exception:
                    before = None
                if before is not None:
                    after = imagecodecs.ultrahdr_decode(target.read_bytes())
                    assert after.shape[:2] == tuple(2 * n for n in before.shape[:2])
                    means = [float(np.mean(p[..., :3].astype(np.float64))) for p in (before, after)]
                    line += f"; by libultrahdr {after.shape}, mean {means[0]:.3f} to {means[1]:.3f}"
                    found += [] if 0.9 < means[1] / means[0] < 1.1 else ["another brightness"]
            print(line, "|", "; ".join(t.split(": ", 2)[-1] for t in told))
            wrong += bool(found)
    sys.exit(f"{wrong} pictures are wrong" if wrong else 0)


def check_light(hdris):
    import cv2
    import OpenEXR

    def bicubic(picture):
        padded = cv2.copyMakeBorder(picture, 0, 0, 8, 8, cv2.BORDER_WRAP)
        large = cv2.resize(padded, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        return large[:, 16:-16]

    print("share of the truth by which bright samples (above 1) are off: nabla, log bicubic, bicubic")
    for source in sorted(Path(hdris).glob("*.hdr")):
        truth = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
        truth = truth.reshape(256, 2, 512, 2, 3).mean((1, 3), dtype=np.float64).astype(np.float32)
        low = truth.reshape(128, 2, 256, 2, 3).mean((1, 3), dtype=np.float64).astype(np.float32)
        channels = {"RGB": low[..., ::-1].copy()}
        header = {"type": OpenEXR.scanlineimage, "compression": OpenEXR.ZIP_COMPRESSION}
        OpenEXR.File(header, channels).write(str(folder / "low.exr"))
        upscale(folder / "low.exr", folder / "high.exr")
        with OpenEXR.File(str(folder / "high.exr")) as file:
            ours = file.channels()["RGB"].pixels[..., ::-1]
        logarithm = np.exp(bicubic(np.log(low + 1e-4))) - 1e-4
        bright = truth > 1

        def error(picture):
            return float(np.mean(np.abs(picture - truth)[bright] / truth[bright]))

        values = [error(p) for p in (ours, logarithm, bicubic(low))]
        print(f"{source.stem:28}", " ".join(f"{v:.4f}" for v in values), f"{bright.mean():.3f}")


if "--light" in sys.argv:
    check_light(sys.argv[sys.argv.index("--light") + 1])
else:
    check_metadata()
