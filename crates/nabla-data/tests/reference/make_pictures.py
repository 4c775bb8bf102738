"""Makes the pictures of this folder with programs that are not ours, and prints the values that
`tests/foreign_files.rs` holds.

    pip install numpy==2.4.6 imagecodecs==2026.3.6 OpenEXR==3.5.3 opencv-python-headless==5.0.0.* \
        Pillow==13.0.0
    apt install libimage-exiftool-perl        # 12.57
    python make_pictures.py
"""

import struct
import subprocess
import zlib
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import OpenEXR
from PIL import Image

here = Path(__file__).parent
width, height = 64, 32
y, x = np.mgrid[0:height, 0:width]
# Linear light: a gradient, and a sun of 40 times white.
light = np.stack([0.2 + x / 128, 0.1 + y / 64, 0.5 - x / 256], -1).astype(np.float32)
light[8:12, 20:26] = [40.0, 35.0, 20.0]
screen = np.clip(light, 0, 1) ** (1 / 2.2)
eight = (255 * screen + 0.5).astype(np.uint8)


def exiftool(*arguments):
    subprocess.run(["exiftool", "-q", "-overwrite_original", *arguments], check=True)


# A gain map by libultrahdr: RGBA in half floats, linear.
rgba = np.concatenate([light, np.ones_like(light[..., :1])], -1).astype(np.float16)
ultra = imagecodecs.ultrahdr_encode(rgba)
(here / "ultrahdr.jpg").write_bytes(ultra)

# GPano in each container, by exiftool, of a phone that saw a part of the sphere.
gpano = [
    "-XMP-GPano:ProjectionType=equirectangular",
    "-XMP-GPano:FullPanoWidthPixels=128",
    "-XMP-GPano:FullPanoHeightPixels=64.0",
    "-XMP-GPano:CroppedAreaImageWidthPixels=64",
    "-XMP-GPano:CroppedAreaImageHeightPixels=32",
    "-XMP-GPano:CroppedAreaLeftPixels=10",
    "-XMP-GPano:CroppedAreaTopPixels=20",
]
picture = Image.fromarray(eight)
picture.save(here / "gpano.png")
picture.save(here / "gpano.jpg", quality=90)
picture.save(here / "gpano.webp", quality=80)
picture.save(here / "gpano.tif", compression="tiff_deflate")
for name in ["gpano.png", "gpano.jpg", "gpano.webp", "gpano.tif"]:
    exiftool(*gpano, str(here / name))

# The same packet in a compressed chunk of PNG.
packet = subprocess.run(
    ["exiftool", "-b", "-xmp", str(here / "gpano.jpg")], check=True, capture_output=True
).stdout
plain = (here / "gpano.png").read_bytes()
picture.save(here / "gpano_compressed.png")
bytes_ = (here / "gpano_compressed.png").read_bytes()
body = b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(packet)
chunk = struct.pack(">I", len(body)) + b"iTXt" + body
chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
(here / "gpano_compressed.png").write_bytes(bytes_[:33] + chunk + bytes_[33:])

# An embedded picture that needs extended XMP: 70 kB of one byte, which packs well.
(here / "embedded.bin").write_bytes(b"\x5a" * 70_000)
picture.save(here / "extended.jpg", quality=90)
exiftool(
    *gpano,
    "-XMP-GImage:ImageMimeType=image/jpeg",
    f"-XMP-GImage:ImageData<={here / 'embedded.bin'}",
    str(here / "extended.jpg"),
)
(here / "embedded.bin").unlink()

# OpenEXR by the reference implementation.
alpha = np.clip(x / 63, 0, 1).astype(np.float32)
zip_, dwab = OpenEXR.ZIP_COMPRESSION, OpenEXR.DWAB_COMPRESSION


def exr(name, channels, compression, **more):
    header = {"compression": compression, "type": OpenEXR.scanlineimage, **more}
    OpenEXR.File(header, channels).write(str(here / name))


exr("half_dwab.exr", {"RGB": light.astype(np.float16)}, dwab)
premultiplied = np.concatenate([light * alpha[..., None], alpha[..., None]], -1)
exr("float_alpha.exr", {"RGBA": premultiplied}, zip_)
exr("luminance.exr", {"Y": light[..., 0]}, zip_)
exr(
    "window.exr",
    {"RGB": light[:16, :32].copy()},
    zip_,
    dataWindow=(np.array([10, 4], np.int32), np.array([41, 19], np.int32)),
    displayWindow=(np.array([0, 0], np.int32), np.array([63, 31], np.int32)),
)
exr("depth_only.exr", {"Z": light[..., 0]}, zip_)

# Radiance by OpenCV, and with the other signature.
cv2.imwrite(str(here / "opencv.hdr"), light[..., ::-1])
radiance = (here / "opencv.hdr").read_bytes()
first, rest = radiance.split(b"\n", 1)
(here / "rgbe.hdr").write_bytes(b"#?RGBE\nEXPOSURE=2\nSOFTWARE=other\n" + rest)


def show(name, array):
    values = ", ".join(f"{float(v):.6g}" for v in array)
    print(f"{name}: [{values}]")


# (row 9, column 22) is in the sun, (row 30, column 3) is not.
for name in ["half_dwab.exr", "float_alpha.exr", "luminance.exr"]:
    with OpenEXR.File(str(here / name)) as file:
        channels = file.channels()
        pixels = next(iter(channels.values())).pixels
        show(f"{name} sun", np.atleast_1d(pixels[9, 22]))
        show(f"{name} wall", np.atleast_1d(pixels[30, 3]))
for name in ["opencv.hdr", "rgbe.hdr"]:
    pixels = cv2.imread(str(here / name), cv2.IMREAD_UNCHANGED)[..., ::-1]
    show(f"{name} sun", pixels[9, 22])
    show(f"{name} wall", pixels[30, 3])
print(first)
decoded = imagecodecs.ultrahdr_decode(ultra)
show("ultrahdr.jpg by libultrahdr, sun", decoded[9, 22, :3])
