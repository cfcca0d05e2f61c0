"""SafeSteer (arXiv 2605.11716): re-rank the first tokens by the Decoding-Probe, and align image-borne harm with text by MSAV.

At the prompt the probe reads h0. Where it says harmful, MSAV moves h0 before the first token's candidates are taken (eq. 9-10); then,
for the first `steps` tokens, the top K candidates are scored by the probe on their own states and one is drawn (eq. 4-6). Afterwards
the answer is sampled as usual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safesteer_interp.content_digest import content_digest, loaded_digest
from safesteer_interp.decoding.custom_generate import guided_generate
from safesteer_interp.decoding.policies import Guided, Opening, Policy, ProbeScorer, RandomScorer, RefusalTokens, Scorer, check_budget
from safesteer_interp.defenses.defense import Settings, StagedDefense
from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.files import read_json, read_tensors, write_tensors
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.probes.fitting import check_fit, fit_probe, training_trace
from safesteer_interp.probes.tokens import SITE
from safesteer_interp.requests import Attack, Request
from safesteer_interp.tracing.store import Store
from safesteer_interp.tracing.trace import FIT_SPLIT, Traced
from safesteer_interp.types import States
from safesteer_interp.vectors.alignment import AlignmentVector, ApplicationRule, alignment_vectors, check_image_form

KIND, FILE = "safesteer-defense/2", "safesteer.safetensors"
SCORERS = ("probe", "random", "refusal_tokens")
GATES = ("none", "probe")


@dataclass(frozen=True, eq=False)
class SafeSteer(StagedDefense):
    """Probe-guided decoding with modal alignment; every part can be switched off for the ablations.

    Raises UsageError for K < 1, negative steps, temperature or mix, an unknown gate or scorer, or alignment without a vector.
    """

    name = "safesteer"
    trained = True
    probe: DecodingProbe
    """Scores the candidates: any of the three fits."""
    prompt_probe: DecodingProbe
    """Says whether the request is harmful, from h0: the prompt fit (the same object where `probe` is one)."""
    vector: AlignmentVector | None
    k: int = 5
    """Candidates a step."""
    steps: int = 5
    """Answer tokens that are guided; 0 leaves the probe out (the paper's "w/o DP")."""
    temperature: float = 1.0
    """Of the choice among candidates; 0 takes the best."""
    mix: float = 0.0
    """Weight of the model's log-probability beside the score; 0 is the paper."""
    gate: str = "none"
    """"none": every request is guided (the paper); "probe": only those the probe calls harmful."""
    alignment: bool = True
    """Apply MSAV to requests the probe calls harmful; False is the paper's "w/o MSAV"."""
    sign: str = "toward_text"
    """"toward_text", or "printed": the paper's, from text towards image."""
    norm: str = "unit"
    """"unit", "raw" (the paper's) or "projection": see `vectors/alignment.py`."""
    strength: float = 1.0
    """Times the paper's step length |h0 - mean(CB)|."""
    scorer: str = "probe"
    """"random" and "refusal_tokens" are the controls at equal K and steps."""
    scorer_seed: int = 0
    force: bool = False
    """Guide even with a probe that failed its sign test (to measure what happens)."""

    def __post_init__(self) -> None:
        _check_types(self.parameters(), {f.name: f.default for f in fields(self)})
        check_budget(self.k, self.steps)
        _check_choices(self.parameters())
        if self.alignment and self.vector is None:
            raise UsageError("SafeSteer aligns with a vector but has none; fit it on SD and CB requests, or set alignment=False.")

    @property
    def rule(self) -> ApplicationRule:
        """How MSAV is applied."""
        return ApplicationRule(self.sign, self.norm)

    @classmethod
    def fit(
        cls, mllm: MLLM, requests: Sequence[Request], *, fit: str = "prompt", tracing: dict[str, Any] | None = None, **options: Any
    ) -> SafeSteer:
        """Trace the training requests once (`tracing` are options of `probes.fitting.training_trace`) and fit probe and vector on them.

        `options` are the fields of SafeSteer. Requests of the TEST split are never used.
        """
        check_budget(options.get("k", cls.k), options.get("steps", cls.steps), mllm=mllm)  # before minutes of tracing
        return cls.from_trace(mllm, training_trace(mllm, requests, **(tracing or {})), fit=fit, **options)

    @classmethod
    def from_trace(
        cls,
        mllm: MLLM,
        trace: Traced,
        *,
        fit: str = "prompt",
        split: str | None = FIT_SPLIT,
        image_form: Attack | str = Attack.SD,
        probe: dict[str, Any] | None = None,
        **options: Any,
    ) -> SafeSteer:
        """Fit on the requests of `split` in a stored trace with `final_norm` at `last_prompt` and `step:1-...`, never on the test split.

        `image_form` is the attack whose shift from CB is MSAV, for data without SD pictures. `probe` are parameters of DecodingProbe.
        Raises InputError when a class is missing, or (with alignment) requests in that form or CB are.
        """
        of_prompts = fit_probe(mllm, trace, "prompt", split=split, **(probe or {}))
        scoring = of_prompts if fit == "prompt" else fit_probe(mllm, trace, fit, split=split, **(probe or {}))
        wanted = options.get("alignment", True)
        vector = alignment_vectors(trace, sites=(SITE,), split=split, image=image_form)[str(SITE)] if wanted else None
        return cls(probe=scoring, prompt_probe=of_prompts, vector=vector, **options)

    @classmethod
    def build(
        cls, mllm: MLLM, training: Sequence[Request] = (), *, fit: str = "prompt", image_form: str = str(Attack.SD), **options: Any
    ) -> SafeSteer:
        """`fit`, by the registry's name for it; what it reads is kept in the user's store of traces."""
        if not training:
            raise UsageError("SafeSteer is fitted on training requests, and none were given.")
        return cls.fit(mllm, training, fit=fit, image_form=image_form, tracing={"store": Store()}, **options)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], settings: Settings, mllm: MLLM | None = None) -> None:
        """Raises UsageError for what the finished defense would refuse, and for more candidates than the model has words."""
        check_fit(options.get("fit", "prompt"))
        check_image_form(options.get("image_form", Attack.SD))
        given: dict[str, Any] = {f.name: f.default for f in fields(cls)} | dict(options)
        check_budget(given["k"], given["steps"], settings.sampling.max_new_tokens, mllm)
        _check_choices(given)

    def description(self) -> dict[str, Any]:
        """What the defense is made of: fit, sign test, vector and parameters."""
        return description(self)

    def with_random_vector(self, seed: int = 0) -> SafeSteer:
        """Control: an alignment vector of the same length in a random direction."""
        if self.vector is None:
            raise UsageError("this SafeSteer has no alignment vector to replace.")
        return replace(self, vector=self.vector.random(seed))

    def guard(self, mllm: MLLM) -> None:
        """Raise UsageError when probe or vector belong to another model, site or template, or when the sign test forbids guiding."""
        self.prompt_probe.guard(mllm, SITE, "last_prompt")
        self.probe.guard(mllm, SITE)
        if self.vector is not None and self.alignment:
            self.vector.guard(mllm, SITE, "last_prompt")
        if self.steps and self.scorer == "probe":
            self.probe.require_sign(self.force)

    def policy(self, mllm: MLLM) -> Policy:
        """The decoding policy on this model, after `guard`."""
        self.guard(mllm)
        return self._guided(RefusalTokens.of(mllm) if self.scorer == "refusal_tokens" else None)

    def _guided(self, refusals: RefusalTokens | None) -> Guided:
        scorer: Scorer = refusals or ProbeScorer(self.probe)
        if self.scorer == "random":
            scorer = RandomScorer(self.probe, self.scorer_seed)
        return Guided(scorer, self.k, self.steps, self.temperature, self.mix, self.opening)

    def opening(self, states: States) -> Opening:
        """The verdict on each prompt, and h0 moved by MSAV where it is harmful (eq. 9-10)."""
        scores = self.prompt_probe.score_tensor(states)
        harmful = scores > 0
        moved = states
        if self.alignment and self.vector is not None and bool(harmful.any()):
            aligned = self.vector.apply(states, self.rule, self.strength)
            moved = torch.where(harmful[:, None], aligned, states)
        guided = harmful if self.gate == "probe" else torch.ones_like(harmful)
        verdicts = [
            {"score": score, "harmful": bad, "aligned": bad and self.alignment, "guided": on and self.steps > 0}
            for score, bad, on in zip(scores.tolist(), harmful.tolist(), guided.tolist(), strict=True)
        ]
        return Opening(moved, guided, verdicts)

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> Any:
        """`model.generate(**inputs, custom_generate=SafeSteer.load(folder))` on a plain transformers model.

        Only the width can be checked there: the caller answers for model and template being those it was fitted on.
        """
        if self.scorer == "refusal_tokens":
            raise UsageError('the control "refusal_tokens" needs a tokenizer; use SafeSteer.respond instead of custom_generate.')
        if self.steps and self.scorer == "probe":
            self.probe.require_sign(self.force)
        return guided_generate(self._guided(None), model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs)

    def parameters(self) -> dict[str, Any]:
        """Every field but the fitted objects."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("probe", "prompt_probe", "vector")}

    def fingerprint(self) -> str:
        """Hex digest of the code, the parameters and the fitted numbers; not of `force`, which permits answers and changes none."""
        probes = [
            [p.mean_, p.coef_, p.intercept_, p.components_, None if p.centring_ is None else p.centring_.means_]
            for p in (self.probe, self.prompt_probe)
        ]
        vector = [self.vector.mu, self.vector.mean_text] if self.vector is not None and self.alignment else None
        record = {
            "defense": self.name,
            "code": loaded_digest(type(self)),
            **self.parameters(),
            "force": None,
            "probes": probes,
            "vector": vector,
        }
        return content_digest(record, f'the defense "{self.name}"')

    def to_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Probes, vector and parameters as tensors and a JSON-able record; `from_state` is the inverse."""
        parts = {"prompt_probe": self.prompt_probe.to_state()}
        if self.probe is not self.prompt_probe:
            parts["probe"] = self.probe.to_state()
        if self.vector is not None:
            parts["vector"] = self.vector.to_state()
        tensors = {f"{part}/{name}": x for part, (own, _) in parts.items() for name, x in own.items()}
        return tensors, {"parameters": self.parameters(), **{part: record for part, (_, record) in parts.items()}}

    @classmethod
    def from_state(cls, tensors: Mapping[str, np.ndarray], record: Mapping[str, Any], **options: Any) -> SafeSteer:
        """The defense that `to_state` described; `options` replace stored parameters."""

        def part(name: str) -> tuple[dict[str, np.ndarray], Any]:
            return {key.removeprefix(f"{name}/"): x for key, x in tensors.items() if key.startswith(f"{name}/")}, record[name]

        of_prompts = DecodingProbe.from_state(*part("prompt_probe"))
        probe = DecodingProbe.from_state(*part("probe")) if "probe" in record else of_prompts
        vector = AlignmentVector.from_state(*part("vector")) if "vector" in record else None
        return cls(probe=probe, prompt_probe=of_prompts, vector=vector, **{**record["parameters"], **options})

    def save(self, folder: Path | str) -> Path:
        """Write probes, vector and parameters into a folder, as one safetensors file; returns the folder."""
        tensors, record = self.to_state()
        write_tensors(Path(folder) / FILE, tensors, record, kind=KIND)
        return Path(folder)

    @classmethod
    def load(cls, folder: Path | str, **options: Any) -> SafeSteer:
        """Read what `save` wrote; `options` replace stored parameters. Raises InputError when a file is missing or of another kind."""
        path = Path(folder) / FILE
        if not path.exists() and path.with_suffix(".json").exists():  # four files, as earlier versions wrote them
            record = read_json(path.with_suffix(".json"))
            probe, of_prompts = (DecodingProbe.load(path.parent / name) for name in ("probe", "prompt_probe"))
            vector = AlignmentVector.load(path.parent / "vector") if record["vector"] else None
            return cls(probe=probe, prompt_probe=of_prompts, vector=vector, **{**record["parameters"], **options})
        if not path.exists():
            raise InputError(f"{path} does not exist; give the folder that SafeSteer.save wrote.")
        return cls.from_state(*read_tensors(path, KIND), **options)


def _check_types(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise UsageError for a parameter that is not of the type of its default, or a number that is not finite."""
    for name, value in given.items():
        wanted = type(defaults[name])
        numeric = wanted is float and type(value) is int
        if not (type(value) is wanted or numeric) or (isinstance(value, float) and not math.isfinite(value)):
            words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}[wanted]
            raise UsageError(f"`{name}` of SafeSteer is {value!r}; it must be {words}.")


def _check_choices(given: Mapping[str, Any]) -> None:
    """Raise UsageError for a gate, scorer, sign or norm that does not exist, and for a negative temperature or mix."""
    for field, known in (("gate", GATES), ("scorer", SCORERS)):
        if given[field] not in known:
            raise UsageError(f'SafeSteer has no {field} "{given[field]}".{did_you_mean(given[field], known)}')
    ApplicationRule(given["sign"], given["norm"])
    for field in ("temperature", "mix"):
        if given[field] < 0:
            raise UsageError(f"`{field}` of guided decoding is {given[field]}; it must be 0 or more.")


def description(defense: SafeSteer) -> dict[str, Any]:
    """What the defense is made of, for people: fit, sign test, vector and parameters."""
    test = defense.probe.sign_test_
    return {
        "probe": f"{defense.probe.fit_} fit on {defense.probe.origin_.data}",
        "sign test": test.sentence() if test else "not run: the held-out answers hold too few refusals or compliances",
        "vector": "none" if defense.vector is None else f"|mu| = {defense.vector.norm}, applied {defense.rule}",
        **defense.parameters(),
    }
