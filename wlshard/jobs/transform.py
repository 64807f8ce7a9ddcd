"""The user's code for samples, `wl-map -c` and `-l`: from one sample to none, one or more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import CodeType
from typing import Any, cast

from wlshard.errors import NotFound, UsageError, UserCodeError, WlshardError
from wlshard.jobs.each import OnError, ShardJob
from wlshard.jobs.usercode import load_file, raise_told, user_code
from wlshard.sample import KEY, URL, Sample
from wlshard.stream.expression import compiled, names_for
from wlshard.stream.lazy import LazySample, result_as_stored


@dataclass(frozen=True)
class Recipe:
    """What is done to each sample. All of it goes through JSON.

    code: run with the sample as `_`; what `_` is afterwards is the result. file: a module whose
    transform(sample) gives the result; with both, the file's comes first. precode: run once, before; its
    names are the code's. pipeline: MODULE:FUNCTION, or Python that gives a function, from an iterator of
    samples to another, which goes through file and code. images: how image fields decode, as
    `codecs.decoder` takes it.
    """

    code: str | None = None
    file: str | None = None
    precode: Sequence[str] = ()
    pipeline: str | None = None
    images: bool | str = True


def job_of(recipe: Recipe, on_error: OnError = "raise") -> ShardJob:
    """Give the job that applies a recipe to samples, all but inputs and output. Runs no code of the user's.

    UsageError: no code, or some that does not compile; NotFound: a file that is not there.
    """
    if recipe.code is None and recipe.file is None and recipe.pipeline is None:
        raise UsageError("no code: give -c CODE, -l FILE or --pipeline FUNCTION")
    if recipe.file is not None and not os.path.isfile(recipe.file):
        raise NotFound("there is no such Python file", url=recipe.file)
    if recipe.images not in (True, False, "stored"):
        from wlshard.codecs import decoder

        decoder("x.png", recipe.images)
    _codes(recipe)
    if recipe.pipeline is None:
        return ShardJob([], "", "wlshard.jobs.transform:transform", asdict(recipe), on_error)
    from wlshard.jobs import pipeline

    pipeline.check(recipe.pipeline)
    if on_error != "raise":
        raise UsageError("a pipeline that has failed is over: --on-error does not go with --pipeline")
    return ShardJob([], "", "wlshard.jobs.pipeline:pipeline", asdict(recipe), stream=True)


def _codes(recipe: Recipe) -> tuple[list[CodeType], CodeType | None]:
    precode = [compiled(text, f"-C {n}", statements=True) for n, text in enumerate(recipe.precode, 1)]
    return precode, None if recipe.code is None else compiled(recipe.code, "-c", statements=True)


class Transform:
    """A recipe, ready to be applied: the precode and the file's own code run when it is made.

    Errors: those of `job_of`; UserCodeError: that code fails.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._images = recipe.images
        precode, self._code = _codes(recipe)
        self.names = names_for(*precode, *filter(None, [self._code]))
        for code in precode:
            with user_code("the code of -C"):
                exec(code, self.names)  # noqa: S102 — what it is for
        self._function = None if recipe.file is None else _transform_of(recipe.file)

    def __call__(self, sample: Sample, _number: int) -> list[Sample]:
        """Give the samples that this one becomes, as they are to be stored.

        Takes the sample over. UserCodeError with the code's traceback, CodecError; each with key and url.
        """
        lazy = LazySample(sample, self._images)
        return self.made(lazy, lazy, sample[KEY], sample[URL])

    def made(self, lazy: LazySample, given: Mapping[str, Any], key: str, url: str | None) -> list[Sample]:
        """Do so with `given`, the sample itself or what was made of it."""
        try:
            result: Any = given
            if self._function is not None:
                result = self._function(given)
            if self._code is not None:
                self.names["_"] = result
                exec(self._code, self.names)  # noqa: S102 — what it is for
                result = self.names.pop("_", None)
            if result is lazy:
                return [result_as_stored(lazy, lazy)]
            results = list(result) if isinstance(result, list | tuple | Iterator) else [result]
            if result is None:
                return []
            return [_checked(lazy, each, key, n, len(results)) for n, each in enumerate(results)]
        except BaseException as error:
            if isinstance(error, WlshardError):
                error.key, error.url = error.key or key, error.url or url
            raise_told("the code", error, key, url)
            raise


def _checked(lazy: LazySample, result: Any, key: str, number: int, count: int) -> Sample:
    if not isinstance(result, Mapping):
        kind = type(result).__name__
        raise UserCodeError(f"the code made {kind} of a sample: make it a dict, a list of dicts or None")
    stored = result_as_stored(lazy, result)
    if KEY not in stored:
        stored[KEY] = key if count == 1 else f"{key}-{number}"
    return stored


def transform(settings: Mapping[str, Any]) -> Transform:
    """Make the function of a sample from a recipe as JSON: the work of a shard job."""
    return Transform(Recipe(**settings))


def _transform_of(path: str) -> Callable[[Any], Any]:
    with user_code(f"importing {path}"):
        module = load_file(path)
    function = getattr(module, "transform", None)
    if not callable(function):
        raise UsageError("this file has no function transform(sample): define one", url=path)
    return cast("Callable[[Any], Any]", function)
