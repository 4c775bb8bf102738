"""Values of the official RDDM code (github.com/nachifur/RDDM) that tests/rddm.rs agrees with.

    git clone https://github.com/nachifur/RDDM    # or a bare repository
    python rddm_reference.py RDDM > rddm_reference.json

Needs PyTorch and NumPy. The official classes are run as they are, with a linear map in the place of
the network and noise from a list; what they import beside PyTorch is not used and is replaced by
empty modules.
"""

import json
import subprocess
import sys
import types
from unittest import mock

import torch

RESTORATION = "experiments/2_Image_Restoration_deraing_raindrop_noise1"
PATHS = "experiments/0_Partially_path-independent_generation"
AOSA = "experiments/3_AOSA_test_lol_timestep5_1e-2_reinit_weight"
FILE = "src/residual_denoising_diffusion_pytorch.py"
SHAPE = (2, 1, 2, 3)


def official(repository, experiment, *replaced):
    """The official module, with text replaced where a choice is a constant in a function."""
    source = subprocess.check_output(
        ["git", "-C", repository, "show", f"HEAD:{experiment}/{FILE}"], text=True
    )
    for old, new in replaced:
        assert old in source, old
        source = source.replace(old, new)
    module = types.ModuleType("official")
    names = [line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))]
    unused = {}
    for name in names:
        root = name.split(".")[0]
        if root in ("torch", "numpy") or root in sys.stdlib_module_names:
            continue
        parts = name.split(".")
        for i in range(len(parts)):
            unused.setdefault(".".join(parts[: i + 1]), mock.MagicMock())
    einops = unused.get("einops")
    if einops is not None:
        # The only use that is reached: the mean over all but the batch.
        einops.reduce = lambda x, pattern, how: x.flatten(1).mean(1, keepdim=True)
    tqdm = mock.MagicMock()
    tqdm.tqdm = lambda x, **_: x
    for name in list(unused):
        if name.startswith("tqdm"):
            unused[name] = tqdm
    with mock.patch.dict(sys.modules, unused):
        exec(compile(source, experiment, "exec"), module.__dict__)
    return module


class Linear(torch.nn.Module):
    """Outputs that are linear in the picture, the condition and the time."""

    # Per output: of the picture, of the condition, of the time over 1000, constant.
    WEIGHTS = [(0.3, -0.2, 0.25, 0.05), (0.6, -0.5, -0.1, 0.02)]

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs
        self.channels = self.out_dim = 1
        self.self_condition = False
        self.random_or_learned_sinusoidal_cond = False

    def forward(self, x, time, _self_condition):
        times = time if isinstance(time, list) else [time, time]
        picture = x[:, :1]
        condition = x[:, 1:2] if x.shape[1] > 1 else torch.zeros_like(picture)
        result = []
        for (a, b, c, d), t in list(zip(self.WEIGHTS, times))[: self.outputs]:
            t = (t.float() / 1000).reshape(-1, 1, 1, 1)
            result.append(a * picture + b * condition + c * t + d)
        return result


def numbers(x):
    return [float(f"{v:.9g}") for v in torch.as_tensor(x).flatten().tolist()]


def pictures(seed):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(SHAPE, generator=generator) * 1.6 - 0.8
    degraded = (0.6 * clean + 0.2 * torch.randn(SHAPE, generator=generator)).clamp(-1, 1)
    noise = [torch.randn(SHAPE, generator=generator) for _ in range(12)]
    return clean, degraded, noise


def outputs(objective):
    return 1 if objective in ("pred_res", "pred_noise") else 2


def build(module, objective, condition, steps, total=1000, sum_scale=None, **more):
    return module.ResidualDiffusion(
        Linear(outputs(objective)),
        image_size=SHAPE[-1],
        timesteps=total,
        sampling_timesteps=steps,
        objective=objective,
        condition=condition,
        sum_scale=sum_scale,
        **more,
    )


def trajectory(model, function, condition, eta, noise):
    """The states of a sampling, from the start to the result, and the noise that was used."""
    _, degraded, _ = pictures(1)
    model.ddim_sampling_eta = eta
    given = iter(noise)
    used = []

    def draw(*_, **__):
        used.append(next(given))
        return used[-1]

    inputs = [degraded] if condition else [0]
    with mock.patch("torch.randn", draw), mock.patch("torch.randn_like", draw):
        states = getattr(model, function)(inputs, SHAPE, last=False)
    # The official code scales its results to [0, 1].
    states = [numbers(2 * s - 1) for s in states]
    return states if condition else [numbers(used[0])] + states, [numbers(n) for n in used]


def main(repository):
    restoration = official(repository, RESTORATION)
    resample = official(
        repository, RESTORATION, ('type = "use_pred_noise"', 'type = "use_x_start"')
    )
    paths = official(repository, PATHS)
    aosa = official(repository, AOSA)
    clean, degraded, noise = pictures(1)
    result = {
        "shape": SHAPE,
        "clean": numbers(clean),
        "degraded": numbers(degraded),
        "noise": numbers(noise[0]),
        "weights": Linear.WEIGHTS,
    }

    result["coefficients"] = [
        {"grid": grid, "schedule": schedule, "power": power, "values": numbers(
            module.gen_coefficients(7, schedule, sum_scale=0.5, **ratio))}
        for grid, module, schedule, power, ratio in [
            ("one_step", restoration, "increased", 1, {}),
            ("one_step", restoration, "decreased", 1, {}),
            ("one_step", restoration, "average", 0, {}),
            ("zero", paths, "increased", 1, {}),
            ("zero", paths, "increased", 3, {"ratio": 3}),
            ("zero", paths, "decreased", 2, {"ratio": 2}),
            ("zero", paths, "average", 0, {}),
            ("zero", paths, "normal", 0, {}),
        ]
    ]
    table = build(restoration, "pred_res_noise", True, 10)
    converted = build(paths, "pred_res_noise", False, 10, test_res_or_noise="res_noise")
    at = [0, 1, 10, 100, 499, 500, 900, 998, 999]
    result["tables"] = [
        {"name": name, "at": at, "alphas_cumsum": numbers(model.alphas_cumsum[at]),
         "betas_cumsum": numbers(model.betas_cumsum[at])}
        for name, model in [("restoration", table), ("ddim", converted)]
    ]
    result["times"] = {
        str(n): torch.linspace(-1, 999, steps=n + 1).int().tolist()
        for n in (1, 2, 3, 5, 7, 10, 20, 50, 100, 250, 1000)
    }

    result["trajectories"] = []
    objectives = ["pred_res", "pred_noise", "pred_res_noise", "pred_res_add_noise",
                  "pred_x0_noise", "pred_x0_add_noise"]
    cases = [(o, True, n, 0.0, removal) for o in objectives for n in (5, 10)
             for removal in ("use_pred_noise", "use_x_start")]
    cases += [(o, False, 5, 0.0, "use_pred_noise") for o in ("pred_noise", "pred_res_noise")]
    cases += [(o, True, 5, eta, removal) for o in ("pred_res", "pred_res_noise")
              for eta in (0.5, 1.0) for removal in ("use_pred_noise", "use_x_start")]
    for objective, condition, steps, eta, removal in cases:
        module = restoration if removal == "use_pred_noise" else resample
        model = build(module, objective, condition, steps)
        states, used = trajectory(model, "ddim_sample", condition, eta, noise)
        result["trajectories"].append({
            "objective": objective, "condition": condition, "steps": steps, "total": 1000,
            "eta": eta, "removal": removal, "noise_variance": 0.01 if condition else 1.0,
            "states": states, "noise": used,
        })
    # All steps: the ancestral sampler.
    model = build(restoration, "pred_res", True, None, total=10, sum_scale=0.25)
    states, used = trajectory(model, "p_sample_loop", True, 0.0, noise)
    result["trajectories"].append({
        "objective": "pred_res", "condition": True, "steps": 10, "total": 10, "eta": 1.0,
        "removal": "use_x_start", "noise_variance": 0.25, "states": states, "noise": used,
    })

    # Only the residual, the noise held: the first pass of the partially path-independent
    # generation, without its last step.
    model = build(paths, "pred_res_noise", False, 5, test_res_or_noise="res_noise")
    states, _ = trajectory(model, "ddim_sample", False, 0.0, noise)
    result["residual_pass"] = states[:5]

    # Which prediction is trusted, told the coefficients.
    result["trust"] = []
    for trust in ("res_noise", "res", "noise"):
        model = build(paths, "pred_res_noise", True, 5, test_res_or_noise=trust)
        for t in ([0, 400], [700, 998]):
            with torch.no_grad():
                found = model.model_predictions(degraded, clean, torch.tensor(t))
            result["trust"].append({
                "trust": trust, "t": t, "residual": numbers(found.pred_res),
                "noise": numbers(found.pred_noise), "clean": numbers(found.pred_x_start),
            })

    result["losses"] = []
    t = torch.tensor([123, 871])
    for objective in objectives:
        for kind in ("l1", "l2"):
            model = build(restoration, objective, True, 5, loss_type=kind)
            loss = model.p_losses([clean, degraded], t, noise=noise[0])
            result["losses"].append({"objective": objective, "loss": kind, "t": t.tolist(),
                                     "value": float(loss)})
    # The objective selection: the two parts weighted by the share, as its trainer does.
    result["selection"] = []
    for share in (0.5, 0.492, 0.508):
        model = build(aosa, "auto_res_noise", True, 5, loss_type="l1")
        model.model.outputs = 1
        with torch.no_grad():
            model.alpha_res.fill_(share)
        with mock.patch("builtins.print"):
            parts = model.p_losses([clean, degraded], t, noise=noise[0])
        loss = model.alpha_res * parts[0] + (1 - model.alpha_res) * parts[1]
        loss.sum().backward()
        result["selection"].append({"share": share, "t": t.tolist(), "value": float(loss.detach()),
                                    "gradient": float(model.alpha_res.grad)})
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
