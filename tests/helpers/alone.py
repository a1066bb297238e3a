"""A call in a process of its own, which may fork: one with threads would hand their locks to the fork."""

import os
import subprocess
import sys

from tests.helpers.paths import ROOT


def alone(function, *arguments):
    """Call a function of a module of tests in a new process; what it raises fails the test.

    Arguments:
        function: A function at the top of its module.
        arguments: Strings and paths.
    """
    call = f"{function.__name__}({', '.join(repr(str(a)) for a in arguments)})"
    script = f"from {function.__module__} import {function.__name__}; {call}"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=environment, timeout=200, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
