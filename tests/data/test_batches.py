import json

import numpy as np
import pytest

from anydiff.data.batches import LengthBatchSampler, ResumableLoader, as_made
from anydiff.molecules.batches import SizeBatchSampler


@pytest.fixture(scope="module")
def lengths():
    """Like the points of kanji: a long tail over a wide range."""
    drawn = np.random.default_rng(0).gamma(6.0, 12.0, 6000)
    return np.clip(drawn, 4, 240).astype(int)


def padding(lengths, batches):
    """The share of a padded epoch that is padding."""
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    return 1 - lengths.sum() / padded


def epoch(lengths, number, **options):
    sampler = LengthBatchSampler(lengths, 64, **options)
    sampler.set_epoch(number)
    return list(sampler)


# by length --------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("num, batch_size, window", [(6000, 64, 50), (130, 64, 2), (5, 64, 1)])
def test_every_item_comes_once_an_epoch(lengths, num, batch_size, window, shuffle):
    sampler = LengthBatchSampler(lengths[:num], batch_size, window=window, shuffle=shuffle)
    for _ in range(3):
        batches = list(sampler)
        assert sorted(i for batch in batches for i in batch) == list(range(num))
        assert len(batches) == len(sampler) == -(-num // batch_size)
        assert max(map(len, batches)) <= batch_size
        if shuffle:
            assert max(map(len, batches)) - min(map(len, batches)) <= 1
        else:
            assert [i for batch in batches for i in batch] == list(range(num))


def test_little_of_a_batch_is_padding(lengths):
    random = np.array_split(np.random.default_rng(1).permutation(len(lengths)), 94)
    assert padding(lengths, random) > 0.5
    assert padding(lengths, epoch(lengths, 0)) < 0.1
    shares = [padding(lengths, epoch(lengths, 0, window=w)) for w in (1, 5, 50)]
    assert shares[0] > 1.5 * shares[1] > 1.5**2 * shares[2]  # longer windows, less padding


def test_batches_come_in_random_order_of_length_and_never_the_same(lengths):
    batches = epoch(lengths, 0)
    means = np.array([lengths[batch].mean() for batch in batches])
    # shuffled batches have no lag-1 correlation; its standard error is 1 / sqrt(94)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 4 / np.sqrt(len(means))
    together = {frozenset(batch) for batch in batches}
    assert not together & {frozenset(batch) for batch in epoch(lengths, 1)}


def test_the_short_batches_are_of_any_length(lengths):
    few = lengths[:127]
    short = []  # where among the batches, by length, the one of fewer items is
    for number in range(30):
        batches = sorted(epoch(few, number), key=lambda batch: few[batch].mean())
        assert sorted(map(len, batches)) == [63, 64]
        short.append(len(batches[0]) == 63)
    assert 5 < sum(short) < 25  # a fair coin, to 3.6 standard deviations


def test_order_follows_seed_and_epoch_alone(lengths):
    sampler = LengthBatchSampler(lengths, 64, seed=3)
    assert list(sampler) == epoch(lengths, 0, seed=3)
    assert list(sampler) == epoch(lengths, 1, seed=3)
    assert epoch(lengths, 0, seed=3) != epoch(lengths, 0, seed=4)


# epochs --------------------

SAMPLERS = {
    "length": lambda lengths, **options: LengthBatchSampler(lengths, 64, **options),
    "size": lambda lengths, **options: SizeBatchSampler(lengths, 64, **options),
}
every_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS.keys())


@every_sampler
def test_an_epoch_goes_on_where_it_was_saved(lengths, make):
    running = make(lengths, seed=1)
    list(running)
    batches = iter(running)
    for _ in range(10):
        next(batches)
    state = json.loads(json.dumps(running.state_dict()))
    rest = list(batches) + list(running)

    resumed = make(lengths)
    resumed.load_state_dict(state)
    resumed.set_epoch(state["epoch"])  # as trainers do
    assert list(resumed) + list(resumed) == rest
    with pytest.raises(ValueError, match="94 batches an epoch, here are 16"):
        make(lengths[:1000]).load_state_dict(state)


@every_sampler
def test_a_batch_put_back_comes_again(lengths, make):
    data = ResumableLoader(np.arange(6000), batch_sampler=make(lengths), collate_fn=as_made)
    batches = iter(data)
    next(batches)
    second = next(batches)
    data.put_back()
    state = data.state_dict()
    again = ResumableLoader(
        np.arange(6000), batch_sampler=make(lengths, seed=5), collate_fn=as_made
    )
    again.load_state_dict(state)
    assert next(iter(again)) == second


@every_sampler
def test_a_state_after_the_last_batch_is_the_next_epochs_beginning(lengths, make):
    sampler = make(lengths)
    batches = iter(sampler)
    for _ in range(len(sampler)):
        next(batches)
    assert (sampler.state_dict()["epoch"], sampler.state_dict()["step"]) == (1, 0)


@every_sampler
def test_an_epoch_broken_off_is_over(lengths, make):
    sampler = make(lengths)
    next(iter(sampler))
    assert len(list(sampler)) == len(sampler) and sampler.epoch == 2


@every_sampler
def test_processes_share_the_batches_out(lengths, make, monkeypatch):
    shares = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        shares.append(list(make(lengths, seed=1)))
    assert len({len(share) for share in shares}) == 1
    used = [m for share in shares for batch in share for m in batch]
    assert len(used) == len(set(used)) > len(lengths) - 3 * 64


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: LengthBatchSampler([], 4), "one or more items"),
        (lambda: LengthBatchSampler([3, 4], 0), "batch_size is 0"),
        (lambda: LengthBatchSampler([3, 4], window=0), "window is 0"),
        (lambda: LengthBatchSampler([3, 4], 2.5), "batch_size is 2.5; give a whole number"),
        (lambda: LengthBatchSampler([3, 4], rows=2.5), "rows is 2.5; give a whole number"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# rows --------------------


def epoch_of(sampler):
    return [np.array(batch) for batch in sampler]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("rows, most", [(200, 64), (200, 3), (1, 64), (10**6, 64), (5000, 1000)])
def test_a_batch_has_at_most_so_many_rows(shuffle, rows, most):
    lengths = np.random.default_rng(0).geometric(0.05, 500)
    lengths[7] = 3000
    sampler = LengthBatchSampler(lengths, most, rows=rows, shuffle=shuffle, seed=3)
    for _ in range(2):
        batches = epoch_of(sampler)
        assert len(batches) == len(sampler)
        assert sorted(np.concatenate(batches)) == list(range(500))
        for batch in batches:
            assert len(batch) <= most
            assert len(batch) == 1 or len(batch) * lengths[batch].max() <= rows
            assert not shuffle or lengths[batch].max() <= 1.25 * lengths[batch].min()
            assert shuffle or (np.diff(batch) == 1).all()


def test_one_long_item_does_not_make_the_others_long():
    lengths = [50] * 63 + [5000]
    sampler = LengthBatchSampler(lengths, 64, rows=5000)
    batches = epoch_of(sampler)
    assert sorted(map(len, batches)) == [1, 63]
    with pytest.raises(ValueError, match="rows is 0"):
        LengthBatchSampler(lengths, rows=0)


def test_batches_by_rows_go_on_where_they_were_saved():
    lengths = np.random.default_rng(1).integers(1, 100, 300)
    running = LengthBatchSampler(lengths, 16, rows=400, seed=5)
    first = epoch_of(running)
    batches = iter(running)
    for _ in range(3):
        next(batches)
    state = running.state_dict()
    rest = [np.array(batch) for batch in batches]
    assert not all(np.array_equal(a, b) for a, b in zip(first[3:], rest, strict=True))
    resumed = LengthBatchSampler(lengths, 16, rows=400)
    resumed.load_state_dict(state)
    again = epoch_of(resumed)
    assert len(rest) == len(again) and all(map(np.array_equal, rest, again))
