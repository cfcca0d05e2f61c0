# %% [markdown]
# # Tracers: hooks, nnsight, TransformerLens, NDIF
#
# The same states by three libraries. `hooks` is plain PyTorch and the default; `nnsight` runs the same request here or on NDIF's
# machines; `transformer_lens` gives named hook points and component analysis. They agree to float tolerance on every family that they serve
# (`transformer_lens` those it has an adapter for), so that you may take whichever suits the work, and the store does not care who made a trace.
#
# Seconds, on `planted`. NDIF is stood in for by nnsight's local execution, which serialises the very job that would be sent.

# %% tags=["parameters"]
MODEL = "planted"
REQUESTS = 12

# %%
# %matplotlib inline
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd

import safesteer_interp as si
from safesteer_interp.plotting import new_figure, panels, use_style
from safesteer_interp.tracing import TRACERS

use_style()
model = si.load_model(MODEL)
requests = si.load_requests("planted" if MODEL == "planted" else "bundled")[:REQUESTS]
print(*TRACERS)

# %% [markdown]
# ## One question, three tracers
#
# Sites are named the same everywhere: `embed`, `resid_post.3`, `attn_out.3`, `mlp_out.3`, `final_norm`. So are reads: the last prompt
# token, the mean over the image, the passes that consumed the first two answer tokens.

# %%
ASK = {"sites": "all", "reads": "last_prompt,image_mean,step:1-2", "sampling": si.Sampling(4), "store": None, "progress": False}
traces, seconds = {}, {}
for name in TRACERS:
    began = time.perf_counter()
    traces[name] = si.collect(model, requests, tracer=name, **ASK)
    seconds[name] = time.perf_counter() - began
traces["hooks"]

# %% [markdown]
# ## Do they agree?
#
# The largest difference of a state, as a share of its length, at every site. Float32 has about seven digits.

# %%
def apart(one, two, read):
    a, b = one.stack(read), two.stack(read)
    known = np.isfinite(a).all(-1) & np.isfinite(b).all(-1)  # a request without an image has no image_mean
    gap = np.linalg.norm(a - b, axis=-1) / np.maximum(np.linalg.norm(a, axis=-1), 1e-9)
    return np.where(known, gap, 0).max(-1)


rows = []
for name in ("nnsight", "transformer_lens"):
    for read in ("last_prompt", "step:1"):
        for site, gap in zip(traces["hooks"].sites, apart(traces["hooks"], traces[name], read)):
            rows.append({"tracer": name, "read": read, "site": str(site), "gap": gap})
gaps = pd.DataFrame(rows)
gaps.groupby(["tracer", "read"])["gap"].max()

# %% [markdown]
# And the answers, token by token:

# %%
{name: trace.generated == traces["hooks"].generated for name, trace in traces.items()}

# %% [markdown]
# ## NDIF
#
# With a key in `NDIF_API_KEY`, `remote=True` (or `--remote`) sends each batch as one job to NDIF and brings back only the asked states;
# the weights stay there. `remote="local"` serialises the same job and runs it here, which is how the tests hold that path:

# %%
far = si.collect(model, requests, remote="local", **ASK)
print("largest difference:", float(max(apart(traces["hooks"], far, read).max() for read in ("last_prompt", "step:1"))))

# %% [markdown]
# What cannot run remotely is said before anything is sent:

# %%
from safesteer_interp.errors import SafeSteerError

try:
    si.collect(model, requests, remote=True, **ASK)
except SafeSteerError as cause:
    print(cause)

# %% [markdown]
# ## Edits go through every tracer, too
#
# An `Edit` changes states while the model runs; here half a state's length along a random direction at layer 3.

# %%
from safesteer_interp.steering import Schedule, add, at_sites
from safesteer_interp.vectors import random_direction

like = si.refusal_directions(si.collect(model, si.load_requests("planted")[:200] if MODEL == "planted" else requests, sites="resid_post.3",
                                        reads="last_prompt", store=None, progress=False))[0]
push = Schedule(at_sites("resid_post.3")).edit(add(random_direction(like), 0.5))
moved = {name: si.collect(model, requests, tracer=name, edits=[push], **ASK) for name in TRACERS}
shift = pd.DataFrame(
    [{"layer": str(s.layer) if s.layer is not None else str(s), "tracer": name, "value": float(v)}
     for name in TRACERS for s, v in zip(moved[name].sites, apart(moved[name], traces[name], "last_prompt")) if s.kind in ("resid_post", "final_norm")]
)
fig, ax = new_figure(height=2.4)
panels.layer_curve(ax, shift.assign(low=shift["value"], high=shift["value"]), by="tracer", kind="series", ylabel="largest shift (share of length)")
fig

# %% [markdown]
# Nothing moves before layer 3, everything after it, and the three curves are one. Which to take:
#
# | you want | take |
# |---|---|
# | any supported family, quickly | `hooks` |
# | a model that does not fit here | `nnsight` with `--remote` |
# | heads, named hook points, TransformerLens' own tools | `transformer_lens` |
#
# Their time for this trace, here:

# %%
pd.Series(seconds).round(2).rename("seconds").to_frame()
