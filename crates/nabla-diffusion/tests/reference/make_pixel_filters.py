"""Pictures filtered by Pillow, for the filters of FilterPrompt.

    pip install pillow==13.0.0
    python make_pixel_filters.py > pixel_filters.json
"""

import json

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

HEIGHT, WIDTH = 7, 9
picture = Image.new("RGB", (WIDTH, HEIGHT))
for y in range(HEIGHT):
    for x in range(WIDTH):
        at = y * WIDTH + x
        picture.putpixel((x, y), tuple((20 + (at * step * step + 11 * at) % 220) for step in (3, 5, 7)))

sharpen = (0, -1, 0, -1, 5, -1, 0, -1, 0)
edges = (-1, -1, -1, -1, 8, -1, -1, -1, -1)
filters = {
    "rank:size=3,rank=2": lambda p: p.filter(ImageFilter.RankFilter(3, 2)),
    "rank:size=5,rank=20": lambda p: p.filter(ImageFilter.RankFilter(5, 20)),
    "median": lambda p: p.filter(ImageFilter.MedianFilter(3)),
    "min": lambda p: p.filter(ImageFilter.MinFilter(3)),
    "max:5": lambda p: p.filter(ImageFilter.MaxFilter(5)),
    "blur:1": lambda p: p.filter(ImageFilter.GaussianBlur(1)),
    "blur:2.5": lambda p: p.filter(ImageFilter.GaussianBlur(2.5)),
    "kernel": lambda p: p.filter(ImageFilter.Kernel((3, 3), sharpen)),
    "kernel:values=[-1,-1,-1,-1,8,-1,-1,-1,-1],offset=0.5": lambda p: p.filter(
        ImageFilter.Kernel((3, 3), edges, scale=1, offset=127.5)
    ),
    "invert": ImageOps.invert,
    "gray": lambda p: p.convert("L").convert("RGB"),
    "contrast:1.5": lambda p: ImageEnhance.Contrast(p).enhance(1.5),
    "contrast:0.5": lambda p: ImageEnhance.Contrast(p).enhance(0.5),
    "autocontrast": ImageOps.autocontrast,
    "autocontrast:5": lambda p: ImageOps.autocontrast(p, cutoff=5),
    "gray|invert|contrast:1.5": lambda p: ImageEnhance.Contrast(
        ImageOps.invert(p.convert("L").convert("RGB"))
    ).enhance(1.5),
}


def values(image):
    """Channel by channel, row by row."""
    return [list(channel.tobytes()) for channel in image.split()]


print(
    json.dumps(
        {
            "size": [HEIGHT, WIDTH],
            "picture": values(picture),
            "filtered": {name: values(apply(picture)) for name, apply in filters.items()},
        }
    )
)
