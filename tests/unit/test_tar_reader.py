"""The strict tar reader: what it accepts, what it refuses, where it says so, and what it holds."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import deque

import pytest
from tars import END, Bytes, contents, header, member, members_of, names_until_fault, pax, simple, walk

from wlshard.errors import TarError
from wlshard.store.connect import locate
from wlshard.tar import tape
from wlshard.tar.blocks import Blocks
from wlshard.tar.header import member_header
from wlshard.tar.reader import read_members


def fault_of(data: bytes, **keywords: object) -> TarError:
    with pytest.raises(TarError) as caught:
        members_of(data, **keywords)
    assert caught.value.url == "t.tar"
    assert caught.value.offset is not None
    return caught.value


def test_members_come_in_order_with_their_places_and_bytes() -> None:
    data = simple(3)
    for m in members_of(data):
        assert data[m.data : m.data + m.size] == bytes(m.payload)
        assert data[m.start : m.start + len(m.name)].decode() == m.name
        assert m.data == m.start + 512
    assert [m.name for m in members_of(data)][:4] == ["0000.cls", "0000.empty", "0000.jpg", "0001.cls"]


def test_an_empty_tar_has_no_members() -> None:
    assert members_of(END) == []


def test_padding_of_any_length_may_follow_the_end_mark() -> None:
    assert len(members_of(simple(2) + bytes(512 * 5000))) == 6


@pytest.mark.parametrize("block_bytes", [512, 1024, 1536, 4096, 1 << 20])
def test_the_size_of_the_blocks_changes_nothing(block_bytes: int) -> None:
    data = simple(5)
    found = []
    for members, fault, *_ in walk(Bytes(data), "t", block_bytes=block_bytes):
        assert fault is None
        found += [(name, begin, at, size, bytes(payload)) for name, begin, at, size, payload in members]
    assert found == [(m.name.encode(), m.start, m.data, m.size, bytes(m.payload)) for m in members_of(data)]


def test_every_cut_is_an_error_after_the_members_before_it() -> None:
    data = simple(2)
    whole = [m.name.encode() for m in members_of(data)]
    ends = [m.data + (m.size + 511) // 512 * 512 for m in members_of(data)]
    for cut in range(len(data)):
        names, fault = names_until_fault(data[:cut])
        assert fault is not None, f"a cut at {cut} goes unnoticed"
        assert names == whole[: sum(end <= cut for end in ends)], cut
        assert fault.offset == cut or cut > len(data) - 1024, cut


def test_every_cut_is_an_error_where_the_store_knows_the_size() -> None:
    data = simple(1)
    for cut in range(len(data)):
        with pytest.raises(TarError):
            list(read_members(Bytes(data[:cut], sized=True), "t"))


def test_a_missing_end_mark_is_an_error() -> None:
    error = fault_of(simple(2)[:-1024])
    assert "end mark" in error.message
    assert error.offset == len(simple(2)) - 1024


def test_half_an_end_mark_is_an_error() -> None:
    assert "end mark" in fault_of(simple(2)[:-512]).message


def test_a_lone_block_of_zeros_between_members_is_an_error() -> None:
    error = fault_of(member(b"a.x", b"1") + bytes(512) + member(b"b.x", b"2") + END)
    assert error.offset == 1024
    assert "lone" in error.message


def test_concatenated_tars_are_an_error() -> None:
    error = fault_of(simple(2) + simple(1))
    assert "end mark" in error.message
    assert error.offset == len(simple(2))


def test_one_stray_byte_after_the_end_mark_is_an_error() -> None:
    error = fault_of(simple(1) + bytes(99) + b"!" + bytes(412))
    assert error.offset == len(simple(1)) + 99


def test_padding_that_is_no_whole_block_is_an_error() -> None:
    assert "padding" in fault_of(simple(1) + bytes(100)).message


def test_padding_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "MAX_PADDING_BYTES", 4096)
    assert "without end" in fault_of(simple(1) + bytes(1 << 16)).message


@pytest.mark.parametrize("at", [0, 99, 124, 148, 156, 157, 257, 300, 345, 511])
@pytest.mark.parametrize("which", [0, 1, 5])
def test_one_changed_byte_in_any_header_is_an_error(at: int, which: int) -> None:
    data = bytearray(simple(2))
    start = members_of(bytes(data))[which].start
    data[start + at] ^= 0x11
    error = fault_of(bytes(data))
    assert error.offset == start


def test_a_web_page_is_no_tar() -> None:
    error = fault_of(b"<!DOCTYPE html>".ljust(4096, b" "))
    assert "no tar" in error.message
    assert error.offset == 0


def test_an_empty_file_is_an_error() -> None:
    assert fault_of(b"").offset == 0


def test_sizes_may_be_base_256_and_padded_with_blanks() -> None:
    size = b"\x80" + (5).to_bytes(11, "big")
    assert contents(header(b"a.x", raw_size=size) + b"hello".ljust(512, b"\0") + END) == [("a.x", b"hello")]
    blanks = header(b"a.x", raw_size=b"          5 ") + b"hello".ljust(512, b"\0") + END
    assert contents(blanks) == [("a.x", b"hello")]


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"-0000000005\0", b"0x000000005\0", b"00000_00005\0", b"00000000009\0"]
)
def test_a_size_that_is_no_octal_number_is_an_error(size: bytes) -> None:
    assert fault_of(member(b"a.x", b"1") + header(b"b.x", raw_size=size) + END).offset == 1024


def test_a_member_of_8_gib_is_announced_and_found_cut() -> None:
    for source in (
        member_header("a.bin", 8 << 30),
        header(b"a.bin", raw_size=b"\x80" + (8 << 30).to_bytes(11, "big")),
    ):
        with pytest.raises(TarError, match="cut inside a member") as caught:
            list(read_members(Bytes(source + bytes(4096), sized=True), "t.tar"))
        assert caught.value.member == "a.bin"


def test_a_cut_that_the_size_shows_is_told_without_reading_up_to_it() -> None:
    source = Bytes(header(b"a.bin", 4 << 20) + bytes(3 << 20), sized=True)
    with pytest.raises(TarError, match="cut"):
        list(read_members(source, "t.tar"))
    assert source.calls == 1


def test_a_member_above_the_limit_is_refused_by_name() -> None:
    error = fault_of(simple(1), max_member_bytes=600)
    assert error.member == "0000.jpg"
    assert "700 bytes" in error.message


def test_a_size_no_memory_can_hold_is_refused_without_reading() -> None:
    size = b"\x80" + (1 << 60).to_bytes(11, "big")
    source = Bytes(header(b"a.x", raw_size=size) + bytes(512))
    with pytest.raises(TarError, match="at most"):
        list(read_members(source, "t"))


def test_what_is_no_file_is_passed_over_and_counted() -> None:
    data = (
        header(b"d/", kind=b"5")
        + header(b"l", kind=b"2", link=b"a.x")
        + header(b"dev", kind=b"3")
        + header(b"fifo", kind=b"6")
        + header(b"vol", kind=b"V")
        + member(b"dump/", b"Yfile\0\0", b"D")
        + header(b"v7/", kind=b"\0", magic=bytes(8))
        + member(b"a.x", b"1")
        + END
    )
    counts: dict[str, int] = {}
    found = [m for members, _, *_ in walk(Bytes(data), "t", passed_over=counts) for m in members]
    assert [m[0] for m in found] == [b"a.x"]
    assert counts == {"directories": 3, "symlinks": 1, "devices": 1, "fifos": 1, "volume labels": 1}


def test_the_second_part_of_a_split_tar_is_refused() -> None:
    assert "volume" in fault_of(member(b"a.x", b"1", b"M") + END).message


def test_names_of_full_length_and_with_prefix_are_whole() -> None:
    full = b"n" * 96 + b".jpg"
    data = member(full, b"1") + member(b"b.jpg", b"2", prefix=b"p" * 155) + member(b"c.jpg", b"3") + END
    assert [name for name, _ in contents(data)] == [full.decode(), "p" * 155 + "/b.jpg", "c.jpg"]


def test_what_stands_behind_a_names_nul_is_not_its_part() -> None:
    name = b"a.x\0" + b"junk" * 24
    assert contents(member(b"b.x", b"0") + member(name[:100], b"1") + END)[1] == ("a.x", b"1")


def test_names_that_are_no_utf8_come_with_surrogates() -> None:
    assert contents(member(b"\xff\xfe.x", b"1") + END) == [("\udcff\udcfe.x", b"1")]


def test_a_pax_header_names_and_sizes_its_member_only() -> None:
    data = pax(path="längerer/name.jpg", size="3") + header(b"short", 0) + b"abc".ljust(512, b"\0")
    assert contents(data + member(b"b.x", b"2") + END) == [("längerer/name.jpg", b"abc"), ("b.x", b"2")]


def test_pax_headers_that_say_nothing_to_us_are_stepped_over() -> None:
    times = pax(mtime="1700000000.5", uid="5", uname="somebody")
    data = b"".join(times + member(b"%d.x" % i, b"%d" % i) for i in range(5)) + END
    assert contents(data) == [(f"{i}.x", b"%d" % i) for i in range(5)]
    assert members_of(data)[1].start == 2048
    assert members_of(data)[1].data == 2048 + 1536


def test_a_pax_time_does_not_hide_a_path_in_the_same_header() -> None:
    data = member(b"a.x", b"1") + pax(mtime="1", path="other.x") + member(b"b.x", b"2") + END
    assert contents(data)[1] == ("other.x", b"2")


def test_an_empty_pax_value_takes_the_record_back() -> None:
    assert contents(pax(path="") + member(b"b.x", b"2") + END) == [("b.x", b"2")]


@pytest.mark.parametrize(
    "body", [b"99 path=a\n", b"path=a\n", b"0 path=a\n", b"9 path=a!", b"7 path\n", b"12 size=ten!\n"]
)
def test_a_malformed_pax_record_is_an_error(body: bytes) -> None:
    fault_of(member(b"PaxHeader", body, b"x") + member(b"a.x", b"1") + END)


def test_an_extension_header_without_its_member_is_an_error() -> None:
    fault_of(pax(path="a.x") + END)
    fault_of(pax(path="a.x"))


def test_a_huge_extension_header_is_refused() -> None:
    assert "extension" in fault_of(header(b"x", 1 << 30, b"x") + END).message


def test_a_global_pax_header_holds_for_all_that_follow() -> None:
    body = member(b"g", b"12 path=q.x\n", b"g")
    assert [n for n, _ in contents(member(b"a.x", b"1") + body + member(b"b.x") + member(b"c.x") + END)] == [
        "a.x",
        "q.x",
        "q.x",
    ]


def test_a_checksum_of_signed_bytes_is_accepted() -> None:
    block = bytearray(header(b"\xe9.x"))
    block[148:156] = b" " * 8
    signed = sum(byte - 256 if byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % signed
    assert [m.name for m in members_of(bytes(block) + END)] == ["\udce9.x"]


def test_a_hard_link_in_a_stream_is_an_error_that_says_what_to_do() -> None:
    error = fault_of(member(b"a.x", b"1") + header(b"b.x", kind=b"1", link=b"a.x") + END)
    assert error.member == "b.x"
    assert "--hard-dereference" in error.message


def test_after_a_fault_reading_goes_on_at_the_next_header_that_checks() -> None:
    data = bytearray(simple(3))
    data[members_of(bytes(data))[2].start + 5] ^= 1
    faults: list[TarError] = []
    found = [m.name for m in members_of(bytes(data), on_fault=faults.append)]
    assert found == [
        "0000.cls",
        "0000.empty",
        "0001.cls",
        "0001.empty",
        "0001.jpg",
        "0002.cls",
        "0002.empty",
        "0002.jpg",
    ]
    assert len(faults) == 1


def test_concatenated_tars_are_read_through_by_those_who_go_on() -> None:
    faults: list[TarError] = []
    assert len(members_of(simple(2) + simple(1) + simple(1), on_fault=faults.append)) == 12
    assert len(faults) == 2


def test_a_member_that_is_too_large_is_stepped_over_by_those_who_go_on() -> None:
    faults: list[TarError] = []
    big = member(b"big.x", simple(1)) + simple(1)  # its data looks like members
    found = members_of(big, on_fault=faults.append, max_member_bytes=1000)
    assert [m.name for m in found] == ["0000.cls", "0000.empty", "0000.jpg"]
    assert len(faults) == 1


def test_payloads_cannot_be_written_to() -> None:
    payload = members_of(simple(1))[0].payload
    assert isinstance(payload, memoryview)
    assert payload.readonly


def test_payloads_larger_than_a_block_start_on_a_page_and_are_whole() -> None:
    big = os.urandom(3_000_000)
    data = member(b"a.bin", big) + member(b"a.npy", big[::-1]) + member(b"a.z", b"1") + END
    found = members_of(data)
    assert [bytes(m.payload) for m in found] == [big, big[::-1], b"1"]
    for m in found[:2]:
        assert _address(m.payload) % 4096 == 0


def _address(view: memoryview | bytes) -> int:
    import numpy as np

    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])


def test_payloads_stay_as_they_are_while_reading_goes_on() -> None:
    data = simple(2000)
    held, copies = [], []
    for members, _, *_ in walk(Bytes(data), "t", block_bytes=4096):
        for _, _, _, _, payload in members:
            held.append(payload)
            copies.append(bytes(payload))
    assert [bytes(payload) for payload in held] == copies


def test_blocks_nobody_looks_at_are_used_again() -> None:
    blocks = Blocks()
    seen = set()
    for members, _, *_ in walk(Bytes(simple(2000)), "t", block_bytes=1 << 16, blocks=blocks):
        seen |= {id(payload.obj) for *_, payload in members if isinstance(payload, memoryview)}
    assert len(seen) <= 3


def test_a_block_is_given_back_with_its_last_view() -> None:
    ring = Blocks(most=2)
    first = ring.take(1 << 16)
    view = memoryview(first)[10:20]
    name = id(first)
    del first
    others = [ring.take(1 << 16) for _ in range(3)]
    assert name not in [id(block) for block in others]
    assert len(view) == 10
    del view, others


def test_a_block_still_looked_at_through_an_array_is_not_reused() -> None:
    import numpy as np

    ring = Blocks()
    array = np.frombuffer(memoryview(ring.take(4096)).toreadonly()[100:200], np.uint8)
    busy = array.base.obj if isinstance(array.base, memoryview) else None
    assert isinstance(busy, mmap.mmap)
    assert ring.take(4096) is not busy
    del array, busy
    assert ring.take(4096) is not None


def test_copies_are_bytes_and_equal() -> None:
    data = simple(3)
    found = [
        (name, payload)
        for members, _, *_ in walk(Bytes(data), "t", copy=True)
        for name, *_, payload in list(members)
    ]
    assert all(type(payload) is bytes for _, payload in found)
    assert [payload for _, payload in found] == [bytes(m.payload) for m in members_of(data)]


def test_a_span_needs_no_end_mark_but_whole_members() -> None:
    data = simple(2)
    second = members_of(data)[3].start
    span = data[second:-1024]
    batches = [(list(m), f) for m, f, *_ in walk(Bytes(span), "t", start=second, span=True)]
    assert [m[0] for members, _ in batches for m in members] == [b"0001.cls", b"0001.empty", b"0001.jpg"]
    assert batches[0][0][0][1] == second
    assert all(fault is None for _, fault in batches)
    assert any(fault for _, fault, *_ in walk(Bytes(span[:-512]), "t", span=True))


def test_without_payloads_large_members_are_jumped_over(tmp_path) -> None:
    from wlshard.tar.links import Hopper

    path = tmp_path / "big.tar"
    path.write_bytes(b"".join(member(b"%d.bin" % i, bytes(1 << 20)) for i in range(5)) + END)
    store, name = locate(str(path))
    opened = []

    def open_at(at: int):
        opened.append(at)
        return store.open(name, at)

    with Hopper(open_at) as source:
        batches = walk(source, "t", payloads=False, seek=source.seek, block_bytes=4096)
        found = [(m[0], m[3]) for members, fault, *_ in batches for m in members]
    assert found == [(b"%d.bin" % i, 1 << 20) for i in range(5)]
    assert len(opened) == 6


def test_the_memory_of_a_block_is_freed_when_the_pass_is_dropped() -> None:
    blocks = Blocks()
    held = weakref.ref(blocks)
    batches = walk(Bytes(simple(3)), "t", blocks=blocks)
    next(batches)
    batches.close()
    del batches, blocks
    assert held() is None


def test_a_forked_child_that_reads_on_changes_nothing_under_its_parent() -> None:
    block = Blocks().take(4096)
    block[:4] = b"mine"
    child = os.fork()
    if not child:
        block[:4] = b"hers"
        os._exit(0)
    os.waitpid(child, 0)
    assert block[:4] == b"mine"


def test_threads_never_share_a_buffer() -> None:
    ring, clashes = Blocks(), []

    def use(number: int) -> None:
        for _ in range(2000):
            view = memoryview(ring.take(4096))
            view[:2] = mark = bytes([number, number])
            if bytes(view[:2]) != mark:
                clashes.append(number)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes
    assert len(ring._ring) <= 64 + 6


def test_idle_buffers_of_other_sizes_do_not_pile_up() -> None:
    ring, held = Blocks(), deque(maxlen=50)
    sizes = [3 << 14, 1 << 18, 5 << 14, 9 << 15]
    for n in range(2000):
        held.append(memoryview(ring.take(sizes[n // 100 % len(sizes)])))
        assert sum(map(len, ring._ring)) <= 51 * max(sizes)
    assert len({id(view.obj) for view in held}) == 50


def test_idle_buffers_are_kept_up_to_a_limit() -> None:
    ring = Blocks()
    held = [ring.take(1 << 16) for _ in range(10)]
    busy = memoryview(held.pop())
    del held
    ring.trim(3 << 16)
    assert len(ring._ring) == 4
    assert busy.obj in ring._ring
