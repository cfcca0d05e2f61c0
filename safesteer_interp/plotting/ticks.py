"""Labels of ticks that touch one another are told apart: fewer numbers, turned names of columns, more height for names of rows."""

from __future__ import annotations

import itertools

from matplotlib.axis import Axis
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, MaxNLocator

GAP = 2.0
"""Points between two labels beside one another."""
OVERLAP = 0.05
"""Share of its height that a label may reach into the next one; letters fill a little less than that height."""
TURN = 30.0
"""Degrees by which names of columns are turned that do not fit side by side."""
_GROWN = "_safesteer_heights"
"""Where a figure keeps how often it was made taller, which ends."""


def part_ticks(axis: Axis) -> bool:
    """Parts the touching labels of a laid-out axis; True when any was changed, for then the figure is to be laid out again."""
    across = axis is axis.axes.xaxis
    labels = [(at, label) for at, label in _labels(axis) if label.get_text().strip()]
    if not axis.axes.axison or len(labels) < 2 or (across and any(label.get_rotation() % 180 for _, label in labels)):
        return False
    if not _touching([label for _, label in labels], across):
        return False
    locator = axis.get_major_locator()
    if isinstance(locator, FixedLocator):
        if any(is_number(label.get_text()) for _, label in labels):
            return _spare(axis, labels, across)
        return _turn(labels) if across else _grow(axis, [label for _, label in labels])
    if isinstance(locator, MaxNLocator) and len(labels) > 2:
        locator.set_params(nbins=len(labels) - 2)
        return len(_labels(axis)) < len(labels)
    return False


def is_number(text: str) -> bool:
    """True for what a tick of a scale says, which may be left out beside others; a name may not."""
    try:
        float(text.replace("\u2212", "-"))
    except ValueError:
        return False
    return True


def _labels(axis: Axis) -> list[tuple[float, Text]]:
    """The labels that are seen, with their places, in order."""
    low, high = sorted(axis.get_view_interval())
    slack = 1e-6 * (high - low)
    seen = [(float(tick.get_loc()), tick.label1) for tick in axis.get_major_ticks()]
    return sorted(
        ((at, label) for at, label in seen if low - slack <= at <= high + slack and label.get_visible()), key=lambda found: found[0]
    )


def _touching(labels: list[Text], across: bool) -> bool:
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: float(box.x0 if across else box.y0))
    pairs = list(itertools.pairwise(boxes))
    if across:
        gap = GAP * labels[0].get_figure(root=True).dpi / 72  # type: ignore[union-attr]
        return any(b.x0 - a.x1 < gap for a, b in pairs)
    return any(a.y1 - b.y0 > OVERLAP * min(a.height, b.height) for a, b in pairs)


def _spare(axis: Axis, labels: list[tuple[float, Text]], across: bool) -> bool:
    """Leaves out numbers, evenly, until none touches another or a name; ticks and names stay."""
    numbers = [at for at, label in labels if is_number(label.get_text())]
    names = [label for _, label in labels if not is_number(label.get_text())]
    for every in range(1, len(numbers) + 1):
        kept = [(at, label) for at, label in labels if at in numbers[::every]]
        kept = [(at, label) for at, label in kept if not any(_touching([label, name], across) for name in names)]
        if not _touching([label for _, label in kept], across):
            break
    shown = {at for at, _ in kept} | {at for at, label in labels if label in names}
    if len(shown) == len(labels):
        return False
    texts = [tick.label1.get_text() if float(tick.get_loc()) in shown else "" for tick in axis.get_major_ticks()]
    axis.set_ticklabels(texts)
    return True


def _turn(labels: list[tuple[float, Text]]) -> bool:
    for _, label in labels:
        label.set_rotation(TURN)
        label.set_horizontalalignment("right")
    return True


def _grow(axis: Axis, labels: list[Text]) -> bool:
    """Makes the figure tall enough for the rows of this panel, if all its panels grow alike."""
    figure = axis.axes.get_figure(root=True)
    times = getattr(figure, _GROWN, 0)
    if figure is None or times >= 4:
        return False
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: float(box.y0))
    lacking = max((1 - OVERLAP) * min(a.height, b.height) / max(b.y0 - a.y0, 1.0) for a, b in itertools.pairwise(boxes))
    setattr(figure, _GROWN, times + 1)
    figure.set_figheight(figure.get_figheight() * min(max(lacking, 1.02), 1.5))
    return True
