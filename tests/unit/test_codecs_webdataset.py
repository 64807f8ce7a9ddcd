"""Our codecs against webdataset's own, on values and on real files."""

import io
import tarfile

import numpy as np
import pytest

from wlshard.codecs import decode, encode

wds = pytest.importorskip("webdataset")
from webdataset import autodecode, tenbin, writer  # noqa: E402

VALUES = {
    "txt": "zwei Wörter",
    "text": "a",
    "transcript": "b",
    "cls": 3,
    "cls2": 4,
    "index": 5,
    "inx": 6,
    "id": 7,
    "json": {"a": [1, 2.5, None], "ü": "ß"},
    "jsn": [1],
    "mp": {"a": [1, b"\0", "x"]},
    "msg": [1.5],
    "npy": np.arange(12.0).reshape(3, 4),
    "npz": {"a": np.arange(3), "b": np.eye(2, dtype=np.float16)},
    "ten": [np.arange(6, dtype=np.int16).reshape(2, 3), np.ones((2, 2, 2), np.float32)],
    "tb": [np.zeros((0, 3), np.uint8)],
}
IMAGE_NAMES = ["rgb8", "rgba8", "l8", "rgb", "rgba", "l"]


def theirs(field, data):
    """Decode as `WebDataset(…).decode()` does."""
    return autodecode.Decoder([]).decode1(field, bytes(data))


def assert_same(left, right):
    assert type(left) is type(right)
    if isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        assert np.array_equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        [assert_same(left[name], right[name]) for name in left]
    elif isinstance(left, list):
        assert len(left) == len(right)
        [assert_same(one, other) for one, other in zip(left, right, strict=True)]
    else:
        assert left == right


@pytest.mark.parametrize("field", VALUES)
def test_each_side_reads_what_the_other_wrote(field):
    ours = encode(field, VALUES[field])
    wrote = writer.encode_based_on_extension1(VALUES[field], field, writer.default_handlers)
    for data in (ours, wrote):
        assert_same(decode(field, data), theirs(field, data))
        assert_same(decode(field, data), VALUES[field])
    zipped = encode(f"{field}.gz", VALUES[field])
    assert_same(decode(f"{field}.gz", zipped), theirs(f"{field}.gz", zipped))


def test_tensor_files_are_equal_byte_for_byte():
    arrays = [np.arange(10, dtype=np.int16), np.ones((3, 0), np.float64), np.eye(9, dtype=np.float16)]
    assert encode("ten", arrays) == tenbin.encode_buffer(arrays)


def test_npy_files_are_equal_byte_for_byte():
    for array in (np.arange(10), np.asfortranarray(np.ones((3, 4), ">f4")), np.float32(1)):
        assert encode("npy", array) == writer.numpy_dumps(np.asarray(array))


@pytest.mark.parametrize("name", IMAGE_NAMES)
@pytest.mark.parametrize("field", ["png", "jpg", "ppm", "tiff"])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_images_decode_to_the_same_arrays(name, field, shape):
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    data = writer.imageencoder(image, "JPEG" if field == "jpg" else field)
    ours, expected = decode(field, data, name), autodecode.imagehandler(name)(field, data)
    assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    if name.startswith("l") and len(shape) == 3:  # they round the grey of a colour image otherwise
        unit = 1 if name == "l8" else 1 / 255
        assert np.abs(ours.astype(float) - expected).max() <= 2.01 * unit
    else:
        assert np.array_equal(ours, expected)


@pytest.mark.parametrize("tar", ["sample.tgz", "photos-000000.tar"])
def test_real_images_decode_to_the_same_arrays(test_data, tar):
    for name, data in list(members(test_data / tar))[:45]:
        field = name.rpartition(".")[2]
        if field in ("png", "jpg"):
            for kind in ("rgb8", "rgb"):
                assert np.array_equal(decode(field, data, kind), autodecode.imagehandler(kind)(field, data))
            assert np.array_equal(decode(field, data), decode(field, data, "rgb8"))
        else:
            assert_same(decode(field, data), theirs(field, data))


@pytest.mark.parametrize("tar", ["mpdata.tar", "compressed.tar"])
def test_real_records_decode_to_the_same_values(test_data, tar):
    found = list(members(test_data / tar))
    assert found
    for name, data in found:
        field = name.partition(".")[2]
        assert_same(decode(field, data), theirs(field, data))


def members(path):
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
        for member in archive:
            if member.isfile():
                yield member.name.rpartition("/")[2], archive.extractfile(member).read()
