"""Data in numbered files: written as a stream, read and batched a few files at a time."""

import gzip
import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from anydiff.data.batches import ResumableLoader
from anydiff.data.stored import Store, cut, write_store
from anydiff.data.streamed import Streamed
from anydiff.images import load_images, to_uint8
from anydiff.images import loader as image_loader
from anydiff.images import store as of_images
from anydiff.images.images import ImageError, Images
from anydiff.images.pictures import draw_grid
from anydiff.molecules import store as of_molecules
from anydiff.molecules.batches import loader as molecule_loader
from anydiff.molecules.elements import MoleculeError
from anydiff.molecules.files import read_molecules, write_sdf
from anydiff.molecules.qm9 import load_qm9
from anydiff.sketches import store as of_sketches
from anydiff.sketches.files import read_sketches, write_ndjson
from anydiff.sketches.kanji import load_kanji


class Numbers:
    """Items of a kind as small as can be: integers."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __len__(self):
        return len(self.values)


def read(path):
    return Numbers(np.loadtxt(path, int, ndmin=1))


def write(path, items):
    np.savetxt(path, items.values, "%d")


def join(parts):
    return Numbers(np.concatenate([part.values for part in parts]))


def stored(folder, num=100, size=10):
    write_store(folder, (Numbers(some) for some in cut(range(num), size)), write, ".txt")
    return Store(folder, read, join)


class Rows(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __getitem__(self, k):
        return int(self.items.values[k])


def batches_of(items, size=8):
    from anydiff.images.batches import ImageBatchSampler

    sampler = ImageBatchSampler(len(items), size)
    return ResumableLoader(Rows(items), batch_sampler=sampler, collate_fn=list)


def streamed(store, size=8, **options):
    return Streamed(store, lambda items: batches_of(items, size), size, **{"block": 3} | options)


def test_a_store_is_there_when_all_of_it_is(tmp_path):
    store = stored(tmp_path / "a", 25)
    assert store.files == ("part-00000.txt", "part-00001.txt", "part-00002.txt")
    assert store.counts.tolist() == [10, 10, 5] and len(store) == 25
    assert store.read().values.tolist() == list(range(25))
    assert store.read(2, 0).values.tolist() == [*range(20, 25), *range(10)]
    assert [len(part) for part in store] == [10, 10, 5]
    rest = store.some([0, 2])
    assert len(rest) == 15 and rest.read(1).values.tolist() == list(range(20, 25))
    with pytest.raises(ValueError, match="holds a store already"):
        stored(tmp_path / "a")

    def breaks():
        yield Numbers([1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "b", breaks(), write, ".txt")
    with pytest.raises(ValueError, match=r"holds no manifest\.json"):
        Store(tmp_path / "b", read, join)
    assert len(stored(tmp_path / "b")) == 100  # over what is left of it
    with pytest.raises(ValueError, match="no items to store"):
        write_store(tmp_path / "c", [], write, ".txt")


@pytest.mark.parametrize(
    "manifest, error",
    [
        ("{", "does not say what the files hold"),
        ("[]", "does not say what the files hold"),
        ('{"parts": [{"file": "x"}]}', "does not say what the files hold"),
        ('{"parts": [{"file": "x.txt", "items": 1}]}', "names 'x.txt', which is not there"),
        ('{"parts": [{"file": "../a.txt", "items": 1}]}', "names '../a.txt', which is not there"),
    ],
)
def test_a_faulty_manifest_is_told(manifest, error, tmp_path):
    (tmp_path / "a.txt").write_text("1")
    (tmp_path / "s").mkdir()
    (tmp_path / "s/manifest.json").write_text(manifest)
    with pytest.raises(ValueError, match=error):
        Store(tmp_path / "s", read, join)


def test_a_file_that_changed_is_told(tmp_path):
    store = stored(tmp_path, 20)
    (tmp_path / "part-00001.txt").write_text("1\n2")
    store.read(0)
    with pytest.raises(ValueError, match="holds 2 items, and the manifest says 10"):
        store.read()


def test_batches_are_of_one_block_and_every_item_is_used_once(tmp_path):
    store = stored(tmp_path, 100)
    loading, before, first = streamed(store), None, set()
    assert len(loading) == 12
    for _ in range(3):
        epoch = list(loading)
        assert len(epoch) == 12 and epoch != before
        items = [item for batch in epoch for item in batch]
        assert len(items) == len(set(items)) >= 12 * 7
        # of ten files, in blocks of three
        assert all(len({item // 10 for item in batch}) <= 3 for batch in epoch)
        assert sum(len({item // 10 for item in batch}) > 1 for batch in epoch) > 6
        before = epoch
        first.add(frozenset(item // 10 for batch in epoch[:3] for item in batch))
    assert len(first) == 3  # blocks are of other files in each epoch
    again = streamed(store)
    assert list(again) == list(streamed(store)) != list(streamed(store, seed=1))


@pytest.mark.parametrize("at", [0, 1, 5, 11, 12])
def test_a_run_goes_on_within_an_epoch(at, tmp_path):
    store = stored(tmp_path, 100)
    whole, some = streamed(store), streamed(store)
    two = [*whole, *whole]
    steps = iter(some)
    for _ in range(at):
        next(steps)
    state = json.loads(json.dumps(some.state_dict()))
    other = streamed(store, seed=7)
    other.load_state_dict(state)
    assert [*other, *other][: 24 - at] == two[at:][: 24 - at]
    if at:
        some.put_back()
        other = streamed(store)
        other.load_state_dict(some.state_dict())
        assert next(iter(other)) == two[at - 1]
    with pytest.raises(ValueError, match="12 batches an epoch, here are 25"):
        streamed(store, 4).load_state_dict(state)


def test_processes_take_turns(tmp_path, monkeypatch):
    store = stored(tmp_path, 100)
    one = list(streamed(store))
    each = []
    for rank in range(2):
        monkeypatch.setattr("anydiff.data.streamed.rank_and_size", lambda rank=rank: (rank, 2))
        each.append(list(streamed(store)))
    assert [len(batches) for batches in each] == [6, 6]
    assert [batch for pair in zip(*each, strict=True) for batch in pair] == one


def test_few_files_are_in_memory(tmp_path):
    read_now, files = [], []

    def watched(path):
        files.append(path.name)
        return read(path)

    store = stored(tmp_path, 400)
    store = Store(tmp_path, watched, join)
    for _ in streamed(store, block=2):
        read_now.append(len(files))
    assert len(set(files)) == len(files) == 40
    assert read_now[0] <= 4 and all(b - a <= 4 for a, b in pairwise(read_now))


def test_a_loader_of_other_batches_is_told(tmp_path):
    store = stored(tmp_path, 100)
    with pytest.raises(ValueError, match="a block has 8 batches and not 3 of 8 items"):
        list(Streamed(store, lambda items: batches_of(items, 4), 8, block=3))
    few = Store(tmp_path, read, join, ["part-00000.txt"])
    with pytest.raises(ValueError, match="the store has 10 items, not a batch of 11 for each of 1"):
        list(streamed(few, 11))
    with pytest.raises(ValueError, match="block is 0"):
        streamed(store, block=0)
    with pytest.raises(ValueError, match="give a store"):
        streamed([1, 2])
    with pytest.raises(ValueError, match="size is 0"):
        list(cut([1], 0))


# kinds of data --------------------


def test_molecules(tmp_path):
    known = load_qm9().subset(range(70))
    write_sdf(tmp_path / "some.sdf", known)
    with (
        (tmp_path / "some.sdf").open("rb") as plain,
        gzip.open(tmp_path / "m.sdf.gz", "wb") as file,
    ):
        file.write(plain.read())
    store = of_molecules.write(tmp_path / "m.sdf.gz", tmp_path / "store", 30)
    assert store.counts.tolist() == [30, 30, 10]
    whole, back = (
        read_molecules(tmp_path / "some.sdf"),
        of_molecules.open(tmp_path / "store").read(),
    )
    for field in ("z", "pos", "offsets", "bonds", "orders", "charges"):
        assert np.array_equal(getattr(back, field), getattr(whole, field)), field
    loading = Streamed(store, lambda m: molecule_loader(m, 8), 8, block=2)
    seen = list(loading)
    assert len(seen) == 8 and all(batch.edge_index.max() < len(batch.pos) for batch in seen)
    with pytest.raises(MoleculeError, match="arrays are read as a whole"):
        of_molecules.write(tmp_path / "store/part-00000.npz", tmp_path / "other")
    text = (tmp_path / "some.sdf").read_text().replace(" C ", " Xx ", 1)
    (tmp_path / "faulty.sdf").write_text(text)
    with pytest.raises(MoleculeError, match=r"faulty\.sdf"):
        of_molecules.write(tmp_path / "faulty.sdf", tmp_path / "other")
    with pytest.warns(UserWarning, match="left out"):
        kept = of_molecules.write(tmp_path / "faulty.sdf", tmp_path / "other", 30, skip=True)
    assert len(kept) == 69


def test_parts_that_cannot_be_read_are_left_out_on_request(tmp_path):
    known = load_qm9().subset(range(3))
    write_sdf(tmp_path / "a.sdf", known)
    parts = (tmp_path / "a.sdf").read_text().split("$$$$\n")
    parts[2] = (
        parts[2].replace(" C ", " Xx ", 1).replace(" O ", " Xx ", 1).replace(" N ", " Xx ", 1)
    )
    (tmp_path / "b.sdf").write_text("$$$$\n".join(parts))
    with pytest.warns(UserWarning, match="none of 1 molecules can be read"):
        kept = of_molecules.write(tmp_path / "b.sdf", tmp_path / "store", 2, skip=True)
    assert len(kept) == 2
    (tmp_path / "c.sdf").write_text(parts[2] + "$$$$\n")
    with (
        pytest.warns(UserWarning, match="none of 1 molecules"),
        pytest.raises(MoleculeError, match="none of 1 molecules"),
    ):
        of_molecules.write(tmp_path / "c.sdf", tmp_path / "other", 2, skip=True)


def test_numbers_are_kept_and_titles_are_not_numbered_anew_in_each_part(tmp_path):
    known = load_qm9().subset(range(4))
    write_sdf(tmp_path / "a.sdf", known)
    ids = of_molecules.write(tmp_path / "a.sdf", tmp_path / "numbers", 2).read().ids
    assert ids.tolist() == known.ids.tolist()
    mols = known.to_rdkit()
    for mol, title in zip(mols, ("aspirin", "aspirin", "caffeine", "caffeine"), strict=True):
        mol.SetProp("_Name", title)
    write_sdf(tmp_path / "b.sdf", mols)
    assert read_molecules(tmp_path / "b.sdf").ids.tolist() == [0, 0, 2, 2]
    assert of_molecules.write(tmp_path / "b.sdf", tmp_path / "titles", 2).read().ids is None


def test_sketches(tmp_path):
    known = load_kanji().subset(range(50))
    (tmp_path / "in").mkdir()
    write_ndjson(tmp_path / "in/a.ndjson", known.subset(range(30)))
    write_ndjson(tmp_path / "in/b.ndjson", known.subset(range(30, 50)))
    store = of_sketches.write(tmp_path / "in", tmp_path / "store", 12)
    assert store.counts.tolist() == [12, 12, 6, 12, 8]
    back, whole = of_sketches.open(tmp_path / "store").read(), read_sketches(tmp_path / "in")
    for field in ("points", "strokes", "offsets"):
        assert np.array_equal(getattr(back, field), getattr(whole, field)), field
    assert list(back.labels) == list(whole.labels)


def test_images(tmp_path):
    known = load_images("digits").subset(range(40))
    for m, pixels in enumerate(known.pixels):
        draw_grid(tmp_path / f"in/{m % 2}/{m:03d}.png", pixels[None])
    store = of_images.write(tmp_path / "in", tmp_path / "store", 15, channels=1)
    assert store.counts.tolist() == [15, 15, 10]
    back = store.read()
    assert back.labels.tolist() == [0] * 20 + [1] * 20
    assert len(list(Streamed(store, lambda i: image_loader(i, 8, labels=True), 8))) == 5
    whole = of_images.write((known.subset(range(k, k + 20)) for k in (0, 20)), tmp_path / "arrays")
    assert torch.equal(whole.read().pixels, known.pixels)
    assert torch.equal(whole.read().labels, known.labels)
    draw_grid(tmp_path / "in/1/zzz.png", to_uint8(torch.zeros(2, 1, 8, 8)))
    with pytest.raises(ImageError, match="of another size"):
        of_images.write(tmp_path / "in", tmp_path / "other", 40, channels=1)
    same = of_images.write(tmp_path / "in", tmp_path / "same", 40, size=8, channels=1)
    assert same.counts.tolist() == [40, 1]
    with pytest.raises(ValueError, match="of 2 sizes"):
        Images.concatenate([known, Images(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))])
