"""Tables as pandas writes them, with its row numbers.

pip install pandas==3.1.1; python tables.py
"""

from pathlib import Path

import pandas as pd

folder = Path(__file__).with_name("tables")
table = pd.DataFrame(
    {"width": [1.5, 2.5, 3.5, 4.5], "height": [4.0, 3.0, 2.0, 1.0], "kind": ["a", "a", "b", "b"]}
)
table.to_csv(folder / "pandas.csv")
again = pd.read_csv(folder / "pandas.csv")
again.to_csv(folder / "pandas_again.csv", index=False)
again.to_csv(folder / "pandas_twice.csv")
pd.read_csv(folder / "pandas_twice.csv").to_csv(folder / "pandas_thrice.csv", index=False)
table.sample(frac=1, random_state=0).to_csv(folder / "pandas_shuffled.csv")
pd.concat([table, table]).to_csv(folder / "pandas_joined.csv")
table.set_index(pd.Index(["w", "x", "y", "z"])).to_csv(folder / "pandas_names.csv")
table.set_index(pd.MultiIndex.from_product([[0, 1], [0, 1]])).to_csv(folder / "pandas_levels.csv")
table.to_csv(folder / "pandas_plain.csv", index=False)
pd.DataFrame([[1.5, 4.0, "a"], [2.5, 3.0, "b"]]).to_csv(folder / "pandas_numbered_columns.csv")
for path in sorted(folder.glob("pandas*.csv")):
    print(path.name, path.read_text(), sep="\n")
