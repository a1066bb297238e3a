"""`anydiff train`: a model of molecules, sketches, images or SMILES, with everything in one folder.

What the examples do step by step, with all choices as flags. The folder gets the model, the training
curve, logs and a checkpoint to go on from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from anydiff.cli.fitting import fit_model, given, no_parts, say_size
from anydiff.cli.numbers import Numbers
from anydiff.cli.options import check_packages
from anydiff.cli.runs import Run, positive, run_folder, seed_all

__all__ = ["images", "molecules", "sketches", "smiles"]

WORDS = 64
"""The width of the rows that texts become."""


def molecules(
    data: str = "5k",
    root: str | None = None,
    *,
    skip_faulty: bool = False,
    hidden: int = 128,
    layers: int = 6,
    property: str | None = None,
    text: bool = False,
    bonds: bool = False,
    parts: bool = False,
    latent: int | None = None,
    out: Path = Path("runs/molecules"),
    **run: Any,
) -> Path:
    """Train a model of molecules.

    The shipped data are 5,000 molecules of QM9.

    Arguments:
        data: 5k (shipped), full (all 130,831 of QM9), or an .npz, .sdf or .xyz file or a folder of such
            files, of any elements.
        root: Folder of PyG's QM9 dataset, as the source of the full data.
        skip_faulty: Leave out molecules of a file that can't be read.
        hidden: Width of the network.
        layers: Depth of the network.
        property: Property to condition on, alpha for instance.
        text: Learn what molecules are like in words, seven carbons, ring of five for instance, so that
            anydiff sample --text asks for it.
        bonds: Draw the bonds of molecules too, with their orders, instead of reading them off distances.
            The data need bonds, as an .sdf file has them, or SMILES.
        parts: Learn to complete known parts too, fragments and compositions for instance, which
            `anydiff inpaint` then needs no repetitions for.
        latent: Draw latents of an autoencoder that is trained first, with this number of columns beside
            the positions, 2 for instance.
        out: Folder for all files. A number is appended if it holds a model already.
        run: See :class:`~anydiff.cli.runs.Run`.

    Returns:
        The file of the model.

    Raises:
        ValueError: If the data cannot be learned from.
    """
    from anydiff import GaussianDiffusion, Polynomial, Preconditioned
    from anydiff.autoencoders import Rowwise
    from anydiff.cli.molecules import batches
    from anydiff.data.sizes import SizeDistribution
    from anydiff.data.vocabulary import Vocabulary
    from anydiff.denoisers import Completing, PairNet, TextEncoder, Worded
    from anydiff.latent import Latent
    from anydiff.losses import LogNormal, PairDistances
    from anydiff.molecules.atoms import Atoms
    from anydiff.molecules.bonded import Bonded
    from anydiff.molecules.captions import LENGTH, Formulas, captions
    from anydiff.molecules.models import MoleculeModel, warn_without_hydrogens
    from anydiff.molecules.properties import Properties
    from anydiff.molecules.property_targets import PropertyDistribution
    from anydiff.molecules.qm9 import load_qm9, split
    from anydiff.training.muon import Muon

    check_packages("molecules", ["torch_geometric"])
    asked = Run(out=out, **run)
    positive(hidden=hidden, layers=layers, latent=latent)
    no_parts(latent, bonds=bonds, parts=parts, text=text)
    if property and text:
        raise ValueError(
            "--text knows which properties are high and low; leave --property out, or --text."
        )
    folder = run_folder(asked)
    known = load_qm9(data, root, skip=skip_faulty, bonds=bonds)
    warn_without_hydrogens(known)
    plain = Atoms(known.elements, charge_scale=None)
    shares = split(len(known))
    if not min(map(len, shares)):
        raise ValueError(f"{data} holds {len(known)} molecules; give at least 10.")
    learn = known.subset(shares.train)
    atoms = Bonded.fit(plain, learn) if bonds else plain
    atoms.check(known)
    properties = pairs = None
    if property:
        properties = Properties.from_molecules(learn, property, by_size=True)
        pairs = PropertyDistribution.from_molecules(learn, property)
    seed_all(asked.seed)
    twice = 2 if parts else 1  # beside each number stands whether it is known
    width = twice * atoms.features - 3
    network: Any = PairNet(
        width if latent is None else latent, hidden, layers=layers,
        context=WORDS if text else int(bool(property)), tokens=WORDS if text else 0,
        pairs=2 * twice if bonds else 0,
    )  # fmt: skip
    vocabulary = formulas = None
    if text:
        vocabulary = Vocabulary.of(
            phrase for of in captions(learn, atoms.elements) for phrase in of
        )
        formulas = Formulas.of(learn, atoms.elements)
        network = Worded(network, TextEncoder(len(vocabulary), WORDS, length=LENGTH))
    how: dict[str, Any] = {
        "prediction": Preconditioned(sigma_data=1.0),
        "times": LogNormal(-1.26, 1.41),
        "error": PairDistances(),
    }
    if property or text:  # which is heard at much noise, where the others have few times
        how |= {"times": None, "drop": {"words" if text else "context": 0.1}}
    diffusion: Any = GaussianDiffusion(
        Completing(network) if parts else network, Polynomial(), **how
    )
    if latent is not None:
        one, two = (
            PairNet(w - 3, hidden, layers=2) for w in Rowwise.widths(atoms.features, latent, 3)
        )
        diffusion = Latent(Rowwise(one, two, atoms.features, latent, 3), diffusion)
    sizes = SizeDistribution.from_sizes(known.sizes[shares.train])
    model = MoleculeModel(
        diffusion, atoms, sizes, properties, pairs, data, vocabulary, formulas, root
    )
    say_size(model, len(shares.train), len(shares.valid))
    return fit_model(
        asked, folder, model, batches(model, known, data, asked.batch_size, asked.seed),
        {"data": data, "hidden": hidden, "layers": layers}
        | given(
            property=property, text=text, bonds=bonds, parts=parts, latent=latent,
            skip_faulty=skip_faulty,
        ),
        {"warmup": 200, "optimizer": Muon},
        {"ema": 0.995, "val_check_interval": 500, "limit_val_batches": 20},
    )  # fmt: skip


def sketches(
    data: str = "kanji",
    *,
    skip_empty: bool = False,
    normalise: bool = False,
    rows: Literal["strokes", "points"] = "strokes",
    hidden: int = 128,
    layers: int = 3,
    cell: Literal["gru", "lstm"] = "gru",
    parts: bool = False,
    text: bool = False,
    latent: int | None = None,
    batch_size: int = 128,
    out: Path = Path("runs/sketches"),
    **run: Any,
) -> Path:
    """Train a model of sketches, drawn stroke by stroke.

    The shipped data are 3,600 Chinese characters of KanjiVG.

    Arguments:
        data: kanji (shipped), kanjivg (all of it), an .ndjson, .npz, .svg or .inkml file, or a folder.
        skip_empty: Leave out sketches without points.
        normalise: Bring each sketch to one size, for data of very different sizes.
        rows: What a row of the data holds.
        hidden: Width of the network.
        layers: Depth of the network.
        cell: The recurrent cell.
        parts: Learn to complete known parts too, the first rows or all but a stretch, which
            `anydiff inpaint` then needs no repetitions for.
        text: Learn what the characters mean in English, or of other data the names that its sketches
            have, so that anydiff sample --text asks for them.
        latent: Draw latents of an autoencoder that is trained first, with this number of columns.
        batch_size: Batch size.
        out: Folder for all files. A number is appended if it holds a model already.
        run: See :class:`~anydiff.cli.runs.Run`.

    Returns:
        The file of the model.

    Raises:
        ValueError: If the data cannot be learned from.
    """
    from torch import as_tensor

    from anydiff import Cosine, GaussianDiffusion
    from anydiff.autoencoders import Rowwise
    from anydiff.cli.sketches import batches
    from anydiff.data.sequences import LengthDistribution
    from anydiff.data.vocabulary import Vocabulary
    from anydiff.denoisers import BiRNN, Completing, TextEncoder, Worded
    from anydiff.latent import Latent
    from anydiff.sketches.models import SketchModel
    from anydiff.sketches.named import load_sketches, split
    from anydiff.sketches.rows import PointRows, StrokeRows
    from anydiff.sketches.texts import LENGTH, WordLengths, numbered, texts_of
    from anydiff.training.muon import Muon

    asked = Run(out=out, batch_size=batch_size, **run)
    if skip_empty and data in SketchModel.names:
        raise ValueError(
            f"--skip-empty is for files, and {data} has no empty sketches; leave it out."
        )
    positive(hidden=hidden, layers=layers, latent=latent)
    no_parts(latent, parts=parts, text=text)
    folder = run_folder(asked)
    known = load_sketches(data, skip_empty=skip_empty, normalise=normalise)
    shares = split(known)
    if not min(map(len, shares)):
        raise ValueError(f"{data} holds {len(known)} sketches; give at least 10.")
    seed_all(asked.seed)
    learn = known.subset(shares.train)
    made = (StrokeRows if rows == "strokes" else PointRows).fit(learn)
    sizes = made.encode(learn).sizes
    # beside each number stands whether it is known
    width = (2 if parts else 1) * made.channels
    asks: dict[str, Any] = {"tokens": WORDS, "context": WORDS} if text else {}
    network: Any = BiRNN(width if latent is None else latent, hidden, layers, cell, **asks)
    vocabulary = by_word = None
    if text:
        texts = texts_of(learn)
        vocabulary = Vocabulary.of(words for each in texts for words in each)
        numbers = numbered(texts, vocabulary)
        by_word = WordLengths.of(numbers, as_tensor(sizes), len(vocabulary))
        network = Worded(network, TextEncoder(len(vocabulary), WORDS, length=LENGTH))
    lengths = LengthDistribution.from_sizes(sizes)
    diffusion: Any = GaussianDiffusion(
        Completing(network) if parts else network, Cosine(), "v",
        drop={"words": 0.1} if text else None,
    )  # fmt: skip
    if latent is not None:
        one, two = (BiRNN(w, hidden, 1, cell) for w in Rowwise.widths(made.channels, latent))
        diffusion = Latent(Rowwise(one, two, made.channels, latent), diffusion)
    model = SketchModel(diffusion, made, lengths, data, skip_empty, normalise, vocabulary, by_word)
    say_size(model, len(shares.train), len(shares.valid))
    return fit_model(
        asked, folder, model, batches(model, known, data, asked.batch_size, asked.seed),
        {"data": data, "rows": rows, "hidden": hidden, "layers": layers, "cell": cell}
        | given(normalise=normalise, parts=parts, text=text, latent=latent),
        {"warmup": 100, "optimizer": Muon},
        {"ema": 0.995, "val_check_interval": 200},
    )  # fmt: skip


def images(
    data: str = "cifar10",
    root: str | None = None,
    *,
    size: int | None = None,
    flip: bool | None = None,
    classes: bool = False,
    widths: Numbers | None = None,
    blocks: int = 1,
    attention: Numbers | None = None,
    groups: int = 8,
    dropout: float = 0.0,
    parts: bool = False,
    latent: int | None = None,
    prediction: Literal["v", "eps", "x0"] = "v",
    schedule: Literal["cosine", "linear"] = "cosine",
    optimizer: Literal["muon", "adam"] = "muon",
    constant: bool = False,
    ema: float = 0.998,
    minutes: float = 3.0,
    batch_size: int | None = None,
    lr: float = 3e-3,
    out: Path = Path("runs/images"),
    **run: Any,
) -> Path:
    """Train a model of images.

    The shipped data are 1,797 handwritten digits of 8 × 8 pixels; CIFAR-10 is fetched if it is not there.

    Arguments:
        data: digits (shipped), cifar10, cifar100, or the path of a folder, zip or npz of pictures, or of
            files as MNIST or CIFAR have them.
        root: Folder of the files; of CIFAR by default in the user's cache.
        size: Resize the images to this number of pixels a side.
        flip: Add mirrored images; by default for all data except digits.
        classes: Condition on the labels.
        widths: Channels of each level, 32,64,128 for instance; by default set by the image size.
        blocks: Residual blocks per level.
        attention: Levels with attention, counted from 0, [] for none; by default the last.
        groups: Groups of the group norms.
        dropout: Dropout probability.
        parts: Learn to complete known parts too, halves and boxes, which `anydiff inpaint` then needs no
            repetitions for.
        latent: Draw latents of an autoencoder that is trained first, of half the side, with this number
            of channels, 4 for instance.
        prediction: Prediction target of the network.
        schedule: Noise schedule.
        optimizer: Optimizer.
        constant: Keep the learning rate constant after warm-up.
        ema: Decay of the averaged weights.
        minutes: Training time.
        batch_size: Batch size; by default 64 for small images, 32 otherwise.
        lr: Peak learning rate.
        out: Folder for all files. A number is appended if it holds a model already.
        run: See :class:`~anydiff.cli.runs.Run`.

    Returns:
        The file of the model.

    Raises:
        ValueError: If the data cannot be learned from.
    """
    from anydiff import Cosine, GaussianDiffusion, Tabulated
    from anydiff.autoencoders import Convolutional
    from anydiff.cli.images import batches, flipped
    from anydiff.denoisers import Completing, UNet
    from anydiff.images.models import ImageModel
    from anydiff.images.named import load_images, split
    from anydiff.latent import Latent
    from anydiff.training.muon import Muon

    positive(size=size, widths=widths, blocks=blocks, groups=groups, batch_size=batch_size)
    positive(latent=latent)
    no_parts(latent, parts=parts)
    known = load_images(data, root, size=size)
    small = max(known.shape[1:]) <= 16
    asked = Run(
        out=out, minutes=minutes, batch_size=batch_size or (64 if small else 32), lr=lr, **run
    )
    folder = run_folder(asked)
    shares = split(known)
    seed_all(asked.seed)
    channels = list(widths) if widths else ([32, 64] if small else [32, 64, 128])
    if classes and known.labels is None:
        raise ValueError(f"{known.name} has no labels; leave classes out.")
    labels = int(known.labels.max()) + 1 if classes and known.labels is not None else 0
    times = 2 if parts else 1  # beside each number stands whether it is known
    network: Any = UNet(
        times * known.shape[0] if latent is None else latent, channels, blocks,
        None if attention is None else list(attention), groups=groups, dropout=dropout, classes=labels,
    )  # fmt: skip
    noise = Cosine() if schedule == "cosine" else Tabulated.linear()
    # to know what images are without a label, for guidance
    drop = {"label": 0.1} if labels else None
    network = Completing(network, axis=1) if parts else network
    diffusion: Any = GaussianDiffusion(network, noise, prediction, drop=drop)
    if latent is not None:
        autoencoder = Convolutional(known.shape[0], latent, channels[:2], blocks, groups=groups)
        autoencoder.latent_shape((1, *known.shape))  # or an error that names the sides
        diffusion = Latent(autoencoder, diffusion)
    model = ImageModel(diffusion, known.shape, data, root, size)
    say_size(model, len(shares.train), len(shares.valid))
    flip = flipped(data) if flip is None else flip
    return fit_model(
        asked, folder, model, batches(model, known, data, asked.batch_size, asked.seed, flip),
        {
            "data": data, "size": size, "flip": flip, "classes": classes, "widths": channels,
            "blocks": blocks, "attention": attention, "groups": groups, "dropout": dropout,
            "prediction": prediction, "schedule": schedule, "optimizer": optimizer,
            "constant": constant, "ema": ema,
        }
        | given(parts=parts, latent=latent),
        {
            "warmup": 100, "decay": not constant,
            "optimizer": Muon if optimizer == "muon" else None,
        },
        {"ema": ema, "val_check_interval": 500},
    )  # fmt: skip


def smiles(
    data: str = "5k",
    *,
    hidden: int = 128,
    layers: int = 4,
    batch_size: int = 128,
    lr: float = 4e-3,
    out: Path = Path("runs/smiles"),
    **run: Any,
) -> Path:
    """Train a model of SMILES, molecules as text, by masked diffusion.

    The shipped data are 5,000 molecules of QM9.

    Arguments:
        data: 5k (shipped), full (all of QM9), a .smi or .txt file, the first word of each line, or a file
            of molecules.
        hidden: Width of the network, a multiple of 4.
        layers: Depth of the network.
        batch_size: Batch size.
        lr: Peak learning rate.
        out: Folder for all files. A number is appended if it holds a model already.
        run: See :class:`~anydiff.cli.runs.Run`.

    Returns:
        The file of the model.

    Raises:
        ValueError: If the data cannot be learned from.
    """
    from anydiff.cli.smiles import batches, habits
    from anydiff.data.sequences import LengthDistribution
    from anydiff.denoisers import Transformer
    from anydiff.discrete import AbsorbingKernel, CategoricalDiffusion
    from anydiff.molecules.qm9 import split
    from anydiff.molecules.string_models import SmilesModel
    from anydiff.molecules.strings import Alphabet, load_strings
    from anydiff.training.muon import Muon

    asked = Run(out=out, batch_size=batch_size, lr=lr, **run)
    positive(hidden=hidden, layers=layers)
    check_packages("molecules", ["rdkit"])
    folder = run_folder(asked)
    known = load_strings(data)
    shares = split(len(known))
    if not min(map(len, shares)):
        raise ValueError(f"{data} holds {len(known)} strings; give at least 10.")
    seed_all(asked.seed)
    alphabet = Alphabet.of(known.texts)
    kernel = AbsorbingKernel(len(alphabet.tokens))
    diffusion = CategoricalDiffusion(Transformer(kernel.states, hidden, layers), kernel)
    sizes = alphabet.sequences(known.subset(shares.train)).sizes
    model = SmilesModel(diffusion, alphabet, LengthDistribution.from_sizes(sizes), data)
    say_size(model, len(shares.train), len(shares.valid))
    return fit_model(
        asked, folder, model, batches(model, known, data, asked.batch_size, asked.seed),
        {"data": data, "hidden": hidden, "layers": layers},
        {"warmup": 100, "optimizer": Muon},
        {"ema": habits(model)["ema"], "val_check_interval": 500},
    )  # fmt: skip
