"""Durable files: what is written is whole, and it is on disk when the call returns. Locks that end with their owner."""

import errno
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor

from active_learning.settings.config import ConfigError


class StoreError(Exception):
    """The result folder cannot be used: one sentence that says why and the way out."""


def refusal(error: OSError) -> str:
    """Return what the system refused, and the way out where something else stands in a file's place.

    >>> refusal(IsADirectoryError(21, "Is a directory", "a.csv"))
    'a.csv is a folder, where a file belongs: move it away'
    """
    name, words = _named(error), error.strerror or " ".join(str(error).split()) or type(error).__name__
    if error.errno in _NO_SPACE:
        return f"there is no room to write {name or 'a file'} ({words})"
    return in_the_way(error) or (f"{name}: {words}" if name else words)


def in_the_way(error: OSError) -> str:
    """Return what stands in the place of a file or a folder, and the way out; nothing for any other error."""
    path = Path(_named(error))
    if isinstance(error, IsADirectoryError) and _named(error):
        return f"{path} is a folder, where a file belongs: move it away"
    if isinstance(error, NotADirectoryError):
        files = [part for part in (path, *path.parents) if part.exists() and not part.is_dir()]
        return f"{files[0]} is a file, where a folder belongs: move it away" if files else ""
    link = _broken_link(error)
    return f"{link}: move it away" if link else ""


def _named(error: OSError) -> str:
    """Return the name of the file that an error is about; nothing where it has none, or a number."""
    name = error.filename2 or error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""


def _broken_link(error: OSError) -> str:
    """Return which part of a path that cannot be used is a link that leads nowhere, or to itself."""
    path = Path(_named(error))
    if isinstance(error, FileExistsError) or error.errno == errno.ELOOP:
        for part in reversed((path, *path.parents)):
            if os.path.lexists(part) and not os.path.exists(part):  # noqa: PTH110 - pathlib's raises for a loop
                return f"{part} is a link that leads nowhere"
    return ""


def system_lock(path: Path) -> FileLock:
    """Return a lock that ends with its owner; where a file system has none, acquiring it raises an OSError.

    A file's existence in place of one, which filelock falls back to, would outlive a program that is killed.
    """
    return FileLock(path, fallback_to_soft=False)


@contextmanager
def locked(result_dir: Path, *, another: bool = True) -> Iterator[str]:
    """Hold the result folder for this process. The operating system frees the lock of a process that is killed.

    Where nothing but the lock is in the folder at the end, nothing is left: neither that nor a folder made here.

    Args:
        result_dir: the folder.
        another: whether another folder would do as well.

    Yields:
        What is written in `.lock_holder`: another machine that reads the same text there shares the folder.

    Raises:
        ConfigError: when there can be no such folder.
        StoreError: when another process holds it, saying which, or when it is there and must not be written to.
        OSError: when the disk is full.
    """
    holder_file = result_dir / ".lock_holder"
    lock = system_lock(result_dir / ".lock")
    there, made = False, []
    try:
        there = result_dir.is_dir()
        made = [path for path in (result_dir, *result_dir.parents) if not path.exists()]
        make_folder(result_dir)
        lock.acquire(timeout=0.2)  # `is_held` may have it for a moment
        holder = f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC).isoformat()}"
        write_atomically(holder_file, holder.encode())
    except Timeout:
        other = ", or name another --result_dir" if another else ""
        raise StoreError(f"{result_dir} is in use by {_holder(holder_file)}: wait for it to end{other}.") from None
    except OSError as error:
        _leave(lock, holder_file, made, held_by_none=error.errno in NO_LOCKS)
        if error.errno in _NO_SPACE:
            raise
        if error.errno in (errno.EMFILE, errno.ENFILE):
            limit = ", or raise the limit with `ulimit -n`" if error.errno == errno.EMFILE else ""
            raise StoreError(
                f"{result_dir} cannot be used ({error.strerror}): close some programs{limit}, and give the command "
                "again."
            ) from error
        if error.errno in NO_LOCKS:
            raise ConfigError(
                f"--result_dir {result_dir} is on a file system without locks ({error.strerror}): name one on another."
            ) from error
        if error.errno in _NO_RIGHT and there:
            place = error.filename if error.filename and os.path.lexists(error.filename) else result_dir
            raise StoreError(
                f"{place} is read-only ({error.strerror}): make it and all in its folder "
                "writable, and the same command goes on."
            ) from error
        if there and (obstacle := in_the_way(error)):
            raise StoreError(f"{obstacle}, and the same command goes on.") from error
        raise ConfigError(
            f"--result_dir {result_dir} cannot be written to ({_broken_link(error) or error.strerror}): name another."
        ) from error
    try:
        yield holder
    finally:
        _leave(lock, holder_file, made)


def _leave(lock: FileLock, holder_file: Path, made: Sequence[Path], *, held_by_none: bool = False) -> None:
    """Free the lock, if it is held, and leave no folder that was made for it and holds nothing."""
    with suppress(OSError):  # a folder that holds more stays
        if held_by_none and made:
            Path(lock.lock_file).unlink(missing_ok=True)
        if lock.is_locked:
            holder_file.unlink(missing_ok=True)
            if list(holder_file.parent.iterdir()) == [Path(lock.lock_file)]:
                Path(lock.lock_file).unlink()  # whoever waits for it sees that it is gone, and makes it anew
        for path in made:
            path.rmdir()
    lock.release()


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a file system without locks says, such as Lustre mounted without `-o flock`."""
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


def _holder(holder_file: Path) -> str:
    try:
        return holder_file.read_text("utf-8", "replace")
    except OSError:  # the holder is about to end, or has not written it yet
        return "another process"


def is_held(lock_path: Path) -> bool:
    """Return whether a process holds a lock file, without writing anything."""
    try:
        lock = os.open(lock_path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not lock_descriptor(lock, blocking=False)
    except OSError:  # a file system that knows no locks
        return False
    finally:
        os.close(lock)  # frees it again if it was free


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file such that a crash at any moment leaves the old content or the new one, never a part."""
    make_folder(path.parent)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            _sync(file.fileno(), _CANNOT_SYNC, path.parent)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # on a full disk the part takes the room that others need
        error.filename = error.filename or str(path)  # a write that fails does not say of which file
        raise
    _sync_folder(path.parent)  # the new name itself


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each name in its parent put on disk as well."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not path.exists():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Put a folder's names on disk, where the system can: Windows opens no folder, and some file systems sync none."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDER:
            raise
        _tell_what_is_lost(path, error)
        return
    try:
        _sync(folder, _CANNOT_SYNC_FOLDER, path)
    finally:
        os.close(folder)


def _sync(descriptor: int, cannot: Sequence[int], folder: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in cannot:
            raise
        _tell_what_is_lost(folder, error)


_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# A file has just been written there, so that a missing right is one to open or sync the folder itself.
_CANNOT_SYNC_FOLDER = (*_CANNOT_SYNC, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR)


def _tell_what_is_lost(folder: Path, error: OSError) -> None:
    """Say once, in this process and those that it starts, that a power cut can cost what was written last."""
    if os.environ.get(_TOLD):
        return
    os.environ[_TOLD] = "1"
    print(
        f"{folder}: this system does not put files on disk at once ({error.strerror}): after a power cut the last "
        "rounds may be missing, and the same command computes them again; nothing else is lost.",
        file=sys.stderr,
    )


_TOLD = "DBAL_NO_FSYNC_TOLD"


def write_if_changed(path: Path, content: bytes) -> None:
    """Replace a file unless it holds this content already."""
    try:
        unchanged = path.read_bytes() == content
    except FileNotFoundError:
        unchanged = False
    if not unchanged:
        write_atomically(path, content)
