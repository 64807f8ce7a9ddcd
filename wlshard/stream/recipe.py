"""What is to be made of samples, in words that another process understands, and what makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from wlshard.errors import UsageError
from wlshard.sample import Sample
from wlshard.shards.reader import OnError
from wlshard.stream.arguments import check_functions, whole
from wlshard.stream.fields import Fields, Prepare, preparer
from wlshard.stream.finish import Finisher, Parts
from wlshard.stream.select import selector
from wlshard.stream.window import Placed

if TYPE_CHECKING:
    from wlshard.stream.collate import BatchTransform, Collate, Empty


class Step(NamedTuple):
    """What the consumer gets in a step, made of so many good `samples`; of none, there is no `value`.

    `padded` of them come elsewhere too; `skipped` faults were gone past. It used up `steps` of the order, and
    `given` samples of the one that follows.
    """

    value: Any
    samples: int
    padded: int = 0
    skipped: int = 0
    steps: int = 1
    given: int = 0


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
    select: Callable[..., Any] | str | None = None
    per_sample: int = 1
    held: int = 1  # samples of which parts are kept until they are given
    convert: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        check_functions(
            transform=self.transform, batch_transform=self.batch_transform, collate_fn=self.collate_fn
        )
        if whole("per_sample", self.per_sample, 1) > 1 and self.transform is None:
            raise UsageError("per_sample= needs a transform= that yields so many samples of each")
        if not self.batched and (self.batch_transform is not None or self.collate_fn is not None):
            raise UsageError("batch_transform= and collate_fn= need a batch_size=")
        Maker(self)


def collator_of(recipe: Recipe, empty: Empty | None = None) -> Collate | None:
    """Give what makes a batch of samples, or of the one; None: they are given as they are."""
    if not recipe.batched and recipe.convert is None:
        return None
    from wlshard.stream.collate import collator, converted  # brings numpy, which samples() can do without

    convert = recipe.convert
    if recipe.batched or convert is None:
        return collator(recipe.collate_fn, recipe.batch_transform, empty, convert)
    return lambda samples: converted(samples[0], convert)


def _then(prepare: Prepare, convert: Callable[[Any], Any]) -> Prepare:
    from wlshard.stream.collate import converted

    return lambda sample: converted(prepare(sample), convert)


class Maker:
    """Makes what a recipe says. `empty(shape, dtype)` gives memory for arrays; `watch` sees what is next."""

    def __init__(
        self, recipe: Recipe, empty: Empty | None = None, watch: Callable[[Sample], None] | None = None
    ) -> None:
        convert, self._lists = recipe.convert, recipe.select is not None
        # Whoever gives the memory copies what is undecoded into it, if no function is to see it before.
        seen = recipe.transform, recipe.batch_transform, recipe.collate_fn, recipe.select, convert
        views = empty is not None and all(one is None for one in seen)
        prepare = preparer(recipe.fields, recipe.decode, channels_first=convert is not None, views=views)
        if convert is not None and (recipe.transform is not None or recipe.collate_fn is not None):
            prepare = _then(prepare, convert)
        # Each sample where it might be the last that this process sees, else the first one of a step.
        crashes = recipe.decode is not False or recipe.transform is not None or recipe.select is not None
        self._watch = None if crashes else watch
        self._finish = Finisher(
            prepare,
            recipe.on_error,
            transform=recipe.transform,
            seed=recipe.seed,
            watch=watch if crashes else None,
            select=None if recipe.select is None else selector(recipe.select, recipe.decode),
            parts=Parts(recipe.per_sample, recipe.held) if recipe.per_sample > 1 else None,
        )
        self._collate = None if self._lists else collator_of(recipe, empty)

    def __call__(self, placed: list[Placed], epoch: int, coming: Iterator[Placed] | None) -> Step:
        """Make a step of its samples as read.

        Where other ranks would wait in vain for a step of bad samples, those `coming` let one stand in.
        """
        if self._watch is not None and isinstance(placed[0][1], dict):
            self._watch(placed[0][1])
        faults = self._finish.skipped.faults
        samples = self._finish(placed, epoch)
        skipped = self._finish.skipped.faults - faults
        padded = 0
        if self._lists:
            return Step(samples, len(samples), 0, skipped)
        if not samples:
            if coming is None:
                return Step(None, 0, 0, skipped)
            samples, padded = [self._finish.stand_in(coming, epoch)], 1
        value = samples[0] if self._collate is None else self._collate(samples)
        return Step(value, len(samples), padded, skipped)
