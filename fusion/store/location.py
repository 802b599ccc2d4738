"""A place in a file system or an object store, with atomic writes on both."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs

from fusion.errors import BadInputError
from fusion.paths import expand_home, is_storable
from fusion.store.faults import patiently, write_failure

Options = tuple[tuple[str, str], ...]

# The keyword arguments of pyarrow.fs.S3FileSystem that a URI may carry.
S3_OPTIONS = frozenset({"anonymous", "endpoint_override", "region", "scheme", "tls_ca_file_path"})

READ_ATTEMPTS = 5


@dataclass(frozen=True)
class Entry:
    """One child of a folder: `name` is relative to the folder that was listed."""

    name: str
    is_folder: bool
    size: int
    modified_at: float
    """Seconds since the epoch by the storage's own clock; whole seconds on S3."""


@dataclass(frozen=True)
class Location:
    """A file or folder, local or on S3; it need not exist.

    It holds no credentials and no open connection, so it travels to workers by pickle; each
    process finds its keys in its own environment.
    """

    scheme: Literal["file", "s3"]
    path: str
    """Absolute path, or `bucket/key`, as pyarrow file systems expect it."""
    options: Options = ()

    @classmethod
    def of(cls, place: str | os.PathLike[str]) -> Location:
        """The location that a local path, a `file://` URI or an `s3://` URI names.

        An S3 endpoint comes from the URI's `endpoint_override`, else from AWS_ENDPOINT_URL.

        Raises:
            BadInputError: the URI has another scheme, an unknown option, no bucket, or keys; or
                the path a character that no path has, or a home that nobody has.
        """
        text = os.fspath(place)
        if not is_storable(text):
            raise BadInputError(
                f"{text!a} has a NUL or half a character in it; give a path without it."
            )
        if "://" not in text:
            return cls("file", os.path.abspath(expand_home(text)))
        if text.startswith("s3://"):
            return _s3_location(text)
        if text.startswith("file:///"):
            return cls("file", os.path.normpath(unquote(urlsplit(text).path)))
        raise BadInputError(
            f"{text} has an unknown scheme; give a local path, file:///path or s3://bucket/prefix."
        )

    def __truediv__(self, name: str) -> Location:
        """The child called `name` (which may hold several levels)."""
        return replace(self, path=f"{self.path.rstrip('/')}/{name.strip('/')}")

    def __str__(self) -> str:
        """The path, or the URI that `of` turns into this location again."""
        if self.scheme == "file":
            return self.path
        query = f"?{urlencode(self.options, safe=':/')}" if self.options else ""
        return f"s3://{quote(self.path)}{query}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The `pyarrow.fs.FileSystem` in which `path` lies."""
        return _filesystem(self.scheme, self.path.split("/", 1)[0], self.options)

    def exists(self) -> bool:
        """Whether a file or folder is there now."""
        return bool(self._kind() != pafs.FileType.NotFound)

    def list(self, *, recursive: bool = False) -> tuple[Entry, ...]:
        """What a folder holds, by name; a missing folder holds nothing.

        Dot names, among them the temporary files of writes in progress, are left out.
        """
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        start = len(self.path.rstrip("/")) + 1
        try:
            found = patiently(lambda: self.filesystem.get_file_info(selector), self)
        except FileNotFoundError:
            return ()  # it came or went while pyarrow looked
        kinds = (pafs.FileType.File, pafs.FileType.Directory)
        entries = [_entry(info, start) for info in found if info.type in kinds]
        visible = [entry for entry in entries if not _is_hidden(entry.name)]
        return tuple(sorted(visible, key=lambda entry: entry.name))

    def read_bytes(self) -> bytes:
        """The whole file as it was at one moment. Raises FileNotFoundError where there is none."""
        if self.scheme == "file":
            return Path(self.path).read_bytes()
        return patiently(lambda: _read_object(self.filesystem, self.path), self)

    def read_text(self) -> str:
        """The whole file as UTF-8. Raises FileNotFoundError where there is none."""
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes | pa.Buffer) -> None:
        """Write the file whole or not at all, over an older one; `data` is any buffer.

        Missing folders are made. Locally the file and its name are on disk (fsync) on return.

        Raises:
            StorageError: the disk is full or fails, or the object store is away for too long.
        """
        if self.scheme == "s3":
            patiently(lambda: self._put(data), self)
            return
        try:
            _replace_file(Path(self.path), data)
        except OSError as error:
            raise write_failure(self, error) from error

    def write_text(self, text: str) -> None:
        """Write the file as UTF-8, whole or not at all."""
        self.write_bytes(text.encode())

    def delete(self) -> None:
        """Delete the file, or the folder and all it holds; nothing happens where none is."""
        patiently(self._delete, self)

    def delete_abandoned(self, *, older_than_s: float = 3600.0) -> None:
        """Delete temporary files that killed writers left in this very folder."""
        if self.scheme != "file":
            return  # an object store has no temporary files
        oldest = time.time() - older_than_s
        for path in Path(self.path).glob(".*.tmp"):
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:
                continue

    def check_writable(self) -> None:
        """Write and delete a small file in this folder, making it where it is missing.

        Raises:
            BadInputError: it cannot be written.
        """
        probe = self / f".probe-{uuid4().hex}"
        try:
            # With no patience: what is away before the start is given wrongly more often than not.
            if self.scheme == "s3":
                probe._put(b"")
            else:
                _replace_file(Path(probe.path), b"")
            probe._delete()
        except OSError as error:
            raise BadInputError(
                f"{self} cannot be written ({error}); expected a folder or bucket that this "
                "user may write to: correct the path, its permissions or the S3 endpoint and keys."
            ) from error

    def _kind(self) -> pafs.FileType:
        try:
            return patiently(lambda: self.filesystem.get_file_info(self.path).type, self)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return pafs.FileType.NotFound  # nothing can have such a name
            raise

    def _put(self, data: bytes | pa.Buffer) -> None:
        with self.filesystem.open_output_stream(self.path) as stream:
            stream.write(data)

    def _delete(self) -> None:
        kind = self.filesystem.get_file_info(self.path).type
        try:
            if kind == pafs.FileType.Directory:
                self.filesystem.delete_dir(self.path)
            elif kind != pafs.FileType.NotFound:
                self.filesystem.delete_file(self.path)
        except FileNotFoundError:
            return  # another process deleted it first


def _s3_location(uri: str) -> Location:
    parts = urlsplit(uri)
    bucket, key = parts.netloc, unquote(parts.path).strip("/")
    options = dict(parse_qsl(parts.query))
    if "@" in bucket:
        raise BadInputError(
            "an s3:// URI with keys in it was given; expected s3://bucket/prefix: put the keys "
            "into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, since URIs are logged."
        )
    if not bucket or options.keys() - S3_OPTIONS:
        raise BadInputError(
            f"{uri} is not a usable S3 URI; expected s3://bucket/prefix with no other options than "
            f"{', '.join(sorted(S3_OPTIONS))}."
        )
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        options.setdefault("endpoint_override", endpoint)
    return Location("s3", f"{bucket}/{key}".rstrip("/"), tuple(sorted(options.items())))


@lru_cache(maxsize=64)
def _filesystem(scheme: str, bucket: str, options: Options) -> pafs.FileSystem:
    if scheme == "file":
        return pafs.LocalFileSystem()
    arguments: dict[str, Any] = dict(options)
    if "anonymous" in arguments:
        arguments["anonymous"] = arguments["anonymous"].lower() in ("1", "true")
    if not arguments.keys() & {"region", "endpoint_override"}:
        arguments["region"] = _region(bucket)
    # A delayed open turns a small file into one PUT instead of a multipart upload.
    return pafs.S3FileSystem(allow_delayed_open=True, **arguments)


def _region(bucket: str) -> str | None:
    try:
        region: str = pafs.resolve_s3_region(bucket)
    except OSError:
        return None  # no such bucket, or no network: the first use says so
    return region


def _read_object(filesystem: pafs.FileSystem, path: str) -> bytes:
    """One object, whole.

    pyarrow asks for the size first and then for that many bytes; an object replaced or deleted in
    between comes back cut short, with stale memory behind it, or as an error that does not tell
    what happened. So what was read counts only if the object has the same ETag before and after.
    """
    for attempts_left in reversed(range(READ_ATTEMPTS)):
        try:
            with filesystem.open_input_file(path) as stream:
                data: bytes = stream.read()
                tag = stream.metadata()["ETag"]
            with filesystem.open_input_file(path) as stream:
                if stream.metadata()["ETag"] == tag:
                    break
        except FileNotFoundError:
            raise
        except OSError:
            if not attempts_left:
                raise
    else:
        raise OSError(f"s3://{path} changed during each of {READ_ATTEMPTS} attempts to read it")
    return data


def _entry(info: pafs.FileInfo, start: int) -> Entry:
    is_folder = info.type == pafs.FileType.Directory
    seconds = (info.mtime_ns or 0) / 1e9
    return Entry(info.path[start:].rstrip("/"), is_folder, info.size or 0, seconds)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _replace_file(path: Path, data: bytes | pa.Buffer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put a rename on disk: without it a power cut may bring the old name back."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
