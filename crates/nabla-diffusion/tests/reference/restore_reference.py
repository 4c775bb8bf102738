"""Values for tests/restore.rs: Radon transforms of scikit-image, convolutions of SciPy, coil maps of SigPy.

pip install scikit-image==0.26.0 scipy==1.17.1 numpy==2.4.6 sigpy==0.1.27
python restore_reference.py > restore_reference.json
"""

import json

import numpy as np
import sigpy.mri.app
from scipy.ndimage import convolve
from skimage.transform import radon

random = np.random.default_rng(0)


def numbers(array):
    return [float(f"{value:.9g}") for value in np.asarray(array).ravel()]


def disc(side, radius):
    """A picture that is 0 outside of a disc, as `circle=True` asks for."""
    y, x = np.mgrid[:side, :side] - side // 2
    return random.normal(size=(side, side)) * (x**2 + y**2 < radius**2)


# scikit-image's sinogram has a column for each angle; ours has a row.
radons = []
for side in (12, 13):
    angles = [0.0, 17.0, 45.0, 90.0, 133.7]
    picture = disc(side, side // 2 - 1)
    sinogram = radon(picture, theta=angles, circle=True)
    radons.append({
        "side": side,
        "angles": angles,
        "picture": numbers(picture),
        "sinogram": numbers(sinogram.T),
    })

convolutions = []
picture = random.normal(size=(7, 9))
kernel = random.normal(size=(3, 5))
for name, mode in (("reflect", "reflect"), ("circular", "wrap"), ("zero", "constant")):
    convolutions.append({"boundary": name, "result": numbers(convolve(picture, kernel, mode=mode))})

# A smooth picture seen by four coils.
side, coils = 24, 4
y, x = (2 * np.mgrid[:side, :side] + 1) / side - 1
magnitude = np.exp(-2 * (x**2 + y**2)) * (1 + 0.3 * np.sin(5 * x + 2 * y))
maps = np.stack([
    np.exp(-((x - 1.2 * np.cos(a)) ** 2 + (y - 1.2 * np.sin(a)) ** 2) / 2 + 1j * (a + 0.7 * x * np.sin(a)))
    for a in 2 * np.pi * np.arange(coils) / coils
])
kspace = np.fft.fftshift(
    np.fft.fft2(np.fft.ifftshift(magnitude * maps, axes=(1, 2)), axes=(1, 2), norm="ortho"), axes=(1, 2)
)
found = sigpy.mri.app.EspiritCalib(
    kspace.astype(np.complex128), calib_width=12, kernel_width=4, thresh=0.02, crop=0.9, max_iter=100, show_pbar=False
).run()


def both(array):
    return {"real": numbers(array.real), "imaginary": numbers(array.imag)}


print(json.dumps({
    "radon": radons,
    "convolution": {"picture": numbers(picture), "kernel": numbers(kernel), "results": convolutions},
    "espirit": {"side": side, "coils": coils, "kspace": both(kspace), "maps": both(found)},
}))
