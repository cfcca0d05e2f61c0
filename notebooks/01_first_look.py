# %% [markdown]
# # A first look: where is harm readable inside an MLLM?
#
# This notebook loads **mini**, the small vision-language model that ships with the suite, asks it the same harmful thing in
# writing and in a picture, captures what happens in its residual stream, and finds the layers where harm can be read off.
#
# It takes a minute on two cores the first time and a few seconds when its trace is already stored. Everything here works
# with your own model: change `MODEL` to a local folder or a hub id.

# %% tags=["parameters"]
MODEL = "mini"
PAIRS = 14  # pairs per split; more pairs give narrower intervals and take longer

# %%
# %matplotlib inline
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # mini needs no network; remove this line to load a model from the hub

import pandas as pd
from IPython.display import display

import safesteer_interp as si
from safesteer_interp.plotting import new_figure, panels, use_style

use_style()
model = si.load_model(MODEL)
print(f"{model.name}: {model.n_layers} decoder layers, d = {model.width}, {sum(p.numel() for p in model.model.parameters()) / 1e6:.0f} M parameters")

# %% [markdown]
# ## One request in several forms
#
# The bundled benchmark holds *pairs*: a harmful request and its harmless twin, which share scenario and nouns. Each side comes in
# five forms: plain text (`TEXT`), text beside a blank image (`CB`), a harmless text beside a picture (`SD`), typography (`TYPO`) or
# both (`SD_TYPO`). Requests of the **test** split were never seen in any training of mini.

# %%
requests = si.load_bundled(attacks=(si.Attack.TEXT, si.Attack.SD, si.Attack.TYPO))
test_pairs = list(dict.fromkeys(r.pair for r in requests if r.split is si.Split.TEST))
example = [r for r in requests if r.pair == test_pairs[3]]
pd.DataFrame({"id": [r.id for r in example], "text": [r.text for r in example], "harmful": [r.harmful for r in example]})

# %%
typo = [r for r in example if r.attack is si.Attack.TYPO]
for request in typo:
    print(request.id)
    display(request.image.load())

# %% [markdown]
# ## What does the model answer?
#
# `collect` runs the model once per batch and keeps what we ask for: here only a few greedy tokens. Only refusals and the first words
# matter to us; the suite never studies harmful answers.

# %%
from safesteer_interp.refusals import is_refusal

answers = si.collect(model, example, sites="final_norm", reads="last_prompt", sampling=si.Sampling(12), progress=False)
pd.DataFrame(
    {
        "attack": answers.index["attack"],
        "harmful": answers.index["harmful"],
        "refused": [is_refusal(t) for t in answers.texts],
        "first words": [
            t[:44] if is_refusal(t) or not harmful else "(complies; not shown)"
            for t, harmful in zip(answers.texts, answers.index["harmful"])
        ],
    }
)

# %% [markdown]
# ## One pass, every layer
#
# Now the residual stream: every layer, at the last token of the prompt, for a few dozen pairs. The trace goes to the store; running
# this cell again reads it from disk.


# %%
def some(split):
    pairs = list(dict.fromkeys(r.pair for r in requests if r.split is split))[:: 3][:PAIRS]
    return [r for r in requests if r.pair in pairs]


chosen = some(si.Split.FIT) + some(si.Split.TEST)
trace = si.collect(model, chosen, sites="all", reads="last_prompt")
states = trace.stack("last_prompt")
print("states:", states.shape, "= sites x requests x d")
trace.index.head(3)

# %% [markdown]
# ## Where is harm readable?
#
# A probe (the paper's: 4 principal components, then logistic regression) is fitted on the training pairs at every site and scored
# on the test pairs. AUROC 0.5 is chance; the bands are 95 % intervals over *pairs*, because twins are not independent. With so few
# pairs they are wide: that is what an honest interval looks like.

# %%
from safesteer_interp.probes import Rows, separability

labels = trace.labels
names = [str(s.layer) if s.layer is not None else str(s) for s in trace.sites]
rows = Rows(states, labels.harmful, labels.pairs, labels.attacks, sites=names, train=labels.train)
curves = separability(rows).rename(columns={"site": "layer", "group": "attack"})

fig, ax = new_figure(width="full", height=3.2)
panels.layer_curve(ax, curves, by="attack", ylabel="AUROC, harmful vs harmless twin", reference=0.5)
fig

# %% [markdown]
# ## Is it more than chance?
#
# The best layer of each form is chosen here by the very numbers that are shown, so that luck has as many tries as there are layers. The
# null has as many, too: the same probe on shuffled labels (swapped within pairs) at every layer, and of each shuffling the best layer.
# Its column says how high luck alone gets with this few requests, on average and in 95 % of shufflings.

# %%
from safesteer_interp.probes import shuffled_maximum

best = curves.loc[curves.groupby("attack")["value"].idxmax(), ["attack", "layer", "value", "low", "high", "n"]]
null = shuffled_maximum(rows).rename(columns={"group": "attack"})
best.merge(null[["attack", "value", "low", "high"]], on="attack", suffixes=("", " (best of shuffled labels)")).round(2)

# %% [markdown]
# The interval beside each best layer is that of this layer, as if it had been given beforehand: it knows nothing of the choice. A layer
# that is to be reported is chosen on other pairs, as the findings do.

# %% [markdown]
# ## Where to go from here
#
# * `notebooks/02_layer_choice.ipynb`: what the choice of a layer and of the probe's width changes.
# * `safesteer run --all` (or `make figures`): every finding with its controls and claims; open `figures/index.html`.
# * `safesteer run layer_choice --model <your folder or hub id>`: the same on your own model.
