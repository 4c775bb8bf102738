#!/usr/bin/env bash
# The gradient of torch.clamp on its borders is 1 in older versions of PyTorch and 0 in newer ones.
#
# For a number that equals a bound exactly, `clamp` has no derivative. PyTorch 2.11.0 passes the gradient there, 2.15.0 cuts it
# off, as `hardtanh` with the same bounds does in both. Numbers on the border are not rare: the zeros of a rectified unit that
# a quantiser clamps to [0, Q], weights that a constraint has clipped, pixels at 0 and 1 in an attack. A training that
# starts at such numbers goes another way under the newer version, and code that relied on the gradient to leave the
# border (weights clipped to a range and trained through the clamp) stays there for ever.
#
# Seen: x = -1, 0, 0.5, 1, 2 clamped to [0, 1] has the gradients 0, 1, 1, 1, 0 with torch 2.11.0 and 0, 0, 1, 0, 0 with 2.15.0.
# Needs Python 3 with venv and the PyPI registry (two versions of 2 GB). Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/border.py" <<'PYTHON'
import sys

import torch
import torch.nn.functional as F

expected = [float(value) for value in sys.argv[1].split(",")]
found = {}
for name, function in [("clamp", torch.clamp), ("hardtanh", F.hardtanh)]:
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
    function(x, 0.0, 1.0).sum().backward()
    found[name] = x.grad.tolist()
print(torch.__version__, found)
assert found["clamp"] == expected, "the gradient on the borders has changed"
assert found["hardtanh"] == [0.0, 0.0, 1.0, 0.0, 0.0], "the gradient of hardtanh has changed"
PYTHON
for case in 2.11.0:0,1,1,1,0 2.15.0:0,0,1,0,0; do
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet "torch==${case%%:*}" numpy==2.4.6
    "$folder/venv/bin/python" "$folder/border.py" "${case#*:}"
    rm -rf "$folder/venv"
done
