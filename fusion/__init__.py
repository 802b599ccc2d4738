"""What fusion is: recipe, records, store, selection, verification, rewards, losses. No Ray."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("crucible-fusion")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+source"
