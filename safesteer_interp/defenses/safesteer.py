"""SafeSteer (arXiv 2605.11716): re-rank the first tokens by the Decoding-Probe, and align image-borne harm with text by MSAV.

At the prompt the probe reads h0. Where it says harmful, MSAV moves h0 before the first token's candidates are taken (eq. 9-10); then,
for the first `steps` tokens, the top K candidates are scored by the probe on their own states and one is drawn (eq. 4-6). Afterwards
the answer is sampled as usual. `presets.py` names the settings that tables know: as printed, corrected, calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safesteer_interp.content_digest import content_digest, loaded_digest
from safesteer_interp.decoding.choice import Choice
from safesteer_interp.decoding.custom_generate import guided_generate
from safesteer_interp.decoding.pictured import rows_showing
from safesteer_interp.decoding.policies import Guided, Opening, Policy, ProbeScorer, RandomScorer, RefusalTokens, Scorer, check_budget
from safesteer_interp.defenses.defense import Settings, StagedDefense
from safesteer_interp.defenses.fitted_parts import fitted_parts
from safesteer_interp.defenses.presets import CALIBRATED, CUSTOM, FILE, KIND, calibration_of, check_preset, find_calibration, named_settings
from safesteer_interp.defenses.safesteer_checks import check_choices, check_types, current_parameters
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import read_json, read_tensors, write_tensors
from safesteer_interp.images import shows_something
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.paths import store_dir
from safesteer_interp.probes.decoding_probe import DecodingProbe, check_guides
from safesteer_interp.probes.fitting import check_fit, training_trace
from safesteer_interp.probes.offered import Offered
from safesteer_interp.probes.tokens import SITE
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Site
from safesteer_interp.tracing.trace import FIT_SPLIT, Traced
from safesteer_interp.types import States
from safesteer_interp.vectors.alignment import AlignmentVector, ApplicationRule, check_image_form

FITTED = ("probe", "prompt_probe", "vector")
REFITTED = ("fit", "site", "image_form")
"""Options of `build` that need a fit of their own."""


@dataclass(frozen=True, eq=False)
class SafeSteer(StagedDefense):
    """Probe-guided decoding with modal alignment; every part can be switched off for the ablations.

    The defaults are the preset `untuned`. Raises UsageError for K < 1, negative steps or beta, an unknown gate or scorer, alignment
    without a vector, or the centred fit.
    """

    name = "safesteer"
    trained = True
    probe: DecodingProbe
    """Scores the candidates: any fit but the centred one."""
    prompt_probe: DecodingProbe
    """Says whether the request is harmful, from h0: the prompt fit (the same object where `probe` is one)."""
    vector: AlignmentVector | None
    k: int = 5
    """Candidates a step. The paper tries 5 to 20 and does not print which it uses."""
    steps: int = 5
    """Answer tokens that are guided; 0 leaves the probe out (the paper's "w/o DP"). Not printed in the paper either."""
    beta: float = 1.0
    """Weight of the score in softmax(log p + beta z) among the candidates; inf takes the best."""
    score_only: bool = False
    """Leave log p out of the choice, as the paper does."""
    scaled: bool = True
    """z is the score in units of its spread among the candidates of training requests; false: the log-odds as they are (the paper)."""
    gate: str = "probe"
    """"none": every request is guided (the paper); "probe": only those the probe calls harmful."""
    threshold: float = 0.0
    """Log-odds above which the probe calls a request without a picture, or beside a blank one, harmful."""
    threshold_picture: float = 0.0
    """The same for a request whose picture shows something."""
    alignment: bool = True
    """Apply MSAV to requests the probe calls harmful; False is the paper's "w/o MSAV"."""
    sign: str = "toward_text"
    """"toward_text", or "printed": the paper's, from text towards image."""
    norm: str = "unit"
    """"unit", "raw" (the paper's) or "projection": see `vectors/alignment.py`."""
    strength: float = 1.0
    """Times the paper's step length |h0 - mean(CB)|."""
    scorer: str = "probe"
    """"random" (a direction within the probe's components) and "refusal_tokens" (a bias of beta nats) are the controls at equal budget."""
    scorer_seed: int = 0
    force: bool = False
    """Guide even with a probe that failed its sign test (to measure what happens)."""
    preset: str = CUSTOM
    """The name that tables give these settings; no part of what answers depend on."""

    def __post_init__(self) -> None:
        check_types(self.parameters(), {f.name: f.default for f in fields(self)})
        check_budget(self.k, self.steps)
        check_choices(self.parameters())
        if self.alignment and self.vector is None:
            raise UsageError("SafeSteer aligns with a vector but has none; fit it on SD and CB requests, or set alignment=False.")

    @property
    def rule(self) -> ApplicationRule:
        """How MSAV is applied."""
        return ApplicationRule(self.sign, self.norm)

    @property
    def site(self) -> Site:
        """Where candidates are scored."""
        return Site.parse(self.probe.origin_.site) if self.probe.origin_.site else SITE

    @property
    def choice(self) -> Choice:
        """How a token is drawn among the scored candidates. Raises UsageError where the score's unit was never measured."""
        if self.scorer == "refusal_tokens":
            return Choice(self.beta)
        if self.scaled and self.probe.spread_ is None:
            raise UsageError(
                "the spread of this probe's scores among candidates was never measured, so `beta` has no unit; fit it with SafeSteer.fit, "
                "or set scaled=False."
            )
        return Choice(self.beta, self.score_only, self.probe.spread_ if self.scaled and self.probe.spread_ else 1.0)

    @classmethod
    def fit(
        cls,
        mllm: MLLM,
        requests: Sequence[Request],
        *,
        fit: str = "token",
        site: str = str(SITE),
        tracing: dict[str, Any] | None = None,
        **options: Any,
    ) -> SafeSteer:
        """Trace the training requests once (`tracing` are options of `probes.fitting.training_trace`) and fit probe and vector on them.

        `options` are the fields of SafeSteer. Requests of the TEST split are never used.
        """
        check_budget(options.get("k", cls.k), options.get("steps", cls.steps), mllm=mllm)  # before minutes of tracing
        sites = tuple(dict.fromkeys((str(SITE), site)))
        return cls.from_trace(mllm, training_trace(mllm, requests, sites=sites, **(tracing or {})), fit=fit, site=site, **options)

    @classmethod
    def from_trace(
        cls,
        mllm: MLLM,
        trace: Traced,
        *,
        fit: str = "token",
        site: str = str(SITE),
        split: str | None = FIT_SPLIT,
        image_form: Attack | str = Attack.SD,
        probe: dict[str, Any] | None = None,
        candidates: Offered | None = None,
        tested: Offered | None = None,
        whole: bool = False,
        **options: Any,
    ) -> SafeSteer:
        """Fit on the requests of `split` in a stored trace with `final_norm` at `last_prompt` and `step:1-...`, never on the test split.

        `site` is where candidates are scored (the trace must hold it), `image_form` the attack whose shift from CB is MSAV, for data
        without SD pictures, `probe` are parameters of DecodingProbe; `candidates` and `tested` are measured unless given
        (`defenses/fitted_parts.py`). Without a validation split a fifth of the pairs is kept for the sign test; `whole` fits on them too
        where no test is made (default: not, so that settings with and without one are fitted alike). Raises InputError when a class is
        missing, or (with alignment) requests in that form or CB are.
        """
        known = {f.name: f.default for f in fields(cls) if f.name not in FITTED} | options
        measured: dict[str, Any] = {"candidates": candidates, "tested": tested, "whole": whole}
        parts = fitted_parts(mllm, trace, fit, known, split=split, site=Site.parse(site), image_form=image_form, probe=probe, **measured)
        return cls(probe=parts.probe, prompt_probe=parts.prompt_probe, vector=parts.vector, **options)

    @classmethod
    def build(
        cls,
        mllm: MLLM,
        training: Sequence[Request] = (),
        *,
        preset: str = "",
        fit: str = "",
        site: str = "",
        image_form: str = "",
        **options: Any,
    ) -> SafeSteer:
        """By the registry's name: a preset (empty: `calibrated` where this model is, else `untuned`), with some options replaced.

        What a fit reads is kept in the store of traces.
        """
        own = {name: value for name, value in (("fit", fit), ("site", site), ("image_form", image_form)) if value}
        if not cls.fits_on(mllm, {"preset": preset, **own}):
            return cls.calibrated(mllm, **options)
        if not training:
            raise UsageError("SafeSteer is fitted on training requests, and none were given.")
        settings = named_settings(preset) | own | options
        if own or options:
            settings["preset"] = CUSTOM
        return cls.fit(mllm, training, tracing={"store": store_dir("traces")}, whole=True, **settings)

    @classmethod
    def calibrated(cls, mllm: MLLM, **options: Any) -> SafeSteer:
        """What `safesteer calibrate` chose for this model; `options` replace stored parameters. Raises InputError where it has none."""
        found = cls.load(calibration_of(mllm), **{"preset": CUSTOM if options else CALIBRATED, **options})
        for probe in (found.probe, found.prompt_probe):  # the same weights may have been assembled elsewhere
            probe.origin_ = replace(probe.origin_, fingerprint=mllm.fingerprint)
        if found.vector is None:
            return found
        return replace(found, vector=replace(found.vector, origin=replace(found.vector.origin, fingerprint=mllm.fingerprint)))

    @classmethod
    def fits_on(cls, mllm: MLLM, options: Mapping[str, Any]) -> bool:
        """False where a calibration of this model is stored and is what was asked for."""
        name = options.get("preset", "")
        other = any(options.get(own) for own in REFITTED)
        return not (name == CALIBRATED or (not name and not other and find_calibration(mllm) is not None))

    @classmethod
    def check_options(cls, options: Mapping[str, Any], settings: Settings, mllm: MLLM | None = None) -> None:
        """Raises UsageError for what the finished defense would refuse, and for more candidates than the model has words."""
        name = options.get("preset", "")
        check_preset(name)
        if name == CALIBRATED and any(options.get(own) for own in REFITTED):
            raise UsageError(f'the preset "calibrated" is fitted already; choose another preset to set {", ".join(REFITTED)}.')
        check_fit(options.get("fit") or "prompt")
        check_guides(options.get("fit") or "prompt")
        if options.get("site"):
            Site.parse(options["site"])
        check_image_form(options.get("image_form") or Attack.SD)
        given: dict[str, Any] = {f.name: f.default for f in fields(cls)} | dict(options)
        check_budget(given["k"], given["steps"], settings.sampling.max_new_tokens, mllm)
        check_choices(given)

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
        self.probe.guard(mllm, self.site)
        if self.vector is not None and self.alignment:
            self.vector.guard(mllm, SITE, "last_prompt")
        if self.steps and self.scorer == "probe":
            self.probe.require_sign(self.force)

    def policy(self, mllm: MLLM) -> Policy:
        """The decoding policy for a request without a picture, after `guard`."""
        return self.policies(mllm, [Request("without a picture")])[0]

    def policies(self, mllm: MLLM, requests: Sequence[Request]) -> Sequence[Policy]:
        """One policy for requests whose picture shows something, one for the others, after `guard`."""
        self.guard(mllm)
        refusals = RefusalTokens.of(mllm) if self.scorer == "refusal_tokens" else None
        ways = {picture: self._guided(refusals, picture) for picture in (False, True)}
        if self.threshold == self.threshold_picture:
            ways[True] = ways[False]  # rows of one policy need no sorting out
        return [ways[shows_something(request.image)] for request in requests]

    def _guided(self, refusals: RefusalTokens | None, picture: bool | Sequence[bool]) -> Guided:
        scorer: Scorer = refusals or ProbeScorer(self.probe, site=self.site)
        if self.scorer == "random":
            scorer = RandomScorer(self.probe, self.scorer_seed, site=self.site)
        choice = self.choice if self.steps else Choice()
        return Guided(scorer, self.k, self.steps, choice, partial(self.opening, picture=picture))

    def opening(self, states: States, picture: bool | Sequence[bool] = False) -> Opening:
        """The verdict on each prompt, and h0 moved by MSAV where it is harmful (eq. 9-10); `picture`: of all prompts, or of each."""
        scores = self.prompt_probe.score_tensor(states)
        shown = [picture] * len(states) if isinstance(picture, bool) else picture
        bars = [self.threshold_picture if shows else self.threshold for shows in shown]
        harmful = scores > torch.tensor(bars, dtype=scores.dtype, device=scores.device)
        moved = states
        if self.alignment and self.vector is not None and bool(harmful.any()):
            aligned = self.vector.apply(states, self.rule, self.strength)
            moved = torch.where(harmful[:, None], aligned, states)
        guided = harmful if self.gate == "probe" else torch.ones_like(harmful)
        verdicts = [
            {"score": score, "threshold": bar, "harmful": bad, "aligned": bad and self.alignment, "guided": on and self.steps > 0}
            for score, bar, bad, on in zip(scores.tolist(), bars, harmful.tolist(), guided.tolist(), strict=True)
        ]
        return Opening(moved, guided, verdicts)

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        shows: Sequence[bool] | None = None,
        **model_kwargs: Any,
    ) -> Any:
        """`model.generate(**inputs, custom_generate=SafeSteer.load(folder))` on a plain transformers model.

        `shows`, a keyword of `generate` then: whether each request has a picture that is not blank (`threshold_picture` is for those). By
        default told from the pixels, or, where transformers hands over none, True for each with a picture, with a warning.

        Only the width can be checked there: the caller answers for model and template being those it was fitted on.
        """
        if self.scorer == "refusal_tokens":
            raise UsageError('the control "refusal_tokens" needs a tokenizer; use SafeSteer.respond instead of custom_generate.')
        if self.steps and self.scorer == "probe":
            self.probe.require_sign(self.force)
        if self.threshold == self.threshold_picture:
            shows = [False]
        elif shows is None:
            shows = rows_showing(model.config, input_ids, model_kwargs)
        if not shows or len(input_ids) % len(shows):
            raise UsageError(f"shows has {len(shows)} entries for {len(input_ids)} rows; give one for each request.")
        each = [row for row in shows for _ in range(len(input_ids) // len(shows))]  # a request may be asked for several answers
        policy = self._guided(None, each)
        return guided_generate(policy, model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs)

    def parameters(self) -> dict[str, Any]:
        """Every field but the fitted objects."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in FITTED}

    def fingerprint(self) -> str:
        """Hex digest of the code, the parameters and the fitted numbers; not of `force` and `preset`, which change no answer."""
        probes = [[p.mean_, p.coef_, p.intercept_, p.components_, p.spread_, p.origin_.site] for p in (self.probe, self.prompt_probe)]
        vector = [self.vector.mu, self.vector.mean_text] if self.vector is not None and self.alignment else None
        record = {
            "defense": self.name,
            "code": loaded_digest(type(self)),
            **self.parameters(),
            "force": None,
            "preset": None,
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
        return cls(probe=probe, prompt_probe=of_prompts, vector=vector, **{**current_parameters(record["parameters"]), **options})

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
            return cls(probe=probe, prompt_probe=of_prompts, vector=vector, **{**current_parameters(record["parameters"]), **options})
        if not path.exists():
            raise InputError(f"{path} does not exist; give the folder that SafeSteer.save wrote.")
        return cls.from_state(*read_tensors(path, KIND), **options)


def description(defense: SafeSteer) -> dict[str, Any]:
    """What the defense is made of, for people: fit, sign test, vector and parameters."""
    test = defense.probe.sign_test_
    return {
        "probe": f"{defense.probe.fit_} fit at {defense.site} on {defense.probe.origin_.data}",
        "sign test": test.sentence() if test else "not run",
        "vector": "none" if defense.vector is None else f"|mu| = {defense.vector.norm}, applied {defense.rule}",
        **defense.parameters(),
    }
