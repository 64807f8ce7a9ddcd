"""From URLs to stores, by their schemes; what a store needs is loaded when it is asked for."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from wlshard.errors import UsageError
from wlshard.store.base import EXISTS, Buffer, Store
from wlshard.store.local import LocalStore
from wlshard.store.memory import MemoryStore
from wlshard.store.options import option

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NAMED = {**dict.fromkeys(("http", "https"), "server"), **dict.fromkeys(("gs", "gcs", "s3", "ais"), "bucket")}
_SUPPORTED = "a plain path, file://, memory://, http(s)://, gs://, s3://, ais://"


def connect(url: str) -> Store:
    """Give the store whose root is this folder or prefix. Does no I/O: what is missing is met at first use.

    A file:// URL gives the store of the plain path.
    """
    scheme = _scheme(url)
    if scheme in ("", "file"):
        path = local_path(url)
        return LocalStore(path.rstrip("/") or "/", path)
    if scheme == "pipe":
        raise UsageError("a command's output is one shard: it stands for no folder", url=url)
    if scheme in _NAMED and not url.partition("://")[2].partition("/")[0]:
        raise UsageError(f"this names no {_NAMED[scheme]}: write {scheme}://NAME/…", url=url)
    if scheme == "memory":
        return MemoryStore(url.rstrip("/"))
    if scheme in ("http", "https"):
        from wlshard.store.http import HttpStore

        return HttpStore(url.rstrip("/"))
    if scheme in ("gs", "gcs"):
        from wlshard.store.gs import GsStore

        return GsStore(url.rstrip("/"))
    if scheme == "s3":
        from wlshard.store.s3 import S3Store

        return S3Store(url.rstrip("/"))
    if scheme == "ais":
        from wlshard.store.ais import AisStore

        return AisStore(url.rstrip("/"))
    from wlshard.store.foreign import ForeignStore

    return ForeignStore(url.rstrip("/"))


def locate(url: str) -> tuple[Store, str]:
    """Give the store of an object's folder and the object's name in it. Does no I/O."""
    if is_pipe(url):
        from wlshard.store.pipe import PipeStore

        return PipeStore(), url[5:]
    path = url
    if _scheme(url) in ("http", "https"):
        path = re.split(r"[?#]", url, maxsplit=1)[0]  # a query may hold slashes of its own
    cut = path.rfind("/") + 1
    name = url[cut:]
    if not name or name in (".", "..") or (_scheme(url) and cut <= url.index("://") + 3):
        raise UsageError("this names no object: a name must follow the last /", url=url)
    if cut == 0:
        return LocalStore("", "."), name
    if _scheme(url) == "file":
        name = unquote(name)
    return connect(url[:cut]), name


def is_local(url: str) -> bool:
    """Tell files of this machine (plain paths, file://) from everything else."""
    return _scheme(url) in ("", "file")


def is_pipe(url: str) -> bool:
    """Tell a command's output. UsageError: it is one, and nobody has allowed to run it."""
    return _scheme(url) == "pipe"


def local_path(url: str) -> str:
    """Give the path of a plain path or file:// URL."""
    if _scheme(url) == "":
        return os.fspath(url)
    parts = urlsplit(url)
    if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost") or not parts.path:
        raise UsageError("no file of this machine: write file:///absolute/path or a plain path", url=url)
    return unquote(url.split("://", 1)[1].removeprefix(parts.netloc))


def _scheme(url: str) -> str:
    if url[:5].lower() == "pipe:":
        if not option("pipe", "allow_pipe"):
            advice = "this would run a command: allow it by --allow-pipe, or allow_pipe=True"
            raise UsageError(advice, url=url)
        return "pipe"
    if found := _SCHEME.match(url):
        return found[1].lower()
    if not url:
        raise UsageError(f"an empty URL: name {_SUPPORTED}")
    return ""


def write_object(url: str, data: Buffer, *, force: bool = False) -> None:
    """Write a small object whole, durable on return. UsageError: it is there already, and `force` is off."""
    store, name = locate(url)
    if force:
        store.put(name, data)
    elif not store.create(name, data):
        raise UsageError(EXISTS, url=url)
    else:
        store.sync("")
