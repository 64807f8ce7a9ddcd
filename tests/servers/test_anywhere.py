"""URLs wherever a path does: commands, pools, proxies; and what is never shown."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from clocks import Skipping
from faulty import Handler, Reply, answers, faulty
from servers import WebServer, free_port, program, running

from wlshard import Loader, Pool, ShardWriter, clock, samples
from wlshard.errors import AccessDenied, StoreUnavailable, UsageError, WlshardError
from wlshard.store import options
from wlshard.store.connect import connect

BIN = Path(__file__).resolve().parents[2] / "bin"


@pytest.fixture(autouse=True)
def no_options_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(options.VARIABLE, "")


@pytest.fixture(params=["s3", "gs"])
def url(request: pytest.FixtureRequest, moto: str, gcs_stub: str) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


def run(*words: str, cwd: Path, code: int = 0) -> str:
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    command = [str(BIN / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=cwd, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_commands_read_and_write_buckets(url: str, tmp_path: Path) -> None:
    with ShardWriter(f"{url}/in-%06d.tar", shard_samples=5) as writer:
        for number in range(10):
            writer.write({"cls": number})
    run("wl-map", "-c", "_['cls'] += 100", f"{url}/in-*.tar", "-o", f"{url}/out.tar", cwd=tmp_path)
    assert run("wl-extract", "-f", "cls", f"{url}/out.tar", cwd=tmp_path).split() == [
        str(number) for number in range(100, 110)
    ]
    assert run("wl-cat", f"{url}/out.tar", "cls", "7", cwd=tmp_path) == "107"
    assert "exists" in run(
        "wl-map", "-c", "0", f"{url}/in-*.tar", "-o", f"{url}/out.tar", cwd=tmp_path, code=2
    )
    assert sorted(entry.name for entry in connect(url).list()) == [
        "in-000000.idx", "in-000000.tar", "in-000001.idx", "in-000001.tar", "out.idx", "out.tar"
    ]  # fmt: skip
    assert [row["cls"] for row in samples(f"{url}/")] == [*range(10), *range(100, 110)]


def test_an_upload_is_shown_on_a_terminal(url: str, tmp_path: Path) -> None:
    with ShardWriter(f"{tmp_path}/in-%d.tar") as writer:
        writer.write({"bin": bytes(40 << 20)})
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    words = [str(BIN / "wl-map"), "-c", "pass", f"{tmp_path}/in-0.tar", "-o", f"{url}/out.tar"]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    drawn = b""
    with subprocess.Popen(words, stderr=theirs, env=os.environ | {"PATH": path}) as command:
        os.close(theirs)
        with suppress(OSError):  # the terminal's other end is gone
            while more := os.read(ours, 1 << 16):
                drawn += more
    os.close(ours)
    assert command.returncode == 0, drawn
    bars = re.findall(rb"out\.tar: +(\d+)%", drawn)
    assert bars[-1:] == [b"100"], drawn
    assert len(bars) >= 2


def test_a_pool_in_a_bucket_is_generated_into_rotated_and_trained_from(url: str, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(
        "def make(worker):\n    for n in range(20):\n        yield {'cls': n}\n"
    )
    line = ["wl-gen", "made.py:make", f"{url}/pool", "--shard-samples", "5", "-P", "2", "--samples", "40"]
    run(*line, cwd=tmp_path)
    assert json.loads(run("wl-rotate", f"{url}/pool", "--json", cwd=tmp_path))["promoted"]["samples"] == 40
    with Loader(f"{url}/pool", "cls", batch_size=10, shuffle=20) as loader:
        got = [label for (labels,) in loader for label in labels.tolist()]
    assert sorted(got) == sorted([*range(20)] * 2)
    status = json.loads(run("wl-info", f"{url}/pool", "--json", cwd=tmp_path))
    assert (status["generation"], status["samples"]) == (1, 40)


def test_a_writer_that_is_killed_is_salvaged_on_its_machine(url: str, tmp_path: Path) -> None:
    pool = Pool(f"{url}/pool").create()
    code = (
        "import os, sys, wlshard\n"
        "writer = wlshard.ShardWriter(sys.argv[1])\n"
        "for n in range(3): writer.write({'cls': n, 'bin': bytes(2_000_000)})\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, pool.url], cwd=tmp_path)
    assert pool.rotate().promoted.samples == 3
    assert [row["cls"] for row in samples(pool.url)] == [0, 1, 2]
    assert list(pool.store.drafts()) == []


def test_options_reach_stores_and_child_processes(
    moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3_url: str
) -> None:
    connect(s3_url).put("a", b"1")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AccessDenied, match="anon=true"):
        connect(s3_url).read("a")
    given = f"anon=true,endpoint_url={moto}"
    assert f"{s3_url}/b" in run(
        "wl-cat", f"{s3_url}/b", "x", "--storage-options", given, cwd=tmp_path, code=10
    )
    options.use_options({"s3": {"key": "user", "secret": "pass", "endpoint_url": moto}})
    assert connect(s3_url).read("a") == b"1"
    with pytest.raises(UsageError):
        options.parse_options("anon")


def test_a_missing_package_is_named(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    monkeypatch.setattr("wlshard.store.s3._clients", {})
    with pytest.raises(UsageError, match=r"pip install 'wlshard\[s3\]'"):
        connect(s3_url).read("a")


SQUID = """http_port 127.0.0.1:{port}
acl all src all
http_access allow all
access_log stdio:{folder}/access.log
cache_log {folder}/cache.log
pid_filename none
pinger_enable off
cache_mem 64 MB
maximum_object_size_in_memory 8 MB
coredump_dir {folder}
range_offset_limit none
shutdown_lifetime 0
"""


@pytest.fixture(scope="session")
def squid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web cache; its URL and its log."""
    command, folder, port = program("squid", "squid"), tmp_path_factory.mktemp("squid"), free_port()
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o777)  # it changes to a user of its own
    (folder / "squid.conf").write_text(SQUID.format(port=port, folder=folder))
    with running([command, "-N", "-f", str(folder / "squid.conf")], port, folder / "out"):
        yield f"http://127.0.0.1:{port}", folder / "access.log"


@pytest.mark.parametrize("way", ["argument", "environment", "option"])
def test_a_proxy_stands_between(
    nginx: WebServer, squid: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, way: str, tmp_path: Path
) -> None:
    proxy, log = squid
    (nginx.folder / way).mkdir()
    with ShardWriter(f"{nginx.folder}/{way}/x-%03d.tar", shard_samples=5) as writer:
        for number in range(10):
            writer.write({"cls": number})
    url = f"{nginx.url}/{way}/x-{{000..001}}.tar"
    if way == "environment":
        monkeypatch.setenv("http_proxy", proxy)
    given = {"http_proxy": proxy} if way == "argument" else {}
    for _ in range(2):
        if way == "option":
            labels = run(
                "wl-extract", "-f", "cls", url, "--storage-options", f"http_proxy={proxy}", cwd=tmp_path
            )
            assert labels.split() == [str(number) for number in range(10)]
        else:
            with Loader(url, "cls", **given) as loader:
                assert [label for (label,) in loader] == list(range(10))
    lines = [line for line in log.read_text().splitlines() if f"/{way}/x-001.tar" in line]
    assert any("HIT" in line for line in lines), lines


def test_what_no_proxy_names_is_asked_itself(nginx: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    (nginx.folder / "near.txt").write_bytes(b"1")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")  # nobody is there
    with clock.use(Skipping()), pytest.raises(StoreUnavailable):
        connect(nginx.url).read("near.txt")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert connect(nginx.url).read("near.txt") == b"1"


def test_who_asks_pays_where_that_is_said(
    url: str, moto: str, gcs_stub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, unpaid = url.startswith("s3"), list[str]()

    def looks(handler: Handler) -> bool:
        pays = handler.headers.get("x-amz-request-payer") if s3 else "userProject=ours" in handler.path
        if not pays and (handler.command, handler.path) != ("HEAD", "/bucket"):
            unpaid.append(f"{handler.command} {handler.path}")
        return False

    with faulty(moto if s3 else gcs_stub) as door:
        door.fault = looks
        options.use_options({"requester_pays": True, "endpoint_url": door.url})
        if not s3:
            with pytest.raises(UsageError, match="project"):
                Pool(f"{url}/pool").create()
            options.use_options({"project": "ours"})
        pool = Pool(f"{url}/pool").create()
        with ShardWriter(pool) as writer:
            for number in range(3):
                writer.write({"cls": number, "bin": bytes(8 << 20)})
        pool.rotate()
        with Loader(pool.url, "cls", batch_size=3) as loader:
            assert [labels.tolist() for (labels,) in loader] == [[0, 1, 2]]
        pool.retire()
        assert pool.store.now() > 0
    assert len(door.requests) > 10
    assert not unpaid


def test_a_login_is_not_sent_on_to_another_host(nginx: WebServer) -> None:
    (nginx.folder / "near.txt").write_bytes(b"1")
    sent: list[str | None] = []

    def notes(handler: Handler) -> bool:
        sent.append(handler.headers.get("Authorization"))
        return False

    with faulty(nginx.url) as first, faulty(nginx.url) as second:
        second.fault = notes

        def leads_on(handler: Handler) -> bool:
            notes(handler)
            handler.give(Reply(302, {"Location": second.url + handler.path}, b""))
            return True

        first.fault = leads_on
        assert connect(first.url.replace("://", "://me:hunter2@")).read("near.txt") == b"1"
    assert sent[0] is not None
    assert sent[1:] == [None]


def test_secrets_are_shown_nowhere(
    url: str, nginx: WebServer, moto: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    secret = "hunter2hunter2"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_SESSION_TOKEN", secret)
    shown: list[str] = []
    with faulty(nginx.url) as door, clock.use(Skipping()):
        for fault in (answers(403), answers(404), answers(503)):
            door.fault = fault
            monkeypatch.setenv("AWS_ENDPOINT_URL", door.url)
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", door.url)
            host = door.url.removeprefix("http://")
            for bad in (
                f"http://user:{secret}@{host}/x.tar",
                f"{door.url}/x.tar?X-Amz-Signature={secret}&a=b",
                f"{url}/x.tar",
            ):
                for call in (lambda bad=bad: list(samples(bad)), lambda bad=bad: Pool(bad).rotate()):
                    with pytest.raises(WlshardError) as caught:
                        call()
                    shown += [str(caught.value), json.dumps(caught.value.as_json())]
    wrong = {"s3": {"secret": secret, "key": "k", "region": "no region"}, "gs": {"token": secret}}
    options.use_options(wrong)
    for scheme in wrong:
        with pytest.raises(WlshardError) as caught:
            connect(f"{scheme}://bucket").read("x")
        shown += [str(caught.value), repr(connect(f"{scheme}://bucket"))]
    shown += [repr(Pool(url)), caplog.text]
    with pytest.raises(UsageError) as refused:
        options.parse_options('{"secret": ' + secret)
    shown += [
        str(refused.value),
        run(
            "wl-cat", nginx.url.replace("://", f"://u:{secret}@") + "/absent.tar", "y", cwd=tmp_path, code=10
        ),
    ]
    assert not [text for text in shown if secret in text]
