"""Panels: each draws one kind of plot on given axes from a tidy table, with its intervals."""

from __future__ import annotations

from safesteer_interp.plotting.panels.candidates import candidate_grid
from safesteer_interp.plotting.panels.curves import dose_curve, layer_curve
from safesteer_interp.plotting.panels.densities import scatter_densities
from safesteer_interp.plotting.panels.forests import forest
from safesteer_interp.plotting.panels.matrices import layer_step_heatmap, transfer_matrix
from safesteer_interp.plotting.panels.planes import paired_arrows, tradeoff_plane
from safesteer_interp.plotting.panels.rows import score_rows
from safesteer_interp.plotting.panels.shared import legend_below, reference_band
from safesteer_interp.plotting.panels.strips import token_strip

__all__ = [
    "candidate_grid",
    "dose_curve",
    "forest",
    "layer_curve",
    "layer_step_heatmap",
    "legend_below",
    "paired_arrows",
    "reference_band",
    "scatter_densities",
    "score_rows",
    "token_strip",
    "tradeoff_plane",
    "transfer_matrix",
]
