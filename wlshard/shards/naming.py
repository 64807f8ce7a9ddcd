"""Which keys and fields a shard may hold: only those that every reader will split back as they are."""

from __future__ import annotations

from functools import lru_cache

from wlshard.errors import GroupingError, printable
from wlshard.sample import split_name


def check_key(key: object) -> str:
    """Give the key back if a member `<key>.<field>` splits into it again, else raise GroupingError."""
    if key is None:
        raise GroupingError("a sample without a key: give it its __key__")
    if not isinstance(key, str):
        raise GroupingError(f"the key {key!r} is no string: make it one, zero-padded if it counts")
    if key.isalnum():
        return key
    if not key.isprintable():
        _refuse_controls(key, "key", key)
    if split_name(f"{key}.x") != (key, "x"):
        why = "a key ends at the first dot of its last part and that part is not empty"
        raise GroupingError(f"{why}: replace the dots, by _ for example", key=key)
    if key[0] in "./" and key.startswith(("./", "/")):
        raise GroupingError("readers drop a leading / or ./: leave it out of the key", key=key)
    if ".." in key and ".." in key.split("/"):
        raise GroupingError("a key may not climb out of its folder: leave .. out of it", key=key)
    return key


@lru_cache(maxsize=4096)
def fields_of(names: tuple[object, ...]) -> tuple[str, ...]:
    """Sort the fields among a sample's names: all but the `__names__` that describe it."""
    return tuple(sorted(check_field(name) for name in names if not str(name).startswith("__")))


def check_field(field: object) -> str:
    """Give the field back if a member `<key>.<field>` splits into it again, else raise GroupingError."""
    if not isinstance(field, str):
        raise GroupingError(f"the field {field!r} is no string: name it like an extension, `npy`")
    if not field.isprintable():
        _refuse_controls(field, "field", None)
    if field != field.lower():
        raise GroupingError(f"field {field!r}: fields are lower-case, write {field.lower()!r}")
    if split_name(f"x.{field}") != ("x", field):
        raise GroupingError(f"field {printable(field)!r}: not empty and no slash, like `npy` or `left.png`")
    if field.split() != [field]:
        raise GroupingError(f"field {printable(field)!r} has a blank, which the index cannot hold: use _")
    return field


def _refuse_controls(text: str, what: str, key: str | None) -> None:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise GroupingError(f"the {what} cannot be encoded as UTF-8: rename it", key=key) from None
    found = [char for char in text if char < " " or "\x7f" <= char <= "\x9f"]
    if found:
        raise GroupingError(
            f"the {what} {text!r} holds a control character ({found[0]!r}): rename it", key=key
        )
