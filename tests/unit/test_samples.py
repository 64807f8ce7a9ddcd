"""samples(): any source, in order, again and again."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from loading import keys, row, write_shards

from wlshard import CodecError, NotFound, TooManyBadSamples, UsageError, samples


def test_samples_come_in_order_and_again(tmp_path) -> None:
    rows = samples(write_shards(tmp_path / "x", 3, 10))
    assert [sample["__key__"] for sample in rows] == keys(10)
    assert [sample["n.index"] for sample in rows] == list(range(10))
    assert next(iter(rows))["__url__"].endswith("x-0-0.tar")


def test_undecoded_fields_are_bytes(tmp_path) -> None:
    found = list(samples(write_shards(tmp_path / "x", 1, 3), decode=False))
    assert {key: type(value) for key, value in found[2].items()} == {
        "__key__": str, "__url__": str, "n.index": bytes, "raw": bytes,
    }  # fmt: skip
    assert found[2]["n.index"] == b"2"


def test_fields_give_tuples_and_name_alternatives(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 1, 3)
    assert list(samples(folder, fields="jpg;n.index __key__"))[1] == (1, "000001")
    assert list(samples(folder, fields=["raw"], decode=False))[1] == (b"\1\1\1",)
    with pytest.raises(NotFound, match="no field jpg"):
        list(samples(folder, fields="jpg"))


def test_lists_of_shards_and_rows_are_sources(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 2, 10)
    urls = [f"{folder}/x-1-0.tar", f"{folder}/x-0-0.tar"]
    assert [sample["n.index"] for sample in samples(urls)] == [*range(5, 10), *range(5)]
    assert [sample["n.index"] for sample in samples("::".join(urls))] == [*range(5, 10), *range(5)]
    assert [sample["n.index"] for sample in samples([row(3), row(4)])] == [3, 4]
    assert [sample["n.index"] for sample in samples(row(n) for n in range(3))] == [0, 1, 2]


@pytest.mark.parametrize(("name", "count"), [("sample.tgz", 90), ("mpdata.tar", 100), ("compressed.tar", 3)])
def test_real_files_are_read_whole(test_data, name, count) -> None:
    found = list(samples(f"{test_data}/{name}"))
    assert len({sample["__key__"] for sample in found}) == count


def test_images_decode_as_asked(test_data) -> None:
    url = f"{test_data}/photos-000000.tar"
    eight = next(iter(samples(url, fields="jpg")))[0]
    floats = next(iter(samples(url, fields="jpg", decode="rgb")))[0]
    assert (eight.dtype, floats.dtype) == (np.uint8, np.float32)
    assert np.allclose(eight / 255.0, floats, atol=1e-6)


def test_a_bad_field_is_an_error_with_key_and_url_or_is_skipped() -> None:
    rows = [{"__key__": str(n), "__url__": "here", "a.cls": b"x" if n == 4 else b"1"} for n in range(9)]
    with pytest.raises(CodecError) as caught:
        list(samples(rows))
    assert (caught.value.key, caught.value.url) == ("4", "here")
    assert len(list(samples(rows, on_error="skip"))) == 8
    bad = [{"__key__": str(n), "a.cls": b"x"} for n in range(100)]
    with pytest.raises(TooManyBadSamples):
        list(samples(bad, on_error="skip"))
    assert list(samples(bad[1:], on_error="skip")) == []
    with pytest.raises(UsageError, match="on_error"):
        samples(rows, on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("[s['n.index'] for s in wlshard.samples('-')]", "[0, 1, 2, 3, 4]"),
        ("[b['n.index'].tolist() for b in wlshard.Loader('-', batch_size=2)]", "[[0, 1], [2, 3], [4]]"),
    ],
)
def test_stdin_is_a_source(tmp_path, code, shown) -> None:
    folder = write_shards(tmp_path / "x", 1, 5)
    with open(f"{folder}/x-0-0.tar", "rb") as shard:
        ran = subprocess.run(
            [sys.executable, "-c", f"import wlshard; print({code})"],
            stdin=shard,
            capture_output=True,
            text=True,
        )
    assert (ran.stdout.strip(), ran.stderr) == (shown, "")


def test_undecoded_samples_need_no_numpy(tmp_path) -> None:
    folder = write_shards(tmp_path / "x", 1, 2)
    code = f"import sys, wlshard; list(wlshard.samples({folder!r})); print('numpy' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert shown.stdout.strip() == "False"
