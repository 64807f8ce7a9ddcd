"""What a `source` means, wherever one is accepted: a pool, one generation of it, or plain shards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wlshard.errors import LostLease, NotFound
from wlshard.shards.expand import expand

if TYPE_CHECKING:  # where shards are named, pools are not loaded: that would take as long as all the rest
    from wlshard.pool.pool import Pool

# Nothing that looks like this is asked for a pool: one request less where shards lie on a web server.
_SHARDS = re.compile(r"-|pipe:.*|.*(::|[{}*?]|\.(tar|tgz|json|idx)(\.\w+)?$)", re.DOTALL)


@dataclass(frozen=True)
class Resolved:
    """A pool (and, from `POOL@n`, the one generation meant), or else the URLs of shards."""

    pool: Pool | None = None
    generation: int | None = None
    urls: list[str] = field(default_factory=list)


def resolve(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Pool) -> Resolved:
    """Find out what a source names: `POOL`, `POOL@n`, a Pool, or what `shards.expand` takes.

    Looks for wlshard.json where a single name could be a pool's. NotFound, UsageError: as `expand`; NotFound
    for a generation that is not there.
    """
    if isinstance(source, str | os.PathLike) and _SHARDS.fullmatch(os.fspath(source)):
        return Resolved(urls=expand(source))
    from wlshard.pool.names import GENERATION
    from wlshard.pool.pool import Pool

    if isinstance(source, Pool):
        source.require()
        return Resolved(pool=source)
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if (pool := Pool(text)).exists():
            return Resolved(pool)
        found = GENERATION.fullmatch(text)
        if found and (pool := Pool(found[1])).exists():
            return Resolved(pool, pool.manifest(int(found[2])).generation)
    return Resolved(urls=expand(source))


@contextmanager
def leased_shards(source: str | Resolved) -> Iterator[list[str]]:
    """List the shards that a source names; those of a pool's generation are leased inside the block.

    NotFound: it has none yet. LostLease: one that is missed inside the block was deleted meanwhile.
    """
    found = source if isinstance(source, Resolved) else resolve(source)
    if found.pool is None:
        yield found.urls
        return
    if not found.pool.shards(found.generation):
        advice = "this generation holds no samples yet: run wl-rotate, or wait for one"
        raise NotFound(advice, url=found.pool.url)
    from wlshard.pool.follow import Follower
    from wlshard.shards.output import is_there

    reader = Follower(found.pool, found.generation, follow=False, timeout_s=0)
    try:
        manifest = reader.choose()
        urls = reader.urls(manifest)
        try:
            yield urls
        except NotFound as error:
            if error.url in urls and not is_there(error.url):
                raise LostLease.by(error, manifest.generation) from error
            raise
    finally:
        reader.close()
