#!/usr/bin/env bash
# lycoris-lora merges a LoHa or a LoKr with its scale squared.
#
# A LoHa (Yeh et al., arXiv 2309.14859) changes a weight by (α/r) (B₁ A₁) ⊙ (B₂ A₂), a LoKr by (α/r) C ⊗ D, and that is
# what a layer computes while it is trained. The method get_weight of both multiplies by α/r, and so does
# get_diff_weight, which calls it: the merged weight, W + get_diff_weight, has (α/r)², unlike that of a LoRA. With the
# usual α < r, what is merged is too weak.
#
# Seen with lycoris-lora 4.1.3, for linear layers. For a LoHa of a convolution without a Tucker core, get_merged_weight
# fails unless it is told the shape.
# Needs Python 3.11 or later, 7 GB of disk and PyPI. Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python=$folder/venv/bin/python
"$python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.15.0 lycoris-lora==4.1.3

"$python" - <<'PYTHON'
from importlib.metadata import version

import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule

print("lycoris-lora", version("lycoris-lora"))
torch.manual_seed(0)
layer = torch.nn.Linear(8, 6, bias=False)
x = torch.eye(8)
with torch.no_grad():
    for kind, factor in ((LohaModule, 0.25), (LokrModule, 0.25), (LoConModule, 1.0)):
        change = kind("x", layer, 1.0, lora_dim=2, alpha=0.5, **({"factor": 1} if kind is LokrModule else {}))
        for weight in change.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape))
        trained = change(x).T - layer.weight
        merged = change.get_merged_weight(multiplier=1.0)[0] - layer.weight
        ratio = (merged / trained).mean().item()
        print(f"{kind.__name__}: α/r = 0.25, and the merged change is {ratio:.4f} times the trained one")
        assert abs(ratio - factor) < 1e-3, "merging does something else now"
PYTHON
