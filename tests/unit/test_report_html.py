"""The report page: self-contained, bounded, the same for the same input, harmless whatever the data is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tars import END, header, member

from wlshard.codecs import encode
from wlshard.pool.pool import Pool
from wlshard.pool.writer import ShardWriter
from wlshard.report.charts import histogram
from wlshard.report.gather import BINS, CHARTS, CLASSES, SAMPLES, FieldCharts, Gathered, Histogram
from wlshard.report.html import FAULTS, FIELDS, page
from wlshard.shards.survey import FieldSurvey

ALLOWED = """html head meta title style body main header footer h1 h2 h3 p div dl dt dd table thead tbody tr
th td svg rect figure figcaption img b span"""
HOSTILE = [
    "<script>alert(1)</script>",
    "</style><b onload=x>",
    "a\"b'&amp;",
    "k\u202eevil",
    "\x1b[31mred",
    "é\udc80",
]


class Page(HTMLParser):
    """A page taken apart; asserts that tags are balanced and none but ours."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.text, self.rows, self.images, self.open = "", list[list[str]](), list[str](), list[str]()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(data.decode())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED.split()
        self.attributes += attrs
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "rect"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def info(*args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "wlshard.cli.info", *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Volumes with labels, photographs, classes and text, in two shards of generation 1."""
    pool = Pool(f"{tmp_path_factory.mktemp('report')}/pool").create()
    random = np.random.default_rng(1)
    with ShardWriter(pool, shard_samples=4) as out:
        for number in range(8):
            label = np.zeros((9, 20, 20), np.uint8)
            label[:, 5:15, 5 : 8 + number] = 3
            photo = random.integers(0, 256, (300, 400, 3), np.uint8)
            out.write({"cls": number % 3, "txt": "a short text", "img.npy": random.normal(size=(9, 20, 20)),
                       "seg.npy": label, "jpg": photo})  # fmt: skip
    pool.rotate()
    return pool.url


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Names and texts that would do harm on a page, and two faults."""
    png = bytes(encode("png", np.zeros((10, 10), np.uint8)))
    parts = []
    for number, name in enumerate(HOSTILE):
        raw = name.encode("utf-8", "surrogateescape")
        parts += [member(b"%d%b.png" % (number, raw), png), member(b"%d%b.txt" % (number, raw), raw)]
        parts += [member(b"%d%b.%b.cls" % (number, raw, raw.replace(b".", b"")), b"3")]
    bad = bytearray(header(b"a.x"))
    bad[0] ^= 1
    path = tmp_path_factory.mktemp("hostile") / "x.tar"
    path.write_bytes(
        b"".join(parts) + member(b"good.x") + bytes(bad) + member(b"c.x") + member(b"good.y") + END
    )
    return str(path)


def test_a_page_shows_fields_values_classes_and_pictures(pool: str) -> None:
    done = info(pool, "--verify", "--html", "-")
    assert (done.returncode, done.stderr) == (0, b"")
    shown = Page(done.stdout)
    assert ["field", "count", "type", "dtype", "shape", "min", "max", "bytes"] in shown.rows
    assert ["seg.npy", "8", "ndarray", "uint8", "9×20×20", "0", "3"] in [row[:7] for row in shown.rows]
    assert [row for row in shown.rows if row[2] in "23"] == [["0", "", "3"], ["1", "", "3"], ["2", "", "2"]]
    assert len(shown.images) == 8 * 3
    for text in ("generation", "Verified: no faults", "1 distinct value", "a short text"):
        assert text in shown.text
    assert len(re.findall(rb"<title>[^<]*: [0-9,]+</title>", done.stdout)) > 20  # a bar's reach and count


def test_nothing_on_a_page_comes_from_elsewhere_or_runs(pool: str) -> None:
    data = info(pool, "--html", "-").stdout
    shown = Page(data)
    assert all(source.startswith("data:image/") for source in shown.images)
    assert b"default-src 'none'; img-src data:; style-src 'sha256-" in data
    assert b"http://" not in data
    assert b"https://" not in data
    assert b"url(" not in data
    assert not any(name.startswith("on") or name in ("href", "style") for name, _ in shown.attributes)


def test_what_comes_from_data_is_text(hostile: str) -> None:
    done = info(hostile, "--verify", "--html", "-")
    assert done.returncode == 20
    shown = Page(done.stdout)
    assert "<script>alert(1)</script>" in shown.text
    assert "</style><b onload=x>" in shown.text
    assert not set("\x1b\u202e") & set(done.stdout.decode())
    assert ["kind", "shard", "byte", "member or key", "what"] in shown.rows
    assert [row[0] for row in shown.rows if row[1] == hostile] == ["tar", "grouping"]


def test_the_same_input_gives_the_same_bytes(pool: str) -> None:
    assert info(pool, "--verify", "--html", "-").stdout == info(pool, "--verify", "--html", "-").stdout


def test_a_page_is_written_whole_and_replaces_nothing_unasked(pool: str, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    done = info(pool, "--html", report)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"read pool: 8 samples in 2 shards" in done.stdout
    assert report.read_bytes() == info(pool, "--html", "-").stdout
    report.write_bytes(b"mine")
    assert info(f"{pool}/none.tar", "--html", report).returncode == 2  # before anything is read
    assert report.read_bytes() == b"mine"
    assert info(pool, "--html", report, "--force").returncode == 0
    assert report.read_bytes() != b"mine"
    assert info(f"{pool}/none.tar", "--html", tmp_path / "other.html").returncode == 10
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    assert info(pool, "--html", "-", "--json").returncode == 2
    assert json.loads(info(pool, "--html", tmp_path / "x.html", "--json").stdout)["samples"] == 8


def test_a_page_stays_small_whatever_is_told(tmp_path: Path) -> None:
    def field() -> dict[str, Any]:
        about = FieldSurvey()
        about.add("x" * 10_000, 1)
        return about.as_json()

    long = "<" * 5000
    fault = dict.fromkeys(("url", "member", "key", "kind", "message"), long) | {"offset": 1 << 60}
    found = {
        "kind": "shards", "shards": 1, "samples": 1, "bytes": 1, "looked_at": 1, "ok": False,
        "fields": {f"{number}{long}": field() for number in range(FIELDS + 50)},
        "faults": [fault] * (FAULTS + 7), "faults_omitted": 10**9, "notes": {}, "quarantined": [],
        "leftovers": [long] * 10_000,
    }  # fmt: skip
    gathered = Gathered()
    noise = np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8)
    for number in range(SAMPLES + 5):
        sample = {f"{at}{long}": noise for at in range(60)}
        gathered.watch({"__key__": f"{number}{long}", **sample}, dict.fromkeys(sample, 9))
    assert len(gathered.charts) == CHARTS
    data = page(long, found, gathered)
    assert len(data) < 8_000_000
    shown = Page(data)
    assert len(shown.images) == SAMPLES * 3
    assert "… and 1,000,000,007 more" in shown.text
    assert "… and 50 more" in shown.text
    assert "… and 9,900 more" in shown.text


def test_the_sheet_holds_samples_from_everywhere() -> None:
    gathered = Gathered()
    for number in range(20 * SAMPLES):
        gathered.watch({"__key__": f"{number:04d}"}, {})
    keys = [int(shown.key) for shown in gathered.sheet]
    assert len(keys) == SAMPLES
    assert keys == sorted(keys)
    assert keys[SAMPLES // 4] < 10 * SAMPLES < keys[-SAMPLES // 4]


def test_values_are_classes_only_while_they_are_few_and_short() -> None:
    few, many, long = FieldCharts(), FieldCharts(), FieldCharts()
    for number in range(CLASSES + 1):
        few.add(number % 7, 1)
        many.add(number, 1)
        long.add("x" * 100, 1)
    assert few.classes == {str(n): (CLASSES + 1) // 7 + (n < (CLASSES + 1) % 7) for n in range(7)}
    assert many.classes is None
    assert long.classes is None
    assert (many.values.least, many.values.most) == (0, CLASSES)


NUMBERS = st.one_of(
    st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20),
    st.lists(st.integers(-300, 300), min_size=1, max_size=20),
    st.lists(st.floats(-1e12, 1e12, allow_subnormal=False), min_size=1, max_size=20),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=6))
@example([[0.0], [524288.0]])  # bins made for nothing but zeros
def test_every_number_is_counted_in_the_bin_that_holds_it(batches: list[list[float]]) -> None:
    bins, expected = Histogram(), list[float]()
    for batch in batches:
        bins.add(np.array(batch))
        expected += [float(number) for number in batch]
    found = list(bins.bins())
    assert len(found) <= BINS
    for begin, end, count in found:
        assert count == sum(begin <= number < end for number in expected)
    assert sum(count for *_, count in found) == len(expected)
    assert (bins.least, bins.most) == (min(expected), max(expected))
    assert "nan" not in histogram(bins, "numbers")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_a_browser_shows_the_page_and_has_nothing_to_complain_of(
    pool: str, hostile: str, tmp_path: Path
) -> None:
    for number, url in enumerate((pool, hostile)):
        report = tmp_path / f"{number}.html"
        info(url, "--verify", "--html", report)
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        quiet += ["--disable-background-networking", "--enable-logging=stderr"]
        command = [CHROMIUM, *quiet, f"--user-data-dir={tmp_path}/{number}"]
        done = subprocess.run(
            [*command, "--dump-dom", f"file://{report}"], capture_output=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(b"<table") == report.read_bytes().count(b"<table") > 0
        assert b"<script" not in done.stdout
        assert b"CONSOLE" not in done.stderr, done.stderr  # where a broken policy or script would be told
