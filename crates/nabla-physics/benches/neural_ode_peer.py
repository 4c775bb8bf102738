"""The median time of training steps of ERNODE's neural ODE for MNIST:

    python3 neural_ode_peer.py torchdiffeq|diffrax THREADS WARM STEPS TOLERANCE NUMBERS

Prints milliseconds of a step, evaluations of the last one, and its loss. torchdiffeq has Dormand and Prince's method but not
Tsitouras'; it goes through the steps (odeint), which is faster than odeint_adjoint here. diffrax has both, jitted.
"""

import os
import sys
import time

import numpy as np

peer, threads, warm, steps, tolerance, path = sys.argv[1:]
threads, warm, steps, tolerance = int(threads), int(warm), int(steps), float(tolerance)
STATE, HIDDEN, CLASSES, BATCH = 784, 100, 10, 512

with open(path, "rb") as file:
    raw = file.read()
at = 0


def take(*shape, dtype=np.float32):
    global at
    count = int(np.prod(shape))
    found = np.frombuffer(raw, dtype, count, at).reshape(shape).copy()
    at += 4 * count
    return found


w1, w2, w3 = take(STATE + 1, HIDDEN), take(HIDDEN + 1, STATE), take(STATE, CLASSES)
x, y = take(BATCH, STATE), take(BATCH, dtype=np.int32)


def report(name, seconds, evaluations, loss):
    print(f"{name}: {1e3 * seconds:.1f} ms a step, {evaluations} evaluations, loss {loss:.5f}", flush=True)


def with_torch():
    # Where other programs run, threads that wait by spinning take thirty times as long.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    import torch
    from torchdiffeq import odeint

    torch.set_num_threads(threads)

    class Flow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w1, self.w2 = torch.nn.Parameter(torch.tensor(w1)), torch.nn.Parameter(torch.tensor(w2))
            self.b1, self.b2 = torch.nn.Parameter(torch.zeros(HIDDEN)), torch.nn.Parameter(torch.zeros(STATE))
            self.calls = 0

        def forward(self, t, u):
            self.calls += 1
            # The time as a part of the bias, which is faster than to append it.
            h = torch.tanh(torch.addmm(self.b1 + t * self.w1[-1], u, self.w1[:-1]))
            return torch.tanh(torch.addmm(self.b2 + t * self.w2[-1], h, self.w2[:-1]))

    flow = Flow()
    head, bias = torch.nn.Parameter(torch.tensor(w3)), torch.nn.Parameter(torch.zeros(CLASSES))
    parameters = [*flow.parameters(), head, bias]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    data, labels, times = torch.tensor(x), torch.tensor(y).long(), torch.tensor([0.0, 1.0])
    all = []
    for step in range(warm + steps):
        begun = time.perf_counter()
        flow.calls = 0
        end = odeint(flow, data, times, rtol=tolerance, atol=tolerance, method="dopri5")[-1]
        loss = torch.nn.functional.cross_entropy(end @ head + bias, labels)
        calls = flow.calls
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        all.append(time.perf_counter() - begun)
    report("torchdiffeq dopri5", float(np.median(all[warm:])), calls, loss.item())


def with_diffrax():
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    import diffrax
    import jax
    import jax.numpy as jnp

    def flow(t, u, p):
        w1, b1, w2, b2 = p[:4]
        h = jnp.tanh(u @ w1[:-1] + (b1 + t * w1[-1]))
        return jnp.tanh(h @ w2[:-1] + (b2 + t * w2[-1]))

    # Its default adjoint; DirectAdjoint takes two to four times as long here.
    adjoints = [("", diffrax.RecursiveCheckpointAdjoint())]
    for name, solver, stages in [("tsit5", diffrax.Tsit5(), 6), ("dopri5", diffrax.Dopri5(), 6)]:
        for suffix, adjoint in adjoints:

            def loss(p, adjoint=adjoint, solver=solver):
                found = diffrax.diffeqsolve(diffrax.ODETerm(flow), solver, 0.0, 1.0, 0.01, jnp.array(x), p, adjoint=adjoint,
                                            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
                                            max_steps=256)
                logits = found.ys[-1] @ p[4] + p[5]
                own = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.array(y)[:, None], 1)
                return -own.mean(), found.stats["num_steps"]

            @jax.jit
            def step(p, v, loss=loss):
                (value, count), g = jax.value_and_grad(loss, has_aux=True)(p)
                v = jax.tree.map(lambda v, g: 0.9 * v + g, v, g)
                return jax.tree.map(lambda p, v: p - 0.01 * v, p, v), v, value, count

            p = [jnp.array(q) for q in (w1, np.zeros(HIDDEN, np.float32), w2, np.zeros(STATE, np.float32), w3,
                                        np.zeros(CLASSES, np.float32))]
            v = [jnp.zeros_like(q) for q in p]
            all = []
            for number in range(warm + steps):
                begun = time.perf_counter()
                p, v, value, count = step(p, v)
                jax.block_until_ready(p)
                all.append(time.perf_counter() - begun)
            seconds = float(np.median(all[warm:]))
            report(f"diffrax {name}{suffix}", seconds, 1 + stages * int(count), float(value))


{"torchdiffeq": with_torch, "diffrax": with_diffrax}[peer]()
