"""Which operations a piece of code calls, and which of them make the host wait."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Count(TorchDispatchMode):
    """Keeps the names of all operations that are called."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls.append(str(function))
        return function(*args, **(kwargs or {}))


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for the device."""

    waits = {  # noqa: RUF012
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.repeat_interleave.Tensor,
        torch.ops.aten.bincount.default,
    }
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in self.waits
        return function(*args, **(kwargs or {}))
