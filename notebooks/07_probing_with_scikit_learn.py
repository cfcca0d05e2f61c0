# %% [markdown]
# # Probing with scikit-learn
#
# A trace is a table: rows are requests, columns are dimensions of a state, labels stand beside it. `DecodingProbe` is a scikit-learn
# estimator, so everything you know works: pipelines, cross-validation, other classifiers, permutation tests. What is special here are
# the groups: a harmful request and its harmless twin must never stand on both sides of a split.
#
# Half a minute on two cores with `mini`.

# %% tags=["parameters"]
MODEL = "mini"
PAIRS = 40
SITE = "final_norm"

# %%
# %matplotlib inline
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_val_score, permutation_test_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import safesteer_interp as si
from safesteer_interp.plotting import new_figure, panels, use_style
from safesteer_interp.statistics import cluster_auroc

use_style()

# %% [markdown]
# ## X, y and groups

# %%
model = si.load_model(MODEL)
requests = si.load_bundled(attacks=[si.Attack.TEXT])
names = list(dict.fromkeys(r.pair for r in requests if r.split is si.Split.FIT))[:PAIRS]
chosen = [r for r in requests if r.pair in names]
trace = si.collect(model, chosen, sites="resid_post,final_norm", reads="last_prompt")

X, y, groups = trace.rows(SITE), trace.labels.harmful, trace.labels.pairs
print("X", X.shape, "y", y.mean(), "groups", len(set(groups)))

# %% [markdown]
# ## Why the groups matter
#
# Twins share nouns and scenario. Split at random, and a flexible probe learns the pair; split by pair, and it must learn harm. The
# paper's probe (four principal components, then logistic regression) beside a logistic regression on all dimensions:

# %%
folds = GroupKFold(5, shuffle=True, random_state=0)
probes = {
    "paper's probe (4 PCs)": si.DecodingProbe(4),
    "all dimensions": make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000)),
    "LDA, shrunk": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
}
scores = {name: cross_val_predict(probe, X, y, groups=groups, cv=folds, method="decision_function") for name, probe in probes.items()}

# %% [markdown]
# scikit-learn's mean over folds has no interval that respects pairs. Score the out-of-fold values once, and resample pairs:

# %%
words = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=2000))
texts = np.array([r.text for r in chosen])
scores["control: bag of words"] = cross_val_predict(words, texts, y, groups=groups, cv=folds, method="decision_function")
rows = [{"label": name, **cluster_auroc(s, y, groups).as_row()} for name, s in scores.items()]
fig, ax = new_figure(height=2.0)
panels.forest(ax, pd.DataFrame(rows), by="label", kind="series", reference=0.5, xlabel="AUROC, out of fold", legend=False)
fig

# %% [markdown]
# ## How far does luck get?
#
# `permutation_test_score` shuffles labels anywhere; within pairs is the honest null, because twins always have one of each. The groups
# argument does that: labels are exchanged only inside a group.

# %%
value, null, p = permutation_test_score(
    si.DecodingProbe(4), X, y, groups=groups, cv=folds, scoring="roc_auc", n_permutations=40, random_state=0
)
print(f"AUROC {value:.2f}; shuffled within pairs {null.mean():.2f}, at most {null.max():.2f}; p = {p:.3f}")

# %% [markdown]
# ## How many components?
#
# A parameter search is one line more. Choose on these folds, and report on pairs that had no part in it.

# %%
widths = (1, 2, 4, 8, 16, 32)
curve = []
for k in widths:
    s = cross_val_predict(si.DecodingProbe(k), X, y, groups=groups, cv=folds, method="decision_function")
    curve.append({"components": k, "of": "probe", **cluster_auroc(s, y, groups).as_row()})
fig, ax = new_figure(width="column", height=2.4)
panels.layer_curve(ax, pd.DataFrame(curve), x="components", by="of", kind="series", evenly=True, xlabel="principal components",
                   ylabel="AUROC", reference=0.5, legend=False)
fig

# %% [markdown]
# ## Features of your own
#
# Rows of several sites side by side are just a wider X. Does a difference between two layers tell more than the later one alone?

# %%
late, middle = trace.sites[-2], trace.sites[len(trace.sites) // 2]
features = {str(late): trace.rows(late), f"{late} minus {middle}": trace.rows(late) - trace.rows(middle),
            "both": np.hstack([trace.rows(late), trace.rows(middle)])}
pd.DataFrame(
    {"AUROC": [cross_val_score(si.DecodingProbe(4), f, y, groups=groups, cv=folds, scoring="roc_auc").mean().round(3) for f in features.values()]},
    index=list(features),
)

# %% [markdown]
# ## From a probe to a direction
#
# A fitted probe knows the direction of its boundary in the model's own coordinates. It can be saved, and it can guide decoding
# (`si.fit_probe` fits it on a trace together with the sign test that guidance needs).

# %%
probe = si.DecodingProbe(4).fit(X, y)
print(probe)
difference = X[y].mean(0) - X[~y].mean(0)
print("cosine with the difference of means:", round(float(probe.direction_ @ difference / np.linalg.norm(difference)), 2))
