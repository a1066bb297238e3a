"""Freed memory is kept, and taken again without the system's help."""

import platform
import resource

import pytest
import torch

from anydiff.training.memory import keep_freed
from tests.helpers.alone import alone

BLOCK, PAGE = 2**24, 4096


def new_pages(times: int) -> int:
    """The pages that the system has handed out while blocks were written and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):  # some at once, as the activations of a step are
        some = [torch.ones(BLOCK, dtype=torch.uint8) for _ in range(8)]
        del some
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def kept():
    new_pages(1)
    assert new_pages(8) > 7 * 8 * BLOCK / PAGE / 512  # huge pages count for 512
    keep_freed()
    new_pages(1)
    assert new_pages(8) < 16


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries go their own way")
def test_a_block_that_was_freed_is_taken_again():
    alone(kept)


def test_settings_of_the_environment_win(monkeypatch):
    asked = []
    monkeypatch.setattr("ctypes.CDLL", asked.append)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    keep_freed()
    assert not asked


def test_another_c_library_is_left_alone(monkeypatch):
    class Library:
        def __init__(self, name):
            raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", Library)
    keep_freed()
