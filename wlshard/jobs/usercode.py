"""The user's generator: found, given what it asks for, and run so that its errors are told as its own."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import operator
import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from types import ModuleType
from typing import Any, TypeAlias, cast

from wlshard.errors import NotFound, UsageError, UserCodeError, WlshardError, counted
from wlshard.sample import Sample, fields_of

Function: TypeAlias = Callable[..., Any]

_HERE = os.path.dirname(__file__)
OFFERED = ("rng", "worker", "workers", "device")


class user_code:  # noqa: N801 — read as `with user_code(...)`; a generator would cost four times as much
    """Turn what the user's code raises inside the block into what `raise_told` raises."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None:
            raise_told(self._what, error)


def raise_told(what: str, error: BaseException, key: str | None = None, url: str | None = None) -> None:
    """Raise UserCodeError, with its traceback, for what the user's code has raised.

    Our own errors are left to the caller to raise as they are; signals and KeyboardInterrupt too.
    """
    # One of the three places where all errors are caught: see the design.
    if not isinstance(error, Exception | SystemExit) or isinstance(error, WlshardError):
        return
    trace = error.__traceback__
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == _HERE:
        trace = trace.tb_next  # the user's story begins below ours
    told = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    message = f"{what} failed: see its traceback and mend it\n{told}"
    # Not given a name here: its traceback holds this frame, and so would hold itself and the user's sample.
    raise UserCodeError(message, key=key, url=url) from error


def load(name: str) -> Function:
    """Import `MODULE:FUNCTION`; MODULE is a dotted name, looked for in the current folder too, or a .py file.

    FUNCTION may be of something in the module: `thing.method`. A file in a package is imported as part of it.
    UsageError: no such form or nothing callable; NotFound: no such module or function; UserCodeError: the
    module's own code fails.
    """
    module_name, colon, function_name = name.rpartition(":")
    if not colon or not module_name or not function_name:
        raise UsageError(f"{name!r} names no function: write MODULE:FUNCTION or path/to/file.py:FUNCTION")
    with user_code(f"importing {module_name}"):
        module = load_file(module_name) if module_name.endswith(".py") else _load_module(module_name)
    try:
        function = operator.attrgetter(function_name)(module)
    except AttributeError:
        there = [each for each, value in vars(module).items() if inspect.isgeneratorfunction(value)]
        advice = f"its generators are: {', '.join(there)}" if there else "it has no generator functions"
        raise NotFound(f"{module_name} has no {function_name!r}: {advice}") from None
    if not callable(function):
        raise UsageError(f"{name} is {type(function).__name__}, no function")
    return cast("Function", function)


def _look_in(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _load_module(name: str) -> ModuleType:
    _look_in(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if f"{name}.".startswith(f"{error.name}."):
            advice = "name it as Python imports it from here, or give the path of its .py file"
            raise NotFound(f"there is no module {name}: {advice}") from None
        raise


def load_file(path: str) -> ModuleType:
    """Import a Python file of the user's. NotFound: there is none."""
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise NotFound("there is no such Python file", url=path)
    folder, file = os.path.split(path)
    _look_in(folder)  # as `python path/to/file.py` does: its neighbours can be imported
    name = file[: -len(".py")]
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        name = f"{package}.{name}"
    if "." in name:  # in a package, so that its relative imports work
        _look_in(folder)
        return importlib.import_module(name)
    if name in sys.modules:
        name = f"{name}_of_the_user"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bind(function: Function, offered: Mapping[str, Callable[[], Any]], args: Mapping[str, Any]) -> Function:
    """Give the function with its parameters filled in by name: what is offered, then the user's arguments.

    offered: makers, called only for what the function has a parameter for. UsageError: an argument that it
    has no parameter for, or a parameter that nothing is there for.
    """
    name = function_name(function)
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise UsageError(f"{name} does not tell its parameters: wrap it in a function of Python") from error
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [] if takes_all else [arg for arg in args if arg not in named]
    if unknown:
        has = ", ".join(named) or "none"
        raise UsageError(f"{name} has no parameter {unknown[0]!r}: it has {has}")
    values = {each: make() for each, make in offered.items() if each in named and each not in args}
    values.update(args)
    for parameter in parameters:
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not variadic and parameter.name not in values:
            offers = f"offered by name are {', '.join(OFFERED)}"
            advice = f"give it a default or --arg {parameter.name}=VALUE ({offers})"
            raise UsageError(f"{name} needs {parameter.name!r}: {advice}")
    return lambda: function(**values)


def function_name(function: Function) -> str:
    """Give the name to call a function by in a message."""
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def samples_of(call: Function, name: str, fields: Sequence[str] | None) -> Generator[Sample, None, None]:
    """Run a bound generator once and yield its samples, as dicts; what it yields else is UserCodeError."""
    with closing(values_of(call, name)) as values:
        for value, where in values:
            yield _as_sample(value, fields, where)


def values_of(call: Function, name: str) -> Generator[tuple[Any, Callable[[], str]], None, None]:
    """Run a bound generator once; yield what it yields, and what tells its name and where it stands."""
    with user_code(name):
        made = call()
    if not isinstance(made, Iterable) or isinstance(made, Mapping | str | bytes):
        kind = type(made).__name__
        raise UserCodeError(f"{name} returned {kind}: it must be a generator function, which yields samples")
    iterator = iter(made)

    def where() -> str:
        frame = getattr(iterator, "gi_frame", None)
        return f"{name} (line {frame.f_lineno} of {frame.f_code.co_filename})" if frame else name

    try:
        while True:
            with user_code(name):
                value = next(iterator, iterator)  # no sample is the iterator itself
            if value is iterator:
                return
            yield value, where
    finally:
        with user_code(name):
            getattr(iterator, "close", lambda: None)()


def _as_sample(value: Any, fields: Sequence[str] | None, name: Callable[[], str]) -> Sample:
    if isinstance(value, dict):
        if fields is not None:
            raise UserCodeError(f"{name()} yields dicts, which name their fields: leave out --fields")
        if not any(isinstance(each, str) for each in value) or not fields_of(value):
            raise UserCodeError(f"{name()} yielded a dict without a field: name one like 'img.npy'")
        return value
    if fields is None:
        advice = "yield a dict of fields, or name the fields of a tuple by --fields img.npy,seg.npy"
        raise UserCodeError(f"{name()} yielded {type(value).__name__}: {advice}")
    values = value if isinstance(value, tuple) or (isinstance(value, list) and len(fields) > 1) else (value,)
    if len(values) != len(fields):
        count = f"{counted(len(values), 'value')} for {len(fields)} fields"
        raise UserCodeError(f"{name()} yielded {count} ({','.join(fields)}): one for each is needed")
    return dict(zip(fields, values, strict=True))
