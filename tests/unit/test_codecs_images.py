import io
import zlib

import numpy as np
import PIL.Image
import pytest

from wlshard.codecs import decode, encode
from wlshard.errors import CodecError

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (13, 17, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (13, 17, 3), dtype=np.uint16)
LOSSLESS = ["png", "ppm", "pnm", "bmp", "tif", "tiff", "webp"]


def file_of(image, kind, **options):
    out = io.BytesIO()
    (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("field", LOSSLESS)
def test_lossless_images_come_back_exactly(field):
    grey = COLOUR[:, :, 0]
    assert np.array_equal(decode(field, encode(field, COLOUR)), COLOUR)
    assert np.array_equal(decode(field, encode(field, grey), "gray8"), grey)
    assert np.array_equal(decode(field, encode(field, grey[:, :, None]), "gray8"), grey)
    assert np.array_equal(decode(field, encode(field, PIL.Image.fromarray(COLOUR))), COLOUR)
    assert encode(field, COLOUR) == encode(field, COLOUR.copy())


@pytest.mark.parametrize("field", ["png", "tif", "webp"])
def test_alpha_is_kept_where_asked_for_and_dropped_by_rgb(field):
    opaque = ALPHA | np.array([0, 0, 0, 255], np.uint8)  # webp forgets the colour of what cannot be seen
    data = encode(field, opaque)
    assert np.array_equal(decode(field, data, "rgba8"), opaque)
    assert np.array_equal(decode(field, data), opaque[:, :, :3])
    assert np.array_equal(decode("png", encode("png", ALPHA), "stored"), ALPHA)


@pytest.mark.parametrize("field", ["png", "tif", "ppm", "pnm"])
def test_16_bits_are_kept_and_brought_to_8_or_floats_only_when_asked(field):
    data = encode(field, DEEP)
    assert np.array_equal(decode(field, data), DEEP)
    assert np.array_equal(decode(field, data, "stored"), DEEP)
    assert np.array_equal(decode(field, data, "rgb8"), (DEEP >> 8).astype(np.uint8))
    floats = decode(field, data, "rgb")
    assert floats.dtype == np.float32
    assert np.array_equal(floats, DEEP.astype(np.float32) / 65535)
    grey = DEEP[:, :, 0]
    assert np.array_equal(decode("pgm", encode("pgm", grey), "stored"), grey)
    assert np.array_equal(decode("png", encode("png", grey), "gray"), grey.astype(np.float32) / 65535)


def test_shapes_and_dtypes_follow_the_name():
    data = encode("png", COLOUR)
    shapes = {True: (13, 17, 3), "rgb8": (13, 17, 3), "rgba8": (13, 17, 4), "gray8": (13, 17), "l8": (13, 17)}
    for name, shape in shapes.items():
        image = decode("png", data, name)
        assert (image.shape, image.dtype) == (shape, np.uint8)
    for name, shape in {"rgb": (13, 17, 3), "rgba": (13, 17, 4), "gray": (13, 17), "l": (13, 17)}.items():
        image = decode("png", data, name)
        assert (image.shape, image.dtype) == (shape, np.float32)
        assert 0 <= image.min() <= image.max() <= 1
    modes = {"pil": "RGB", "pilrgb": "RGB", "pilrgba": "RGBA", "pilgray": "L", "pill": "L"}
    assert {name: decode("png", data, name).mode for name in modes} == modes


def test_floats_are_rounded_so_that_rgb_comes_back_exactly():
    floats = decode("png", encode("png", COLOUR), "rgb")
    assert np.array_equal(decode("png", encode("png", floats)), COLOUR)
    assert np.array_equal(decode("png", encode("png", floats.astype(np.float64))), COLOUR)


@pytest.mark.parametrize("field", ["png", "tif", "ppm", "pnm", "pgm", "pbm", "jpg", "webp", "bmp"])
@pytest.mark.parametrize(
    "value",
    [
        COLOUR / 128.0,
        np.full((3, 3), -0.01),
        np.full((3, 3), np.nan),
        COLOUR.astype(np.int64),
        COLOUR.astype(np.int8),
        np.zeros((2, 3, 4, 3), np.uint8),
        np.zeros((3, 5, 2), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        {"a": 1},
        None,
    ],
    ids=lambda v: f"{getattr(v, 'dtype', type(v).__name__)}-{getattr(v, 'shape', '')}",
)
def test_what_is_no_image_of_this_format_is_refused(field, value):
    with pytest.raises(CodecError, match=f"field '{field}': cannot encode"):
        encode(field, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("jpg", DEEP),
        ("bmp", DEEP),
        ("webp", DEEP),
        ("jpg", ALPHA),
        ("ppm", ALPHA),
        ("pgm", COLOUR),
        ("pbm", COLOUR),
        ("pbm", COLOUR[:, :, 0]),
        ("png", COLOUR[:, :, 0] > 99),
        ("gif", COLOUR),
        ("gif", PIL.Image.fromarray(COLOUR)),
        ("jpg", PIL.Image.fromarray(ALPHA)),
    ],
)
def test_what_a_format_would_lose_is_refused(field, value):
    with pytest.raises(CodecError):
        encode(field, value)


def test_pbm_holds_black_and_white():
    mask = COLOUR[:, :, 0] > 127
    for value in (mask, mask.astype(np.uint8) * 255, PIL.Image.fromarray(mask)):
        data = encode("pbm", value)
        assert np.array_equal(np.array(PIL.Image.open(io.BytesIO(data))), mask)
        assert np.array_equal(decode("pbm", data, "gray8") == 255, mask)


def test_jpeg_is_close_and_reads_as_pillow_reads_it():
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)[:, :, None] + np.zeros(3, np.uint8)
    for value in (smooth, PIL.Image.fromarray(smooth)):
        data = encode("jpg", value)
        assert np.abs(decode("jpg", data).astype(int) - smooth).max() <= 3
        assert np.array_equal(decode("jpg", data), np.array(PIL.Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_of_every_mode_gives_what_pillow_gives(mode):
    image = PIL.Image.fromarray(ALPHA if "A" in mode else COLOUR).convert(mode)
    data = file_of(image, "PNG")
    assert np.array_equal(decode("png", data), np.array(image.convert("RGB")))
    assert np.array_equal(decode("png", data, "rgba8"), np.array(image.convert("RGBA")))
    assert np.array_equal(np.array(decode("png", data, "pil")), np.array(image.convert("RGB")))
    grey = decode("png", data, "gray8").astype(int)
    assert np.abs(grey - np.array(image.convert("RGB").convert("L"))).max() <= 1  # another rounding


def test_a_transparent_palette_gives_what_pillow_gives():
    image = PIL.Image.fromarray(COLOUR).quantize(16)
    data = file_of(image, "PNG", transparency=3)
    expected = PIL.Image.open(io.BytesIO(data)).convert("RGBA")
    assert np.array_equal(decode("png", data, "rgba8"), np.array(expected))
    assert np.array_equal(np.array(decode("png", data, "pil")), np.array(expected)[:, :, :3])


def test_pixels_of_floats_are_kept_and_never_forced_into_8_bits():
    data = file_of(DEEP[:, :, 0].astype(np.float32) / 7, "TIFF")
    assert np.array_equal(decode("tif", data, "stored"), DEEP[:, :, 0].astype(np.float32) / 7)
    for name in ("rgb8", "gray8", "rgba8", "pil"):
        with pytest.raises(CodecError, match="do not fit 8 bits"):
            decode("tif", data, name)
    with pytest.raises(CodecError, match="do not fit 8 bits"):
        decode("png", encode("png", DEEP[:, :, 0]), "pil")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_images_are_known_by_their_content_not_by_the_field(kind):
    data = file_of(COLOUR, kind, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.array(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode("jpg", data), expected)


def test_exif_orientation_is_not_applied():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = file_of(COLOUR, "JPEG", exif=exif, quality=100)
    for name in (True, "rgb8", "gray8", "rgba8", "stored", "rgb"):
        assert decode("jpg", data, name).shape[:2] == (13, 17)


def test_a_cmyk_jpeg_is_read_as_colours():
    plain = PIL.Image.new("RGB", (16, 16), (200, 30, 90))
    image = decode("jpg", file_of(plain.convert("CMYK"), "JPEG", quality=100))
    assert np.abs(image.astype(int) - (200, 30, 90)).max() <= 4


def test_a_cut_image_is_an_error_wherever_it_is_cut(capfd):
    for field in ("jpg", "png"):
        data = bytes(encode(field, COLOUR))
        for end in range(0, len(data), 7):
            with pytest.raises(CodecError):
                decode(field, data[:end])
    assert capfd.readouterr() == ("", ""), "nothing is printed behind our back"


def test_a_png_with_a_flipped_bit_is_an_error_that_says_where(capfd):
    data = bytearray(encode("png", COLOUR))
    data[60] ^= 1
    with pytest.raises(CodecError, match="chunk at byte 33 has a bad checksum"):
        decode("png", bytes(data))
    assert capfd.readouterr() == ("", "")


def test_what_a_png_says_beside_the_picture_is_not_parsed(capfd):
    data = bytes(encode("png", COLOUR))
    chunk = b"iCCP" + b"broken profile"
    chunk = len(chunk[4:]).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    assert np.array_equal(decode("png", data[:33] + chunk + data[33:]), COLOUR)
    assert capfd.readouterr() == ("", "")


def test_bytes_behind_a_jpeg_do_no_harm():
    data = bytes(encode("jpg", COLOUR))
    assert np.array_equal(decode("jpg", data + b"\0" * 100), decode("jpg", data))


def test_decoded_images_are_the_callers_own():
    image = decode("png", encode("png", COLOUR))
    image[0, 0] = 0
    assert image.flags.writeable
    assert image.flags.c_contiguous
