#!/usr/bin/env bash
# diffrax begins every adaptive solve with a step of 0.01 if it is told none.
#
# With dt0=None, PIDController finds the first step by Hairer, Nørsett and Wanner's method (II.4), but only for an
# `ODETerm`; for any other term it takes 0.01. `diffeqsolve` wraps each term in a `WrapTerm` before, so it always takes
# 0.01: for y' = -y as for y' = -10⁶ y, for which the method gives less than 10⁻⁶.
#
# Seen with diffrax 0.7.2.
# Needs Python 3.11 or later, 1 GB of disk and PyPI. Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python=$folder/venv/bin/python
"$python" -m pip install --quiet --no-compile --disable-pip-version-check jax==0.10.2 diffrax==0.7.2

"$python" - <<'PYTHON'
from importlib.metadata import version

import diffrax
import jax
import jax.numpy as jnp

print("diffrax", version("diffrax"))
seen = []


class Watched(diffrax.PIDController):
    def init(self, *args, **kwargs):
        end, state = super().init(*args, **kwargs)
        jax.debug.callback(lambda end: seen.append(float(end)), end)
        return end, state


for rate in (1.0, 1e6):
    controller = Watched(rtol=1e-3, atol=1e-6)
    diffrax.diffeqsolve(diffrax.ODETerm(lambda t, y, args: -rate * y), diffrax.Tsit5(), 0.0, 1.0, None, jnp.ones(1),
                        stepsize_controller=controller, max_steps=16, throw=False)
    jax.effects_barrier()
    print(f"y' = -{rate:g} y: the first step is {seen[-1]:.3g}")
    assert abs(seen[-1] - 0.01) < 1e-6, "the first step is another now"
PYTHON
