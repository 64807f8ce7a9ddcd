"""Where a command begins and ends: the one place where its errors become exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, NoReturn, Self

import click
from click.shell_completion import CompletionItem, shell_complete

from wlshard.cli.process import drop_stdout, ended_in_order, take_streams
from wlshard.cli.uploads import uploads_shown
from wlshard.errors import NotFound, StoreUnavailable, UsageError, WlshardError

INTERRUPTED = 130  # 128 + SIGINT, as shells say it
SKIPPED = 3
_DISK = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF
EXIT_CODES = """0 ok · 1 unexpected · 2 usage · 3 done, but something was skipped · 10 not found ·
11 access denied · 12 store unavailable or full · 20 tar · 21 grouping · 22 codec · 23 user code failed ·
31 lost lease · 32 pool starved · 40 too many bad samples · 41 worker died · 42 cursor mismatch ·
130 interrupted"""


class _Text(click.types.StringParamType):
    """Text, which shells complete as the name of a file, as they do when nobody tells them better."""

    def shell_complete(self, _ctx: object, _param: object, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


_TEXT = _Text()


class Command(click.Command):
    """A command of ours: `main()` never raises anything but SystemExit."""

    def __init__(self, *args: Any, example: str, bare: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        self.bare = bare
        for param in self.params:
            if param.type in (click.STRING, click.UNPROCESSED):
                param.type = _TEXT

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # click would take the word after a bare `--watch` for its value, whatever it is.
        ours = args[: args.index("--")] if "--" in args else args
        for at, (word, after) in enumerate(zip(ours, [*ours[1:], ""], strict=False)):
            if word in self.bare and not after.replace(".", "", 1).isdecimal():
                args[at] = f"{word}={self.bare[word]}"
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Example"):
            for line in self.example.strip().splitlines():
                formatter.write(f"{' ' * formatter.current_indent}{line.strip()}\n")
        with formatter.section("Exit codes"):
            formatter.write_text(EXIT_CODES)

    def main(  # type: ignore[override]  # click's own has a form that returns
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **_: object
    ) -> NoReturn:
        """Run the command with these arguments (sys.argv) and end the process with its exit code."""
        name = prog_name or self.name or "wlshard"
        argv = list(sys.argv[1:] if args is None else args)
        variable = complete_variable(name)
        if variable in os.environ:
            sys.exit(shell_complete(self, {}, name, variable, os.environ[variable]))
        take_streams()
        sys.exit(run(name, argv, lambda: self._run(name, argv)))

    def _run(self, name: str, argv: list[str]) -> int:
        try:
            with self.make_context(name, list(argv)) as ctx:
                code = self.invoke(ctx)
        except click.exceptions.Exit as ended:
            code = ended.exit_code
        sys.stdout.flush()
        return int(code or 0)


def complete_variable(name: str) -> str:
    """Give the environment variable by which a shell asks this command for completions, as click names it."""
    return f"_{name}_complete".replace("-", "_").upper()


def command(
    name: str, *, example: str, bare: Mapping[str, str] | None = None
) -> Callable[[Callable[..., int | None]], Command]:
    """Make a function the command `name`; it returns its exit code, None being 0.

    example: the lines shown under "Example", before the exit codes, at the end of the help. bare: options
    whose number may be left out, and what they mean then.
    """

    def decorate(function: Callable[..., int | None]) -> Command:
        settings = {"help_option_names": ["-h", "--help"]}
        make = click.command(name, cls=Command, example=example, bare=bare or {}, context_settings=settings)
        made = make(function)
        made.params.extend(_store_options())
        return made

    return decorate


def _store_options() -> list[click.Option]:
    def use(_: click.Context, param: click.Parameter, value: str | bool | None) -> None:
        if value:
            from wlshard.store.options import parse_options, use_options

            use_options({str(param.name): True} if value is True else parse_options(str(value)))

    about = (
        "For gs://, s3://, ais://: anon=true,endpoint_url=…, requester_pays, project, profile …, or JSON; "
        "cache_bytes=50G,cache_dir=… keeps what is read from afar."
    )
    common: dict[str, Any] = {"callback": use, "expose_value": False, "is_eager": True}
    return [
        click.Option(["--storage-options"], metavar="K=V,…", help=about, **common),
        click.Option(["--allow-pipe"], is_flag=True, help="Run the commands of pipe: URLs.", **common),
    ]


def run(name: str, argv: Sequence[str], body: Callable[[], int]) -> int:
    """Give the exit code of the body, having told its error on stderr: as JSON if argv asks for it."""
    try:
        with ended_in_order(), uploads_shown(progress):
            return body()
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        drop_stdout()
        return 0  # who read has had enough
    except click.ClickException as error:
        said = error.format_message()
        if isinstance(error, click.UsageError):
            if not _wants_json(argv) and error.ctx is not None:
                print(error.ctx.get_usage(), file=sys.stderr)
            if "unexpected extra" in said:
                said += ": quote names with * { or blanks, so that the shell leaves them to us"
            said += f" (see {name} --help)"
        ours: WlshardError = UsageError(said)
    except WlshardError as error:
        ours = error
    except Exception as error:  # noqa: BLE001  # one of the three places: see the design
        ours = _ours(error)
    return _tell_error(name, argv, ours)


def _ours(error: Exception) -> WlshardError:
    """Say an error that nobody raised on purpose as one of ours."""
    if isinstance(error, OSError) and error.filename is None:
        # Stores tell their errors themselves, with a name: a bare one is stdout, a file or a device.
        if error.errno in _DISK:
            drop_stdout()
            return StoreUnavailable(f"cannot write the output: {error.strerror}", url="-")
        if error.errno == errno.ENOENT:
            return NotFound("the current folder is gone: cd to one that is there")
    import traceback

    traceback.print_exception(error)
    about = (
        f"unexpected: please report it with the lines above and wlshard {sys.modules['wlshard'].__version__}"
    )
    return WlshardError(f"{type(error).__name__}: {error} ({about})")


def tell(name: str, result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Say what a command did: as JSON on stdout, or as text on stderr."""
    if as_json:
        import json

        print(json.dumps(result))
    else:
        print(f"{name}: {text}", file=sys.stderr)


def progress(unit: str, total: int | None = None, *, desc: str | None = None, of: Any = None) -> Any:
    """Give a bar of tqdm's, which is drawn on a terminal only; it yields what it is `of`."""
    if not sys.stderr.isatty():
        return _Undrawn(of)
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # no thread of its own
    return tqdm(of, desc, total, unit=unit, unit_scale=unit == "B", unit_divisor=1024)


class _Undrawn:
    """What a bar is where there is no terminal; tqdm takes 20 ms to import."""

    n, total, disable = 0, None, True

    def __init__(self, of: Any) -> None:
        self._of = of

    def update(self, count: int = 1) -> None: ...
    def set_postfix(self, **_: object) -> None: ...
    def close(self) -> None: ...

    def write(self, text: str, file: IO[str]) -> None:
        print(text, file=file)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._of)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def _wants_json(argv: Sequence[str]) -> bool:
    before = argv[: argv.index("--")] if "--" in argv else argv
    return "--json" in before


def _tell_error(name: str, argv: Sequence[str], error: WlshardError) -> int:
    if _wants_json(argv):
        import json

        text = json.dumps(error.as_json())
    else:
        text = f"{name}: {error}"
    with suppress(OSError):  # a terminal that is closed: the exit code still tells
        print(text, file=sys.stderr, flush=True)
    return error.code
