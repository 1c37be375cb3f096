"""A folder on any file system that fsspec knows, with the few operations that a store needs, done safely."""

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from purify.errors import DiskFullError, PurifyError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Folder:
    """A folder by its path or URL: ``.purify``, ``s3://bucket/store``, ``memory://store``.

    On the local file system a file appears whole or not at all; elsewhere this is as good as the file system's
    own ``put``, which on object stores is atomic too.
    """

    url: str

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The file system; listings are never served from a cache."""
        return fsspec.core.url_to_fs(self.url, use_listings_cache=False)[0]

    @property
    def path(self) -> str:
        """The path of the folder on its file system."""
        return fsspec.core.url_to_fs(self.url, use_listings_cache=False)[1]

    @property
    def local(self) -> Path | None:
        """The folder as a path, if it is on the local file system."""
        return Path(self.path) if isinstance(self.fs, LocalFileSystem) else None

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.url.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url

    def names(self) -> set[str]:
        """Return the names in the folder, hidden ones left out; none if there is no folder."""
        if self.local:
            with suppress(FileNotFoundError), os.scandir(self.local) as entries:
                return {entry.name for entry in entries if not entry.name.startswith(".")}
            return set()
        with suppress(FileNotFoundError):
            found = (path.rstrip("/").rpartition("/")[2] for path in self.fs.ls(self.path, detail=False))
            return {name for name in found if not name.startswith(".")}
        return set()

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or None if there is none."""
        with suppress(FileNotFoundError, IsADirectoryError):
            return self.fs.cat_file(f"{self.path}/{name}")
        return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            DiskFullError: no space is left.
        """
        if not self.local:
            with telling_full_disks(self.url):
                self.fs.pipe_file(f"{self.path}/{name}", content)
            return
        with self._scratch(content) as scratch:
            scratch.replace(self.local / name)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one of this name; of several that try at once, one succeeds and is told so.

        Raises:
            PurifyError: the file system has no such operation.
            DiskFullError: no space is left.
        """
        if self.local:
            with self._scratch(content) as scratch:
                try:
                    os.link(scratch, self.local / name)  # unlike a rename, fails when the name is taken
                except FileExistsError:
                    return False
            return True
        try:
            if type(self.fs).pipe_file is fsspec.AbstractFileSystem.pipe_file:
                raise NotImplementedError  # the general one looks first and writes then
            self.fs.pipe_file(f"{self.path}/{name}", content, mode="create")
            return True
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError) as error:
            raise PurifyError(f"{self.url} cannot be a store: it cannot create a file exclusively") from error

    def delete(self, name: str) -> None:
        """Delete a file or a folder with all that is in it, if there is one."""
        with suppress(FileNotFoundError):
            self.fs.rm(f"{self.path}/{name}", recursive=True)

    def move(self, name: str, target: "Folder") -> str:
        """Move a file or folder into another folder, under a new name that begins with its own; return that."""
        fresh = f"{name}.{uuid.uuid4().hex[:8]}"
        target.fs.makedirs(target.path, exist_ok=True)
        with suppress(FileNotFoundError):  # another runner was faster
            self.fs.mv(f"{self.path}/{name}", f"{target.path}/{fresh}", recursive=True)
        return fresh

    @contextmanager
    def _scratch(self, content: bytes) -> Iterator[Path]:
        """A hidden file beside its future place, written through to the disk."""
        assert self.local
        with telling_full_disks(self.url):
            self.local.mkdir(parents=True, exist_ok=True)
            scratch = self.local / f".{uuid.uuid4().hex}.tmp"
            try:
                with scratch.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                yield scratch
            finally:
                scratch.unlink(missing_ok=True)


@contextmanager
def telling_full_disks(where: object) -> Iterator[None]:
    """Turn what libraries raise on a full disk into one sentence."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise DiskFullError(
                f"no space is left for {where}: what was finished is kept; free some space (see 'purify grid gc') "
                "and run the same command again"
            ) from error
        if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError | FileExistsError):
            raise PurifyError(f"cannot write to {where}: {error}") from error
        raise


def write_whole(output: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all, and make its folder.

    Args:
        output: The file.
        write: Writes to the path that it is given.

    Raises:
        PurifyError: it cannot be written there.
        DiskFullError: no space is left.
    """
    if output.is_dir() or not output.name:
        raise PurifyError(f"cannot write to {output}: it is a folder")
    partial = output.with_name(f".{output.name}.tmp")
    with telling_full_disks(output):
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write(partial)
            partial.replace(output)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def is_full(error: BaseException | None) -> bool:
    """Say whether an exception, or what caused it, is a full disk; safetensors tells it in words only."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or "os error 28" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
