"""Words as conditions: an encoder that reads only them, and a denoiser that is told them."""

import pytest
import torch

import anydiff
from anydiff import Cosine, GaussianDiffusion, Masked
from anydiff.denoisers import TextEncoder, Transformer, UNet, Worded

WORDS = torch.tensor([[3, 1, 4, 1], [5, 9, -1, -1], [2, -1, 6, -1], [-1, -1, -1, -1]])


def encoder():
    torch.manual_seed(0)
    return TextEncoder(10, width=16, layers=2, length=8).eval()


def test_neither_padding_nor_the_batch_changes_a_text():
    network = encoder()
    whole = network(WORDS)
    padded = network(torch.nn.functional.pad(WORDS, (0, 3), value=-1))
    for k, words in enumerate(WORDS):
        alone = network(
            words[None, : max((words >= 0).nonzero().max() + 1, 1)] if k < 3 else words[None]
        )
        n = alone.tokens.shape[1]
        for other in (whole, padded):
            torch.testing.assert_close(other.pooled[k], alone.pooled[0], equal_nan=True)
            torch.testing.assert_close(other.tokens[k, :n], alone.tokens[0], equal_nan=True)
            assert other.tokens[k, n:].isnan().all()


def test_what_is_no_word_is_absent():
    rows = encoder()(WORDS)
    assert torch.equal(rows.tokens.isnan().any(2), WORDS < 0)
    assert rows.pooled.isnan().any(1).tolist() == [False, False, False, True]
    known = rows.tokens[WORDS >= 0]
    assert 0.5 < known.std() < 2  # of order one, as attention wants it


def test_the_order_of_words_matters():
    one, other = encoder()(torch.tensor([[1, 2, 3], [3, 2, 1]])).pooled
    assert (one - other).abs().max() > 0.01


def networks():
    torch.manual_seed(0)
    yield Worded(UNet(1, (16,), tokens=16, context=16), encoder()), (4, 1, 8, 8), anydiff.Dense()
    space = Masked.from_lengths([5, 3, 4, 5])
    yield Worded(Transformer(2, 16, 1, tokens=16), encoder()), (4, 5, 2), space


@pytest.mark.parametrize("which", [0, 1])
def test_a_denoiser_hears_its_words(which, tmp_path):
    network, shape, space = list(networks())[which]
    for parameter in network.net.parameters():  # none at zero, where nothing would be heard
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    diffusion = GaussianDiffusion(network, Cosine(), "v", drop={"words": 0.1})
    x0 = space.project(torch.randn(shape))
    diffusion.loss(x0, space=space, words=WORDS).mean().backward()
    for name, parameter in network.named_parameters():
        if name != "encoder.embed.weight":
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    heard = network.encoder.embed.weight.grad.abs().sum(1) > 0
    assert heard.sum() > 3

    diffusion.eval()
    t = torch.full((4,), 0.5)
    told = {"space": space, "words": WORDS}
    y = network(x0, t, **told)
    other = network(x0, t, **(told | {"words": WORDS.flip(0)}))
    assert (y - other).abs().amax(tuple(range(1, y.ndim))).min() > 1e-4
    nothing, absent = network(x0, t, space=space), network(x0, t, space=space, words=0 * WORDS - 1)
    assert torch.equal(nothing, absent) and torch.equal(y[3], absent[3])

    path = tmp_path / "model.safetensors"
    anydiff.save(path, diffusion)
    again, _ = anydiff.load(path)
    assert torch.equal(again.denoiser(x0, t, **told), y)


def test_a_frozen_encoder_stays():
    network, shape, _ = next(networks())
    network.encoder.requires_grad_(False)
    GaussianDiffusion(network, Cosine(), "v").loss(
        torch.randn(shape), words=WORDS
    ).mean().backward()
    assert all(p.grad is None for p in network.encoder.parameters())
    assert sum(p.grad is not None for p in network.net.parameters()) > 10


def test_arguments():
    network = encoder()
    with pytest.raises(ValueError, match=r"the texts have 9 places.* built with length=8; shorten"):
        network(torch.zeros(2, 9, dtype=torch.long))
    with pytest.raises(ValueError, match=r"the words are of torch\.float32; give integers"):
        network(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="tokens is 8; choose one of 16"):
        Worded(UNet(1, (16,), tokens=8), network)
    with pytest.raises(ValueError, match="context is 3; choose one of 0, 16"):
        Worded(UNet(1, (16,), tokens=16, context=3), network)
    with pytest.raises(ValueError, match="width is 10; give a multiple of the 4 heads"):
        TextEncoder(5, width=10)
