"""Make anydiff/images/digit_features.safetensors again, from the digits that anydiff ships.

    python scripts/train_digit_features.py --write anydiff/images/digit_features.safetensors

Teaches the small network of anydiff.images.digit_features to name the digit on pictures of 8 × 8
pixels, and to tell what is no digit, and why: noise, shuffled pixels, a trace of ink, two digits over
one another, one with a half wiped out or another's half. Without these it would be sure of everything,
and garbage would lie in the midst of its features; were they one class, they would lie there too. It
takes a minute or two on one thread.

The training part is learnt from, the validation part watched, and the test part seen only at the end,
for the figures that are printed. The same seed on the same machine gives the same file; elsewhere sums
are rounded in another order, so the file's hash is kept in the module, and a new file is a new
yardstick.
"""

import argparse
import time

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from anydiff.images import load_images, split
from anydiff.images.digit_features import DigitFeatures

DIGITS = len(DigitFeatures.classes)
GARBAGE = {  # what is no digit, and its label
    "uniform noise": 10,
    "noisy": 10,
    "shuffled pixels": 11,
    "averaged pairs": 12,
    "two over one another": 12,
    "halves of two": 12,
    "half wiped out": 13,
    "flat": 14,
    "faint": 14,
}


def moved(x: Tensor) -> Tensor:
    """Each turned, sheared, stretched and shifted a little, with a stronger or weaker pen and noise."""
    m = len(x)
    turn, shear, wide, high = torch.randn(4, m) * torch.tensor([0.12, 0.1, 0.08, 0.08])[:, None]
    cos, sin = turn.cos(), turn.sin()
    shift = torch.randn(2, m) * 0.12  # half a pixel
    rows = [cos * wide.exp(), sin + shear, shift[0], -sin, cos * high.exp(), shift[1]]
    grid = affine_grid(torch.stack(rows, 1).view(m, 2, 3), list(x.shape), align_corners=False)
    x = grid_sample(x, grid, align_corners=False)
    x = x.clamp_min(0) ** torch.exp(0.2 * torch.randn(m, 1, 1, 1))
    return (x + 0.08 * torch.rand(m, 1, 1, 1) * torch.randn(x.shape)).clamp(0, 1)


def garbage(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """What is no digit, of each kind as many as there are pictures x (M, 1, 8, 8) with digits y."""
    m = len(x)
    other = torch.arange(m)
    while (same := y[other] == y).any():  # another digit for each
        other[same] = torch.randint(m, (int(same.sum()),))
    mate = x[other]
    shuffled = x.flatten(1).gather(1, torch.rand(m, 64).argsort(1)).view_as(x)
    half = torch.zeros_like(x)
    half[..., :4, :] = 1
    turned = (torch.rand(m, 1, 1, 1) < 0.5).expand_as(x)
    half = torch.where(turned, half, half.transpose(2, 3))
    half = torch.where((torch.rand(m, 1, 1, 1) < 0.5).expand_as(x), half, 1 - half)
    sigma = 0.35 + 0.35 * torch.rand(m, 1, 1, 1)
    return {
        "uniform noise": torch.rand_like(x),
        "shuffled pixels": shuffled,
        "averaged pairs": (x + mate) / 2,
        "two over one another": torch.maximum(x, mate),
        "half wiped out": x * half,
        "halves of two": x * half + mate * (1 - half),
        "noisy": (x + sigma * torch.randn_like(x)).clamp(0, 1),
        "faint": (0.05 + 0.25 * torch.rand(m, 1, 1, 1)) * x,
        "flat": torch.rand(m, 1, 1, 1) * torch.rand(m, 1, 1, 1) + 0.05 * torch.rand_like(x),
    }


def with_garbage(x: Tensor, y: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Pictures, moved a little, and labels, with a share more of what is none."""
    kinds = garbage(moved(x), y)
    images, labels = [moved(x)], [y]
    for kind, part in kinds.items():
        images.append(part[torch.rand(len(x)) < share / len(kinds)])
        labels.append(torch.full((len(images[-1]),), GARBAGE[kind]))
    return torch.cat(images), torch.cat(labels)


@torch.no_grad()
def figures(net: DigitFeatures, x: Tensor, y: Tensor) -> dict[str, tuple[float, float]]:
    """Of real pictures the share named rightly, of each kind of garbage that told to be no digit; and
    the mean of the largest probability of a digit."""
    found = {}
    for kind, images in {"digits": x, **garbage(x, y)}.items():
        p = net((images * 255).round() / 255).softmax(1)
        right = p.argmax(1) == y if kind == "digits" else p.argmax(1) >= DIGITS
        found[kind] = (float(right.float().mean()), float(p[:, :DIGITS].amax(1).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", metavar="PATH", help="write the network to this .safetensors")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--garbage", type=float, default=0.5, help="for each digit")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums in the same order each time
    torch.manual_seed(args.seed)

    digits = load_images("digits")
    parts = split(digits)
    (x, y), (x_valid, y_valid), (x_test, y_test) = (
        (part.pixels.float() / 255, part.labels) for part in map(digits.subset, parts)
    )
    net = DigitFeatures(garbage=len(set(GARBAGE.values())))
    print(
        f"{len(x):,} digits to learn, {len(x_test)} unseen; "
        f"{sum(p.numel() for p in net.parameters()):,} weights",
        flush=True,
    )
    steps = args.epochs * int(len(x) * (1 + args.garbage) / 64 * 1.1)  # at most
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=0.1)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.15)
    begin = time.perf_counter()
    for epoch in range(args.epochs):
        net.train()
        images, target = with_garbage(x, y, args.garbage)
        parts, total = torch.randperm(len(images)).split(64), 0.0
        for part in parts:
            loss = cross_entropy(net(images[part]), target[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            total += loss.item()
        if (epoch + 1) % 5 == 0 or epoch + 1 == args.epochs:
            net.eval()
            right = (net(x_valid).argmax(1) == y_valid).float().mean()
            print(
                f"epoch {epoch + 1:3d}  loss {total / len(parts):.3f}  validation {right:.3f}  "
                f"{time.perf_counter() - begin:.0f} s",
                flush=True,
            )

    z = net.features((x * 255).round().to(torch.uint8))
    net.mean.copy_(z.mean(0))
    net.std.copy_(z.std(0).clamp_min(1e-3))
    print(f"{'unseen':>20}  named rightly  confidence")
    for kind, (right, confidence) in figures(net, x_test, y_test).items():
        print(f"{kind:>20}  {right:13.3f}  {confidence:10.3f}")
    if args.write:
        about = {
            "made by": "scripts/train_digit_features.py",
            "source": "Optical Recognition of Handwritten Digits by E. Alpaydin and C. Kaynak, CC BY 4.0",
            "seed": str(args.seed),
        }
        print(f"wrote {args.write}, DigitFeatures.sha256 = {net.save(args.write, about)!r}")


if __name__ == "__main__":
    main()
