"""The files of the Python interpreter that a sandbox shows: these and no others."""

import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# Extension modules that read raw memory, or start interpreters that no audit hook watches.
_RAW = re.compile(r"(_ctypes|_testcapi|_testinternalcapi|_xxsubinterpreters|_interpreters)\.")
# They need a screen, a terminal or a network, and many libraries: each is one more mount.
_IDLE = re.compile(r"_tkinter|_curses|readline|nis\.|_dbm|_gdbm|_test|_ctypes")


@dataclass(frozen=True)
class Interpreter:
    """An interpreter's executable, the paths to show read-only, and those to hide within them."""

    executable: str
    shown: tuple[str, ...]
    hidden: tuple[str, ...]
    stdlib: str


def find_interpreter() -> Interpreter:
    """The interpreter behind this one's virtual environment, as its files are on disk.

    Raises:
        OSError: its shared libraries could not be listed.
    """
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    base = {"base": sys.base_prefix, "installed_base": sys.base_prefix}
    base |= {"platbase": sys.base_exec_prefix, "installed_platbase": sys.base_exec_prefix}
    stdlib = Path(sysconfig.get_path("stdlib", vars=base))
    extensions = sorted((stdlib / "lib-dynload").glob("*.so"))
    loaded = [str(so) for so in extensions if not _IDLE.match(so.name)]
    libraries = [
        library
        for library in _shared_libraries([executable, *loaded])
        if not library.startswith(f"{stdlib}/")
    ]
    packages = [stdlib / name for name in ("site-packages", "dist-packages")]
    hidden = [*filter(Path.is_dir, packages), *(so for so in extensions if _RAW.match(so.name))]
    cache = [path for path in ("/etc/ld.so.cache",) if os.path.isfile(path)]
    return Interpreter(
        executable=executable,
        shown=(executable, str(stdlib), *libraries, *cache),
        hidden=tuple(map(str, hidden)),
        stdlib=str(stdlib),
    )


def _shared_libraries(objects: list[str]) -> list[str]:
    listing = subprocess.run(
        ["ldd", *objects], capture_output=True, text=True, check=False, env={"PATH": os.defpath}
    ).stdout
    named = re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listing, re.MULTILINE)
    if not named:
        raise OSError(f"ldd names no shared library of {objects[0]}")
    return sorted(set(named))
