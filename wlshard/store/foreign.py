"""Objects of any other place that fsspec knows (sftp, hdfs, github, zip …), for reading."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import Any, Self

from wlshard import clock
from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, UsageError
from wlshard.store.base import Capabilities, Entry, ReadOnly, check_name, object_url, read_whole
from wlshard.store.options import foreign_options


class ForeignReader:
    """A file of fsspec's."""

    def __init__(self, file: Any, url: str, size: int | None) -> None:
        self.bytes = size
        self._file, self._url = file, url

    def readinto(self, target: bytearray | memoryview, /) -> int:
        view, filled = memoryview(target), 0
        with errors_of(self._url):
            while filled < len(view) and (count := self._file.readinto(view[filled:])):
                filled += count
        return filled

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ForeignStore(ReadOnly):
    """Objects below one URL of a scheme that fsspec knows. UsageError: it does not, or needs a package."""

    can = Capabilities(write=False, list=True, create=False, shared=True, local=False)
    advice = "this scheme is for reading: write to a folder, gs:// or s3://"

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            from fsspec import get_filesystem_class

            get_filesystem_class(url.partition("://")[0])
        except ImportError as error:  # it names the package
            raise UsageError(f"{error}: install it with pip", url=url) from error
        except (ValueError, TypeError) as error:
            known = "a plain path, file://, memory://, http(s)://, gs://, s3://, or what fsspec knows"
            raise UsageError(f"this scheme is not supported: use {known}", url=url) from error

    @cached_property
    def _place(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        with errors_of(self.url):
            files, root = url_to_fs(self.url, **foreign_options(self.url))
        return files, root.rstrip("/") + "/"

    def open(self, name: str, start: int = 0, end: int | None = None) -> ForeignReader:
        url = object_url(self.url, name)
        check_name(name, self.url)
        files, root = self._place
        with errors_of(url):
            file = files.open(root + name, "rb")
            if start:
                file.seek(start)
            return ForeignReader(file, url, getattr(file, "size", None))

    def read(self, name: str) -> bytes:
        with self.open(name) as reader:
            return read_whole(reader, reader.bytes)

    def list(self, prefix: str = "", suffix: str = "", but: Container[str] = ()) -> Iterator[Entry]:
        files, root = self._place
        with errors_of(self.url):
            found = files.find(root + prefix.rpartition("/")[0], detail=True)
        for path, about in found.items():
            name = path.removeprefix(root)
            if name.startswith(prefix) and name.endswith(suffix) and name[len(prefix) :] not in but:
                yield _entry(name, about)

    def stat(self, name: str) -> Entry:
        check_name(name, self.url)
        files, root = self._place
        with errors_of(object_url(self.url, name)):
            return _entry(name, files.info(root + name))

    def now(self) -> float:
        return clock.now()

    def path(self, name: str) -> None:
        return None


@contextmanager
def errors_of(url: str) -> Iterator[None]:
    """Raise what a file system of fsspec's refuses as an error of ours."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound("does not exist: check the name", url=url) from error
    except PermissionError as error:
        raise AccessDenied("permission denied: check your credentials", url=url) from error
    except (OSError, EOFError) as error:
        raise StoreUnavailable(f"cannot be read ({type(error).__name__}): try again", url=url) from error


def _entry(name: str, about: dict[str, Any]) -> Entry:
    when = about.get("mtime") or about.get("LastModified") or about.get("created")
    mtime = when.timestamp() if isinstance(when, datetime) else float(when or 0.0)
    return Entry(name, int(about.get("size") or 0), mtime)
