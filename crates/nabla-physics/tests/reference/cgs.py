"""Reference values for nabla_physics: fixed points on graphs and their gradients, a layer of message passing, Delaunay
tetrahedra, the projection of IGNN.

Run with NumPy 2, SciPy 1 and PyTorch 2 (the versions used are in the file): python cgs.py > cgs.json
Gradients are PyTorch's, through 400 unrolled steps in doubles.
"""

import json

import numpy
import scipy
import scipy.optimize
import torch
from scipy.spatial import Delaunay

torch.set_default_dtype(torch.float64)


def contracting(src, dst, n, logits, direction, normalizer, bound):
    row, col = (dst, src) if direction == "in" else (src, dst)
    if normalizer == "softmax":
        weights = torch.zeros_like(logits)
        for v in range(n):
            own = [e for e in range(len(row)) if row[e] == v]
            if own:
                weights = weights.index_put((torch.tensor(own),), torch.softmax(logits[own], 0))
    else:
        entries = logits.clamp(0, 1) if bound == "clip" else torch.sigmoid(logits)
        degree = torch.tensor([max(1, row.count(v)) for v in row], dtype=torch.float64)
        weights = entries / degree[:, None]
    return row, col, weights


def fixed_point(case, n, logits, b):
    row, col, weights = contracting(case["src"], case["dst"], n, logits, case["direction"], case["normalizer"], case["bound"])
    phi = {"identity": lambda x: x, "tanh": torch.tanh, "relu": torch.relu}[case["phi"]]
    z = torch.zeros_like(b)
    for _ in range(400):
        z = phi(case["gamma"] * torch.zeros_like(b).index_add(0, torch.tensor(row), weights * z[col]) + b)
    return z


def solved(case, n, logits, b, w):
    logits, b, w = (torch.tensor(x) for x in (logits, b, w))
    logits.requires_grad_(True)
    b.requires_grad_(True)
    z = fixed_point(case, n, logits, b)
    (w * z**2).sum().backward()
    return case | {
        "nodes": n,
        "logits": logits.tolist(),
        "offsets": b.tolist(),
        "loss_weights": w.tolist(),
        "z": z.tolist(),
        "by_logits": logits.grad.tolist(),
        "by_offsets": b.grad.tolist(),
    }


def maps():
    rng = numpy.random.default_rng(1)
    small = {"src": [0, 1, 1, 2, 2, 3, 0], "dst": [1, 0, 2, 1, 3, 2, 2]}
    logits = [[0.8], [1.7], [-0.3], [0.4], [1.0], [0.6], [0.9]]
    cases = []
    for direction in ["in", "out"]:
        case = small | {"gamma": 0.5, "direction": direction, "normalizer": "degree", "bound": "clip", "phi": "identity"}
        cases.append(solved(case, 4, logits, [[1.0], [-2.0], [0.5], [3.0]], [[1.0], [0.0], [0.0], [0.0]]))
    # Node 8 has no edges, edges come twice, and one ends where it begins.
    for direction, normalizer, bound, phi in [
        ("in", "degree", "clip", "tanh"),
        ("out", "degree", "sigmoid", "identity"),
        ("in", "softmax", "clip", "relu"),
        ("out", "softmax", "clip", "tanh"),
        ("in", "softmax", "clip", "identity"),
    ]:
        src = rng.integers(0, 8, 20).tolist() + [3, 3, 5]
        dst = rng.integers(0, 8, 20).tolist() + [4, 4, 5]
        case = {"src": src, "dst": dst, "gamma": 0.9, "direction": direction, "normalizer": normalizer, "bound": bound, "phi": phi}
        cases.append(solved(case, 9, rng.normal(size=(23, 3)), rng.normal(size=(9, 3)), rng.normal(size=(9, 3))))
    return cases


def points():
    cases = []
    for seed, count in [(0, 5), (1, 13), (2, 86)]:
        drawn = numpy.random.default_rng(seed).random((count, 3))
        found = Delaunay(drawn)
        edges = {tuple(sorted((int(a), int(b)))) for s in found.simplices for a in s for b in s if a != b}
        centres = []
        for simplex in found.simplices:
            a, rest = drawn[simplex[0]], drawn[simplex[1:]]
            m = rest - a
            centres.append(a + numpy.linalg.solve(2 * m, (m**2).sum(1)))
        cases.append(
            {
                "points": drawn.tolist(),
                "delaunay_edges": sorted(edges),
                "tetrahedra": len(found.simplices),
                "circumcentre_sum": numpy.clip(centres, -9, 9).sum(0).tolist(),
            }
        )
    return cases


def layer():
    """The layer with the weights x_ij = sin(place) / 2 in every matrix and bias, row after row of [input, output]."""
    rng = numpy.random.default_rng(5)
    src, dst, n = [0, 1, 2, 2, 0], [1, 2, 0, 1, 1], 4
    nodes, edges = torch.tensor(rng.normal(size=(n, 2))), torch.tensor(rng.normal(size=(5, 1)))

    def mlp(x, widths):
        for i, o in zip(widths, widths[1:]):
            w = (torch.sin(torch.arange(i * o, dtype=torch.float64)) / 2).reshape(i, o)
            bias = torch.sin(torch.arange(o, dtype=torch.float64)) / 2
            x = torch.nn.functional.leaky_relu(x @ w + bias, 0.01)
        return x

    results = {}
    for name in ["sum", "mean", "max"]:
        m = torch.cat([edges, nodes[src], nodes[dst]], 1)
        h_e = mlp(m, [5, 4, 3])
        logits = mlp(m, [5, 4, 1])[:, 0]
        gathered = torch.zeros(n, 3)
        for v in range(n):
            own = [e for e in range(5) if dst[e] == v]
            if own:
                weighted = torch.softmax(logits[own], 0)[:, None] * h_e[own]
                gathered[v] = {"sum": weighted.sum(0), "mean": weighted.mean(0), "max": weighted.max(0).values}[name]
        results[name] = mlp(torch.cat([gathered, nodes], 1), [5, 4, 2]).tolist()
    return {"src": src, "dst": dst, "nodes": nodes.tolist(), "edges": edges.tolist(), "h_e": h_e.tolist(), "h_v": results}


def ignn():
    """Fixed point and gradient by unrolled steps; the projection by SciPy's bounded search of its threshold."""
    rng = numpy.random.default_rng(7)
    src, dst, n, heads = rng.integers(0, 6, 14).tolist(), rng.integers(0, 6, 14).tolist(), 6, 3
    raw = rng.normal(size=(heads, heads))
    weight = []
    for row in raw:
        def excess(t):
            return numpy.maximum(abs(row) - t, 0).sum() - 0.9
        t = scipy.optimize.brentq(excess, 0, abs(row).max(), xtol=1e-15) if excess(0) > 0 else 0.0
        weight.append((numpy.sign(row) * numpy.maximum(abs(row) - t, 0)).tolist())
    w = torch.tensor(weight, requires_grad=True)
    b = torch.tensor(rng.normal(size=(n, heads)), requires_grad=True)
    degree = torch.tensor([dst.count(v) for v in dst], dtype=torch.float64)
    z = torch.zeros(n, heads)
    for _ in range(400):
        means = torch.zeros(n, heads).index_add(0, torch.tensor(dst), z[src] / degree[:, None])
        z = torch.relu(means @ w.T + b)
    scale = torch.tensor(rng.normal(size=(n, heads)))
    (scale * z).sum().backward()
    return {
        "src": src, "dst": dst, "raw": raw.tolist(), "weight": weight, "offsets": b.tolist(), "z": z.tolist(),
        "loss_weights": scale.tolist(), "by_weight": w.grad.tolist(), "by_offsets": b.grad.tolist(),
    }


print(
    json.dumps(
        {
            "versions": {"numpy": numpy.__version__, "scipy": scipy.__version__, "torch": torch.__version__},
            "maps": maps(),
            "delaunay": points(),
            "layer": layer(),
            "ignn": ignn(),
        }
    )
)
