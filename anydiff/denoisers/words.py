"""Text as a condition: an encoder of words, and a denoiser that is told them.

A text enters as the numbers of its words, (B, L) integers, where -1 is no word: padding, a word that the
vocabulary does not have, or, in all places, no text at all. So `drop` removes texts as it removes labels,
and guidance has its unconditional model.

Any encoder of texts will do: its rows are the condition `tokens` of a network, and need nothing of this
module.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anydiff.checks import check_choice, check_kind, check_range, check_shape, check_whole
from anydiff.denoisers.configured import configured
from anydiff.spaces import Space

__all__ = ["Encoded", "TextEncoder", "Worded"]


class Encoded(NamedTuple):
    """Texts as conditions of a network.

    Arguments:
        tokens: (B, L, width), a row for each word; NaN, which is absent, where there is none.
        pooled: (B, width), a row for the whole text; NaN where no word is known.
    """

    tokens: Tensor
    pooled: Tensor


@configured
class TextEncoder(nn.Module):
    """A transformer over the words of texts.

    Neither the length to which texts are padded nor the other texts of the batch change what it makes of
    one.

    Arguments:
        words: The size of the vocabulary.
        width: Of the rows that it makes.
        layers: Number of layers.
        heads: Attention heads, a divisor of the width.
        length: The largest number of words of a text.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self, words: int, width: int = 64, layers: int = 2, heads: int = 4, length: int = 32
    ) -> None:
        super().__init__()
        check_whole("[1, inf)", words=words, width=width, layers=layers, heads=heads, length=length)
        check_range("[1, 64]", layers=layers)
        if width % heads:
            raise ValueError(f"width is {width}; give a multiple of the {heads} heads.")
        self.words, self.width, self.length = words, width, length
        self.embed = nn.Embedding(words, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.summary = nn.Parameter(0.02 * torch.randn(width))
        each = (
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.layers = nn.ModuleList(each)
        self.norm = nn.LayerNorm(width)  # so that rows are of order one

    def forward(self, words: Tensor) -> Encoded:
        """Rows for the words and for the text.

        Arguments:
            words: (B, L) integers below the size of the vocabulary, -1 for no word.

        Raises:
            ValueError: If they are no such integers, or texts have more words than the encoder takes.
        """
        check_shape((None, None), "give the numbers of the words of each text", words=words)
        if words.is_floating_point() or words.dtype == torch.bool:
            raise ValueError(f"the words are of {words.dtype}; give integers, -1 for none.")
        if words.shape[1] > self.length:
            raise ValueError(
                f"the texts have {words.shape[1]} places for words, and the encoder was built with "
                f"length={self.length}; shorten them, or build a longer one."
            )
        there = words >= 0
        h = self.embed(words.long().clamp(min=0)) + self.place[: words.shape[1]]
        # one place is always there, so that the softmax is never one of nothing
        h = torch.cat([self.summary.expand(len(h), 1, -1), h], 1)
        ignored = nn.functional.pad(~there, (1, 0), value=False)
        for layer in self.layers:
            h = layer(h, src_key_padding_mask=ignored)
        h = self.norm(h)
        tokens = h[:, 1:].masked_fill(~there[..., None], torch.nan)
        return Encoded(tokens, h[:, 0].masked_fill(~there.any(1)[:, None], torch.nan))


@configured
class Worded(nn.Module):
    """A denoiser that is told words: one that takes tokens, with an encoder of texts before it.

        network = Worded(UNet(1, tokens=64, context=64), TextEncoder(words=len(vocabulary)))
        diffusion = GaussianDiffusion(network, drop={"words": 0.1})
        x = diffusion.sample(shape, cond={"words": vocabulary(["two sevens above a three"])})

    The encoder learns with the denoiser, as in GLIDE, unless its weights are frozen
    (``encoder.requires_grad_(False)``), as in Imagen.

    Arguments:
        net: The network. Its tokens are as wide as the encoder's rows, and so is its context, which is
            then the whole text's row, unless it takes none.
        encoder: The encoder of texts.

    Raises:
        ValueError: If they do not fit each other.

    References:
        GLIDE (Nichol et al., 2022), section 2.1. https://arxiv.org/abs/2112.10741
        Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding (Saharia et al.,
        2022), Imagen, section 2.1. https://arxiv.org/abs/2205.11487
    """

    def __init__(self, net: nn.Module, encoder: TextEncoder) -> None:
        super().__init__()
        check_kind(nn.Module, "a network that takes tokens, such as UNet(1, tokens=64)", net=net)
        check_kind(TextEncoder, "an encoder of texts", encoder=encoder)
        check_choice((encoder.width,), tokens=getattr(net, "tokens", 0))
        check_choice((0, encoder.width), context=getattr(net, "context", 0))
        self.net, self.encoder = net, encoder
        for name in ("channels", "features", "pairs", "classes", "image"):
            setattr(self, name, getattr(net, name, 0))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        space: Space | None = None,
        words: Tensor | None = None,
        **cond: Any,
    ) -> Any:
        """The prediction, shaped like x_t.

        Arguments:
            x_t: The noisy state.
            t: (B,), times in [0, 1].
            space: The batch's space.
            words: (B, L) integers, -1 for no word; None is no text.
            cond: Other conditions of the network, by name.

        Raises:
            ValueError: As the encoder and the network.
        """
        if words is not None:
            text = self.encoder(words)
            cond["tokens"] = text.tokens
            if self.net.context:
                cond["context"] = text.pooled
        return self.net(x_t, t, space=space, **cond)
