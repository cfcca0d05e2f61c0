"""load_model: "mini", "mini:<recipe>", "planted", "tiny:<family>", a folder or a hub id, as an MLLM whose layout has been checked.

Weights are read from safetensors only, and code from a repository is never run unless it is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.models.checks import check_layout
from safesteer_interp.models.families.building import has_torchvision
from safesteer_interp.models.families.layouts import layout_for
from safesteer_interp.models.families.registry import FAMILIES
from safesteer_interp.models.fingerprint import fingerprint
from safesteer_interp.models.layout import Layout
from safesteer_interp.models.mllm import MLLM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
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
        **{f"mini:{recipe}": f"mini with the projector recipe {recipe}" for recipe in mini_variants()},
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


def load_model(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> MLLM:
    """The model called `name`, in eval mode on `device`, with its layout checked by one short forward.

    Args:
        name: "mini", "mini:<projector recipe>", "planted", "tiny:<family>", a local folder (wins over a hub id of the same name) or a
            hub id "owner/name".
        dtype: "float32", "bfloat16" or "float16".
        trust_remote_code: allow the repository's own Python files (off by default: they run with your rights).
        revision: branch, tag or commit of a hub id.

    Raises:
        UsageError: an unknown name, dtype or device.
        InputError: a folder or repository that is missing, incomplete, pickled, of an unsupported architecture or with a wrong layout.
    """
    if dtype not in DTYPES:
        raise UsageError(f'no dtype is called "{dtype}".{did_you_mean(dtype, DTYPES)}')
    if name == "planted":
        from safesteer_interp.models.planted import build_planted

        mllm = _placed(build_planted(), device, dtype)
    elif name.startswith("tiny:"):
        mllm = _placed(_tiny(name.removeprefix("tiny:")), device, dtype)
    elif name == "mini" or name.startswith("mini:"):
        from safesteer_interp.models.mini import checkpoint_dir

        mllm = load_folder(checkpoint_dir(name.partition(":")[2] or None), device=device, dtype=dtype, name=name)
    else:
        folder = Path(name).expanduser()
        source = None
        if not folder.is_dir():
            folder, source = _download(name, revision, trust_remote_code), f"hub {name}, revision {revision or 'main'}"
        shown = name if source else folder.resolve().name
        mllm = load_folder(folder, device=device, dtype=dtype, name=shown, source=source, trust_remote_code=trust_remote_code)
    check_layout(mllm)
    return mllm


def load_folder(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    name: str = "",
    source: str | None = None,
    trust_remote_code: bool = False,
) -> MLLM:
    """The checkpoint in a local folder, without the layout check. Raises InputError as `load_model` does."""
    raw = _read_config(folder, trust_remote_code)
    layout_for(SimpleNamespace(**{**raw, "text_config": SimpleNamespace(**(raw.get("text_config") or {"model_type": "gemma"}))}))
    if (raw.get("vision_config") or {}).get("model_type") == "safesteer_tower":
        import safesteer_interp.models.mini  # noqa: F401  (registers the tower's config and model with transformers)
    weights = _weight_files(folder)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        layout = layout_for(config)
        auto = AutoModelForImageTextToText if layout.vision_tower else AutoModelForCausalLM
        with _bar_if_large(weights):
            model, report = auto.from_pretrained(
                folder, config=config, dtype=DTYPES[dtype], use_safetensors=True, output_loading_info=True, **options
            )
        processor = _processor(folder, layout, options)
    except Exception as cause:
        if type(cause) is not Exception and not isinstance(cause, _READ_ERRORS):  # the tokenizers library raises bare Exceptions
            raise
        reason = " ".join(str(cause).split())[:300]
        raise InputError(f"the model in {folder} cannot be loaded ({reason}); check that the folder is complete.") from None
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"the weights in {folder} lack {len(missing)} tensors (first: {missing[0]}), which would stay random; "
            "fetch the complete checkpoint."
        )
    tokenizer = getattr(processor, "tokenizer", processor)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        kind = type(processor).__name__
        raise InputError(f"{folder} has a {kind} and no tokenizer; fetch its processor_config.json and tokenizer files again.")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    mllm = MLLM(
        name=name or folder.resolve().name,
        model=model.eval(),
        processor=processor,
        layout=layout,
        fingerprint=fingerprint(model, processor, weights),
        source=source or str(folder),
    )
    return _placed(mllm, device, dtype)


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


def _tiny(family: str) -> MLLM:
    if family not in FAMILIES:
        raise UsageError(f'no family is called "{family}".{did_you_mean(family, FAMILIES)}')
    return FAMILIES[family].tiny()


def _placed(mllm: MLLM, device: str, dtype: str) -> MLLM:
    """The same model on a device and in a dtype; a cast of a built model changes its fingerprint."""
    try:
        mllm.model.to(device=torch.device(device), dtype=DTYPES[dtype])
    except (RuntimeError, AssertionError, ValueError) as cause:
        reason = " ".join(str(cause).split())[:200]
        raise UsageError(f'the model cannot be placed on device "{device}" ({reason}); use "cpu", "cuda" or "cuda:<n>".') from None
    cast = dtype != "float32" and mllm.source.startswith("built")
    return replace(mllm, fingerprint=fingerprint(mllm.model, mllm.processor)) if cast else mllm


def _read_config(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """config.json as a dict, after refusing repositories that want to run their own code."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} has no config.json; give the folder of a transformers checkpoint.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        asks = [
            file.name
            for file in (path, folder / "tokenizer_config.json", folder / "processor_config.json", folder / "preprocessor_config.json")
            if file.is_file() and "auto_map" in dict(json.loads(file.read_text(encoding="utf-8")))
        ]
    except (OSError, ValueError, TypeError, RecursionError) as cause:
        raise InputError(f"{path} or a file beside it is not readable JSON ({cause}); fetch the checkpoint again.") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path} is not a JSON object; fetch the checkpoint again.")
    if asks and not trust_remote_code:
        raise InputError(
            f"{folder} wants to run its own Python code ({asks[0]} has auto_map); read that code, then allow it with --trust-remote-code."
        )
    return raw


def _weight_files(folder: Path) -> list[Path]:
    """All safetensors files of the checkpoint, complete according to the index."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if pickled:
            raise InputError(
                f"{folder} has its weights as {pickled[0]}, a pickle, which can run code when opened; convert them to safetensors "
                "(for example save_pretrained in a sandbox) and give that folder."
            )
        raise InputError(f"{folder} has no *.safetensors file; give the folder that holds the weights.")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            wanted = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
            raise InputError(f"{index} is not a readable index of weight files ({cause}); fetch it again.") from None
        if strays := [shard for shard in wanted if not isinstance(shard, str) or Path(shard).name != shard]:
            raise InputError(f"{index} names a weight file outside of its folder ({strays[0]}); fetch the checkpoint again.")
        if lacking := [shard for shard in wanted if not (folder / shard).is_file()]:
            raise InputError(f"{folder} lacks {len(lacking)} of {len(wanted)} weight files (first: {lacking[0]}); fetch the rest.")
        files = [folder / shard for shard in wanted]
    return files


def _processor(folder: Path, layout: Layout, options: dict[str, Any]) -> Any:
    """The checkpoint's processor; without torchvision, its image half alone where transformers would ask for the video half too."""
    if layout.vision_tower is None:
        return AutoTokenizer.from_pretrained(folder, **options)
    if layout.processor_class is not None and not has_torchvision():
        return layout.processor_class().from_pretrained(folder, **options)  # type: ignore[attr-defined]
    return AutoProcessor.from_pretrained(folder, **options)


def _download(name: str, revision: str | None, trust_remote_code: bool) -> Path:
    """Folder of a hub snapshot (safetensors, JSON and tokenizer files only)."""
    looks_like_path = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    if looks_like_path or Path(name).exists():
        problem = "is a file" if Path(name).is_file() else "does not exist"
        raise InputError(f"the model folder {name} {problem}; give a folder with config.json and *.safetensors, or a hub id.")
    if not _HUB_ID.fullmatch(name):
        raise UsageError(f'no model is called "{name}".{did_you_mean(name, available_models())} A hub id has the form owner/name.')
    wanted = [*_WANTED, *(["*.py"] if trust_remote_code else [])]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except GatedRepoError:
        raise InputError(f'hub model "{name}" is gated; accept its licence on the hub and log in with `hf auth login`.') from None
    except RevisionNotFoundError:
        raise InputError(f'hub model "{name}" has no revision "{revision}"; check the branch, tag or commit.') from None
    except RepositoryNotFoundError:
        raise InputError(f'"{name}" is neither a local folder nor a model on the hub; check the spelling.') from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as cause:
        reason = " ".join(str(cause).split())[:120]
        raise InputError(
            f'"{name}" is no local folder, and the hub cannot be reached for it ({reason}); go online or give a folder.'
        ) from None
