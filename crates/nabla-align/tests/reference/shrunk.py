"""A picture brought to other sizes by torchvision's `Resize` of a PIL image, as DomainBed reads its folders.

    python shrunk.py > shrunk.json

torchvision 0.29.2, pillow 13.0.0, numpy 2.4.6.
"""

import json
import sys

import numpy as np
from PIL import Image
from torchvision.transforms import Resize

pixels = np.random.default_rng(6).integers(0, 256, size=(7, 11, 3)).astype(np.uint8)
sizes = [
    {"side": side, "pixels": np.asarray(Resize((side, side))(Image.fromarray(pixels))).transpose(2, 0, 1).reshape(-1).tolist()}
    for side in [4, 7, 15]
]
json.dump(
    {"height": 7, "width": 11, "pixels": pixels.transpose(2, 0, 1).reshape(-1).tolist(), "sizes": sizes}, sys.stdout
)
print()
