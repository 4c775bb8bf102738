"""Runs of the authors' RankSGD, for tests/zo_rank_sgd.rs.

The class is that of optimizer.py in
github.com/TZW1998/Taming-Stable-Diffusion-with-Human-Ranking-Feedback (commit 13d5a26), unchanged; its
random directions are those of directions.json, which the ignored test `print_the_directions` prints,
so that both sides have the same. Rankings are by a function; images are numbers that nobody looks at.

    python zo_rank_sgd.py optimizer.py directions.json > zo_rank_sgd.json

numpy 2.4.6.
"""

import contextlib
import importlib.util
import io
import json
import sys
import types

import numpy as np

# Only for pictures, which are not drawn.
sys.modules["matplotlib"] = types.ModuleType("matplotlib")
sys.modules["matplotlib.pyplot"] = types.ModuleType("matplotlib.pyplot")
spec = importlib.util.spec_from_file_location("optimizer", sys.argv[1])
official = importlib.util.module_from_spec(spec)
spec.loader.exec_module(official)

ITERATIONS = 12


def value(x):
    """A quadratic with a valley, as in tests/zo_rank_sgd.rs."""
    d = np.arange(len(x))
    return float(np.sum((d + 1.0) * (x - 0.25 * d) ** 2) + 0.5 * x[0] * x[1])


def run(case):
    m, k, l, mu, eta = (case[name] for name in ("candidates", "best", "line", "mu", "eta"))
    start = np.array(case["start"])
    # The authors' direction is not divided by mu.
    optimizer = official.RankSGD(start, None, eta / mu, mu)
    given = iter(case["directions"])
    np.random.randn = lambda count, d: np.array(next(given)).reshape(count, d)
    points, directions = [], []
    for _ in range(ITERATIONS):
        codes = optimizer.generate_query_codes(m)
        optimizer.display_images = None
        order = np.argsort([value(c) for c in codes], kind="stable")[:k]
        optimizer.rank_feedback([int(i) + 1 for i in order])
        directions.append((-optimizer.search_direction / mu).tolist())
        # As display_shuffled_images does without its pictures and without shuffling.
        codes = optimizer.generate_query_codes(l)
        assert len(codes) == l - 2
        optimizer.test_codes = np.concatenate(
            [optimizer.test_codes, [optimizer.prev_best_code], [optimizer.best_code]]
        )
        best = int(np.argmin([value(c) for c in optimizer.test_codes]))
        optimizer.rank_feedback([best + 1])
        points.append(optimizer.best_code.tolist())
    return dict(case, points=points, found=directions)


with open(sys.argv[2]) as file:
    cases = json.load(file)
with contextlib.redirect_stdout(io.StringIO()):
    cases = [run(case) for case in cases]
sys.stdout.write(json.dumps(cases, separators=(",", ":")) + "\n")
