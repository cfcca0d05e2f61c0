# %% [markdown]
# # A steering playground
#
# Take a direction, add some of it to the residual stream while the model answers, and read what comes out: of harmful requests and of
# harmless ones, because a direction that makes a model refuse everything has not made it safe.
#
# A minute on two cores with `mini`. Answers that comply with a harmful request are not shown.

# %% tags=["parameters"]
MODEL = "mini"
PAIRS = 24  # pairs the directions are made of
TOKENS = 16  # of each answer
DOSES = (-1.0, 0.0, 1.0, 2.0)  # in distances between the means of both classes

# %%
# %matplotlib inline
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd

import safesteer_interp as si
from safesteer_interp.plotting import new_figure, panels, use_style
from safesteer_interp.refusals import is_refusal

use_style()
model = si.load_model(MODEL)

# %% [markdown]
# ## Directions
#
# Mean state of harmful requests minus mean state of harmless ones, at the last prompt token, at every layer: one stored trace holds
# all of them. A direction knows its site, the model it is of, and its length.

# %%
requests = si.load_bundled(attacks=[si.Attack.TEXT])
names = list(dict.fromkeys(r.pair for r in requests if r.split is si.Split.FIT))[:PAIRS]
trace = si.collect(model, [r for r in requests if r.pair in names], sites="resid_post", reads="last_prompt")
directions = {d.origin.site: d for d in si.refusal_directions(trace)}
sites = list(map(str, directions))
print(len(directions), "directions;", directions[sites[len(sites) * 2 // 3]])

# %% [markdown]
# How long each is, in the unit in which the suite steers (the median length of a state there):

# %%
lengths = pd.DataFrame([{"layer": i, "value": d.raw_norm / d.residual_norm} for i, d in enumerate(directions.values())])
fig, ax = new_figure(height=2.4)
panels.layer_curve(ax, lengths.assign(low=lengths["value"], high=lengths["value"], of="harmful minus harmless"), by="of", kind="series",
                   ylabel="length (median state norms)")
fig

# %% [markdown]
# ## Answers under a dose
#
# `si.steer` adds `dose` times the mean difference to the last prompt token and to every answer token. Two harmful requests and two
# harmless ones, of pairs that made no direction:

# %%
held_out = list(dict.fromkeys(r.pair for r in requests if r.split is si.Split.TEST))
asked = [r for r in requests if r.pair in (held_out[0], held_out[7])]


def show(text, harmful):
    """What may be read: refusals and answers to harmless requests; else the first words."""
    return text if is_refusal(text) or not harmful else " ".join(text.split()[:3]) + " … (not shown)"


def play(site=sites[len(sites) * 2 // 3], dose=1.0):
    answers = si.steer(model, asked, directions[site], dose, sampling=si.Sampling(TOKENS))
    rows = [{"request": r.text, "harmful": r.harmful, "refused": is_refusal(a.text), "answer": show(a.text, r.harmful)}
            for r, a in zip(asked, answers)]
    return pd.DataFrame(rows).style.set_properties(**{"text-align": "left", "white-space": "pre-wrap"}).hide(axis="index")


play(dose=0.0)

# %%
play(dose=2.0)

# %% [markdown]
# In Jupyter the next cell gives you the controls: every change is answered live.

# %%
import ipywidgets

ipywidgets.interact_manual(play, site=ipywidgets.SelectionSlider(options=sites, value=sites[len(sites) * 2 // 3]),
                           dose=ipywidgets.FloatSlider(1.0, min=-2, max=4, step=0.5));

# %% [markdown]
# ## Dose and response
#
# The share refused of both classes, at three layers. Read the green line first: it is the price. (Few requests, so only the
# shape matters; `steering_dose_response` and `refusal_direction` measure it with intervals and random directions.)

# %%
some = [r for r in requests if r.pair in held_out[:6]]
rows = []
for site in (sites[len(sites) // 3], sites[len(sites) * 2 // 3], sites[-1]):
    for dose in DOSES:
        answers = si.steer(model, some, directions[site], dose, sampling=si.Sampling(8))
        for harmful in (True, False):
            said = [is_refusal(a.text) for a, r in zip(answers, some) if r.harmful == harmful]
            rows.append({"site": site, "dose": dose, "class": "harmful" if harmful else "harmless", "refused": sum(said), "of": len(said)})
table = pd.DataFrame(rows)

from safesteer_interp.statistics import wilson

bounds = [wilson(r.refused, r.of) for r in table.itertuples()]
table = table.assign(value=[b.value for b in bounds], low=[b.low for b in bounds], high=[b.high for b in bounds])
fig, axes = new_figure(rows=1, cols=3, height=2.6, sharey=True)
for ax, (site, part) in zip(axes, table.groupby("site", sort=False)):
    panels.dose_curve(ax, part, by="class", kind="class", xlabel="dose (distances of class means)", ylabel="share refused")
    ax.set_title(site)
    ax.set_ylim(-0.03, 1.03)
fig

# %% [markdown]
# ## A control
#
# Whatever a direction does, a random one of the same length should not. What both do is damage, not meaning.

# %%
from safesteer_interp.vectors import random_direction

at = sites[len(sites) * 2 // 3]
noise = random_direction(directions[at], seed=0)
rows = []
for name, direction, dose in (("no steering", directions[at], 0.0), ("refusal direction", directions[at], 2.0), ("random, same length", noise, 2.0)):
    answers = si.steer(model, some, direction, dose, sampling=si.Sampling(8))
    refused = {h: sum(is_refusal(a.text) for a, r in zip(answers, some) if r.harmful == h) for h in (True, False)}
    rows.append({"what": name, "harmful refused": refused[True], "harmless refused": refused[False], "of each": len(some) // 2})
pd.DataFrame(rows).set_index("what")

# %% [markdown]
# Read each column against its first row. Where the random vector has as many harmful requests refused as the refusal direction has, those
# refusals say nothing for the direction: a dose this large disturbs the model enough. What is left to the direction is what the random
# vector does not do, and if that is to have the harmless ones refused as well, it has not made the model safer. One random vector and a
# handful of requests are a hint only; `refusal_direction` gives each pair a random direction of its own, and an interval.
