#!/usr/bin/env bash
# diffusers' PNDMScheduler combines velocities where the method combines noise.
#
# The linear multistep method of PNDM follows a weighted mean of the noise predictions ε of several steps (Liu
# et al., arXiv 2202.09778). A model that predicts v = √ᾱ ε − √(1 − ᾱ) x_0 (Salimans and Ho, arXiv 2202.00512)
# gives the same information: ε = √ᾱ v + √(1 − ᾱ) x, with the x and the ᾱ of that model call. But
# PNDMScheduler with v_prediction takes the weighted mean of the v, and converts this mean to ε with the x and the ᾱ
# of a single step. It does the same where skip_prk_steps repeats the first step.
#
# Seen with diffusers 0.42.1 (issue 14816 there). If the data are one picture, ε is constant along the whole path, so
# any number of steps is exact with ε, but leaves an error with v: 0.0033 in 50 steps. For normal data, the
# error with v halves when the steps double, as with DDIM; with ε it is 80 times smaller in 100 steps.
# DDIMScheduler gives the same result with ε and v.
# Needs Python 3.11 or later, 7 GB of disk and PyPI. Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python=$folder/venv/bin/python
install() { "$python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }
install huggingface-hub==2.4.0 importlib_metadata==10.2.0 numpy==2.4.6 pillow==13.0.0 \
    regex==2026.11.19 requests==2.34.2 safetensors==0.8.0 typing-extensions==4.16.0
install --no-deps torch==2.15.0 diffusers==0.42.1
# The build of torch for Linux links to these libraries of CUDA, and loads without the rest.
"$python" -c 'import torch' 2> /dev/null || install --no-deps \
    nvidia-cublas==13.4.1.3 nvidia-cuda-cupti==13.2.86 nvidia-cuda-nvrtc==13.2.86 \
    nvidia-cuda-runtime==13.2.86 nvidia-cudnn-cu13==9.26.0.51 nvidia-cufft==12.2.0.57 \
    nvidia-cufile==1.17.1.22 nvidia-cusparse==12.7.10.12 nvidia-cusparselt-cu13==0.8.1 \
    nvidia-nccl-cu13==2.30.7 nvidia-nvshmem-cu13==3.7.2

"$python" - <<'PYTHON'
import diffusers
import torch
from diffusers import DDIMScheduler, PNDMScheduler


def error(kind, prediction, steps, mean, deviation, **options):
    """How far a run ends from the exact solution for normal data, with the exact model."""
    solver = kind(
        prediction_type=prediction,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        set_alpha_to_one=False,
        **options,
    )
    solver.set_timesteps(steps)
    levels = solver.alphas_cumprod.double()

    def spread(level):
        return torch.sqrt(level * deviation**2 + 1 - level)

    first, last = levels[solver.timesteps[0]], levels[0]
    x = torch.full((1, 1, 1, 1), 1.5, dtype=torch.float64)
    quantile = (x - first.sqrt() * mean) / spread(first)
    exact = last.sqrt() * mean + quantile * spread(last)
    for step in solver.timesteps:
        level = levels[step]
        alpha, sigma = level.sqrt(), (1 - level).sqrt()
        epsilon = sigma * (x - alpha * mean) / spread(level) ** 2
        picture = (x - sigma * epsilon) / alpha
        output = epsilon if prediction == "epsilon" else alpha * epsilon - sigma * picture
        x = solver.step(output, step, x).prev_sample
    return abs((x - exact).item())


def row(steps, mean, deviation):
    errors = [
        error(kind, prediction, steps, mean, deviation, **options)
        for kind, options in (
            (PNDMScheduler, {"skip_prk_steps": True}),
            (DDIMScheduler, {"clip_sample": False}),
        )
        for prediction in ("epsilon", "v_prediction")
    ]
    print(f"{steps:5}" + "".join(f"  {value:8.1e}" for value in errors))
    return errors


print("diffusers", diffusers.__version__)
head = "steps    PNDM ε    PNDM v    DDIM ε    DDIM v"
print(f"one picture, 0.7\n{head}")
for steps in (10, 20, 50, 100):
    pndm, pndm_v, ddim, ddim_v = row(steps, 0.7, 0.0)
    assert max(pndm, ddim, ddim_v) < 1e-5, "what must be exact is not"
    assert pndm_v > 1e-3, "PNDM is exact with v now"
print(f"normal data, mean 0, standard deviation 0.5\n{head}")
for steps in (10, 20, 50, 100):
    pndm, pndm_v, ddim, ddim_v = row(steps, 0.0, 0.5)
    assert abs(ddim - ddim_v) < 1e-5, "DDIM differs with v"
    assert pndm_v > 3 * pndm, "PNDM is as exact with v as with ε now"
PYTHON
