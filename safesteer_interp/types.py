"""Shape-typed aliases (jaxtyping). Under pytest they are checked by beartype; at run time they cost nothing."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

Ids = Int[Tensor, "batch sequence"]
Mask = Int[Tensor, "batch sequence"]
Roles = Int[Tensor, "batch sequence"]  # values of sites.Role
Hidden = Float[Tensor, "batch sequence d"]
States = Float[Tensor, "batch d"]
Logits = Float[Tensor, "batch vocab"]
Vector = Float[Tensor, " d"]
StateRows = Float[np.ndarray, "n d"]  # one row per request, in the order of trace.index
StateStack = Float[np.ndarray, "sites n d"]
RowMask = Bool[np.ndarray, " n"]
