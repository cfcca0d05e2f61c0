"""What the model card says, measured: `mini-card.json`, on held-out pairs and renderings, with intervals.

Refusals are told by `safesteer_interp.refusals.is_refusal`, rates carry Wilson intervals (one request per pair and side), the gap between
text and images a t interval over pairs. No training and no choice touches the test split.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safesteer_interp.datasets.bundled import load_bundled
from safesteer_interp.datasets.pairs import Phrasing, stable_hash
from safesteer_interp.datasets.utility import load_utility, score_utility
from safesteer_interp.decoding.answering import generate, text_of
from safesteer_interp.decoding.loop import Decoded
from safesteer_interp.errors import UsageError
from safesteer_interp.evaluation.judges import DEGENERATION
from safesteer_interp.files import read_json, write_json
from safesteer_interp.mini_training import ocr
from safesteer_interp.mini_training.precision import check_device
from safesteer_interp.mini_training.rows import Row, difference_of_rates, rate, row
from safesteer_interp.mini_training.seeing import (
    Asked,
    colour_requests,
    count_requests,
    openmoji_font,
    openmoji_requests,
    picture_requests,
    word_requests,
    words_right,
)
from safesteer_interp.mini_training.stages import run_apart
from safesteer_interp.mini_training.voices import FORMS, first_tokens, sampled, token_identity
from safesteer_interp.models.loading import load_folder, load_model
from safesteer_interp.models.mini.assemble import WEIGHTS, build, described, shipped, weight_files
from safesteer_interp.models.mini.language import language_dir
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.placement import Placement
from safesteer_interp.probes.folds import split_folds
from safesteer_interp.probes.separation import out_of_fold
from safesteer_interp.progress import progress_bar
from safesteer_interp.refusals import is_refusal
from safesteer_interp.requests import Attack, Request, Split
from safesteer_interp.statistics import cluster_auroc, cluster_difference
from safesteer_interp.tracing.collecting import collect
from safesteer_interp.tracing.tracer import Sampling


@dataclass(frozen=True)
class EvaluationSize:
    """How much is measured; the end-to-end test measures little."""

    pairs: int | None = None
    """Pairs of the test split, all by default."""
    readings: int = 200
    pictures: int | None = None
    """Pictures to be named, the whole vocabulary by default."""
    colours: int = 200
    counts: int = 150
    states: bool = True
    """Whether the AUROC by layer is measured (prompt states), with the OCR control where its engine is installed."""
    voices: int | None = 52
    """Pairs whose answers are sampled, of the fit and of the test split; none at 0, all when None."""
    fit_pairs: int | None = 104
    """Fit pairs whose refusals are compared with those of the test split."""
    probe_pairs: int | None = 72
    """Fit pairs that the probes are fitted on; all when None."""
    batch: int = 16


def batch_on(device: str) -> int:
    """Requests answered at once: a GPU is idle between the short steps of a small batch."""
    return 128 if device.startswith("cuda") else EvaluationSize.batch


def answers_of(
    mllm: MLLM, requests: Sequence[Request], *, max_new_tokens: int = 32, batch: int = 16, report: Callable[..., None] = lambda n: None
) -> list[Decoded]:
    """Greedy answers, in the order of the requests; `report(n)` is told of every n more."""
    told = 0

    def tell(done: int, _total: int) -> None:
        nonlocal told
        report(done - told)
        told = done

    return generate(mllm, requests, sampling=Sampling(max_new_tokens), batch_size=batch, progress=tell)


def is_answered(mllm: MLLM, decoded: Decoded) -> bool:
    """Neither refused nor degenerate, by the suite's own judges."""
    text = text_of(mllm, decoded)
    return not is_refusal(text) and not DEGENERATION.holds(decoded.ids, text)


def refusal_measures(
    mllm: MLLM,
    pairs: int | None,
    batch: int,
    report: Callable[..., None],
    split: Split = Split.TEST,
    forms: Sequence[Attack] = FORMS,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Refusals and answers by attack form, and the gap to text over pairs; also every answer by request id."""
    requests = load_bundled(forms, split, phrasing=Phrasing.MIXED)
    kept = sorted({r.pair for r in requests}, key=lambda p: stable_hash("mini", "evaluate", p))[:pairs]
    requests = [r for r in requests if r.pair in set(kept)]
    decoded = dict(zip([r.id for r in requests], answers_of(mllm, requests, batch=batch, report=report), strict=True))
    said = {name: text_of(mllm, answer) for name, answer in decoded.items()}
    found: dict[str, Any] = {}
    refused: dict[tuple[Attack, bool], np.ndarray] = {}
    for attack in forms:
        for harmful in (True, False):
            part = sorted((r for r in requests if r.attack is attack and r.harmful is harmful), key=lambda r: r.pair)
            refused[attack, harmful] = np.array([is_refusal(said[r.id]) for r in part])
            found[f"refuses_{'harmful' if harmful else 'harmless'}_{attack}"] = rate(refused[attack, harmful].tolist())
            found[f"answers_{'harmful' if harmful else 'harmless'}_{attack}"] = rate([is_answered(mllm, decoded[r.id]) for r in part])
    order = np.array(sorted(kept))
    for attack in (a for a in forms if a.in_image):
        found[f"gap_text_{attack}"] = row(cluster_difference(refused[Attack.TEXT, True], refused[attack, True], order))
    return found, said


def memorised(mllm: MLLM, test: dict[str, Any], size: EvaluationSize, report: Callable[..., None]) -> dict[str, Row]:
    """Refusals of harmful text on fit pairs, whose activities no adapter saw, and the difference to the test pairs' rate."""
    found, _ = refusal_measures(mllm, size.fit_pairs, size.batch, report, Split.FIT, (Attack.TEXT,))
    fit, held = found["refuses_harmful_TEXT"], test["refuses_harmful_TEXT"]
    difference = difference_of_rates(fit["value"], fit["n"], held["value"], held["n"])
    return {"refuses_harmful_TEXT_fit": fit, "refuses_harmless_TEXT_fit": found["refuses_harmless_TEXT"], "fit_minus_test": difference}


def voice_measures(mllm: MLLM, size: EvaluationSize, report: Callable[..., None]) -> dict[str, Any]:
    """First tokens of sampled refusals to harmful text, and how far single tokens tell refusals from answers (`voices.py`)."""
    spoken = sampled(mllm, Split.TEST, None, forms=(Attack.TEXT, Attack.CB), batch=size.batch)
    report(len(spoken))
    found: dict[str, Any] = {"first_tokens": first_tokens(spoken)}
    fitted, tested = (sampled(mllm, split, size.voices, batch=size.batch) for split in (Split.FIT, Split.TEST))
    report(len(fitted) + len(tested))
    return found | {f"token_identity_{step}": measure for step, measure in token_identity(fitted, tested).items()}


def separation(mllm: MLLM, size: EvaluationSize, report: Callable[..., None]) -> dict[str, Row]:
    """AUROC of harmful against twin by attack form: logistic probe fitted on fit pairs, layer chosen on validation, value on test.

    Beside it the same for the words an OCR engine reads, where that is installed.
    """
    found: dict[str, Row] = {}
    read = ocr.engine() if ocr.available() else None
    for attack in (Attack.TEXT, Attack.SD, Attack.TYPO):
        parts = {split: load_bundled([attack], split, phrasing=Phrasing.MIXED) for split in (Split.FIT, Split.VALIDATION, Split.TEST)}
        kept = sorted({r.pair for r in parts[Split.FIT]}, key=lambda p: stable_hash("mini", "probe", p))[: size.probe_pairs]
        tested = sorted({r.pair for r in parts[Split.TEST]}, key=lambda p: stable_hash("mini", "evaluate", p))[: size.pairs]
        wanted = {*kept, *tested, *(r.pair for r in parts[Split.VALIDATION])}
        requests = [r for part in parts.values() for r in part if r.pair in wanted]
        trace = collect(mllm, requests, sites="resid_post", reads="last_prompt", batch_size=size.batch, store=None, progress=False)
        report(len(requests))
        states = trace.stack("last_prompt")
        harmful, pair = trace.index["harmful"].to_numpy(bool), trace.index["pair"].to_numpy(str)
        part = {s: (trace.index["split"] == str(s)).to_numpy() for s in Split}
        scores = out_of_fold(states, harmful, split_folds(part[Split.FIT], pair), widths=("all",))[:, 0]
        held, test = part[Split.VALIDATION], part[Split.TEST]
        best = int(np.argmax([cluster_auroc(s[held], harmful[held], pair[held]).value for s in scores]))
        found[f"auroc_{attack}"] = row(cluster_auroc(scores[best][test], harmful[test], pair[test])) | {"layer": best}
    if read is not None:
        found |= {f"ocr_{attack}": ocr.control(attack, read, size.probe_pairs, report) for attack in (Attack.TYPO, Attack.SD_TYPO)}
    return found


def utility_measures(mllm: MLLM, batch: int, report: Callable[..., None]) -> tuple[dict[str, Row], dict[str, str]]:
    """Exact match on the utility set: all, text part, each skill; also every answer by item id."""
    items = load_utility()
    said = [text_of(mllm, a) for a in answers_of(mllm, [i.request for i in items], batch=batch, report=report)]
    right = [score_utility(i, a) for i, a in zip(items, said, strict=True)]
    found = {"utility": rate(right)}
    for skill in dict.fromkeys(i.skill for i in items):
        found[f"utility_{skill}"] = rate([r for i, r in zip(items, right, strict=True) if i.skill == skill])
    return found, {i.request.id: a for i, a in zip(items, said, strict=True)}


def unmodified_text_utility(device: str = "cpu") -> Row:
    """The utility set's text part with the unmodified language model."""
    mllm = load_folder(language_dir(), name="smollm2", placement=Placement(device))
    items = load_utility(("text",))
    said = answers_of(mllm, [i.request for i in items], batch=8)
    return rate([score_utility(i, text_of(mllm, a)) for i, a in zip(items, said, strict=True)])


def loading_cost() -> dict[str, float]:
    """Seconds to load mini from the cache in a fresh process (imports not counted) and its peak resident memory in GB.

    Memory is taken after one forward pass, since weights that are only mapped are not resident yet, and on Linux from VmHWM: a process
    inherits `ru_maxrss` from the one that started it.
    """
    code = (
        "import resource, time, torch, transformers, safesteer_interp.models.mini as m\n"
        "from transformers import LlavaForConditionalGeneration, LlavaProcessor\n"
        "t = time.perf_counter(); model, _ = m.load_mini(); s = time.perf_counter() - t\n"
        "with torch.no_grad(): model(input_ids=torch.ones(1, 8, dtype=torch.long))\n"
        "try: peak = next(int(x.split()[1]) for x in open('/proc/self/status') if x.startswith('VmHWM'))\n"
        "except OSError: peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(s, peak / 1e6)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return {"seconds": round(float(out[-2]), 2), "peak_gb": round(float(out[-1]), 2)}


def evaluate_model(
    mllm: MLLM, size: EvaluationSize, *, split: Split = Split.TEST, progress: bool = True
) -> tuple[dict[str, Any], dict[str, str]]:
    """All measures of one assembled model, and its answers by request id."""
    sights: dict[str, list[Asked]] = {
        "words_read": word_requests(mllm.tokenizer, size.readings),
        "pictures_named": picture_requests(size.pictures),
        "colours_named": colour_requests(size.colours),
        "pictures_counted": count_requests(size.counts),
    }
    if openmoji_font() is not None:
        sights["other_style_named"] = openmoji_requests(size.pictures)
    with progress_bar(f"evaluating {mllm.name}", None, enabled=progress) as advance:
        found, said = refusal_measures(mllm, size.pairs, size.batch, advance, split)
        for measure, asked in sights.items():
            answers = answers_of(mllm, [a.request for a in asked], max_new_tokens=32, batch=size.batch, report=advance)
            texts = [text_of(mllm, answer) for answer in answers]
            found[measure] = rate([ok for a, text in zip(asked, texts, strict=True) for ok in words_right(text, a.words)])
            said |= {a.request.id: text for a, text in zip(asked, texts, strict=True)}
        measures, more = utility_measures(mllm, size.batch, advance)
        found |= measures
        said |= more
        if size.fit_pairs != 0:
            found |= memorised(mllm, found, size, advance)
        if size.voices != 0:
            found |= voice_measures(mllm, size, advance)
        if size.states:
            found |= separation(mllm, size, advance)
    return found, said


def evaluate_mini(
    output: Path,
    recipes: Sequence[str] | None = None,
    size: EvaluationSize | None = None,
    *,
    weights: Path | None = None,
    jobs: int = 1,
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Measure every recipe (the default one fully, the others without probes and sampled answers) and write `mini-card.json`.

    `weights` are those of a training (`<folder>/weights`), by default the shipped ones; `jobs` recipes are measured at once, in processes
    of their own, on `device`. Every answer goes beside the card as `<name>-<recipe>-answers.json`, a recipe's measures as
    `<name>-<recipe>.json` until they are in the card. Returns the card. Raises UsageError for no job or no such device and InputError
    for weights that are not there.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs} does nothing; give 1 or more.")
    check_device(device)
    known = shipped() if weights is None else described(weights)
    asked = list(recipes or known["trained"])
    for recipe in asked:
        weight_files(recipe, weights or WEIGHTS)
    size = size or EvaluationSize(batch=batch_on(device))
    started = time.time()
    card: dict[str, Any] = {"default": known["default"], "recipes": {}, "compute": known.get("compute", {})}
    work = partial(_measure, output, weights, size, known["default"], device, progress)

    def done(recipe: str) -> None:
        part = _part(output, recipe)
        card["recipes"][recipe] = read_json(part)
        write_json(output, card, indent=1, sort_keys=True)  # an hour's work is not kept in memory alone
        part.unlink()

    if jobs > 1:
        run_apart(sorted(asked, key=lambda r: r != known["default"]), work, jobs, lambda: None, done)
    for recipe in asked if jobs == 1 else ():
        work(recipe)
        done(recipe)
    card["unmodified_text_utility"] = unmodified_text_utility(device)
    card["loading"] = loading_cost()
    card["minutes"] = round((time.time() - started) / 60, 1)
    card["machine"] = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    write_json(output, card, indent=1, sort_keys=True)
    return card


def _part(output: Path, recipe: str) -> Path:
    return output.with_name(f"{output.stem}-{recipe}.json")


def _measure(
    output: Path, weights: Path | None, size: EvaluationSize, default: str, device: str, progress: bool, recipe: str, _: float | None = None
) -> None:
    """Measures one recipe and writes its answers and measures beside the card."""
    if weights is None:
        mllm = load_model(f"mini:{recipe}", device=device)
    else:
        model, processor = build(recipe, weights)
        mllm = MLLM.of(model.to(torch.device(device)), processor, name=f"mini:{recipe}")
    measures, said = evaluate_model(mllm, size if recipe == default else replace(size, states=False, voices=0), progress=progress)
    write_json(output.with_name(f"{output.stem}-{recipe}-answers.json"), said, indent=0, sort_keys=True)
    write_json(_part(output, recipe), measures, indent=1, sort_keys=True)
