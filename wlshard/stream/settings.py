"""The arguments of a Loader that say which samples come when."""

from __future__ import annotations

from dataclasses import dataclass, replace

from wlshard.errors import UsageError
from wlshard.stream.arguments import count_or_none, only_one, rank_and_world, whole
from wlshard.stream.finish import skips
from wlshard.stream.order import LANES_PER_RANK, shape_of
from wlshard.stream.recipe import Recipe


@dataclass(frozen=True)
class Settings:
    """What decides the order, and where epochs end. UsageError for what makes no sense."""

    recipe: Recipe
    batch_size: int | None
    shuffle: int
    spans: int
    epochs: int | None
    batches: int | None
    drop_last: bool
    rank: int | None
    world_size: int | None
    follow: str | int | None
    resume: str
    reuse: int | None

    def __post_init__(self) -> None:
        only_one(epochs=self.epochs, batches=self.batches)
        rank, world_size = rank_and_world(self.rank, self.world_size)
        checked = {
            "batch_size": count_or_none("batch_size", self.batch_size),
            "shuffle": whole("shuffle", self.shuffle, 0),
            "spans": whole("spans", self.spans, 1),
            "epochs": count_or_none("epochs", self.epochs),
            "batches": count_or_none("batches", self.batches),
            "reuse": count_or_none("reuse", self.reuse),
            "rank": rank,
            "world_size": world_size,
        }
        each = self.per_sample
        window = shape_of(self.batch, self.shuffle, 1, True, each, self.spans).window
        held = LANES_PER_RANK * window // each + 2
        self.__dict__["recipe"] = replace(self.recipe, held=held)
        if self.follow not in ("epoch", None):
            try:
                checked["follow"] = whole("follow", self.follow, 1)
            except UsageError:
                said = 'say "epoch", a number of batches, or None to stay with one generation'
                raise UsageError(f"follow={self.follow!r}: {said}") from None
        self.__dict__.update(checked)  # numbers of numpy too, as a cursor holds them
        if self.resume not in ("fail", "advance"):
            raise UsageError(f'resume={self.resume!r}: say "fail" or "advance"')

    @property
    def batch(self) -> int:
        return self.batch_size or 1

    @property
    def skip(self) -> bool:
        return skips(self.recipe.on_error)

    @property
    def seed(self) -> int:
        return self.recipe.seed

    @property
    def per_sample(self) -> int:
        return self.recipe.per_sample

    @property
    def selects(self) -> bool:
        return self.recipe.select is not None
