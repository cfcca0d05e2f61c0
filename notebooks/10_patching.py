# %% [markdown]
# # Where is the harm lost? Activation patching by hand
#
# A harmful request is refused as text and answered as a picture. This notebook keeps both prompt passes of a few such pairs, and puts states
# of the text form into the picture's pass: which layer, which tokens, which heads, over which route of attention bring back the log-odds of
# a refusal at the first token? Whether the answer that follows is a refusal again is another question, asked at the end.
#
# A minute or two on two cores with `mini`. The findings with all pairs, controls and intervals are `patching_text_to_image`,
# `component_attribution` and `attention_routes`.

# %% tags=["parameters"]
MODEL = "mini"
PAIRS = 2
FIT_PAIRS = 16  # pairs whose answers say which first tokens refuse
EVERY = 4  # layers between those that are patched
ATTACK = "SD"  # the form whose harm lies in the picture; TYPO: typography

# %%
# %matplotlib inline
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # mini needs no network; remove this line to load a model from the hub

import numpy as np
import pandas as pd
import torch

import safesteer_interp as si
from safesteer_interp.interventions import Head, Knockout, Patch, patched, record, replay
from safesteer_interp.models.head import logits
from safesteer_interp.models.openings import refusal_token_ids
from safesteer_interp.plotting import new_figure, palette, panels, use_style
from safesteer_interp.refusals import is_refusal
from safesteer_interp.sites import Site
from safesteer_interp.steering import refusal_score

use_style()
model = si.load_model(MODEL)
requests = si.load_requests(model.usual_dataset)

# %% [markdown]
# ## What is a refusal?
#
# Published openings ("Sorry", "I cannot") miss most of a model that declines in its own words. So: the first answer tokens that harmful
# requests in plain text raise over their harmless twins, on pairs of the fit split (as in arXiv 2406.11717).

# %%
plain = [r for r in requests if r.attack == "TEXT" and r.split is si.Split.FIT][: 2 * FIT_PAIRS]
trace = si.collect(model, plain, sites="final_norm", reads="last_prompt", logits=True)
first = torch.from_numpy(trace.logits).softmax(-1).numpy()
harmful, harmless = first[trace.labels.harmful].mean(0), first[~trace.labels.harmful].mean(0)
refusing = [int(i) for i in np.flatnonzero((harmful >= 0.005) & (harmful >= 2 * harmless))] or list(refusal_token_ids(model))
print([model.tokenizer.decode([i]) for i in refusing])


def refusal(states):
    """Log-odds that the first answer token refuses, from the last prompt token's final state."""
    return refusal_score(logits(model, states), refusing).detach()


# %% [markdown]
# ## Two passes, kept whole
#
# `record` keeps one prompt pass: what enters and leaves every layer, heads, keys and values. CB is the harmful text beside a blank picture,
# so that both forms have image tokens. Of some pairs of the validation split, the `PAIRS` whose forms differ most are patched.

# %%
of = {(r.pair, str(r.attack)): r for r in requests if r.harmful and r.split is si.Split.VALIDATION and r.attack in ("CB", ATTACK)}
text = {pair: record(model, of[pair, "CB"]) for pair in list(dict.fromkeys(pair for pair, _ in of))[: 5 * PAIRS]}
picture = {pair: record(model, of[pair, ATTACK]) for pair in text}
gaps = pd.DataFrame({form: {p: float(refusal(one.final)) for p, one in lot.items()} for form, lot in (("text", text), ("picture", picture))})
gaps["gap"] = gaps["text"] - gaps["picture"]
gaps = gaps.sort_values("gap", ascending=False).round(2)
pairs = list(gaps.index[:PAIRS])
gaps

# %% [markdown]
# ## Layer by layer, role by role
#
# `replay` enters the picture's pass at the patched layer and computes only the tokens that can change, so that all these patches cost a few
# forwards. 1 means that the whole gap is restored.

# %%
layers, roles = list(range(0, model.n_layers, EVERY)), ("image", "user", "template", "last")
grid = [(layer, role) for layer in layers for role in roles]
restored = []
for pair in pairs:
    patches = [Patch((Site.parse(f"resid_post.{layer}"),), (role,)) for layer, role in grid]
    gained = replay(model, picture[pair], patches, donor=text[pair], score=refusal) - refusal(picture[pair].final)
    restored.append(gained.numpy() / gaps["gap"][pair])
shares = np.array(restored)
mean = pd.DataFrame(grid, columns=["layer", "role"]).assign(value=shares.mean(0), low=shares.min(0), high=shares.max(0))

fig, ax = new_figure(width="full", height=2.4)
panels.layer_step_heatmap(ax, mean, x="layer", y="role", label="share of the gap", center=0.0, vmin=-1.0, vmax=1.0,
                          xlabel="decoder layer", ylabel="")
ax.set_title("text into picture: refusal restored (hatched: not by every pair)")
fig

# %% [markdown]
# Try any cell of it: whose pass, which site, which tokens. The cell below shows one choice; in Jupyter the controls change it.

# %%
def patch(site="resid_post", layer=layers[-1], role="last", into="picture"):
    """Share of each pair's gap that one patch moves towards the donor."""
    receivers, donors = (picture, text) if into == "picture" else (text, picture)
    rows = []
    for pair in pairs:
        one = Patch((Site.parse(f"{site}.{layer}"),), (role,))
        moved = float(replay(model, receivers[pair], [one], donor=donors[pair], score=refusal)[0] - refusal(receivers[pair].final)[0])
        rows.append({"pair": pair, "moved (nats)": round(moved, 2), "share of the gap": round(abs(moved) / gaps["gap"][pair], 2)})
    return pd.DataFrame(rows)


patch()

# %%
import ipywidgets

ipywidgets.interact_manual(patch, site=["resid_post", "attn_out", "mlp_out"], layer=(0, model.n_layers - 1), role=list(roles),
                           into=["picture", "text"]);

# %% [markdown]
# ## Which heads write it?
#
# One patch per head of the last token, all of them in one climb through the layers.

# %%
count = model.model.config.get_text_config().num_attention_heads
heads = [Head(layer, head) for layer in range(model.n_layers) for head in range(count)]
by_head = np.zeros(len(heads))
for pair in pairs:
    gained = replay(model, picture[pair], [Patch((head,), ("last",)) for head in heads], donor=text[pair], score=refusal)
    by_head += (gained - refusal(picture[pair].final)).numpy() / len(pairs)

fig, ax = new_figure(width="full", height=2.6)
limit = np.abs(by_head).max()
mesh = ax.imshow(by_head.reshape(-1, count).T, aspect="auto", origin="lower", cmap=palette.DIVERGING, vmin=-limit, vmax=limit)
fig.colorbar(mesh, ax=ax, label="refusal restored (nats)")
ax.set_xlabel("decoder layer")
ax.set_ylabel("head")
ax.grid(visible=False)
fig

# %% [markdown]
# How many heads does it take? The best of them, patched together, beside random ones (of the same pairs, so the first line is too good:
# `component_attribution` ranks on other pairs than it reports).

# %%
order, rng = np.argsort(-by_head), np.random.default_rng(0)
sizes = [n for n in (1, 2, 4, 8, 16, 32) if n <= len(heads)]
chosen = [("best", n, order[:n]) for n in sizes] + [("random", n, rng.permutation(len(heads))[:n]) for n in sizes]
found = []
for pair in pairs:
    asked = [Patch(tuple(heads[i] for i in some), ("last",)) for _, _, some in chosen]
    gained = (replay(model, picture[pair], asked, donor=text[pair], score=refusal) - refusal(picture[pair].final)).numpy()
    found += [{"heads": n, "of": name, "share": x / gaps["gap"][pair]} for (name, n, _), x in zip(chosen, gained)]
pd.DataFrame(found).pivot_table(index="of", columns="heads", values="share").round(2)

# %% [markdown]
# ## And if the last token may not look?
#
# A knock-out cuts attention between roles. What is left of the text form's refusal when the last token cannot see the user's words, in
# windows of layers?

# %%
width = max(1, model.n_layers // 5)
windows = [tuple(range(first, min(first + width, model.n_layers))) for first in range(0, model.n_layers, width)]
rows = []
for source in ("user", "image", "template"):
    cut = [Knockout((source,), ("last",), window) for window in windows]
    left = np.mean([replay(model, text[pair], cut, score=refusal).numpy() for pair in pairs], axis=0)
    rows += [{"source": source, "layers": f"{w[0]}-{w[-1]}", "log-odds": round(float(x), 2)} for w, x in zip(windows, left)]
pd.DataFrame(rows).pivot(index="source", columns="layers", values="log-odds")[[f"{w[0]}-{w[-1]}" for w in windows]]

# %% [markdown]
# ## What it says then
#
# `patched` does the same through any tracer (hooks, nnsight, TransformerLens) in whole forwards, and writes the answer. An answer that
# complies is not shown.

# %%
late = Patch((Site.parse(f"resid_post.{round(0.8 * (model.n_layers - 1))}"),), ("last",))
nothing = Patch(late.places, ("last",), lambda h, donor: h)
one = {form: lot[pairs[0]].request for form, lot in (("text", text), ("picture", picture))}
cases = {"the text": ("text", nothing), "the picture": ("picture", nothing), "the picture with the text's last token": ("picture", late)}
out = patched(model, [one[form] for form, _ in cases.values()], [p for _, p in cases.values()], [one["text"]] * 3, sampling=si.Sampling(16))
for name, ids, scores in zip(cases, out.generated, out.logits):
    said = model.tokenizer.decode(ids, skip_special_tokens=True)
    odds = float(refusal_score(scores[None], refusing))
    print(f"{name} ({odds:+.1f}): {said if is_refusal(said) else '(an answer, not shown)'}")
