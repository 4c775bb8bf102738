"""Values and gradients of PyTorch's layers in double precision, for `src/nn/pytorch_values.rs`.

    pip install torch==2.15.0 && python layers.py > layers.json

Each case has the input, the parameters in Burn's layout, the weights of the loss, the output, and the gradients by the
input and by each parameter of `Σ weights · output`. Inputs have a NaN or an infinity where the name says so.
"""

import json
import math

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(2)
torch.set_default_dtype(torch.float64)
cases = []


def numbers(tensor):
    # JSON has no NaN and no infinity.
    return [v if math.isfinite(v) else str(v) for v in tensor.detach().flatten().tolist()]


def case(name, x, run, parameters=(), turned=()):
    x = x.clone().requires_grad_(x.is_floating_point())
    y = run(x)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    found = {
        "name": name,
        "shape": list(x.shape),
        "input": numbers(x.double()),
        "weights": numbers(weights),
        "output": numbers(y),
        "by_input": numbers(x.grad) if x.grad is not None else [],
        "parameters": [],
    }
    for place, p in enumerate(parameters):
        # Burn has a linear layer's weight as [inputs, outputs].
        lie = (lambda t: t.T) if place in turned else (lambda t: t)
        found["parameters"].append(
            {"shape": list(lie(p).shape), "value": numbers(lie(p)), "gradient": numbers(lie(p.grad))}
        )
    cases.append(found)


def drawn(layer):
    for p in layer.parameters():
        nn.init.normal_(p, 0.2, 0.7)
    return layer


def with_layer(name, layer, x, turned=()):
    layer = drawn(layer)
    case(name, x, layer, list(layer.parameters()), turned)


with_layer("linear", nn.Linear(5, 3), torch.randn(2, 4, 5), turned=[0])
with_layer("conv1d", nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), torch.randn(2, 4, 9))
with_layer("conv2d", nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), groups=2), torch.randn(2, 4, 6, 5))
with_layer("conv3d", nn.Conv3d(2, 3, (2, 3, 2), stride=(1, 2, 1), padding=(1, 1, 0)), torch.randn(2, 2, 3, 4, 5))
with_layer("conv_transpose1d", nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1), torch.randn(2, 3, 5))
with_layer(
    "conv_transpose2d",
    nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 0), groups=2, dilation=(1, 2)),
    torch.randn(2, 4, 3, 4),
)
with_layer("conv_transpose3d", nn.ConvTranspose3d(2, 3, 2, stride=2), torch.randn(1, 2, 2, 3, 2))
with_layer("batch_norm", nn.BatchNorm2d(3), torch.randn(4, 3, 2, 5))
with_layer("group_norm", nn.GroupNorm(2, 6), torch.randn(2, 6, 3, 2))
with_layer("layer_norm", nn.LayerNorm(6), torch.randn(2, 3, 6))
with_layer("rms_norm", nn.RMSNorm(6, eps=1e-5), torch.randn(2, 3, 6))
case("instance_norm", torch.randn(2, 3, 4, 5), lambda x: F.instance_norm(x, eps=1e-5))
with_layer("embedding", nn.Embedding(5, 3), torch.tensor([[0, 4, 4], [2, 0, 1]]))
case("max_pool1d", torch.randn(2, 2, 9), lambda x: F.max_pool1d(x, 3, 2, 1))
case("max_pool2d", torch.randn(2, 2, 7, 6), lambda x: F.max_pool2d(x, (3, 2), (2, 2), (1, 0)))
case("avg_pool1d", torch.randn(2, 2, 9), lambda x: F.avg_pool1d(x, 3, 2, 1))
case("avg_pool2d", torch.randn(2, 2, 7, 6), lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))
case("adaptive_avg_pool2d", torch.randn(2, 2, 6, 4), lambda x: F.adaptive_avg_pool2d(x, (3, 2)))

x = torch.cat([torch.randn(20) * 3, torch.tensor([0.0, 40.0, -40.0, math.inf, -math.inf, math.nan])])
for name, f in {
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": lambda x: F.elu(x, 1.3),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": lambda x: F.softplus(x, threshold=1e9),
    "mish": F.mish,
}.items():
    finite = x if name in ("relu", "leaky_relu", "sigmoid", "tanh") else x[:23]
    case(name, finite, f)

q = torch.randn(3, 2, 5, 8)
case(
    "attention",
    q,
    lambda q: F.scaled_dot_product_attention(
        *(t.view(2, 5, 2, 4).transpose(1, 2) for t in q.unbind(0))
    ).transpose(1, 2).reshape(2, 5, 8),
)
case(
    "attention_causal",
    q,
    lambda q: F.scaled_dot_product_attention(
        *(t.view(2, 5, 2, 4).transpose(1, 2) for t in q.unbind(0)), is_causal=True
    ).transpose(1, 2).reshape(2, 5, 8),
)
case("cross_entropy", torch.randn(4, 5), lambda x: F.cross_entropy(x, torch.tensor([0, 3, 4, 3])).reshape(1))
target = torch.randn(3, 4)
case("mean_squared_error", torch.cat([torch.randn(3, 4), target]), lambda x: F.mse_loss(x[:3], x[3:]).reshape(1))

print(json.dumps({"torch": torch.__version__.split("+")[0], "cases": cases}, separators=(",", ":")))
