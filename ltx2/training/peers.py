"""Workers that train one model together: each on batches of its own, gradients averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Peers:
    """This worker's `rank` of `count`; alone unless `join` was called."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, rank: int, count: int, meeting: Path) -> Peers:
        """Meet the others at a new file `meeting` that all can reach; waits until all are there."""
        if count > 1:
            where = f"file://{meeting.resolve()}"
            dist.init_process_group("gloo", init_method=where, rank=rank, world_size=count)
        return cls(rank, count)

    @property
    def leads(self) -> bool:
        """Whether this worker writes files and reports."""
        return self.rank == 0

    @torch.no_grad()
    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace gradients, the same on every worker in number and shape, by their means."""
        if self.count == 1:
            return
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        start = 0
        for g in gradients:
            g.copy_(flat[start : start + g.numel()].reshape(g.shape))
            start += g.numel()

    def any(self, mine: bool) -> bool:
        """Whether it is so on any worker."""
        if self.count == 1:
            return mine
        flag = torch.tensor([float(mine)])
        dist.all_reduce(flag)
        return bool(flag.item() > 0)

    def gather(self, mine: Any) -> list[Any]:
        """What every worker gives, in order of rank, on every worker."""
        if self.count == 1:
            return [mine]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, mine)
        return found
