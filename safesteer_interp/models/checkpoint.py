"""A checkpoint's folder as it lies on disk: what it holds, what is missing, and what is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safesteer_interp.errors import InputError
from safesteer_interp.models.layout import Stated

ADAPTER = "adapter_config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_POINTER = b"version https://git-lfs.github.com/spec"
_SETTINGS = ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def read_config(folder: Path, *, trust_remote_code: bool) -> dict[str, Any]:
    """config.json as a dict, after refusing folders that are no checkpoint, not fetched, or want to run their own code."""
    refuse_pointers(folder)
    path = folder / "config.json"
    if not path.is_file():
        if (folder / ADAPTER).is_file():
            raise InputError(
                f"{folder} holds an adapter without its model; load the model it belongs to, as load_model({base_of(folder)!r}, "
                f"adapter={str(folder)!r})."
            )
        raise InputError(f"{folder} has no config.json; give the folder of a transformers checkpoint.")
    raw = _object(path)
    asks = _asks_for_code(folder)
    if asks and not trust_remote_code:
        raise InputError(
            f"{folder} wants to run its own Python code ({asks[0]} has auto_map); read that code, then allow it with --trust-remote-code."
        )
    _object(folder / "tokenizer.json", missing_is_empty=True)  # the tokenizers library names no file when it cannot read one
    return raw


def _asks_for_code(folder: Path) -> list[str]:
    """Names of the settings files that name Python files of the folder to run."""
    files = (folder / name for name in ("config.json", *_SETTINGS))
    return [file.name for file in files if "auto_map" in _object(file, missing_is_empty=True)]


def own_code(folder: Path) -> dict[str, Path]:
    """Python files of a checkpoint that wants to run code of its own, by their place in the folder; none of one that does not."""
    if not _asks_for_code(folder):
        return {}
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py") if path.is_file()}


def stated_settings(folder: Path) -> Stated:
    """Which settings of the processor and of its image half the folder's files state, in the old or the new form."""
    whole = _object(folder / "processor_config.json", missing_is_empty=True)
    old = _object(folder / "preprocessor_config.json", missing_is_empty=True)
    images = whole.get("image_processor")
    return Stated(frozenset(whole), frozenset(old) | frozenset(images if isinstance(images, dict) else ()))


def base_of(folder: Path) -> str:
    """The model that an adapter's folder says it belongs to."""
    return str(_object(folder / ADAPTER).get("base_model_name_or_path") or "its base model")


def refuse_pointers(folder: Path) -> None:
    """Raises InputError for files that git-lfs has not fetched yet: some hundred bytes that say where the content lies."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < 1024:
            with path.open("rb") as file:
                pointer = file.read(len(_POINTER)) == _POINTER
            if pointer:
                raise InputError(f"{path} is a git-lfs pointer and not the file itself; run `git lfs pull` in {folder}, or fetch it again.")


def weight_files(folder: Path, explicit: str | None = None) -> list[Path]:
    """The safetensors files that transformers loads from a folder, complete according to the index.

    `explicit` is the config's `transformers_weights`, which goes first; one file called model.safetensors goes before an index. Other
    safetensors beside them (adapters, optimisers, other precisions) are no part of the model.
    """
    for name in (explicit, "model.safetensors", "model.safetensors.index.json"):
        path = folder / Path(name or "").name
        if name and path.is_file():
            return _shards(folder, path) if name.endswith(".json") else [path]
    others = [path.name for path in sorted(folder.glob("*.safetensors"))]
    pickled = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if adapters := [name for name in others if name.startswith("adapter_")]:
        raise InputError(
            f"{folder} holds the weights of an adapter ({adapters[0]}) and none of a model; load its model with adapter={str(folder)!r}."
        )
    if others:
        raise InputError(f"{folder} has {others[0]}, but neither model.safetensors nor an index of shards; rename the file that is meant.")
    if pickled:
        raise InputError(
            f"{folder} has its weights as {pickled[0]}, a pickle, which can run code when opened; convert them to safetensors "
            "(for example save_pretrained in a sandbox) and give that folder."
        )
    raise InputError(f"{folder} has no *.safetensors file; give the folder that holds the weights.")


def _shards(folder: Path, index: Path) -> list[Path]:
    """The files an index names, all of them there."""
    try:
        wanted = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise InputError(f"{index} is not a readable index of weight files ({cause}); fetch it again.") from None
    if strays := [shard for shard in wanted if not isinstance(shard, str) or Path(shard).name != shard]:
        raise InputError(f"{index} names a weight file outside of its folder ({strays[0]}); fetch the checkpoint again.")
    if lacking := [shard for shard in wanted if not (folder / shard).is_file()]:
        raise InputError(f"{folder} lacks {len(lacking)} of {len(wanted)} weight files (first: {lacking[0]}); fetch the rest.")
    return [folder / shard for shard in wanted]


def _object(path: Path, *, missing_is_empty: bool = False) -> dict[str, Any]:
    """A JSON object of the checkpoint."""
    if missing_is_empty and not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as cause:
        raise InputError(f"{path} is not readable JSON ({cause}); fetch the checkpoint again.") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path} is not a JSON object; fetch the checkpoint again.")
    return raw
