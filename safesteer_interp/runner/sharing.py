"""One share of a run's traces, for several processes or machines that work into one store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from safesteer_interp.runner.execute import plan
from safesteer_interp.runner.session import RunSettings, Session
from safesteer_interp.tracing.parts import Share


def trace_share(ids: Iterable[str] = (), *, share: Share, session: Session | None = None, **options: Any) -> int:
    """Makes one share of the traces that `run` with the same arguments (`options`: those of `plan`) still lacks; `run` takes them over.

    Returns how many shards it made. Several processes, each with a share of its own, may be at it at once. Raises as `run` does, and
    for a request that cannot be used.
    """
    named = {name: options.pop(name) for name in list(options) if name in RunSettings.__dataclass_fields__}
    session = session or Session(RunSettings(**named))
    planned = plan(ids, session=session, **options)
    return sum(session.library.make_share(group, share) for group in planned.groups)
