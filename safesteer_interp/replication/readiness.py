"""Whether a replication can be run where it is asked for: memory of the device, disk, and the licences of what it touches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from safesteer_interp.models.hub import is_hub_id
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.placement import memory_of
from safesteer_interp.reading import printable
from safesteer_interp.tracing.plan import free_bytes

ANSWER_BYTES = 4096
"""Of one stored answer with its verdict, generously."""
KNOWN_LICENCES = {
    "llava-hf/llava-1.5-7b-hf": "Llama 2 Community Licence",
    "Qwen/Qwen2.5-VL-7B-Instruct": "Apache-2.0",
    "Qwen/Qwen3-VL-8B-Instruct": "Apache-2.0",
    "meta-llama/Llama-Guard-3-8B": "Llama 3.1 Community Licence, gated",
    "meta-llama/Llama-Guard-3-1B": "Llama 3.2 Community Licence, gated",
}
"""Of the checkpoints that the paper used, as their cards state it."""


@dataclass(frozen=True)
class Ready:
    """One line of the check: `ok` False stops the run before anything is computed."""

    what: str
    ok: bool
    detail: str


def memory(mllm: MLLM, batch_size: int, prompt_tokens: int, new_tokens: int) -> Ready:
    """Whether a full batch fits beside the weights: keys and values of every layer, and the states that a guided step adds."""
    config = mllm.model.config.get_text_config()
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or mllm.width // config.num_attention_heads)
    each = 2 * mllm.n_layers * heads * width * mllm.dtype.itemsize * (prompt_tokens + new_tokens)
    free, places = memory_of(str(mllm.device)), getattr(mllm.model, "hf_device_map", None) or {}
    needed, place = each * batch_size, mllm.device
    ok = needed <= free or len(set(places.values())) > 1
    fits = int(free // each)
    smaller = f"--batch-size {fits} would fit" if fits else "not even one fits: pack the weights (--quant) or spread them (--device-map)"
    advice = "" if ok else f"; {smaller}"
    detail = f"a batch of {batch_size} answers takes {decimal(int(needed))} beside the weights, {decimal(int(free))} are free on {place}"
    return Ready("memory", ok, detail + advice)


def disk(folder: Path, trace_bytes: int, answers: int) -> Ready:
    """Whether traces and answers fit where they are kept."""
    needed, free = trace_bytes + answers * ANSWER_BYTES, free_bytes(folder)
    advice = "" if needed <= free else "; free some, or set --store (or SAFESTEER_CACHE) to another disk"
    return Ready("disk", needed <= free, f"{decimal(needed)} to write, {decimal(free)} free at {folder}{advice}")


def licence_of(name: str, folder: str = "") -> str:
    """The licence of a checkpoint: by its card (README.md with `license:`) in its folder, else as known, else that it is not stated."""
    for place in filter(None, (folder, name)):
        card = Path(place).expanduser() / "README.md"
        if card.is_file():
            for line in card.read_text(encoding="utf-8", errors="replace")[:4000].splitlines():
                if line.lower().startswith(("license:", "license_name:")):
                    return printable(line.partition(":")[2].strip()[:80])
    if name in KNOWN_LICENCES:
        return KNOWN_LICENCES[name]
    return "see its card on the hub" if is_hub_id(name) and not folder else "not stated in its folder"
