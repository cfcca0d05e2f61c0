"""Words that do not fit their place are broken into lines: titles, labels of axes and colour bars, and the names of rows.
Labels of ticks that touch are spared (numbers), turned (names of columns) or given more height (names of rows); see `ticks`.

A figure of one column has half the room of a page's, and the same words. They are measured once the figure is laid out.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from safesteer_interp.plotting.ticks import part_ticks

ROOM = 0.36
"""Share of a figure's width that the names of rows may take in a column."""
WIDE = 5.0
"""Inches; narrower figures are a column's."""
_EDGE = 3
"""Pixels that stay free at the edge of a figure."""
_WHOLE = "_safesteer_whole"
"""Where a text that was broken keeps what it said."""


def fit_words(figure: Figure) -> bool:
    """Breaks the lines of a laid-out figure's words where they would leave it or meet a neighbour's.

    True when any was broken: then the figure is to be laid out and asked again, for shorter names of rows leave the others more room.
    """
    width = figure.bbox.width
    changed = False
    if width / figure.dpi < WIDE:
        for ax in figure.axes:
            changed |= _break_names(ax.yaxis, ROOM * width)
    for ax in figure.axes:
        changed |= part_ticks(ax.xaxis) | part_ticks(ax.yaxis)
    if changed:
        return True
    for ax in figure.axes:
        for title in _titles(ax):
            changed |= _narrow(title, _next_title(figure, ax, title) - title.get_window_extent().x0)
        place = ax.get_window_extent()
        for axis, reach in (
            (ax.xaxis, min(2 * min(place.x0 + place.width / 2, width - place.x0 - place.width / 2) - 2 * _EDGE, 1.5 * place.width)),
            (ax.yaxis, max(place.height * 1.12, 40.0)),
        ):
            changed |= _narrow(axis.label, reach, upright=axis is ax.yaxis)
    return changed


def _titles(ax: Axes) -> list[Text]:
    """The title on the left, where the style sheet has them."""
    words = ax.get_title(loc="left")
    return [text for text in ax.get_children() if words and isinstance(text, Text) and text.get_text() == words][:1]


def _next_title(figure: Figure, ax: Axes, title: Text) -> float:
    """Where the next title on the same height begins, or the figure ends, in pixels."""
    own = title.get_window_extent()
    others = [found.get_window_extent() for other in figure.axes if other is not ax for found in _titles(other)]
    after = [box.x0 for box in others if box.x0 > own.x0 and box.y0 < own.y1 and box.y1 > own.y0]
    return float(min([*(x - 2 * _EDGE for x in after), figure.bbox.width - _EDGE]))


def _narrow(text: Text, room: float, *, upright: bool = False) -> bool:
    """Breaks one text so that each line fits the room (pixels), once more where the room has shrunk; words are left whole.

    What was written in lines of its own is left as it is.
    """
    shown = text.get_text()
    words = getattr(text, _WHOLE, shown)
    if not shown.strip() or "\n" in words or room <= 0 or _length(text, upright) <= room:
        return False
    for most in range(max(map(len, shown.split("\n"))) - 1, 3, -1):
        text.set_text(break_lines(words, most))
        if _length(text, upright) <= room:
            break
    setattr(text, _WHOLE, words)
    return text.get_text() != shown


def _length(text: Text, upright: bool) -> float:
    box = text.get_window_extent()
    return float(box.height if upright else box.width)


def break_lines(words: str, most: int) -> str:
    """The words in as few lines of at most `most` letters as can be, of about equal length; nothing is cut within a word."""
    parts = words.split(" ")
    for lines in range(1, len(parts) + 1):
        limit = max(-(-len(words) // lines), 1)
        while limit <= most:
            found = _lines(parts, limit)
            if len(found) <= lines:
                return "\n".join(found)
            limit += 1
    return "\n".join(_lines(parts, most))


def _lines(parts: list[str], limit: int) -> list[str]:
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) <= limit:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return lines


def _break_names(axis: Axis, room: float) -> bool:
    """Breaks the names of rows that are wider than the room (pixels), where rows are far enough apart; numbers on an axis are none."""
    boxes = [(label.get_text(), label.get_window_extent()) for label in axis.get_ticklabels()]
    if not isinstance(axis.get_major_locator(), FixedLocator) or not boxes:
        return False
    if axis.axes.get_window_extent().height / len(boxes) < 2.2 * min(box.height for _, box in boxes):
        return False
    names = [(name, box.width) for name, box in boxes]
    broken = [
        break_lines(name, max(6, int(len(name) * room / wide))) if wide > room and " " in name and "\n" not in name else name
        for name, wide in names
    ]
    if broken == [name for name, _ in names]:
        return False
    axis.set_ticklabels(broken)
    return True
