"""Files in the LIBSVM format by scikit-learn, and what its reader makes of them.

pip install scikit-learn==1.9.1 numpy==2.4.6; python svmlight.py
"""

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

folder = Path(__file__).with_name("svmlight")
x = np.array([[0.5, 0, 2], [0, -1.25, 0], [3, 0, 0.1]])
y = np.array([1, -1, 1])
queries = np.array([7, 7, 9])
dump_svmlight_file(x, y, str(folder / "zero_based.txt"))
dump_svmlight_file(x, y, str(folder / "one_based.txt"), zero_based=False)
dump_svmlight_file(x, y, str(folder / "commented.txt"), comment="made by a test", query_id=queries)
# Its first column is zero: from here on the file counts from 0 but does not show it.
dump_svmlight_file(x * [0, 1, 1], y, str(folder / "first_column_empty.txt"))
(folder / "blank_lines.txt").write_text("# only a comment\n\n1 0:2 # here\n   \n-1 3:1e-3\n")
(folder / "twice.txt").write_text("1 1:2 1:3\n")
(folder / "falling.txt").write_text("1 2:2 1:3\n")

expected = {}
for path in sorted(folder.glob("*.txt")):
    try:
        rows, labels, found = load_svmlight_file(str(path), query_id=True)
        entry = {
            "features": rows.shape[1],
            "labels": labels.tolist(),
            "rows": rows.toarray().tolist(),
        }
        if "qid:" in path.read_text():
            entry["queries"] = found.tolist()
    except ValueError as error:
        entry = {"refused": True, "told": str(error)}
    expected[path.name] = entry
(folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
print(json.dumps(expected, indent=1))
