"""Steps of the official implementations of the objectives, on small batches.

Needs checkouts of the repositories, of which nothing is kept here:

    facebookresearch/DomainBed       b93c22a1cfc3b2428398272c1a116c8de1f4139e  (MIT)
    Wang-pengfei/SAGM                69d4d9d2a3900478e42778c27e6c549bc38dc81c  (MIT)
    aailabkaist/UDIM                 808f1b228b4a3806be6e50dfac8b9637924ce575  (MIT)
    huawei-noah/Federated-Learning   a50b474b5ed91084492f94e8dc025ef5070dbd8d  (Apache-2.0)

    python objectives.py DOMAINBED SAGM UDIM FEDERATED > objectives.json

Their classes are run as they are, with a small network, z = tanh(x A + a), logits = z W + b, and optimizers that record
the gradient, where a gradient is compared. BackPACK's gradients of single examples, which its hooks do not take with this
version of PyTorch, are replaced by one call of autograd for each example. torch 2.15.0, numpy 2.4.6.
"""

import importlib.util
import json
import pathlib
import sys
import types

import numpy as np
import torch
from torch import nn

DOMAINBED, SAGM, UDIM, FEDERATED = (pathlib.Path(p) for p in sys.argv[1:5])
torch.set_default_dtype(torch.float64)

INPUTS, FEATURES, CLASSES, DOMAINS = 5, 4, 3, 3
SIZES = [6, 6, 6]


def module(name, **members):
    found = types.ModuleType(name)
    for key, value in members.items():
        setattr(found, key, value)
    sys.modules[name] = found
    return found


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


class Featurizer(nn.Module):
    def __init__(self, input_shape, hparams):
        super().__init__()
        self.layer = nn.Linear(INPUTS, FEATURES)
        self.n_outputs = FEATURES

    def forward(self, x):
        return torch.tanh(self.layer(x))


class TwoLayers(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.Linear(FEATURES, CLASSES))


def classifier(in_features, out_features, is_nonlinear=False):
    return TwoLayers() if is_nonlinear else nn.Linear(in_features, out_features)


class WholeFish(nn.Module):
    def __init__(self, input_shape, num_classes, hparams, weights=None):
        super().__init__()
        self.net = nn.Sequential(Featurizer(input_shape, hparams), classifier(FEATURES, CLASSES))
        if weights is not None:
            self.load_state_dict({k: v.clone() for k, v in weights.items()})

    def reset_weights(self, weights):
        self.load_state_dict({k: v.clone() for k, v in weights.items()})

    def forward(self, x):
        return self.net(x)


# BackPACK, of which nothing is used.
module("backpack", backpack=False, extend=lambda module: module)
module("backpack.extensions", BatchGrad=None, BatchL2Grad=None, Variance=None)


def single_gradients(logits, y, layer):
    """The gradient of each example, `[examples, numbers]`, for every parameter of a layer."""
    names = [name for name, _ in layer.named_parameters()]
    rows = {name: [] for name in names}
    losses = nn.functional.cross_entropy(logits, y, reduction="none")
    for loss in losses:
        found = torch.autograd.grad(loss, list(layer.parameters()), create_graph=True, retain_graph=True)
        for name, gradient in zip(names, found, strict=True):
            rows[name].append(gradient.reshape(-1))
    return {name: torch.stack(row) for name, row in rows.items()}


networks = module(
    "domainbed.networks", Featurizer=Featurizer, Classifier=classifier, WholeFish=WholeFish
)
module("domainbed", networks=networks).__path__ = []
module("domainbed.lib").__path__ = []


def misc_of(root):
    """`lib/misc.py`, whose imports of other files are not needed."""
    return load("domainbed.lib.misc", root / "domainbed" / "lib" / "misc.py")


# --- The network and the batches, the same for all.

generator = np.random.default_rng(20)
WEIGHTS = {
    "A": generator.normal(size=(INPUTS, FEATURES)) * 0.6,
    "a": generator.normal(size=FEATURES) * 0.3,
    "W": generator.normal(size=(FEATURES, CLASSES)) * 0.7,
    "b": generator.normal(size=CLASSES) * 0.3,
}
MIDDLE = {"M": generator.normal(size=(FEATURES, FEATURES)) * 0.7, "m": generator.normal(size=FEATURES) * 0.3}


def batches(seed):
    draw = np.random.default_rng(seed)
    found = []
    for domain, size in enumerate(SIZES):
        x = draw.normal(size=(size, INPUTS)) + 0.4 * domain
        y = draw.integers(0, CLASSES, size=size)
        found.append((torch.tensor(np.float32(x).astype(np.float64)), torch.tensor(y)))
    return found


STEPS = [batches(1), batches(2), batches(3)]


def parameters(model):
    """In the order A, a, (M, m,) W, b."""
    return list(model.parameters())


def set_weights(model, nonlinear=False):
    values = [WEIGHTS["A"].T, WEIGHTS["a"]]
    if nonlinear:
        values += [MIDDLE["M"].T, MIDDLE["m"]]
    values += [WEIGHTS["W"].T, WEIGHTS["b"]]
    with torch.no_grad():
        for p, value in zip(parameters(model), values, strict=True):
            p.copy_(torch.tensor(value))


def flat(tensors):
    """Matrices as Burn has them, [inputs, outputs]."""
    return torch.cat([t.detach().T.reshape(-1) if t.dim() == 2 else t.detach() for t in tensors]).tolist()


class Recording(torch.optim.SGD):
    """Records the gradients instead of stepping."""

    def __init__(self, parameters, **_):
        super().__init__(parameters, lr=0.0)
        self.seen = []

    def step(self, closure=None):
        self.seen.append(flat([p.grad for g in self.param_groups for p in g["params"]]))


misc_of(DOMAINBED)
domainbed = load("domainbed.algorithms", DOMAINBED / "domainbed" / "algorithms.py")
BASE = {"lr": 0.01, "weight_decay": 0.0, "nonlinear_classifier": False}


def gradients(make, hparams, steps=1, nonlinear=False):
    """The loss and the gradient of each step, all at the first weights."""
    torch.optim.Adam, adam = Recording, torch.optim.Adam
    try:
        algorithm = make((INPUTS,), CLASSES, DOMAINS, {**BASE, **hparams})
        set_weights(algorithm.network, nonlinear)
        found = []
        for step in range(steps):
            told = algorithm.update(STEPS[step])
            found.append({"told": told, "gradient": algorithm.optimizer.seen[-1]})
        return found
    finally:
        torch.optim.Adam = adam


def trained(make, hparams, steps):
    """The weights after each step with Adam."""
    algorithm = make((INPUTS,), CLASSES, DOMAINS, {**BASE, **hparams})
    set_weights(algorithm.network)
    found = []
    for step in range(steps):
        algorithm.update(STEPS[step])
        found.append(flat(parameters(algorithm.network)))
    return found


def mixup():
    """With the draws that were made."""
    drawn = []
    beta = np.random.beta
    np.random.seed(4)
    torch.manual_seed(4)
    order = []
    randperm = torch.randperm

    def recorded(*args):
        drawn.append(beta(*args))
        return drawn[-1]

    def permuted(n):
        found = randperm(n)
        order.extend(found.tolist())
        return found

    np.random.beta, torch.randperm = recorded, permuted
    try:
        found = gradients(domainbed.Mixup, {"mixup_alpha": 0.7})
    finally:
        np.random.beta, torch.randperm = beta, randperm
    return {"steps": found, "order": order, "shares": drawn}


class Fishr(domainbed.Fishr):
    def _get_grads(self, logits, y):
        return single_gradients(logits, y, self.classifier)


out = {
    "weights": {k: v.reshape(-1).tolist() for k, v in WEIGHTS.items()},
    "middle": {k: v.reshape(-1).tolist() for k, v in MIDDLE.items()},
    "steps": [
        [{"x": x.reshape(-1).tolist(), "y": y.tolist()} for x, y in step] for step in STEPS
    ],
    "erm": gradients(domainbed.ERM, {}),
    "irm": gradients(domainbed.IRM, {"irm_lambda": 50.0, "irm_penalty_anneal_iters": 1}, 2),
    "irm_trained": trained(domainbed.IRM, {"irm_lambda": 50.0, "irm_penalty_anneal_iters": 2}, 3),
    "vrex": gradients(domainbed.VREx, {"vrex_lambda": 20.0, "vrex_penalty_anneal_iters": 1}, 2),
    "group_dro": gradients(domainbed.GroupDRO, {"groupdro_eta": 0.5}, 3),
    "mixup": mixup(),
    "coral": gradients(domainbed.CORAL, {"mmd_gamma": 2.0}),
    "mmd": gradients(domainbed.MMD, {"mmd_gamma": 2.0}),
    "fish_trained": trained(domainbed.Fish, {"meta_lr": 0.3}, 3),
    "iga": gradients(domainbed.IGA, {"penalty": 3.0}),
    "fishr": gradients(Fishr, {"lambda": 40.0, "penalty_anneal_iters": 1, "ema": 0.9}, 3),
}

# --- Hessian alignment.

misc_of(FEDERATED / "HessianAlignment")
alignment = load(
    "hessian.algorithms", FEDERATED / "HessianAlignment" / "domainbed" / "algorithms.py"
)
WEIGHTS_OF = {"penalty_alpha": 3.0, "penalty_beta": 2.0}
out["hgp"] = gradients(alignment.HGP, WEIGHTS_OF)
out["hgp_nonlinear"] = gradients(alignment.HGP, {**WEIGHTS_OF, "nonlinear_classifier": True}, nonlinear=True)


class Exact(alignment.Hutchinson):
    """With the exact diagonal, by all unit vectors instead of random signs."""

    def calc_hessian_diag(self, loss_grad, repeat=50):
        grads = torch.cat([g.reshape(-1) for g in loss_grad])
        rows = []
        for i in range(len(grads)):
            row = torch.autograd.grad(
                grads[i], list(self.classifier.parameters()), create_graph=True, retain_graph=True
            )
            rows.append(torch.cat([r.reshape(-1) for r in row])[i])
        return torch.stack(rows)


out["hutchinson"] = gradients(Exact, WEIGHTS_OF)

# Probes that are kept, in the order of the official draws: the mean Hessian first, then the domains. There they are one
# of 300; here one of two.
SIGNS = np.random.default_rng(9)
kept = [SIGNS.integers(0, 2, size=(2, CLASSES * (FEATURES + 1))) * 2.0 - 1.0 for _ in range(1 + DOMAINS)]


class Estimated(alignment.Hutchinson):
    def update(self, minibatches, unlabeled=False):
        self.next = 0
        return super().update(minibatches, unlabeled)

    def calc_hessian_diag(self, loss_grad, repeat=50):
        probes = kept[self.next]
        self.next += 1
        matrix, bias = loss_grad
        total = 0.0
        for u in probes:
            u = torch.tensor(u)
            um, ub = u[: CLASSES * FEATURES].reshape(CLASSES, FEATURES), u[CLASSES * FEATURES :]
            product = torch.autograd.grad(
                (matrix * um).sum() + (bias * ub).sum(),
                list(self.classifier.parameters()),
                create_graph=True,
                retain_graph=True,
            )
            total = total + torch.cat([(product[0] * um).reshape(-1), product[1] * ub])
        return total / len(probes)


out["estimated"] = {
    "steps": gradients(Estimated, WEIGHTS_OF),
    "signs": [probes.reshape(-1).tolist() for probes in kept],
}

# --- SAM and SAGM: the official optimizer, with SAM as its gradient without the ascent's correction.

module("sagm_package").__path__ = [str(SAGM / "domainbed" / "sagm")]
load("sagm_package.util", SAGM / "domainbed" / "sagm" / "util.py")
sagm = load("sagm_package.sagm", SAGM / "domainbed" / "sagm" / "sagm.py")


class Constant:
    def __init__(self, value):
        self.value = value

    def step(self):
        return self.value


def pooled():
    x = torch.cat([x for x, _ in STEPS[0]])
    y = torch.cat([y for _, y in STEPS[0]])
    return x, y


def sharpness_aware(alpha, decompose, adaptive=False):
    network = nn.Sequential(Featurizer(None, None), classifier(FEATURES, CLASSES))
    set_weights(network)
    base = Recording(network.parameters())
    optimizer = sagm.SAGM(network.parameters(), base, network, alpha, Constant(0.2), adaptive=adaptive)
    if not decompose:
        optimizer.gradient_decompose = lambda alpha: None
    optimizer.set_closure(nn.functional.cross_entropy, *pooled())
    _, loss = optimizer.step()
    return {"told": {"loss": float(loss)}, "gradient": base.seen[-1]}


out["sam"] = sharpness_aware(0.0, False)
out["asam"] = sharpness_aware(0.0, False, adaptive=True)
out["sagm"] = sharpness_aware(0.3, True)

# --- UDIM.

torchvision_utils = module("torchvision.utils", save_image=None)
module("torchvision", utils=torchvision_utils)
module("functorch.experimental", replace_all_batch_norm_modules_=lambda model: None)
module("functorch", experimental=sys.modules["functorch.experimental"])
iada = UDIM / "UDIM_main" / "domainbed" / "iada"
module("iada_package").__path__ = [str(iada)]
load("iada_package.util", iada / "util.py")
module(
    "iada_package.functorch_module",
    compute_distance_grads_var=None,
    per_sample_gradient=None,
    get_grads_var=None,
)
udim = load("iada_package.iada_final", iada / "iada_final.py")


class Inconsistency(udim.IADA_FINAL):
    def _get_grads(self, logits, y):
        rows = single_gradients(logits, y, self.classifier)
        return rows, {name: row.square().sum(1, keepdim=True) for name, row in rows.items()}


def udim_step(by_domain):
    network = nn.Sequential(Featurizer(None, None), nn.Linear(FEATURES, CLASSES))
    set_weights(network)
    arguments = types.SimpleNamespace(
        advstyle=False,
        syn_lr=1.5,
        worst_weight=0.8,
        domain_wise_inconsistency=by_domain,
        num_domains=DOMAINS,
    )
    base = Recording(network.parameters())
    optimizer = Inconsistency(
        network.parameters(), base, network, Constant(0.2), {}, arguments, network[1]
    )
    x, y = pooled()
    moved = x.clone().requires_grad_(True)
    optimizer.set_closure(nn.functional.cross_entropy, x, y, syn_inputs=moved)
    _, _, inconsistency = optimizer.step()
    return {
        "gradient": base.seen[-1],
        "inconsistency": float(inconsistency),
        "moved": optimizer.syn_inputs.detach().reshape(-1).tolist(),
    }


out["udim"] = udim_step(False)
out["udim_by_domain"] = udim_step(True)



def rounded(value):
    if isinstance(value, float):
        return round(value, 9)
    if isinstance(value, list):
        return [rounded(x) for x in value]
    if isinstance(value, dict):
        return {k: rounded(x) for k, x in value.items()}
    return value


json.dump(rounded(out), sys.stdout, separators=(",", ":"))
print()
