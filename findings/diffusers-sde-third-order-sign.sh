#!/usr/bin/env bash
# diffusers' third-order sde-dpmsolver++ has a term that does not vanish with the step.
#
# With λ = ln(√ᾱ/√(1 − ᾱ)), a step from λ to λ + h adds √ᾱ' ∫ 2 e^{−2(h − u)} x̂_0(u) du, u from 0 to h (Lu et
# al., arXiv 2211.01095). The third order interpolates x̂_0 by D_0 + D_1 (u/h) + D_2 (u/h)², so that the weight
# of D_2 is √ᾱ' (1 − 1/h + (1 − e^{−2h})/(2h²)), which tends to 0 like 2h/3. Implementations of this
# solver use half of that weight. DPMSolverMultistepScheduler uses this half minus √ᾱ': it subtracts a constant 1/2
# where k-diffusion's sample_dpmpp_3m_sde adds it. So every step, however short, is wrong by −√ᾱ' D_2.
#
# Seen with diffusers 0.42.1. For h from 0.3 to 0.008, the weight is −0.91 to −0.998 times √ᾱ'. When drawing from a
# normal distribution of standard deviation 0.5 with the exact model, 400 steps give a standard deviation of 2.0 with
# order 3, and 0.50 with order 2. With that one sign changed, order 3 gives 0.50 too.
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
import math

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler


def scheduler(order, steps, **options):
    made = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++",
        solver_order=order,
        prediction_type="sample",
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        **options,
    )
    made.set_timesteps(steps)
    return made


def weight_of_d2(steps):
    """The third step's h, and its result for x̂_0 = (u/h)² alone, in units of √ᾱ'."""
    solver = scheduler(3, steps, use_lu_lambdas=True)
    sigmas = solver.sigmas[:4].tolist()
    times = [math.log(sigmas[2]) - math.log(sigma) for sigma in sigmas]
    h = times[3]
    zero = torch.zeros(1, 1, 1, 1)
    for time, step in zip(times[:3], solver.timesteps):
        picture = torch.full_like(zero, (time / h) ** 2)
        x = solver.step(picture, step, zero, variance_noise=zero).prev_sample
    return h, x.item() * math.sqrt(1 + sigmas[3] ** 2)


def deviation(order, steps, data=0.5):
    """The standard deviation of the samples; that of the data is known, so the model is exact."""
    solver = scheduler(order, steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 256, 256, generator=generator)
    for sigma, step in zip(solver.sigmas, solver.timesteps):
        alpha = 1 / torch.sqrt(1 + sigma**2)
        picture = x / alpha * data**2 / (data**2 + sigma**2)
        x = solver.step(picture, step, x, generator=generator).prev_sample
    return x.std().item()


print("diffusers", diffusers.__version__)
print("      h  weight of D_2  exact")
for steps in (20, 50, 100, 200, 400, 800):
    h, weight = weight_of_d2(steps)
    exact = 1 - 1 / h - math.expm1(-2 * h) / (2 * h * h)
    print(f"{h:7.4f}  {weight:13.4f}  {exact:5.4f}")
    assert abs(weight - (exact / 2 - 1)) < 0.01, "the weight of D_2 is another one now"

print("steps  order 2  order 3  data")
for steps in (50, 100, 200, 400):
    second, third = deviation(2, steps), deviation(3, steps)
    print(f"{steps:5}  {second:7.3f}  {third:7.3f}  0.500")
assert abs(second - 0.5) < 0.01, "order 2 does not draw from the distribution"
assert third > 1.5, "order 3 draws from the distribution now"
PYTHON
