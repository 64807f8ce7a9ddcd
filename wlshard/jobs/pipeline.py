"""The user's function of a whole stream of samples, `wl-map --pipeline`: an iterator to an iterator."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakValueDictionary

from wlshard.errors import NotFound, UsageError, UserCodeError, WlshardError
from wlshard.jobs.each import Made, Numbered, Stream
from wlshard.jobs.transform import Recipe, Transform
from wlshard.jobs.usercode import load, user_code, values_of
from wlshard.sample import KEY, URL, Sample
from wlshard.stream.expression import compiled
from wlshard.stream.lazy import LazySample

_NAMED = re.compile(r"(.+\.py|[\w.]+):[\w.]+", re.DOTALL)


def check(pipeline: str) -> None:
    """Raise UsageError for what is no Python, NotFound for a file that is not there. Runs nothing."""
    if not _NAMED.fullmatch(pipeline):
        compiled(pipeline, "--pipeline", statements=False)
    elif (path := pipeline.rpartition(":")[0]).endswith(".py") and not os.path.isfile(path):
        raise NotFound("there is no such Python file", url=path)


def pipeline(settings: Mapping[str, Any]) -> Stream:
    """Make the function of a stream from a recipe as JSON: the work of a shard job."""
    recipe = Recipe(**settings)
    assert recipe.pipeline is not None
    transform = Transform(recipe)
    if _NAMED.fullmatch(recipe.pipeline):
        function: Any = load(recipe.pipeline)
    else:
        code = compiled(recipe.pipeline, "--pipeline", statements=False)
        with user_code("--pipeline"):
            function = eval(code, transform.names)  # noqa: S307  # it is what the option is for
    if not callable(function):
        kind = type(function).__name__
        raise UsageError(f"--pipeline is {kind}: give a function from an iterator of samples to another")
    return lambda samples: _run(function, transform, _Taken(samples, recipe.images))


class _Taken:
    """The samples that a pipeline takes, as it takes them; `last`: the one taken last, as it was read."""

    def __init__(self, samples: Iterator[Numbered], images: bool | str) -> None:
        self._samples = samples
        self._images = images
        self._handed: WeakValueDictionary[int, LazySample] = WeakValueDictionary()
        self.newest: LazySample | None = None
        self._error: WlshardError | None = None
        self._untold = 0
        self.number = -1
        self.last: Sample | None = None

    def __iter__(self) -> Iterator[LazySample]:
        try:
            for number, sample in self._samples:
                self.number, self.last = number, dict(sample)
                self._untold += 1
                self.newest = LazySample(sample, self._images, self._handed)
                yield self.newest
        except WlshardError as error:
            self._error = error
            raise

    def made(self, samples: list[Sample]) -> Made:
        """Give these samples as made of all that were taken since the last call."""
        read, self._untold = self._untold, 0
        return Made(self.number, self.last or samples[0], samples, None, read)

    def finish(self) -> Iterator[Made]:
        """Raise the error that ended the samples if the pipeline has kept it to itself."""
        if self._error is not None:
            raise self._error
        if self._untold:
            yield self.made([])


def _run(function: Callable[[Any], Any], transform: Transform, taken: _Taken) -> Iterator[Made]:
    try:
        for result, where in values_of(lambda: function(iter(taken)), "the pipeline"):
            if not isinstance(result, Mapping) or not isinstance(result.get(KEY), str):
                told = f"yielded {type(result).__name__}" + " without __key__" * isinstance(result, Mapping)
                raise UserCodeError(f"{where()} {told}: yield samples, each with its own __key__")
            # Whose values these are is known to any of the samples.
            lazy = result if isinstance(result, LazySample) else taken.newest or LazySample({})
            yield taken.made(transform.made(lazy, result, result[KEY], lazy.get(URL)))
        yield from taken.finish()
    except WlshardError as error:
        if taken.last is not None:
            error.key, error.url = error.key or taken.last[KEY], error.url or taken.last[URL]
        raise
