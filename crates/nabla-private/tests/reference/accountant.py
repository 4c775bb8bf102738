"""What dp-accounting and Opacus say about the rows of accountant.csv, which this script writes anew:

    pip install dp-accounting==0.6.0 opacus==1.6.0 numpy==2.4.6 scipy==1.17.1
    python accountant.py > accountant.csv        # 20 minutes

The last column is the privacy loss distribution on a grid ten times finer than the package's default, which costs
minutes, and which the default is above by up to 9e-4.
"""

import itertools

import dp_accounting
import numpy as np
from dp_accounting import pld, rdp
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis import rdp as opacus_rdp
from scipy.optimize import brentq
from scipy.stats import norm

ORDERS = [n / 10 for n in range(11, 110)] + list(range(11, 65)) + [128, 256, 512, 1024]
DELTAS = [1e-5, 1e-6]
SAMPLED = itertools.product([0.001, 0.01, 0.05, 0.25], [0.7, 1, 1.5, 2, 4], [1, 100, 1000, 5000], DELTAS)
FULL = itertools.product([1], [0.7, 1, 1.5, 2, 4, 10], [1, 10, 100], DELTAS)

COMMENT = (
    "dp-accounting 0.6.0 (RdpAccountant default orders; PLDAccountant value_discretization_interval=1e-4, and 1e-5 for "
    "pld_fine) and opacus 1.6.0 (RDPAccountant DEFAULT_ALPHAS; PRVAccountant eps_error=0.01, delta_error=delta/1000), "
    "numpy 2.4.6, scipy 1.17.1; Poisson sampling, add-or-remove-one; rate 1 = unsampled Gaussian; rdp_exact = opacus "
    "exact series on orders 1.1..10.9 step 0.1, 11..64, 128, 256, 512, 1024; gauss_exact = analytic Gaussian; empty = "
    "not computed"
)
COLUMNS = (
    "noise_multiplier sampling_rate steps delta eps_rdp_exact order_rdp_exact eps_rdp_dp_accounting "
    "order_rdp_dp_accounting eps_rdp_opacus order_rdp_opacus eps_pld_dp_accounting eps_prv_opacus_lower "
    "eps_prv_opacus_estimate eps_prv_opacus_upper eps_gauss_exact eps_pld_fine"
).split()


def event(noise, rate, steps):
    gaussian = dp_accounting.GaussianDpEvent(noise)
    step = gaussian if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, gaussian)
    return dp_accounting.SelfComposedDpEvent(step, steps)


def loss_distribution(noise, rate, steps, delta, interval):
    accountant = pld.PLDAccountant(value_discretization_interval=interval)
    return accountant.compose(event(noise, rate, steps)).get_epsilon(delta)


def gauss(noise, steps, delta):
    mu = np.sqrt(steps) / noise

    def excess(epsilon):
        tail = np.exp(epsilon + norm.logcdf(-epsilon / mu - mu / 2))
        return norm.cdf(-epsilon / mu + mu / 2) - tail - delta

    return brentq(excess, 0, mu * mu / 2 + mu * np.sqrt(-2 * np.log(delta)), xtol=1e-12)


def row(noise, rate, steps, delta):
    exact = opacus_rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=steps, orders=ORDERS)
    exact, order = opacus_rdp.get_privacy_spent(orders=ORDERS, rdp=exact, delta=delta)
    accountant = rdp.RdpAccountant().compose(event(noise, rate, steps))
    theirs = accountant.get_epsilon_and_optimal_order(delta)
    opacus = RDPAccountant()
    opacus.history = [(noise, rate, steps)]
    values = [exact, order, *theirs, *opacus.get_privacy_spent(delta=delta)]
    # Where nobody would train, the packages need minutes.
    few = exact < 20 or (rate == 1 and steps <= 10)
    values.append(loss_distribution(noise, rate, steps, delta, 1e-4) if few else "")
    if few and rate < 1:
        prv = PRVAccountant()
        prv.history = [(noise, rate, steps)]
        dpprv = prv._get_dprv(eps_error=0.01, delta_error=delta / 1000)
        values += dpprv.compute_epsilon(delta, delta / 1000, 0.01)
    else:
        values += ["", "", ""]
    values.append(gauss(noise, steps, delta) if rate == 1 else "")
    values.append(loss_distribution(noise, rate, steps, delta, 1e-5) if few else "")
    return values


def text(name, value):
    if value == "" or name.startswith("order"):
        return value if value == "" else f"{value:g}"
    return f"{value:.6f}"


print("#", COMMENT)
print(",".join(COLUMNS))
for rate, noise, steps, delta in [*SAMPLED, *FULL]:
    given = [f"{noise:g}", f"{rate:g}", f"{steps}", f"{delta:g}"]
    values = zip(COLUMNS[4:], row(noise, rate, steps, delta))
    print(",".join(given + [text(name, value) for name, value in values]), flush=True)
