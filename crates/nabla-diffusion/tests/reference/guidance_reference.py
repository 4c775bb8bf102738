"""Reference values for tests/guidance.rs.

    pip install diffusers==0.42.1 torch numpy tqdm safetensors
    git clone https://github.com/CFGpp-diffusion/CFGpp && git -C CFGpp checkout 8035352
    python guidance_reference.py CFGpp > guidance_reference.json

CFG++: the solvers of the authors' own code (latent_diffusion.py) run with a closed-form network in place of
Stable Diffusion, in float64 instead of float16. Recorded is every state after a step, in the scale of the
solver, and the state at the end of an inversion.

Classifier-free guidance, APG and PAG: the guiders of diffusers on the same network, in ten DDIM steps. The
guider of APG gets clean samples, as its paper has them, and its "original formulation", whose scale is w - 1.

PAG and SAG in a network: the tiny UNet of Stable Diffusion 1.5 with the processors and the masking of diffusers.

The network is that of Gaussian data with independent numbers, one Gaussian under the condition and another
one without it. `sampler_noise.json` is what SeededNoise::new(7, 0) draws.
"""

import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch

warnings.filterwarnings("ignore")

import diffusers
from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer
from safetensors.torch import load_file

HERE = Path(__file__).parent
SHAPE = (2, 1, 2, 2)
MEAN = {
    "with": torch.tensor([0.5, -0.4, 0.3, -0.2, 0.1, 0.0, -0.6, 0.7], dtype=torch.float64).reshape(SHAPE),
    "without": torch.tensor([0.1, 0.2, -0.1, 0.0, 0.3, -0.2, 0.1, 0.2], dtype=torch.float64).reshape(SHAPE),
}
VARIANCE = {
    "with": torch.tensor([0.05, 0.1, 0.2, 0.3, 0.05, 0.02, 0.15, 0.3], dtype=torch.float64).reshape(SHAPE),
    "without": torch.tensor([0.5, 0.6, 0.4, 0.8, 0.5, 0.9, 0.7, 0.3], dtype=torch.float64).reshape(SHAPE),
}
START = torch.tensor([0.8, -1.1, 0.3, 1.7, -0.6, 0.2, -1.9, 0.9], dtype=torch.float64).reshape(SHAPE)
NOISE = torch.tensor(json.load(open(HERE / "sampler_noise.json")), dtype=torch.float64).reshape(-1, *SHAPE)
STEPS = 10
LAMBDA = 0.6

betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
ALPHA_BARS = torch.tensor(np.cumprod(1 - betas))


def floats(values, digits=9):
    return [float(f"{float(v):.{digits}g}") for v in np.asarray(values, dtype=np.float64).reshape(-1)]


def epsilon(x, alpha_bar, which):
    a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return b * (x - a * MEAN[which]) / (a * a * VARIANCE[which] + b * b)


# The authors' code of CFG++, in float64.


def authors_solvers(folder):
    torch.float16 = torch.float64
    torch.autocast = lambda **_: lambda function: function
    source = (Path(folder) / "latent_diffusion.py").read_text()
    module = types.ModuleType("latent_diffusion")
    exec(compile(source, "latent_diffusion.py", "exec"), module.__dict__)
    return module


def solver(module, name):
    cls = module.__SOLVER__[name]
    made = cls.__new__(cls)
    made.device, made.dtype = "cpu", torch.float64
    made.skip = 1000 // STEPS
    timesteps = torch.arange(STEPS - 1, -1, -1) * made.skip + 1
    # Theirs is shifted by one: a 1 stands before the table.
    shifted = torch.cat([torch.ones(1, dtype=torch.float64), ALPHA_BARS])
    made.scheduler = types.SimpleNamespace(timesteps=timesteps, alphas_cumprod=shifted)
    made.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    made.total_alphas = ALPHA_BARS
    made.get_text_embed = lambda **_: (None, None)
    made.decode = lambda z: z
    return made


def run_ddim(module, name):
    made = solver(module, name)
    made.predict_noise = lambda z, t, uc, c: tuple(
        epsilon(z, made.alpha(t), which) for which in ("without", "with")
    )
    made.initialize_latent = lambda **_: START.clone()
    states = []

    def record(step, t, kwargs):
        states.append(floats(kwargs["zt"]))
        return kwargs

    made.sample(cfg_guidance=LAMBDA, callback_fn=record)
    levels = [(int(t), float(made.alpha(t))) for t in made.scheduler.timesteps]
    return {"times": [t for t, _ in levels], "alpha_bars": [a for _, a in levels], "states": states}


def run_inversion(module, name, start):
    made = solver(module, name)
    made.predict_noise = lambda z, t, uc, c: tuple(
        epsilon(z, made.alpha(t), which) for which in ("without", "with")
    )
    found = made.inversion(start, None, None, cfg_guidance=LAMBDA)
    return {"start": floats(start), "found": floats(found)}


def run_karras(module, name):
    made = solver(module, name)
    made.timestep = lambda sigma: sigma
    made.predict_noise = lambda z, t, uc, c: tuple(
        epsilon(z, 1 / (1 + t * t), which) for which in ("without", "with")
    )
    sigmas = []

    def initialize(method=None, latent_dim=None, sigmas=None, kept=sigmas):
        kept.extend(float(s) for s in sigmas)
        return START * (sigmas[0] ** 2 + 1) ** 0.5

    made.initialize_latent = initialize
    states, noises = [], iter(NOISE)
    usual, torch.randn_like = torch.randn_like, lambda _: next(noises)

    def record(step, t, kwargs):
        states.append(floats(kwargs["zt"]))
        return kwargs

    made.sample(cfg_guidance=LAMBDA, prompt=["", ""], callback_fn=record)
    torch.randn_like = usual
    return {"sigmas": sigmas, "states": states}


# The guiders of diffusers.


def run_guider(guider, levels, of_sample):
    x, states = START.clone(), []
    if isinstance(guider, AdaptiveProjectedGuidance) and guider.adaptive_projected_guidance_momentum is not None:
        guider.momentum_buffer = MomentumBuffer(guider.adaptive_projected_guidance_momentum)
    for i, alpha_bar in enumerate(levels):
        to = levels[i + 1] if i + 1 < len(levels) else 1.0
        noise = {which: epsilon(x, alpha_bar, which) for which in ("with", "without")}
        a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        if of_sample:
            clean = {which: (x - b * e) / a for which, e in noise.items()}
            sample = guider.forward(pred_cond=clean["with"], pred_uncond=clean["without"]).pred
            direction = (x - a * sample) / b
        else:
            direction = guider.forward(pred_cond=noise["with"], pred_uncond=noise["without"]).pred
            sample = (x - b * direction) / a
        x = to**0.5 * sample + (1 - to) ** 0.5 * direction
        states.append(floats(x))
    return states


def guiders(levels):
    runs = {}
    for name, options in {
        "plain": dict(guidance_scale=3.0),
        "rescaled": dict(guidance_scale=3.0, guidance_rescale=0.7),
    }.items():
        runs[f"classifier-free {name}"] = {
            "options": {"scale": options["guidance_scale"], "rescale": options.get("guidance_rescale", 0.0)},
            "states": run_guider(ClassifierFreeGuidance(**options), levels, False),
        }
    for name, (scale, eta, threshold, momentum) in {
        "projection": (4.0, 0.0, None, 0.0),
        "part of the parallel": (4.0, 0.4, None, 0.0),
        "threshold": (4.0, 0.0, 0.5, 0.0),
        "momentum": (3.0, 0.0, None, -0.75),
        "all": (5.0, 0.1, 0.4, -0.5),
    }.items():
        guider = AdaptiveProjectedGuidance(
            guidance_scale=scale - 1,
            adaptive_projected_guidance_momentum=momentum or None,
            adaptive_projected_guidance_rescale=threshold or 0.0,
            eta=eta,
            use_original_formulation=True,
        )
        runs[f"apg {name}"] = {
            "options": {"scale": scale, "eta": eta, "norm_threshold": threshold, "momentum": momentum},
            "states": run_guider(guider, levels, True),
        }
    return runs


# Self-attention in the tiny UNet.


def tiny(name):
    from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0
    from diffusers.pipelines.deprecated.stable_diffusion_sag.pipeline_stable_diffusion_sag import (
        CrossAttnStoreProcessor,
        StableDiffusionSAGPipeline,
    )

    folder = HERE / "tiny" / name
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet").float()
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    values = load_file(folder / "reference.safetensors")
    x, text = values["unet.sample_wide"].float(), values["text.embeds"].float()
    time = 500
    with torch.no_grad():
        plain = unet(x, time, text).sample

        own = unet.attn_processors
        identity = PAGIdentitySelfAttnProcessor2_0()
        inside = lambda key: key.startswith("mid_block") and "attn1" in key
        unet.set_attn_processor({k: identity if inside(k) else p for k, p in own.items()})
        # Its batch is the plain prediction and the perturbed one.
        both = unet(torch.cat([x, x]), time, torch.cat([text, text])).sample
        _, perturbed = both.chunk(2)
        unet.set_attn_processor(own)

        store, size = CrossAttnStoreProcessor(), []
        unet.mid_block.attentions[0].transformer_blocks[0].attn1.processor = store
        hook = unet.mid_block.attentions[0].register_forward_hook(
            lambda module, given, output: size.append(output[0].shape[-2:])
        )
        noise = unet(x, time, text).sample
        hook.remove()
        attention = store.attention_probs
        alpha_bar = scheduler.alphas_cumprod[time]
        clean = (x - (1 - alpha_bar) ** 0.5 * noise) / alpha_bar**0.5
        of = types.SimpleNamespace(unet=unet, scheduler=scheduler)
        blurred = StableDiffusionSAGPipeline.sag_masking(
            of, clean, attention, size[0], torch.tensor([time]), noise
        )
        degraded = unet(blurred, time, text).sample
        guided = noise + 0.75 * (noise - degraded)
    received = attention.mean(0, keepdim=True).sum(1)
    return {
        "time": time,
        "alpha_bar": float(alpha_bar),
        "plain": floats(plain, 7),
        "perturbed": floats(perturbed, 7),
        "attention": floats(received, 7),
        "attention_size": list(size[0]),
        "blurred": floats(blurred, 7),
        "self_attention": floats(guided, 7),
    }


def main():
    networks = {name: tiny(name) for name in ["sd15"]}
    step = 1000 // STEPS
    times = [(k + 1) * step - 1 for k in reversed(range(STEPS))]
    levels = [float(ALPHA_BARS[t]) for t in times]
    guided = guiders(levels)
    module = authors_solvers(sys.argv[1])
    plus = {name: run_ddim(module, name) for name in ["ddim_cfg++"]}
    plus |= {
        name: run_karras(module, name)
        for name in ["euler_cfg++", "euler_a_cfg++", "dpm++_2m_cfg++"]
    }
    inversions = {name: run_inversion(module, name, START * 0.3) for name in ["ddim_inversion_cfg++", "ddim_inversion"]}
    json.dump(
        {
            "versions": {"diffusers": diffusers.__version__, "torch": torch.__version__},
            "mean": {k: floats(v) for k, v in MEAN.items()},
            "variance": {k: floats(v) for k, v in VARIANCE.items()},
            "start": floats(START),
            "lambda": LAMBDA,
            "guiders": {"times": times, "alpha_bars": levels, "runs": guided},
            "authors": plus,
            "inversions": inversions,
            "networks": networks,
        },
        sys.stdout,
        indent=None,
    )
    print()


main()
