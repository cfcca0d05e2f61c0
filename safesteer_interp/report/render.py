"""Rendering: figures and printed tables of a result folder, from its CSV files alone. Imports neither torch nor transformers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed
from matplotlib.figure import Figure

from safesteer_interp.errors import InputError, SafeSteerError
from safesteer_interp.files import read_json, write_json, write_text
from safesteer_interp.plotting.save import FORMATS, save_figure
from safesteer_interp.plotting.style import Size, label_all, style
from safesteer_interp.report.stamps import stamp_of
from safesteer_interp.report.tables import latex, markdown
from safesteer_interp.runner.analysis import Analysis, like_returned
from safesteer_interp.runner.discovery import discover
from safesteer_interp.runner.folders import RECORD, remove_stale, written_files
from safesteer_interp.runner.params import from_record
from safesteer_interp.runner.results import MEASURE_ERRORS
from safesteer_interp.runner.tables import table_files

COLUMN = "-column"
"""What the names of pictures for one column end in."""
_SIZES: tuple[tuple[Size, str, tuple[str, ...]], ...] = (("page", "", FORMATS), ("column", COLUMN, ("pdf", "svg")))


def render_folder(analysis: Analysis, folder: Path) -> list[Path]:
    """Draws one result folder again: <figure>.pdf, .svg, .png, <figure>-column.pdf, .svg and <table>.tex, .md.

    Every picture is stamped with its model, data, n and profile.
    Pictures the suite once drew here and draws no longer are removed; files of anyone else's stay.
    Raises InputError, naming the file, when a table or provenance.json is missing or unreadable.
    """
    record = read_json(folder / RECORD)
    p = from_record(analysis.params, record["params"])
    tables = table_files(folder, list(record["tables"]))
    words = stamp_of(record, read_json(folder / "claims.json")["claims"])
    written = _draw(analysis, tables, p, folder, words)
    for name, table in tables.items():
        where = f"{record['model']['name']}, {record['data']['name']}"
        label = f"tab:{analysis.id}" + ("" if name == "table" else f":{name}")
        for kind, text in (
            ("tex", latex(table, caption=f"{analysis.question} ({where})", label=label)),
            ("md", f"{analysis.question} ({where})\n\n{markdown(table)}"),
        ):
            write_text(folder / f"{name}.{kind}", text)
            written.append(folder / f"{name}.{kind}")
    _keep_record(folder, record, [path.name for path in written])
    return written


def _draw(analysis: Analysis, tables: Mapping[str, pd.DataFrame], p: Any, folder: Path, words: str) -> list[Path]:
    """The figures of a page's width, and those for one column of a paper, which the gallery shows on a phone."""
    written: list[Path] = []
    for size, suffix, formats in _SIZES:
        with style(size):
            drawn = analysis.draw(like_returned(tables), p)
            figures = {"figure": drawn} if isinstance(drawn, Figure) else dict(drawn)
            for name, figure in figures.items():
                if size == "column":
                    label_all(figure)
                written += save_figure(figure, folder, f"{name}{suffix}", words=words, formats=formats)
    return written


def _keep_record(folder: Path, record: dict[str, Any], drawn: list[str]) -> None:
    """Removes what an earlier drawing left behind, and writes down what lies there now; an old record without a list stays as it is."""
    listed = sorted({"claims.json", *(f"{name}.csv" for name in record["tables"]), *drawn})
    remove_stale(folder, written_files(folder, record), listed)
    if record.get("files", listed) != listed:
        write_json(folder / RECORD, {**record, "files": listed})


def render(ids: Iterable[str] = (), *, figures: Path = Path("figures"), folder: Path | None = None) -> list[Path]:
    """Draws every stored result of the analyses asked for (none asked: all) again, one process per core; no model is loaded.

    Raises UsageError for an unknown analysis, InputError when there is no result, or, once the others are drawn, naming the results
    that could not be (a damaged file, or a table from before the analysis was changed).
    """
    known, wanted = discover(folder), list(ids)
    results = [(a.id, record.parent) for a in known.choose(wanted) for record in sorted((Path(figures) / a.id).glob(f"*/{RECORD}"))]
    outcomes = Parallel(n_jobs=max(1, min(len(results), os.cpu_count() or 1)))(
        delayed(_attempt)(analysis, place, folder) for analysis, place in results
    )
    written = [path for paths, _ in outcomes for path in paths]
    failures = [*map(str, known.failing(wanted).values()), *(failure for _, failure in outcomes if failure)]
    if failures:
        raise InputError("could not draw " + "; ".join(failures) + ". Run these analyses again with `safesteer run`.")
    if not written:
        raise InputError(f"no stored result below {figures}; make some with `safesteer run`.")
    return written


def _attempt(analysis: str, place: Path, folder: Path | None) -> tuple[list[Path], str]:
    """One folder drawn in a process of its own: the files written, or why they could not be."""
    try:
        return render_folder(discover(folder)[analysis], place), ""
    except MEASURE_ERRORS as cause:
        return [], f"{place}: {cause if isinstance(cause, SafeSteerError) else repr(cause)}"
