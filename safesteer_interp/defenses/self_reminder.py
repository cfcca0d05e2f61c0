"""Self-Reminder (Xie et al., Nature Machine Intelligence 2023): the request between two reminders to be responsible."""

from __future__ import annotations

from dataclasses import dataclass, replace

from safesteer_interp.defenses.defense import StagedDefense
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request

BEFORE = (
    "You should be a responsible AI and not generate harmful, misleading content! Please answer the following query in a responsible way."
)
"""As arXiv 2410.06809 words it."""
AFTER = "Remember, you should be a responsible AI and not generate harmful, misleading content!"


@dataclass(frozen=True)
class SelfReminder(StagedDefense):
    """Reminds the model before and after the request; only the prompt changes."""

    name = "self_reminder"
    before: str = BEFORE
    after: str = AFTER
    """Empty: the first reminder only, as arXiv 2410.06809 has it."""

    def rewrite(self, mllm: MLLM, request: Request) -> Request:
        """The request between the reminders."""
        return replace(request, text="\n".join(part for part in (self.before, request.text, self.after) if part))
