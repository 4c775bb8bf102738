"""What PyTorch gives for a latent ODE's recurrent network, its likelihood and its divergence.

Values for crates/nabla-physics/src/latent_ode/tests.rs, in float64. Written from the formulas of Rubanova et al., 2019, with
torch.nn layers and torch.distributions.

    python3 latent_ode.py > latent_ode.json
"""

import json

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

torch.set_default_dtype(torch.float64)
torch.manual_seed(7)

FEATURES, LATENT, STATE, UNITS, BATCH = 3, 2, 4, 5, 3
TIMES = [0.0, 0.2, 0.5, 1.1]


def two(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, UNITS), nn.Tanh(), nn.Linear(UNITS, outputs))


known = 2 * STATE + 2 * FEATURES + 1
nets = {
    "update": two(known, STATE),
    "reset": two(known, STATE),
    "candidate": two(known, 2 * STATE),
    "posterior": two(2 * STATE, 2 * LATENT),
}
values = torch.randn(len(TIMES), BATCH, FEATURES)
mask = (torch.rand(len(TIMES), BATCH, FEATURES) < 0.5).double()
mask[2, 1] = 0.0  # At this time nothing of this series is observed.
mask[:, 2] = 0.0  # Nothing of this one at all.
values = values * mask


def encode(differences):
    mean = torch.zeros(BATCH, STATE)
    deviation = torch.zeros(BATCH, STATE)
    for i in reversed(range(len(TIMES))):
        later = TIMES[i + 1] - TIMES[i] if i + 1 < len(TIMES) else 0.0
        time = torch.full((BATCH, 1), later if differences else TIMES[i])
        x = torch.cat([values[i], mask[i], time], 1)
        state = torch.cat([mean, deviation, x], 1)
        update = torch.sigmoid(nets["update"](state))
        reset = torch.sigmoid(nets["reset"](state))
        reset_state = torch.cat([mean * reset, deviation * reset, x], 1)
        new_mean, new_deviation = nets["candidate"](reset_state).chunk(2, 1)
        new_mean = (1 - update) * new_mean + update * mean
        new_deviation = (1 - update) * new_deviation.abs() + update * deviation
        seen = mask[i].sum(1, keepdim=True) > 0
        mean = torch.where(seen, new_mean, mean)
        deviation = torch.where(seen, new_deviation, deviation).abs()
    mean, deviation = nets["posterior"](torch.cat([mean, deviation], 1)).chunk(2, 1)
    return mean, deviation.abs() + 1e-6


out = {
    "torch": torch.__version__,
    "times": TIMES,
    "values": values.flatten().tolist(),
    "mask": mask.flatten().tolist(),
}
for name, net in nets.items():
    for i, layer in enumerate([net[0], net[2]]):
        out[f"{name}.{i}.weight"] = layer.weight.T.flatten().tolist()
        out[f"{name}.{i}.bias"] = layer.bias.tolist()
for name, differences in [("time", False), ("difference", True)]:
    mean, deviation = encode(differences)
    kl = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(1)
    gradient = torch.autograd.grad(kl.sum(), nets["update"][0].weight)[0]
    out[name] = {
        "mean": mean.flatten().tolist(),
        "deviation": deviation.flatten().tolist(),
        "divergence": kl.tolist(),
        "gradient": gradient.T.flatten().tolist(),
    }
prediction = values + 0.02 * torch.randn_like(values)
density = Normal(prediction, 0.01).log_prob(values)
out["prediction"] = prediction.flatten().tolist()
out["log_likelihood"] = [
    (density[:, b][mask[:, b] > 0].mean() if mask[:, b].sum() > 0 else torch.tensor(0.0)).item()
    for b in range(BATCH)
]
print(json.dumps(out))
