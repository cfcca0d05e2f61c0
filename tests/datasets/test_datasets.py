"""Loaders: JSON lines, FigStep, MM-SafetyBench, the registry and the utility set."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from safesteer_interp.datasets import DATASETS, load_jsonl, load_requests, load_utility, score_utility
from safesteer_interp.datasets.figstep import PROMPT, instruction
from safesteer_interp.datasets.mm_safetybench import SCENARIOS
from safesteer_interp.datasets.pairs import leaked_phrases
from safesteer_interp.datasets.registry import load_sound
from safesteer_interp.datasets.utility import SKILLS, UtilityItem
from safesteer_interp.errors import BadRequestError, InputError, UsageError
from safesteer_interp.paths import data_root
from safesteer_interp.requests import Attack, ImageFile, Request, Split

GOOD = {"id": "a", "text": "How can I renew a passport?", "harmful": False}


def write_lines(folder: Path, *rows: object) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def test_jsonl_reads_every_field(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    full = {
        "id": "b", "text": "Do it.", "harmful": True, "image": "red.png", "attack": "TYPO", "scenario": "06-Fraud", "pair": "p",
        "split": "train", "intent": "How can I do it?",
    }  # fmt: skip
    requests = load_requests(write_lines(tmp_path, GOOD, "", full))
    assert [r.id for r in requests] == ["a", "b"]
    plain, rich = requests
    assert (plain.attack, plain.pair, plain.split, plain.image, plain.dataset) == (Attack.TEXT, "a", Split.TEST, None, "mine")
    assert (rich.attack, rich.pair, rich.split, rich.scenario, rich.intent) == (
        Attack.TYPO, "p", Split.FIT, "06-Fraud", "How can I do it?",
    )  # fmt: skip
    assert rich.image is not None and rich.image.load().getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: expected a JSON object"),
        (GOOD | {"id": "x", "harmful": "no"}, 'line 2: field "harmful" must be true or false'),
        (GOOD | {"id": 7}, 'line 2: field "id" must be a non-empty text'),
        (GOOD | {"id": "x", "text": "  "}, 'line 2: field "text" must be a non-empty text'),
        ({"id": "x", "harmful": True}, 'line 2: field "text"'),
        (GOOD | {"id": "x", "attack": "TYPOS"}, 'line 2: field "attack" is \'TYPOS\'. Did you mean "TYPO"'),
        (GOOD | {"id": "x", "attack": ["TYPO"]}, 'line 2: field "attack"'),
        (GOOD | {"id": "x", "split": "dev"}, 'line 2: field "split"'),
        (GOOD | {"id": "x", "scenarios": "s"}, 'line 2: field "scenarios" is unknown. Did you mean "scenario"'),
        (GOOD | {"id": "x", "scenario": 3}, 'line 2: field "scenario" must be a text'),
        (GOOD, 'line 2: field "id" repeats "a" of line 1'),
        (GOOD | {"id": "x", "image": "none.png"}, 'line 2: field "image" names'),
        (GOOD | {"id": "x", "image": "../secret.png"}, "leaves the folder"),
        (GOOD | {"id": "x", "image": "/etc/passwd"}, "leaves the folder"),
        (GOOD | {"id": "x", "image": "a\0b"}, 'line 2: field "image" holds a NUL character'),
        (GOOD | {"id": "x", "image": "a" * 5000 + ".png"}, 'line 2: field "image" is "aaa'),
        (GOOD | {"id": "x", "image": "a/../b.png"}, "leaves the folder"),
        ('{"id": "x", "text": "t", "harmful": NaN}', 'line 2: field "harmful" must be true or false, not NaN'),
        ('{"id": "x", "text": "t", "harmful": -Infinity}', 'field "harmful" must be true or false, not -Infinity'),
        ('{"id": 1e999, "text": "t", "harmful": true}', 'line 2: field "id" must be a non-empty text, not 1e999'),
        (
            '{"id": ' + "9" * 5000 + ', "text": "t", "harmful": true}',
            'line 2: field "id" must be a non-empty text, not 999999999999… (5000',
        ),
        ('{"id": "x", "text": "t", "text": "u", "harmful": true}', 'line 2: field "text" is written twice'),
        ('{"id": "x", "text": ' + "[" * 100_000 + ', "harmful": true}', "line 2: its values are nested too deep"),
        (r'{"id": "x", "text": "bread \ud83d", "harmful": true}', 'line 2: field "text" holds half a surrogate pair (U+D83D'),
        (r'{"id": "x\ud83d", "text": "bread", "harmful": true}', 'line 2: field "id" holds half a surrogate pair'),
        (r'{"id": "x", "text": "t", "harmful": true, "pair": "\udc00"}', 'line 2: field "pair" holds half a surrogate pair (U+DC00'),
        (r'{"id": "x", "text": "a\u0000b", "harmful": true}', 'line 2: field "text" holds a NUL character'),
        (r'{"id": "x", "text": "t", "harmful": true, "split\udc00": 1}', 'line 2: field "split\\udc00" is unknown'),
        (GOOD | {"id": "x", "image": "link.png"}, "leaves the folder"),
    ],
)
def test_jsonl_malformed_lines_name_file_line_and_field(tmp_path: Path, line: object, message: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    path = write_lines(folder, GOOD, line)
    with pytest.raises(InputError) as caught:
        load_jsonl(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_jsonl_missing_empty_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="holds no request"):
        load_jsonl(write_lines(tmp_path, ""))
    line = (json.dumps(GOOD) + "\n").encode()
    for data, message in (
        (b"\xff\xfe\x00", "is in UTF-16; save it as UTF-8"),
        (json.dumps(GOOD).encode("utf-16-le"), "is in UTF-16; save it as UTF-8"),
        (line + b"\n\xff", "line 3: byte 0xff is not UTF-8"),
    ):
        (tmp_path / "b.jsonl").write_bytes(data)
        with pytest.raises(InputError, match=message):
            load_jsonl(tmp_path / "b.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        load_jsonl(tmp_path)
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + line.replace(b"\n", b"\r\n") + b" \r\n")
    assert [r.id for r in load_jsonl(tmp_path / "b.jsonl")] == ["a"], "a byte order mark and CRLF are fine"


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1e"])
def test_jsonl_lines_end_with_lf_alone(tmp_path: Path, char: str) -> None:
    text = f"How do I bake bread?{char}Please list the steps."
    row = json.dumps(GOOD | {"text": text}, ensure_ascii=False)
    written = row if char >= "\x80" else json.dumps(GOOD | {"text": text})
    assert [r.text for r in load_jsonl(write_lines(tmp_path, written, GOOD | {"id": "b"}))] == [text, GOOD["text"]]


sound = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(lambda t: t.strip())


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"id": sound, "text": sound, "harmful": st.booleans()},
            optional={"scenario": sound, "pair": sound, "intent": sound, "attack": st.sampled_from([str(a) for a in Attack])},
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda row: row["id"],
    ),
    escaped=st.booleans(),
    ending=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_jsonl_round_trip_of_any_text(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], escaped: bool, ending: str
) -> None:
    path = tmp_path_factory.mktemp("round") / "mine.jsonl"
    path.write_bytes(ending.join(json.dumps(row, ensure_ascii=escaped) for row in rows).encode())
    found = load_jsonl(path)
    for row, request in zip(rows, found, strict=True):
        assert (request.id, request.text, request.harmful) == (row["id"], row["text"], row["harmful"])
        assert request.scenario == row.get("scenario", "") and request.pair == row.get("pair", row["id"])
        assert request.intent == row.get("intent", row["text"]) and row.get("attack", request.attack) == request.attack


junk = st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda t: t.encode("utf-8", "surrogatepass")))


@given(lines=st.lists(junk, max_size=6))
def test_jsonl_of_any_bytes_is_read_or_refused_in_a_sentence(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("junk") / "mine.jsonl"
    path.write_bytes(b"\n".join([json.dumps(GOOD).encode(), *lines]))
    bad: list[BadRequestError] = []
    try:
        found = load_jsonl(path, bad=bad)
    except InputError as refusal:
        said = str(refusal)
    else:
        said = str(path)
        assert found[0].id == "a" and all(f"{path}, line " in str(error) for error in bad)
    assert str(path) in said


def test_bad_rows_are_named_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    rows = [GOOD, "{", GOOD | {"id": "no", "harmful": "?"}, GOOD | {"id": "cut", "image": "cut.png"}, GOOD | {"id": "z"}]
    path = write_lines(tmp_path, *rows)
    bad: list[BadRequestError] = []
    assert [r.id for r in load_requests(path, bad=bad)] == ["a", "cut", "z"]
    assert [error.request_id for error in bad] == ["line 2", "no"] and f"{path}, line 3" in str(bad[1])
    good, bad = load_sound(path)
    assert [r.id for r in good] == ["a", "z"] and [error.request_id for error in bad] == ["line 2", "no", "cut"]
    assert 'request "cut"' in str(bad[2]) and "cut.png" in str(bad[2])
    with pytest.raises(InputError, match=r"holds no request that can be used.* The first: .*line 1"):
        load_sound(write_lines(tmp_path, "{", "["))
    with pytest.raises(BadRequestError, match=r"cut\.png"):
        load_sound(write_lines(tmp_path, GOOD | {"id": "cut", "image": "cut.png"}))


def test_registry_names_near_misses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='Did you mean "figstep"'):
        load_requests("figsteps", tmp_path)
    with pytest.raises(UsageError, match='no option "split_"'):
        load_requests("bundled", split_="test")
    with pytest.raises(InputError, match=r"needs a data root, and .*nowhere is not a folder; .* figstep/ with --data-root"):
        load_requests("figstep", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no folder figstep/.* --data-root"):
        load_requests("figstep", tmp_path)
    assert len(load_requests("bundled", attacks=["TEXT"], split="validation")) == 80


def test_every_entry_says_what_it_is() -> None:
    for name, entry in DATASETS.items():
        assert entry.title and entry.licence and entry.citation, name
        assert entry.known_answer == (name == "planted")
    assert len(load_requests("planted")) == 600 and {r.dataset for r in load_requests("planted:n_pairs=2,seed=3")} == {"planted"}
    assert {r.scenario for r in load_requests("utility:skills=read+text")} == {"read", "text"}
    assert not any(r.harmful for r in load_requests("utility"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bundled:rendered", 'data set "bundled" has no option "rendered"'),
        ("bundled:split", 'option "split" needs a value: bundled:split=...'),
        ("bundled:split=dev", 'option "split" has no value "dev".'),
        ("bundled:attacks=TEXT+TYPOS", 'option "attacks" has no value "TYPOS". Did you mean "TYPO"'),
        ("bundled:seed=x", 'option "seed" must be a whole number, not "x"'),
        ("bundled:,", "write options as NAME:option or NAME:option=value"),
        ("figstep:render=maybe", 'option "render" is true or false, not "maybe"'),
        ("utility:skills=juggle", 'the utility set has no skill "juggle"'),
        ("bundle", 'data set "bundle" is unknown'),
        ("x" * 500, "is unknown"),
    ],
)
def test_options_in_a_name_are_checked(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "figstep").mkdir()
    with pytest.raises(UsageError) as caught:
        load_requests(name, tmp_path)
    assert message in str(caught.value)


def test_options_in_a_name_are_those_of_the_loader() -> None:
    assert load_requests("bundled:attacks=TEXT+CB,split=validation,seed=2") == load_requests(
        "bundled", attacks=["TEXT", "CB"], split="validation", seed=2
    )


# --- FigStep ---------------------------------------------------------------------------------------------------------------


def make_figstep(root: Path) -> None:
    (root / "figstep/data/question").mkdir(parents=True)
    (root / "figstep/data/images/SafeBench").mkdir(parents=True)
    columns = ["dataset", "category_id", "task_id", "category_name", "question", "instruction"]
    with (root / "figstep/data/question/safebench.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([columns, *(["ForbidQI", c, 1, f"Topic {c}", f"How to do {c}?", f"Steps to do {c}."] for c in (1, 8))])
    for c in (1, 8):
        Image.new("RGB", (760, 760), "white").save(root / f"figstep/data/images/SafeBench/query_ForbidQI_{c}_1_6.png")
    benign = root / "figstep_benign_hiddendetect/data/FigStep"
    benign.mkdir(parents=True)
    (benign / "benign_questions.csv").write_text("\ufeffquestion,FigTxt\nHow can someone cook rice?,0\n", encoding="utf-8")


def test_figstep_on_a_small_copy_of_its_layout(tmp_path: Path) -> None:
    make_figstep(tmp_path)
    harmful, harmless = load_requests("figstep", tmp_path)
    assert (harmful.id, harmful.text, harmful.attack, harmful.harmful) == ("figstep-1_1", PROMPT, Attack.TYPO, True)
    assert isinstance(harmful.image, ImageFile) and harmless.image is not None and not harmless.harmful
    assert vars(harmless.image)["text"] == "Steps to cook rice." and harmless.text == PROMPT
    drawn = load_requests("figstep:render", tmp_path)[0]
    assert drawn == load_requests("figstep", tmp_path, render=True)[0]
    assert type(drawn.image) is type(harmless.image), "both classes are drawn alike"
    assert len(load_requests("figstep", tmp_path, include_unclear=True, benign=False)) == 2
    assert {r.attack for r in load_requests("figstep", tmp_path, text=True)} == {Attack.TEXT}


def test_figstep_keeps_line_separators_inside_a_cell_and_stays_in_its_folder(tmp_path: Path) -> None:
    make_figstep(tmp_path)
    table = tmp_path / "figstep/data/question/safebench.csv"
    head = "dataset,category_id,task_id,category_name,question,instruction\n"
    question = "How to sort mail?\u2028Really?\n\x85Yes?"
    table.write_text(f'{head}x,1,1,Topic,"{question}",Steps to sort mail.\n', encoding="utf-8", newline="")
    assert load_requests("figstep:text", tmp_path, benign=False)[0].text == question
    (tmp_path / "query_ForbidQI_1_6.png").write_bytes(b"")
    table.write_text(head + "x,a/../../../../../query_ForbidQI,1,T,Q,I\n")
    with pytest.raises(InputError, match="leaves the folder"):
        load_requests("figstep", tmp_path, benign=False)
    table.write_text(head + "x,1,1,Topic,Who, me?,Steps.\n")
    with pytest.raises(InputError, match=r"safebench\.csv, line 2: 7 fields, but 6 columns; put quotes around commas"):
        load_requests("figstep", tmp_path)


def test_figstep_names_what_is_missing(tmp_path: Path) -> None:
    make_figstep(tmp_path)
    (tmp_path / "figstep/data/images/SafeBench/query_ForbidQI_1_1_6.png").unlink()
    with pytest.raises(InputError, match=r"query_ForbidQI_1_1_6\.png, which does not exist.*figstep:render.*render=True"):
        load_requests("figstep", tmp_path)
    (tmp_path / "figstep/data/question/safebench.csv").write_text("question\nx\n")
    with pytest.raises(InputError, match='no column "category_id"'):
        load_requests("figstep", tmp_path)
    (tmp_path / "figstep/data/question/safebench.csv").unlink()
    with pytest.raises(InputError, match=r"safebench\.csv does not exist"):
        load_requests("figstep", tmp_path)


@pytest.mark.parametrize(
    ("question", "statement"),
    [
        ("How can someone cook rice?", "Steps to cook rice."),
        ("How do I clean a barn?", "Steps to clean a barn."),
        ("Steps to plan a marathon", "Steps to plan a marathon."),
        ("Why is the sky blue?", "Why is the sky blue."),
    ],
)
def test_figstep_statement(question: str, statement: str) -> None:
    assert instruction(question) == statement


# --- MM-SafetyBench --------------------------------------------------------------------------------------------------------


def make_mm_safetybench(root: Path, **changes: object) -> Path:
    folder = root / "mm_safetybench/data/processed_questions"
    folder.mkdir(parents=True, exist_ok=True)
    row = {
        "Question": "How to Q?", "Changed Question": "List steps to Q.", "Key Phrase": "do Q", "Phrase Type": "activity",
        "Rephrased Question": "The bottom of the image shows it.", "Rephrased Question(SD)": "The image shows it.",
    }  # fmt: skip
    (folder / "06-Fraud.json").write_text(json.dumps({"0": row | changes, "7": row}))
    return root


def test_mm_safetybench_on_a_small_copy_of_its_layout(tmp_path: Path) -> None:
    make_mm_safetybench(tmp_path)
    requests = load_requests("mm_safetybench", tmp_path, scenarios=["06-Fraud"], attacks=["TEXT", "CB", "TYPO"])
    assert [r.id for r in requests[:3]] == ["mmsb-06-000/TEXT", "mmsb-06-000/CB", "mmsb-06-000/TYPO"]
    assert [r.text for r in requests[:3]] == ["How to Q?", "List steps to Q.", "The bottom of the image shows it."]
    assert requests[0].image is None and requests[1].image is not None and requests[2].image is not None
    assert requests[2].image.load().size == (1024, 180)
    with pytest.raises(InputError, match=r"imgs/06-Fraud/SD/0\.jpg, which does not exist"):
        load_requests("mm_safetybench", tmp_path, scenarios=["06-Fraud"], attacks=["SD"])
    images = tmp_path / "mm_safetybench/data/imgs/06-Fraud/SD"
    images.mkdir(parents=True)
    for number in (0, 7):
        Image.new("RGB", (8, 8), "blue").save(images / f"{number}.jpg")
    pictured = load_requests("mm_safetybench", tmp_path, scenarios=["06-Fraud"], attacks=["SD"])
    assert [r.text for r in pictured] == ["The image shows it."] * 2


def test_mm_safetybench_names_what_is_wrong(tmp_path: Path) -> None:
    make_mm_safetybench(tmp_path, **{"Key Phrase": None})
    with pytest.raises(InputError, match=r'06-Fraud\.json, id "0": field "Key Phrase"'):
        load_requests("mm_safetybench", tmp_path, scenarios=["06-Fraud"])
    with pytest.raises(InputError, match=r"01-Illegal_Activitiy\.json does not exist"):
        load_requests("mm_safetybench", tmp_path)
    for number in ("²", "../0", "1" * 40):
        folder = tmp_path / "mm_safetybench/data/processed_questions"
        (folder / "06-Fraud.json").write_text(json.dumps({number: {}}))
        with pytest.raises(InputError, match=r"06-Fraud\.json: id .* is not a number"):
            load_requests("mm_safetybench", tmp_path, scenarios=["06-Fraud"])
    with pytest.raises(UsageError, match='Did you mean "06-Fraud"'):
        load_requests("mm_safetybench", tmp_path, scenarios=["06-Frauds"])


# --- the published files, when they are there --------------------------------------------------------------------------------

ROOT = data_root()
needs = {
    name: pytest.mark.skipif(
        ROOT is None or not (ROOT / name).is_dir(), reason=f"no data root with {name}/ (set SAFESTEER_DATA to run this)"
    )
    for name in ("figstep", "mm_safetybench")
}


@needs["figstep"]
def test_published_figstep() -> None:
    requests = load_requests("figstep", ROOT)
    assert sum(r.harmful for r in requests) == 350 and sum(not r.harmful for r in requests) == 300
    assert sum(r.harmful for r in load_requests("figstep", ROOT, include_unclear=True)) == 500
    assert sum(r.harmful for r in load_requests("figstep", ROOT, include_unclear=True, tiny=True)) == 50
    assert requests[0].image is not None and requests[0].image.load().size == (760, 760)


@needs["mm_safetybench"]
def test_published_mm_safetybench() -> None:
    both = load_requests("mm_safetybench", ROOT, include_unclear=True, benign=False)
    assert len(both) == 2 * 1680 and len({r.id for r in both}) == len(both)
    assert {r.scenario for r in both} == set(SCENARIOS)
    assert {r.scenario for r in load_requests("mm_safetybench", ROOT, benign=False)} == set(SCENARIOS[:9])
    assert len(load_requests("mm_safetybench", ROOT, include_unclear=True, tiny=True, benign=False)) == 2 * 168
    harmless = [r for r in load_requests("mm_safetybench", ROOT) if not r.harmful]
    assert {str(r.attack) for r in harmless} == {"CB", "TYPO"} and len(harmless) == 2 * 150
    assert {r.split for r in harmless if r.attack == "TYPO"} == set(Split)
    assert len({r.text for r in harmless if r.attack == "TYPO"}) == 1


# --- the utility set ---------------------------------------------------------------------------------------------------------


def test_utility_set_is_varied_and_harmless() -> None:
    items = load_utility()
    assert len({i.request.id for i in items}) == len(items)
    assert sum(i.skill == "text" for i in items) == 40 and sum(i.request.image is not None for i in items) >= 120
    assert {i.skill for i in items} == set(SKILLS)
    assert {i.skill for i in load_utility(("count", "read"))} == {"count", "read"}
    for item in items:
        assert not item.request.harmful and item.request.attack is Attack.NONE and item.answers
        for text in (item.request.text, *item.answers):
            assert leaked_phrases(text) == []
        assert score_utility(item, item.answers[0]), item.request.id
        assert not score_utility(item, "") and not score_utility(item, "I'm sorry, but I can't help with that."), item.request.id


def item(match: str, *answers: str) -> UtilityItem:
    return UtilityItem(Request("?", id="u"), answers, "text", match)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("match", "answer", "right"),
    [
        ("whole", "Green River.", True),
        ("whole", 'The image says "green river".', True),
        ("whole", "green river bank", False),
        ("whole", "a green river and more", False),
        ("start", "A green river on a light background.", True),
        ("start", "It is a green river", True),
        ("start", "A big green river", False),
        ("start", "The image shows a lake. Green river.", False),
        ("start", "greenriver", False),
        ("sentence", "green river", True),
        ("sentence", "The answer is green river.", True),
        ("sentence", "The answer is green river, which is long.", True),
        ("sentence", "It is not green river.", False),
        ("sentence", "Green river is a verb.", False),
        ("sentence", "I do not know. Green river.", False),
    ],
)
def test_exact_match(match: str, answer: str, right: bool) -> None:
    assert score_utility(item(match, "green river"), answer) is right


def test_numbers_match_as_digits_and_words() -> None:
    assert score_utility(item("start", "two"), "2 pictures") and score_utility(item("start", "2"), "There are two.")
    assert not score_utility(item("start", "two"), "three")
