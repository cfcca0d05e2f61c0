"""Figures are held to their artists, labels and bytes, not to their pixels; colours to what a colour-blind reader can tell apart."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from safesteer_interp.plotting import new_figure, panels, save_figure, style
from safesteer_interp.plotting.palette import BROWN, ENTITIES, GREEN, HARM, INDIGO, OKABE_ITO, VERMILLION, style_of, styles_of
from safesteer_interp.plotting.panels.planes import pareto_front
from safesteer_interp.plotting.panels.strips import visible
from safesteer_interp.plotting.stamp import BAND
from safesteer_interp.plotting.style import SMALLEST, in_column, label_all

# Viénot, Brettel and Mollon (1999) for protan and deutan, in linear RGB; Machado, Oliveira and Fernandes (2009) for tritan.
DEFICIENCIES = {
    "normal": np.eye(3),
    "protan": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    "deutan": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
    "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])


def lab(color: str, deficiency: str) -> np.ndarray:
    """CIELAB (D65) of a colour as a reader with the deficiency sees it."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(DEFICIENCIES[deficiency] @ linear, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def band(**keys: Any) -> dict[str, Any]:
    return {**keys, "low": keys["value"] - 0.05, "high": keys["value"] + 0.05, "n": 40}


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


LOOKS = [(kind, name, look) for kind, group in ENTITIES.items() if kind != "verdict" for name, look in group.items()]
"""Every entity that can meet another in a figure."""


ALIASES = (
    {("method", "safesteer"), ("part", "safesteer"), ("scorer", "probe")},
    {("method", "random_direction"), ("scorer", "random")},
    {("method", "safesteer-paper"), ("part", "paper")},
)


def same(first: tuple[str, str, Any], second: tuple[str, str, Any]) -> bool:
    """One thing under two kinds: no defense and its part, a harmless request and the answer to it, SafeSteer and its probe's choice."""
    return first[1] == second[1] or any({first[:2], second[:2]} <= names for names in ALIASES)


@pytest.mark.parametrize("deficiency", list(DEFICIENCIES))
def test_any_two_entities_are_told_apart_by_every_reader(deficiency: str) -> None:
    seen = {look.color: lab(look.color, deficiency) for _, _, look in LOOKS}
    confused = [
        (a[:2], b[:2])
        for a, b in itertools.combinations(LOOKS, 2)
        if a[2].marker == b[2].marker and not same(a, b) and np.linalg.norm(seen[a[2].color] - seen[b[2].color]) <= 10
    ]
    assert not confused, "neither marker nor colour tells them apart"


@pytest.mark.parametrize("deficiency", list(DEFICIENCIES))
@pytest.mark.parametrize("kind", ["attack", "class", "outcome", "modality", "verdict"])
def test_colours_of_a_kind_stay_apart_for_every_reader(kind: str, deficiency: str) -> None:
    colors = {s.color for s in ENTITIES[kind].values()}
    assert len(colors) == len(ENTITIES[kind]), "no two entities of a kind share a colour"
    nearest = min(np.linalg.norm(lab(a, deficiency) - lab(b, deficiency)) for a, b in itertools.combinations(colors, 2))
    assert nearest > 10


def test_vermillion_is_harm_and_nothing_else() -> None:
    assert {(kind, name) for kind, name, look in LOOKS if look.color == VERMILLION} == {
        ("class", "harmful"), ("modality", "harmful_image"), ("outcome", "comply"),
    }  # fmt: skip
    assert all(styles_of("series", [f"layer {i}" for i in range(14)])[f"layer {i}"].color != VERMILLION for i in range(14))


@pytest.mark.parametrize("deficiency", list(DEFICIENCIES))
def test_probe_scores_are_vermillion_where_harmful_and_two_equal_ones_of_either_sign_look_different(deficiency: str) -> None:
    colors = mpl.colormaps[HARM]
    assert np.linalg.norm(lab(to_hex(colors(0.83)), "normal") - lab(VERMILLION, "normal")) < 5
    assert np.linalg.norm(lab(to_hex(colors(0.17)), "normal") - lab(GREEN, "normal")) < 5
    for away in (0.1, 0.2, 0.3, 0.4, 0.5):
        assert np.linalg.norm(lab(to_hex(colors(0.5 - away)), deficiency) - lab(to_hex(colors(0.5 + away)), deficiency)) > 10


def test_entities_use_the_colours_of_the_palette() -> None:
    for kind, _, look in LOOKS:
        assert kind == "control" or look.color in {*OKABE_ITO, BROWN, INDIGO, "#3d3d3d", "#8f8f8f", "#8c8c8c", "#6b6b6b"}


def test_every_control_is_grey_and_every_attack_has_a_look() -> None:
    from safesteer_interp.requests import Attack

    for look in ENTITIES["control"].values():
        assert len(set(to_rgb(look.color))) == 1
    assert {str(a) for a in Attack} <= set(ENTITIES["attack"])
    assert style_of("method", "bag of words") is ENTITIES["control"]["bag_of_words"]
    assert style_of("method", "SafeSteer").label == "SafeSteer"


def test_unknown_entities_keep_one_look_and_differ_side_by_side() -> None:
    assert style_of("model", "someone/else") == style_of("model", "someone/else")
    looks = styles_of("series", [f"layer {i}" for i in range(14)])
    assert len({(s.color, s.marker, s.line) for s in looks.values()}) == 14


def test_layer_curve_draws_a_line_and_a_band_per_entity() -> None:
    rows = [band(attack=a, layer=x, value=0.6) for a in ("SD", "CB", "shuffled_labels") for x in ("embed", 0, 1, 2, "final_norm")]
    with style():
        figure, ax = new_figure(width="column")
        panels.layer_curve(ax, pd.DataFrame(rows), ylabel="AUROC", reference=0.5)
        figure.draw_without_rendering()
    assert [line.get_color() for line in ax.lines[:3]] == [style_of("attack", a).color for a in ("CB", "SD", "shuffled_labels")]
    assert len(ax.collections) == 3
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [-1, 0, 1, 2, 3])
    assert ax.get_xticklabels()[0].get_text() == "embed"
    assert ax.get_xlabel() == "decoder layer" and ax.get_ylabel() == "AUROC"
    assert labels(figure) == ["CB (text, blank image)", "SD (picture)", "control: shuffled labels"]
    assert figure.get_figwidth() == pytest.approx(3.4)


def test_a_single_point_gets_a_bar_not_a_vanishing_band() -> None:
    with style():
        _, ax = new_figure()
        panels.layer_curve(ax, pd.DataFrame([band(attack="CB", layer=3, value=0.7)]))
    segment = ax.collections[0].get_segments()[0]
    np.testing.assert_allclose(segment, [[3, 0.65], [3, 0.75]])


def test_two_panels_share_one_legend() -> None:
    table = pd.DataFrame([band(attack=a, layer=x, value=0.6) for a in ("CB", "SD") for x in range(3)])
    with style():
        figure, axes = new_figure(1, 2)
        for ax in axes:
            panels.layer_curve(ax, table)
    assert len(figure.legends) == 1 and len(labels(figure)) == 2


def test_the_legend_covers_no_axes() -> None:
    table = pd.DataFrame([band(attack=a, layer=x, value=0.6) for a in ENTITIES["attack"] for x in range(3)])
    with style():
        figure, ax = new_figure(width="column")
        panels.layer_curve(ax, table, ylabel="AUROC")
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        assert legend.y1 <= ax.get_tightbbox().y0 + 1
        assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1


def test_dose_curve_marks_the_untouched_model() -> None:
    with style():
        _, ax = new_figure()
        panels.dose_curve(ax, pd.DataFrame([band(attack="SD", dose=d, value=0.5) for d in (-1, 0, 1)]), ylabel="P(refusal)")
    assert any(list(line.get_xdata()) == [0.0, 0.0] for line in ax.lines)


def test_forest_rows_keep_the_order_of_the_table() -> None:
    rows = [band(label=name, method=m, value=0.7) for name in ("TYPO", "CB") for m in ("probe", "bag_of_words")]
    with style():
        figure, ax = new_figure()
        panels.forest(ax, pd.DataFrame(rows), by="method", kind="series", reference=0.5, xlabel="AUROC")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["TYPO", "CB"]
    assert ax.yaxis_inverted() and ax.get_xlabel() == "AUROC"
    assert labels(figure) == ["probe", "control: bag of words"]


def test_a_row_of_one_entity_is_not_moved_off_its_line_and_a_missing_value_is_named() -> None:
    table = pd.DataFrame([band(label=name, attack=name, value=v) for name, v in (("CB", 0.7), ("SD", float("nan")))])
    table.loc[1, ["low", "high"]] = [0.4, 0.6]
    with style():
        _, ax = new_figure()
        panels.forest(ax, table, by="attack")
    points = [
        tuple(points.get_offsets()[0]) for points in ax.collections if len(points.get_offsets()) and points.get_offsets()[0][0] == 0.7
    ]
    assert points == [(0.7, 0.0)]
    assert [t.get_text() for t in ax.texts] == ["no value: not reached"] and ax.texts[0].xy == (0.5, 1.0)


def test_heatmap_hatches_what_the_interval_cannot_tell_from_the_centre() -> None:
    rows = [band(step=s, layer=x, value=v) for s, x, v in ((0, 0, 0.5), (0, 1, 0.9), (1, 0, 0.52), (1, 1, 0.3))]
    with style():
        figure, ax = new_figure()
        panels.layer_step_heatmap(ax, pd.DataFrame(rows), center=0.5)
    assert len([p for p in ax.patches if p.get_hatch()]) == 2
    assert figure.axes[-1].get_ylabel() == "AUROC"
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), [[0.5, 0.52], [0.9, 0.3]])


def test_transfer_matrix_writes_value_and_interval_and_frames_the_diagonal() -> None:
    rows = [band(trained_on=a, tested_on=b, value=0.8) for a in ("SD", "CB", "all but one") for b in ("SD", "CB")]
    with style():
        _, ax = new_figure()
        panels.transfer_matrix(ax, pd.DataFrame(rows))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["CB", "SD", "all but one"]
    assert {t.get_text() for t in ax.texts} == {"0.80", "0.75–0.85"}
    assert len(ax.patches) == 2


def test_scatter_separates_classes_by_colour_and_forms_by_marker() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"pc1": rng.normal(size=40), "pc2": rng.normal(size=40), "harmful": [True, False] * 20, "attack": (["CB"] * 2 + ["SD"] * 2) * 10}
    )
    with style():
        figure, _ = new_figure()
        figure.clear()
        joint = panels.scatter_densities(figure, table, by="harmful", shape="attack", boundary=(1, 0, -0.5), xlabel="PC 1 (40 %)")
    assert set(labels(figure)) == {"harmless", "harmful", "CB (text, blank image)", "SD (picture)", "probe boundary"}
    boundary = next(line for line in joint.lines if line.get_label() == "probe boundary")
    np.testing.assert_allclose(boundary.get_xdata(), 0.5)
    assert joint.get_xlabel() == "PC 1 (40 %)"


def test_tradeoff_plane_joins_what_nothing_beats() -> None:
    assert pareto_front([1, 2, 3, 3], [3, 2, 1, 2]) == [0, 1, 2]
    rows = [
        {"method": m, "rr": x, "rr_low": x - 0.1, "rr_high": x + 0.1, "asr": y, "asr_low": y - 0.1, "asr_high": y + 0.1}
        for m, x, y in (("none", 0.1, 0.6), ("safesteer", 0.2, 0.2), ("ecso", 0.4, 0.4))
    ]
    with style():
        figure, ax = new_figure()
        panels.tradeoff_plane(ax, pd.DataFrame(rows), x="rr", y="asr", xlabel="RR", ylabel="ASR")
    front = next(line for line in ax.lines if line.get_label() == "Pareto front")
    np.testing.assert_allclose(front.get_xdata(), [0.1, 0.2])
    assert "SafeSteer" in labels(figure)


def test_paired_arrows_and_the_mean_arrow() -> None:
    table = pd.DataFrame({"x0": [0.0, 1.0], "y0": [0.0, 0.0], "x1": [1.0, 3.0], "y1": [1.0, 1.0], "attack": ["SD", "SD"]})
    with style():
        figure, ax = new_figure()
        panels.paired_arrows(ax, table, x0="x0", y0="y0", x1="x1", y1="y1", xlabel="a", ylabel="b")
    mean = ax.collections[1]
    assert (float(mean.U[0]), float(mean.V[0])) == (1.5, 1.0)
    assert labels(figure) == ["SD (picture)"]


def test_token_strip_shows_blanks_and_strikes_what_was_replaced() -> None:
    table = pd.DataFrame({"token": [" I", "$\\alpha$", "\n"], "score": [0.9, 0.1, float("nan")], "old": ["Sure", "", ""]})
    with style():
        figure, ax = new_figure(height=1.2)
        panels.token_strip(ax, table, struck="old")
        figure.draw_without_rendering()
    assert [t.get_text() for t in ax.texts] == ["·I", "Sure", "$\\alpha$", "⏎"]
    assert len(ax.lines) == 1 and len(ax.patches) == 3
    assert visible("") == "∅"


@pytest.mark.parametrize("panel", [panels.layer_curve, panels.forest, panels.layer_step_heatmap, panels.transfer_matrix])
def test_a_panel_names_the_columns_it_misses(panel: Any) -> None:
    with style():
        _, ax = new_figure()
        with pytest.raises(ValueError, match=r"needs the columns.*'low'"):
            panel(ax, pd.DataFrame({"value": [1.0]}))


def test_two_renders_are_byte_equal_and_undated(tmp_path: Path) -> None:
    def draw(folder: Path) -> list[bytes]:
        with style():
            figure, ax = new_figure(width="column", height=2)
            panels.layer_curve(ax, pd.DataFrame([band(attack="CB", layer=i, value=0.6) for i in range(4)]))
            return [path.read_bytes() for path in save_figure(figure, folder)]

    first, second = draw(tmp_path / "a"), draw(tmp_path / "b")
    assert first == second
    assert [p.suffix for p in sorted((tmp_path / "a").iterdir())] == [".pdf", ".png", ".svg"]
    assert b"CreationDate" not in first[0] and b"<dc:date>" not in first[1] and b"Software" not in first[2]


def test_the_style_leaves_no_trace() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with style():
        assert mpl.rcParams["svg.hashsalt"] == "safesteer"
    assert {k: v for k, v in mpl.rcParams.items() if k != "backend"} == {k: v for k, v in before.items() if k != "backend"}


@pytest.mark.parametrize("layout", ["constrained", None])
def test_a_stamp_lies_below_all_that_is_drawn(tmp_path: Path, layout: Any) -> None:
    words = "mini · bundled · n = 24 to 104 pairs · profile quick"
    table = pd.DataFrame([band(attack=a, layer=i, value=0.6) for a in ("CB", "SD") for i in range(4)])
    with style():
        figure, ax = new_figure(width="column", height=2)
        panels.layer_curve(ax, table)
        if layout is None:
            figure = Figure(figsize=(3.4, 2))
            panels.layer_curve(figure.subplots(), table, legend=False)
        before = figure.get_figheight()
        first = [p.read_bytes() for p in save_figure(figure, tmp_path, words=words)]
        assert [p.read_bytes() for p in save_figure(figure, tmp_path, words=words)] == first, "stamped once"
        assert figure.get_figheight() == pytest.approx(before + BAND)
        figure.draw_without_rendering()
        line = next(text for text in figure.texts if text.get_text() == words)
        top = line.get_window_extent().y1
        assert top <= min(artist.get_tightbbox().y0 for artist in figure.axes) and line.get_fontsize() >= SMALLEST
    assert b"profile quick" in first[1], "and in the file's own record"
    assert b"profile quick" in first[2] and b"/Subject" in first[0]


def test_in_a_column_the_panels_of_a_page_stand_below_one_another_with_room_for_the_legend() -> None:
    table = pd.DataFrame([band(attack=a, layer=i, value=0.6) for a in ENTITIES["attack"] for i in range(4)])
    with style("column"):
        assert in_column()
        figure, axes = new_figure(2, 3, height=4.0, sharey="row", height_ratios=(2, 1))
        alone, panel = new_figure(height=2.0, squeeze=True)
        for ax in axes.flat:
            panels.layer_curve(ax, table)
        figure.draw_without_rendering()
        places = [ax.get_position() for ax in axes.flat]
    assert axes.shape == (2, 3) and figure.get_figwidth() == pytest.approx(3.4) and panel in alone.axes
    assert all(a.y0 > b.y1 for a, b in itertools.pairwise(places)), "in reading order"
    assert places[0].height == pytest.approx(2 * places[5].height, rel=0.1)
    assert axes[0, 0].get_shared_y_axes().joined(axes[0, 0], axes[0, 2]) and not axes[0, 0].get_shared_y_axes().joined(
        axes[0, 0], axes[1, 0]
    )
    assert figure.legends[0].get_window_extent().y1 <= axes[1, 2].get_tightbbox().y0 + 1
    assert not in_column()


def test_labels_that_a_page_leaves_to_a_neighbour_are_shown_in_a_column() -> None:
    with style("column"):
        figure, axes = new_figure(1, 2, height=2.0)
        for ax in axes:
            panels.forest(ax, pd.DataFrame([band(label="TYPO", value=0.5)]))
        axes[1].tick_params(labelleft=False)
        label_all(figure)
        figure.draw_without_rendering()
    assert all(ax.yaxis.get_major_ticks()[0].label1.get_visible() for ax in axes)


def test_rows_of_scores_show_every_request_and_the_mean_of_each_class() -> None:
    table = pd.DataFrame(
        {"attack": ["CB"] * 4 + ["SD"] * 4, "class": ["harmful", "harmless"] * 4, "score": [2.0, -2.0, 4.0, -4.0, 1, 0, 1, 0]}
    )
    with style():
        figure, ax = new_figure()
        panels.score_rows(ax, table, reference=0.0, xlabel="score")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["CB", "SD"] and labels(figure) == ["harmless", "harmful"]
    assert sum(len(points.get_offsets()) for points in ax.collections) == 8
    means = sorted(float(line.get_xdata()[0]) for line in ax.lines if line.get_linewidth() == 1.8)
    assert means == [-3.0, 0.0, 1.0, 3.0]


def test_a_reference_is_named_beside_the_curves_not_over_them() -> None:
    with style():
        figure, ax = new_figure(width="column")
        panels.layer_curve(ax, pd.DataFrame([band(attack="CB", layer=i, value=0.5) for i in range(4)]), reference=0.5)
        figure.draw_without_rendering()
        name = next(text for text in ax.texts if text.get_text() == "chance")
        assert name.get_window_extent().x0 >= ax.get_window_extent().x1
        assert name.get_window_extent().x1 <= figure.bbox.x1
