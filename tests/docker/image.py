"""The Dockerfile as instructions, and the build's context as .dockerignore leaves it."""

import json
import re
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"


@dataclass(frozen=True)
class Instruction:
    """One instruction of a stage, its lines joined."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words of an instruction in exec form."""
        return json.loads(self.text[self.text.index("[") :])


def stages() -> dict[str, list[Instruction]]:
    """The instructions of each stage, those of the stages it is made from first."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.strip():
            continue
        name, _, rest = line.partition(" ")
        if name == "FROM":
            *_, parent, _, stage = rest.split()
            current = found[stage] = [*found.get(parent, [])]
        else:
            current.append(Instruction(name, rest.strip()))
    return found


def context() -> list[PurePosixPath]:
    """The files that a build sends, by .dockerignore: the last rule that matches decides."""
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line[:1] not in ("", "#")
    ]
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in map(PurePosixPath, files.splitlines()) if _is_sent(path, rules)]


def _is_sent(path: PurePosixPath, rules: list[str]) -> bool:
    is_sent = True
    names = [str(path), *map(str, list(path.parents)[:-1])]
    for rule in rules:
        pattern = rule.removeprefix("!")
        shapes = [pattern, pattern.removeprefix("**/")]
        if any(fnmatchcase(name, shape) for name in names for shape in shapes):
            is_sent = rule.startswith("!")
    return is_sent
