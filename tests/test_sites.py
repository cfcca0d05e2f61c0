"""Sites, reads and the ranges in their names."""

from __future__ import annotations

import pytest

from safesteer_interp.errors import UsageError
from safesteer_interp.sites import LAYERED, Read, ReadKind, Site, SiteKind, forward_order, parse_ranges, parse_reads, parse_sites


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("3-6", ["3", "4", "5", "6"]),
        ("7-7", ["7"]),
        ("0-2, 9,10-11", ["0", "1", "2", "9", "10", "11"]),
        ("all", ["all"]),
        ("1.5,-3,a-b,4-x", ["1.5", "-3", "a-b", "4-x"]),
        (" , 2,, ", ["2"]),
        ("", []),
    ],
)
def test_a_range_is_spelled_out_and_all_else_stays(text: str, parts: list[str]) -> None:
    assert parse_ranges(text) == parts


def test_a_range_that_runs_backwards_is_named_by_what_the_user_wrote() -> None:
    with pytest.raises(UsageError, match='"6-3" runs backwards; write the smaller number first'):
        parse_ranges("1,6-3")
    with pytest.raises(UsageError, match=r'"resid_post\.6-3" runs backwards'):
        parse_ranges("6-3", within="resid_post.6-3")


def test_ranges_in_sites_and_reads() -> None:
    assert [str(s) for s in parse_sites("resid_post.1-2,embed,resid_post.2", 4)] == ["resid_post.1", "resid_post.2", "embed"]
    assert [str(s) for s in parse_sites(["attn_out", "final_norm"], 2)] == ["attn_out.0", "attn_out.1", "final_norm"]
    assert [str(r) for r in parse_reads("last_prompt,step:2-3")] == ["last_prompt", "step:2", "step:3"]
    back = parse_reads("last_prompt:-2,last_prompt,last_prompt:-1,last_prompt:-2")
    assert [str(r) for r in back] == ["last_prompt:-2", "last_prompt", "last_prompt:-1"] and [r.back for r in back] == [2, 0, 1]
    for wrong in ("last_prompt:2", "last_prompt:-0", "last_prompt:x"):
        with pytest.raises(UsageError, match="tokens before the last one"):
            parse_reads(wrong)
    for odd in ("²", "٣", "9" * 5000, "1e1"):
        with pytest.raises(UsageError, match="needs a whole layer number after the dot"):
            parse_sites(f"resid_post.{odd}", 4)
        with pytest.raises(UsageError, match="needs a whole step number"):
            parse_reads(f"step:{odd}")
        with pytest.raises(UsageError, match="needs a whole layer number after the dot"):
            Site.parse(f"resid_post.{odd}")
        with pytest.raises(UsageError):
            parse_sites(f"resid_post.0-{odd}", 4)
    with pytest.raises(UsageError, match='only "last_prompt"'):
        Read(ReadKind.USER_MEAN, back=1)
    with pytest.raises(UsageError, match=r'"step:3-2" runs backwards'):
        parse_reads("step:3-2")
    with pytest.raises(UsageError, match=r'site "resid_post\.4" does not exist: the model has layers 0-3'):
        parse_sites("resid_post.3-4", 4)


def test_heads_are_no_site_that_can_be_asked_for_and_come_before_what_attention_adds() -> None:
    for text in ("heads", "heads.1", "heads.0-1"):
        with pytest.raises(UsageError, match=f'no site is called "{text}"'):
            parse_sites(text, 4)
    order = sorted((Site(kind, layer) for kind in LAYERED for layer in (1, 0)), key=forward_order)
    assert list(map(str, order[:4])) == ["heads.0", "attn_out.0", "mlp_out.0", "resid_post.0"] and str(order[4]) == "heads.1"
    assert [kind for kind in SiteKind if Site(kind, 0 if kind in (*LAYERED, SiteKind.VISION) else None).is_input] == ["embed", "heads"]
