#!/usr/bin/env python3
"""The peers of benches/projection.rs: py360convert, equilib and OpenCV's remap.

Started by it with one argument, a folder with `erp.f32` ([height, width, 3], little-endian f32)
and `sizes.json`. Reads commands, one a line, from standard input and answers each with one line:

    run NAME    one run; answers its milliseconds by the clock and of the processors
    save NAME   writes NAME's last panorama to NAME.f32; answers "ok", or "none" if it has none
    quit

Everything runs on the threads of two cores. Needs numpy, py360convert, pyequilib, torch and
opencv-python-headless.
"""

import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import py360convert
import torch
from equilib import Cube2Equi, Equi2Cube, Equi2Pers

cv2.setNumThreads(2)
torch.set_num_threads(2)

folder = Path(sys.argv[1])
sizes = json.loads((folder / "sizes.json").read_text())
H, P = sizes["height"], sizes["plane"]
W = 2 * H
FOV = sizes["fov"]
ROWS = sizes["rows"]
CUBIC = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
erp = np.fromfile(folder / "erp.f32", dtype="<f4").reshape(H, W, 3)
# equilib takes channels first.
erp_chw = np.ascontiguousarray(erp.transpose(2, 0, 1))
erp_torch = torch.from_numpy(erp_chw)
centres = np.radians([((j + 0.5) * 360 / n - 180, lat) for lat, n in ROWS for j in range(n)])


def py360_cube(mode):
    def run():
        faces = py360convert.e2c(erp, P, mode=mode, cube_format="list")
        return py360convert.c2e(faces, H, W, mode=mode, cube_format="list")

    return run


def equilib_cube(mode, equi):
    there = Equi2Cube(w_face=P, cube_format="horizon", mode=mode)
    back = Cube2Equi(height=H, width=W, cube_format="horizon", mode=mode)
    zero = {"roll": 0.0, "pitch": 0.0, "yaw": 0.0}

    def run():
        out = back(cubemap=there(equi=equi, rots=zero))
        return np.asarray(out).transpose(1, 2, 0)

    return run


def directions(right, up, forward, size, h):
    """Directions of the pixel centres of a plane."""
    at = ((2 * np.arange(size) + 1) / size - 1) * h
    x, y = np.meshgrid(at, -at)
    return forward + x[..., None] * right + y[..., None] * up


def axes(lon, lat):
    right = np.array([np.cos(lon), 0, -np.sin(lon)])
    up = np.array([-np.sin(lat) * np.sin(lon), np.cos(lat), -np.sin(lat) * np.cos(lon)])
    forward = np.array([np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)])
    return right, up, forward


def erp_maps(d):
    lon, lat = np.arctan2(d[..., 0], d[..., 2]), np.arctan2(d[..., 1], np.hypot(d[..., 0], d[..., 2]))
    return (
        ((lon / (2 * np.pi) + 0.5) * W - 0.5).astype(np.float32),
        ((0.5 - lat / np.pi) * H - 0.5).astype(np.float32),
    )


def erp_directions():
    lon = ((np.arange(W) + 0.5) / W - 0.5) * 2 * np.pi
    lat = (0.5 - (np.arange(H) + 0.5) / H) * np.pi
    lon, lat = np.meshgrid(lon, lat)
    return np.stack([np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)], -1)


def opencv_cube(mode):
    """remap with exact maps; wraps around, but knows neither poles nor neighbouring faces."""
    quarter = np.pi / 2
    faces = [axes(*c) for c in [(0, 0), (quarter, 0), (np.pi, 0), (-quarter, 0), (0, quarter), (0, -quarter)]]
    there = [erp_maps(directions(*a, P, 1.0)) for a in faces]
    d = erp_directions()
    owner = np.argmax(np.stack([d @ a[2] for a in faces]), axis=0)
    back = []
    for i, (right, up, forward) in enumerate(faces):
        k = np.where(owner == i, d @ forward, 1)
        x = ((d @ right / k + 1) * P / 2 - 0.5).astype(np.float32)
        y = ((1 - d @ up / k) * P / 2 - 0.5).astype(np.float32)
        back.append((np.where(owner == i, x, -9), np.where(owner == i, y, -9), owner == i))
    # One map for all faces, stacked above each other with a margin of repeated pixels.
    pad = 4
    all_x, all_y = np.zeros((H, W), np.float32), np.zeros((H, W), np.float32)
    for i, (x, y, mine) in enumerate(back):
        all_x[mine] = x[mine] + pad
        all_y[mine] = y[mine] + pad + i * (P + 2 * pad)
    interpolation = CUBIC[mode]

    def run():
        cube = [
            cv2.copyMakeBorder(
                cv2.remap(erp, x, y, interpolation, borderMode=cv2.BORDER_WRAP),
                pad, pad, pad, pad, cv2.BORDER_REPLICATE,
            )
            for x, y in there
        ]
        return cv2.remap(np.concatenate(cube), all_x, all_y, interpolation)

    return run


def opencv_tangent(mode):
    """remap with exact maps, both ways, and the same Gaussian blend."""
    h = np.tan(np.radians(FOV) / 2)
    all_axes = [axes(*c) for c in centres]
    there = [erp_maps(directions(*a, P, h)) for a in all_axes]
    d = erp_directions()
    back = []
    for right, up, forward in all_axes:
        k = d @ forward
        seen = k > 0
        k = np.where(seen, k, 1)
        u, v = d @ right / k / h, d @ up / k / h
        seen &= (abs(u) <= 1) & (abs(v) <= 1)
        g = np.exp(-((u / 2) ** 2 + (v / 2) ** 2) / 0.02) * seen
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        x = ((u + 1) * P / 2 - 0.5).astype(np.float32)
        y = ((1 - v) * P / 2 - 0.5).astype(np.float32)
        back.append((box, np.clip(x[box], -9, P + 9), np.clip(y[box], -9, P + 9), g[box]))
    total = np.zeros((H, W))
    for box, _, _, g in back:
        total[box] += g
    back = [(box, x, y, (g / total[box]).astype(np.float32)[..., None]) for box, x, y, g in back]
    interpolation = CUBIC[mode]

    def run():
        planes = [cv2.remap(erp, x, y, interpolation, borderMode=cv2.BORDER_WRAP) for x, y in there]
        out = np.zeros((H, W, 3), np.float32)
        for plane, (box, x, y, g) in zip(planes, back):
            out[box] += g * cv2.remap(plane, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE)
        return out

    return run


def opencv_to_tangent(mode):
    h = np.tan(np.radians(FOV) / 2)
    there = [erp_maps(directions(*axes(*c), P, h)) for c in centres]

    def run():
        # All planes at once, as in the other programs: one who asks for them wants to hold them.
        planes = [cv2.remap(erp, x, y, CUBIC[mode], borderMode=cv2.BORDER_WRAP) for x, y in there]
        assert len(planes) == len(centres)

    return run


def py360_to_tangent(mode):
    def run():
        planes = [
            py360convert.e2p(erp, (FOV, FOV), lon, lat, (P, P), mode=mode)
            for lon, lat in np.degrees(centres)
        ]
        assert len(planes) == len(centres)

    return run


def equilib_to_tangent(mode, equi):
    there = Equi2Pers(height=P, width=P, fov_x=FOV, mode=mode)

    def run():
        planes = [
            there(equi=equi, rots={"roll": 0.0, "pitch": -lat, "yaw": -lon}) for lon, lat in centres
        ]
        assert len(planes) == len(centres)

    return run


makers = {}
for mode in ["bilinear", "bicubic"]:
    makers[f"cube/{mode}/py360convert"] = lambda mode=mode: py360_cube(mode)
    makers[f"cube/{mode}/equilib"] = lambda mode=mode: equilib_cube(mode, erp_torch)
    makers[f"cube/{mode}/OpenCV remap"] = lambda mode=mode: opencv_cube(mode)
    makers[f"tangent/{mode}/OpenCV remap"] = lambda mode=mode: opencv_tangent(mode)
    makers[f"to_tangent/{mode}/OpenCV remap"] = lambda mode=mode: opencv_to_tangent(mode)
    makers[f"to_tangent/{mode}/py360convert"] = lambda mode=mode: py360_to_tangent(mode)
    makers[f"to_tangent/{mode}/equilib"] = lambda mode=mode: equilib_to_tangent(mode, erp_torch)

runs, last = {}, {}
for line in sys.stdin:
    command, _, name = line.strip().partition(" ")
    if command == "quit":
        break
    if command == "run":
        if name not in runs:
            # Maps are made before the clock starts, and caches filled.
            runs[name] = makers[name]()
            runs[name]()
        last.pop(name, None)
        start, work = time.perf_counter(), time.process_time()
        last[name] = runs[name]()
        wall, work = time.perf_counter() - start, time.process_time() - work
        print(1000 * wall, 1000 * work, flush=True)
    elif command == "save":
        out = last.get(name)
        if out is None:
            print("none", flush=True)
        else:
            file = folder / (name.replace("/", "_").replace(" ", "_") + ".f32")
            np.ascontiguousarray(out, dtype="<f4").tofile(file)
            print("ok", flush=True)
