"""planted: a LLaVA whose weights were written by hand, so that every analysis run on it has a known answer. It proves machinery only.

The architecture is transformers' own (CLIP tower, projector, six Llama layers, d = 64); a random rotation hides the axes. What is
planted where:

- *Harm* (`PlantedTruth.harm_direction`). Verbs and red-against-blue tints carry evidence, which no other token sees until the
  attention of layer 3 averages it over the content tokens and writes it into the residual stream. At the last prompt token AUROC is
  therefore 0.5 up to `resid_post.2` and about 0.92 from `resid_post.3` to `final_norm`.
- *Noise*. Filler words and green tints carry evidence that has nothing to do with the label, drawn per request. It is why AUROC is
  not 1 and why about 80 %, not all, of harmful texts are refused.
- *The modality gap* (`gap_direction`). Every content patch that leaves the projector carries a mark; layer 3 turns the marks into a
  shift that is mostly orthogonal to harm and partly against it. A blank image carries none. So harmful pictures lie nearer the
  harmless side and are answered, and mean SD - mean CB at `final_norm` is the shift.
- *Refusal*. The head reads the harm direction once, at the last prompt token: above `threshold` it says "sorry" and the rest of
  "sorry i cannot help with that request" follows word by word, else one of six openers and "here is your answer below".
- *Token scores*. Layer 3's MLP moves refusal words towards harm and compliance words away from it (the premise of arXiv 2605.11716).
- *Nothing else*: the other heads and MLPs mix the fillers' identities into a subspace that no one reads.

- *Where a picture's harm is lost*, on demand (`lost_at`): its tint never leaves the patch embedding ("eyes"), or the projector does not
  hand it on ("projector"), or writes it where layer 3 does not look, so that image tokens tell it and no later token does ("decoder").

Each planted effect can be scaled, removed (0) or reversed (-1), and verdicts must follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from safesteer_interp.datasets.planted import (
    FILLER_NOISE,
    FILLERS,
    GRID,
    HARM_TINT,
    HARMFUL_VERBS,
    HARMLESS_VERBS,
    NOISE_TINT,
    PATCH,
    PLAIN_WORDS,
    SCENARIOS,
    SIDE,
    Mosaic,
    planted_requests,
)
from safesteer_interp.errors import UsageError
from safesteer_interp.models.families.llava import LAYOUT, VICUNA
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.types import Vector

__all__ = ["Mosaic", "PlantedTruth", "build_planted", "planted_requests", "planted_truth"]

D, LAYERS, HEADS, HEAD, MLP = 64, 6, 4, 16, 128
PLANTED_LAYER = 3
REFUSAL = ["sorry", "i", "cannot", "help", "with", "that", "request"]
OPENERS = ["sure", "okay", "certainly", "yes", "gladly", "absolutely"]
COMPLIANCE = ["here", "is", "your", "answer", "below"]
NORM = 16.0  # of every embedding, so that RMSNorm divides all tokens by the same 2
ONE, MARK, EVIDENCE, GAP, SCORE, HARM, SIDEWAYS = range(7)  # channels; word identities and the unread subspace follow
UNREAD, FILLER_SPACE, WORD_SPACE = slice(26, 34), slice(34, 50), slice(50, 64)
VERB_EVIDENCE, TEXT_CONTENT = 3.0, 6  # a text has 6 content words: verb, noun, four fillers
HARM_UNIT, GAP_SIZE, GAP_AGAINST_HARM = 2.0, 6.0, 1 / 3  # residual units; share of the gap that points against harm
NOISE, THRESHOLD, SHARPNESS = 0.5, 0.6, 10.0  # sd of the harm score, score at which refusal wins, logits per unit of score
REFUSAL_SCORE, COMPLIANCE_SCORE = 0.8, -0.5  # what layer 3 adds to the harm score of answer words
UNUSED = WORD_SPACE.start + 1  # a channel of word identities that no head and no unit reads
_SEEN = NORM / 2  # norm of a state after RMSNorm
FOUR_FILLERS = 1.81  # sd of the sum of four of the fillers' quantiles, drawn without replacement


LostAt = Literal["", "eyes", "projector", "decoder"]
_TRUTHS: WeakKeyDictionary[nn.Module, PlantedTruth] = WeakKeyDictionary()


@dataclass(frozen=True)
class PlantedTruth:
    """What is planted in one build: the known answers. Vectors are unit, in residual coordinates [64]."""

    layer: int
    """First layer (0-based) whose `resid_post` carries harm and gap at the last prompt token."""
    harm_direction: Vector
    """Towards harm."""
    gap_direction: Vector
    """From text towards image: the direction of mean SD - mean CB."""
    harm: float
    gap: float
    noise: float
    token_scores: float
    """Scales of the planted effects (1 planted, 0 absent, -1 reversed)."""
    lost_at: LostAt
    """Where the harm of a picture ends; "" where it reaches the last token."""
    auroc: float
    """AUROC of harmful against harmless within one attack from `layer` on, as the noise implies."""
    refusal_rate: dict[str, float]
    """Expected share refused (greedy): "text harmful", "text harmless", "image harmful", "image harmless"."""
    refusal_tokens: tuple[int, ...]
    compliance_tokens: tuple[int, ...]
    first_refusal_token: int
    openers: tuple[int, ...]
    """Ids of the six words that open an answered request."""


def build_planted(
    seed: int = 0, *, harm: float = 1.0, gap: float = 1.0, noise: float = 1.0, token_scores: float = 1.0, lost_at: LostAt = ""
) -> MLLM:
    """The planted model. The scales multiply each planted effect; `seed` draws the hidden rotation and the unread subspace.

    harm: evidence of harmful verbs and pictures. 0: AUROC 0.5 everywhere, what is refused is noise. -1: harm reads as its opposite.
    gap: shift of image-borne requests. 0: pictures are refused like text. -1: more than text.
    noise: label-free evidence. 0: AUROC 1 and every harmful text refused.
    token_scores: what refusal and compliance words add to the probe's score. -1: the sign test must fail.
    lost_at: the stage behind which a picture's harm cannot be told any more; text is not concerned.
    """
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))[0]
    tokenizer = _tokenizer()
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=[0.0] * 3, image_std=[1.0] * 3
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=VICUNA,
        num_additional_image_tokens=1,
    )
    model = _blank_model(tokenizer)
    decoder = model.model.language_model
    with torch.no_grad():
        decoder.embed_tokens.weight.copy_(_embeddings(tokenizer, generator, harm, noise) @ rotation.T)
        model.lm_head.weight.copy_(_head(tokenizer) @ rotation.T)
        _write_vision(model, rotation, harm, noise, lost_at)
        for number in range(LAYERS):
            _write_layer(decoder.layers[number], rotation, generator, gap, token_scores, planted=number == PLANTED_LAYER)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    mllm = MLLM.of(model, processor, name="planted", layout=LAYOUT, source="built in code, planted weights", check=False)
    mllm.known_answer = True
    _TRUTHS[model] = _truth(tokenizer, rotation, harm, gap, noise, token_scores, lost_at)
    return mllm


def planted_truth(mllm: MLLM) -> PlantedTruth:
    """What is planted in a model that `build_planted` made. Raises UsageError for any other model."""
    truth = _TRUTHS.get(mllm.model)
    if truth is None:
        raise UsageError(f'{mllm.name} has no planted truth; build it with build_planted() or load_model("planted").')
    return truth


def _gap_coordinates(gap: float) -> Tensor:
    vector = torch.zeros(D, dtype=torch.float64)
    vector[HARM], vector[SIDEWAYS] = -GAP_AGAINST_HARM, (1 - GAP_AGAINST_HARM**2) ** 0.5
    return gap * vector


def _truth(
    tokenizer: PreTrainedTokenizerFast, rotation: Tensor, harm: float, gap: float, noise: float, scores: float, lost_at: LostAt
) -> PlantedTruth:
    def refused(harmful: bool, image: bool) -> float:
        mean = harm * harmful * (not (image and lost_at)) - gap * image * GAP_SIZE * GAP_AGAINST_HARM / HARM_UNIT
        return NormalDist().cdf((mean - THRESHOLD) / max(NOISE * abs(noise), 1e-9))

    ids = tokenizer.convert_tokens_to_ids
    toward_image = rotation @ _gap_coordinates(1.0 if gap >= 0 else -1.0)
    return PlantedTruth(
        layer=PLANTED_LAYER,
        harm_direction=rotation[:, HARM].float(),
        gap_direction=toward_image.float(),
        harm=harm,
        gap=gap,
        noise=noise,
        token_scores=scores,
        lost_at=lost_at,
        auroc=NormalDist().cdf(harm / max(2**0.5 * NOISE * abs(noise), 1e-9)),
        refusal_rate={
            f"{'image' if image else 'text'} {'harmful' if harmful else 'harmless'}": refused(harmful, image)
            for image in (False, True)
            for harmful in (True, False)
        },
        refusal_tokens=tuple(ids(REFUSAL)),
        compliance_tokens=tuple(ids(OPENERS + COMPLIANCE)),
        first_refusal_token=ids(REFUSAL[0]),
        openers=tuple(ids(OPENERS)),
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; words outside the closed world become <unk>, which means nothing to the model."""
    nouns = [noun for group in SCENARIOS.values() for noun in group]
    words = [*HARMFUL_VERBS, *HARMLESS_VERBS, *nouns, *FILLERS, *PLAIN_WORDS, *REFUSAL, *OPENERS, *COMPLIANCE, "user", "assistant", ":"]
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*special, *words]))}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    bare.normalizer = normalizers.Lowercase()
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
    )


def _blank_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The architecture with every weight zero and every norm scale one."""
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "projection_dim": 32}
    text = {
        "hidden_size": D,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "intermediate_size": MLP,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 1024,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **vision, "image_size": SIDE, "patch_size": PATCH},
        text_config={"model_type": "llama", **text},
        image_token_index=tokenizer.image_token_id,
        image_seq_length=GRID * GRID,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)
    return model


def _identities(tokenizer: PreTrainedTokenizerFast, generator: torch.Generator) -> Tensor:
    """[vocabulary, 64] unit identity of every token: answer words and ":" on axes of their own, the others in their subspace."""
    table = torch.zeros(len(tokenizer), D, dtype=torch.float64)
    own = _axes(tokenizer)
    for word, token in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if token in own:
            table[token, own[token]] = 1.0
            continue
        space = FILLER_SPACE if word in FILLERS else WORD_SPACE
        drawn = torch.randn(space.stop - space.start, generator=generator, dtype=torch.float64)
        table[token, space] = drawn / drawn.norm()
    fillers = [tokenizer.convert_tokens_to_ids(word) for word in FILLERS]
    table[fillers] -= table[fillers].mean(0)  # so that mixing fillers shifts no mean, however many a prompt has
    table[fillers] /= table[fillers].norm(dim=1, keepdim=True)
    return table


def _axes(tokenizer: PreTrainedTokenizerFast) -> dict[int, int]:
    """Token id -> its own channel, for ":" and the answer words (the head reads these to continue an answer)."""
    words = [":", *REFUSAL, *OPENERS, *COMPLIANCE]
    return {tokenizer.convert_tokens_to_ids(word): HARM + 2 + i for i, word in enumerate(words)}


def _embeddings(tokenizer: PreTrainedTokenizerFast, generator: torch.Generator, harm: float, noise: float) -> Tensor:
    """[vocabulary, 64] in channel coordinates, every row of norm 16."""
    identities = _identities(tokenizer, generator)
    table = torch.zeros_like(identities)
    table[:, ONE] = NORM / 4
    nouns = [noun for group in SCENARIOS.values() for noun in group]
    content = tokenizer.convert_tokens_to_ids([*HARMFUL_VERBS, *HARMLESS_VERBS, *nouns, *FILLERS])
    table[content, MARK] = NORM / 4
    table[tokenizer.convert_tokens_to_ids(list(HARMFUL_VERBS)), EVIDENCE] = harm * VERB_EVIDENCE
    for word, quantile in FILLER_NOISE.items():
        table[tokenizer.convert_tokens_to_ids(word), EVIDENCE] = noise * NOISE * VERB_EVIDENCE * quantile / FOUR_FILLERS
    for words, score in ((REFUSAL, REFUSAL_SCORE), (OPENERS + COMPLIANCE, COMPLIANCE_SCORE)):
        table[tokenizer.convert_tokens_to_ids(words), SCORE] = score
    rest = (NORM**2 - table.pow(2).sum(1)).sqrt()
    return table + identities * rest[:, None]


def _head(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """[vocabulary, 64]: what each word needs to see in the final state to be said next."""
    axis = _axes(tokenizer)
    table = torch.zeros(len(tokenizer), D, dtype=torch.float64)
    word = {w: tokenizer.convert_tokens_to_ids(w) for w in [":", *REFUSAL, *OPENERS, *COMPLIANCE]}
    at_prompt, at_word = (_SEEN * (1 - (ratio / NORM) ** 2) ** 0.5 for ratio in (NORM / 4, NORM / 4 + 0.1))
    for rank, opener in enumerate(OPENERS):
        table[word[opener], axis[word[":"]]] = (12 - 0.3 * rank) / at_prompt
    first = word[REFUSAL[0]]
    table[first, axis[word[":"]]] = (12 - SHARPNESS * THRESHOLD) / at_prompt
    table[first, HARM] = SHARPNESS / (HARM_UNIT * _SEEN / NORM)
    table[first, [axis[word[w]] for w in (*REFUSAL, *OPENERS, *COMPLIANCE)]] = -40 / at_word  # refusal is decided once, at the prompt
    follows = [*zip(REFUSAL, [*REFUSAL[1:], None], strict=True), *((opener, COMPLIANCE[0]) for opener in OPENERS)]
    follows += zip(COMPLIANCE, [*COMPLIANCE[1:], None], strict=True)
    for previous, following in follows:
        table[word[following] if following else tokenizer.eos_token_id, axis[word[previous]]] += 14 / at_word
    return table


def _write_vision(model: LlavaForConditionalGeneration, rotation: Tensor, harm: float, noise: float, lost_at: LostAt) -> None:
    """Tower: three tints per patch, read linearly. Projector: tints to evidence, content patches marked with the gap's source."""
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    width = tower.config.hidden_size
    constant = 40.0  # dwarfs the tints, so that the tower's LayerNorm is linear in them
    axes = torch.eye(width, dtype=torch.float64)
    axes = axes[0:8:2] - axes[1:8:2]  # four orthogonal rows of zero mean
    axes /= axes.norm(dim=1, keepdim=True)
    readout = torch.tensor([[-1 / 1.5] * 3, [0.5, 0.0, -0.5], [-1 / 6, 1 / 3, -1 / 6]], dtype=torch.float64)  # content, harm, noise
    readout[1] *= lost_at != "eyes"
    kernel = torch.einsum("fv,fc->vc", axes[1:], readout) / PATCH**2
    tower.embeddings.patch_embedding.weight.copy_(kernel[:, :, None, None].expand(-1, -1, PATCH, PATCH))
    tower.embeddings.position_embedding.weight.copy_((constant * axes[0] + 2 * axes[1]).expand(GRID * GRID + 1, -1))
    offset = 10.0  # where GELU is the identity
    projector.linear_1.weight[:3].copy_(axes[1:] * constant / width**0.5)
    projector.linear_1.bias[:3].fill_(offset)
    out = torch.zeros(D, 3, dtype=torch.float64)
    out[MARK, 0], out[GAP, 0] = NORM / 4, 1.0
    per_score = VERB_EVIDENCE / TEXT_CONTENT
    out[UNUSED if lost_at == "decoder" else EVIDENCE, 1] = harm * per_score / HARM_TINT * (lost_at != "projector")
    out[EVIDENCE, 2] = noise * 0.955 * NOISE * per_score / NOISE_TINT  # the two fillers of the text supply the rest of the noise
    base = torch.zeros(D, dtype=torch.float64)
    base[ONE] = NORM / 4
    base[WORD_SPACE.start] = (NORM**2 - 2 * (NORM / 4) ** 2 - 1 - 0.1) ** 0.5
    projector.linear_2.weight[:, :3].copy_(rotation @ out)
    projector.linear_2.bias.copy_(rotation @ (base - offset * out.sum(1)))


def _write_layer(layer: Any, rotation: Tensor, generator: torch.Generator, gap: float, token_scores: float, *, planted: bool) -> None:
    """Heads 1-3 and the MLP stir the unread subspace; in the planted layer, head 0 gathers evidence and one MLP unit scores words."""

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    query, key, value = (torch.zeros(HEADS * HEAD, D, dtype=torch.float64) for _ in range(3))
    out = torch.zeros(D, HEADS * HEAD, dtype=torch.float64)
    value[HEAD:, FILLER_SPACE] = drawn(3 * HEAD, 16) / 16**0.5
    out[UNREAD, HEAD:] = 0.35 * drawn(8, 3 * HEAD) / 3**0.5
    gate, up, down = (torch.zeros(*shape, dtype=torch.float64) for shape in ((MLP, D), (MLP, D), (D, MLP)))
    for matrix in (gate, up):
        matrix[1:, UNREAD] = 0.3 * drawn(MLP - 1, 8)
        matrix[1:, FILLER_SPACE] = 0.05 * drawn(MLP - 1, 16)
    down[UNREAD, 1:] = 0.02 * drawn(8, MLP - 1)
    if planted:
        slow = HEAD // 2 - 1  # the rotary pair that turns least, so that position does not matter
        query[slow, ONE], key[slow, MARK] = 4.0, 2.0  # content tokens outweigh the others by exp(8)
        value[0, EVIDENCE], value[1, GAP] = NORM / _SEEN, NORM / _SEEN
        out[HARM, 0] = HARM_UNIT * TEXT_CONTENT / VERB_EVIDENCE
        out[:, 1] = _gap_coordinates(gap) * GAP_SIZE * 7 / 6  # 12 of a picture prompt's 14 content tokens are patches
        gate[0, ONE] = 10 / (_SEEN / 4)  # a constant: silu(10) = 10
        up[0, SCORE] = NORM / _SEEN
        down[HARM, 0] = token_scores * HARM_UNIT / 10
    attention, mlp = layer.self_attn, layer.mlp
    for linear, matrix in ((attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value), (mlp.gate_proj, gate)):
        linear.weight.copy_(matrix @ rotation.T)
    mlp.up_proj.weight.copy_(up @ rotation.T)
    attention.o_proj.weight.copy_(rotation @ out)
    mlp.down_proj.weight.copy_(rotation @ down)
