"""Tracing: states of every request at sites and reads, captured in one pass and kept.

- `collect`: states of requests at sites and reads: makes a trace, or finds it
- `Trace`: what was captured
- `Traced`: what fitting reads of one: a trace or a view
- `Labels`: the labels of its requests as arrays
- `labels_of`: those of an index
- `fitting_rows`: the rows a fit may see
- `TraceView`: the part of stored traces that one analysis asked for
- `TraceSpec`: which states are wanted, of which requests
- `pick`: the requests a spec asks for
- `Store`: traces on disk
- `TraceLibrary`: which of the wanted traces a store holds, made and opened
- `Plan`: what collecting would cost
- `Origin`: the model, site, read and template that fitted numbers belong to
- `Sampling`: how answers are generated
- `Edit`: a change of states at sites
- `At`: where an edit is applied
- `TRACERS`: the three tracers by name
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach, moved

if TYPE_CHECKING:
    from safesteer_interp.tracing.collecting import collect
    from safesteer_interp.tracing.library import TraceLibrary
    from safesteer_interp.tracing.origin import Origin
    from safesteer_interp.tracing.plan import Plan
    from safesteer_interp.tracing.spec import TraceSpec, pick
    from safesteer_interp.tracing.store import Store
    from safesteer_interp.tracing.trace import Labels, Trace, Traced, fitting_rows, labels_of
    from safesteer_interp.tracing.tracer import TRACERS, At, Edit, Sampling
    from safesteer_interp.tracing.view import TraceView

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "collecting": ("collect",),
        "trace": ("Trace", "Traced", "Labels", "labels_of", "fitting_rows"),
        "view": ("TraceView",),
        "spec": ("TraceSpec", "pick"),
        "store": ("Store",),
        "library": ("TraceLibrary",),
        "plan": ("Plan",),
        "origin": ("Origin",),
        "tracer": ("Sampling", "Edit", "At", "TRACERS"),
    },
)

moved("safesteer_interp.tracing.collect", "safesteer_interp.tracing.collecting")
