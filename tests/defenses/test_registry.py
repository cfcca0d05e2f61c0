"""Defenses by name: the registry, one's own class, compositions, and options written as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from safesteer_interp.decoding.choice import PAPER
from safesteer_interp.decoding.policies import Guided, RefusalTokens
from safesteer_interp.defenses.coca import CoCA
from safesteer_interp.defenses.composed import Composed
from safesteer_interp.defenses.defense import Defense, Response, Settings, StagedDefense
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.defenses.registry import DEFENSES, choose, defense_class
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.evaluation.harness import evaluate
from safesteer_interp.models.planted import planted_requests
from safesteer_interp.requests import Attack
from safesteer_interp.tracing.tracer import Sampling

SETTINGS = Settings(Sampling(max_new_tokens=8, temperature=1.0), batch_size=8)
MINE = '''
from dataclasses import dataclass, replace

from safesteer_interp.defenses.defense import StagedDefense


@dataclass(frozen=True)
class Preface(StagedDefense):
    """One sentence before every request."""

    name = "preface"
    sentence: str = "Answer kindly."
    twice: bool = False

    def rewrite(self, mllm, request):
        return replace(request, text=f"{self.sentence} {request.text}")
'''


def test_the_registry_knows_every_defense() -> None:
    assert {name: defense_class(name).name for name in DEFENSES} == {name: name for name in DEFENSES}
    with pytest.raises(UsageError, match='Did you mean "safesteer"'):
        defense_class("safe_steer")


def test_options_come_from_the_fields(planted: Any) -> None:
    assert choose("coca", ["alpha=2", "plausibility=0.1"]).build(planted) == CoCA(alpha=2.0, plausibility=0.1)
    part = choose("safesteer", ["k=8", "gate=probe", "alignment=no", "fit=token", "force", "beta=inf"]).parts[0]
    assert part.options == {"k": 8, "gate": "probe", "alignment": False, "fit": "token", "force": True, "beta": float("inf")}
    assert choose("safesteer").trained and not choose("ecso").trained
    for words, sentence in (
        (["alfa=2"], 'defense "coca" has no option "alfa". Did you mean "alpha"'),
        (["alpha=two"], 'defense "coca": alpha = "two" is not a number'),
        (["alpha"], 'option "alpha" needs a value; write alpha=..., a number'),
        (["plausibility=2"], "plausibility is 2"),
    ):
        with pytest.raises(UsageError, match=sentence.replace("...", r"\.\.\.")):
            choose("coca", words).check(SETTINGS)
    with pytest.raises(UsageError, match=r'defense "none" has no option "k"\. It has none at all'):
        choose("none", ["k=8"])


def test_presets_have_names_of_their_own(planted: Any) -> None:
    for preset in ("paper", "corrected", "calibrated"):
        assert choose(f"safesteer-{preset}").parts[0].options == choose("safesteer", [f"preset={preset}"]).parts[0].options
        assert choose(f"safesteer-{preset}", ["k=8"]).parts[0].options == {"preset": preset, "k": 8}
    training = planted_requests(160, attacks=(Attack.CB, Attack.SD))
    paper = choose("safesteer-paper").build(planted, training)
    assert (paper.beta, paper.score_only, paper.gate, str(paper.rule), paper.preset) == (1.0, True, "none", "printed/raw", "paper")  # type: ignore[attr-defined]
    assert paper.choice == PAPER and paper.probe.fit_ == "prompt"  # type: ignore[attr-defined]
    corrected = choose("safesteer-corrected", ["k=3"]).build(planted, training)
    assert (str(corrected.rule), corrected.choice, corrected.preset) == ("toward_text/unit", PAPER, "custom")  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r'"planted" has not been calibrated; `safesteer calibrate --model planted`'):
        choose("safesteer-calibrated").build(planted, training)
    with pytest.raises(UsageError, match='Did you mean "safesteer-paper"'):
        defense_class("safesteer-papr")


def test_what_safesteer_would_refuse_is_refused_before_it_is_fitted(planted: Any) -> None:
    for words, sentence in (
        (["k=0"], "K is 0"),
        (["steps=9"], "steps is 9 but at most 8 tokens"),
        (["fit=promt"], '"promt" is not a fit'),
        (["gate=prob"], 'no gate "prob"'),
        (["sign=to_text"], 'sign "to_text" is unknown'),
        (["beta=-1"], "`beta`"),
        (["mix=1"], 'has no option "mix"'),
        (["fit=centred"], '"centred" fit may not guide decoding'),
        (["preset=papr"], 'no preset "papr". Did you mean "paper"'),
        (["preset=calibrated", "fit=token"], '"calibrated" is fitted already'),
    ):
        with pytest.raises(UsageError, match=sentence):
            choose("safesteer", words).check(SETTINGS)
    with pytest.raises(UsageError, match="K is 100000, but at most 1000 candidates are scored a step"):
        choose("safesteer", ["k=100000"]).check(SETTINGS)
    choose("safesteer", ["k=900"]).check(SETTINGS)
    with pytest.raises(UsageError, match=r'K is 900, but "planted" has \d+ tokens to choose from'):
        choose("safesteer", ["k=900"]).check(SETTINGS, planted)


def test_a_class_of_ones_own_is_named_by_its_file(tmp_path: Path, planted: Any) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    choice = choose(f"{path}:Preface", ["sentence=Be good."])
    assert choice.build(planted).rewrite(planted, planted_requests(1)[0]).text.startswith("Be good. ")  # type: ignore[attr-defined]
    assert choose(str(path)).parts[0].cls.name == "preface", "a file with one defense needs no class"
    assert defense_class("safesteer_interp.defenses.coca:CoCA") is CoCA
    for name, error, sentence in (
        (f"{path}:Prefaec", UsageError, 'defines no class "Prefaec". Did you mean "Preface"'),
        (f"{path}:replace", UsageError, "replace in .* is no defense; derive it from safesteer_interp.defenses.defense.Defense"),
        (f"{tmp_path / 'other.py'}:Preface", InputError, r"other.py cannot be read \(No such file"),
        ("nothing_of_this_name:Preface", InputError, 'no module "nothing_of_this_name"'),
    ):
        with pytest.raises(error, match=sentence):
            defense_class(name)
    path.write_text("def broken(:\n")
    with pytest.raises(InputError, match=r"mine.py is not valid Python \(line 1"):
        defense_class(f"{path}:Preface")
    path.write_text("import nothing_of_this_name\n")
    with pytest.raises(InputError, match=r"mine.py cannot be imported \(ModuleNotFoundError"):
        defense_class(f"{path}:Preface")


def test_an_edited_method_does_not_get_its_old_answers_back(tmp_path: Path, planted: Any) -> None:
    """The key of stored answers holds the code: another sentence in `rewrite`, with the fields as they were, is another method."""
    path, some = tmp_path / "mine.py", planted_requests(4)

    def evaluated(source: str) -> tuple[str, list[str]]:
        path.write_text(source)
        defense = choose(f"{path}:Preface").build(planted)
        table = evaluate(planted, [defense], some, seeds=(0,), settings=SETTINGS, root=tmp_path / "answers", progress=False)
        return defense.fingerprint(), list(table["text"])

    first, answers = evaluated(MINE)
    edited, others = evaluated(MINE.replace('f"{self.sentence} {request.text}"', 'f"{request.text} and then {request.text}"'))
    assert edited != first and others != answers
    assert len(list((tmp_path / "answers").iterdir())) == 2
    commented, same = evaluated(MINE.replace("One sentence", "Says one sentence") + "\n# of no consequence\n")
    assert commented == first and same == answers
    assert len(list((tmp_path / "answers").iterdir())) == 2


def test_a_class_without_a_name_is_refused_when_it_is_made() -> None:
    with pytest.raises(UsageError, match='the defense Preface has no name; write name = "preface" in the body'):

        @dataclass(frozen=True)
        class Preface(StagedDefense):
            pass

    class Base(StagedDefense, unnamed=True):
        pass

    class Named(Base):
        name = "named"

    assert Named().name == "named"


@dataclass(frozen=True)
class Suffix(StagedDefense):
    name = "suffix"
    word: str = "please"

    def rewrite(self, mllm: Any, request: Any) -> Any:
        from dataclasses import replace

        return replace(request, text=f"{request.text} {self.word}")

    def review(self, mllm: Any, responses: list[Response], settings: Settings) -> list[Response]:
        from dataclasses import replace

        return [replace(response, text=f"{response.text}<{self.word}>") for response in responses]


class Whole(Defense):
    name = "whole"

    def respond(self, mllm: Any, requests: Any, settings: Settings = SETTINGS) -> list[Response]:
        return []


@dataclass(frozen=True, eq=False)
class Guiding(StagedDefense):
    name = "guiding"

    def policy(self, mllm: Any) -> Guided:
        return Guided(RefusalTokens.of(mllm), k=2, steps=1)


def test_a_composition_rewrites_and_reviews_in_order(planted: Any) -> None:
    both = Composed((Suffix("a"), Suffix("b")))
    request = planted_requests(1)[0]
    assert both.name == "suffix+suffix" and both.rewrite(planted, request).text == f"{request.text} a b"
    response = both.respond(planted, [request], SETTINGS)[0]
    assert response.text.endswith("<a><b>") and response.request == request
    assert both.fingerprint() not in {Composed((Suffix("b"), Suffix("a"))).fingerprint(), Suffix("a").fingerprint()}
    alone = Composed((Undefended(), Undefended())).respond(planted, [request], SETTINGS)[0]
    assert alone.ids == Undefended().respond(planted, [request], SETTINGS)[0].ids
    guided = Composed((Suffix("a"), Guiding()))
    assert guided.policy(planted).steps == 1
    with pytest.raises(UsageError, match="guiding and guiding both choose the tokens"):
        Composed((Guiding(), Guiding())).respond(planted, [request], SETTINGS)
    with pytest.raises(UsageError, match="Whole answers as a whole and cannot be composed"):
        Composed((Suffix(), Whole()))
    with pytest.raises(UsageError, match="needs two defenses"):
        Composed((Suffix(),))


def test_options_of_a_composition_go_to_the_part_that_has_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    name = f"{tmp_path / 'mine.py'}+safesteer+ecso"
    found = choose(name, ["twice", "k=8", "ecso.caption_tokens=4"])
    assert [dict(part.options) for part in found.parts] == [{"twice": True}, {"k": 8}, {"caption_tokens": 4}]
    with pytest.raises(UsageError, match='has no option "kay"'):
        choose(name, ["kay=8"])
    others = [str(tmp_path / "one.py"), str(tmp_path / "two.py")]
    for other in others:
        Path(other).write_text(MINE.replace("sentence", "word").replace("preface", Path(other).stem))
    with pytest.raises(UsageError, match=r'"word" is an option of one and two; write one\.word='):
        choose("+".join(others), ["word=a"])
    assert choose("+".join(others), ["two.word=a"]).parts[1].options == {"word": "a"}


def test_two_defenses_of_one_name_are_refused(planted: Any) -> None:
    with pytest.raises(UsageError, match='two defenses are called "coca"'):
        evaluate(planted, [CoCA(), CoCA(alpha=1.0)], planted_requests(2), settings=SETTINGS, progress=False)
