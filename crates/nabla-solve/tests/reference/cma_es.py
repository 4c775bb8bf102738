"""Generations of the package cmaes, for tests/zo_rank_sgd.rs: points, their order, and the mean and
the size of the distribution afterwards.

    python cma_es.py > cma_es.json

cmaes 0.13.1, numpy 2.4.6.
"""

import json
import sys

import numpy as np
from cmaes import CMA


def value(x):
    return float(np.sum(10.0 ** np.arange(len(x)) * x**2) + x[0] * x[1])


def run(dimension, candidates, sigma, generations, seed):
    start = np.linspace(-1.0, 2.0, dimension)
    optimizer = CMA(mean=start, sigma=sigma, population_size=candidates, seed=seed)
    steps = []
    for _ in range(generations):
        points = [optimizer.ask() for _ in range(candidates)]
        order = np.argsort([value(x) for x in points])
        ranks = np.argsort(order)
        optimizer.tell([(x, float(r)) for x, r in zip(points, ranks)])
        steps.append(
            dict(
                points=np.concatenate(points).tolist(),
                order=order.tolist(),
                mean=optimizer._mean.tolist(),
                sigma=float(optimizer._sigma),
            )
        )
    return dict(candidates=candidates, sigma=sigma, start=start.tolist(), steps=steps)


cases = [run(4, 9, 0.5, 20, 1), run(2, 6, 2.0, 20, 2), run(3, 30, 1.0, 10, 3)]
sys.stdout.write(json.dumps(cases, separators=(",", ":")) + "\n")
