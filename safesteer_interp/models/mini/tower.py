"""mini's eyes: a residual convolutional tower of stride 16, registered with transformers as `safesteer_tower`.

A 160x160 image becomes 10x10 = 100 features: what the last layer holds, and beside it what the cell was recognised as (`Recall`): a
word, a picture, or, where there is nothing to recognise, the colour of the paper, which a tower that was taught to read in any colour
does not keep. It stands where LLaVA has CLIP:
`LlavaForConditionalGeneration` reads `hidden_states[vision_feature_layer]` of what it returns, with
`vision_feature_select_strategy="full"` (there is no class token).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

IMAGE_SIZE = 160
PATCH_SIZE = 16
N_IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
COLOUR_SCALE = 8.0
"""Mean colours are handed on this much larger, for a projector that starts without them and is trained slowly (at 1, one colour in
five was named after 2,000 visual turns)."""

PAPERS: dict[str, tuple[int, int, int]] = {
    "White": (255, 255, 255), "Black": (0, 0, 0), "Red": (220, 30, 30), "Green": (40, 160, 60), "Blue": (30, 80, 210),
    "Yellow": (250, 215, 40), "Orange": (245, 130, 30), "Purple": (130, 50, 170), "Brown": (120, 75, 40), "Pink": (250, 150, 190),
    "Gray": (128, 128, 128),
}  # fmt: skip
"""What an empty cell can be recognised as, by its mean colour. Capitals tell paper from a word that is written on it."""
PAPER_TEMPERATURE = 0.05
"""Of the softmax over squared distances to `PAPERS`, colours being in [-1, 1]."""

Pixels = Float[Tensor, "batch 3 _ _"]
CellMap = Float[Tensor, "batch _ _ _"]  # channels, rows, columns: every layer changes them
Features = Float[Tensor, "batch cells _"]


class SafesteerTowerConfig(PreTrainedConfig):
    """Widths and depths of the tower.

    `n_codes` tokens can be recognised, each standing for a vector of `code_size`; none by default. `papers` are the codes of the colours
    in `PAPERS`, in that order, and `empty_code` that of an empty cell, which then stands for the colour it has. With `colours` the mean
    of each channel is handed on as well. `hidden_size`, the width of a feature, is the trunk's plus a code's plus that of the colours.
    `folded` says whether batch norm has been folded into the convolutions.
    """

    model_type = "safesteer_tower"

    def __init__(
        self,
        image_size: int = IMAGE_SIZE,
        patch_size: int = PATCH_SIZE,
        trunk_size: int = 256,
        widths: Sequence[int] = (32, 64, 128),
        low_blocks: int = 2,
        high_blocks: int = 4,
        n_codes: int = 0,
        code_size: int = 0,
        papers: Sequence[int] = (),
        empty_code: int = 0,
        colours: bool = False,
        folded: bool = True,
        **kwargs: Any,
    ) -> None:
        self.image_size = image_size
        self.patch_size = patch_size
        self.trunk_size = trunk_size
        self.widths = list(widths)
        self.low_blocks = low_blocks
        self.high_blocks = high_blocks
        self.n_codes = n_codes
        self.code_size = code_size if n_codes else 0
        self.papers = list(papers)
        self.empty_code = empty_code
        self.colours = colours
        self.folded = folded
        kwargs.pop("hidden_size", None)  # a saved configuration holds it, but it follows from the others
        self.hidden_size = trunk_size + self.code_size + 3 * colours
        super().__init__(**kwargs)


class ConvNorm(nn.Module):
    """3x3 convolution followed by batch norm in training; one convolution with bias once folded."""

    def __init__(self, width_in: int, width_out: int, stride: int = 1, *, folded: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=folded)
        self.norm: nn.Module = nn.Identity() if folded else nn.BatchNorm2d(width_out)

    def forward(self, x: CellMap) -> CellMap:
        return self.norm(self.conv(x))

    def folded(self) -> ConvNorm:
        """The same function in evaluation mode as a single convolution."""
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d):
            return self
        conv = self.conv
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("batch norm without running statistics cannot be folded")
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        out = ConvNorm(conv.in_channels, conv.out_channels, conv.stride[0], folded=True)
        with torch.no_grad():
            out.conv.weight.copy_(conv.weight * scale[:, None, None, None])
            assert out.conv.bias is not None
            out.conv.bias.copy_(norm.bias - norm.running_mean * scale)
        return out


class Residual(nn.Module):
    """x + two convolutions, ReLU after each sum (He et al., arXiv 1512.03385)."""

    def __init__(self, width: int, *, folded: bool = False) -> None:
        super().__init__()
        self.first = ConvNorm(width, width, folded=folded)
        self.second = ConvNorm(width, width, folded=folded)

    def forward(self, x: CellMap) -> CellMap:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class Stage(nn.Module):
    """A strided convolution, then residual blocks."""

    def __init__(self, width_in: int, width_out: int, blocks: int, *, folded: bool = False) -> None:
        super().__init__()
        self.down = ConvNorm(width_in, width_out, 2, folded=folded)
        self.blocks = nn.ModuleList(Residual(width_out, folded=folded) for _ in range(blocks))

    def forward(self, x: CellMap) -> CellMap:
        x = torch.relu(self.down(x))
        for block in self.blocks:
            x = block(x)
        return x


class Recall(nn.Module):
    """Which token a cell shows, as the mixture of the tokens' codes by probability.

    A code is the language model's embedding of the token. A cell that is recognised is handed over without noise, which a projector
    of LLaVA's size does not manage (cosine 0.60 with the embedding, whatever it is trained with; here 0.96).
    """

    def __init__(self, width: int, n_codes: int, code_size: int, papers: Sequence[int] = (), empty_code: int = 0) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, n_codes)
        self.codes = nn.Parameter(torch.zeros(n_codes, code_size), requires_grad=False)
        self.papers, self.empty_code = list(papers), empty_code

    def forward(self, features: Features, means: Float[Tensor, "batch cells 3"]) -> Features:
        """Codes [batch, cells, code_size] of trunk features and mean colours in [-1, 1]."""
        likely = self.classifier(features).softmax(-1)
        code = likely @ self.codes
        if not self.papers:
            return code
        inks = torch.tensor(list(PAPERS.values()), device=means.device, dtype=means.dtype) / 127.5 - 1
        paper = (-(means[..., None, :] - inks).square().sum(-1) / PAPER_TEMPERATURE).softmax(-1)
        return code + likely[..., self.empty_code, None] * (paper @ self.codes[self.papers] - self.codes[self.empty_code])


class SafesteerTower(PreTrainedModel):
    """Image to one feature per 16-pixel cell, in reading order."""

    config_class = SafesteerTowerConfig
    config: SafesteerTowerConfig
    base_model_prefix = "tower"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    layer_names = ("stage4", "stage8", "stage16", "recall")
    """What counts as its layers: the trunk's stages by stride, and what the cells were recognised as."""

    def __init__(self, config: SafesteerTowerConfig) -> None:
        super().__init__(config)
        a, b, c = config.widths
        folded = config.folded
        self.stem = ConvNorm(3, a, 2, folded=folded)
        self.stage4 = Stage(a, b, 1, folded=folded)
        self.stage8 = Stage(b, c, config.low_blocks, folded=folded)
        self.stage16 = Stage(c, config.trunk_size, config.high_blocks, folded=folded)
        self.recall = None
        if config.n_codes:
            self.recall = Recall(config.trunk_size, config.n_codes, config.code_size, config.papers, config.empty_code)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def maps(self, pixel_values: Pixels) -> tuple[CellMap, CellMap]:
        """Feature maps at stride 8 (where characters are legible) and stride 16 (the trunk's last layer)."""
        fine = self.stage8(self.stage4(torch.relu(self.stem(pixel_values))))
        return fine, self.stage16(fine)

    def forward(self, pixel_values: Pixels, return_dict: bool | None = None, **_: Any) -> BaseModelOutputWithPooling:
        """Features [batch, cells, hidden_size]; `hidden_states` holds them alone, since no other layer is on offer."""
        pixels = pixel_values.to(self.dtype)
        features = self.maps(pixels)[1].flatten(2).transpose(1, 2)
        means = F.avg_pool2d(pixels, self.config.patch_size).flatten(2).transpose(1, 2)
        if self.recall is not None:
            features = torch.cat([features, self.recall(features, means)], -1)
        if self.config.colours:
            features = torch.cat([features, COLOUR_SCALE * means], -1)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=features.mean(1), hidden_states=(features,))

    def folded(self) -> SafesteerTower:
        """A copy with every batch norm folded into its convolution: the form that is saved and shipped."""
        config = SafesteerTowerConfig(**{**self.config.to_dict(), "folded": True})
        out = SafesteerTower(config)
        _fold_into(self, out)
        if self.recall is not None and out.recall is not None:
            out.recall.load_state_dict(self.recall.state_dict())
        return out.eval()


def _fold_into(source: nn.Module, target: nn.Module) -> None:
    for name, child in source.named_children():
        if isinstance(child, ConvNorm):
            setattr(target, name, child.folded())
        else:
            _fold_into(child, target.get_submodule(name))


def register() -> None:
    """Teach AutoConfig and AutoModel the tower, so that a saved mini loads with plain transformers calls."""
    AutoConfig.register("safesteer_tower", SafesteerTowerConfig, exist_ok=True)
    AutoModel.register(SafesteerTowerConfig, SafesteerTower, exist_ok=True)
