"""What samples are made of: files of a folder, a list of files, or a plan.

Each field is a line `key NUL field NUL source`, so that sorted lines are sorted samples. The source is empty
for the file `key.field`, `<` and the file's name or URL, `=` and a text, or `:` and JSON to be encoded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from io import BytesIO
from typing import IO, Any

from wlshard.errors import AccessDenied, GroupingError, NotFound, UsageError, WlshardError
from wlshard.sample import KEY, split_name
from wlshard.shards.naming import check_field, check_key
from wlshard.shards.tally import Tally
from wlshard.store.connect import connect, is_local, local_path, locate
from wlshard.store.files import errors_of

STDIN = "-"
Refuse = Callable[[WlshardError], object]


def lines_of(source: str, tally: Tally, refuse: Refuse, *, follow_links: bool = False) -> Iterator[str]:
    """Yield a line for each file of a folder, or of a list of names or URLs, `-` being stdin; in no order.

    Names split at the first dot of their last part. What is no sample's, dotfiles and such, is counted in
    `tally`; `refuse` hears of names that no shard can hold, and of links that lead out of the folder.
    """
    folder = is_folder(source)
    if not folder:
        names = (text for _, text in _texts(source))
    elif is_local(source):
        names = _walked(local_path(source), tally, refuse, follow_links)
    else:
        names = (entry.name for entry in connect(source.rstrip("/")).list())
    with closing(names):
        for name in names:
            split = split_name(_inside(name))
            if split is None:
                dotted = os.path.basename(name).startswith(".")
                tally.passed("dotfiles" if dotted else "names without a field")
                continue
            key, field = split
            try:
                check_key(key), check_field(field)
            except GroupingError as error:
                error.url, error.key = name, key
                refuse(error)
                continue
            yield f"{key}\0{field}\0{'' if f'{key}.{field}' == name else '<' + name}"


def is_folder(source: str) -> bool:
    """Tell a folder from a list of files: elsewhere than here it ends in a slash."""
    return os.path.isdir(local_path(source)) if is_local(source) else source.endswith("/")


def base_of(source: str) -> str:
    """Give what relative names in a source are relative to."""
    return source.rstrip("/") if is_folder(source) else source.rpartition("/")[0] or "."


def _inside(name: str) -> str:
    """Give the part of a name that says which file it is: of URLs the path."""
    path = name.partition("://")[2].partition("/")[2] if "://" in name else name
    return path.removeprefix("./").lstrip("/")


def _opened(source: str) -> IO[bytes]:
    if source == STDIN:
        return sys.stdin.buffer
    if is_local(source):
        with errors_of(source):
            return open(local_path(source), "rb")
    store, name = locate(source)
    return BytesIO(store.read(name))


def _texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text with their numbers, but not empty ones."""
    with _opened(source) as file:
        for number, line in enumerate(file, 1):
            if b"\0" in line:
                what = f"line {number} has a NUL byte: this is no text of a name or sample a line"
                raise UsageError(f"{what}, as find prints without -print0", url=source)
            if text := line.rstrip(b"\r\n").decode("utf-8", "surrogateescape"):
                yield number, text


def _walked(root: str, tally: Tally, refuse: Refuse, follow_links: bool) -> Generator[str, None, None]:
    """Yield the names of the files below a folder."""
    real, pending, seen = os.path.realpath(root), [""], set[tuple[int, int]]()
    while pending:
        folder = pending.pop()
        with errors_of(f"{root}/{folder}"), os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                name = folder + entry.name
                if entry.is_symlink():
                    there = os.path.realpath(entry.path)
                    if not follow_links and os.path.commonpath([there, real]) != real:
                        advice = "a link that leads out of the folder: --follow-links takes what it leads to"
                        refuse(AccessDenied(advice, url=f"{root}/{name}"))
                        continue
                if entry.is_dir(follow_symlinks=follow_links):
                    with suppress(OSError):  # gone since
                        found = entry.stat()
                        if entry.name.startswith("."):
                            tally.passed("dotfiles")
                        elif (found.st_dev, found.st_ino) not in seen:  # else links lead in a circle
                            seen.add((found.st_dev, found.st_ino))
                            pending.append(name + "/")
                elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
                    yield name
                else:
                    tally.passed("pipes, devices and links to folders")


def planned(plan: str, refuse: Refuse) -> Iterator[list[str]]:
    """Yield the lines of each sample of a plan, in its order.

    A line of the plan is a JSON object, `{"__key__": "a", "jpg": "a.jpg", "cls": 3}`, where a string names a
    file and all else is a value, `{"value": "a string"}` as well; or words between tabs, the key, then
    `jpg=a.jpg` for files and `cls:=3` for texts. UsageError: it is neither.
    """
    for number, text in _texts(plan):
        try:
            key, sources = _from_json(text) if text.startswith("{") else _from_words(text)
        except (ValueError, TypeError, KeyError) as error:
            form = '{"__key__": "a", "jpg": "a.jpg", "cls": 3}, or with tabs: a, jpg=a.jpg, cls:=3'
            what = f"line {number} of the plan is no sample ({type(error).__name__}: {error}): write {form}"
            raise UsageError(what, url=plan) from error
        try:
            check_key(key)
            fields = [f"{key}\0{check_field(field)}\0{source}" for field, source in sources]
            if not fields:
                raise GroupingError(f"line {number} of the plan has no fields: give it one")
        except GroupingError as error:
            error.url, error.key = plan, error.key or str(key)
            refuse(error)
        else:
            yield sorted(fields)


def _from_words(text: str) -> tuple[str, list[tuple[str, str]]]:
    key, *words = text.split("\t")
    fields = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip(":"):
            raise ValueError("a word without =")
        fields.append((name[:-1], "=" + value) if name.endswith(":") else (name, "<" + value))
    if not fields:
        raise ValueError("a word without =")
    return key, fields


def _from_json(text: str) -> tuple[str, list[tuple[str, str]]]:
    fields: dict[str, Any] = json.loads(text)
    key = fields.pop(KEY)
    # Without what wl-extract says of samples, __url__.
    return key, [(name, _source(one)) for name, one in fields.items() if not name.startswith("__")]


def _source(value: Any) -> str:
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("a NUL in a file's name")
        return "<" + value
    if isinstance(value, dict):
        value = value["value"]
    if value is None:
        raise ValueError("null is no value")
    return ":" + json.dumps(value)


def read_classes(path: str) -> list[str] | None:
    """Read a file of class names, a JSON list; None: there is none yet."""
    store, name = locate(path)
    try:
        names = json.loads(store.read(name))
    except NotFound:
        return None
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise UsageError("no list of class names in JSON: name another file", url=path)
    return names


def write_classes(path: str, names: list[str]) -> None:
    """Write class names, whole; the class of number n is the nth."""
    store, name = locate(path)
    store.put(name, json.dumps(names, indent=0).encode() + b"\n")
