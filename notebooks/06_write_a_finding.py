# %% [markdown]
# # Write a finding, step by step
#
# A finding is one file with four functions. `needs` says which states it wants, `table` measures numbers from them, `claims` derives
# sentences from the numbers alone, `draw` draws them. The suite does the rest: it traces what is missing, judges every claim, writes
# figure, tables and provenance, and puts all of it into the gallery.
#
# The question here: *does the probe merely read how long a request is?* Everything runs on `planted`, the model with known answers,
# in seconds.

# %% tags=["parameters"]
MODEL = "planted"
ID = "length_or_harm"

# %%
# %matplotlib inline
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
from IPython.display import SVG, display

from safesteer_interp.report import build, render_folder
from safesteer_interp.runner import discover, run

work = Path(mkdtemp())
source = work / "analyses" / f"{ID}.py"
source.parent.mkdir()

# %% [markdown]
# ## 1. The question and the parameters
#
# The first line of the file is the question; it becomes the caption. Parameters are a frozen dataclass whose defaults are the quick
# profile; each has a line of help and can be set from the command line (`--set length_or_harm.pairs=40`).

# %%
HEAD = '''"""Does the probe read harm, or merely how long a request is?"""

from dataclasses import dataclass

import pandas as pd

from safesteer_interp.requests import Split
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.tracing.spec import TraceSpec


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Pairs per split; None: all."""
    seed: int = 0
    """Seed of the bootstrap."""

'''

# %% [markdown]
# ## 2. What it needs
#
# Two specs: the pairs that a probe may see, and the pairs that numbers are reported on. Another finding that asks for the same states
# shares the trace.

# %%
NEEDS = '''
def needs(p):
    return [TraceSpec(split=split, sites=("final_norm",), pairs=p.pairs) for split in (Split.FIT, Split.TEST)]

'''

# %% [markdown]
# ## 3. The table
#
# Fit on the fit split, report on the test split, and measure the rival explanation in the same way. Every number is an `Estimate`:
# a value, an interval over pairs, and what it was tested against. Heavy imports stand inside, so that redrawing needs no torch.

# %%
TABLE = '''
def table(ctx, p):
    import numpy as np

    from safesteer_interp.probes import DecodingProbe
    from safesteer_interp.statistics import cluster_auroc, cluster_auroc_difference

    fit, test = (ctx.trace(spec) for spec in needs(p))
    probe = DecodingProbe(4).fit(fit.rows("final_norm"), fit.labels.harmful)
    scores = probe.decision_function(test.rows("final_norm"))
    length = test.index["prompt_length"].to_numpy(float)
    truth, pairs = test.labels.harmful, test.labels.pairs
    rows = []
    for method, values in (("probe", scores), ("prompt_length", length), ("random_direction", _noise(ctx, test))):
        rows.append({"method": method, **cluster_auroc(values, truth, pairs, against=0.5, seed=p.seed).as_row()})
    gap = cluster_auroc_difference(scores, length, truth, pairs, against=0.0, seed=p.seed)
    rows.append({"method": "probe minus length", **gap.as_row()})
    return pd.DataFrame(rows)


def _noise(ctx, test):
    states = test.rows("final_norm").astype(float)
    return states @ ctx.rng("control").normal(size=states.shape[1])

'''

# %% [markdown]
# ## 4. The claims
#
# A claim is a sentence, an estimate, a direction and an edge, with the control that stands for "nothing there". Nobody types a
# verdict: *supported* needs the whole interval on the claimed side, a p below 0.05 after adjustment over all claims, and no control
# that reaches as far.

# %%
CLAIMS = '''
def claims(t, p):
    found = t.set_index("method")
    return [
        Claim(
            id="probe_reads_harm",
            statement="A probe on the last prompt token tells harmful from harmless requests.",
            estimate=estimate_of(found.loc["probe"]),
            direction="above",
            threshold=0.5,
            unit="AUROC",
            controls=(Control("random_direction", estimate_of(found.loc["random_direction"])),
                      Control("prompt_length", estimate_of(found.loc["prompt_length"]))),
        ),
        Claim(
            id="not_by_length",
            statement="The probe tells them apart better than the length of the prompt does.",
            estimate=estimate_of(found.loc["probe minus length"]),
            direction="above",
            threshold=0.0,
            unit="difference in AUROC, paired",
            difference_to="the same measure of the prompt's length",
        ),
    ]

'''

# %% [markdown]
# ## 5. The figure
#
# From the table alone, with the suite's panels: sizes, colours and the stamp come with them, and the same function draws the page's and
# the column's version.

# %%
DRAW = '''
def draw(t, p):
    from safesteer_interp.plotting import new_figure, panels

    fig, ax = new_figure(height=1.9)
    shown = t[t["method"] != "probe minus length"]
    panels.forest(ax, shown.assign(label=shown["method"].str.replace("_", " ")), by="method", kind="series", reference=0.5,
                  xlabel="AUROC, harmful vs harmless twin", legend=False)
    return fig


ANALYSIS = Analysis(
    id="length_or_harm", title="Length or harm?", params=Params, needs=needs, table=table, claims=claims, draw=draw,
    captions={"figure": "Test pairs, last prompt token. Bars: 95 % over pairs."},
)
'''
source.write_text(HEAD + NEEDS + TABLE + CLAIMS + DRAW)
discover(source.parent)[ID].question

# %% [markdown]
# ## 6. Run it
#
# On a model of yours an own analysis is first tried on `planted`, so that a mistake in `claims` shows in seconds and not after the
# whole trace. The same from a shell: `safesteer run length_or_harm --model planted --analyses analyses`.

# %%
report = run([ID], model=MODEL, folder=source.parent, out=work / "figures", store=work / "traces", render=render_folder, progress=False)
print(report.results[0].status, report.results[0].reason)
place = next((work / "figures" / ID).iterdir())
display(SVG(filename=str(place / "figure.svg")))

# %%
import json

claims = json.loads((place / "claims.json").read_text())["claims"]
pd.DataFrame([{"claim": c["statement"], "verdict": c["verdict"], "why": c["reason"]} for c in claims]).style.set_properties(
    **{"text-align": "left"}
).hide(axis="index")

# %% [markdown]
# ## 7. What lies there now
#
# Figure in three formats and two sizes, the table as CSV, LaTeX and Markdown, the claims, and where all of it comes from. `build` makes
# the gallery; `safesteer verify` measures again and names every number that moved.

# %%
build(work / "figures")
print(*sorted(p.name for p in place.iterdir()), sep="\n")

# %%
pd.read_csv(place / "table.csv").round(3)

# %% [markdown]
# ## Before you believe it
#
# - Is the unit of your interval what was sampled? Seeds, attacks and twins of one pair are not independent.
# - What would the number be if nothing were there? That is the control, measured in the same way.
# - Did anything choose a layer, a threshold or an epoch on the pairs it is reported on?
