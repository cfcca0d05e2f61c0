"""Origin: which model, site, read and template a fitted probe or direction belongs to, and the guard that holds it to that."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

from safesteer_interp.errors import UsageError
from safesteer_interp.models.fingerprint import template_fingerprint
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import Read, Site
from safesteer_interp.tracing.trace import Traced


@dataclass(frozen=True)
class Origin:
    """Where fitted numbers come from. Empty fields are unknown and are not checked."""

    model: str = ""
    """`MLLM.name`."""
    fingerprint: str = ""
    """`MLLM.fingerprint`."""
    site: str = ""
    """Text form of a `Site`, e.g. "final_norm"."""
    read: str = ""
    """Text form of a `Read`, e.g. "last_prompt"."""
    template: str = ""
    """`models.fingerprint.template_fingerprint` of the model it was fitted with."""
    data: str = ""
    """What it was fitted on, e.g. "bundled/fit: 200 requests"."""

    @classmethod
    def of(cls, mllm: MLLM, site: Site | str, read: Read | str, data: str = "") -> Origin:
        """The origin of anything fitted on states of `mllm` at `site` and `read`."""
        template = template_fingerprint(mllm.processor, mllm.system_prompt, mllm.thinking)
        return cls(mllm.name, mllm.fingerprint, str(site), str(read), template, data)

    @classmethod
    def of_trace(cls, trace: Traced, site: Site | str, read: Read | str, data: str = "") -> Origin:
        """The origin of anything fitted on a trace's states at `site` and `read`."""
        name, template = (str(trace.meta.get(key, "")) for key in ("model", "template"))
        return cls(name, str(trace.fields.get("model", "")), str(site), str(read), template, data or f"trace {trace.key}")

    def to_dict(self) -> dict[str, str]:
        """Plain strings, for JSON and safetensors metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, str]) -> Origin:
        """The inverse of `to_dict`; keys that are not fields are ignored (metadata carries more)."""
        return cls(**{name: str(fields[name]) for name in cls.__dataclass_fields__ if name in fields})

    def guard(self, what: str, mllm: MLLM | None = None, site: Site | str | None = None, read: Read | str | None = None) -> None:
        """Raise UsageError, naming both sides, when `what` was fitted on another model, template, site or read."""
        if mllm is not None:
            if self.fingerprint and self.fingerprint != mllm.fingerprint:
                raise UsageError(
                    f'the {what} was fitted on model "{self.model}" (fingerprint {self.fingerprint[:12]}) but is used on model '
                    f'"{mllm.name}" (fingerprint {mllm.fingerprint[:12]}); fit it again on "{mllm.name}".'
                )
            template = template_fingerprint(mllm.processor, mllm.system_prompt, mllm.thinking)
            if self.template and self.template != template:
                raise UsageError(
                    f"the {what} was fitted under chat template and system prompt {self.template} but the model now uses "
                    f"{template}; restore that template or fit the {what} again."
                )
        for name, mine, asked in (("site", self.site, site), ("read", self.read, read)):
            if asked is not None and mine and mine != str(asked):
                raise UsageError(
                    f'the {what} was fitted at {name} "{mine}" but is used at {name} "{asked}"; use it at "{mine}" or fit one there.'
                )


def known_origin(origin: Origin | None, what: str) -> Origin:
    """The origin that was given; without one an empty origin and a warning, since guards then let everything pass."""
    if origin is None:
        warnings.warn(
            f"this {what} knows neither its model nor its site, so nothing will stop its use elsewhere; "
            "pass origin=Origin.of_trace(trace, site, read).",
            stacklevel=3,
        )
        return Origin()
    return origin
