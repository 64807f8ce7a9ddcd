"""Functions that the engine's tests have other processes do."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from wlshard.errors import TarError
from wlshard.jobs.engine import Answer


def double(args: Mapping[str, Any], body: memoryview) -> Answer:
    time.sleep(args.get("wait_s", 0))
    return Answer({"n": args["n"], "pid": os.getpid()}, [body, body])


def fail(args: Mapping[str, Any], _: memoryview) -> Answer:
    raise TarError("cut here", url="x.tar", offset=args["n"])


def die(_args: Mapping[str, Any], _body: memoryview) -> Answer:
    os._exit(7)


def hang(args: Mapping[str, Any], _: memoryview) -> Answer:
    with open(args["mark"], "w") as mark:
        mark.write(str(os.getpid()))
    os.rename(args["mark"], args["mark"] + ".pid")
    time.sleep(600)
    raise AssertionError
