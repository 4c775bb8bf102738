#!/usr/bin/env bash
# diffusers' EulerDiscreteScheduler adds the noise of s_churn after the model was called.
#
# Algorithm 2 of Karras et al. (arXiv 2206.00364) first adds noise, which takes the picture x at the level σ to
# x̂ at σ̂, and then calls the model on x̂ at σ̂, so that the model sees the noise and the step removes it.
# k-diffusion's sample_euler does the same. In diffusers, step() gets the model's output for x at σ, adds the noise,
# and continues as if the output were for x̂ at σ̂, so the last step's noise stays in the picture. With v_prediction,
# it also converts x̂ with σ instead of σ̂. One and the same model gives three different results as epsilon, sample
# and v_prediction.
#
# Seen with diffusers 0.42.1, on Karras' levels with s_churn 40 and the exact model, 50 steps. If the data are one
# picture, algorithm 2 returns it exactly, while step() leaves noise of standard deviation 0.034 (epsilon), 0 (sample)
# or 0.029 (v_prediction). For normal data of standard deviation 0.5, algorithm 2 gives 0.443 (an error of Euler's
# method), and step() gives 0.569, 0.445 and 0.685. Without churn, all agree.
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
from diffusers import EulerDiscreteScheduler

PREDICTIONS = ("epsilon", "sample", "v_prediction")


def denoise(x, sigma, mean, deviation):
    """The exact model for normal data."""
    return mean + (x - mean) * deviation**2 / (deviation**2 + sigma**2)


def start(solver, generator):
    return torch.randn(1, 1, 256, 256, generator=generator) * solver.init_noise_sigma


def scheduler(steps, prediction="epsilon"):
    made = EulerDiscreteScheduler(
        prediction_type=prediction,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        use_karras_sigmas=True,
    )
    made.set_timesteps(steps)
    return made


def algorithm_2(steps, churn, mean, deviation):
    generator = torch.Generator().manual_seed(0)
    solver = scheduler(steps)
    x = start(solver, generator)
    gamma = min(churn / steps, math.sqrt(2) - 1)
    for sigma, following in zip(solver.sigmas, solver.sigmas[1:]):
        raised = sigma * (1 + gamma)
        noise = torch.randn(x.shape, generator=generator)
        x = x + torch.sqrt(raised**2 - sigma**2) * noise
        slope = (x - denoise(x, raised, mean, deviation)) / raised
        x = x + (following - raised) * slope
    return x.std().item()


def with_step(prediction, steps, churn, mean, deviation):
    generator = torch.Generator().manual_seed(0)
    solver = scheduler(steps, prediction)
    x = start(solver, generator)
    for sigma, time in zip(solver.sigmas, solver.timesteps):
        scaled = solver.scale_model_input(x, time)
        alpha = 1 / torch.sqrt(1 + sigma**2)
        picture = denoise(scaled / alpha, sigma, mean, deviation)
        epsilon = (scaled / alpha - picture) / sigma
        output = {
            "epsilon": epsilon,
            "sample": picture,
            "v_prediction": alpha * epsilon - alpha * sigma * picture,
        }[prediction]
        x = solver.step(output, time, x, s_churn=churn, generator=generator).prev_sample
    return x.std().item()


def row(steps, churn, mean, deviation):
    karras = algorithm_2(steps, churn, mean, deviation)
    answers = [with_step(p, steps, churn, mean, deviation) for p in PREDICTIONS]
    print(f"{steps:5}  {churn:5}" + "".join(f"  {value:11.4f}" for value in (karras, *answers)))
    return karras, *answers


print("diffusers", diffusers.__version__)
head = "steps  churn  algorithm 2      epsilon       sample            v"
for title, data in (("one picture, 0.7", (0.7, 0.0)), ("normal data, 0.5", (0.0, 0.5))):
    print(f"{title}: standard deviation of the results\n{head}")
    for steps in (10, 20, 50, 100):
        karras, *answers = row(steps, 0, *data)
        assert all(abs(a - karras) < 1e-3 for a in answers), "they differ without churn"
        karras, epsilon, sample, v = row(steps, 40, *data)
        assert epsilon > karras + 0.02, "churn with epsilon is as in algorithm 2 now"
        assert v > karras + 0.02, "churn with v_prediction is as in algorithm 2 now"
        assert abs(sample - karras) < 0.01, "churn with sample differs more"
PYTHON
