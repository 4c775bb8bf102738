"""Reference values for tests/named_samplers.rs.

    pip install diffusers==0.42.1 torch numpy scipy tqdm
    pip install --no-deps k-diffusion==0.1.1.post1 torchdiffeq torchsde trampoline
    python sampler_reference.py sampler_noise.json > sampler_reference.json

The schedulers of diffusers run with the closed-form denoiser of Gaussian data with independent pixels.
Recorded is every picture that the network is asked about, with the time step it is told, in the
variance-preserving form. The tables of the schedulers are computed in float64 from their float32 betas,
as in diffusers_reference.py; their noise levels are float32 as they are. `sampler_noise.json` is what
SeededNoise::new(7, 0) draws.

What diffusers lacks, or has otherwise than its source, comes from k-diffusion: churn, and the third order
with noise.
"""

import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import scipy.stats
import torch

warnings.filterwarnings("ignore")

import diffusers

SHAPE = (1, 2, 2, 2)
MEAN = torch.tensor([0.5, -0.4, 0.3, -0.2, 0.1, 0.0, -0.6, 0.7], dtype=torch.float64).reshape(SHAPE)
VARIANCE = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.5, 3.0], dtype=torch.float64).reshape(SHAPE)
START = torch.tensor([0.8, -1.1, 0.3, 1.7, -0.6, 0.2, -1.9, 0.9], dtype=torch.float64).reshape(SHAPE)
BETAS = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
NOISE = json.load(open(sys.argv[1]))
STOCHASTIC = [
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DDPMScheduler",
    "LCMScheduler",
]


def floats(values, digits=7):
    return [float(f"{float(v):.{digits}g}") for v in np.asarray(values, dtype=np.float64).reshape(-1)]


class ThirdOrderWithNoise(diffusers.DPMSolverMultistepScheduler):
    """With the sign of the constant 1/2 in the weight of D2 that the integral and k-diffusion have."""

    def multistep_dpm_solver_third_order_update(self, outputs, *args, sample=None, noise=None, **kwargs):
        wrong = super().multistep_dpm_solver_third_order_update(outputs, sample=sample, noise=noise)
        if self.config.algorithm_type != "sde-dpmsolver++":
            return wrong
        at = self.step_index
        alpha = 1 / (1 + self.sigmas[at + 1] ** 2) ** 0.5
        to, l0, l1, l2 = (-torch.log(self.sigmas[at + 1 - k]) for k in range(4))
        r0, r1 = (l0 - l1) / (to - l0), (l1 - l2) / (to - l0)
        m0, m1, m2 = outputs[-1], outputs[-2], outputs[-3]
        d2 = ((m0 - m1) / r0 - (m1 - m2) / r1) / (r0 + r1)
        return wrong + alpha * d2


class SingleThirdOrderWithNoise(diffusers.DPMSolverSinglestepScheduler):
    """The same sign."""

    def singlestep_dpm_solver_third_order_update(self, outputs, *args, sample=None, noise=None, **kwargs):
        wrong = super().singlestep_dpm_solver_third_order_update(outputs, sample=sample, noise=noise)
        if self.config.algorithm_type != "sde-dpmsolver++" or self.config.solver_type != "heun":
            return wrong
        at = self.step_index
        alpha = 1 / (1 + self.sigmas[at + 1] ** 2) ** 0.5
        to, l0, l1, l2 = (-torch.log(self.sigmas[at + 1 - k]) for k in range(4))
        r0, r1 = (l0 - l2) / (to - l2), (l1 - l2) / (to - l2)
        m0, m1, m2 = outputs[-1], outputs[-2], outputs[-3]
        return wrong + alpha * 2 * ((m0 - m2) / r0 - (m1 - m2) / r1) / (r0 - r1)


CORRECTED = {
    "DPMSolverMultistepScheduler": ThirdOrderWithNoise,
    "DPMSolverSinglestepScheduler": SingleThirdOrderWithNoise,
}


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
    made = CORRECTED.get(kind, getattr(diffusers, kind))
    return in_double(made(**{**BETAS, **options}))


def of_sigma(kind):
    return kind.startswith(("Euler", "Heun", "LMS", "KDPM2"))


def network(x, alpha_bar, prediction):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    gain = signal * VARIANCE / (alpha_bar * VARIANCE + 1 - alpha_bar)
    sample = MEAN + gain * (x - signal * MEAN)
    epsilon = (x - signal * sample) / noise
    return {"epsilon": epsilon, "sample": sample, "v_prediction": signal * epsilon - noise * sample}[prediction]


def level(scheduler, kind, at, t):
    """The alpha-bar that the scheduler takes a call to be at."""
    if kind.startswith("KDPM2") and not scheduler.state_in_first_order:
        back = 1 if "Ancestral" in kind else 0
        return 1 / (1 + float(scheduler.sigmas_interpol[at - back]) ** 2)
    if of_sigma(kind) or kind.startswith(("DPM", "DEIS", "UniPC")):
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
        module = "diffusers.schedulers." + getattr(diffusers, kind).__module__.split(".")[-1]
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


ENDS = dict(final_sigmas_type="sigma_min")
EXPONENTIAL = dict(use_exponential_sigmas=True)
BETA = dict(use_beta_sigmas=True)
LU = dict(use_lu_lambdas=True)
DPM = "DPMSolverMultistepScheduler"
SINGLE = "DPMSolverSinglestepScheduler"

# Each with one of the two predictions, in turn.
OPTIONS = [
    ("dpm 1", DPM, 6, dict(solver_order=1)),
    ("dpm 3", DPM, 8, dict(solver_order=3)),
    ("dpm 3 in 16", DPM, 16, dict(solver_order=3, euler_at_final=True, **ENDS, **KARRAS)),
    ("dpm heun", DPM, 8, dict(solver_type="heun")),
    ("dpm not lower", DPM, 8, dict(solver_order=3, lower_order_final=False, **ENDS)),
    ("dpm lu", DPM, 8, LU),
    ("dpm exponential", DPM, 8, EXPONENTIAL),
    ("dpm beta", DPM, 8, BETA),
    ("dpm noise", DPM, 8, dict(algorithm_type="dpmsolver", **ENDS)),
    ("dpm noise heun", DPM, 8, dict(algorithm_type="dpmsolver", solver_type="heun", **ENDS)),
    ("dpm noise 3", DPM, 8, dict(algorithm_type="dpmsolver", solver_order=3, **ENDS)),
    ("dpm sde 1", DPM, 6, dict(algorithm_type="sde-dpmsolver++", solver_order=1)),
    ("dpm sde heun", DPM, 8, dict(algorithm_type="sde-dpmsolver++", solver_type="heun")),
    ("dpm sde 3", DPM, 8, dict(algorithm_type="sde-dpmsolver++", solver_order=3, **KARRAS)),
    ("dpm sde noise 1", DPM, 6, dict(algorithm_type="sde-dpmsolver", solver_order=1, **ENDS)),
    ("dpm sde noise", DPM, 8, dict(algorithm_type="sde-dpmsolver", **ENDS)),
    ("dpm sde noise heun", DPM, 8, dict(algorithm_type="sde-dpmsolver", solver_type="heun", **ENDS)),
    ("euler exponential", "EulerDiscreteScheduler", 6, EXPONENTIAL),
    ("euler beta", "EulerDiscreteScheduler", 6, BETA),
    ("heun beta", "HeunDiscreteScheduler", 4, BETA),
    ("lms exponential", "LMSDiscreteScheduler", 6, EXPONENTIAL),
    ("unipc exponential", "UniPCMultistepScheduler", 8, EXPONENTIAL),
    ("unipc beta", "UniPCMultistepScheduler", 8, BETA),
    ("unipc noise", "UniPCMultistepScheduler", 8, dict(predict_x0=False, solver_order=3, **ENDS)),
    ("unipc noise bh1", "UniPCMultistepScheduler", 8, dict(predict_x0=False, solver_type="bh1", **ENDS)),
    ("unipc uncorrected", "UniPCMultistepScheduler", 8, dict(disable_corrector=[0, 1, 2])),
    ("lcm", "LCMScheduler", 4, {}),
    ("lcm clipped", "LCMScheduler", 7, dict(original_inference_steps=40, timestep_scaling=0.01, clip_sample=True)),
    ("lcm in 1", "LCMScheduler", 1, {}),
    ("deis", "DEISMultistepScheduler", 8, {}),
    ("deis v", "DEISMultistepScheduler", 8, LEADING),
    ("deis 3", "DEISMultistepScheduler", 16, dict(solver_order=3)),
    ("deis karras", "DEISMultistepScheduler", 8, dict(solver_order=3, **KARRAS)),
    ("deis 1", "DEISMultistepScheduler", 6, dict(solver_order=1, **EXPONENTIAL)),
    ("single", SINGLE, 8, {}),
    ("single v", SINGLE, 7, KARRAS),
    ("single 1", SINGLE, 6, dict(solver_order=1)),
    ("single 3", SINGLE, 9, dict(solver_order=3)),
    ("single 3 in 8", SINGLE, 8, dict(solver_order=3, solver_type="heun", lower_order_final=True, **ENDS)),
    ("single 3 whole", SINGLE, 9, dict(solver_order=3, solver_type="heun", **ENDS)),
    ("single heun", SINGLE, 8, dict(solver_type="heun", **BETA)),
    ("single noise", SINGLE, 8, dict(algorithm_type="dpmsolver", **ENDS)),
    ("single noise 3", SINGLE, 9, dict(algorithm_type="dpmsolver", solver_order=3, **ENDS)),
    ("single sde", SINGLE, 8, dict(algorithm_type="sde-dpmsolver++")),
    ("single sde 3", SINGLE, 9, dict(algorithm_type="sde-dpmsolver++", solver_order=3, solver_type="heun", **ENDS)),
    ("dpm2", "KDPM2DiscreteScheduler", 5, {}),
    ("dpm2 karras", "KDPM2DiscreteScheduler", 5, dict(**KARRAS, **LEADING)),
    ("dpm2 beta", "KDPM2DiscreteScheduler", 5, BETA),
    ("dpm2 ancestral", "KDPM2AncestralDiscreteScheduler", 5, {}),
    ("dpm2 ancestral v", "KDPM2AncestralDiscreteScheduler", 5, TRAILING),
]


def k_diffusion():
    """The module `k_diffusion.sampling` without the rest of its package."""
    parent = importlib.util.find_spec("k_diffusion")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(parent.submodule_search_locations)
    package.utils = types.ModuleType("k_diffusion.utils")
    package.utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": package.utils})
    spec = importlib.util.spec_from_file_location("k_diffusion.sampling", Path(package.__path__[0]) / "sampling.py")
    sampling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sampling)
    return sampling


def k_runs():
    """Ten steps in trailing spacing, in the variance-exploding form."""
    sampling = k_diffusion()
    alpha_bar = make("DDIMScheduler", FLAT).alphas_cumprod[torch.arange(999, 0, -100)]
    sigmas = torch.cat([((1 - alpha_bar) / alpha_bar) ** 0.5, torch.zeros(1, dtype=torch.float64)])
    out = []
    for name, function, churn in [
        ("euler", sampling.sample_euler, dict(s_churn=3.0)),
        ("euler within", sampling.sample_euler, dict(s_churn=40.0, s_tmin=0.3, s_tmax=5.0, s_noise=1.007)),
        ("heun", sampling.sample_heun, dict(s_churn=3.0)),
        ("heun within", sampling.sample_heun, dict(s_churn=40.0, s_tmin=0.3, s_tmax=5.0, s_noise=1.007)),
        ("dpm++3m-sde", sampling.sample_dpmpp_3m_sde, None),
    ]:
        calls = []
        noises = iter(torch.tensor(NOISE, dtype=torch.float64).reshape(-1, *SHAPE))

        def model(x, sigma):
            alpha_bar = 1 / (1 + float(sigma[0]) ** 2)
            x = x * alpha_bar**0.5
            calls.append({"sigma": float(sigma[0]), "x": floats(x)})
            return network(x, alpha_bar, "sample")

        start = START * (1 + sigmas[0] ** 2) ** 0.5
        if churn is None:
            end = function(model, start, sigmas, disable=True, noise_sampler=lambda *a: next(noises))
        else:
            low, high = churn.get("s_tmin", 0), churn.get("s_tmax", float("inf"))
            # It draws noise in every step, also where it adds none.
            draws = iter([next(noises) if low <= s <= high else 0 * START for s in sigmas[:-1]])
            with mock.patch.object(torch, "randn_like", lambda x: next(draws)):
                end = function(model, start, sigmas, disable=True, **churn)
        out.append({"name": name, "churn": churn, "calls": calls, "end": floats(end)})
    return out


def uneven_pndm():
    """Ends of runs with Runge and Kutta's start where a half step is no whole training step."""
    out = []
    for steps in [8, 40]:
        case = run("pndm", "PNDMScheduler", steps, dict(steps_offset=1))
        out.append({"config": case["config"], "steps": steps, "end": case["end"]})
    return out


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
        ("EulerDiscreteScheduler", BETA),
        ("LMSDiscreteScheduler", EXPONENTIAL),
        (DPM, LU),
        (DPM, EXPONENTIAL),
        (DPM, BETA),
        (DPM, dict(beta_schedule="squaredcos_cap_v2", **KARRAS)),
        (DPM, dict(beta_schedule="squaredcos_cap_v2", **LU)),
        ("UniPCMultistepScheduler", EXPONENTIAL),
        ("UniPCMultistepScheduler", BETA),
        (SINGLE, {}),
        (SINGLE, dict(lambda_min_clipped=-2.0)),
        ("DEISMultistepScheduler", {}),
        ("DEISMultistepScheduler", KARRAS),
        ("LCMScheduler", {}),
        ("LCMScheduler", dict(original_inference_steps=33)),
    ]:
        new = kind in ["LCMScheduler", "DEISMultistepScheduler", SINGLE] or any(key in options for key in {**LU, **EXPONENTIAL, **BETA, "beta_schedule": 0})
        for spacing in [None] if new else [None, "linspace", "leading", "trailing"]:
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
    for at, (name, kind, steps, options) in enumerate(OPTIONS):
        extra = {**options, "prediction_type": ["epsilon", "v_prediction"][at % 2]}
        runs.append(run(name, kind, steps, extra))
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
                "k_diffusion": k_runs(),
                "uneven_pndm": uneven_pndm(),
                "beta_quantiles": floats(scipy.stats.beta.ppf(1 - np.linspace(0, 1, 13), 0.6, 0.6), 15),
            },
            allow_nan=False,
        )
    )


main()
