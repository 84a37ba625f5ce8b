"""Moving the blocks in use together, so that the segments they were in can be removed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from memrecall_kv.bank import segment
from memrecall_kv.bank.catalogue import Catalogue
from memrecall_kv.bank.segment_writer import SegmentWriter

_GROUP = 32
"""Records that are held in memory and synced together."""

Placed = tuple[bytes, segment.Place]
"""A block's id, and where its record lies."""


def compact_segments(catalogue: Catalogue, writer: SegmentWriter) -> None:
    """Copy the blocks in use to new segments and remove the old ones; the catalogue knows no others by then.

    Segment by segment, the emptiest first: what is freed makes room for what is to be copied.

    Raises:
        BankFullError: If there is no room for a copy; what was moved and removed until then stays so.
        BlockCorruptError: If a block in use is damaged; its segment stays as it is.
        OSError: If the disk fails.
    """
    blocks: dict[str, list[Placed]] = defaultdict(list)
    for block_id, place in catalogue.live():
        blocks[segment.segment_name(place.segment)].append((block_id, place))
    old = sorted(writer.segments(), key=lambda path: sum(place.length for _, place in blocks[path.name]))
    names = catalogue.names()
    writer.start_segment()
    for path in old:
        move_blocks(catalogue, writer, blocks[path.name], names)
        writer.remove([path])


def move_blocks(
    catalogue: Catalogue, writer: SegmentWriter, blocks: Sequence[Placed], names: Mapping[bytes, str] | None = None
) -> None:
    """Append the records of blocks anew and enter where they are now; raises like `compact_segments`.

    Args:
        catalogue: The bank's.
        writer: The bank's; it must not be appending to the segment they are in.
        blocks: What is moved.
        names: Of their chunks, for messages.
    """
    places: list[segment.Place] = []
    for start in range(0, len(blocks), _GROUP):
        records = []
        for block_id, place in blocks[start : start + _GROUP]:
            name = (names or {}).get(block_id, block_id.hex())
            record = segment.read(catalogue.path, place, block_id, name, catalogue.bank_id)
            records.append(segment.renewed(record, catalogue.bank_id))
        places += writer.append(records)
    if blocks:
        catalogue.relocate(zip((block_id for block_id, _ in blocks), places, strict=True))
