"""The hash of code changes with what runs, and with nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.modules import Write, importing_from

from safesteer_interp import code_digest
from safesteer_interp.code_digest import has_source, source_digest
from safesteer_interp.errors import UsageError

METHOD = '''
    from helper import polite
    from safesteer_interp.refusals import XSTEST_PREFIXES

    SENTENCE = "Please."
    UNUSED = 1


    def ask(text):
        return polite(text) + SENTENCE


    class Method:
        """Asks politely."""

        strength: float = 1.0
        """Of the politeness."""

        def __init__(self):
            self.strength = 1.0

        @classmethod
        def read(cls):
            return cls()

        def rewrite(self, text):
            """The text, asked."""
            if not text:
                raise ValueError("there is no text.")
            return ask(text)  # politely

        def refused(self, text):
            return text in XSTEST_PREFIXES
'''
HELPER = """
    def polite(text):
        return text


    def rude(text):
        return text.upper()
"""


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    with importing_from(tmp_path) as write:
        yield write


@pytest.fixture
def digest_of(write: Write) -> object:
    def digest(method: str = METHOD, helper: str = HELPER) -> str:
        write("helper", helper)
        return source_digest(write("mine", method).Method)

    return digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Asks politely."""', '"""Asks very politely."""'),
        ("# politely", "# kindly"),
        ('"""Of the politeness."""', ""),
        ("there is no text.", "give a text."),
        ("UNUSED = 1", "UNUSED = 2"),
        ("return cls()", "return cls() or None"),
        ("def ask(text):\n", "def ask(text: str) -> str:\n\n"),
        ("return polite(text) + SENTENCE", "return (\n            polite(text)\n            + SENTENCE\n        )"),
    ],
)
def test_what_changes_no_result_changes_no_key(digest_of: object, old: str, new: str) -> None:
    assert old in METHOD
    assert digest_of(METHOD.replace(old, new)) == digest_of()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('SENTENCE = "Please."', 'SENTENCE = "Now."'),
        ("return ask(text)", "return ask(text.lower())"),
        ("if not text:", "if text:"),
        ("strength: float = 1.0", "strength: float = 2.0"),
        ("return polite(text) + SENTENCE", "return SENTENCE + polite(text)"),
        ("XSTEST_PREFIXES", "ARDITI_PREFIXES"),
        ("raise ValueError", "raise KeyError"),
    ],
)
def test_what_runs_changes_the_key(digest_of: object, old: str, new: str) -> None:
    assert old in METHOD
    assert digest_of(METHOD.replace(old, new)) != digest_of()


def test_what_is_imported_from_a_file_beside_counts_and_its_other_functions_do_not(digest_of: object) -> None:
    same = digest_of()
    assert digest_of(helper=HELPER.replace("return text.upper()", "return text")) == same
    assert digest_of(helper=HELPER.replace("return text\n", "return text.strip()\n", 1)) != same
    assert digest_of(METHOD.replace("from helper import polite", "import helper").replace("polite(text)", "helper.polite(text)")) != same
    inside = METHOD.replace("    from helper import polite\n", "").replace(
        "return polite", "from helper import polite\n\n        return polite"
    )
    assert digest_of(inside) != digest_of(inside, HELPER.replace("return text\n", "return text.strip()\n", 1))


def test_a_module_counts_whole_and_its_file_may_move(tmp_path: Path) -> None:
    found = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        with importing_from(tmp_path / name) as write:
            write("helper", HELPER)
            found.append([source_digest(write("mine", METHOD)), source_digest(write("mine", METHOD.replace("UNUSED = 1", "UNUSED = 2")))])
    assert found[0] == found[1] and found[0][0] != found[0][1]


def test_a_base_class_and_the_package_count(write: Write) -> None:
    source = """
        from safesteer_interp.defenses.defense import StagedDefense

        class Method(StagedDefense):
            name = "mine"
    """
    closure = code_digest._Closure()
    closure.start(write("mine", source).Method)
    reached = {unit for unit, text in closure.written.items() if text}
    assert {("safesteer_interp.defenses.defense", "StagedDefense"), ("safesteer_interp.tracing.sampling", "draw")} <= reached
    assert not {module for module, _ in reached if module.startswith(("torch", "safesteer_interp.errors", "safesteer_interp.cli"))}


def test_what_has_no_file_is_refused() -> None:
    space: dict[str, object] = {"__name__": "__main__"}
    exec("class Typed:\n    pass", space)
    assert not has_source(space["Typed"]) and has_source(Write) is False and has_source(source_digest)
    with pytest.raises(UsageError, match="Typed lies in no file"):
        source_digest(space["Typed"])


def test_the_text_that_is_hashed_holds_no_path_and_no_docstring(write: Write) -> None:
    write("helper", HELPER)
    closure = code_digest._Closure()
    closure.start(write("mine", METHOD).Method)
    text = "".join(closure.written.values())
    assert "politely" not in text and "Constant" not in text and str(Path(inspect.getfile(code_digest)).parent) not in text
