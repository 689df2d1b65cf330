"""A process that gets a part of its time only."""

import contextlib
import os
import signal
import subprocess
import sys

THROTTLE = """
import os, signal, sys, time
pid, on, off = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
try:
    while True:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(off)
        os.kill(pid, signal.SIGCONT)
        time.sleep(on)
except ProcessLookupError:
    pass
"""


@contextlib.contextmanager
def throttled(process, on, off):
    """Within the block the process runs for `on` seconds and stands still for `off`, again and again."""
    throttle = subprocess.Popen([sys.executable, "-c", THROTTLE, str(process), str(on), str(off)])
    try:
        yield
    finally:
        throttle.kill()
        throttle.wait()
        os.kill(process, signal.SIGCONT)
