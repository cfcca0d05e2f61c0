"""Keys by content: everything that differs has another, what cannot be hashed is refused."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.modules import Write, importing_from

from safesteer_interp.code_digest import source_digest
from safesteer_interp.content_digest import content_digest, loaded_digest, object_digest
from safesteer_interp.errors import UsageError


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: float = 0.0
    inner: object = None


@dataclass(frozen=True)
class Other:
    x: float = 0.0
    inner: object = None


def _long(changed: float) -> np.ndarray:
    numbers = np.zeros(100_000)
    numbers[50_000] = changed
    return numbers


DIFFERENT = [
    0, 0.0, False, None, "", "0", b"", b"0", Colour.RED, "red", Path("a"), "a", [], {}, set(), {0}, [0], {"a": 1}, {"a": 2}, {1: "a"},
    {"1": "a"}, torch.zeros(2), torch.zeros(2, dtype=torch.float64), torch.zeros(2, 1), torch.zeros(2, dtype=torch.bfloat16),
    torch.tensor(0.0), torch.float32, np.zeros(2), np.zeros(2, dtype=np.float32), np.array(0.0), _long(0.0), _long(1.0),
    torch.from_numpy(_long(1.0)), Point(), Point(1.0), Other(), Point(inner=torch.zeros(1)), Point(inner=torch.ones(1)), Colour, Point,
    content_digest, object_digest, partial(object_digest, what="a"), partial(object_digest, what="b"), lambda x: x + 1, lambda x: x + 2,
]  # fmt: skip


def test_a_dataclass_in_a_file_is_known_by_its_source() -> None:
    assert loaded_digest(Point) == source_digest(Point) != loaded_digest(Other) == source_digest(Other)


def test_all_that_differs_differs() -> None:
    found = [content_digest(value) for value in DIFFERENT]
    assert [(a, b) for (i, a), (j, b) in itertools.combinations(enumerate(found), 2) if a == b] == []


def test_what_is_equal_is_equal() -> None:
    assert content_digest({"a": 1, "b": [2]}) == content_digest({"b": (2,), "a": 1})
    assert content_digest(torch.arange(6).reshape(2, 3).T.T) == content_digest(torch.arange(6).reshape(2, 3))
    assert content_digest(Point(inner=Point(2.0))) == content_digest(Point(inner=Point(2.0)))


def _closing(over: object) -> object:
    return lambda text: (text, over)


def test_a_function_counts_with_what_it_closes_over() -> None:
    assert content_digest(_closing(1)) == content_digest(_closing(1)) != content_digest(_closing(2))
    assert content_digest(_closing(torch.zeros(1))) != content_digest(_closing(torch.ones(1)))


class Plain:
    def __init__(self, x: object) -> None:
        self.x = x

    @cached_property
    def model(self) -> object:
        return object()


def test_an_object_counts_by_all_its_attributes() -> None:
    used, unused = Plain(1), Plain(1)
    assert used.model is not None
    assert object_digest(used, "it") == object_digest(unused, "it") != object_digest(Plain(2), "it")
    with pytest.raises(UsageError, match=r"`x` of my method is a builtins.object, whose content cannot be hashed"):
        object_digest(Plain(object()), "my method")


def test_what_cannot_be_hashed_is_refused() -> None:
    for value in (object(), iter(()), np.array([object()]), Plain(1), [object()]):
        with pytest.raises(UsageError, match="content cannot be hashed"):
            content_digest(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
def test_plain_data_of_any_shape_has_a_key_of_its_own(value: object) -> None:
    assert content_digest(value) == content_digest(value)
    assert content_digest(value) != content_digest([value]) and content_digest({"a": value}) != content_digest({"b": value})


TYPED = '''
PRINCIPLE = "Be kind."
def prefixed(text):
    return PRINCIPLE + text
class Typed:
    """Typed at a prompt."""
    def rewrite(self, text):
        """The text."""
        return prefixed(text)
'''


def _typed(source: str) -> str:
    space: dict[str, object] = {"__name__": "__main__"}
    exec(source, space)
    return loaded_digest(space["Typed"])


def test_a_class_typed_at_a_prompt_is_known_by_what_is_loaded() -> None:
    assert _typed(TYPED) == _typed("\n\n" + TYPED.replace("The text.", "Text.").replace("Typed at a", "At a"))
    for old, new in (("Be kind.", "Be good."), ("PRINCIPLE + text", "text + PRINCIPLE"), ("prefixed(text)\n", "prefixed(text.lower())\n")):
        assert _typed(TYPED) != _typed(TYPED.replace(old, new))
    with pytest.raises(UsageError, match=r"`PRINCIPLE`, which prefixed uses, is a builtins.object"):
        _typed(TYPED.replace('"Be kind."', "object()"))


def test_the_key_of_a_typed_class_is_the_same_in_every_process() -> None:
    code = f"{TYPED}\nfrom safesteer_interp.content_digest import loaded_digest\nprint(loaded_digest(Typed))"
    found = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(found) == 1 and len(found.pop()) == 65


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    with importing_from(tmp_path) as write:
        yield write


def test_a_file_edited_after_its_import_does_not_lend_its_key_to_the_old_code(write: Write, tmp_path: Path) -> None:
    source = "class Method:\n    def rewrite(self, text):\n        return text\n"
    old, new = source, source.replace("return text", "return text.lower()")
    before, after = loaded_digest(write("mine", old).Method), loaded_digest(write("mine", new).Method)
    assert before != after
    stale = write("mine", old).Method
    (tmp_path / "mine.py").write_text(new)
    assert loaded_digest(stale) not in (after,)
