#!/usr/bin/env python3
"""Makes digits_100.csv and the values that tests/training.rs and src/schedule.rs compare with.

    pip install scikit-learn torch
    python crates/nabla-train/tests/reference/training.py

digits_100.csv: the first 100 digits of scikit-learn, label last, without a header.
"""

import json
import os

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

HERE = os.path.dirname(os.path.abspath(__file__))
x, y = load_digits(return_X_y=True)
x, y = x[:100], y[:100]
with open(os.path.join(HERE, "digits_100.csv"), "w") as f:
    for row, label in zip(x, y):
        f.write(",".join(str(int(v)) for v in row) + f",{label}\n")

# mean cross-entropy + decay/2 |W|^2, biases free: C = 1/(n decay).
decay = 0.01
x = StandardScaler().fit_transform(x)
model = LogisticRegression(C=1 / (len(x) * decay), tol=1e-10, max_iter=100000, solver="lbfgs")
model.fit(x, y)
loss = log_loss(y, model.predict_proba(x))
norm = float(np.sum(model.coef_**2))
print(json.dumps({
    "scikit-learn": sklearn.__version__, "decay": decay, "loss": loss, "squared_norm": norm,
    "objective": loss + decay / 2 * norm, "accuracy": model.score(x, y),
}, indent=1))

try:
    import torch
except ImportError:
    raise SystemExit("without torch, no schedules")


def rates(make, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


S = torch.optim.lr_scheduler
print("cosine", rates(lambda o: S.CosineAnnealingLR(o, 10, 0.1), 10))
print("steps", rates(lambda o: S.MultiStepLR(o, [5, 7], 0.1), 10))
