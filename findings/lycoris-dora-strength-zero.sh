#!/usr/bin/env bash
# lycoris-lora changes the weights with a DoRA of strength 0.
#
# A DoRA (Liu et al., arXiv 2402.09353) is W' = m (W + ΔW)/‖W + ΔW‖. LyCORIS merges it at a strength s as
# (W + ΔW) (1 + s (m/‖W + ΔW‖ − 1)): s scales only the quotient of the norms, so that the strength 0 gives W + ΔW.
# LoRA, LoHa and LoKr without magnitudes give W at strength 0, as expected, and so does ComfyUI's merge, which goes
# a part of the way, W + s (W' − W).
#
# Seen with lycoris-lora 4.1.3.
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

print("lycoris-lora", version("lycoris-lora"))
torch.manual_seed(0)
layer = torch.nn.Linear(6, 4)
with torch.no_grad():
    for decompose in (False, True):
        change = LoConModule("x", layer, 1.0, lora_dim=2, alpha=2, weight_decompose=decompose)
        for weight in change.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
        merged, _ = change.get_merged_weight(multiplier=0.0)
        moved = (merged - layer.weight).abs().max().item()
        print(f"weight_decompose={decompose}: strength 0 changes the weights by up to {moved:.3f}")
        assert (moved > 0.01) == decompose, "the strength 0 does something else now"
PYTHON
