"""What SciPy and diffrax do with four equations: accepted and rejected steps, evaluations, values.

diffrax 0.7.2 begins with a step of 0.01 whatever the equation is, if it is told none: its search for a first step is for an
`ODETerm`, and the term is wrapped when it gets there. Here it is told 0.01.

    python solvers.py > solvers.json

Printed by numpy 2.4.6, scipy 1.17.1, jax 0.10.2, diffrax 0.7.2.
"""

import json

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from scipy.integrate import solve_ivp

jax.config.update("jax_enable_x64", True)

SPIRAL = np.array([[-0.1, 2.0], [-2.0, -0.1]])


def spiral(t, u, np=np):
    return (u**3) @ SPIRAL


def van_der_pol(t, u, np=np):
    return np.stack([u[1], 5.0 * (1.0 - u[0] ** 2) * u[1] - u[0]])


def forced(t, u, np=np):
    return -u + np.sin(3.0 * t)


def robertson(t, u, np=np):
    a, b, c = 0.04 * u[0], 3e7 * u[1] ** 2, 1e4 * u[1] * u[2]
    return np.stack([c - a, a - b - c, b])


PROBLEMS = {
    "spiral": (spiral, [2.0, 0.0], [0.0, 0.4, 1.1, 1.5]),
    "van der pol": (van_der_pol, [2.0, 0.0], [0.0, 3.0, 10.0]),
    "forced": (forced, [1.0], [0.0, 0.7, 2.0, 5.0]),
}


def main():
    out = {"versions": {"numpy": np.__version__, "scipy": scipy.__version__, "jax": jax.__version__,
                        "diffrax": diffrax.__version__}, "runs": []}
    for problem, (f, start, times) in PROBLEMS.items():
        exact = solve_ivp(f, (times[0], times[-1]), start, "DOP853", times, rtol=1e-13, atol=1e-13)
        for method, name in [("RK45", "dopri5"), ("RK23", "bs3")]:
            for tolerance in [1e-3, 1e-6, 1e-9]:
                if name == "bs3" and tolerance == 1e-9:
                    continue
                found = solve_ivp(f, (times[0], times[-1]), start, method, None, rtol=tolerance, atol=tolerance,
                                  dense_output=True)
                values = found.sol(times).T
                stages = 6 if name == "dopri5" else 3
                tries = (found.nfev - 2) // stages
                accepted = len(found.t) - 1
                out["runs"].append(dict(package="scipy", problem=problem, method=name, tolerance=tolerance, start=start,
                                        times=times, values=values.tolist(), exact=exact.y.T.tolist(),
                                        accepted=accepted, rejected=tries - accepted, evaluations=found.nfev))
        # Not diffrax.Dopri5: its error estimate is that of another embedded method.
        for solver, name in [(diffrax.Tsit5(), "tsit5"), (diffrax.Bosh3(), "bs3")]:
            for tolerance in [1e-3, 1e-6, 1e-9]:
                if name == "bs3" and tolerance == 1e-9:
                    continue
                for p, i in [(0.0, 1.0), (0.4, 0.3)]:
                    term = diffrax.ODETerm(lambda t, y, args: f(t, y, jnp))
                    found = diffrax.diffeqsolve(term, solver, times[0], times[-1], 0.01, jnp.array(start),
                                                saveat=diffrax.SaveAt(ts=jnp.array(times)),
                                                stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance,
                                                                                          pcoeff=p, icoeff=i),
                                                max_steps=100000)
                    out["runs"].append(dict(package="diffrax", problem=problem, method=name, tolerance=tolerance, first=0.01,
                                            proportional=p, integral=i, start=start, times=times,
                                            values=np.array(found.ys).tolist(), exact=exact.y.T.tolist(),
                                            accepted=int(found.stats["num_accepted_steps"]),
                                            rejected=int(found.stats["num_rejected_steps"])))
    times = [0.0, 0.4, 40.0, 4000.0]
    exact = solve_ivp(robertson, (0.0, 4000.0), [1.0, 0.0, 0.0], "Radau", times, rtol=1e-11, atol=1e-14)
    radau = solve_ivp(robertson, (0.0, 4000.0), [1.0, 0.0, 0.0], "Radau", times, rtol=1e-6, atol=1e-10)
    out["robertson"] = dict(times=times, values=exact.y.T.tolist(), radau_evaluations=radau.nfev)
    print(json.dumps(out, indent=1))


main()
