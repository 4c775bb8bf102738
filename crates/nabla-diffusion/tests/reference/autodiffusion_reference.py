"""The values that the tests of `src/autodiffusion` compare with: strides, levels, gains of Gaussian data, and a
Fréchet distance, computed without Nabla.

Run with: pip install numpy==2.4.6 scipy==1.17.1 && python autodiffusion_reference.py
"""

import math

import numpy as np
from scipy import linalg

T = 1000


def stride(count):
    """The smallest stride with so many entries, as `space_timesteps` of guided-diffusion finds it for "ddimN"."""
    return next(i for i in range(1, T) if len(range(0, T, i)) == count)


def linear():
    return np.cumprod(1 - np.linspace(1e-4, 0.02, T))


def cosine():
    def alpha_bar(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - alpha_bar((t + 1) / T) / alpha_bar(t / T), 0.999) for t in range(T)]
    return np.cumprod(1 - np.array(betas))


def gain(alpha_bar, steps):
    """The factor by which DDIM scales data N(0, 1/4) with the exact noise prediction."""
    x = 1.0
    steps = sorted(steps)
    for i in reversed(range(len(steps))):
        a = alpha_bar[steps[i]]
        after = alpha_bar[steps[i - 1]] if i else 1.0
        epsilon = math.sqrt(1 - a) * x / (a / 4 + 1 - a)
        sample = (x - math.sqrt(1 - a) * epsilon) / math.sqrt(a)
        x = math.sqrt(after) * sample + math.sqrt(1 - after) * epsilon
    return x


print("strides", {count: stride(count) for count in (4, 5, 6, 10, 15, 20)})
quadratic = [int(s) for s in np.linspace(0, np.sqrt(T * 0.8), 4) ** 2]
print("quadratic, 4 steps", quadratic)
for name, table in (("cosine", cosine()), ("linear", linear())):
    print(name, [f"{table[t]:.6g}" for t in (0, 250, 500, 750, 999)])
    for count in (4, 10):
        steps = range(0, T, stride(count))
        print(f"  gain of ddim{count}: {gain(table, steps):.6f}")
    if name == "cosine":
        print(f"  gain of the shipped plan: {gain(table, [94, 217, 354, 574, 834, 944]):.6f}")
        kept = [table[t] for t in range(0, T, 250)]
        before = [1.0] + kept[:-1]
        print("  spaced betas", [f"{1 - a / b:.5g}" for a, b in zip(kept, before)])

difference = np.array([1.0, 0.0, -1.0])
first = np.diag([1.0, 4.0, 9.0])
second = np.array([[2, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 3]])
root = linalg.sqrtm(first @ second).real
distance = difference @ difference + np.trace(first + second - 2 * root)
print(f"Fréchet distance {distance:.6f}")
