"""TokenSpec: which answers are generated and which of their tokens are read. One specification for `SafeSteer.fit` and all analyses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TokenSpec:
    """What a trace holds besides prompts where answers matter. The defaults are those of `SafeSteer.fit`; others name what differs."""

    steps: int = 5
    """States of this many first answer tokens are kept (reads `step:1-5`): those that guidance chooses."""
    answer_tokens: int = 16
    """Tokens generated per request: enough to see whether the answer refuses."""
    temperature: float = 1.0
    """As answers are sampled when they are defended."""
    seed: int = 0

    @property
    def reads(self) -> tuple[str, str]:
        """The last prompt token and the first answer tokens."""
        return "last_prompt", f"step:1-{self.steps}"

    @property
    def max_new_tokens(self) -> int:
        """Tokens to generate; the last token of an answer is never read, so there is at least one more than steps."""
        return max(self.answer_tokens, self.steps + 1)

    def wanted(self) -> dict[str, Any]:
        """The same as fields of a `TraceSpec`."""
        return {"reads": self.reads, "max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "seed": self.seed}


TOKENS = TokenSpec()
