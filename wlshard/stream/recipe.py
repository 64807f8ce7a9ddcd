"""What is to be made of samples, in words that another process understands, and what makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from wlshard.errors import UsageError
from wlshard.sample import Sample
from wlshard.shards.reader import OnError
from wlshard.stream.arguments import check_functions
from wlshard.stream.fields import Fields, preparer
from wlshard.stream.finish import Finisher
from wlshard.stream.window import Placed

if TYPE_CHECKING:
    from wlshard.stream.collate import BatchTransform, Collate, Empty


class Step(NamedTuple):
    """What the consumer gets in a step, made of so many good `samples`; of none, there is no `value`.

    `padded` of them come elsewhere too; `skipped` faults were gone past.
    """

    value: Any
    samples: int
    padded: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Recipe:
    """The arguments of a Loader that say what is made of samples. UsageError for those that make no sense."""

    fields: Fields
    decode: bool | str
    transform: Callable[..., Any] | None
    batch_transform: BatchTransform
    collate_fn: Collate | None
    batched: bool
    seed: int
    on_error: OnError

    def __post_init__(self) -> None:
        check_functions(
            transform=self.transform, batch_transform=self.batch_transform, collate_fn=self.collate_fn
        )
        if not self.batched and (self.batch_transform is not None or self.collate_fn is not None):
            raise UsageError("batch_transform= and collate_fn= need a batch_size=")
        Maker(self)


class Maker:
    """Makes what a recipe says. `empty(shape, dtype)` gives memory for arrays; `watch` sees each sample."""

    def __init__(
        self, recipe: Recipe, empty: Empty | None = None, watch: Callable[[Sample], None] | None = None
    ) -> None:
        prepare = preparer(recipe.fields, recipe.decode)
        self._finish = Finisher(
            prepare, recipe.on_error, transform=recipe.transform, seed=recipe.seed, watch=watch
        )
        self._collate: Collate | None = None
        if recipe.batched:
            from wlshard.stream.collate import collator  # brings numpy, which samples() can do without

            self._collate = collator(recipe.collate_fn, recipe.batch_transform, empty)

    def __call__(self, placed: list[Placed], epoch: int, coming: Iterator[Placed] | None) -> Step:
        """Make a step of its samples as read.

        Where other ranks would wait in vain for a step of bad samples, those `coming` let one stand in.
        """
        faults = self._finish.skipped.faults
        samples = self._finish(placed, epoch)
        skipped = self._finish.skipped.faults - faults
        padded = 0
        if not samples:
            if coming is None:
                return Step(None, 0, 0, skipped)
            samples, padded = [self._finish.stand_in(coming, epoch)], 1
        value = samples[0] if self._collate is None else self._collate(samples)
        return Step(value, len(samples), padded, skipped)
