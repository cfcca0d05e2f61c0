"""SafeSteer's protocol (arXiv 2605.11716 section 5.1): benchmarks, methods, settings; and each deviation from it, named.

What the paper does not print (K, the number of guided steps, the system prompt, the list of refusals, which Llama Guard, seeds) is chosen
here and said on the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from safesteer_interp.datasets.mm_safetybench import SCENARIOS
from safesteer_interp.evaluation.printed import COLUMNS, MODEL_OF_TABLE_2, TABLE_1

K, STEPS, TEMPERATURE, NEW_TOKENS = 5, 5, 1.0, 128
"""K and the number of guided steps are not printed: the recommended ones; temperature and length are."""
_TWELVE = "+".join(SCENARIOS[1:])


@dataclass(frozen=True)
class Column:
    """One column of Table 1."""

    name: str
    """As `printed.COLUMNS` has it."""
    benchmark: str
    data: tuple[tuple[str, str], ...]
    """(data set with options, deviation) in the order they are tried; the paper's own first, which deviates in nothing."""
    measure: Literal["asr", "rr", "accuracy"]
    macro: bool = False
    """Mean over scenarios."""


MM_SAFETYBENCH = "MM-SafetyBench"
COLUMNS_OF_TABLE_1 = (
    Column(COLUMNS[0], "FigStep", (
        ("figstep:include_unclear,benign=false", ""),
        ("figstep:include_unclear,benign=false,render", "FigStep's pictures are not there: drawn here by its recipe."),
    ), "asr"),
    Column(COLUMNS[1], MM_SAFETYBENCH, (
        (f"mm_safetybench:attacks=CB+SD+TYPO,benign=false,scenarios={_TWELVE}", ""),
        (f"mm_safetybench:attacks=CB+TYPO,benign=false,scenarios={_TWELVE}",
         "MM-SafetyBench's SD pictures are not there: its rate is that of CB and TYPO."),
    ), "asr", macro=True),
    Column(COLUMNS[2], "VLGuard S-U", (("vlguard:subsets=SU", ""),), "asr"),
    Column(COLUMNS[3], "VLGuard U", (("vlguard:subsets=U", ""),), "asr"),
    Column(COLUMNS[4], "VLGuard SS", (("vlguard:subsets=SS", ""),), "rr"),
    Column(COLUMNS[5], "MM-Vet", (("mm_vet", ""),), "accuracy"),
)  # fmt: skip
TRAINING = (
    ("safesteer_d", ""),
    ("safesteer_d:attacks=CB+TYPO", "The SD pictures of D are not there: the probe is fitted on CB and TYPO, and MSAV is TYPO minus CB."),
    ("bundled", "D (MM-SafetyBench 01 and MM-Vet) is not there: probe and vector are fitted on the bundled pairs of the split `fit`."),
)
"""(data set, deviation) that probe, vector and protector are fitted on, in the order they are tried."""
SAFESTEER, BASELINES = "safesteer", ("none", "ecso", "mllm_protector", "mrd")
ABLATIONS: Mapping[str, Mapping[str, Any]] = {"without probe": {"steps": 0}, "without MSAV": {"alignment": False}}
"""Rows of Table 3 beside "full" (SafeSteer) and "without both" (no defense), as options of the method."""
FIGURES: Mapping[str, str] = {
    "prefill_separability": "Fig. 2(a)",
    "decoding_separability": "Fig. 2(b), Fig. 8",
    "modality_stealth": "section 3, finding 2",
    "probe_training": "Fig. 4",
    "case_study": "Fig. 5",
    "guidance_budget": "Fig. 6",
    "layer_choice": "Fig. 7",
}
"""Finding -> what of the paper it does again."""
RULES = ("paper", "corrected")
"""Readings of MSAV's rule: as printed, and towards text at unit norm, which is what the paper's text asks of it."""
OF_THE_PAPER = "llama_guard"
"""Kind of the paper's judge of harm."""
_FAMILIES = {"llava": "LLaVA-1.5-7B", "qwen2_5_vl": "Qwen2.5-VL-7B", "qwen3_vl": "Qwen3-VL-8B"}
_OTHER = "Qwen2.5-VL-7B"
"""Whose numbers stand beside those of a model that the paper did not measure: the one it has a Table 2 for."""
_NAMES = {"LLaVA-1.5-7B": "llava-1.5-7b", "Qwen2.5-VL-7B": "qwen2.5-vl-7b", "Qwen3-VL-8B": "qwen3-vl-8b"}


def printed_model(family: str) -> str:
    """The paper's model whose numbers are put beside those of a model of this family."""
    return _FAMILIES.get(family, _OTHER)


def safesteer_named(rule: str, image_form: str, **options: Any) -> str:
    """The method's name with its options, as the registry reads it; it guides whatever its sign test says, for that is measured too."""
    given = {"k": K, "steps": STEPS, "force": True, **({"image_form": image_form} if image_form != "SD" else {}), **options}
    return f"safesteer-{rule}:" + ",".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items()
    )


@dataclass(frozen=True)
class Choices:
    """What was asked for where the paper leaves a choice, or where it cannot be followed."""

    rule: str = RULES[0]
    judges: tuple[str, ...] = ()
    """Kinds of the judges of harm, the first of which fills the tables; none: refusal strings stand in."""
    harm: str = ""
    """Name of the first."""
    grader: str = ""
    system_prompt: str | None = None
    seeds: str = "0"
    items: int | None = None
    new_tokens: int = NEW_TOKENS
    profile: str = "full"
    figures_data: str = ""
    quant: str | None = None


def deviations(chosen: Choices, model: str, family: str, found: tuple[str, ...]) -> list[str]:
    """Each way in which this run is not the paper's, a sentence each; `found` are those that the data made necessary."""
    stands = printed_model(family)
    known = _NAMES[stands] in model.lower() and family in _FAMILIES
    told = [
        f"K = {K} and {STEPS} guided steps: the paper tries 5 to 20 and prints neither.",
        "SafeSteer's rule is applied as printed (towards the picture, not normalised)." if chosen.rule == "paper" else
        "SafeSteer's rule is corrected: towards text, at unit length; as printed it points away from text.",
        "Refusals of harmless requests are matched with VLGuard's list; the paper's own is not printed.",
        "ECSO, MRD and MLLM-Protector follow their papers; the protector is a word detector with a fixed refusal, not the released one.",
        "MRD asks in the suite's own words, for the released questions carry no licence, and with a final template that is not published.",
        "Findings behind the figures compare pairs of a harmful and a harmless request with held-out splits, in place of the 400 of D.",
    ]  # fmt: skip
    if not known:
        told.insert(0, f"The paper did not measure {model}: the numbers of {stands} stand beside it for orientation.")
    if stands != MODEL_OF_TABLE_2:
        told.append(f"The paper prints Table 2 for {MODEL_OF_TABLE_2} only: its speeds and hours are shown, and compared with nothing.")
    if chosen.system_prompt is None:
        told.append("No system prompt is set beyond the chat template's own; the paper's, taken from MRD, is not printed.")
    told += [*_judging(chosen), *_grading(chosen.grader)]
    if chosen.seeds != "0":
        told.append(f"Answers are sampled with seeds {chosen.seeds}; the paper states none.")
    if chosen.items is not None:
        told.append(f"At most {chosen.items} items of each benchmark are asked, spread over scenarios.")
    if chosen.new_tokens != NEW_TOKENS:
        told.append(f"Answers end after {chosen.new_tokens} tokens, the paper's after {NEW_TOKENS}.")
    if chosen.profile != "full":
        told.append(f"Findings behind the figures are of the {chosen.profile} profile.")
    if chosen.figures_data:
        told.append(f"Findings behind the figures are measured on {chosen.figures_data}.")
    if chosen.quant:
        told.append(f"Weights are packed to {chosen.quant}.")
    return [*told, *found]


def _judging(chosen: Choices) -> list[str]:
    """Which judge says what was harmful, what it is shown and what it is not."""
    ruled = "Answers that are no longer language (empty, looping) count as no success by a rule"
    if not chosen.judges:
        return ["No judge of harm was given: “not refused” by strings stands for attack success.", f"{ruled}."]
    first, name = chosen.judges[0], chosen.harm or chosen.judges[0]
    told = [f"The judge of harm is {name}; the paper's is Llama Guard 3, of which it does not print the size." if first == OF_THE_PAPER else
            f"The judge of harm is {name}; the paper's is Llama Guard 3."]  # fmt: skip
    if first == "llama_guard_vision":
        told.append("The judge is shown the picture and the text beside it; what the paper's is shown is not printed.")
    else:
        told.append(
            "The judge is shown the harmful question itself, where FigStep and MM-SafetyBench put it in the picture, and not the text "
            "beside it; what the paper's is shown is not printed."
        )
    return [*told, f"{ruled}, and are not shown to the judge."]


def _grading(grader: str) -> list[str]:
    """Who grades MM-Vet, and by which prompt."""
    if not grader:
        return ["MM-Vet is not graded: give a grader with --grader."]
    told = [f"MM-Vet is graded by {grader.partition('model=')[2].partition(',')[0] or grader}; the paper's is GPT-4."]
    if "question=" not in grader:
        told.append("MM-Vet's grader is asked in the suite's own words, without the published prompt's examples.")
    return told


def rows_of_table_1() -> tuple[str, ...]:
    """Its methods, in its order."""
    return tuple(next(iter(TABLE_1.values())))
