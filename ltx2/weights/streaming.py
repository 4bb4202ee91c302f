"""Weights that pass through memory block by block: read ahead of use, let go of after it.

A streamed model looks like a loaded one. Its list of blocks holds the declared blocks, on which
LoRAs are put as usual; walking the list reads each block when its turn comes, the next ones
meanwhile in the background. Where the backend has transfers of its own (CUDA), they are also
copied to the device meanwhile. The values are those of the resident model, bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ltx2.errors import UserError
from ltx2.nn.module import copied, params
from ltx2.weights.build import Filling, Found, OpenFiles
from ltx2.weights.header import Header
from ltx2.weights.quantise_stored import companions, scale_name

ALIGNMENT = 64
RESIDENT, DISK, RAM = "resident", "disk", "ram"


@dataclass(frozen=True)
class Streaming:
    """Where streamed blocks come from: disk, or ram (the file's bytes, read once). `ahead` blocks
    are read before they are needed; 0 reads each when it is reached."""

    source: str = DISK
    ahead: int = 1

    def __post_init__(self) -> None:
        if self.source not in (DISK, RAM):
            raise UserError(f"weights are streamed from disk or ram, not from '{self.source}'")
        if not 0 <= self.ahead <= 16:
            raise UserError(f"memory.ahead={self.ahead} must be 0 to 16 blocks")


@dataclass(frozen=True)
class _Place:
    """Where the bytes of a tensor stand: in the file, and in the buffer of its block."""

    header: Header
    name: str
    start: int
    size: int


@dataclass
class _Stored:
    """The bytes of one block; `files` give its tensors as the backend's own file objects do."""

    places: list[_Place]
    size: int
    kept: np.ndarray | None = None

    def read(self, buffer: np.ndarray) -> None:
        """Fill the beginning of `buffer` with the block's bytes."""
        for place in self.places:
            view = buffer.data[place.start : place.start + place.size]
            _read_into(place.header, place.name, view)


def _read_into(header: Header, name: str, view: memoryview) -> None:
    info = header.tensors[name]
    # Opened anew: reads of several threads must not share a position.
    with open(header.path, "rb", buffering=0) as file:
        file.seek(header.data_start + info.start)
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise UserError(f"{header.path.name} ends inside '{name}'; download it again")
            done += count


@dataclass
class _Coming:
    """A block on its way: its bytes and, with transfers, what was made of them and when."""

    buffer: np.ndarray
    block: Any = None
    event: Any = None


class _Bytes:
    """A file object over the bytes of one block."""

    def __init__(self, stored: _Stored, buffer: np.ndarray, backend: Any) -> None:
        self._places = {place.name: place for place in stored.places}
        self._buffer, self._backend = buffer, backend

    def get(self, name: str) -> Any:
        place = self._places[name]
        info = place.header.tensors[name]
        raw = self._buffer[place.start : place.start + place.size]
        return self._backend.from_bytes(raw, info.dtype, info.shape)


class StreamedBlocks(list[Any]):
    """Declared blocks; iterating gives loaded copies, of which `ahead` + 2 exist at a time.

    Indexing and slots give the declared blocks, so that names, shapes and LoRAs are found.
    """

    def __init__(
        self,
        blocks: Sequence[Any],
        stored: Sequence[_Stored],
        filling: Filling,
        given: Streaming,
    ) -> None:
        super().__init__(blocks)
        self._stored, self._filling, self._given = stored, filling, given
        self._transfers = filling.backend.transfers()
        self._spare: deque[_Coming] = deque()
        self._largest = max(item.size for item in stored)

    def __iter__(self) -> Iterator[Any]:
        with ThreadPoolExecutor(1, thread_name_prefix="ltx2-weights") as reader:
            coming: deque[Future[_Coming]] = deque()
            total = len(self)
            for index in range(min(self._given.ahead, total)):
                coming.append(reader.submit(self._fetch, index))
            for index in range(total):
                following = index + len(coming)
                if following < total:
                    coming.append(reader.submit(self._fetch, following))
                item = coming.popleft().result()
                block = self._arrived(index, item)
                try:
                    yield block
                finally:
                    self._used()
                del block
                self._give_back(index, item)
                del item

    def _fetch(self, index: int) -> _Coming:
        """In the background: a block's bytes and, with transfers, the block on the device."""
        item = _Coming(self._read(index))
        if self._transfers is not None:
            loaded = partial(self._loaded, index, item.buffer)
            item.block, item.event = self._transfers.made(loaded)
        return item

    def _arrived(self, index: int, item: _Coming) -> Any:
        """The block, for the device to use from now on; `item` lets go of it."""
        if self._transfers is None:
            return self._loaded(index, item.buffer)
        self._transfers.arrive(item.event)
        block, item.block = item.block, None
        return block

    def _used(self) -> None:
        """What was to be computed with the block has been; or is, before its memory is taken."""
        if self._transfers is None:
            self._filling.backend.synchronize()
        else:
            self._transfers.leave()

    def _read(self, index: int) -> np.ndarray:
        stored = self._stored[index]
        if stored.kept is not None:
            return stored.kept
        keeps = self._given.source == RAM
        buffer = self._buffer(stored.size if keeps else self._largest)
        stored.read(buffer)
        if keeps:
            stored.kept = buffer
        return buffer

    def _buffer(self, size: int) -> np.ndarray:
        if not self._spare:
            own = self._transfers
            return np.empty(size, np.uint8) if own is None else own.buffer(size)
        item = self._spare.popleft()  # the one whose copy was begun first
        if self._transfers is not None:
            self._transfers.finish(item.event)
        return item.buffer

    def _give_back(self, index: int, item: _Coming) -> None:
        if self._stored[index].kept is None:
            self._spare.append(item)

    def _loaded(self, index: int, buffer: np.ndarray) -> Any:
        file = _Bytes(self._stored[index], buffer, self._filling.backend)
        made = copied(list.__getitem__(self, index))
        self._filling.fill(made, lambda header: file)
        return made


def stream_blocks(module: Any, field_name: str, filling: Filling, given: Streaming) -> Any:
    """Fill `module` but for the list `field_name`, whose blocks are read when they are reached."""
    blocks = getattr(module, field_name)
    setattr(module, field_name, [])
    filling.fill(module, OpenFiles(filling.backend))
    stored = []
    for block in blocks:
        own = (filling.sources.get(id(slot.value)) for slot in params(block))
        stored.append(_stored([item for item in own if item is not None]))
    setattr(module, field_name, StreamedBlocks(blocks, stored, filling, given))
    return module


def _stored(items: Sequence[Found]) -> _Stored:
    places: list[_Place] = []
    start = 0
    for item in items:
        names = (item.name, scale_name(item.name), *companions(item.header, item.name))
        for name in dict.fromkeys(names):
            info = item.header.tensors.get(name)
            if info is None:
                continue
            size = info.stop - info.start
            places.append(_Place(item.header, name, start, size))
            start += -(-size // ALIGNMENT) * ALIGNMENT
    return _Stored(places, start)
