"""What a user is told of an application that does not start."""

import pytest

from services.applications import cause

# As Ray Serve words it, shortened: a constructor that failed three times.
STARTED_THREE_TIMES = """\
The deployment failed to start 3 times in a row. This may be due to a problem with its constructor \
or initial health check failing. See controller logs for details. Error:
\x1b[36mray::ServeReplica:r-source-b:Source.initialize_and_get_metadata()\x1b[39m (pid=2988)
  File "/x/ray/serve/_private/replica.py", line 1928, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "/x/services/source.py", line 54, in __init__
    await self._server.start()
"""


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (
            "fusion.errors.BadInputError: The chat template of m has no generation prompt.",
            "The chat template of m has no generation prompt.",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory.",
            "torch.OutOfMemoryError: CUDA out of memory.",
        ),
        ("KeyError: 'x'\n\nDuring handling:\n\nValueError: y", "ValueError: y"),
        (
            "m.ValidationError: 1 error\n  Value error, too long\n",
            "m.ValidationError: 1 error Value error, too long",
        ),
        ("AssertionError\n", "AssertionError"),
    ],
)
def test_the_last_error_is_told_without_its_traceback(ending, told):
    assert cause(STARTED_THREE_TIMES + ending) == told


def test_what_is_no_traceback_is_told_as_it_is():
    assert cause("There is no node\nwith a GPU.") == "There is no node with a GPU."
