"""The architecture: rooms import downward only, and each outside library has its rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "wlshard"

LAYERS: list[set[str]] = [
    {"errors", "sample", "seeds", "clock", "place"},
    {"store", "tar", "codecs"},
    {"shards"},
    {"pool", "stream"},
    {"workers", "device"},
    {"jobs", "loader"},
    {"torch", "keras", "report", "testing"},
    {"compat", "demo"},
    {"cli"},
]
LAYER = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}
NUMPY = {
    "codecs",
    "shards",
    "pool",
    "stream",
    "workers",
    "device",
    "jobs",
    "loader",
    "torch",
    "keras",
    "report",
}
NUMPY |= {"testing", "compat", "demo", "cli"}
# outside library → the rooms that may import it
HOMES: dict[str, set[str]] = {
    "fsspec": {"store"},
    "gcsfs": {"store"},
    "s3fs": {"store"},
    "botocore": {"store"},
    "urllib3": {"store"},
    "tarfile": {"tar"},
    "multiprocessing": {"workers"},
    "cloudpickle": {"workers"},
    "torch": {"device", "torch", "demo"},
    "keras": {"keras"},
    "numpy": NUMPY,
    "cv2": {"codecs"},
    "PIL": {"codecs"},
    "click": {"cli"},
    "webdataset": {"testing", "cli", "torch"},
}


def room_of(module: str) -> str:
    """`wlshard.pool.manifest` → `pool`."""
    return module.split(".")[1] if "." in module else ""


def imports_of(source: str, path: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            assert node.module is not None
            if node.module == "wlshard":
                for alias in node.names:
                    yield node.lineno, f"wlshard.{alias.name}"
            else:
                yield node.lineno, node.module


def faults_of(room: str, source: str, path: str) -> list[str]:
    faults = []
    for line, target in imports_of(source, path):
        top = target.split(".")[0]
        if top == "wlshard":
            other = room_of(target)
            same_room = other == room or LAYER.get(room) == 0 == LAYER.get(other)
            if other not in LAYER:
                faults.append(f"{path}:{line}: {target} is in no room: name the room a thing lives in")
            elif not same_room and LAYER[other] >= LAYER[room]:
                faults.append(f"{path}:{line}: {room} ({LAYER[room]}) imports {target} ({LAYER[other]})")
        elif top in HOMES and room not in HOMES[top]:
            faults.append(f"{path}:{line}: {room} imports {top}, whose rooms are {sorted(HOMES[top])}")
    return faults


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):  # the front door, lazy by itself
            found.append((parts[0], path))
    return found


def test_every_module_stands_in_a_known_room() -> None:
    assert {room for room, _ in modules()} <= set(LAYER)


def test_rooms_import_downward_only_and_libraries_stay_at_home() -> None:
    faults = [
        fault
        for room, path in modules()
        for fault in faults_of(room, path.read_text(), str(path.relative_to(PACKAGE.parent)))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("tar", "from wlshard.shards.reader import read_samples"),  # upward
        ("tar", "import wlshard.store.base"),  # sideways
        ("pool", "from wlshard.stream import order"),  # sideways
        ("stream", "def f():\n    import torch"),  # hidden in a function
        ("store", "import numpy as np"),
        ("jobs", "from multiprocessing import Process"),
    ],
)
def test_the_layer_test_sees_each_kind_of_fault(room: str, source: str) -> None:
    assert faults_of(room, source, "example.py")


def test_exception_is_caught_whole_in_three_places_only() -> None:
    places = []
    for _, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                names = [node.type] if not isinstance(node.type, ast.Tuple) else node.type.elts
                if any(n is None or (isinstance(n, ast.Name) and n.id == "Exception") for n in names):
                    places.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    allowed = {"cli/entry.py", "jobs/usercode.py", "workers/main.py"}
    assert {place.split(":")[0] for place in places} <= allowed, places
    assert len(places) <= 3, places


def test_no_module_is_longer_than_300_lines_and_no_function_than_50() -> None:
    long = []
    for _, path in modules():
        text = path.read_text()
        if text.count("\n") > 300:
            long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1
                if lines > 50:
                    long.append(f"{path.name}:{node.lineno} {node.name}: {lines} lines")
    assert not long, "\n".join(long)


def test_importing_wlshard_loads_no_heavy_library() -> None:
    heavy = ("torch", "numpy", "fsspec", "webdataset", "click")
    code = f"import sys, wlshard; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
