"""A killed process takes its children with it."""

import subprocess
import sys

import psutil

from tests.integration.watched import is_alive, wait_until

PARENT = """
import subprocess, time
from services.orphans import end_children_with_us
child = subprocess.Popen(["sleep", "600"])
end_children_with_us()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_children_of_a_killed_process_end():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert is_alive(child)
        parent.kill()
    wait_until(lambda: not is_alive(child), timeout_s=10)
