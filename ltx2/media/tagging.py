"""Exchanging the comment tag of a finished clip without encoding it again."""

from __future__ import annotations

from pathlib import Path

from ltx2.media.atomic import replacing


def write_comment(path: str | Path, comment: str) -> None:
    """Give the clip at `path` another `comment`; packets are copied as they are.

    The clip is replaced whole or left untouched.
    """
    import av

    path = Path(path)
    with replacing(path) as temporary, av.open(str(path)) as source:
        muxer = path.suffix.removeprefix(".")
        muxer = "matroska" if muxer == "mkv" else muxer
        flags = {"movflags": "+faststart"} if muxer in ("mp4", "mov") else {}
        with av.open(str(temporary), "w", format=muxer, options=flags) as target:
            target.metadata["comment"] = comment
            copies = {s.index: target.add_stream_from_template(s) for s in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = copies[packet.stream.index]
                    target.mux(packet)
