"""Where a process stands among its peers: rank, world size, worker."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wlshard.errors import UsageError

log = logging.getLogger(__name__)

# (rank, world size, needed before they count). srun sets its variables in a batch script's shell too,
# where they describe the job: only a step has SLURM_STEP_NUM_TASKS.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", None),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", None),
)

_LAUNCHES = (
    ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"),
    ("SLURM_STEP_ID", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"),
    ("PMIX_NAMESPACE",),
)


@dataclass(frozen=True, slots=True)
class Place:
    """One process: rank of world, and worker of workers inside that rank."""

    rank: int = 0
    world: int = 1
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world or not 0 <= self.worker < self.workers:
            raise UsageError(
                f"rank {self.rank} of {self.world}, worker {self.worker} of {self.workers}: "
                "each must lie in 0 … count-1"
            )


def detect_place(
    rank: int | None = None,
    world_size: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Place:
    """Find rank and world size: arguments, else torch.distributed if initialised, else the launcher.

    Never imports torch: a process that has initialised torch.distributed has imported it already.
    """
    if (rank is None) != (world_size is None):
        raise UsageError("give rank and world_size together, or neither")
    if rank is not None and world_size is not None:
        return _chosen(rank, world_size, "arguments")
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return _chosen(distributed.get_rank(), distributed.get_world_size(), "torch.distributed")
    for rank_name, world_name, needed in _LAUNCHERS:
        if rank_name in environ and world_name in environ and (needed is None or needed in environ):
            try:
                return _chosen(int(environ[rank_name]), int(environ[world_name]), rank_name)
            except ValueError:
                raise UsageError(
                    f"{rank_name}={environ[rank_name]!r} and {world_name}={environ[world_name]!r} "
                    "must be integers; unset them or pass rank= and world_size="
                ) from None
    return Place()


def group_store(place: Place) -> Any | None:
    """Give the key-value store of torch.distributed's processes, if they are the ranks that `place` is of.

    Not in a worker of a DataLoader, which shares its parent's connection.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    if (distributed.get_rank(), distributed.get_world_size()) != (place.rank, place.world):
        return None
    data = sys.modules.get("torch.utils.data")
    if data is not None and data.get_worker_info() is not None:
        return None
    return distributed.distributed_c10d._get_default_store()


def launch_id(environ: Mapping[str, str] = os.environ) -> str | None:
    """Give what a launcher calls this start, on all its ranks, and never calls another; None: nothing."""
    for names in _LAUNCHES:
        if environ.get(names[0], "none") != "none":  # torchrun's word for no name
            return "/".join(environ.get(name, "") for name in names)
    return None


def dataloader_worker() -> tuple[int, int] | None:
    """Tell which worker of a torch DataLoader this process is, and of how many; None if it is none."""
    data = sys.modules.get("torch.utils.data")
    worker = data.get_worker_info() if data is not None and hasattr(data, "get_worker_info") else None
    return None if worker is None else (worker.id, worker.num_workers)


def _chosen(rank: int, world: int, why: str) -> Place:
    place = Place(rank, world)
    log.info("rank %d of %d (from %s)", rank, world, why)
    return place
