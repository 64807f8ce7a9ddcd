import io
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wlshard.codecs import decode, encode
from wlshard.errors import CodecError

ORDERS = st.sampled_from(["<", ">", "="])
SCALARS = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness="?", sizes=(64, 128)),
    hnp.byte_string_dtypes(max_len=5),
    hnp.unicode_string_dtypes(max_len=5, endianness="?"),
    hnp.datetime64_dtypes(endianness="?"),
)
DTYPES = st.one_of(SCALARS, hnp.array_dtypes(SCALARS, max_size=3, allow_subarrays=True))
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), elements=None)


def saved(array, version=None):
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpy speaks up when it needs version 2 or 3
        np.lib.format.write_array(out, array, version=version, allow_pickle=False)
    return out.getvalue()


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@settings(max_examples=300, deadline=None)
@given(ARRAYS, st.booleans())
def test_npy_bytes_are_those_of_np_save_and_come_back_equal(array, transpose):
    array = array.T if transpose else array
    data = encode("npy", array)
    if not any(ord(letter) > 255 for letter in str(array.dtype.descr if array.dtype.names else "")):
        assert data == saved(array)
    assert same(np.load(io.BytesIO(data)), array)
    back = decode("x.npy", memoryview(data))
    assert same(back, array)
    assert back.flags.f_contiguous == array.flags.f_contiguous or array.ndim < 2
    assert not back.flags.writeable


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((2, 3), ">i2"))])
def test_all_versions_of_npy_are_read(version, array):
    assert same(decode("npy", saved(array, version)), array)


def test_a_header_written_by_python_2_is_read():
    header = b"{'descr': '<i2', 'fortran_order': False, 'shape': (2L, 3L), }".ljust(117) + b"\n"
    data = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(12)
    assert decode("npy", data).shape == (2, 3)


def test_field_names_beyond_latin_1_are_kept():
    array = np.zeros(2, [("größe", "<f4"), ("長さ", ">i2")])
    assert same(decode("npy", encode("npy", array)), array)
    assert same(np.load(io.BytesIO(encode("npy", array))), array)


def test_a_header_longer_than_version_1_can_say_is_written_as_numpy_does():
    array = np.zeros(1, [(f"f{i:04}", "<f4") for i in range(5000)])
    assert encode("npy", array) == saved(array)
    assert same(decode("npy", encode("npy", array)), array)


def test_decoding_npy_copies_nothing():
    data = bytearray(encode("npy", np.arange(1000)))
    array = decode("npy", memoryview(data))
    data[-8:] = (12345).to_bytes(8, "little")
    assert array[-1] == 12345, "the array is a view of the data"
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_a_slice_a_numpy_scalar_and_a_memmap_are_arrays(tmp_path):
    volume = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    assert same(
        decode("npy", encode("npy", volume[:, ::2, ::-1])), np.ascontiguousarray(volume[:, ::2, ::-1])
    )
    assert same(decode("npy", encode("npy", np.float32(2.5))), np.array(2.5, np.float32))
    mapped = np.memmap(tmp_path / "m", np.uint8, "w+", shape=(3,))
    assert same(decode("npy", encode("npy", mapped)), np.zeros(3, np.uint8))


def test_a_torch_tensor_is_encoded_without_a_cast():
    torch = pytest.importorskip("torch")
    array = decode("npy", encode("npy", torch.arange(3, dtype=torch.int16)))
    assert same(array, np.arange(3, dtype=np.int16))
    with pytest.raises(CodecError, match="grad"):
        encode("npy", torch.ones(2, requires_grad=True))


@pytest.mark.parametrize("field", ["npy", "npz", "ten"])
def test_arrays_of_objects_are_refused_by_the_encoder(field):
    value = np.array([{}, None], object)
    with pytest.raises(CodecError, match="pickle"):
        encode(field, {"a": value} if field == "npz" else value)
    with pytest.raises(CodecError, match="pickle"):
        encode("npy", np.zeros(2, [("a", object)]))


def test_arrays_of_objects_are_refused_by_the_decoder_before_any_pickle_is_touched():
    out = io.BytesIO()
    np.save(out, np.array([{}, None], object), allow_pickle=True)
    with pytest.raises(CodecError, match="pickle"):
        decode("npy", out.getvalue())
    packed = io.BytesIO()
    np.savez(packed, a=np.array([{}], object))
    with pytest.raises(CodecError, match="pickle"):
        decode("npz", packed.getvalue())


def test_a_masked_array_is_refused_rather_than_stripped_of_its_mask():
    with pytest.raises(CodecError, match="mask"):
        encode("npy", np.ma.masked_array([1, 2], [0, 1]))


def test_npy_cut_anywhere_or_with_more_behind_it_is_an_error():
    data = bytes(encode("npy", np.arange(5, dtype=np.uint8)))
    for end in range(len(data)):
        with pytest.raises(CodecError):
            decode("npy", data[:end])
    with pytest.raises(CodecError, match=r"promises 133 bytes .*, there are 134"):
        decode("npy", data + b"\0")


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<i2', 'fortran_order': False}",
        b"{'descr': '<i2', 'fortran_order': False, 'shape': (-1,)}",
        b"{'descr': '<i2', 'fortran_order': False, 'shape': (1.5,)}",
        b"{'descr': '<i2', 'fortran_order': False, 'shape': 3}",
        b"{'descr': 'nonsense', 'fortran_order': False, 'shape': ()}",
        b"{'descr': '|O', 'fortran_order': False, 'shape': ()}",
        b"__import__('os').system('false')",
        b"[" * 5000,
        b"\xff\xfe",
    ],
)
def test_a_header_that_is_no_npy_header_is_an_error(header):
    for version in (b"\1\0", b"\2\0", b"\3\0", b"\7\0"):
        width = 2 if version == b"\1\0" else 4
        with pytest.raises(CodecError):
            decode("npy", b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text("abcäß._ ", min_size=1, max_size=6), ARRAYS, max_size=3))
def test_npz_comes_back_equal_and_as_numpy_reads_it(arrays):
    arrays = {name: array for name, array in arrays.items() if not name.endswith(".npy")}
    data = encode("npz", arrays)
    assert data == encode("npz", arrays), "no time of day in the archive"
    back = decode("npz", memoryview(data))
    theirs = dict(np.load(io.BytesIO(data)))
    assert list(back) == list(theirs) == list(arrays)
    assert all(same(back[name], array) and same(theirs[name], array) for name, array in arrays.items())


def test_numpys_own_npz_is_read():
    for save in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        save(out, a=np.arange(3), b=np.float32(1))
        assert same(decode("npz", out.getvalue())["a"], np.arange(3))


def test_members_of_npz_that_are_no_arrays_stay_bytes():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("note.txt", "hello")
    assert (
        decode("npz", out.getvalue()) == dict(np.load(io.BytesIO(out.getvalue()))) == {"note.txt": b"hello"}
    )


def test_an_altered_npz_is_an_error():
    data = bytearray(encode("npz", {"a": np.arange(1000)}))
    data[60] ^= 0xFF
    with pytest.raises(CodecError):
        decode("npz", bytes(data))


TENSORS = hnp.arrays(
    st.sampled_from(
        [np.dtype(n) for n in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")]
    ),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(TENSORS, max_size=3))
def test_tensors_come_back_equal_and_read_only(arrays):
    back = decode("ten", memoryview(encode("tb", arrays)))
    assert len(back) == len(arrays)
    assert all(
        same(ours, array) and not ours.flags.writeable for ours, array in zip(back, arrays, strict=True)
    )


@pytest.mark.parametrize("dtype", [bool, ">f4", "c8", "S3", "M8[s]"])
def test_tensors_of_dtypes_the_format_has_no_word_for_are_refused(dtype):
    with pytest.raises(CodecError, match="use npy"):
        encode("ten", np.zeros(3, dtype))


def test_tensors_cut_anywhere_are_an_error_or_the_padding():
    data = bytes(encode("ten", [np.arange(10)]))
    padding = 64 - 80 % 64
    for end in range(1, len(data) - padding):
        with pytest.raises(CodecError):
            decode("ten", data[:end])


@pytest.mark.parametrize("size", [-80, -1, 2**40])
def test_a_tensor_chunk_of_an_impossible_size_is_an_error_that_says_where(size):
    data = bytearray(encode("ten", [np.arange(10)]))
    data[8:16] = size.to_bytes(8, "little", signed=True)
    with pytest.raises(CodecError, match="chunk at byte 0 is cut short"):
        decode("ten", data)
