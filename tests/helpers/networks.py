"""Networks whose every weight counts."""

import torch


def awake(net: torch.nn.Module) -> torch.nn.Module:
    """All weights random: networks begin with zeros in places, which would hide what follows them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / max(1, p[0].numel()) ** 0.5)
    return net.eval()
