"""Every committed figure, drawn again for one column of a paper: no word leaves it, and none is too small to be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from safesteer_interp.files import read_json
from safesteer_interp.plotting.fit import fit_words
from safesteer_interp.plotting.style import SMALLEST, Size, label_all, style
from safesteer_interp.runner import discover
from safesteer_interp.runner.analysis import like_returned
from safesteer_interp.runner.folders import RECORD
from safesteer_interp.runner.params import from_record
from safesteer_interp.runner.tables import table_files

FOLDERS = sorted(path.parent for path in (Path(__file__).resolve().parents[2] / "figures").glob(f"*/mini/{RECORD}"))


ONE_LEGEND = {
    "component_attribution": {"head", "MLP", "exact", "gradient", "integrated gradients", "control: random circuits"},
    "patching_text_to_image": {
        "the same request as text",
        "another harmful request",
        "its harmless twin",
        "attention's output",
        "MLP's output",
    },
    "modality_stealth": {"TEXT (no image)", "CB (text, blank image)", "SD (picture)", "TYPO (typography)", "on the probe's axis"},
    "decoding_separability": {"answer to a harmless request", "refusal", "compliance", "probe fitted on prompts", "probe fitted on tokens"},
    "readable_and_used": {"probe", "refusal", "MSAV", "whole state"},
}
"""Findings whose panels of different things share a legend, and names that it has."""


def drawn(name: str, size: Size = "page") -> dict[str, Figure]:
    """The figures of a committed finding, drawn from its tables."""
    folder = next(folder for folder in FOLDERS if folder.parent.name == name)
    analysis, record = discover(None)[name], read_json(folder / RECORD)
    tables: Any = like_returned(table_files(folder, list(record["tables"])))
    with style(size):
        found = analysis.draw(tables, from_record(analysis.params, record["params"]))
    return {"figure": found} if isinstance(found, Figure) else found


def color_of(handle: Any) -> str:
    return to_hex(handle.get_color() if hasattr(handle, "get_color") else handle.get_facecolor()[0])


@pytest.mark.long
@pytest.mark.parametrize("name", list(ONE_LEGEND))
def test_no_colour_means_two_things_in_one_legend(name: str) -> None:
    for figure in drawn(name).values():
        entries: dict[str, str] = {}
        for ax in figure.axes:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                color = color_of(handle[0] if isinstance(handle, tuple) else handle)
                assert entries.setdefault(label, color) == color, "one thing has one colour in all panels"
        if set(entries) >= ONE_LEGEND[name]:
            assert len(set(entries.values())) == len(entries)
            return
    raise AssertionError(f"no figure of {name} names all of {sorted(ONE_LEGEND[name])}")


@pytest.mark.long
def test_shares_that_tell_nothing_are_named_and_do_not_squash_the_others() -> None:
    panel = drawn("attention_routes")["all_layers"].axes[1]
    left, right = panel.get_xlim()
    rows = [label.get_text() for label in panel.get_yticklabels()]
    assert left > -2 and right < 2
    assert "SD: user to last" not in rows and "SD: image to all" in rows and "TYPO: user to last" in rows
    title = panel.get_title(loc="left")
    assert title.startswith(f"left out, interval wider than 2 ({24 - len(rows)} rows)") and "user to last" in title


@pytest.mark.long
def test_a_trade_off_shows_every_point_and_interval_on_axes_that_fit_them() -> None:
    for name, place in (("defense_ablation", 1), ("defense_comparison", 0), ("defense_composition", 0)):
        plane = drawn(name)["figure"].axes[place]
        (left, right), (bottom, top) = plane.get_xlim(), plane.get_ylim()
        segments = np.concatenate(
            [np.concatenate(lines.get_segments()) for lines in plane.collections if isinstance(lines, LineCollection)]
        )
        points = np.concatenate(
            [np.asarray(p.get_offsets()) for p in plane.collections if isinstance(p, PathCollection) and len(np.asarray(p.get_offsets()))]
        )
        for seen in (segments, points):
            assert (seen >= (left, bottom)).all() and (seen <= (right, top)).all(), name
        assert np.ptp(segments[:, 0]) > 0.85 * (right - left) and np.ptp(segments[:, 1]) > 0.85 * (top - bottom), name


def words(figure: Figure) -> list[Text]:
    """Titles, labels of axes, names of rows, legends, and what is written beside the data."""
    found = [text for legend in figure.legends for text in legend.get_texts()]
    for ax in (ax for ax in figure.axes if ax.get_visible()):
        title = ax.get_title(loc="left")
        found += [text for text in ax.get_children() if isinstance(text, Text) and text.get_text() == title]
        found += [*ax.texts, *(ax.get_yticklabels() if ax.axison else []), *([ax.xaxis.label, ax.yaxis.label] if ax.axison else [])]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


@pytest.mark.long
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.parent.name)
def test_no_word_of_a_figure_leaves_its_column(folder: Path) -> None:
    analysis, record = discover(None)[folder.parent.name], read_json(folder / RECORD)
    tables: Any = like_returned(table_files(folder, list(record["tables"])))
    with style("column"):
        drawn = analysis.draw(tables, from_record(analysis.params, record["params"]))
        for name, figure in ({"figure": drawn} if isinstance(drawn, Figure) else drawn).items():
            label_all(figure)
            figure.draw_without_rendering()
            while fit_words(figure):
                figure.draw_without_rendering()
            boxes = {text: text.get_window_extent() for text in words(figure)}
            assert [text.get_text() for text, box in boxes.items() if box.x0 < -2 or box.x1 > figure.bbox.width + 2] == [], name
            assert [text.get_text() for text in boxes if text.get_fontsize() < SMALLEST] == [], name
