"""Workers that share the machine run one thread each, and each test has the same random numbers."""

import os

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # pytest -n auto
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before the fixtures of a test: what it draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Again before the test, as fixtures that several tests share draw before one of them only."""
    torch.manual_seed(0)
