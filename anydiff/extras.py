"""Optional packages: when an import fails, the error names the extra that installs the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["extra"]


@contextmanager
def extra(name: str, otherwise: str = "") -> Iterator[None]:
    """A context manager around imports of optional packages.

    Arguments:
        name: The extra that installs them, as in ``pip install "anydiff[molecules]"``.
        otherwise: An alternative for the user, which the message adds after "or".

    Raises:
        ImportError: If one of the packages is not installed; the message names it and the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        also = f", or {otherwise}" if otherwise else ""
        message = f'{error.name} is not installed: pip install "anydiff[{name}]"{also}.'
        raise ImportError(message) from error
