"""Reference values for tests/named_samplers.rs.

    pip install diffusers==0.42.1 torch numpy scipy
    python sampler_reference.py sampler_noise.json > sampler_reference.json

The schedulers of diffusers run with the closed-form denoiser of Gaussian data with independent pixels.
Recorded is every picture that the network is asked about, with the time step it is told, in the
variance-preserving form. The tables of the schedulers are computed in float64 from their float32 betas,
as in diffusers_reference.py; their noise levels are float32 as they are. `sampler_noise.json` is what
SeededNoise::new(7, 0) draws.
"""

import json
import sys
import warnings
from unittest import mock

import numpy as np
import torch

warnings.filterwarnings("ignore")

import diffusers

SHAPE = (1, 2, 2, 2)
MEAN = torch.tensor([0.5, -0.4, 0.3, -0.2, 0.1, 0.0, -0.6, 0.7], dtype=torch.float64).reshape(SHAPE)
VARIANCE = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.5, 3.0], dtype=torch.float64).reshape(SHAPE)
START = torch.tensor([0.8, -1.1, 0.3, 1.7, -0.6, 0.2, -1.9, 0.9], dtype=torch.float64).reshape(SHAPE)
BETAS = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
NOISE = json.load(open(sys.argv[1]))
STOCHASTIC = ["EulerAncestralDiscreteScheduler", "DDPMScheduler"]


def floats(values, digits=8):
    return [float(f"{float(v):.{digits}g}") for v in np.asarray(values, dtype=np.float64).reshape(-1)]


def in_double(scheduler):
    zero = scheduler.config.get("rescale_betas_zero_snr") and not hasattr(scheduler, "final_alpha_cumprod")
    scheduler.alphas_cumprod = torch.cumprod(1.0 - scheduler.betas.double(), 0)
    if zero:
        scheduler.alphas_cumprod[-1] = 2**-24
    if hasattr(scheduler, "one"):
        scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    if hasattr(scheduler, "final_alpha_cumprod"):
        one = scheduler.config.set_alpha_to_one
        scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64) if one else scheduler.alphas_cumprod[0]
    return scheduler


def make(kind, options):
    return in_double(getattr(diffusers, kind)(**BETAS, **options))


def of_sigma(kind):
    return kind.startswith(("Euler", "Heun", "LMS"))


def network(x, alpha_bar, prediction):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    gain = signal * VARIANCE / (alpha_bar * VARIANCE + 1 - alpha_bar)
    sample = MEAN + gain * (x - signal * MEAN)
    epsilon = (x - signal * sample) / noise
    return {"epsilon": epsilon, "sample": sample, "v_prediction": signal * epsilon - noise * sample}[prediction]


def level(scheduler, kind, at, t):
    """The alpha-bar that the scheduler takes a call to be at."""
    if of_sigma(kind) or kind.startswith(("DPM", "UniPC")):
        return 1 / (1 + float(scheduler.sigmas[at]) ** 2)
    return float(scheduler.alphas_cumprod[int(t)])


def run(name, kind, steps, options):
    scheduler = make(kind, options)
    scheduler.set_timesteps(steps)
    latents = START * float(scheduler.init_noise_sigma)
    noises = iter(torch.tensor(NOISE, dtype=torch.float64).reshape(-1, *SHAPE))
    calls = []
    draw = lambda *a, **k: next(noises)
    prediction = scheduler.config.prediction_type
    for at, t in enumerate(scheduler.timesteps):
        alpha_bar = level(scheduler, kind, at, t)
        # In float64 throughout, which scale_model_input would leave.
        x = latents * alpha_bar**0.5 if of_sigma(kind) else latents
        if hasattr(scheduler, "is_scale_input_called"):
            scheduler.is_scale_input_called = True
        calls.append({"t": float(t), "x": floats(x)})
        output = network(x, alpha_bar, prediction)
        module = "diffusers.schedulers." + type(scheduler).__module__.split(".")[-1]
        with mock.patch(module + ".randn_tensor", draw) if kind in STOCHASTIC or "sde" in name else mock.MagicMock():
            latents = scheduler.step(output, t, latents).prev_sample
        latents = latents.double()
    if of_sigma(kind):
        latents = latents / (1 + float(scheduler.sigmas[-1]) ** 2) ** 0.5
    config = {"_class_name": kind, **BETAS, **options}
    return {"name": name, "config": config, "steps": steps, "calls": calls, "end": floats(latents)}


LEADING = dict(timestep_spacing="leading", steps_offset=1)
TRAILING = dict(timestep_spacing="trailing")
KARRAS = dict(use_karras_sigmas=True)
FLAT = dict(clip_sample=False)

RUNS = [
    ("ddim", "DDIMScheduler", 10, dict(**FLAT, **LEADING, set_alpha_to_one=False)),
    ("ddim trailing", "DDIMScheduler", 10, dict(**FLAT, **TRAILING)),
    ("ddpm", "DDPMScheduler", 10, dict(**FLAT, **TRAILING)),
    ("plms", "PNDMScheduler", 10, dict(skip_prk_steps=True, steps_offset=1)),
    ("pndm", "PNDMScheduler", 10, dict(steps_offset=1)),
    ("pndm to one", "PNDMScheduler", 20, dict(set_alpha_to_one=True)),
    ("euler", "EulerDiscreteScheduler", 10, {}),
    ("euler leading", "EulerDiscreteScheduler", 10, LEADING),
    ("euler trailing", "EulerDiscreteScheduler", 7, TRAILING),
    ("euler karras", "EulerDiscreteScheduler", 10, KARRAS),
    ("euler to sigma_min", "EulerDiscreteScheduler", 10, dict(final_sigmas_type="sigma_min")),
    ("euler zero snr", "EulerDiscreteScheduler", 10, dict(rescale_betas_zero_snr=True, **TRAILING)),
    ("euler ancestral", "EulerAncestralDiscreteScheduler", 10, {}),
    ("euler ancestral leading", "EulerAncestralDiscreteScheduler", 10, LEADING),
    ("heun", "HeunDiscreteScheduler", 6, {}),
    ("heun karras", "HeunDiscreteScheduler", 6, KARRAS),
    ("lms", "LMSDiscreteScheduler", 10, {}),
    ("lms karras", "LMSDiscreteScheduler", 10, KARRAS),
    ("dpm", "DPMSolverMultistepScheduler", 10, {}),
    ("dpm in 20", "DPMSolverMultistepScheduler", 20, LEADING),
    ("dpm karras", "DPMSolverMultistepScheduler", 10, KARRAS),
    ("dpm to sigma_min", "DPMSolverMultistepScheduler", 10, dict(final_sigmas_type="sigma_min", **TRAILING)),
    ("dpm to sigma_min in 16", "DPMSolverMultistepScheduler", 16, dict(final_sigmas_type="sigma_min")),
    ("dpm sde", "DPMSolverMultistepScheduler", 10, dict(algorithm_type="sde-dpmsolver++")),
    ("unipc", "UniPCMultistepScheduler", 10, {}),
    ("unipc karras", "UniPCMultistepScheduler", 10, KARRAS),
    # Towards sigma 0 this variant is no number in diffusers.
    ("unipc 3", "UniPCMultistepScheduler", 10, dict(solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min", **LEADING)),
]


def grids():
    out = []
    for kind, options in [
        ("DDIMScheduler", FLAT),
        ("DDPMScheduler", FLAT),
        ("EulerDiscreteScheduler", {}),
        ("EulerDiscreteScheduler", KARRAS),
        ("EulerAncestralDiscreteScheduler", {}),
        ("LMSDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", KARRAS),
        ("DPMSolverMultistepScheduler", dict(lambda_min_clipped=-2.0)),
        ("UniPCMultistepScheduler", {}),
        ("UniPCMultistepScheduler", KARRAS),
        ("PNDMScheduler", dict(skip_prk_steps=True)),
        ("HeunDiscreteScheduler", {}),
    ]:
        for spacing in [None, "linspace", "leading", "trailing"]:
            # Without a spacing, the class's own default.
            place = dict(timestep_spacing=spacing, steps_offset=1) if spacing else {}
            for steps in [10, 50] if spacing else [10]:
                if steps == 50 and (options == KARRAS and spacing != "leading"):
                    continue
                scheduler = make(kind, {**options, **place})
                scheduler.set_timesteps(steps)
                times, sigmas = scheduler.timesteps.tolist(), getattr(scheduler, "sigmas", None)
                if kind == "PNDMScheduler":
                    times = times[:1] + times[2:]
                if kind == "HeunDiscreteScheduler":
                    times, sigmas = times[:1] + times[1::2], torch.cat([sigmas[:1], sigmas[1:-1:2], sigmas[-1:]])
                case = {
                    "config": {"_class_name": kind, **BETAS, **options, **place},
                    "steps": steps,
                    "timesteps": floats(times, 7),
                    "init_noise_sigma": float(scheduler.init_noise_sigma),
                }
                if sigmas is not None and steps == 10:
                    case["sigmas"] = floats(sigmas, 7)
                out.append(case)
    return out


def main():
    runs = []
    for name, kind, steps, options in RUNS:
        for prediction in ["epsilon", "v_prediction"]:
            extra = {**options, "prediction_type": prediction}
            runs.append(run(f"{name}, {prediction}", kind, steps, extra))
    print(
        json.dumps(
            {
                "diffusers": diffusers.__version__,
                "torch": torch.__version__,
                "mean": floats(MEAN),
                "variance": floats(VARIANCE),
                "start": floats(START),
                "noise": NOISE,
                "runs": runs,
                "grids": grids(),
            },
            allow_nan=False,
        )
    )


main()
