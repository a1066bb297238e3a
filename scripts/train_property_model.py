"""Train a judge of generated molecules: a network that predicts a property of a molecule of QM9.

    python scripts/train_property_model.py --property alpha --minutes 12
    python scripts/train_property_model.py --property gap --data 5k --minutes 1

Where other programs keep the processor busy, OMP_NUM_THREADS=1 before it is many times faster.

It learns from the first half of the training part; whoever generates is to learn from the second. The
validation part is watched, the test part seen only at the end. What is printed then is the lower bound
that no generator can be expected to beat, the judge's own mean absolute error, and what generators are to
be compared with: molecules of the right size that were drawn without regard to the property, isomers, and
guesses (`anydiff.molecules.property_bounds`). Energies are in meV, as they are published.

The judge lands in runs/property_NAME.safetensors, which `PropertyModel.load` reads.
"""

import argparse
import math
import time

import numpy as np
import torch
from tqdm import tqdm

from anydiff.molecules import Molecules, load_qm9, loader
from anydiff.molecules.properties import Properties, halves
from anydiff.molecules.property_bounds import property_bounds
from anydiff.molecules.property_model import PropertyModel
from anydiff.molecules.qm9 import split
from anydiff.spaces import Ragged
from anydiff.training.muon import Muon

PRINTED = {  # the unit, how many are one of QM9's own, and how atoms are put together
    "alpha": ("bohr³", 1.0, "sum"),
    "gap": ("meV", 27211.386, "mean"),
    "homo": ("meV", 27211.386, "mean"),
    "lumo": ("meV", 27211.386, "mean"),
    "mu": ("D", 1.0, "mean"),
    "Cv": ("cal/(mol K)", 1.0, "sum"),
}


def arguments() -> argparse.Namespace:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = flags.add_argument
    add("--property", default="alpha", choices=PRINTED)
    add("--data", default="full", help="full (130,831 molecules) or 5k (shipped)")
    add("--root", help="folder of PyG's QM9 dataset, to take --data full from there")
    add("--minutes", type=float, default=10, help="of training")
    add("--batch-size", type=int, default=32)
    add("--lr", type=float, default=0.008, help="of Muon, falling to nothing along a cosine")
    add("--hidden", type=int, default=128)
    add("--pair", type=int, default=64)
    add("--layers", type=int, default=4)
    add("--seed", type=int, default=0)
    add("--out", help="the file to write; runs/property_NAME.safetensors by default")
    return flags.parse_args()


def error(model: PropertyModel, molecules: Molecules) -> float:
    """The mean absolute error, in the property's own unit."""
    predicted = model.predict(molecules.pos, molecules.z, molecules.index)[:, 0].numpy()
    return float(np.abs(predicted - molecules.property(model.properties.names[0])).mean())


def train(
    model: PropertyModel, molecules: Molecules, valid: Molecules, args: argparse.Namespace
) -> int:
    """Train for some minutes with the mean absolute error as the loss; returns the steps taken."""
    name, (unit, factor, _) = args.property, PRINTED[args.property]
    column = molecules.prop_names.index(name)
    batches = loader(molecules, args.batch_size, seed=args.seed)
    optimizer = Muon(model.parameters(), args.lr)
    rates = [group["lr"] for group in optimizer.param_groups]
    step, shown, next_check, validation = 0, 0.0, 0.0, math.nan

    begin, bar = time.perf_counter(), tqdm(total=round(60 * args.minutes), unit="s")
    while (done := (time.perf_counter() - begin) / (60 * args.minutes)) < 1:
        for batch in batches:
            done = (time.perf_counter() - begin) / (60 * args.minutes)
            if done >= 1:
                break
            rate = 0.5 * (1 + math.cos(math.pi * done)) * min(1, (step + 1) / 100)
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * lr

            target = model.properties.encode(batch.y[:, column, None])
            space = Ragged(batch.batch, batch.num_graphs)
            loss = (model(batch.pos, batch.z, space) - target).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1

            value = float(loss.detach()) * model.properties.mad[0] * factor
            if not math.isfinite(value):
                raise SystemExit(f"error: the loss is {value} at step {step}; give a smaller --lr.")
            shown = value if step == 1 else shown + (value - shown) / min(step, 100)
            if done >= next_check:
                validation, next_check = factor * error(model, valid), next_check + 0.1
                bar.write(
                    f"{60 * args.minutes * done:5.0f} s  step {step:6d}  learning {shown:8.4g}  "
                    f"validation {validation:8.4g} {unit}"
                )
            bar.set_postfix_str(f"step {step}, {shown:.4g} {unit}", refresh=False)
            bar.update(min(bar.total, round(time.perf_counter() - begin)) - bar.n)
    bar.close()
    return step


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    name, (unit, factor, pool) = args.property, PRINTED[args.property]
    try:
        molecules = load_qm9(args.data, args.root)
        Properties.from_molecules(molecules, name)  # or an error that names it
        molecules = molecules.subset(np.isfinite(molecules.property(name)))
        parts = split(len(molecules))
        known = molecules.subset(halves(parts.train)[0])
        valid, test = molecules.subset(parts.valid), molecules.subset(parts.test)
        properties = Properties.from_molecules(known, name)
    except (ValueError, OSError, ImportError) as problem:
        raise SystemExit(f"error: {problem}") from None

    model = PropertyModel(
        properties,
        molecules.elements,
        pool=pool,
        hidden=args.hidden,
        pair=args.pair,
        layers=args.layers,
    )
    model.fit_composition(known)
    watched = valid.subset(np.arange(min(1000, len(valid))))
    print(
        f"{len(known):,} molecules to learn {name} from; "
        f"{sum(p.numel() for p in model.parameters()):,} weights; "
        f"by composition alone {factor * error(model, watched):.4g} {unit}",
        flush=True,
    )
    steps = train(model, known, watched, args)
    model.eval()

    errors = {
        "validation": error(model, valid),
        "test": error(model, test),
        **property_bounds(test, name, known),
    }
    for part, value in errors.items():
        print(f"{part:>26}  {factor * value:9.4g} {unit}")

    path = args.out or f"runs/property_{name}.safetensors"
    about = {
        "made by": "scripts/train_property_model.py",
        "settings": {key: value for key, value in vars(args).items() if key != "out"},
        "steps": steps,
        "mean absolute error in QM9's own unit": errors,
    }
    model.save(path, about)
    print(path)


if __name__ == "__main__":
    main()
