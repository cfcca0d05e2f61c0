# %% [markdown]
# # Defenses, and what they cost
#
# A defense that refuses everything lets nothing through. So two numbers belong together: the share of harmful requests that are not
# refused, and the share of harmless ones that are. This notebook measures both for a few defenses, pairs them, and adds a defense of
# your own in a few lines.
#
# The model here is `planted`, whose right answers are known and safe to print (it says "sorry …" or "sure, here is your answer"): it
# shows how to measure, not what is true of real models. With `MODEL = "mini"` it takes about five minutes.

# %% tags=["parameters"]
MODEL = "planted"
PAIRS = 24
TOKENS = 16

# %%
# %matplotlib inline
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dataclasses import dataclass, replace

import pandas as pd

import safesteer_interp as si
from safesteer_interp.defenses import DEFENSES as KNOWN
from safesteer_interp.defenses import ECSO, RefusalBias, SafeSteer, SelfReminder, Settings, StagedDefense, Undefended
from safesteer_interp.evaluation import compare, rates
from safesteer_interp.plotting import new_figure, panels, use_style

use_style()
model = si.load_model(MODEL)
requests = si.load_requests("planted" if MODEL == "planted" else "bundled")
pairs = list(dict.fromkeys(r.pair for r in requests if r.split is si.Split.TEST))[:PAIRS]
asked = [r for r in requests if r.pair in pairs and r.attack in (si.Attack.TEXT, si.Attack.SD)]
print(len(asked), "requests of", len(pairs), "pairs, as text and as pictures;", len(set(KNOWN) - {"none"}), "defenses to choose from")

# %% [markdown]
# ## A defense of your own
#
# A dataclass with a `name`. It may rewrite the request, edit states, guide the choice of tokens, review the answer; what it leaves
# out stays as it is. Its code is part of the key its answers are stored under, so a change of it is never answered from the store.


# %%
@dataclass(frozen=True)
class Preface(StagedDefense):
    """One sentence before the request."""

    words: str = "Answer safely."
    name = "preface"

    def rewrite(self, mllm, request):
        return replace(request, text=f"{self.words} {request.text}")


# %% [markdown]
# ## Answers
#
# SafeSteer is fitted first: a probe and MSAV, on pairs of the fit split. The others need nothing. Every answer is judged by refusal
# strings and kept: asking again costs nothing.

# %%
methods = {
    "none": Undefended(),
    "self_reminder": SelfReminder(),
    "refusal_bias": RefusalBias(),
    "ecso": ECSO(),
    "safesteer": SafeSteer.fit(model, requests, force=MODEL == "planted"),  # its few words give the sign test too few choices
    "preface": Preface(),
}
answers = si.evaluate(model, methods, asked, seeds=(0,), settings=Settings(si.Sampling(TOKENS, temperature=1.0)), progress=False)
answers[["defense", "request", "harmful", "outcome"]].groupby("defense").head(1)

# %% [markdown]
# ## Both rates, with intervals over pairs

# %%
table = rates(answers, measures=("asr", "rr", "degenerate"))
table["shown"] = [f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in table.itertuples()]
table.pivot(index="defense", columns="measure", values="shown").loc[list(methods)].rename(
    columns={"asr": "harmful, not refused", "rr": "harmless, refused"}
)

# %%
plane = None
for short in ("rr", "asr"):
    part = table[table["measure"] == short].set_index("defense")[["value", "low", "high"]]
    part.columns = [short, f"{short}_low", f"{short}_high"]
    plane = part if plane is None else plane.join(part)
fig, ax = new_figure(width="column", height=3.4)
panels.tradeoff_plane(ax, plane.reset_index(), x="rr", y="asr", by="defense", kind="method", xlabel="share of harmless refused",
                      ylabel="share of harmful not refused")
fig

# %% [markdown]
# ## Is one better than none?
#
# The same requests under two defenses are compared pair by pair. `p_holm` is adjusted over the rows of this table: with five defenses
# and two measures, one in twenty would look "significant" by chance without it.

# %%
against_none = compare(answers, baseline="none", measures=("asr", "rr"))
against_none[["defense", "measure", "difference", "low", "high", "p", "p_holm"]].round(3)

# %% [markdown]
# ## One number for both prices
#
# Harmful requests let through plus harmless ones refused. Below zero a defense gains more than it costs; the plain model stands at
# zero. A bias on refusal words is the control that every defense should beat: it looks at nothing.

# %%
from safesteer_interp.statistics import cluster_mean

wrong = answers["outcome"].eq("comply") & answers["harmful"] | answers["outcome"].eq("refuse") & ~answers["harmful"]
wide = answers.assign(wrong=wrong.astype(float)).pivot(index=["pair", "request"], columns="defense", values="wrong")
unit = wide.index.get_level_values("pair").to_numpy()
# the two shares have equal denominators here, so that twice the mean error is their sum
rows = [{"defense": name, **cluster_mean(2 * (wide[name] - wide["none"]).to_numpy(), unit).as_row()} for name in methods if name != "none"]
fig, ax = new_figure(height=2.4)
panels.forest(ax, pd.DataFrame(rows), label="defense", by="defense", kind="method", reference=0.0, legend=False,
              xlabel="let through plus refused, minus no defense")
fig

# %% [markdown]
# All of the suite's defenses on the benchmarks you have, judged by a panel, as a resumable run: `safesteer compare --help`. What the suite found
# with real answers stands in `defense_comparison` and `defense_ablation`.
