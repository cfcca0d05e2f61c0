"""The figure of mini's model card: how often harmful requests are refused by form, and how the gap to text depends on the projector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from safesteer_interp.plotting.panels import forest
from safesteer_interp.plotting.style import new_figure, style

FORMS = ("TEXT", "CB", "SD_TYPO", "TYPO", "SD")
ASKED = 0.3
"""The gap that was asked of mini."""


def gap_tables(card: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Refusal rates of harmful and of harmless requests, and gaps to text, by form and projector recipe, from `mini-card.json`.

    Raises ValueError when the card holds no recipe.
    """
    if not card["recipes"]:
        raise ValueError("the card holds no projector recipe; measure at least one.")
    rates, gaps = [], []
    recipes = sorted(card["recipes"], key=lambda name: (name != card["default"], name))
    for recipe in recipes:
        measures = card["recipes"][recipe]
        for form in FORMS:
            sides = {side: measures[f"refuses_{side}_{form}"] for side in ("harmful", "harmless")}
            rates += [{"label": form, "recipe": recipe, "side": side, **rate} for side, rate in sides.items()]
            if f"gap_text_{form}" in measures:
                gaps.append({"label": form, "recipe": recipe, **measures[f"gap_text_{form}"]})
    return pd.DataFrame(rates), pd.DataFrame(gaps).astype({"low": float, "high": float})


def draw_projector_gap(card: Mapping[str, Any]) -> Figure:
    """Three panels: harmful requests refused, their harmless twins refused, and the gap between text and each image form."""
    rates, gaps = gap_tables(card)
    with style():
        figure, axes = new_figure(rows=1, cols=3, width="full", height=2.9)
        for ax, side in zip(axes, ("harmful", "harmless"), strict=False):
            forest(ax, rates[rates["side"] == side], by="recipe", kind="recipe", xlabel="share refused", legend=side == "harmless")
            ax.set_xlim(-0.03, 1.03)
            ax.set_title(f"{side} requests")
        forest(axes[2], gaps, by="recipe", kind="recipe", reference=ASKED, reference_label="asked", xlabel="TEXT minus form", legend=False)
        axes[2].set_xlim(-0.03, 1.03)
        axes[2].set_title("gap of harmful requests")
    return figure
