"""A model behind a server: what it is asked, what it cannot do, and that a comparison runs on it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from support.stand_in_server import StandIn

from safesteer_interp.defenses.adashield import AdaShield
from safesteer_interp.defenses.coca import CoCA
from safesteer_interp.defenses.defense import Settings, is_black_box
from safesteer_interp.defenses.ecso import ECSO
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.defenses.registry import DEFENSES, defense_class
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.planted import planted_requests
from safesteer_interp.models.served import ServedMLLM
from safesteer_interp.served import Server
from safesteer_interp.tracing.tracer import Sampling

SETTINGS = Settings(Sampling(max_new_tokens=8, temperature=1.0, seed=3), batch_size=4)


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()


def served(server: StandIn, **options: Any) -> ServedMLLM:
    return ServedMLLM(Server(server.url, "org/model", retries=0), **options)


def test_text_picture_seed_and_system_prompt_are_sent(server: StandIn) -> None:
    server.reply = lambda body, number: (200, "sorry i cannot help")
    mllm = served(server, system_prompt="Be brief.")
    some = [r for r in planted_requests(1) if r.attack in ("TEXT", "SD") and r.harmful]
    found = Undefended().respond(mllm, some, SETTINGS)
    assert [r.text for r in found] == ["sorry i cannot help"] * 2 and len(found[0].ids) == 4 and found[0].request == some[0]
    text, shown = sorted(server.bodies, key=lambda body: isinstance(body["messages"][-1]["content"], list))
    assert text["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": some[0].text}]
    assert (text["model"], text["temperature"], text["max_tokens"], text["seed"]) == ("org/model", 1.0, 8, 3)
    picture, words = shown["messages"][-1]["content"]
    assert words == {"type": "text", "text": some[1].text}
    sent = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
    assert some[1].image is not None and sent.tobytes() == some[1].image.load().tobytes()


def test_black_box_methods_work_and_others_say_what_they_need(server: StandIn) -> None:
    def reply(body: dict[str, Any], number: int) -> tuple[int, str]:
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        return 200, "Yes" if text.startswith("QUERY") else "a caption" if text.startswith("REQUEST") else "an answer"

    server.reply = reply
    some = [r for r in planted_requests(1) if r.attack == "SD"]
    found = ECSO().respond(served(server), some, SETTINGS)
    assert all(r.verdict["unsafe"] and r.verdict["caption"] == "a caption" for r in found)
    assert AdaShield().respond(served(server), some, SETTINGS)[0].text == "an answer"
    with pytest.raises(UsageError, match="neither states nor logits"):
        CoCA().respond(served(server), some, SETTINGS)
    black = {name for name in DEFENSES if is_black_box(defense_class(name))}
    assert black == {"none", "ecso", "mllm_protector", "mrd", "adashield", "self_reminder"}


def test_an_answer_that_does_not_come_stops_with_a_sentence(server: StandIn) -> None:
    server.reply = lambda body, number: (400, "")
    with pytest.raises(InputError, match=r'gave no answer to request "planted-000/TEXT/harmful" \(status 400'):
        Undefended().respond(served(server), planted_requests(1)[:1], SETTINGS)
    assert served(server).fingerprint != ServedMLLM(Server(server.url, "other")).fingerprint


@pytest.mark.slow
def test_a_served_model_is_compared(
    server: StandIn, safesteer: Callable[..., tuple[int, str, str]], fresh_cache: Path, tmp_path: Path
) -> None:
    server.reply = lambda body, number: (200, "sorry, i cannot help" if "examine the image" in str(body) else "sure, here it is")
    ask = ("compare", "--model", "org/model", "--endpoint", server.url, "--benchmarks", "planted", "--training", "bundled", "--pairs", "1")
    ask += ("--seeds", "0", "--max-new-tokens", "8", "--out", str(tmp_path))
    code, _, err = safesteer(*ask)
    assert code == 0, err
    assert "left out: safesteer needs states or logits" in err
    rates = pd.read_csv(tmp_path / "model" / "rates.csv")
    assert set(rates["method"]) == {"none", "ecso", "mrd", "adashield", "self_reminder"}
    first = rates[(rates["judge"] == rates["judge"].iloc[0]) & (rates["measure"] == "asr")].set_index("method")["value"]
    assert first["none"] == 1 and first["adashield"] == 0
    code, _, err = safesteer(*ask, "--defenses", "coca")
    assert code == 2 and "load the model without --endpoint" in err
