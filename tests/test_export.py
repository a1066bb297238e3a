"""Denoisers as PyTorch's programs: the same numbers for any number of items, or a reason why not."""

import io

import pytest
import torch

from anydiff.denoisers import EGNN, BiRNN, Transformer, UNet
from anydiff.export import export
from anydiff.spaces import DENSE, Masked, Ragged


def conditions(items):
    generator = torch.Generator().manual_seed(items)
    label = torch.randint(-1, 3, (items,), generator=generator)
    tokens = torch.randn(items, 4, 5, generator=generator)
    tokens[0, 1] = torch.nan
    return {"label": label, "tokens": tokens}


def case(name, items):
    """A network, the same each time, and a batch: x_t, t, the space, conditions."""
    torch.manual_seed(0)
    padded = Masked.from_lengths([7 - k % 3 for k in range(items)], 7)
    how = {"classes": 3, "tokens": 5}
    network, shape, space = {
        "images": lambda: (UNet(2, (16, 32), **how), (2, 8, 6), DENSE),
        "with a variance": lambda: (UNet(2, (16,), out_channels=4, **how), (2, 8, 6), DENSE),
        "sequences": lambda: (Transformer(4, 32, 2, **how), (7, 4), padded),
    }[name]()
    for parameter in network.parameters():  # none at zero, where nothing would be seen
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    generator = torch.Generator().manual_seed(items)
    x_t = torch.randn(items, *shape, generator=generator)
    return network.eval(), x_t, torch.rand(items, generator=generator), space, conditions(items)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No complete tensor found")  # torch's, of shared storage
@pytest.mark.parametrize("name", ["images", "with a variance", "sequences"])
def test_a_program_is_its_network_for_any_number_of_items(name):
    network, x_t, t, space, cond = case(name, 3)
    file = io.BytesIO()
    torch.export.save(export(network, x_t, t, space, **cond), file)
    file.seek(0)
    program = torch.export.load(file).module()
    for items in (1, 2, 7):
        _, x_t, t, space, cond = case(name, items)
        known = {"space": space} if isinstance(space, Masked) else {}
        mask = {"mask": space.mask} if known else {}
        with torch.no_grad():
            ours, theirs = network(x_t, t, **known, **cond), program(x_t, t, **mask, **cond)
        if not isinstance(ours, tuple):
            ours, theirs = (ours,), (theirs,)
        for a, b in zip(ours, theirs, strict=True):
            assert a.std() > 0.01
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_sizes_that_are_read_from_data_are_told():
    t = torch.rand(2)
    with pytest.raises(ValueError, match=r"BiRNN cannot be exported for any number of items.*UNet"):
        export(BiRNN(3, 8, layers=1).eval(), torch.zeros(2, 5, 3), t, Masked.from_lengths([5, 2]))
    rows = Ragged.from_sizes([3, 2], centered=3)
    with pytest.raises(
        ValueError, match="the space is Ragged, whose items have sizes that are read"
    ):
        export(EGNN(1, 8, layers=1).eval(), torch.zeros(5, 4), t, rows)


def test_examples_that_do_not_fit():
    network, x_t, t, _, cond = case("images", 2)
    with pytest.raises(ValueError, match="UNet is in training mode, which its program would keep"):
        export(UNet(2, (16,)), x_t, t)
    with pytest.raises(ValueError, match="the example has one item, which a program would be made"):
        export(network, x_t[:1], t[:1])
    with pytest.raises(ValueError, match=r"t is \(1,\) of .*give a time for each item"):
        export(network, x_t, t[:1])
    with pytest.raises(ValueError, match=r"label is \(1,\) for 2 items; give a row for each"):
        export(network, x_t, t, label=cond["label"][:1])
    with pytest.raises(
        ValueError, match="a condition is called mask, which is the mask of the space"
    ):
        export(network, x_t, t, mask=torch.ones(2, 3))
    seen = Masked(torch.ones(2, 7, dtype=torch.bool), torch.ones(2, 7, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="the space has unobserved values; export takes the mask"):
        export(Transformer(4, 32, 1).eval(), torch.zeros(2, 7, 4), t, seen)
