"""Shards far away: the Loader against parallel curls and webdataset's pipe:curl.

    python tests/bench/bench_stores.py [--quick] [--folder DIR]

far: a server that lets each request wait 50 ms and gives each stream 100 MB/s. near: the same, not shaped.
Contenders take turns in each of the rounds; the table shows medians and min–max of MB/s. The server runs in a
process of its own, on the same cores.
"""

from __future__ import annotations

import argparse
import http.server
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from warm import warm_memory

LATENCY_S, STREAM_BYTES_PER_S, SLICE = 0.05, 100e6, 1 << 20


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # connections that come at once

    def handle_error(self, *_: Any) -> None:
        """A reader that ends early resets its connections."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Files of the working folder, with ranges; shaped under /far/."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        where, _, name = self.path.lstrip("/").partition("/")
        far = where == "far"
        if far:
            time.sleep(LATENCY_S)
        if not os.path.exists(name):
            self.send_error(404)
            return
        size, found = os.path.getsize(name), re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin = int(found[1]) if found else 0
        end = min(size, int(found[2]) + 1) if found and found[2] else size
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        self.send_header("ETag", f'"{size}"')
        self.end_headers()
        self.wfile.flush()
        if self.command == "GET":
            self.pour(name, begin, end, far)

    do_HEAD = do_GET  # noqa: N815

    def pour(self, name: str, begin: int, end: int, far: bool) -> None:
        began, at = time.monotonic(), begin
        with open(name, "rb") as file:
            while at < end:
                at += os.sendfile(self.connection.fileno(), file.fileno(), at, min(SLICE, end - at))
                wait = began + (at - begin) / STREAM_BYTES_PER_S - time.monotonic()
                if far and wait > 0:
                    time.sleep(wait)


def serve(folder: str) -> tuple[subprocess.Popen[str], str]:
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", folder], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    return server, server.stdout.readline().strip()


def write(folder: str, shards: int, shard_bytes: int) -> list[str]:
    from wlshard import ShardWriter

    payload = os.urandom(110_000)
    per_shard = shard_bytes // 112_000
    with ShardWriter(f"{folder}/x-%06d.tar", shard_samples=per_shard) as out:
        for _ in range(shards * per_shard):
            out.write({"jpg": payload, "cls": 3})
    return [f"x-{number:06d}.tar" for number in range(shards)]


def curls(urls: list[str], side_by_side: int) -> None:
    words = [word for url in urls for word in ("-o", "/dev/null", url)]
    many = ["--parallel", "--parallel-immediate", "--parallel-max", str(side_by_side)]
    subprocess.run(["curl", "-s", *(many if side_by_side > 1 else []), *words], check=True)


def loader(urls: list[str], **options: Any) -> None:
    from wlshard import Loader

    with Loader(urls, "jpg", decode=False, **options) as rows:
        for _ in rows:
            pass


def filling(urls: list[str], folder: str) -> None:
    from wlshard.store.options import VARIABLE

    with tempfile.TemporaryDirectory(dir=folder) as cache:
        loader(urls, cache_dir=cache, cache_bytes=1 << 40)
    os.environ.pop(VARIABLE)


def webdataset(urls: list[str], workers: int) -> None:
    import torch
    import webdataset as wds

    data = wds.WebDataset([f"pipe:curl -s {url}" for url in urls], shardshuffle=False).to_tuple("jpg")
    for _ in torch.utils.data.DataLoader(data, batch_size=None, num_workers=workers):
        pass


def compare(contenders: dict[str, Callable[[], None]], size: int, rounds: int) -> None:
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    warm_memory()
    for number in range(rounds + 1):
        for name, run in contenders.items():
            began = time.monotonic()
            run()
            if number:  # the first warms up
                speeds[name].append(size / (time.monotonic() - began) / 1e6)
    first = statistics.median(next(iter(speeds.values())))
    for name, found in speeds.items():
        middle = statistics.median(found)
        print(f"{name:42} {middle:7.0f} MB/s  ({min(found):.0f}–{max(found):.0f})  {middle / first:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        os.chdir(asked.serve)
        server = Server(("127.0.0.1", 0), Handler)
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
    shards, shard_bytes, rounds = (4, 64 << 20, 2) if asked.quick else (4, 256 << 20, 5)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        names = write(folder, shards, shard_bytes)
        size = sum(os.path.getsize(f"{folder}/{name}") for name in names)
        server, root = serve(folder)
        try:
            for place, streams in (("far", shards), ("near", 1)):
                urls = [f"{root}/{place}/{name}" for name in names]
                print(f"\n{place}: {shards} shards of {shard_bytes >> 20} MiB")
                contenders: dict[str, Callable[[], None]] = {
                    f"curl, {streams} side by side": lambda u=urls, s=streams: curls(u, s),
                    "Loader()": lambda u=urls: loader(u),
                    "Loader(shuffle=1000)": lambda u=urls: loader(u, shuffle=1000),
                    "Loader(), filling a cache": lambda u=urls: filling(u, folder),
                    f"webdataset pipe:curl, {streams} workers": lambda u=urls, s=streams: webdataset(u, s),
                }
                compare(contenders, size, rounds)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
