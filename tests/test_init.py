"""`import anydiff` stays light, and what it leaves for later is there."""

import subprocess
import sys

import pytest

import anydiff


def test_networks_are_imported_when_a_file_is_read_or_written():
    code = (
        "import sys, anydiff\n"
        "late = {'anydiff.checkpoints', 'anydiff.denoisers', 'anydiff.autoencoders'}\n"
        "assert not late & sys.modules.keys(), late & sys.modules.keys()\n"
        "assert 'load' in dir(anydiff)\n"
        "from anydiff import load, pretrained, save\n"
        "assert late <= sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", anydiff.__all__)
def test_everything_that_is_named_is_there(name):
    assert getattr(anydiff, name) is not None


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'stor'"):
        _ = anydiff.stor
