"""Identity is content: short, stable hashes of canonical JSON and of files.

Nothing here depends on the order of dictionary keys, on the machine or on the Python version.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ID_LENGTH = 32
KEY_LENGTH = 12
_EDGE_BYTES = 1 << 20
_WHOLE_FILE_LIMIT = 64 << 20


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no escapes of printable characters."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def content_hash(value: Any, *, length: int = ID_LENGTH) -> str:
    """Hexadecimal SHA-256 of a value's canonical JSON, cut to `length` digits."""
    text = canonical_json(value).encode("utf-8", errors="surrogatepass")
    return hashlib.sha256(text).hexdigest()[:length]


def prompt_id(messages: Iterable[Mapping[str, str]]) -> str:
    """Identity of a prompt: the exact list of its messages, role and content."""
    return content_hash([{"role": m["role"], "content": m["content"]} for m in messages])


def dedupe_key(messages: Iterable[Mapping[str, str]]) -> str:
    """Equal for prompts that differ in case, width of characters or white space alone."""
    text = "\n".join(f"{m['role']}: {m['content']}" for m in messages)
    return content_hash(" ".join(unicodedata.normalize("NFKC", text).casefold().split()))


def response_id(prompt: str, source_key: str, sample_index: int) -> str:
    """Identity of one answer: which prompt, which source in which setting, the how-many-eth."""
    return content_hash([prompt, source_key, sample_index])


def score_id(response: str, scorer_key: str, checked_against: str) -> str:
    """Identity of one judgement; `checked_against` is the hash of the gold or tests, or empty."""
    return content_hash([response, scorer_key, checked_against])


def pair_id(chosen: str, rejected: str) -> str:
    """Identity of a preference pair: which answer is chosen over which."""
    return content_hash([chosen, rejected])


def sampling_seed(response: str, draw: int = 0) -> int:
    """A seed in [0, 2**31) that belongs to the answer, so that a retry samples alike.

    Where a retry must not sample alike, `draw` counts how often another seed was wanted.
    """
    digits = response if draw == 0 else content_hash([response, draw])
    return int(digits[:8], 16) & 0x7FFFFFFF


def file_fingerprint(path: Path) -> str:
    """Hash of all that a file holds; worked out again in a process only when the file changed."""
    status = path.stat()
    return _whole_digest(str(path), status.st_size, status.st_mtime_ns)


# A run asks for the key of the same data many times, and a gigabyte takes most of a second.
@cache
def _whole_digest(path: str, size: int, mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:ID_LENGTH]


def folder_fingerprint(folder: Path) -> str:
    """Hash over names and contents of a model's files: those directly in a folder, not hidden."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return content_hash([[p.name, _shard_digest(p)] for p in files])


def _shard_digest(path: Path) -> str:
    """Hash of a file's content; of size and both edges for a file above 64 MiB.

    Model shards of many gigabytes are told apart by their header (tensor names, shapes) and tail.
    """
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_FILE_LIMIT:
            digest.update(file.read())
        else:
            digest.update(str(size).encode() + file.read(_EDGE_BYTES))
            file.seek(size - _EDGE_BYTES)
            digest.update(file.read())
    return digest.hexdigest()[:ID_LENGTH]


def model_fingerprint(model: str, revision: str | None) -> str:
    """Identity of a model: its files when it is a local folder, else hub id and revision."""
    if Path(model).is_dir():
        return folder_fingerprint(Path(model))
    return content_hash([model, revision])
