"""Request: text and image first, everything else with a sensible default; its key says what the model sees."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from safesteer_interp.errors import InputError
from safesteer_interp.requests import Attack, ImageFile, PilImage, Request, Split, check_unchanged


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8))


def test_text_and_image_are_enough() -> None:
    request = Request("How do I fold this?", picture())
    assert request.image == PilImage(picture())
    assert (request.harmful, request.attack, request.split, request.scenario, request.dataset) == (False, Attack.NONE, Split.TEST, "", "")
    assert request.id == f"request-{request.key()[:12]}" == request.pair
    assert request.intent == "How do I fold this?"
    assert request == Request("How do I fold this?", picture()) and hash(request) == hash(Request("How do I fold this?", picture()))
    assert Request("How do I fold this?").id != request.id != Request("How do I fold this?", picture(1)).id


def test_an_image_is_a_picture_a_path_or_a_source(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture().save(path)
    assert Request("x", str(path)).image == Request("x", path).image == Request("x", ImageFile(path)).image == ImageFile(path)
    with pytest.raises(InputError, match=r"none\.png"):
        Request("x", tmp_path / "none.png")  # its id would be made of the content
    assert Request("x", tmp_path / "none.png", id="named").image == ImageFile(tmp_path / "none.png")


def test_keywords_replace_and_frozen() -> None:
    request = Request(id="a", text="Hello?", harmful=True, attack=Attack.CB, image=PilImage(picture()), pair="p", split=Split.FIT)
    other = replace(request, text="Goodbye?")
    assert (other.id, other.pair, other.harmful, other.attack, other.image) == ("a", "p", True, Attack.CB, request.image)
    assert other.key() != request.key()
    with pytest.raises(FrozenInstanceError):
        request.text = "no"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Request("a", "b", "c")  # type: ignore[misc]


def test_key_follows_a_file_that_changes_and_is_kept_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(0).save(path)
    request, still = Request("x", path), Request("x", picture(0))
    before, kept = request.key(), still.key()
    picture(1).save(path)
    assert request.key() != before
    assert still.key() is kept


def test_a_picture_that_was_replaced_meanwhile_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(0).save(path)
    requests = [Request("x", picture(0)), Request("x", path, id="on disk"), Request("x")]
    keys = [request.key() for request in requests]
    check_unchanged(requests, keys)
    picture(1).resize((9, 9)).save(path)
    with pytest.raises(InputError, match=r'request "on disk": its image .*a\.png was replaced .* run the same command again'):
        check_unchanged(requests, keys)


def test_key_holds_text_and_pixels_and_no_label() -> None:
    one = Request("x", picture(), id="a", harmful=True, attack=Attack.SD, scenario="s", pair="p", split=Split.FIT, dataset="d", intent="i")
    assert one.key() == Request("x", picture()).key() != Request("y", picture()).key()


@pytest.mark.parametrize("field", ["text", "id", "scenario", "pair", "dataset", "intent"])
def test_half_a_surrogate_pair_is_named_with_its_field(field: str) -> None:
    with pytest.raises(InputError, match=f'its field "{field}" holds half of a surrogate pair') as caught:
        Request(**{"text": "bread", "id": "r7", field: "bread \ud83d"})
    str(caught.value).encode()


@given(st.text(alphabet=" \t\n\r\u2028", max_size=5))
def test_an_empty_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match='request "r" has an empty text'):
        Request(text, id="r")
