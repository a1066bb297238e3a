"""Workers that share the machine (``pytest -n auto``) run one thread each."""

import os

import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
