# %% [markdown]
# # Through the image lens: where in a picture is the harm seen?
#
# Every image token lies somewhere in the picture. Which of them push the probe's reading of harm, which push refusal, what do they read as,
# and are they where the harmful words are written? And before that: do the eyes tell harm at all?
#
# A minute or two on two cores with `mini`. The findings with all pairs, controls and intervals are `image_token_lens` and `harm_by_stage`.

# %% tags=["parameters"]
MODEL = "mini"
FIT_PAIRS = 16  # pairs that probe and stages are fitted on
PAIRS = 2  # pictures that are looked at
DEPTH = 0.1  # share of the decoder's layers at which image tokens are read

# %%
# %matplotlib inline
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch

import safesteer_interp as si
from safesteer_interp.datasets.wording import drawn_words, own_words, pixels_of
from safesteer_interp.interventions import record
from safesteer_interp.interventions.image_tokens import image_states, lens, pushes, share_of_cells, token_gradients, token_grid
from safesteer_interp.models.eyes import last_layer_used
from safesteer_interp.models.head import logits
from safesteer_interp.models.openings import refusal_token_ids
from safesteer_interp.plotting import new_figure, palette, use_style
from safesteer_interp.probes.fits import fit_prompt
from safesteer_interp.sites import Site
from safesteer_interp.statistics import auroc
from safesteer_interp.steering import refusal_score

use_style()
model = si.load_model(MODEL)
requests = [r for r in si.load_requests(model.usual_dataset) if r.attack in ("CB", "TYPO")]

# %% [markdown]
# ## From which stage on can harm be told?
#
# Sites in the eyes are traced like any other: `vision` (every layer of the tower) and `projector`, read as the mean over the picture. One
# probe a stage, fitted on pairs of the fit split, scored on validation pairs.

# %%
names = {split: list(dict.fromkeys(r.pair for r in requests if r.split is split)) for split in (si.Split.FIT, si.Split.VALIDATION)}
kept = {*names[si.Split.FIT][:FIT_PAIRS], *names[si.Split.VALIDATION][:FIT_PAIRS]}
pictured = [r for r in requests if r.attack == "TYPO" and r.pair in kept]
step = max(1, model.n_layers // 6)
sites = ",".join(["vision", "projector", *(f"resid_post.{n}" for n in range(0, model.n_layers, step)), "final_norm"])
trace = si.collect(model, pictured, sites=sites, reads="image_mean,last_prompt")
train, harmful = trace.labels.train, trace.labels.harmful

stages = [(f"eyes {n}", f"vision.{n}", "image_mean") for n in range(last_layer_used(model) + 1)] + [("projector", "projector", "image_mean")]
stages += [(f"last token, layer {n}", f"resid_post.{n}", "last_prompt") for n in range(0, model.n_layers, step)]
told = []
for stage, site, read in stages:
    states = trace.rows(site, read)
    probe = fit_prompt(states[train], harmful[train], n_components=8)
    told.append({"stage": stage, "AUROC": round(auroc(probe.decision_function(states[~train]), harmful[~train]), 2)})
pd.DataFrame(told).set_index("stage").T

# %% [markdown]
# ## Single image tokens
#
# The refusal Jacobian: the gradient of refusal log-odds with respect to each image token, times how far the token is from the blank picture's
# token at its place. The same for the probe at the final norm. Two backward passes a picture, and forwards of it and of the blank one.

# %%
probe = fit_prompt(trace.rows("final_norm", "last_prompt")[train], harmful[train])
weight, refusing = torch.from_numpy(np.asarray(probe.weight_, dtype=np.float32)), list(refusal_token_ids(model))
metrics = {"probe": lambda h: (h.float() @ weight)[0], "refusal": lambda h: refusal_score(logits(model, h), refusing)[0]}
layer = max(1, round(DEPTH * (model.n_layers - 1)))
of = {(r.pair, str(r.attack), r.harmful): r for r in requests}
looked = {}
for pair in names[si.Split.VALIDATION][:PAIRS]:
    harm, twin, blank = (of[pair, *key] for key in (("TYPO", True), ("TYPO", False), ("CB", True)))
    picture, empty = record(model, harm), record(model, blank)
    gradients = token_gradients(model, picture, list(metrics.values()), (layer,))
    maps = {name: pushes(picture, empty, g[layer], layer).numpy() for name, g in zip(metrics, gradients)}
    looked[pair] = {"request": harm, "twin": twin, "picture": picture, "grid": token_grid(model, picture), "maps": maps}

# %% [markdown]
# Over the picture itself: vermillion pushes towards harm or refusal, green away. The boxes are words that only the harmful picture has.

# %%
fig, axes = new_figure(rows=PAIRS, cols=3, width="full", height=2.3 * PAIRS, squeeze=False)
for line, one in zip(axes, looked.values()):
    image = np.asarray(one["request"].image.load().convert("RGB"))
    size = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
    words, others = drawn_words(one["request"].image), drawn_words(one["twin"].image)
    for ax, name in zip(line, ("picture", *metrics)):
        ax.grid(visible=False)
        ax.set(xticks=[], yticks=[], title=name)
        ax.imshow(image if name == "picture" else np.repeat(image.mean(2, keepdims=True) / 255, 3, 2) * 0.55 + 0.45)
        if name != "picture":
            values = one["maps"][name].reshape(one["grid"])
            limit = float(np.quantile(np.abs(values), 0.98)) or 1.0
            ax.imshow(values, extent=size, cmap=palette.HARM, vmin=-limit, vmax=limit, alpha=0.62, interpolation="bicubic")
        for box in own_words(words or (), others or ()):
            ax.add_patch(mpl.patches.Rectangle((box.x0, box.y0), box.x1 - box.x0, box.y1 - box.y0, fill=False, edgecolor=palette.INK))
fig

# %% [markdown]
# ## Does it look at the words?
#
# Among the tokens that carry letters, are those of the harmful words pushed more than the others? 0.5 is chance, and what shuffled
# tokens give. Where words are is known here because the picture is drawn here; of other pictures an OCR engine tells (extra `ocr`).

# %%
rng, rows = np.random.default_rng(0), []
for pair, one in looked.items():
    words, others = drawn_words(one["request"].image), drawn_words(one["twin"].image)
    if not words or not others:
        continue
    shape = np.asarray(one["request"].image.load()).shape[:2]
    letters, own = (share_of_cells(pixels_of(boxes, *shape), one["grid"]) >= 0.25 for boxes in (words, own_words(words, others)))
    for name, values in one["maps"].items():
        strength, those = np.abs(values[letters]), own[letters]
        if 0 < those.sum() < len(those):
            rows.append({"pair": pair, "map": name, "AUROC": auroc(strength, those), "tokens": f"{those.sum()} of {len(those)}",
                         "shuffled": np.mean([auroc(rng.permutation(strength), those) for _ in range(200)])})
pd.DataFrame(rows).round(2)

# %% [markdown]
# ## What a token reads as
#
# The logit lens on image tokens: the word that each token's state would say next. The static table is the first picture at a late layer;
# in Jupyter the controls choose others.

# %%
def read(pair=next(iter(looked)), at=round(0.8 * (model.n_layers - 1))):
    """The lens' first word at every image token, as they lie in the picture."""
    one = looked[pair]
    words = lens(model, image_states(one["picture"], Site.parse(f"resid_post.{at}"))).argmax(-1)
    said = np.array([model.tokenizer.decode([int(i)]).strip()[:10] for i in words], dtype=object).reshape(one["grid"])
    return pd.DataFrame(said)


read()

# %%
import ipywidgets

ipywidgets.interact_manual(read, pair=list(looked), at=(0, model.n_layers - 1));
