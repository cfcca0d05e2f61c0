"""The small picture of a claim shades the claimed side, names its controls whole and is safe to put on a page."""

from __future__ import annotations

import re

from support.results import claim

from safesteer_interp.report.intervals import LEFT, claim_picture


def test_the_small_picture_shades_the_claimed_side() -> None:
    picture = str(claim_picture(claim()))
    edge = float(re.search(r'class="edge" x1="([\d.]+)"', picture)[1])  # type: ignore[index]
    region = re.search(r'class="region" x="([\d.]+)"', picture)
    assert region is not None and float(region[1]) == edge
    assert "<script" not in picture and picture.count("<circle") == 2
    below = str(claim_picture(claim(direction="below")))
    assert float(re.search(r'class="region" x="([\d.]+)"', below)[1]) < edge  # type: ignore[index]
    nothing = {"value": None, "low": None, "high": None, "n": 0, "clusters": None, "level": 0.95}
    assert claim_picture(claim(estimate=nothing)) == ""
    assert claim_picture(claim(direction="within", threshold=[0.2, 0.6]))


def test_a_long_name_of_a_control_is_cut_to_its_room_and_whole_in_its_title() -> None:
    name = "random vectors of equal length and some more words"
    picture = str(claim_picture(claim(controls=[{**claim()["controls"][0], "name": name}])))
    shown = re.search(r">([^<]*)<title>" + name, picture)
    assert shown is not None and shown[1].endswith("…") and len(shown[1]) * 5.6 <= LEFT, "at ten pixels a letter takes 5.6"
