"""Fields and keys of samples as they are to be written."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from typing import TypeAlias

from wlshard.errors import GroupingError, NotFound, UsageError, counted
from wlshard.sample import KEY, URL, Sample, choose
from wlshard.shards.naming import check_field
from wlshard.stream.fields import Fields, parse_fields
from wlshard.tar.index import index_name

Words: TypeAlias = Sequence[Sequence[str]]  # each the first of these names that a sample has
Renamed: TypeAlias = tuple[str, Sequence[str]]


class Seen:
    """Looks words up in one sample after the other, and knows which of them no sample had."""

    def __init__(self, words: Words) -> None:
        self._words, self._unseen = words, {";".join(word) for word in words}

    def fields(self, sample: Container[str]) -> list[str | None]:
        """Give the field that each word means in this sample; None: it has none."""
        found = [next((name for name in word if name in sample), None) for word in self._words]
        if self._unseen:
            self._unseen -= {";".join(word) for word, name in zip(self._words, found, strict=True) if name}
        return found

    def check(self, samples: int) -> None:
        """Raise NotFound for a word that none of so many samples had."""
        if samples and self._unseen:
            raise NotFound(f"none of {counted(samples, 'sample')} had the field {min(self._unseen)!r}")


class Chosen:
    """A sample's fields as they are to be written: some kept (None: all), some dropped, some renamed.

    fields, drop: names as they are read; rename: new names, each with the old ones it may stand for, of which
    the first that is there is meant. NotFound: a sample lacks a field to keep.
    """

    def __init__(self, fields: Fields, drop: Sequence[str], rename: Sequence[Renamed]) -> None:
        self._keep, self._drop, self._rename = parse_fields(fields), set(drop), rename
        self._seen = Seen([*(old for _, old in rename), *([name] for name in drop)])
        for new, _ in rename:
            check_field(new)

    def __call__(self, sample: Sample) -> Sample:
        self._seen.fields(sample)
        if self._keep is not None:
            kept = [choose(sample, names) for names in self._keep]
            sample = {name: sample[name] for name in (KEY, URL, *kept)}
        sample = {name: value for name, value in sample.items() if name not in self._drop}
        for new, old in self._rename:
            found = next((name for name in old if name in sample), None)
            if found is not None:
                value = sample.pop(found)
                if new in sample:
                    what = f"the field {found} cannot be renamed: there is {new} already, --drop it"
                    raise GroupingError(what, url=sample[URL], key=sample[KEY])
                sample[new] = value
        return sample

    def check(self, samples: int) -> None:
        """Raise NotFound for a field to drop or rename that no sample had."""
        self._seen.check(samples)


def key_of(template: str, sample: Sample, index: int) -> str:
    """Make a key of {index}, the place in the output, {key}, {basename} of the key, and {shard} it is from.

    UsageError: no such template.
    """
    key, shard = sample[KEY], index_name(os.path.basename(sample[URL]))[:-4]
    try:
        return template.format(index=index, key=key, basename=os.path.basename(key), shard=shard)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        advice = "write it like '{shard}/{key}' or '{index:09d}'; there is {basename} (of the key), too"
        raise UsageError(f"--rekey {template!r} is no template ({error!r}): {advice}") from None
