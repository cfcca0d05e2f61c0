"""`safesteer doctor`: is this machine ready, and do the tracers agree on every family?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safesteer_interp.cli.command import emit_json, emit_table, parse, say
from safesteer_interp.cli.inputs import words
from safesteer_interp.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Doctor:
    """Check versions, agreement of the three tracers on every family's tiny model, disk, cache, data roots and the mini wheel."""

    only: str = ""
    """Only these topics, e.g. "disk,data" (versions, disk, data, remote, mini, tracers); empty: all."""
    family: str = ""
    """Check the tracers on these families only, e.g. "llava,gemma3"; empty: all (about a minute)."""
    json: bool = False
    """Print the report as JSON on stdout."""

    def run(self) -> int:
        """Prints the report; exit code 1 when a check failed."""
        from safesteer_interp.doctor import CHECKS, Check, Status, tracer_parity
        from safesteer_interp.progress import track

        topics = words(self.only) or list(CHECKS)
        for topic in topics:
            if topic not in CHECKS:
                raise UsageError(f'--only: no topic is called "{topic}".{did_you_mean(topic, CHECKS)}')
        families = self._families() if "tracers" in topics else []
        found: list[Check] = []
        for topic in topics:
            if topic != "tracers":
                found += CHECKS[topic]()
        for family in track(families, "comparing tracers", enabled=bool(families)):
            found += tracer_parity([family])
        failed = [check for check in found if check.status is Status.FAILED]
        if self.json:
            emit_json({"ok": not failed, "checks": found})
        else:
            emit_table(("topic", "", "what", "found"), [(c.topic, c.status.value, c.name, c.detail) for c in found])
        say(f"{len(failed)} of {len(found)} checks failed." if failed else f"Nothing is wrong ({len(found)} checked).")
        return 1 if failed else 0

    def _families(self) -> list[str]:
        from safesteer_interp.models.families import FAMILIES

        asked = words(self.family)
        for family in asked:
            if family not in FAMILIES:
                raise UsageError(f'--family: no family is called "{family}".{did_you_mean(family, FAMILIES)}')
        return asked or sorted(FAMILIES)


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Doctor, "doctor", arguments).run()
