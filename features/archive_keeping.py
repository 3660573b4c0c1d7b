"""An archive is kept for so long: segments whose last entry is older go, the oldest first.

Nothing goes that somebody has still to read. The last segment of a partition is never removed, as it tells how far the
archive is: it is written again without an entry. What an entry outlives its time by is the span of its segment.
"""

from features.events import Positions, StreamId
from features.log_files import LogFiles

DAY_MS = 86_400_000


def drop_old(files: LogFiles, kept_from_ms: int, read: Positions) -> int:
    """Remove segments that end before an instant of log time; returns how many went or were emptied.

    Args:
        files: Nobody else's: what is there is looked up anew.
        read: Up to where everybody has read; of a partition that is not there nothing goes.
    Raises:
        BadFile, LogGap, FilesUnavailable: If a segment is damaged or missing, or cannot be removed.
    """
    files.look()
    n_gone = 0
    for partition in files.reached():
        until = min(StreamId(kept_from_ms, 0), read.get(partition, StreamId(0, 0)))
        segments = files.segments_of(partition)
        old = [segment for segment in segments if segment.last < until]
        files.drop(segment.path for segment in old if segment is not segments[-1])
        n_gone += len(old)
        if old and old[-1] is segments[-1]:
            n_gone += _empty(files, partition) - 1
    return n_gone


def _empty(files: LogFiles, partition: int) -> int:
    """Have no entry in the last segment; 1 if there was one."""
    segment = files.segments_of(partition)[-1]
    reader = files.open(segment)
    n_entries = reader.about.n_entries
    reader.close()
    if n_entries:
        files.rewrite(segment, lambda _: False)
    return int(n_entries > 0)
