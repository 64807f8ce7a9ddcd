"""A disk that really fills up: a small tmpfs, mounted for this test alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, sys
from wlshard.errors import WlshardError
from wlshard.pool.pool import Pool
from wlshard.pool.writer import ShardWriter

root = sys.argv[1]
pool = Pool(root + "/pool").create()
written, told, codes = 0, [], []
for start in range(30):
    try:
        with ShardWriter(pool, shard_samples=7) as writer:
            for number in range(20):
                writer.write({"__key__": f"{start:02d}-{number:02d}", "bin": os.urandom(20_000)})
    except WlshardError as error:
        codes.append(error.code)
    told += [url.rpartition("/")[2] for url in writer.shards]
    try:
        pool.rotate()
    except WlshardError as error:
        codes.append(error.code)
space = os.statvfs(root)
full = {"codes": codes, "sealed": told, "free": space.f_bavail * space.f_frsize}
os.unlink(root + "/ballast")  # somebody makes room
pool.rotate()
named = {(shard.name, shard.promoted) for n in pool.generations() for shard in pool.manifest(n).shards}
promoted = [name for name, _ in named]
left = [name for name in os.listdir(root + "/pool/shards") if "partial" in name]
print(json.dumps({**full, "promoted": promoted, "left": left}))
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="only root may mount a small disk"
)
def test_a_full_disk_is_told_and_loses_nothing_that_was_sealed(tmp_path):
    inside = (
        f"mount -t tmpfs -o size=6m none {tmp_path} && head -c 1000000 /dev/zero >{tmp_path}/ballast && "
        f'exec {sys.executable} -c "$SCRIPT" {tmp_path}'
    )
    environ = os.environ | {"SCRIPT": SCRIPT}
    done = subprocess.run(["unshare", "-m", "sh", "-c", inside], env=environ, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 12 in found["codes"], "the disk was never full"
    assert set(found["codes"]) == {12}
    assert set(found["sealed"]) <= set(found["promoted"])
    assert len(found["promoted"]) == len(set(found["promoted"]))
    assert found["left"] == []
