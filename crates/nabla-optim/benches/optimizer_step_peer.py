"""PyTorch's milliseconds for a step of AdamW on the parameters of optimizer_step.rs: foreach, fused."""

import time

import torch


def milliseconds(**kind):
    shapes = [(2048, 2048), (2048,)] * 3 + [(512, 512, 3, 3), (512,)] * 5
    weights = [torch.nn.Parameter(0.02 * torch.randn(s)) for s in shapes]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=1e-2, **kind)
    times = []
    for _ in range(8):
        for w in weights:
            w.grad = 1e-2 * torch.randn_like(w)
        start = time.perf_counter()
        optimizer.step()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times[1:])[3]


def main():
    torch.manual_seed(0)
    torch.set_num_threads(2)
    print(milliseconds(foreach=True), milliseconds(fused=True))


if __name__ == "__main__":
    main()
