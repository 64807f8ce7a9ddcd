"""Samples that decode when touched, and know what was changed."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from wlshard.codecs import encode
from wlshard.errors import CodecError
from wlshard.sample import Sample
from wlshard.stream.lazy import LazySample, changed_fields, result_as_stored, stored_fields


@pytest.fixture
def stored() -> dict[str, object]:
    return {
        "__key__": "a",
        "__url__": "x.tar",
        "cls": memoryview(b"3"),
        "json": b'{"n": [1, 2]}',
        "left.npy": memoryview(bytes(encode("npy", np.array([1.0, np.nan])))),
        "png": bytes(encode("png", np.zeros((2, 3, 3), np.uint8))),
        "npz": bytes(encode("npz", {"a": np.arange(3)})),
    }


def test_a_field_decodes_when_touched_and_not_before(stored: dict[str, object]) -> None:
    sample = LazySample({**stored, "bad.json": b"{"})
    assert "bad.json" in sample
    assert len(sample) == 8
    assert list(sample)[:3] == ["__key__", "__url__", "cls"]
    assert sample["cls"] == sample.cls == 3
    assert sample["png"].shape == (2, 3, 3)
    assert sample.__key__ == "a"
    with pytest.raises(CodecError) as caught:
        sample["bad.json"]
    assert (caught.value.key, caught.value.url, caught.value.member) == ("a", "x.tar", "a.bad.json")


def test_what_is_only_looked_at_is_not_changed(stored: dict[str, object]) -> None:
    sample = LazySample(stored)
    assert all(value is not None for value in sample.values())
    sample["cls"] = 3
    assert changed_fields(sample) == set()
    assert all(result_as_stored(sample, sample)[name] is data for name, data in stored.items())


def test_set_added_deleted_and_changed_in_place(stored: dict[str, object]) -> None:
    sample = LazySample(stored)
    sample["cls"] -= 1
    sample.json["n"].append(3)
    sample["left.npy"][0] = 2
    sample["npz"]["a"][1] = 7
    sample.png += 1
    sample["txt"] = "new"
    assert changed_fields(sample) == {"cls", "json", "left.npy", "npz", "png", "txt"}
    del sample["png"]
    assert "png" not in sample
    with pytest.raises(KeyError):
        sample["png"]
    written = result_as_stored(sample, sample)
    assert (written["cls"], written["json"], written["txt"]) == (b"2", b'{"n": [1, 2, 3]}', b"new")
    assert written["__key__"] == "a"
    assert stored_fields(sample)["cls"] == b"3"
    assert "png" in stored
    assert "txt" not in stored
    sample["png"] = b"new"
    assert result_as_stored(sample, sample)["png"] == b"new"


def test_a_dtype_or_a_type_that_changes_is_a_change(stored: dict[str, object]) -> None:
    sample = LazySample(stored)
    sample["left.npy"] = sample["left.npy"].astype(">f8")
    sample["cls"] = 3.0
    assert changed_fields(sample) == {"left.npy", "cls"}


def test_a_dict_of_it_a_copy_and_a_missing_field(stored: dict[str, object]) -> None:
    sample = LazySample(stored)
    assert dict(sample, cls=4)["cls"] == {**sample, "cls": 4}["cls"] == 4
    twin = sample.copy()
    twin["cls"] = 9
    assert (sample["cls"], copy.copy(sample)["cls"], twin["cls"]) == (3, 3, 9)
    assert sample.get("jpg") is None
    with pytest.raises(KeyError, match=r"there are: cls json left\.npy"):
        sample["jpg"]
    with pytest.raises(AttributeError):
        _ = sample.jpg


def test_images_as_asked(stored: dict[str, object]) -> None:
    assert LazySample(stored, "gray")["png"].dtype == np.float32


def raw(**fields: object) -> Sample:
    fields = {name.replace("_npy", ".npy"): value for name, value in fields.items()}
    data = {name: memoryview(bytes(encode(name, value))) for name, value in fields.items()}
    return {"__key__": "k", "__url__": "u.tar", **data}


IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def copied(came: Sample, lazy: LazySample) -> dict[str, bool]:
    """For each field, whether it is stored as the very bytes it came as."""
    return {
        name: value is came.get(name)
        for name, value in result_as_stored(lazy, lazy).items()
        if name[0] != "_"
    }


def test_what_nobody_touches_is_the_bytes_it_came_as_even_broken_ones() -> None:
    came = raw(cls=3) | {"jpg": memoryview(b"no jpeg")}
    lazy = LazySample(dict(came))
    lazy["cls"] += 1
    assert lazy["cls"] == 4
    assert copied(came, lazy) == {"cls": False, "jpg": True}
    assert changed_fields(lazy) == {"cls"}


def test_looking_changes_nothing() -> None:
    came = raw(cls=3, json={"a": [1, float("nan")]}, png=IMAGE, x_npy=IMAGE, txt="é", mp=[1, 2])
    came["json"] = memoryview(b'{ "a" : [1, NaN] }')  # not as we write it
    lazy = LazySample(dict(came))
    assert dict(lazy)["png"].tolist() == IMAGE.tolist()
    assert all(copied(came, lazy).values())
    assert changed_fields(lazy) == set()


def test_pil_images_count_as_changed_only_when_they_are() -> None:
    came = raw(png=IMAGE)
    lazy = LazySample(dict(came), "pil")
    image = lazy["png"]
    assert copied(came, lazy) == {"png": True}
    image.putpixel((0, 0), (9, 9, 9))
    assert copied(came, lazy) == {"png": False}


def test_renaming_copies_the_bytes() -> None:
    came = raw(png=IMAGE)
    lazy = LazySample(dict(came))
    lazy["left.png"] = lazy.pop("png")
    assert result_as_stored(lazy, lazy)["left.png"] is came["png"]
    assert changed_fields(lazy) == {"left.png"}


def test_a_new_dict_of_old_values_copies_the_bytes() -> None:
    came = raw(png=IMAGE, json={"a": 1})
    lazy = LazySample(dict(came))
    made = result_as_stored(
        lazy, {"__key__": "new", "png": lazy["png"], "json": json.loads(json.dumps(lazy["json"]))}
    )
    assert made["png"] is came["png"]
    assert made["json"] == b'{"a": 1}'


def test_a_field_that_is_no_string_is_left_to_the_writer_to_refuse() -> None:
    assert result_as_stored(LazySample(raw(cls=1)), {5: 1})[5] == 1  # type: ignore[dict-item]


def test_another_codec_means_encoding() -> None:
    lazy = LazySample(raw(png=IMAGE))
    lazy["jpg"] = lazy["png"]
    assert result_as_stored(lazy, lazy)["jpg"] == encode("jpg", IMAGE)
