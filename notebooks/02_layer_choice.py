# %% [markdown]
# # Which layer? The ablation behind every probe
#
# SafeSteer probes the state after the final norm with four principal components (arXiv 2605.11716). Is that the best place, and does
# it matter? This notebook lets you move the layer, the width and the attack and see what changes: how well harm is separated, whether
# a probe trained on text sees the harm in images, and how stable its direction is.
#
# All layers come from **one** stored trace, so trying another layer costs nothing. About a minute on two cores, seconds when the
# trace of notebook 01 is already there.

# %% tags=["parameters"]
MODEL = "mini"
PAIRS = 14  # pairs per split

# %%
# %matplotlib inline
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # mini needs no network; remove this line to load a model from the hub

import ipywidgets
import numpy as np
import pandas as pd

import safesteer_interp as si
from safesteer_interp.plotting import new_figure, panels, use_style
from safesteer_interp.probes import Resampling, Rows, fold_stability, onset, out_of_fold, separability, split_folds, transfer

use_style()
requests = si.load_bundled(attacks=(si.Attack.TEXT, si.Attack.SD, si.Attack.TYPO))


def some(split):
    pairs = list(dict.fromkeys(r.pair for r in requests if r.split is split))[:: 3][:PAIRS]
    return [r for r in requests if r.pair in pairs]


model = si.load_model(MODEL)
trace = si.collect(model, some(si.Split.FIT) + some(si.Split.TEST), sites="all", reads="last_prompt")
states, labels = trace.stack("last_prompt"), trace.labels
names = [str(s.layer) if s.layer is not None else str(s) for s in trace.sites]
harmful, pairs, attack, train = labels.harmful, labels.pairs, labels.attacks, labels.train
print(f"{len(trace)} requests, {len(names)} sites, one trace: {trace.key[:12]}")

# %% [markdown]
# ## Width against layer
#
# How many principal components does the probe need, and is the answer the same everywhere? One decomposition per layer serves all
# widths, because principal components are nested.

# %%
rows, quick = Rows(states, harmful, pairs, attack, names, train), Resampling(replicates=200)
by_width = separability(rows, widths=(1, 2, 4, 16, "all"), resampling=quick)
by_width = by_width.rename(columns={"site": "layer", "group": "attack"})

fig, axes = new_figure(rows=1, cols=3, width="full", height=2.8)
for ax, name in zip(axes, ("TEXT", "SD", "TYPO")):
    part = by_width[by_width["attack"] == name].assign(width=lambda d: d["width"].astype(str) + " PCs")
    panels.layer_curve(ax, part, by="width", kind="series", ylabel="AUROC" if name == "TEXT" else "", reference=0.5, legend=name == "TEXT")
    ax.set_title(name)
fig

# %% [markdown]
# ## Onset: from which layer on?
#
# The first site that reaches 90 % of the best site's rise above chance, with an interval from resampling pairs. Depth 0 is the
# embedding, depth 1 the output of layer 0, the last depth the final norm.

# %%
onsets = []
for name in ("TEXT", "SD", "TYPO"):
    mask = attack == name
    scores = out_of_fold(states[:, mask], harmful[mask], split_folds(train[mask], pairs[mask]))[:, 0]
    test = ~train[mask]
    found = onset(scores[:, test], harmful[mask][test], pairs[mask][test]).estimate
    onsets.append({"attack": name, "onset depth": found.value, "low": found.low, "high": found.high, "pairs": found.clusters})
pd.DataFrame(onsets)


# %% [markdown]
# ## Choose a layer and a width
#
# Run the next cell in Jupyter and move the controls: the left panel shows how the probe of each attack does on every other attack at
# that site (below 0.5 the direction turns round), the right panel its score on the test requests. Looking is free; a site or width that
# you *choose* by these panels has seen the test pairs, and has to be reported on others.


# %%
def explore(site="final_norm", width="4"):
    at = names.index(site)
    k = width if width == "all" else int(width)
    one = Rows(states[at], harmful, pairs, attack, train=train)
    matrix = transfer(one, width=k, leave_one_out=False, resampling=quick)
    scores = out_of_fold(states[[at]], harmful, split_folds(train, pairs), widths=[k])[0, 0]
    shown = pd.DataFrame({"attack": attack, "class": np.where(harmful, "harmful", "harmless"), "score": scores})[~train]
    fig, axes = new_figure(rows=1, cols=2, width="full", height=3.0)
    panels.transfer_matrix(
        axes[0], matrix.rename(columns={"fitted_on": "trained_on"}), row="trained_on", column="tested_on", value="value", label="AUROC", vmin=0.3
    )
    panels.score_rows(axes[1], shown, reference=0.0, xlabel="probe score (log-odds of harmful)")
    axes[1].set_title(f"{site}, {width} components")
    return fig


explore("final_norm", "4")

# %%
ipywidgets.interact(explore, site=ipywidgets.SelectionSlider(options=names, value="final_norm"), width=["1", "2", "4", "8", "16", "all"]);

# %% [markdown]
# ## Is the direction stable?
#
# A direction that changes with the pairs it was fitted on cannot be steered along. Cosine between the directions of different folds:

# %%
stability = fold_stability(rows, widths=[4]).rename(columns={"site": "layer", "group": "attack"})
fig, ax = new_figure(width="full", height=2.8)
panels.layer_curve(ax, stability, by="attack", ylabel="cosine between folds (mean, extremes)", reference=0.0, reference_label="unrelated")
fig

# %% [markdown]
# The full ablation, with all five forms, more pairs, controls and claims, is the finding `layer_choice`:
# `safesteer run layer_choice`, or any part of it with `safesteer sweep layer_choice --layers 0-29 --widths 1,2,4`.
