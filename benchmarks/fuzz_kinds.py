"""What the fuzz puts in, and through what: each kind prepares spoiled input in a folder and runs the suite on it.

A kind is a function of (rng, the case's folder, Bases). It may raise SafeSteerError or SystemExit; anything else is a finding.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_commands import NOT_ASKED, command_line, quietly
from fuzz_mutation import NUMBERS, spoil_bytes, spoil_file, spoil_json, text, value
from PIL import Image

from safesteer_interp.cli import COMMANDS
from safesteer_interp.datasets.registry import load_requests, load_sound
from safesteer_interp.defenses.defense import Settings
from safesteer_interp.defenses.registry import defense_class
from safesteer_interp.defenses.safesteer import SafeSteer
from safesteer_interp.errors import SafeSteerError
from safesteer_interp.evaluation.harness import evaluate
from safesteer_interp.models import load_model
from safesteer_interp.models.planted import planted_requests
from safesteer_interp.report.pages import build
from safesteer_interp.report.render import render
from safesteer_interp.requests import Attack, ImageFile, Request, Split, check_images
from safesteer_interp.tracing.collecting import collect
from safesteer_interp.tracing.store import Store
from safesteer_interp.tracing.tracer import Sampling

QUICK = Settings(Sampling(max_new_tokens=3, temperature=0.0), batch_size=8)
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")


@dataclass
class Bases:
    """Sound things to spoil, each made once, below `root`."""

    root: Path
    note: str = ""
    """What the present case does, for its finding."""
    codes: Counter[str] = field(default_factory=Counter)
    """Commands with their exit codes."""

    @cached_property
    def planted(self) -> Any:
        return load_model("planted")

    @cached_property
    def requests(self) -> list[Request]:
        return planted_requests(4)

    @cached_property
    def checkpoints(self) -> list[Path]:
        folders = []
        for family in ("llama", "llava"):
            model = load_model(f"tiny:{family}")
            folder = self.root / f"tiny-{family}"
            model.model.save_pretrained(folder)
            model.processor.save_pretrained(folder)
            folders.append(folder)
        return folders

    @cached_property
    def defense(self) -> Path:
        pairs = [r for r in planted_requests(16, attacks=(Attack.TEXT, Attack.CB, Attack.SD)) if r.split is not Split.TEST]
        return SafeSteer.fit(self.planted, pairs, fit="prompt", tracing={"progress": False}).save(self.root / "defense")

    @cached_property
    def store(self) -> Path:
        self.trace(self.root / "store")
        return self.root / "store"

    @cached_property
    def responses(self) -> Path:
        self.answers(self.root / "responses")
        return self.root / "responses"

    @cached_property
    def figures(self) -> Path:
        place, store = self.root / "figures", self.root / "run-store"
        quietly("run", "prefill_separability", "--model", "planted", "--out", str(place), "--store", str(store), "--set", "pairs=8")
        return place

    def trace(self, store: Path) -> Any:
        """A small trace of the planted model into a store."""
        options: dict[str, Any] = {
            "sites": "resid_post,final_norm",
            "reads": "last_prompt",
            "tracer": "hooks",
            "store": store,
            "progress": False,
        }
        return collect(self.planted, self.requests, **options)

    def answers(self, root: Path) -> Any:
        """A few answers of the planted model, stored."""
        return evaluate(
            self.planted,
            [defense_class("none").build(self.planted)],
            self.requests[:6],
            seeds=(0,),
            settings=QUICK,
            root=root,
            progress=False,
        )


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    return target


def a_file(rng: random.Random, folder: Path, *patterns: str) -> Path:
    return rng.choice(sorted(p for pattern in patterns for p in folder.rglob(pattern) if p.is_file()))


def sound_rows(rng: random.Random, count: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        row: dict[str, Any] = {"id": f"r{i}", "text": f"how do i wash the boat number {i}", "harmful": bool(i % 2)}
        for name, choices in (
            ("image", ["good.png"]),
            ("attack", list(map(str, Attack))),
            ("pair", ["p0", "p1"]),
            ("split", list(map(str, Split))),
        ):
            if rng.random() < 0.4:
                row[name] = rng.choice(choices)
        if row.get("attack", "none") != "none":  # sound: the form and the attack agree
            row |= {"attack": "TEXT"} if "image" not in row else {"attack": row["attack"] if row["attack"] != "TEXT" else "CB"}
        if "pair" in row:
            row.pop("split", None)
        rows.append(row)
    return rows


def jsonl(rng: random.Random, folder: Path, bases: Bases) -> None:
    """A data set of one's own: rows, values or bytes spoiled; what is sound is traced now and then."""
    rows = sound_rows(rng, rng.randrange(1, 7))
    if rng.random() < 0.7:
        at = rng.randrange(len(rows))
        rows[at] = spoil_json(rng, rows[at])
    data = "\n".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows).encode("utf-8", "surrogatepass")
    path = folder / "user" / "fuzz.jsonl"
    path.write_bytes(spoil_bytes(rng, data) if rng.random() < 0.6 else data)
    good, _ = load_sound(path)
    if rng.random() < 0.15:
        trace_sound(bases, good, folder)


def trace_sound(bases: Bases, requests: list[Request], folder: Path) -> None:
    collect(bases.planted, requests[:4], sites="final_norm", reads="last_prompt", tracer="hooks", store=folder / "store", progress=False)


def benchmark(rng: random.Random, folder: Path, bases: Bases) -> None:
    """FigStep and MM-SafetyBench in their published layout, one file spoiled."""
    root = folder / "data"
    questions, benign = root / "figstep/data/question", root / "figstep_benign_hiddendetect/data/FigStep"
    scenario = root / "mm_safetybench/data/processed_questions"
    for place in (questions, benign, scenario):
        place.mkdir(parents=True)
    head = "dataset,category_id,task_id,category_name,question,instruction\r\n"
    rows = [f'F,{rng.randrange(1, 11)},{i},Topic,"How to {text(rng)}?",Steps to {text(rng)}.\r\n' for i in range(4)]
    (questions / "safebench.csv").write_bytes((head + "".join(rows)).encode("utf-8", "surrogatepass"))
    (benign / "benign_questions.csv").write_text("question,FigTxt\nHow can someone cook rice?,0\n")
    names = ("Question", "Changed Question", "Key Phrase", "Rephrased Question", "Rephrased Question(SD)")
    record = {str(i): {name: rng.choice(("bake bread", text(rng))) for name in names} for i in range(3)}
    (scenario / "06-Fraud.json").write_text(json.dumps(spoil_json(rng, record) if rng.random() < 0.5 else record))
    if rng.random() < 0.5:
        spoil_file(rng, a_file(rng, root, "*.csv", "*.json"))
    name = rng.choice(
        (
            "figstep:render",
            "figstep:text",
            "figstep",
            "mm_safetybench:scenarios=06-Fraud",
            "mm_safetybench:scenarios=06-Fraud,attacks=TEXT+SD",
        )
    )
    good, _ = load_sound(name, root)
    for request in good[:3]:
        request.key()
        if request.image is not None:
            request.image.load()


def options(rng: random.Random, folder: Path, bases: Bases) -> None:
    """Names of data sets with options that mean nothing."""
    words = ("attacks", "split", "seed", "canvas", "phrasing", "render", "tiny", "n_pairs", "skills", "scenarios", "x")
    written = ",".join(
        rng.choice(words) + rng.choice(("", f"={rng.choice(NUMBERS)}", f"={text(rng)[:60]}", "=TEXT+SD", "=train", "=true"))
        for _ in range(rng.randrange(3))
    )
    name = rng.choice(("bundled", "planted", "utility", "figstep", text(rng)))
    for request in load_requests(f"{name}:{written}", folder / "data")[:3]:
        if request.image is not None:
            request.image.load()


def image(rng: random.Random, folder: Path, bases: Bases) -> None:
    """A picture of any format, size and mode, its bytes spoiled, through loading, checking and the model's processor."""
    mode = rng.choice(("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "LA", "YCbCr"))
    size = rng.choice(((1, 1), (3, 5), (56, 56), (1, 900), (900, 1), (200, 120)))
    buffer, kind = io.BytesIO(), rng.choice(FORMATS)
    try:
        Image.effect_noise(size, 90).convert(mode).save(buffer, kind)
    except (OSError, ValueError, KeyError):
        Image.new("RGB", size, "red").save(buffer, "PNG")
    path = folder / "user" / "fuzz.png"
    path.write_bytes(spoil_bytes(rng, buffer.getvalue()) if rng.random() < 0.75 else buffer.getvalue())
    request = Request(id="a", text="what should i do with this picture", harmful=False, attack=Attack.SD, image=ImageFile(path))
    good, bad = check_images([request, bases.requests[0]])
    assert len(good) + len(bad) == 2 and good[-1] is bases.requests[0]
    bases.planted.encode(good)


def request(rng: random.Random, folder: Path, bases: Bases) -> None:
    """Requests made in Python, through encoding, tracing and answering."""
    made = [
        Request(
            id=text(rng), text=text(rng), harmful=rng.random() < 0.5, attack=rng.choice(list(Attack)), pair=text(rng), scenario=text(rng)
        )
        for _ in range(rng.randrange(1, 3))
    ]
    if rng.random() < 0.5:
        trace_sound(bases, made, folder)
    else:
        defense_class(rng.choice(("none", "ecso"))).build(bases.planted).respond(bases.planted, made, QUICK)


def checkpoint(rng: random.Random, folder: Path, bases: Bases) -> None:
    """A checkpoint folder with one or two of its JSON or weight files spoiled."""
    place = copied(rng.choice(bases.checkpoints), folder / "user" / "checkpoint")
    for _ in range(rng.randrange(1, 3)):
        spoil_file(rng, a_file(rng, place, "*.json", "*.json", "*.jinja", "*.safetensors"))
    model = load_model(str(place))
    model.encode([Request(id="a", text="How do I bake bread?", harmful=False, attack=Attack.TEXT)])


def defense(rng: random.Random, folder: Path, bases: Bases) -> None:
    """A saved SafeSteer with a file spoiled, or with parameters that mean nothing."""
    place = copied(bases.defense, folder / "user" / "defense")
    if rng.random() < 0.8:
        spoil_file(rng, a_file(rng, place, "*"))
    names = [f.name for f in dataclasses.fields(SafeSteer) if f.name not in ("probe", "prompt_probe", "vector")]
    changed = {rng.choice(names): value(rng)} if rng.random() < 0.4 else {}
    loaded = SafeSteer.load(place, **changed)
    loaded.respond(bases.planted, bases.requests[:2], QUICK)


def store(rng: random.Random, folder: Path, bases: Bases) -> None:
    """A store of traces with a file spoiled: opening says so, and the same trace again is whole and the same."""
    place = copied(bases.store, folder / "store")
    spoil_file(rng, a_file(rng, place, "*.json", "*.safetensors"))
    for key in Store(place).keys():  # noqa: SIM118 - a store is no mapping
        try:
            Store(place).open(key).stack("last_prompt")
        except SafeSteerError:
            continue
    again = bases.trace(place)
    sound = Store(bases.store).open(again.key)
    assert np.array_equal(again.stack("last_prompt"), sound.stack("last_prompt")), "a damaged store gave other states"


def responses(rng: random.Random, folder: Path, bases: Bases) -> None:
    """Stored answers with lines spoiled: what is damaged is answered again, and the answers are the same."""
    place = copied(bases.responses, folder / "responses")
    spoil_file(rng, a_file(rng, place, "*.jsonl"))
    again = bases.answers(place)
    assert list(again["request"]) == [r.id for r in bases.requests[:6]]


def results(rng: random.Random, folder: Path, bases: Bases) -> None:
    """A result folder with a file spoiled, through the gallery, drawing and the comparison."""
    place = copied(bases.figures, folder / "figures")
    spoil_file(rng, a_file(rng, place, "claims.json", "provenance.json", "*.csv"))
    if rng.random() < 0.2:
        render(figures=place)
    elif rng.random() < 0.5:
        quietly("report", "--figures", str(place))
    else:
        build(place)


def command(rng: random.Random, folder: Path, bases: Bases) -> None:
    """A command line, sound or not, in a folder that mostly holds a result and a trace already."""
    if rng.random() < 0.7:
        copied(bases.figures, folder / "figures")
        copied(bases.root / "run-store", folder / "store")
    words = command_line(rng, rng.choice(sorted(set(COMMANDS) - NOT_ASKED)))
    lines = "\n".join(text(rng)[:200] for _ in range(2))
    bases.note = " ".join(words)[:400]
    code = quietly(*(w.replace("\0", "") if rng.random() < 0.9 else w for w in words), stdin=lines.encode("utf-8", "replace").decode())
    bases.codes[f"{words[0]} {code}"] += 1
    assert code in (0, 1, 2, 3, None), f"exit code {code} of {words}"


KINDS: dict[str, tuple[Callable[[random.Random, Path, Bases], None], int]] = {
    "jsonl": (jsonl, 30),
    "benchmark": (benchmark, 10),
    "options": (options, 6),
    "image": (image, 20),
    "request": (request, 8),
    "checkpoint": (checkpoint, 6),
    "defense": (defense, 6),
    "store": (store, 6),
    "responses": (responses, 4),
    "results": (results, 6),
    "command": (command, 4),
}
"""Kind -> (function, how many of a hundred cases): cheap ones often, dear ones less."""
