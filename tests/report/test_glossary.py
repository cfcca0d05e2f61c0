"""Every code word is explained where it stands, once a text, and nothing else is marked."""

from __future__ import annotations

from safesteer_interp.report.glossary import GLOSSARY, anchor, marked
from safesteer_interp.requests import Attack


def test_every_attack_is_explained() -> None:
    assert {str(a) for a in Attack} - {"none"} <= set(GLOSSARY)


def test_a_word_is_marked_once_and_only_whole() -> None:
    text = marked("SD_TYPO beats SD, and SD again; SDs and TEXTUAL stay, resid_post.12 does not.", "../")
    assert text.count('class="term"') == 3
    assert text.startswith(f'<a class="term" href="../glossary.html#{anchor("SD_TYPO")}"') and ">SD_TYPO</a> beats <a" in text
    assert "TEXTUAL" in text and ">TEXT<" not in text and ">resid_post</a>.12" in text


def test_text_is_escaped_and_may_be_marked_without_links() -> None:
    text = marked("<b>MSAV</b> & more", None)
    assert text == f'&lt;b&gt;<span class="term" data-tip="{GLOSSARY["MSAV"]}">MSAV</span>&lt;/b&gt; &amp; more'
