"""Fields of samples to files, which all stay in one folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from string import Formatter
from typing import IO

from wlshard.errors import GroupingError, UsageError
from wlshard.jobs.chosen import Seen
from wlshard.jobs.look import Numbered
from wlshard.sample import KEY, URL, fields_of
from wlshard.store.base import EXISTS, object_url
from wlshard.store.connect import connect, is_local, local_path
from wlshard.stream.fields import Fields, parse_fields
from wlshard.stream.lazy import stored_fields


@dataclass
class Dumped:
    """What a dump wrote."""

    samples: int = 0
    files: int = 0
    bytes: int = 0


class FileTree:
    """Files named by a template such as `out/{key}` or `out-{index:06d}`, and a field each.

    Nothing is written outside the folder that the template begins with, whatever a key says: not through
    `..`, an absolute name or a link. A file is whole or absent, also after a kill; it is not synced, so that
    a power failure may take it. force: replace files that are there, but none that this tree wrote.
    """

    def __init__(self, template: str, *, force: bool = False) -> None:
        self._template, self._force = template, force
        names, literal = _parse(template)
        self.numbered = bool(names)
        if not is_local(template):
            raise UsageError("files are written to folders of this machine only", url=template)
        folder, slash, _ = literal.rpartition("/")
        self._cut = len(folder + slash)
        self._store = connect(local_path(folder + slash) if slash else ".")
        self._checked: set[str] = set()  # folders known to be no links
        self._written: set[str] = set()

    def name(self, key: str, index: int, url: str | None = None) -> str:
        """Give the files of a sample their common name, from the folder on. GroupingError: it leads out."""
        name = self._template.format(key=key, index=index)[self._cut :]
        parts = name.split("/")
        if "" in parts or "." in parts or ".." in parts or "\0" in name:
            what = "the key leads out of the folder, or names no file in it: use {index} in the template"
            raise GroupingError(what, url=url, key=key)
        return name

    def write(self, name: str, field: str, data: bytes | memoryview) -> None:
        """Write one file. UsageError: it is there already, or a link leads out."""
        path = f"{name}.{field}"
        self._check_folders(path)
        if path in self._written:
            raise self._refusal(path, "two samples have this name: use {index} in the template")
        folder, slash, base = path.rpartition("/")
        with self._store.draft(f"{folder}{slash}.{base}.{os.urandom(4).hex()}") as draft:
            draft.write([data])
            if not draft.publish(path, replace=self._force):
                raise self._refusal(path, EXISTS)
        if self._force:
            self._written.add(path)

    def _check_folders(self, path: str) -> None:
        folder = path
        while (folder := folder.rpartition("/")[0]) and folder not in self._checked:
            real = self._store.path(folder)
            if real is not None and os.path.islink(real):
                raise self._refusal(folder, "a link, which may lead out of the folder: remove it")
            self._checked.add(folder)

    def _refusal(self, name: str, why: str) -> UsageError:
        return UsageError(why, url=object_url(self._store.url, name))


class Stream:
    """All fields one after the other into one file, such as stdout."""

    numbered = True

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def name(self, key: str, index: int, url: str | None = None) -> str:  # noqa: ARG002 — a tree's form
        return key

    def write(self, name: str, field: str, data: bytes | memoryview) -> None:  # noqa: ARG002
        self._file.write(data)


def _parse(template: str) -> tuple[set[str], str]:
    """Give the names that a template uses, and what stands before the first of them."""
    try:
        parts = list(Formatter().parse(template))
        names = {name for _, name, _, _ in parts if name is not None}
        template.format(key="k", index=0)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise UsageError(f"no template ({error}): write it like out-{{index:06d}} or out/{{key}}") from None
    return names, parts[0][0] if parts else ""


def dump(
    samples: Iterable[Numbered], tree: FileTree | Stream, fields: Fields = None, *, single: bool = False
) -> Dumped:
    """Write these fields (None: all), as they are stored, in order of their names; give what was written.

    A field that a sample lacks is left out. NotFound, at the end: no sample had it. UsageError: as
    `FileTree`, and for a template that names every sample alike unless there is a `single` one.
    """
    if not (tree.numbered or single):
        raise UsageError("this names all samples alike: put {key} or {index:06d} into the template")
    words = parse_fields(fields)
    for name in chain.from_iterable(words or []):
        if name.startswith("__"):
            raise UsageError(f"{name} is no field with bytes of its own: wl-extract -f {name} writes it")
    done, seen = Dumped(), Seen(words or [])
    for number, sample in samples:
        stored = stored_fields(sample)
        name = tree.name(stored[KEY], number, stored.get(URL))
        chosen = fields_of(stored) if words is None else filter(None, seen.fields(stored))
        for field in dict.fromkeys(chosen):
            tree.write(name, field, stored[field])
            done.files += 1
            done.bytes += len(stored[field])
        done.samples += 1
    seen.check(done.samples)
    return done
