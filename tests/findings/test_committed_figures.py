"""Every committed figure, drawn again for one column of a paper: no word leaves it, and none is too small to be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from safesteer_interp.files import read_json
from safesteer_interp.plotting.fit import fit_words
from safesteer_interp.plotting.style import SMALLEST, label_all, style
from safesteer_interp.runner import discover
from safesteer_interp.runner.analysis import like_returned
from safesteer_interp.runner.folders import RECORD
from safesteer_interp.runner.params import from_record
from safesteer_interp.runner.tables import table_files

FOLDERS = sorted(path.parent for path in (Path(__file__).resolve().parents[2] / "figures").glob(f"*/mini/{RECORD}"))


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
