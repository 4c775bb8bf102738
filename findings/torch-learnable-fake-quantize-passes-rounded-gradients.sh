#!/usr/bin/env bash
# PyTorch's fake quantiser with a learnable step size is not LSQ at the ends of its range.
#
# `torch._fake_quantize_learnable_per_tensor_affine` (and the one per channel) is what torch.ao's learnable fake quantisers
# call, and takes LSQ's gradient factor. LSQ (Esser et al., 2020, equations 3 and 5) cuts gradients off where x/s leaves the
# range of the integers: beyond it the gradient by x is 0 and that by s is the end of the range. PyTorch decides after
# rounding: a number up to half a step beyond the range still rounds to its end, so its gradient by x passes, and that by s is
# that of a number inside. After a rectified unit this cannot be seen at 0; for weights of 2 bits, whose range ends at one
# step, it is many of them. A network trained with one is not continued exactly with the other.
#
# Seen with torch 2.15.0: step 1, integers -2 to 1, x = 1.25 and 1.75: gradients by x are 1 and 0, by s (factor 1) they sum
# to (1 - 1.25) + 1 = 0.75. LSQ has 0 and 0, and 1 + 1 = 2.
# Needs Python 3 with venv and the PyPI registry (2 GB). Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch

x = torch.tensor([1.25, 1.75], requires_grad=True)
s = torch.tensor([1.0], requires_grad=True)
zero = torch.zeros(1)
y = torch._fake_quantize_learnable_per_tensor_affine(x, s, zero, -2, 1, 1.0)
y.sum().backward()
print("values", y.tolist(), "by x", x.grad.tolist(), "by s", s.grad.tolist())
assert y.tolist() == [1.0, 1.0], "the numbers are no longer cut off to the end of the range"
assert x.grad.tolist() != [0.0, 0.0] and s.grad.tolist() != [2.0], "the gradients are those of LSQ now"
assert x.grad.tolist() == [1.0, 0.0] and s.grad.tolist() == [0.75], "the gradients are others still"
PYTHON
