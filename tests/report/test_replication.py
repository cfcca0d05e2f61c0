"""The replication table has every item of the paper once, finds what redoes it and never calls an untested one agreed."""

from __future__ import annotations

import pytest
from support.results import claim

from safesteer_interp.report.claims import seen
from safesteer_interp.report.paper import ITEMS
from safesteer_interp.report.readme import replication_table
from safesteer_interp.report.replication import keys_of, replication_rows, tally


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("SafeSteer Fig. 2(b), Fig. 8", ["Fig. 2(b)", "Fig. 8"]),
        ("arXiv:2605.11716 Table 3", ["Table 3"]),
        ("arXiv:2605.11716 section 3", []),
        ("SafeSteer section 3, finding 2", ["section 3, finding 2"]),
        ("arXiv:2605.11716 Fig. 2", ["Fig. 2(a)", "Fig. 2(b)"]),
        ("arXiv:2605.11716 section 3, Fig. 2a", ["Fig. 2(a)"]),
        ("CARE Fig. 2", []),
        ("", []),
    ],
)
def test_a_source_names_items_of_this_paper_only(words: str, keys: list[str]) -> None:
    assert keys_of(words) == keys


def row_of(key: str, claims: dict[str, dict[str, dict[str, object]]]) -> str:
    rows = replication_rows(claims, {"ablation": "SafeSteer Table 3", "lens": ""})
    assert [row.item.key for row in rows] == [item.key for item in ITEMS]
    return next(row.outcome for row in rows if row.item.key == key)


def replicated(verdict: str, name: str = "a") -> dict[str, object]:
    return seen(claim(verdict, id=name, kind="replication", source="arXiv:2605.11716 Table 3", printed="ASR falls"))


def test_the_outcome_follows_from_the_verdicts() -> None:
    assert row_of("Table 3", {"ablation": {"a": replicated("supported")}}) == "agrees"
    assert row_of("Table 3", {"ablation": {"a": replicated("contradicted")}}) == "disagrees"
    assert row_of("Table 3", {"ablation": {"a": replicated("undecided")}}) == "undecided"
    assert row_of("Table 3", {"ablation": {"a": replicated("supported"), "b": replicated("undecided", "b")}}) == "mixed"
    assert row_of("Table 3", {"ablation": {"a": seen(claim())}}) == "not tested", "a finding of our own is no replication"
    assert row_of("Fig. 1", {}) == "nothing to test"
    section = seen(claim(kind="replication", source="arXiv:2605.11716 section 4.2", printed="it helps"))
    assert row_of("Table 3", {"ablation": {"c": section}}) == "agrees", "a section's statement belongs to the item its finding redoes"


def test_it_is_printed_with_what_the_paper_says_and_what_differs() -> None:
    rows = replication_rows({"ablation": {"a": replicated("contradicted")}}, {"ablation": "SafeSteer Table 3"})
    line = next(text for text in replication_table(rows, "figures/", {"ablation": "ablation/mini"}) if text.startswith("| Table 3"))
    assert "Both parts help, and together most." in line and "disagrees" in line and "figures/ablation/mini" in line
    assert tally(rows)["disagrees"] == 1 and sum(tally(rows).values()) == len([item for item in ITEMS if item.says])


def test_a_disagreement_says_its_note_and_an_open_item_what_keeps_it_open() -> None:
    def line(verdict: str, **changes: object) -> str:
        made = seen(claim(verdict, id="a", kind="replication", source="arXiv:2605.11716 Table 3", printed="ASR falls", **changes))
        rows = replication_rows({"ablation": {"a": made}}, {"ablation": "SafeSteer Table 3"})
        return next(text for text in replication_table(rows, "figures/", {"ablation": "ablation/mini"}) if text.startswith("| Table 3"))

    link = "[ablation](figures/ablation/mini)"
    assert f"disagrees (Turned round: below the band; {link})" in line("contradicted", note="Turned round: below the band.")
    assert f"undecided (p = 0.2 over all claims; {link})" in line(
        "undecided", reason="the interval lies below 0, but p = 0.2 over all claims"
    )
    assert f"agrees ({link})" in line("supported", note="A note.") and f"disagrees ({link})" in line("contradicted")
