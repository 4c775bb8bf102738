"""Arrays in an HDF5 file, as fastMRI and h5py write them, for the reader of k-space.

    pip install h5py==3.16.0 numpy
    python arrays.py arrays.h5
"""

import sys

import h5py
import numpy as np

with h5py.File(sys.argv[1], "w") as file:
    count = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    file.create_dataset("kspace", data=(count / 4 - 1j * count).astype(np.complex64), chunks=(1, 2, 4, 5), compression="gzip")
    file.create_dataset("mask", data=np.array([1, 0, 1, 1, 0], dtype=np.uint8))
    file.create_dataset("name", data="no numbers")
    group = file.create_group("group")
    group.create_dataset("big_endian", data=np.array([-2, -1, 0, 1, 2], dtype=">i2"))
    group.create_dataset("half", data=np.array([0, 0.25, 0.5, 0.75, 1], dtype=np.float16))
    group.create_dataset("complex_big_endian", data=np.array([1.5 - 2.5j, 1e300j], dtype=">c16"))
