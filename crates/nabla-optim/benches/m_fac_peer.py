"""PyTorch's milliseconds for what m_fac.rs times: the official algorithm's steps on the CPU.

The algorithm is that of `HInvFastUpMulti` in github.com/IST-DASLab/M-FAC (optim.py) on one device,
without its CUDA kernels. PyTorch factors without pivots on GPUs only, so the elimination is written
out; with 32 gradients it is a small part of the time.

    m_fac_peer.py WINDOW TIMED DIMENSION...
"""

import sys
import time

import torch

DAMPING = 1e-5


def eliminate(a):
    """The upper factor of `a = L U` with a unit lower `L`."""
    u = a.clone()
    for i in range(len(u) - 1):
        u[i + 1 :] -= torch.outer(u[i + 1 :, i] / u[i, i], u[i])
    return torch.triu(u)


class Window:
    def __init__(self, m, d):
        self.rows = torch.zeros(m, d)
        self.gram = torch.zeros(m, m)
        self.oldest = 0

    def push_solve(self, g):
        m = len(self.rows)
        self.rows[self.oldest] = g
        products = self.rows @ g
        self.gram[self.oldest, :] = products
        self.gram[:, self.oldest] = products
        self.oldest = (self.oldest + 1) % m

        upper = eliminate(self.gram / DAMPING + m * torch.eye(m))
        q = torch.diagonal(upper).clone()
        upper = upper - torch.diag(torch.full((m,), float(m)))
        # The rows of B = L^-1 / damping, one after the other.
        factors = -upper.t().contiguous() / q
        b = torch.eye(m) / DAMPING
        for i in range(1, m):
            b[i, :i] = factors[i, :i] @ b[:i, :i]

        c = products / DAMPING
        for i in range(1, m):
            c[i:] -= upper[i - 1, i:] * (c[i - 1] / q[i - 1])
        return g / DAMPING - ((c / q) @ b) @ self.rows


def check():
    """The product is that of the dense inverse, once the window has come round."""
    m, d = 4, 6
    window = Window(m, d)
    for _ in range(m + 3):
        g = torch.randn(d)
        found = window.push_solve(g)
    fisher = DAMPING * torch.eye(d, dtype=torch.float64)
    fisher += window.rows.double().t() @ window.rows.double() / m
    expected = torch.linalg.solve(fisher, g.double())
    assert torch.allclose(found.double(), expected, rtol=0, atol=0.05 * expected.abs().max())


def milliseconds(m, timed, d):
    window = Window(m, d)
    times = []
    g = torch.randn(d)  # the numbers do not matter to the time
    for _ in range(m + timed):
        start = time.perf_counter()
        window.push_solve(g)
        times.append(1e3 * (time.perf_counter() - start))
    return min(times[m:])


def main():
    torch.manual_seed(0)
    torch.set_num_threads(2)
    check()
    m, timed, *dimensions = map(int, sys.argv[1:])
    print(*(milliseconds(m, timed, d) for d in dimensions))


if __name__ == "__main__":
    main()
