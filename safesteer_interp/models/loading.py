"""load_model: "mini", "mini:<recipe>", "planted", "tiny:<family>", a folder or a hub id, as an MLLM whose layout has been checked.

Weights are read from safetensors only, and code from a repository is never run unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from safesteer_interp.collector import uncollected
from safesteer_interp.environment import has
from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.models import adapters, hub
from safesteer_interp.models.casting import cast
from safesteer_interp.models.checkpoint import own_code, read_config, stated_settings, weight_files
from safesteer_interp.models.checks import check_layout
from safesteer_interp.models.dtypes import DTYPES, dtype_name
from safesteer_interp.models.families.layouts import layout_for
from safesteer_interp.models.families.registry import FAMILIES
from safesteer_interp.models.fingerprint import fingerprint, with_code
from safesteer_interp.models.layout import Layout
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.pixels import cap_pixels
from safesteer_interp.models.placement import Placement, refuse_too_little_memory, refuse_unknown_modules
from safesteer_interp.models.size import numbers_in, refuse_absurd_counts, refuse_larger_than_weights
from safesteer_interp.models.special_tokens import set_padding

VARIANTS = {
    "grounded": "mini whose image tokens are text embeddings as the tower recalled them",
    "unaligned": "mini without text alignment: harm may be read, but no refusal was taught",
    "lm_loss": "mini whose projector was trained by the language model's loss alone",
    "released": "mini whose projector was trained on from the grounded one",
}
_READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RuntimeError,
    AttributeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)


def available_models() -> dict[str, str]:
    """What `load_model` takes, name -> one line, for `safesteer list models`."""
    models = {
        "mini": "the embedded LLaVA-type MLLM: SmolLM2-135M-Instruct, text safety alignment, own vision tower (default)",
        **{f"mini:{recipe}": VARIANTS.get(recipe, f"mini with the recipe {recipe}") for recipe in mini_variants()},
        "planted": "known-answer LLaVA with a planted harm direction and modality gap; proves machinery, never a finding",
    }
    for name, family in FAMILIES.items():
        kind = "MLLM" if family.layout.vision_tower else "text-only decoder"
        models[f"tiny:{name}"] = f"four-layer random {kind} of the family, for tests"
    types = sorted({t for family in FAMILIES.values() for t in family.layout.model_types})
    models["<folder or hub id>"] = "any checkpoint in safetensors of model type " + ", ".join(types)
    return models


def mini_variants() -> list[str]:
    """Projector recipes of mini that are shipped besides the default one, for "mini:<recipe>"."""
    from safesteer_interp.models.mini.assemble import shipped

    known = shipped()
    return [recipe for recipe in known["trained"] if recipe != known["default"]]


@uncollected()
def load_model(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    revision: str | None = None,
    attn_implementation: str | None = None,
    system_prompt: str | None = None,
    thinking: bool | None = None,
    adapter: str | Path | None = None,
    device_map: str | Mapping[str, str | int] | None = None,
    max_memory: str | Mapping[str | int, str] | None = None,
    quant: str | None = None,
    offload: Path | None = None,
    max_pixels: int | None = None,
) -> MLLM:
    """The model called `name`, in eval mode on `device`, with its layout checked by two short forwards.

    Args:
        name: "mini", "mini:<recipe>", "planted", "tiny:<family>", a local folder (wins over a hub id of the same name) or a
            hub id "owner/name".
        dtype: "float32", "bfloat16", "float16", or "auto": bfloat16 where the device multiplies it in hardware, else float32.
        trust_remote_code: allow the repository's own Python files (off by default: they run with your rights).
        revision: branch, tag or commit of a hub id.
        attn_implementation: attention kernel, as transformers calls it ("sdpa", "eager", "flash_attention_2"); by default its choice.
        system_prompt: default system turn; None leaves the chat template's own default.
        thinking: whether a reasoning model's template asks it to think first (`enable_thinking`); None leaves its own default.
        adapter: folder or hub id of a peft adapter that is merged into the weights. One that merely lies in the model's folder is not.
        device_map: "auto", "balanced", "balanced_low_0", "sequential", a JSON object or file of module paths and devices, or such a
            mapping: spreads the weights over several devices, memory and disk; `device` is not used then.
        max_memory: what a device map by rule may use, e.g. "0=20GiB,cpu=60GiB".
        quant: "4bit", "8bit" (bitsandbytes), "int4", "int8" (torchao): packs the weights while they are loaded.
        offload: folder for weights that the map puts on disk.
        max_pixels: caps an image's pixels, and with them its image tokens, where the processor can (Qwen-VL, Idefics3, SmolVLM).

    A model that is in memory already, quantised or otherwise changed, becomes an MLLM by `MLLM.of`.

    Raises:
        UsageError: an unknown name, dtype, device or kernel.
        InputError: a folder or repository that is missing, incomplete, pickled, of an unsupported architecture or with a wrong layout;
            `thinking` for a template without such a switch.
    """
    dtype = dtype_name(dtype, device)
    placement = Placement(device, device_map, max_memory, quant, offload)
    placement.options(DTYPES[dtype])  # refuses what cannot be before anything is read
    options: dict[str, Any] = {"placement": placement, "dtype": dtype, "max_pixels": max_pixels}
    if adapter is not None:
        options["adapter"] = _folder(str(adapter), None, trust_remote_code=False)
    if name == "planted" or name.startswith("tiny:"):
        mllm = _built(name, **options)
    elif name == "mini" or name.startswith("mini:"):
        from safesteer_interp.models.mini import checkpoint_dir

        mllm = load_folder(checkpoint_dir(name.partition(":")[2] or None), name=name, **options)
    else:
        folder = _folder(name, revision, trust_remote_code=trust_remote_code)
        local = Path(name).expanduser().is_dir()
        mllm = load_folder(
            folder,
            name=folder.resolve().name if local else name,
            source=None if local else f"hub {name}, revision {revision or 'main'}",
            trust_remote_code=trust_remote_code,
            **options,
        )
    if attn_implementation is not None:
        _set_kernel(mllm, attn_implementation)
    mllm.system_prompt, mllm.thinking = system_prompt, thinking
    special = {"max_pixels": max_pixels, "attn_implementation": attn_implementation}
    mllm.loaded = {**placement.record(mllm.model), **{name: value for name, value in special.items() if value is not None}}
    check_layout(mllm)
    return mllm


def load_folder(
    folder: Path,
    *,
    placement: Placement | None = None,
    dtype: str = "float32",
    name: str = "",
    source: str | None = None,
    trust_remote_code: bool = False,
    adapter: Path | None = None,
    max_pixels: int | None = None,
) -> MLLM:
    """The checkpoint in a local folder, without the layout check. Raises InputError as `load_model` does."""
    placement = placement or Placement()
    dtype = dtype_name(dtype, placement.device)
    name = name or folder.resolve().name
    raw = read_config(folder, trust_remote_code=trust_remote_code)
    refuse_absurd_counts(folder / "config.json", raw)
    with Sentence(folder, raw):
        layout_for(SimpleNamespace(**{**raw, "text_config": SimpleNamespace(**(raw.get("text_config") or {"model_type": "gemma"}))}))
        if (raw.get("vision_config") or {}).get("model_type") == "safesteer_tower":
            import safesteer_interp.models.mini  # noqa: F401  (registers the tower's config and model with transformers)
    weights = weight_files(folder, raw.get("transformers_weights"))
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    with Sentence(folder, raw):
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        layout = layout_for(config)
        auto = transformers.AutoModelForImageTextToText if layout.vision_tower else transformers.AutoModelForCausalLM
        if getattr(config, "quantization_config", None) is None:  # packed weights are counted otherwise
            described = refuse_larger_than_weights(folder / "config.json", config, auto, weights, trust_remote_code=trust_remote_code)
            refuse_too_little_memory(name, sum(map(numbers_in, weights)) * DTYPES[dtype].itemsize, placement)
            if isinstance(parsed := placement.options(DTYPES[dtype]).get("device_map"), dict):
                refuse_unknown_modules(parsed, described, name)
        with _bar_if_large(weights):
            model, report = auto.from_pretrained(
                folder,
                config=config,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                output_loading_info=True,
                **placement.options(DTYPES[dtype]),
                **adapters.IGNORE,
                **options,
            )
        processor = processor_of(folder, layout, options)
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"the weights in {folder} lack {len(missing)} tensors (first: {missing[0]}), which would stay random; "
            "fetch the complete checkpoint."
        )
    for fact in layout.facts:
        fact.supply(config, processor, stated_settings(folder))
    tokenizer = getattr(processor, "tokenizer", processor)
    if not hasattr(tokenizer, "pad_token"):
        kind = type(processor).__name__
        raise InputError(f"{folder} has a {kind} and no tokenizer; fetch its processor_config.json and tokenizer files again.")
    set_padding(model, tokenizer, name)
    if max_pixels is not None:
        cap_pixels(processor, layout, max_pixels, name)
    files = [*weights, *(adapters.adapter_files(adapter) if adapter is not None else ())]
    mllm = MLLM(
        name=f"{name}+{adapter.resolve().name}" if adapter is not None else name,
        model=(adapters.merged(model, adapter) if adapter is not None else model).eval(),
        processor=processor,
        layout=layout,
        fingerprint=with_code(fingerprint(model, processor, files), own_code(folder) if trust_remote_code else {}),
        source=source or str(folder),
    )
    return mllm if placement.split else _placed(mllm, placement.device, dtype)


class Sentence:
    """Whatever transformers raises while it reads a folder becomes one sentence with the right advice.

    The tokenizers library raises `Exception` itself and nothing narrower, so what may pass is told by the exact type.
    """

    def __init__(self, folder: Path, raw: dict[str, Any]) -> None:
        self.folder, self.quantisation = folder, raw.get("quantization_config")

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, cause: BaseException | None, _: object) -> None:
        if kind is None or not (kind is Exception or issubclass(kind, _READ_ERRORS)):
            return
        reason = " ".join(str(cause).split())[:300]
        advice = "check that the folder is complete."
        if self.quantisation:
            method = self.quantisation.get("quant_method", "?") if isinstance(self.quantisation, dict) else "?"
            advice = (
                f"it is quantised ({method}): load it with transformers on a machine that has what this needs and hand it over as "
                "MLLM.of(model, processor), or take the checkpoint that is not quantised."
            )
        raise InputError(f"the model in {self.folder} cannot be loaded ({reason}); {advice}") from None


@contextmanager
def _bar_if_large(weights: list[Path]) -> Iterator[None]:
    """transformers draws a progress bar for every load; keep it for checkpoints of a gigabyte and more."""
    was_on = transformers_logging.is_progress_bar_enabled()
    if sum(path.stat().st_size for path in weights) < 1 << 30:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def _built(name: str, *, placement: Placement, dtype: str, max_pixels: int | None = None, adapter: Path | None = None) -> MLLM:
    """A model that is built in code: planted, or a family's tiny one."""
    if placement.split:
        raise UsageError(f'"{name}" is built in memory on one device; leave out --device-map and --quant, or give a saved folder.')
    if name == "planted":
        from safesteer_interp.models.planted import build_planted

        mllm = build_planted()
    else:
        mllm = _tiny(name.removeprefix("tiny:"))
    if adapter is not None:
        plain = adapters.merged(mllm.model, adapter)
        mllm = replace(mllm, name=f"{mllm.name}+{adapter.resolve().name}", model=plain, fingerprint=fingerprint(plain, mllm.processor))
    if max_pixels is not None:
        cap_pixels(mllm.processor, mllm.layout, max_pixels, mllm.name)
        mllm = replace(mllm, fingerprint=fingerprint(mllm.model, mllm.processor))
    return _placed(mllm, placement.device, dtype)


def _set_kernel(mllm: MLLM, kernel: str) -> None:
    """Another attention kernel, in the decoder and in the eyes."""
    try:
        mllm.model.set_attn_implementation(kernel)
    except (ValueError, ImportError, KeyError, OSError) as cause:
        reason = " ".join(str(cause).split())[:200]
        raise UsageError(
            f'{mllm.name} cannot run with the attention kernel "{kernel}" ({reason}); "sdpa" and "eager" always work.'
        ) from None


def _tiny(family: str) -> MLLM:
    if family not in FAMILIES:
        raise UsageError(f'no family is called "{family}".{did_you_mean(family, FAMILIES)}')
    return FAMILIES[family].tiny()


def _placed(mllm: MLLM, device: str, dtype: str) -> MLLM:
    """The same model on a device and in a dtype; a cast of a built model changes its fingerprint."""
    try:
        mllm.model.to(device=torch.device(device))
        if not getattr(mllm.model, "is_quantized", False):  # packed weights have no other dtype
            cast(mllm.model, DTYPES[dtype])
    except (RuntimeError, AssertionError, ValueError) as cause:
        reason = " ".join(str(cause).split())[:200]
        raise UsageError(f'the model cannot be placed on device "{device}" ({reason}); use "cpu", "cuda" or "cuda:<n>".') from None
    changed = dtype != "float32" and mllm.source.startswith("built")
    return replace(mllm, fingerprint=fingerprint(mllm.model, mllm.processor)) if changed else mllm


def processor_of(folder: Path, layout: Layout, options: dict[str, Any]) -> Any:
    """The checkpoint's processor; its image half alone where what the video half needs is not installed."""
    if layout.vision_tower is None:
        return transformers.AutoTokenizer.from_pretrained(folder, **options)
    if layout.processor_class is not None and not all(has(package) for package in layout.video_needs):
        return layout.processor_class().from_pretrained(folder, **options)  # type: ignore[attr-defined]
    return transformers.AutoProcessor.from_pretrained(folder, **options)


def _folder(name: str, revision: str | None, *, trust_remote_code: bool) -> Path:
    """The local folder of that name, else the hub's snapshot."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    hub.refuse_path(name)
    if not hub.is_hub_id(name):
        raise UsageError(f'no model is called "{name}".{did_you_mean(name, available_models())} A hub id has the form owner/name.')
    return hub.download(name, revision, trust_remote_code=trust_remote_code)
