"""Steps of PyTorch's AdamW on the parameters of optimizer_step.rs: for every line that it reads, the milliseconds
of one with `foreach` and of one with the fused kernel."""

import sys
import time

import torch


class Stepped:
    def __init__(self, **kind):
        shapes = [(2048, 2048), (2048,)] * 3 + [(512, 512, 3, 3), (512,)] * 5
        self.weights = [torch.nn.Parameter(0.02 * torch.randn(s)) for s in shapes]
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-3, weight_decay=1e-2, **kind)

    def milliseconds(self):
        for w in self.weights:
            w.grad = 1e-2 * torch.randn_like(w)
        start = time.perf_counter()
        self.optimizer.step()
        return 1e3 * (time.perf_counter() - start)


def main():
    torch.manual_seed(0)
    torch.set_num_threads(2)
    kinds = [Stepped(foreach=True), Stepped(fused=True)]
    for _ in sys.stdin:
        print(*[kind.milliseconds() for kind in kinds], flush=True)


if __name__ == "__main__":
    main()
