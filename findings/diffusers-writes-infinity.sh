#!/usr/bin/env bash
# diffusers saves schedulers as files that are not JSON.
#
# JSON has no infinite numbers: RFC 8259, section 6, forbids Infinity and NaN. The schedulers of DPM-Solver and
# SASolverScheduler have lambda_min_clipped = -inf by default, and save_pretrained writes it as -Infinity into
# scheduler_config.json. Python's own json module reads that; strict parsers refuse the whole file.
#
# Seen with diffusers 0.42.1, for DPMSolverMultistepScheduler, its inverse, DPMSolverSinglestepScheduler and
# SASolverScheduler. With a finite lambda_min_clipped, or for schedulers without this option, the file is valid JSON.
# Needs Python 3.11 or later, 7 GB of disk and PyPI. Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python=$folder/venv/bin/python
install() { "$python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }
install huggingface-hub==2.4.0 importlib_metadata==10.2.0 numpy==2.4.6 pillow==13.0.0 \
    regex==2026.11.19 requests==2.34.2 safetensors==0.8.0 typing-extensions==4.16.0 orjson==3.13.0
install --no-deps torch==2.15.0 diffusers==0.42.1
# The build of torch for Linux links to these libraries of CUDA, and loads without the rest.
"$python" -c 'import torch' 2> /dev/null || install --no-deps \
    nvidia-cublas==13.4.1.3 nvidia-cuda-cupti==13.2.86 nvidia-cuda-nvrtc==13.2.86 \
    nvidia-cuda-runtime==13.2.86 nvidia-cudnn-cu13==9.26.0.51 nvidia-cufft==12.2.0.57 \
    nvidia-cufile==1.17.1.22 nvidia-cusparse==12.7.10.12 nvidia-cusparselt-cu13==0.8.1 \
    nvidia-nccl-cu13==2.30.7 nvidia-nvshmem-cu13==3.7.2

"$python" - "$folder" <<'PYTHON'
import json
import pathlib
import sys

import diffusers
import orjson

folder = pathlib.Path(sys.argv[1]) / "scheduler"


def strict(scheduler):
    """A strict parser's answer to the saved file, and the lines that are not valid JSON."""
    scheduler.save_pretrained(folder)
    text = (folder / "scheduler_config.json").read_text()
    json.loads(text)
    lines = [line.strip() for line in text.splitlines() if "Infinity" in line or "NaN" in line]
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"refused: {error}", lines
    return "read", lines


print("diffusers", diffusers.__version__, "read by orjson", orjson.__version__)
for name in (
    "DPMSolverMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverSinglestepScheduler",
    "SASolverScheduler",
):
    answer, lines = strict(getattr(diffusers, name)())
    print(f"{name}: {lines} {answer}")
    assert lines == ['"lambda_min_clipped": -Infinity,'], f"{name} writes no infinity now"
    assert answer.startswith("refused"), "the strict parser reads it now"

for scheduler in (
    diffusers.DPMSolverMultistepScheduler(lambda_min_clipped=-5.1),
    diffusers.EulerDiscreteScheduler(),
):
    answer, lines = strict(scheduler)
    print(f"{type(scheduler).__name__} without an infinite number: {answer}")
    assert answer == "read" and not lines, "something else in the file is not JSON"
PYTHON
