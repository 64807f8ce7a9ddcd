"""msgpack and CBOR, through the libraries of the extra `formats`."""

from __future__ import annotations

from typing import Any

from wlshard.codecs.codec import Buffer, missing


def decode_msgpack(data: Buffer) -> Any:
    """Read msgpack; keys of maps must be str or bytes, as in webdataset."""
    try:
        import msgpack
    except ImportError:
        raise missing("msgpack", "formats") from None
    try:
        return msgpack.unpackb(data)
    except msgpack.exceptions.UnpackException as error:
        raise ValueError(f"bad msgpack data ({type(error).__name__}: {error})") from error


def encode_msgpack(value: Any) -> bytes:
    """Write msgpack; tuples become lists."""
    try:
        import msgpack
    except ImportError:
        raise missing("msgpack", "formats") from None
    packed: bytes = msgpack.packb(value)
    return packed


def decode_cbor(data: Buffer) -> Any:
    """Read one CBOR item (RFC 8949)."""
    try:
        import cbor2
    except ImportError:
        raise missing("cbor2", "formats") from None
    try:
        return cbor2.loads(bytes(data))
    except cbor2.CBORError as error:
        raise ValueError(f"bad CBOR data ({error})") from error


def encode_cbor(value: Any) -> bytes:
    """Write CBOR."""
    try:
        import cbor2
    except ImportError:
        raise missing("cbor2", "formats") from None
    try:
        packed: bytes = cbor2.dumps(value)
    except cbor2.CBORError as error:
        raise ValueError(str(error)) from error
    return packed
