#!/usr/bin/env bash
# dp-accounting's Rényi divergences of fractional orders are too large for a Poisson-subsampled Gaussian.
#
# The moment of a fractional order α is a series with the generalized binomial coefficients C(α, i), whose sign alternates
# for i > α (Mironov, Talwar, Zhang, arXiv 1908.10530, section 3.3). dp-accounting adds all terms with a plus sign. That
# is an upper bound, so every epsilon it gives is true, but it may be far too large, because for large sampling rates
# the sum does not even converge for the lowest orders, which are then left out. Integer orders are right.
#
# Seen with dp-accounting 0.6.0: noise multiplier 0.7, order 2.8 and rate 0.01 give a divergence of .00108879, by
# quadrature .00108454; noise multiplier 0.7, rate 0.25, 5000 steps and delta 1e-5 give an epsilon of 1404.29, by
# quadrature of the same orders 666.20.
# Needs Python 3.11 or later and PyPI. Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python=$folder/venv/bin/python
"$python" -m pip install --quiet --no-compile --disable-pip-version-check \
    dp-accounting==0.6.0 numpy==2.4.6 scipy==1.17.1

"$python" - 2> /dev/null <<'PYTHON'
import math

import dp_accounting
import numpy as np
from dp_accounting import rdp


def exact(order, noise, rate):
    """The divergence by the trapezoidal rule, which is exact for such integrands."""
    x = np.linspace(-40 * noise, 40 * noise + 2 * order, 1_000_001)
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
    log_density = -(x**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
    return math.log(np.exp(log_density + order * ratio).sum() * (x[1] - x[0])) / (order - 1)


def theirs(noise, rate, steps=1, orders=None):
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    return rdp.RdpAccountant(orders).compose(dp_accounting.SelfComposedDpEvent(step, steps))


print("dp-accounting 0.6.0")
for order, noise, rate, wrong in [(3, 0.7, 0.01, False), (2.8, 0.7, 0.01, True), (2.5, 1.5, 0.25, True)]:
    [found], truth = theirs(noise, rate, orders=[order])._rdp, exact(order, noise, rate)
    print(f"order {order}, noise {noise}, rate {rate}: {found:.9f}, by quadrature {truth:.9f}")
    assert (found > truth * 1.003) == wrong, "the divergence of this order has changed"
    assert wrong or math.isclose(found, truth, rel_tol=1e-6), "an integer order is wrong"

noise, rate, steps, delta = 0.7, 0.25, 5000, 1e-5
epsilon, order = theirs(noise, rate, steps).get_epsilon_and_optimal_order(delta)
orders = [tenths / 10 for tenths in range(11, 110)]
best = min(
    steps * exact(a, noise, rate) + math.log1p(-1 / a) - math.log(delta * a) / (a - 1) for a in orders
)
print(f"noise {noise}, rate {rate}, {steps} steps: epsilon {epsilon:.2f} at order {order}, by quadrature {best:.2f}")
assert epsilon > 1400 and best < 700, "the epsilon has changed"
PYTHON
