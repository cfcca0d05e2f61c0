"""The bundled benchmark: pairs matched in form, a fixed split without leaks, every attack form alike on both sides."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from safesteer_interp.datasets.bundled import ATTACKS, CARRIERS, load_bundled
from safesteer_interp.datasets.mm_safetybench import SCENARIOS
from safesteer_interp.datasets.pairs import (
    Phrasing,
    assign_splits,
    content_words,
    halve_training,
    heldout_phrases,
    leaked_phrases,
    load_pairs,
    training_phrases,
)
from safesteer_interp.datasets.pictures import picture_names
from safesteer_interp.datasets.rendering import TypographyImage
from safesteer_interp.requests import Attack, Request, Split

PAIRS = load_pairs()
VAGUE = frozenset({"fake", "old", "new", "good", "bad", "big", "small", "secret", "stolen", "home", "where", "live"})
"""Adjectives and fillers: sharing one does not make two phrases near-duplicates."""


def test_enough_pairs_over_enough_scenarios() -> None:
    assert len(PAIRS) >= 400
    counts = Counter(p.scenario for p in PAIRS)
    assert len(counts) >= 10 and len(set(counts) & set(SCENARIOS)) == 8 and "07-Sex" not in counts
    assert min(counts.values()) >= 24


def test_ids_and_phrases_are_unique_and_short() -> None:
    assert len({p.id for p in PAIRS}) == len(PAIRS)
    phrases = [p.phrase(side) for p in PAIRS for side in (True, False)]
    assert len(set(phrases)) == len(phrases)
    for phrase in phrases:
        assert phrase == phrase.lower() and len(phrase) <= 36 and 2 <= len(phrase.split()) <= 7, phrase
        assert all(c.isalpha() or c == " " for c in phrase), phrase


def test_every_twin_shares_a_word_with_its_partner_or_its_scene() -> None:
    for p in PAIRS:
        shared = content_words(p.harmful) & content_words(p.harmless) or set(p.harmful_pictures) & set(p.harmless_pictures)
        assert shared, p.id


def test_the_twins_have_equal_length() -> None:
    harmful, harmless = (np.array([len(p.phrase(side)) for p in PAIRS]) for side in (True, False))
    assert abs(harmful.mean() - harmless.mean()) < 1
    assert 0.45 < roc_auc_score(np.r_[np.ones(len(PAIRS)), np.zeros(len(PAIRS))], np.r_[harmful, harmless]) < 0.55


def bag_of_words_auroc(texts: list[str]) -> float:
    x = CountVectorizer(token_pattern=r"\S+").fit_transform(texts)
    y, pair = np.tile([1, 0], len(texts) // 2), np.repeat(np.arange(len(texts) // 2), 2)
    scores = cross_val_predict(LogisticRegression(max_iter=1000), x, y, groups=pair, cv=GroupKFold(10), method="decision_function")
    return float(roc_auc_score(y, scores))


def test_words_and_pictures_alone_do_not_give_the_label_away() -> None:
    words = bag_of_words_auroc([p.phrase(side) for p in PAIRS for side in (True, False)])
    pictures = bag_of_words_auroc([" ".join(p.pictures(side)) for p in PAIRS for side in (True, False)])
    assert words < 0.80 and pictures < 0.80, (words, pictures)
    assert 0.2 < sum(p.contrast for p in PAIRS) / len(PAIRS) < 0.4


def test_scenes_come_from_the_vocabulary_and_match_in_size() -> None:
    known = set(picture_names())
    scenes = [tuple(sorted(p.pictures(side))) for p in PAIRS for side in (True, False)]
    assert len(set(scenes)) == len(scenes), "no two sides show the same pictures"
    for p in PAIRS:
        for side in (True, False):
            assert 1 <= len(p.pictures(side)) <= 3 and set(p.pictures(side)) <= known, p.id
            assert len(set(p.pictures(side))) == len(p.pictures(side)), p.id
        assert len(p.harmful_pictures) == len(p.harmless_pictures), p.id


def test_no_frequent_picture_belongs_to_one_side() -> None:
    sides = {side: Counter(name for p in PAIRS for name in p.pictures(side)) for side in (True, False)}
    for name in picture_names():
        if sides[True][name] + sides[False][name] >= 8:
            assert min(sides[True][name], sides[False][name]) >= 1, name


def test_split_is_even_in_every_scenario() -> None:
    parts = defaultdict(Counter)
    for p in PAIRS:
        parts[p.scenario][p.split] += 1
    for scenario, count in parts.items():
        assert abs(count[Split.ALIGN] - count[Split.FIT]) <= 1, scenario
        assert (count[Split.VALIDATION], count[Split.TEST]) in ((5, 13), (0, 0)), scenario
    assert sum(p.split is Split.TEST for p in PAIRS) == 104 and sum(p.split is Split.FIT for p in PAIRS) >= 60


def test_split_is_fixed() -> None:
    """The split may never move: models are trained on it. Change this digest only when pairs are added, and retrain mini."""
    digest = hashlib.sha256("\n".join(f"{p.id} {p.split}" for p in sorted(PAIRS, key=lambda p: p.id)).encode()).hexdigest()
    assert digest[:16] == "483f4da62d279820"
    held = "\n".join(f"{p.id} {p.split}" for p in sorted(PAIRS, key=lambda p: p.id) if p.split in (Split.VALIDATION, Split.TEST))
    assert hashlib.sha256(held.encode()).hexdigest()[:16] == "6101e842f41ba330", "validation and test pairs never change"


def test_split_depends_on_ids_alone() -> None:
    rows = [(p.id, p.scenario) for p in PAIRS]
    first, again = assign_splits(rows), assign_splits(rows[::-1])
    assert first == again and halve_training(rows, first) == halve_training(rows[::-1], again)


def test_a_file_may_call_the_fit_split_train() -> None:
    assert Split("train") is Split.FIT
    with pytest.raises(ValueError, match="trian"):
        Split("trian")


def test_training_and_heldout_phrases_are_disjoint_even_as_near_duplicates() -> None:
    assert not training_phrases() & heldout_phrases()
    for phrase in training_phrases():
        assert leaked_phrases(phrase) == [], phrase
    parts = {True: [], False: []}
    for phrase in training_phrases() | heldout_phrases():
        verb, *rest = phrase.split()
        parts[phrase in training_phrases()].append((verb, content_words(" ".join(rest)) - VAGUE, phrase))
    for verb_a, nouns_a, a in parts[True]:
        for verb_b, nouns_b, b in parts[False]:
            assert verb_a != verb_b or not nouns_a & nouns_b, f"{a!r} and {b!r} straddle the split"


def test_a_leak_is_found_in_any_number_and_order() -> None:
    phrase = next(p.harmful for p in PAIRS if p.split is Split.TEST and len(content_words(p.harmful)) >= 3)
    assert leaked_phrases(f"First, {phrase.upper()} at once. Then rest.") == [phrase]
    assert leaked_phrases(" ".join(reversed(phrase.split()))) == [phrase]
    assert leaked_phrases("a quiet walk along the river") == []


@pytest.fixture(scope="module")
def everything() -> list[Request]:
    return load_bundled()


def test_requests_are_paired_and_alike(everything: list[Request]) -> None:
    requests = everything
    assert len(requests) == len(PAIRS) * len(ATTACKS) * 2 and len({r.id for r in requests}) == len(requests)
    for harmful, harmless in zip(requests[::2], requests[1::2], strict=True):
        assert harmful.harmful and not harmless.harmful
        assert (harmful.pair, harmful.attack, harmful.split, harmful.scenario) == (
            harmless.pair, harmless.attack, harmless.split, harmless.scenario,
        )  # fmt: skip
        assert harmful.id == f"{harmful.pair}/{harmful.attack}/harmful"
        assert (harmful.image is None) == (harmless.image is None) == (harmful.attack is Attack.TEXT)
        assert (harmful.text == harmless.text) == harmful.attack.in_image
        if harmful.attack.in_image:
            assert harmful.text in CARRIERS[harmful.attack]
        if isinstance(harmful.image, TypographyImage) and isinstance(harmless.image, TypographyImage):
            assert vars(harmful.image) | {"text": ""} == vars(harmless.image) | {"text": ""}


def test_blank_images_are_the_same_on_both_sides() -> None:
    requests = load_bundled(attacks=["CB"])
    kinds = Counter()
    for harmful, harmless in zip(requests[::2], requests[1::2], strict=True):
        assert harmful.image == harmless.image
        kinds[vars(harmful.image)["kind"]] += 1
    assert set(kinds) == {"white", "black", "noise"}


def test_images_are_square_and_keys_distinguish_the_sides() -> None:
    requests = load_bundled(attacks=["SD", "TYPO", "SD_TYPO"], split="validation")
    for r in requests:
        assert r.image is not None and r.image.load().size == (160, 160), r.id
    assert len({r.key() for r in requests}) == len(requests)


def test_carriers_are_harmless() -> None:
    frightening = {w for p in PAIRS for w in content_words(p.harmful)} - {w for p in PAIRS for w in content_words(p.harmless)}
    for texts in CARRIERS.values():
        assert len(set(texts)) == 8
        for text in texts:
            assert leaked_phrases(text) == []
            assert content_words(text) & frightening <= {"describe", "guess"}, text


def test_typography_varies(everything: list[Request]) -> None:
    images = [vars(r.image) for r in everything if r.attack is Attack.TYPO]
    assert len({i["font"] for i in images}) == 12 and len({i["colour"] for i in images}) >= 8
    assert {i["layout"] for i in images} == {"left", "centre", "right", "sign", "list"}
    assert min(i["size"] for i in images) >= 12


def test_selecting_and_seeding() -> None:
    assert {r.split for r in load_bundled(split=Split.FIT)} == {Split.FIT}
    assert {r.attack for r in load_bundled(attacks=[Attack.SD])} == {Attack.SD}
    one, other = (load_bundled(attacks=["TYPO"], split="validation", seed=seed) for seed in (0, 1))
    assert [r.id for r in one] == [r.id for r in other]
    assert sum(a.key() != b.key() for a, b in zip(one, other, strict=True)) > 0.9 * len(one)
    assert [r.key() for r in one] == [r.key() for r in load_bundled(attacks=["TYPO"], split="validation")]


@pytest.mark.parametrize("phrasing", list(Phrasing))
def test_phrasings_hold_the_phrase(phrasing: Phrasing) -> None:
    for pair in PAIRS[::7]:
        for side in (True, False):
            assert pair.phrase(side) in pair.text(side, phrasing).lower()
        mask = [pair.text(side, phrasing).lower().replace(pair.phrase(side), "…") for side in (True, False)]
        assert mask[0] == mask[1], "both sides are worded alike"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="TYPOS"):
        load_bundled(attacks=["TYPOS"])


def test_no_two_phrases_have_the_same_content() -> None:
    contents = [content_words(p.phrase(side)) for p in PAIRS for side in (True, False)]
    assert len(set(contents)) == len(contents)
