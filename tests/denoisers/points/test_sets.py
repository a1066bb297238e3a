"""What is made of a space is made once, and goes with it."""

import gc
import weakref

from anydiff import Ragged
from anydiff.denoisers.points.edges import graph_of
from anydiff.denoisers.points.pairnet import pairs_of
from anydiff.denoisers.points.sets import once_per_space, slots_of


def test_once_for_each_space_and_no_longer_than_it():
    calls = []

    @once_per_space
    def made(space):
        calls.append(space.num_items)
        return {1, 2}

    one, other = Ragged.from_sizes([2, 3]), Ragged.from_sizes([2, 3])
    assert made(one) is made(one) is not made(other) and calls == [2, 2]
    gone = weakref.ref(made(one))
    calls.clear()
    del one
    gc.collect()
    assert gone() is None


def test_what_the_networks_make_does_not_keep_the_space():
    space = Ragged.from_sizes([3, 2])
    for make in (graph_of, pairs_of, slots_of):
        assert make(space) is make(space)
    gone = weakref.ref(space)
    del space
    gc.collect()
    assert gone() is None
