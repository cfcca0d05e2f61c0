"""Resumable training: model and optimizer state as safetensors, written whole or not at all, with the step and the place
in the schedule in the metadata."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from safesteer_interp.files import write_bytes


class Checkpoint:
    """The state of one training run in one file.

    Holds the trainable parameters and all buffers of `modules`, and the AdamW moments of those parameters.
    """

    def __init__(self, path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
        self.path = path
        self.modules = modules
        self.optimizer = optimizer
        self.place = 0.0
        """Where the loaded run stood in its schedule, in steps: further on than its step where its seconds were running out."""

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {f"{name}/{key}": p for name, module in self.modules.items() for key, p in module.named_parameters() if p.requires_grad}

    def _buffers(self) -> dict[str, Tensor]:
        return {f"{name}/{key}": b for name, module in self.modules.items() for key, b in module.named_buffers()}

    def save(self, step: int, place: float | None = None) -> None:
        """Write the state after `step` finished steps, at this place in the schedule (by default, at that step)."""
        tensors = {f"parameter/{k}": p.detach() for k, p in self._parameters().items()}
        tensors |= {f"buffer/{k}": b for k, b in self._buffers().items()}
        for key, p in self._parameters().items():
            tensors |= {f"moment/{key}/{what}": value for what, value in self.optimizer.state.get(p, {}).items()}
        known = {"step": str(step), "place": str(float(step if place is None else place))}
        write_bytes(self.path, save({k: v.cpu().contiguous() for k, v in tensors.items()}, metadata=known))

    def load(self) -> int:
        """Restore the state, and `place`; the number of finished steps, 0 when there is no file."""
        if not self.path.is_file():
            return 0
        with safe_open(self.path, "pt") as file, torch.no_grad():
            for key, p in self._parameters().items():
                p.copy_(file.get_tensor(f"parameter/{key}"))  # copy_ also moves to the device
                moments = {k.rsplit("/", 1)[1]: k for k in file.keys() if k.startswith(f"moment/{key}/")}  # noqa: SIM118
                if moments:
                    # AdamW keeps its step counter on the CPU and its moments beside the parameter
                    state = {what: file.get_tensor(k) for what, k in moments.items()}
                    self.optimizer.state[p] = {what: t if what == "step" else t.to(p.device) for what, t in state.items()}
            for key, b in self._buffers().items():
                b.copy_(file.get_tensor(f"buffer/{key}"))
            known = file.metadata()
            self.place = float(known.get("place", known["step"]))
            return int(known["step"])


class Pace:
    """Where a training stands in its schedule, in steps: at the step it takes, or further on when its seconds would run out first.

    So a training with a time limit ends at the end of its schedule wherever it has got to. A resumed one
    carries on from the place it had reached, `begun`, never before it: `seconds` are those of the whole schedule. Without a limit it is
    `step` itself; where the run that was resumed had one, the steps that are left, from `first` on, share what is left of the schedule.
    """

    def __init__(self, total: int, seconds: float | None = None, begun: float = 0.0, first: int = 0) -> None:
        self.total, self.seconds, self.begun, self.first = total, seconds, begun, first
        self.started = time.monotonic()

    def at(self, step: int) -> float:
        """The place in the schedule of a step that is about to be taken; `total` and more once it is over."""
        if self.seconds is None:
            rest = (self.total - self.begun) / max(1, self.total - self.first)
            return max(step, self.begun + (step - self.first) * rest)
        return max(step, self.begun + (time.monotonic() - self.started) / self.seconds * self.total)


class Every:
    """True at most once in so many seconds: when to write a checkpoint, which takes a second on a slow disk."""

    def __init__(self, seconds: float = 30.0) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True


def cosine(step: float, total: int, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Learning rate with linear warm-up and cosine decay to `floor` of the peak.

    A function of the step alone, so that a resumed run needs no scheduler state. transformers' schedules differ from it at every step
    of the warm-up: theirs starts at step / warmup, that is with a first step of rate nought.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to `rate` times the group's own `scale` (1 by default)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


class Report:
    """Prints one line every few seconds: step, what was measured (numbers or tensors of one, which are read only then), time left."""

    def __init__(self, name: str, total: int, done: int = 0, every: float = 20.0) -> None:
        self.name, self.total, self.done, self.every = name, total, done, every
        self.started = self.last = time.monotonic()

    def __call__(self, step: int, **measured: Any) -> None:
        now = time.monotonic()
        if now - self.last < self.every and step < self.total:
            return
        self.last = now
        left = (now - self.started) / max(1, step - self.done) * (self.total - step)
        values = "  ".join(f"{k} {float(v):.3f}" for k, v in measured.items())
        print(f"{self.name}: {step}/{self.total}  {values}  {left / 60:.1f} min left", file=sys.stderr, flush=True)
