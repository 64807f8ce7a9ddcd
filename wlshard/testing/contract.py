"""What every store must do, as test classes for pytest: inherit one and give it its fixture.

class TestMyStore(StoreContract):
    @pytest.fixture
    def store(self): return MyStore(...)      # empty, writable

class TestMyReadOnlyStore(ReadContract):
    @pytest.fixture
    def laid(self): return MyStore(...)       # holds OBJECTS
"""

from __future__ import annotations

import threading
from typing import ClassVar

import pytest

from wlshard.errors import NotFound, StoreUnavailable, UsageError
from wlshard.store.base import Store

OBJECTS = {
    "small": b"a few bytes",
    "empty": b"",
    "shards/large.tar": bytes(range(256)) * 4096,
    "shards/deep/a b +é.json": b"{}",
}


class ReadContract:
    """Reading: needs a fixture `laid`, a store that holds OBJECTS."""

    def test_an_object_is_read_whole(self, laid: Store) -> None:
        for name, data in OBJECTS.items():
            assert laid.read(name) == data

    def test_a_reader_gives_the_bytes_from_start_on(self, laid: Store) -> None:
        data = OBJECTS["shards/large.tar"]
        for start in (0, 1, 70_000, len(data) - 1):
            with laid.open("shards/large.tar", start) as reader:
                block, got = bytearray(300_000), bytearray()
                while count := reader.readinto(block):
                    got += block[:count]
            assert got == data[start:]

    def test_only_the_last_read_is_short(self, laid: Store) -> None:
        data = OBJECTS["shards/large.tar"]
        with laid.open("shards/large.tar") as reader:
            block = memoryview(bytearray(len(data) - 5))
            assert reader.readinto(block) == len(block)
            assert reader.readinto(block) == 5
            assert reader.readinto(block) == 0

    def test_a_start_at_or_past_the_end_reads_nothing(self, laid: Store) -> None:
        for start in (len(OBJECTS["small"]), 10_000):
            with laid.open("small", start) as reader:
                assert reader.readinto(bytearray(10)) == 0

    def test_a_reader_knows_the_size_and_closes_twice(self, laid: Store) -> None:
        reader = laid.open("small", 3)
        assert reader.bytes in (len(OBJECTS["small"]), None)
        reader.close()
        reader.close()

    def test_stat_tells_the_size(self, laid: Store) -> None:
        for name, data in OBJECTS.items():
            entry = laid.stat(name)
            assert (entry.name, entry.bytes) == (name, len(data))

    def test_what_is_absent_is_not_found_and_says_its_url(self, laid: Store) -> None:
        for call in (laid.read, laid.open, laid.stat):
            with pytest.raises(NotFound) as caught:
                call("shards/absent.tar")
            assert caught.value.url is not None
            assert caught.value.url.endswith("shards/absent.tar")

    def test_no_scratch_is_seen_where_none_was_left(self, laid: Store) -> None:
        assert list(laid.drafts()) == []
        assert laid.reopen("small") is None


class StoreContract(ReadContract):
    """All of it: needs a fixture `store`, empty and writable."""

    bad_names: ClassVar = ["", "/etc/passwd", "../up", "a/../../up", "a//b", "a/", "./a", "a\0b"]

    @pytest.fixture
    def laid(self, store: Store) -> Store:
        for name, data in OBJECTS.items():
            store.put(name, data)
        return store

    def test_list_gives_names_sizes_and_times_below_a_prefix(self, laid: Store) -> None:
        everything = {entry.name: entry.bytes for entry in laid.list()}
        assert everything == {name: len(data) for name, data in OBJECTS.items()}
        assert {entry.name for entry in laid.list("shards/")} == {
            n for n in OBJECTS if n.startswith("shards/")
        }
        assert [entry.name for entry in laid.list("shards/la")] == ["shards/large.tar"]
        assert [entry.name for entry in laid.list("shards/", ".tar")] == ["shards/large.tar"]
        rest = {n for n in OBJECTS if n != "shards/large.tar"}
        assert {entry.name for entry in laid.list(but={"shards/large.tar", "nowhere"})} == rest
        assert list(laid.list("shards/l", ".tar", {"arge.tar"})) == []
        assert len(list(laid.list("shards/l", ".tar", {"large.tar", "shards/large.tar"}))) == 1
        assert list(laid.list("nowhere/")) == []
        assert all(abs(entry.mtime - laid.now()) < 3600 for entry in laid.list())

    def test_put_replaces(self, store: Store) -> None:
        store.put("a/b", b"old and longer")
        store.put("a/b", b"new")
        assert store.read("a/b") == b"new"

    def test_create_never_replaces(self, store: Store) -> None:
        assert store.create("a/b", b"first") is True
        assert store.create("a/b", b"second") is False
        assert store.read("a/b") == b"first"
        assert [entry.name for entry in store.list()] == ["a/b"]

    def test_of_many_creators_one_wins(self, store: Store) -> None:
        won: list[int] = []
        start = threading.Barrier(8)

        def create(number: int) -> None:
            start.wait()
            if store.create("generations/1", str(number).encode()):
                won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [str(number).encode() for number in won] == [store.read("generations/1")]

    def test_delete_is_for_present_and_absent_objects(self, store: Store) -> None:
        store.put("a", b"x")
        store.delete("a")
        store.delete("a")
        assert list(store.list()) == []

    def test_a_draft_is_unseen_until_published(self, store: Store) -> None:
        with store.draft("shards/x") as draft:
            draft.write([b"one", bytearray(b"two"), memoryview(b"three")])
            draft.sync()
            assert list(store.list()) == []
            assert draft.publish("shards/y.tar") is True
        store.sync("shards")
        assert store.read("shards/y.tar") == b"onetwothree"
        assert [entry.name for entry in store.list()] == ["shards/y.tar"]
        assert list(store.drafts()) == []

    def test_a_draft_is_rewritten_from_a_byte_on(self, store: Store) -> None:
        with store.draft("x") as draft:
            draft.write([b"sample", b"END" * 100])
            assert draft.bytes == 306
            draft.write([b"-two"], at=6)
            assert draft.bytes == 10
            draft.write([b"!"])
            draft.publish("x")
        assert store.read("x") == b"sample-two!"

    def test_a_draft_takes_many_parts_at_once(self, store: Store) -> None:
        parts = [bytes([number % 256]) * (number % 7) for number in range(5000)]
        with store.draft("x") as draft:
            draft.write(parts)
            draft.publish("x")
        assert store.read("x") == b"".join(parts)

    def test_publishing_never_replaces_unless_asked(self, store: Store) -> None:
        store.put("x", b"old")
        with store.draft("x") as draft:
            draft.write([b"new"])
            assert draft.publish("x") is False
            assert store.read("x") == b"old"
            assert draft.publish("x", replace=True) is True
        assert store.read("x") == b"new"

    def test_leaving_the_block_discards_the_draft(self, store: Store) -> None:
        with store.draft("x") as draft:
            draft.write([b"half"])
        draft.discard()
        with pytest.raises(UsageError):
            draft.write([b"more"])
        assert list(store.list()) == list(store.drafts()) == []
        store.draft("x").discard()

    def test_scratch_in_use_is_neither_listed_nor_taken_nor_shared(self, store: Store) -> None:
        with store.draft("x") as draft:
            draft.write([b"half"])
            assert list(store.drafts()) == []
            assert store.reopen("x") is None
            with pytest.raises(StoreUnavailable):
                store.draft("x")
            draft.publish("x")
        assert store.read("x") == b"half"

    def test_abandoned_scratch_is_taken_over_by_one(self, store: Store) -> None:
        draft = store.draft("shards/x")
        draft.write([b"whole samples"])
        draft.abandon()
        assert [(entry.name, entry.bytes) for entry in store.drafts("shards/")] == [("shards/x", 13)]
        assert list(store.list()) == []
        taken = store.reopen("shards/x")
        assert taken is not None
        with taken:
            assert store.reopen("shards/x") is None
            assert list(store.drafts()) == []
            block = bytearray(20)
            assert bytes(block[: taken.readinto(block)]) == b"whole samples"
        again = store.reopen("shards/x")
        assert again is not None
        again.close()
        store.drop("shards/x")
        store.drop("shards/x")
        assert list(store.drafts()) == []

    def test_names_stay_inside_the_root(self, store: Store) -> None:
        for name in self.bad_names:
            for call in (store.read, store.stat, store.delete, store.draft):
                with pytest.raises(UsageError):
                    call(name)
            with pytest.raises(UsageError):
                store.create(name, b"")

    def test_a_path_is_given_exactly_where_objects_are_files(self, store: Store) -> None:
        store.put("a", b"x")
        assert (store.path("a") is not None) == store.can.local
