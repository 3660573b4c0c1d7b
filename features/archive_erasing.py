"""People are erased from an archive: every segment that holds entries of theirs is written again without them.

    each segment ─► who is in it? (two columns) ─► somebody who is erased ─► written anew, under its name

Names and what segments reach to stay, also of one that is left without an entry; so whoever archives, reads on or
begins notices nothing. A file is replaced whole, and a second time nothing is left to do: whoever dies in between does
all of it again. What is being written as it begins is waited for; files that somebody died over are removed.

No clock and nobody waits here. Price: two columns of the whole archive, once for all who are pending.
"""

from typing import Final

import pyarrow as pa

from features.log_files import LogFiles
from features.log_segments import Segment
from features.people import Gone

UNFINISHED_S: Final = 600.0  # a file is written in seconds; one that did not change for so long is nobody's


class ArchiveEraser:
    """Call `advance` until it is true.

    Args:
        files: Nobody else's: what is there is looked up anew.
        gone: Whose entries go. Whoever archives has passed all of them.
    """

    def __init__(self, files: LogFiles, gone: Gone) -> None:
        self._files = files
        self._gone = gone
        self._people = pa.array(gone.people, pa.string())
        self._suspects: set[str] | None = None
        self.n_rewritten = 0

    def advance(self, now_s: float) -> bool:
        """Have these people in no file any more; False as long as somebody writes one that may hold them.

        Args:
            now_s: Of the epoch.
        Raises:
            BadFile, LogGap, FilesUnavailable: If a segment is damaged or missing, or cannot be written.
        """
        if not self._is_swept(now_s):
            return False
        self._files.drop_inner()
        for segment in self._files.segments():
            if segment.after < self._gone.until(segment.partition) and self._may_hold(segment):
                self._files.rewrite(segment, lambda entry: not self._gone.has(entry))
                self.n_rewritten += 1
        return True

    def _may_hold(self, segment: Segment) -> bool:
        reader = self._files.open(segment)
        try:
            return any(reader.may_name(number, self._people) for number in range(len(reader.about.groups)))
        finally:
            reader.close()

    def _is_swept(self, now_s: float) -> bool:
        """Whether what was being written at first is there by now, or gone."""
        begun = self._files.unfinished()
        old = {path for path, changed_s in begun.items() if now_s - changed_s > UNFINISHED_S}
        self._files.drop(old)
        left = begun.keys() - old
        self._suspects = left if self._suspects is None else self._suspects & left
        return not self._suspects
