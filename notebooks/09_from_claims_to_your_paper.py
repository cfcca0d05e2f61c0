# %% [markdown]
# # From claims to your paper's table
#
# Every finding leaves machine-readable claims and tables behind. This notebook collects them, asks what they say about the paper's
# own statements, and writes the LaTeX table and the figure you would put into a manuscript: numbers are never copied by hand.
#
# Seconds; no model is loaded. Point `FIGURES` at the folder of your own run.

# %% tags=["parameters"]
FIGURES = "../figures"
MODEL = "mini"

# %%
# %matplotlib inline
import json
from pathlib import Path

import pandas as pd
from IPython.display import SVG, Markdown, display

from safesteer_interp.plotting import new_figure, panels, use_style
from safesteer_interp.report.tables import interval, latex, markdown

use_style()
figures = Path(FIGURES)

# %% [markdown]
# ## All claims in one table
#
# `claims.json` holds the sentence, the estimate with its interval and n, the edge, the p after adjustment, every control, and the
# verdict with its reason. Verdicts follow from the numbers; `safesteer verify` computes them again.

# %%
rows = []
for file in sorted(figures.glob(f"*/{MODEL}/claims.json")):
    for c in json.loads(file.read_text())["claims"]:
        e = c["estimate"]
        rows.append({"finding": file.parent.parent.name, "id": c["id"], "kind": c["kind"], "verdict": c["verdict"], "value": e["value"],
                     "low": e["low"], "high": e["high"], "unit": c["unit"], "n": e["n"], "clusters": e["clusters"], "p_holm": c["p_holm"],
                     "statement": c["statement"], "source": c["source"], "printed": c["printed"], "reason": c["reason"]})
claims = pd.DataFrame(rows)
print(len(claims), "claims of", claims["finding"].nunique(), "findings on", MODEL)
pd.crosstab(claims["kind"], claims["verdict"])

# %% [markdown]
# Counting verdicts is not learning. Read the sentences, and with each its number:

# %%
decided = claims[(claims["verdict"] != "undecided") & (claims["kind"] != "sanity")]
decided = decided.assign(number=[f"{interval(r.value, r.low, r.high)} {r.unit}" for r in decided.itertuples()])
decided[["finding", "verdict", "statement", "number"]].head(12).style.set_properties(**{"text-align": "left"}).hide(axis="index")

# %% [markdown]
# ## What the paper says, and what is found here
#
# Replications name the table or figure they repeat and what is printed there.

# %%
replications = claims[claims["kind"] == "replication"]
replications = replications.assign(here=[interval(r.value, r.low, r.high) for r in replications.itertuples()])
replications[["source", "printed", "here", "verdict"]].sort_values("source").style.set_properties(**{"text-align": "left"}).hide(axis="index")

# %% [markdown]
# ## A table for the manuscript
#
# The suite's own formatter gives every number the decimals that its interval calls for, and escapes what LaTeX would trip over.

# %%
paper = decided.head(8)[["statement", "value", "low", "high", "n", "verdict"]]
tex = latex(paper, caption=f"What was decided on {MODEL}, with 95 % intervals over pairs.", label="tab:decided")
print(tex)

# %%
display(Markdown(markdown(paper.head(4))))

# %% [markdown]
# ## A figure for one column
#
# Each figure lies beside its table in two sizes, `figure.pdf` for a page's width and `figure-column.pdf` for one column of 3.4 inches
# with letters of 6.5 points and more. Both are drawn at the size they are printed at: include them without scaling.

# %%
place = next(p for p in sorted(figures.glob(f"*/{MODEL}")) if (p / "figure-column.svg").is_file())
print(r"\includegraphics{" + f"{place.parent.name}/{MODEL}/figure-column.pdf" + "}")
display(SVG(filename=str(place / "figure-column.svg")))

# %% [markdown]
# ## Or draw your own from the tables
#
# The CSV files are tidy: one number a row with `low`, `high`, `n`, `clusters`. Whatever you draw from them has the same numbers.

# %%
table = claims[(claims["unit"] == "AUROC") & (claims["kind"] != "sanity")].drop_duplicates("id").head(8)
table = table.assign(label=table["finding"] + ": " + table["id"].str.replace("_", " "))
fig, ax = new_figure(height=0.32 * len(table) + 0.7)
panels.forest(ax, table, by="verdict", kind="verdict", reference=0.5, xlabel="AUROC")
fig

# %% [markdown]
# ## Before you quote a number
#
# - Quote the interval and the n with it; `n = 64, 32 pairs` means 32 independent units.
# - *Undecided* means that this many pairs cannot tell. It is no evidence of absence.
# - A number on `mini` is a number about a model of 142 million parameters.
