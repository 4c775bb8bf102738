"""Pictures turned as in DomainBed's RotatedMNIST: torchvision's `rotate` of a PIL image.

    python rotated.py > rotated.json

torchvision 0.29.2, pillow 13.0.0, numpy 2.4.6.
"""

import json
import sys

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

pixels = np.random.default_rng(5).integers(0, 256, size=(9, 8)).astype(np.uint8)
turned = []
for angle in [15, 30, 45, 75, 90]:
    image = rotate(Image.fromarray(pixels), angle, fill=(0,), interpolation=InterpolationMode.BILINEAR)
    turned.append({"angle": angle, "pixels": np.asarray(image).reshape(-1).tolist()})
json.dump(
    {"height": 9, "width": 8, "pixels": pixels.reshape(-1).tolist(), "turned": turned}, sys.stdout
)
print()
