r"""QM9: 130,831 molecules of up to nine heavy atoms C, N, O, F, with all hydrogens.

Equilibrium geometries in ångström and 12 properties, at the level B3LYP/6-31G(2df,p). Of the 133,885
published molecules, the 3,054 whose geometry does not agree with their formula are left out, as usual.

Molecules are in the order of their numbers, so that :func:`split` gives the split of EDM (Hoogeboom et
al.). Properties and units: mu debye, alpha bohr³, homo, lumo, gap hartree, r2 bohr², zpve, U0, U, H, G
hartree, Cv cal/(mol K).

References:
    Quantum chemistry structures and properties of 134 kilo molecules (Ramakrishnan et al., 2014).
    https://doi.org/10.1038/sdata.2014.22
"""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from anydiff.checks import check_range
from anydiff.data.batches import Split
from anydiff.extras import extra
from anydiff.files import PathLike, cache_folder
from anydiff.molecules.elements import NUMBERS, LeftOut, MoleculeError
from anydiff.molecules.files import read_molecules, write_npz
from anydiff.molecules.matching import bonds_from_smiles
from anydiff.molecules.molecules import Molecules

__all__ = ["PROPERTIES", "load_qm9", "read_qm9_csv", "split"]

PROPERTIES = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
_COLUMNS = (
    "Dipole_debye", "Polarizability_bohr3", "HOMO_au", "LUMO_au", "HOMO_LUMO_gap_au", "R2_bohr2",
    "ZPVE_au", "InternalEnergy_0K_au", "InternalEnergy_298K_au", "Enthalphy_298K_au",
    "GibbsFreeEnergy_298K_au", "Heatcapacity_Cv_cal_mol_K",
)  # fmt: skip
_FULL = 130_831
_HARTREE = 27.211386246  # eV, the factor that PyG's QM9 uses


def split(num: int = _FULL, groups: Sequence[Any] | np.ndarray | None = None) -> Split:
    """EDM's split: a permutation by NumPy's legacy generator with seed 0, cut in three.

    100,000 / 17,748 / 13,083 of the 130,831 molecules; of other numbers the same shares, rounded down,
    with the rest for the test (5,000: 3,821 / 678 / 501).

    Arguments:
        num: The number of molecules.
        groups: (M,), labels instead of a number: molecules of one label, such as the conformers of one
            molecule, are in one part. The parts then have these shares of the labels.

    Raises:
        ValueError: `num` is negative, or another than that of the labels, or these do not compare.

    References:
        Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), section 5.
        https://arxiv.org/abs/2203.17003
    """
    if groups is not None:
        try:
            labels, label = np.unique(np.asarray(groups), return_inverse=True)
        except TypeError:
            raise ValueError(
                "groups have labels of several kinds; give numbers, or texts."
            ) from None
        if label.shape != np.shape(groups) or label.ndim != 1 or num not in (_FULL, len(label)):
            raise ValueError(f"groups are {np.shape(groups)}; give ({num},), a label each.")
        members = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
        parts = ([members[k] for k in part] for part in split(len(labels)))
        return Split(*(np.concatenate([np.zeros(0, int), *part]) for part in parts))
    check_range("[0, inf)", num=num)
    order = np.random.RandomState(0).permutation(num)
    train, valid = num * 100_000 // _FULL, num * 17_748 // _FULL
    return Split(*np.split(order, [train, train + valid]))


def load_qm9(
    data: PathLike = "5k",
    root: PathLike | None = None,
    *,
    skip: bool = False,
    bonds: bool = False,
    cache: PathLike | None = None,
    progress: bool = True,
) -> Molecules:
    """QM9, or the molecules of a file.

    - ``"5k"``: a random 5,000 molecules with their bonds, shipped with the package (see QM9.md).
    - ``"full"``: all 130,831, from the package `qm9pack` (``pip install "anydiff[qm9]"``), parsed once
      and cached; or from what PyG's `QM9` has prepared in `root`.
    - A path: a file or folder for :func:`~anydiff.molecules.files.read_molecules`.

    Arguments:
        data: "5k", "full", or the path of a file or folder.
        root: The root folder of PyG's `QM9` dataset, from which to read "full". Tensors and text are
            read from it, and no code is run.
        skip: Leave out molecules of text files that are faulty, with one warning.
        bonds: Give bonds as well: those of the file, or else those of its SMILES, see
            :func:`~anydiff.molecules.matching.bonds_from_smiles`. Molecules whose positions do not agree
            with their SMILES are left out, with one warning: two of "full", for which this takes a minute
            or two, once. :func:`split` of the others is another permutation than EDM's.
        cache: The folder for the parsed arrays; by default `anydiff` in `$XDG_CACHE_HOME` or in
            `~/.cache`.
        progress: Whether to show a progress bar while parsing.

    Raises:
        MoleculeError: A file is missing, cut short or faulty; the message names it. Or a folder is given
            of which nothing is read, or `skip` with QM9 itself; or `bonds` are asked for, and the
            molecules have neither bonds nor SMILES.
        ImportError: The source's package is not installed, or RDKit, which bonds are made with.
    """
    for given, only in ((root, data == "full"), (cache, data == "full" and root is None)):
        if given is not None and not only:
            raise MoleculeError(
                f"{given} is a folder for the full QM9, but the data are {data!r}; leave it out, or give "
                '"full".'
            )
    if skip and data in ("5k", "full"):
        raise MoleculeError(f"no molecule of {data} is faulty; leave out skip=True.")
    if data == "5k":
        return read_molecules(Path(__file__).with_name("qm9_5k.npz"))
    if data != "full":
        if not Path(data).suffix and not Path(data).exists():
            raise MoleculeError(
                f"{os.fspath(data)!r}: give 5k, full, or the path of a file or folder."
            )
        read = read_molecules(data, skip=skip)
        return _bonded(read, progress) if bonds else read
    if root is not None:
        return _bonded(_read_pyg(root), progress) if bonds else _read_pyg(root)

    folder, version = _qm9pack()
    kept = Path(cache or cache_folder())

    def parsed() -> Molecules:
        return _complete(read_qm9_csv(folder, progress=progress))

    if not bonds:
        return _cached(kept / f"qm9pack-{version}.npz", parsed, _complete)

    def bonded() -> Molecules:
        plain = load_qm9("full", cache=cache, progress=progress)
        return bonds_from_smiles(plain, progress=progress)[0]

    return _told(_cached(kept / f"qm9pack-{version}-bonds.npz", bonded), _FULL)


def _cached(
    path: Path,
    make: Callable[[], Molecules],
    check: Callable[[Molecules], Molecules] = lambda molecules: molecules,
) -> Molecules:
    """The molecules of a file, which is written first if it is not there, or is faulty."""
    if path.exists():
        try:
            return check(read_molecules(path))
        except MoleculeError as error:
            warnings.warn(f"{error} The cache is written again.", stacklevel=3)
    molecules = make()
    write_npz(path, molecules)
    return molecules


def _bonded(molecules: Molecules, progress: bool) -> Molecules:
    """The molecules with bonds, without those that do not agree with their SMILES."""
    if molecules.bonds is not None:
        return molecules
    return _told(bonds_from_smiles(molecules, progress=progress)[0], len(molecules))


def _told(found: Molecules, num: int) -> Molecules:
    """The molecules, with a warning if there were more."""
    if lost := num - len(found):
        words = (
            f"{found.name}: {lost} of {num} molecules are left out; their positions do not agree with "
            "their SMILES."
        )
        warnings.warn(LeftOut(words, lost), stacklevel=4)
    return found


def _complete(molecules: Molecules) -> Molecules:
    if len(molecules) != _FULL:
        raise MoleculeError(f"{molecules.name}: {len(molecules)} molecules, not {_FULL}.")
    return molecules


# qm9pack --------------------


def _qm9pack() -> tuple[Path, str]:
    """The folder of the package's tables and its version, without importing it."""
    with extra("qm9", "give the root folder of PyG's QM9 dataset as `root`"):
        distribution = metadata.distribution("qm9pack")
    return Path(str(distribution.locate_file("qm9pack/data"))), distribution.version


def read_qm9_csv(folder: PathLike, *, progress: bool = True) -> Molecules:
    """The molecules of qm9pack's tables `qm9_part*.csv`, in the order of their numbers.

    Arguments:
        folder: The folder of the tables.
        progress: Whether to show a progress bar.

    Raises:
        MoleculeError: A table is missing, cut short or faulty; the message names the line.
    """
    paths = sorted(Path(folder).glob("qm9_part*.csv"))
    if not paths:
        raise MoleculeError(f"{folder}: there are no tables qm9_part*.csv.")
    ids: list[int] = []
    smiles: list[str] = []
    sizes: list[int] = []
    z: list[int] = []
    pos: list[float] = []
    props: list[list[float]] = []
    total = sum(path.stat().st_size for path in paths)
    bar = tqdm(total=total, desc="parsing QM9", unit="B", unit_scale=True, disable=not progress)
    with bar:
        for path, line, row in _rows(paths, bar):
            try:
                elements = row["Elements"].translate(_PLAIN).split(",")
                numbers = [NUMBERS[element] for element in elements]
                xyz = row["XYZ_Ang"].translate(_PLAIN)
                positions = [float(x) for x in xyz.split(",")]
                values = [float(row[column]) for column in _COLUMNS]
                index, atoms = int(row["Index"]), int(row["N_atoms"])
                texts = "".join([xyz, row["Index"], row["N_atoms"], *(row[c] for c in _COLUMNS)])
                if "_" in texts or not texts.isascii():  # which Python takes
                    raise ValueError("a number has more than digits")
            except KeyError as error:
                raise MoleculeError(f"{path}, line {line}: {error} is not an element.") from None
            except (ValueError, AttributeError, TypeError) as error:
                raise MoleculeError(f"{path}, line {line}: {error}; the row is faulty.") from None
            if not (len(numbers) == atoms and len(positions) == 3 * atoms):
                raise MoleculeError(
                    f"{path}, line {line}: {atoms} atoms, but {len(numbers)} elements and "
                    f"{len(positions)} coordinates."
                )
            ids.append(index)
            smiles.append(row["SMILES"])
            sizes.append(atoms)
            z += numbers
            pos += positions
            props.append(values)

    molecules = Molecules(
        z=np.array(z, np.uint8),
        pos=np.array(pos, np.float64).reshape(-1, 3),
        offsets=np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]),
        smiles=smiles,
        props=np.array(props),
        prop_names=PROPERTIES,
        ids=np.array(ids),
        name=str(folder),
    )
    if (np.diff(ids) <= 0).any():
        molecules = molecules.subset(np.argsort(ids, kind="stable"))
    return molecules


_PLAIN = str.maketrans("", "", "[]'\" ")


def _rows(paths: list[Path], bar: Any) -> Iterator[tuple[Path, int, dict[str, str]]]:
    """Each row of the tables with its file and line. Numbers like 1.2*^-5 become 1.2e-5."""
    for path in paths:
        line = 0
        try:
            with open(path, encoding="utf-8", newline="") as file:
                reader = csv.reader(text.replace("*^", "e") for text in file)
                header = next(reader, [])
                needed = {"Index", "SMILES", "N_atoms", "Elements", "XYZ_Ang", *_COLUMNS}
                if not needed <= set(header):
                    raise MoleculeError(f"{path}, line 1: no column {min(needed - set(header))!r}.")
                for row in reader:
                    line = reader.line_num
                    if len(row) != len(header):
                        raise MoleculeError(
                            f"{path}, line {line}: {len(row)} columns, not {len(header)}; the file "
                            "may be cut short."
                        )
                    bar.update(sum(map(len, row)) + len(row))
                    yield path, line, dict(zip(header, row, strict=True))
        except (csv.Error, OSError, UnicodeDecodeError) as error:
            raise MoleculeError(
                f"{path}, after line {line}: not a readable table ({error})."
            ) from None


# PyG --------------------


def _read_pyg(root: PathLike) -> Molecules:
    """What PyG's `QM9` has prepared; the class itself would unpickle whatever lies in the folder."""
    with extra("molecules"):
        import torch_geometric.data  # noqa: F401  # which tells torch the classes of such files
    path = Path(root) / "processed" / "data_v3.pt"
    if not path.is_file():
        raise MoleculeError(
            f"{path}: no such file; torch_geometric.datasets.QM9({os.fspath(root)!r}) downloads and "
            "prepares it, or leave root out."
        )
    factor = np.array([1, 1, *[_HARTREE] * 3, 1, *[_HARTREE] * 5, 1])  # PyG's energies are in eV
    try:
        data, slices, *_ = torch.load(path, map_location="cpu", weights_only=True)
        data = data if isinstance(data, dict) else data.to_dict()
        return Molecules(
            z=data["z"].numpy().astype(np.uint8),
            pos=data["pos"].numpy(),
            offsets=slices["pos"].numpy(),
            smiles=list(data["smiles"]),
            props=data["y"][:, : len(PROPERTIES)].numpy().astype(np.float64) / factor,
            prop_names=PROPERTIES,
            ids=data["idx"].numpy() + 1,
            name=str(root),
        )
    except MoleculeError:
        raise
    except Exception as error:  # of whatever kind: a pickle may hold anything
        raise MoleculeError(
            f"{path} is not what PyG's QM9 writes, or is damaged "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]}); prepare it again."
        ) from error
