"""Reference values for tests/schedule.rs, tests/samplers.rs and tests/ema.rs.

    pip install diffusers==0.42.1 torch numpy
    python diffusers_reference.py > diffusers_reference.json

All values come from the schedulers and the EMAModel of diffusers. Its tables are float32; the
cumulative products and the steps are evaluated in float64 on them.
"""

import json
import warnings
from unittest import mock

import numpy as np
import torch

warnings.filterwarnings("ignore")

import diffusers
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, EulerDiscreteScheduler
from diffusers.training_utils import EMAModel

SCHEDULES = {
    "linear": dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
    "scaled_linear": dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    "cosine": dict(beta_schedule="squaredcos_cap_v2"),
    "sigmoid": dict(beta_schedule="sigmoid", beta_start=1e-4, beta_end=0.02),
    "zero_terminal": dict(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        rescale_betas_zero_snr=True,
    ),
}
SHAPE = (2, 3, 2, 2)


def floats(values):
    return [float(v) for v in np.asarray(values, dtype=np.float64).reshape(-1)]


def in_double(scheduler):
    scheduler.alphas_cumprod = torch.cumprod(1.0 - scheduler.betas.double(), 0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = (
            scheduler.one if scheduler.config.set_alpha_to_one else scheduler.alphas_cumprod[0]
        )
    return scheduler


def tables():
    indices = [0, 1, 2, 10, 100, 250, 499, 500, 750, 900, 990, 998, 999]
    out = {}
    for name, config in SCHEDULES.items():
        scheduler = in_double(DDPMScheduler(**config))
        out[name] = {
            "index": indices,
            "beta": floats(scheduler.betas[indices]),
            "alpha_bar": floats(scheduler.alphas_cumprod[indices]),
        }
    return out


def spacings():
    out = []
    for spacing, offset in [("linspace", 0), ("leading", 0), ("leading", 1), ("trailing", 0)]:
        for count in [1, 2, 7, 20, 30, 50, 200, 999, 1000]:
            if offset and count == 1000:
                continue
            scheduler = DDPMScheduler(timestep_spacing=spacing, steps_offset=offset)
            scheduler.set_timesteps(count)
            timesteps = [int(t) for t in scheduler.timesteps]
            # The long lists are told by their ends and their sum.
            out.append(
                {
                    "spacing": spacing,
                    "offset": offset,
                    "count": count,
                    "length": len(timesteps),
                    "falling": timesteps if count <= 50 else None,
                    "first": timesteps[0],
                    "last": timesteps[-1],
                    "weighted_sum": sum(i * t for i, t in enumerate(timesteps)),
                }
            )
    return out


def karras():
    edm = EDMEulerScheduler()
    edm.set_timesteps(18)
    euler = EulerDiscreteScheduler(
        **SCHEDULES["scaled_linear"], use_karras_sigmas=True, timestep_spacing="linspace"
    )
    euler.set_timesteps(20)
    return {
        "edm_18": floats(edm.sigmas[:-1]),
        "scaled_linear_20": floats(euler.sigmas[:-1]),
        "scaled_linear_20_timesteps": floats(euler.timesteps),
    }


def step_inputs():
    rng = np.random.default_rng(7)
    draw = lambda *shape: torch.from_numpy(np.round(rng.standard_normal(shape), 4))
    return {
        "x": draw(*SHAPE),
        "output": draw(*SHAPE),
        "variance": torch.tanh(draw(*SHAPE)),
        "noise": draw(*SHAPE),
    }


def ddpm_steps(inputs):
    module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    out = []
    for schedule, spacing, count, prediction, variance, clip in [
        ("linear", "leading", 1000, "epsilon", "fixed_small", None),
        ("linear", "leading", 1000, "epsilon", "fixed_large", 1.0),
        ("linear", "linspace", 50, "sample", "fixed_small", None),
        ("scaled_linear", "linspace", 200, "epsilon", "fixed_small", None),
        ("scaled_linear", "trailing", 20, "v_prediction", "fixed_large", None),
        ("cosine", "linspace", 30, "epsilon", "learned_range", 1.5),
        ("cosine", "trailing", 100, "v_prediction", "learned_range", None),
        ("zero_terminal", "trailing", 25, "v_prediction", "fixed_small", None),
        ("zero_terminal", "trailing", 25, "sample", "fixed_large", None),
    ]:
        scheduler = in_double(
            DDPMScheduler(
                **SCHEDULES[schedule],
                timestep_spacing=spacing,
                prediction_type=prediction,
                variance_type=variance,
                clip_sample=clip is not None,
                clip_sample_range=clip or 1.0,
            )
        )
        scheduler.set_timesteps(count)
        output = inputs["output"]
        if variance == "learned_range":
            output = torch.cat([output, inputs["variance"]], 1)
        for index in [count - 1, count // 2, 1, 0]:
            t = scheduler.timesteps[count - 1 - index]
            # Ho et al. add no noise at the last step; diffusers does unless its timestep is 0.
            noise = inputs["noise"] if index > 0 else torch.zeros_like(inputs["noise"])
            with mock.patch(module, lambda *a, **k: noise):
                result = scheduler.step(output, t, inputs["x"])
            out.append(
                {
                    "schedule": schedule,
                    "spacing": spacing,
                    "count": count,
                    "prediction": prediction,
                    "variance": variance,
                    "clip": clip,
                    "index": index,
                    "timestep": int(t),
                    "sample": floats(result.pred_original_sample),
                    "previous": floats(result.prev_sample),
                }
            )
    return out


def ddim_steps(inputs):
    out = []
    for schedule, spacing, offset, count, prediction, eta, clip, rederive, to_one in [
        ("linear", "leading", 0, 50, "epsilon", 0.0, None, False, True),
        ("linear", "leading", 0, 1000, "epsilon", 1.0, None, False, True),
        ("linear", "leading", 0, 100, "epsilon", 0.5, 1.0, False, True),
        ("linear", "leading", 0, 100, "epsilon", 0.5, 1.0, True, True),
        ("scaled_linear", "leading", 1, 50, "epsilon", 0.0, None, False, False),
        ("scaled_linear", "leading", 1, 20, "v_prediction", 0.3, None, False, False),
        ("cosine", "trailing", 0, 25, "sample", 0.7, None, False, True),
        ("zero_terminal", "trailing", 0, 20, "v_prediction", 0.0, None, False, True),
    ]:
        scheduler = in_double(
            DDIMScheduler(
                **SCHEDULES[schedule],
                timestep_spacing=spacing,
                steps_offset=offset,
                prediction_type=prediction,
                clip_sample=clip is not None,
                clip_sample_range=clip or 1.0,
                set_alpha_to_one=to_one,
            )
        )
        scheduler.set_timesteps(count)
        for index in [count - 1, count // 2, 1, 0]:
            t = int(scheduler.timesteps[count - 1 - index])
            result = scheduler.step(
                inputs["output"],
                t,
                inputs["x"],
                eta=eta,
                use_clipped_model_output=rederive,
                variance_noise=inputs["noise"] if eta > 0 else None,
            )
            out.append(
                {
                    "schedule": schedule,
                    "spacing": spacing,
                    "offset": offset,
                    "count": count,
                    "prediction": prediction,
                    "eta": eta,
                    "clip": clip,
                    "rederive_epsilon": rederive,
                    "final_alpha_bar_is_one": to_one,
                    "index": index,
                    "timestep": t,
                    "sample": floats(result.pred_original_sample),
                    "previous": floats(result.prev_sample),
                }
            )
    return out


def ema():
    rng = np.random.default_rng(11)
    path = np.round(rng.standard_normal((40, 3)), 4)
    out = {"path": [floats(p) for p in path], "runs": []}
    for decay, power_warm_up in [(0.9999, None), (0.6, None), (0.999, (1.0, 2 / 3)), (0.9, (5.0, 0.75))]:
        parameter = torch.nn.Parameter(torch.from_numpy(path[0]).clone())
        inverse_gamma, power = power_warm_up or (1.0, 2 / 3)
        model = EMAModel(
            [parameter],
            decay=decay,
            use_ema_warmup=power_warm_up is not None,
            inv_gamma=inverse_gamma,
            power=power,
        )
        averages = []
        for point in path:
            parameter.data.copy_(torch.from_numpy(point))
            model.step([parameter])
            averages.append(floats(model.shadow_params[0]))
        out["runs"].append(
            {
                "decay": decay,
                "inverse_gamma": inverse_gamma if power_warm_up else None,
                "power": power if power_warm_up else None,
                "averages": averages,
            }
        )
    return out


def main():
    inputs = step_inputs()
    print(
        json.dumps(
            {
                "diffusers": diffusers.__version__,
                "torch": torch.__version__,
                "tables": tables(),
                "spacings": spacings(),
                "karras": karras(),
                "shape": SHAPE,
                "inputs": {name: floats(value) for name, value in inputs.items()},
                "ddpm": ddpm_steps(inputs),
                "ddim": ddim_steps(inputs),
                "ema": ema(),
            }
        )
    )


main()
