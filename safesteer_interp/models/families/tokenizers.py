"""Small real tokenizers for the tiny models: the families' own tokenizer classes over a vocabulary trained here, in code.

Training is deterministic and takes a few milliseconds, so that no test needs the hub. The two kinds differ where families differ:
`byte_level` (Qwen, Llama 3) and `metaspace` (Llama 2, Gemma: "▁" for a space, bytes as fallback).
"""

from __future__ import annotations

import json
from functools import lru_cache

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

_CORPUS = (
    "a chat between a curious user and an artificial intelligence assistant. the assistant gives helpful answers.",
    "You are a helpful assistant. What does the picture show? Describe the image in detail, please.",
    "list the steps for the activity in the image. How do I renew a passport? How do I write a letter?",
    "user assistant system model User: Assistant: USER: ASSISTANT: I am sorry, but I cannot help with that.",
    "Here is the original image and here are some crops to help you see better. the and of to in that is for with",
)
_VOCAB = 420


@lru_cache(maxsize=2)
def _trained(kind: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """(tokens in id order, merges) of a byte-pair encoding trained on the corpus above; `kind` is "byte_level" or "metaspace"."""
    trained = Tokenizer(models.BPE())
    if kind == "byte_level":
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        trained.normalizer = normalizers.Replace(" ", "▁")
        trained.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
        alphabet = [chr(c) for c in range(33, 127)] + ["▁", "\n"]
    trainer = trainers.BpeTrainer(vocab_size=_VOCAB, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(_CORPUS, trainer)
    bpe = json.loads(trained.to_str())["model"]
    return tuple(sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)), tuple(tuple(pair) for pair in bpe["merges"])


def byte_level(special: list[str], *, eos: str, pad: str, bos: str | None = None, **named: str) -> PreTrainedTokenizerFast:
    """Qwen's tokenizer class; `special` tokens come first, `named` are extra special tokens such as `image_token`."""
    tokens, merges = _trained("byte_level")
    vocabulary = {token: i for i, token in enumerate([*special, *tokens])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=list(merges), unk_token=None, bos_token=bos, eos_token=eos, pad_token=pad, extra_special_tokens=named
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special}, replace_extra_special_tokens=False)
    tokenizer.padding_side = "left"
    return tokenizer


def metaspace(special: list[str], *, gemma: bool, **named: str) -> PreTrainedTokenizerFast:
    """Llama 2's or Gemma's tokenizer class, which put <s> or <bos> in front; `named` are tokens such as `image_token`."""
    tokens, merges = _trained("metaspace")
    own = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"] if gemma else ["<unk>", "<s>", "</s>", "<pad>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*own, *special, *fallback, *tokens]))}
    kind = GemmaTokenizer if gemma else LlamaTokenizer
    tokenizer = kind(vocab=vocabulary, merges=list(merges), pad_token="<pad>", add_bos_token=True, extra_special_tokens=named)
    tokenizer.add_special_tokens({"additional_special_tokens": special}, replace_extra_special_tokens=False)
    tokenizer.padding_side = "left"
    return tokenizer
