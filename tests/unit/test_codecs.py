import subprocess
import sys

import pytest

from wlshard.codecs import decode, decoder, encode
from wlshard.errors import CodecError, UsageError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("txt", "zwei Wörter\n"),
        ("caption.text", ""),
        ("transcript", "日本"),
        ("json", {"a": [1, 2.5, None, True], "ü": "ß"}),
        ("meta.jsn", "a str is a JSON string"),
        ("cls", 7),
        ("cls2", -1),
        ("class", 0),
        ("count", 10**20),
        ("index", 3),
        ("inx", 3),
        ("id", 3),
        ("mp", {"a": [1, b"\0", "x", 1.5, None]}),
        ("msgpack", [1]),
        ("msg", "m"),
        ("cbor", {"a": [1, b"\0", "x", 1.5, None], 2: True}),
        ("json.gz", {"a": 1}),
        ("left.txt.gz", "squeezed"),
    ],
)
def test_a_value_comes_back_from_its_bytes(field, value):
    data = encode(field, value)
    for form in (bytes(data), bytearray(data), memoryview(data)):
        back = decode(field, form)
        assert back == value
        assert type(back) is type(value)


def test_the_last_part_of_a_field_picks_the_codec():
    assert decode("cls", b"3") == 3
    assert decode("npy.cls", b"3") == 3
    assert decode("cls.bin", b"3") == b"3"
    assert decode("cls.gz.bin", b"3") == b"3"


@pytest.mark.parametrize("field", ["bin", "html", "json", "npy", "jpg", "cls", "json.gz", "gz", "pyd"])
@pytest.mark.parametrize("data", [b"\0raw", bytearray(b"\0raw"), memoryview(b"\0raw")])
def test_bytes_pass_unencoded_in_any_field(field, data):
    assert encode(field, data) is data


@pytest.mark.parametrize("field", ["bin", "mp4", "x.unknown", "pyd", "pickle", "pkl", "pth"])
def test_what_no_codec_reads_stays_bytes(field):
    assert decode(field, memoryview(b"\x80\x04N.")) == b"\x80\x04N."
    assert type(decode(field, memoryview(b"abc"))) is bytes


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("txt", 3, "int .not a str.; the field takes a str"),
        ("txt", "\ud800", "str"),
        ("cls", True, "bool"),
        ("cls", 1.0, "float"),
        ("cls", "1", "str"),
        ("json", {"a": object()}, "dict .*takes what JSON holds"),
        ("json", {"a": b"bytes"}, "dict"),
        ("npy", {"a": 1}, "dict .not an array"),
        ("npy", [1, 2], "list .not an array"),
        ("npz", [1, 2], "list .*takes a dict of arrays"),
        ("npz", {"a": [1]}, "dict"),
        ("ten", "a", "str"),
        ("mp", object(), "object"),
        ("mp", 1 << 70, "int"),
        ("cbor", object(), "object"),
        ("x.bin", "text", "'x.bin': cannot encode str .no codec is named 'bin'.; the field takes bytes"),
        ("pyd", {"a": 1}, "pickles are never made"),
        ("json.gz", {1, 2}, "set"),
        ("gz", "text", "str"),
        ("a.png", "text", "str .not an array.; the field takes an image"),
    ],
)
def test_a_value_that_does_not_fit_its_field_is_an_error_that_says_both(field, value, said):
    with pytest.raises(CodecError, match=said):
        encode(field, value)


@pytest.mark.parametrize(
    ("field", "data"),
    [
        ("txt", b"\xff"),
        ("cls", b""),
        ("cls", b"1.5"),
        ("json", b"{"),
        ("json", b"[" * 100_000),
        ("mp", b""),
        ("mp", b"\xc1"),
        ("mp", b"\x01\x02"),
        ("mp", b"\x91" * 3000),
        ("cbor", b""),
        ("cbor", b"\x81"),
        ("npy", b""),
        ("npz", b"PK"),
        ("ten", b"~TenBin~"),
        ("jpg", b""),
        ("png", b"no picture at all"),
        ("json.gz", b""),
        ("json.gz", b"not gzip"),
    ],
)
def test_data_that_a_codec_cannot_read_is_an_error_naming_the_field(field, data):
    with pytest.raises(CodecError, match=rf"field '{field}': cannot decode {len(data):,} B of it"):
        decode(field, data)


def test_an_error_about_a_field_shows_no_raw_control_characters():
    with pytest.raises(CodecError, match=r"\\x1b"):
        decode("\x1b[31m.cls", b"x")


def test_gzip_is_reproducible_and_reads_members_in_a_row_and_padding():
    one, two = encode("txt.gz", "one "), encode("txt.gz", "two")
    assert one == encode("txt.gz", "one ")
    assert bytes(one)[4:8] == bytes(4), "no time of day in the header"
    assert decode("txt.gz", bytes(one) + bytes(two) + bytes(512)) == "one two"


@pytest.mark.parametrize("spoil", [lambda d: d[:-1], lambda d: d[:-8] + bytes(8), lambda d: d + b"rest"])
def test_a_cut_or_altered_gzip_field_is_an_error(spoil):
    with pytest.raises(CodecError, match="gzip"):
        decode("txt.gz", spoil(bytes(encode("txt.gz", "one " * 100))))


def test_a_gzip_bomb_is_refused():
    from wlshard.codecs.gzipped import compress, decompress, unpacking_at_most

    data = compress(bytes(10_000))
    with unpacking_at_most(10_000):
        assert len(decompress(data)) == 10_000
    with unpacking_at_most(9_999), pytest.raises(ValueError, match="more than 9999 bytes"):
        decompress(data)
    with unpacking_at_most(19_999), pytest.raises(ValueError, match="more than 19999 bytes"):
        decompress(data * 2)
    assert len(decompress(data * 2)) == 20_000


def test_a_decoder_is_made_once_for_a_field():
    assert decoder("a.cls") is decoder("a.cls")
    assert decoder("a.jpg", "rgb") is not decoder("a.jpg", "rgb8")


def test_images_false_leaves_images_as_bytes_and_decodes_the_rest():
    assert decode("jpg", b"not even a jpeg", images=False) == b"not even a jpeg"
    assert decode("cls", b"1", images=False) == 1


@pytest.mark.parametrize("name", ["RGB", "torchrgb", "bgr", ""])
def test_an_unknown_image_name_is_a_usage_error_that_lists_the_names(name):
    with pytest.raises(UsageError, match="rgb8 rgba8 gray8"):
        decoder("jpg", name)


@pytest.mark.parametrize(
    ("field", "library", "extra"), [("mp", "msgpack", "formats"), ("cbor", "cbor2", "formats")]
)
def test_a_missing_library_is_an_error_naming_the_pip_command(monkeypatch, field, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    for call in (lambda: decode(field, b"\x01"), lambda: encode(field, 1)):
        with pytest.raises(UsageError, match=rf"{library}.*pip install 'wlshard\[{extra}\]'"):
            call()


def test_a_missing_cv2_is_an_error_naming_the_pip_command():
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "from wlshard.codecs import decode, encode\n"
        "for call in (lambda: decode('png', b''), lambda: encode('png', 1)):\n"
        "    try: call()\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.count("UsageError") == 2
    assert out.count("pip install 'wlshard[image]'") == 2


def test_importing_codecs_and_decoding_text_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from wlshard.codecs import decode, encode\n"
        "assert decode('cls', encode('cls', 3)) == 3\n"
        "assert decode('json.gz', encode('json.gz', [1])) == [1]\n"
        "assert decode('jpg', b'raw', images=False) == b'raw'\n"
        "heavy = {'numpy', 'cv2', 'PIL', 'torch', 'webdataset', 'fsspec', 'msgpack'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
