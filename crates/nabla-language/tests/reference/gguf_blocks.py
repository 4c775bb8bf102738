"""Random blocks of every format, and what ggml's own Python package makes of them.

gguf 0.19.0, numpy 2.4.6:  python3 gguf_blocks.py > gguf_blocks.json
"""

import json

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

draw = np.random.default_rng(1)
# Where a block has numbers in half precision, which must be finite.
halves = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
}
cases = []
for kind, places in halves.items():
    _, size = GGML_QUANT_SIZES[kind]
    blocks = draw.integers(0, 256, (2, size)).astype(np.uint8)
    for block in blocks:
        for place in places:
            block[place : place + 2] = np.frombuffer(np.float16(draw.normal()).tobytes(), np.uint8)
    values = dequantize(blocks, kind).flatten()
    cases.append((kind, blocks.flatten(), values))
values = draw.normal(size=8).astype(np.float32)
half = values.astype(np.float16)
cases.append((Type.F16, np.frombuffer(half.tobytes(), np.uint8), half.astype(np.float32)))
upper = (values.view(np.uint32) >> 16).astype(np.uint16)
brain = np.frombuffer(upper.tobytes(), np.uint8)
cases.append((Type.BF16, brain, dequantize(brain.reshape(1, -1), Type.BF16).flatten()))
print(
    json.dumps(
        [
            {"type": int(kind), "bytes": data.tolist(), "values": [float(v) for v in values]}
            for kind, data, values in cases
        ]
    )
)
