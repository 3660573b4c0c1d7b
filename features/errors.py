"""What can go wrong with features and their store.

    FeatureError
    ├── InvalidInput            the caller sent something wrong; `path` names the field
    ├── BadFile                 a file is not what it should be; file, row group and column are named
    ├── SchemaError             a schema declaration makes no sense
    ├── SchemaMismatch          stored state was written under another schema
    ├── CorruptState            stored bytes do not parse
    ├── ProjectionConflict      somebody else moved the projection; reload and go on
    ├── RowsHeld                somebody is replacing the item rows; they stand still until that has ended
    ├── LogMoved                the log went on meanwhile; read on and try again
    ├── ReaderMoved             somebody else reads under this name, or it was forgotten
    ├── LogGap                  entries are neither in the log nor in its archive; partition and positions are named
    ├── FilesUnavailable        files cannot be listed, read or written; try again
    ├── LogFull                 the log takes all the bytes that it may; try again later
    ├── StoreRefused            the server is not one that can keep the promises
    └── StoreUnavailable        the store cannot be reached or is out of memory; try again

Each class says what the edge needs to answer: an HTTP `status`, a `code`, and whether a retry can help.
"""

from typing import ClassVar


class FeatureError(Exception):
    """Root of the tree."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False


class InvalidInput(FeatureError):
    """A value from outside that the schema or the wire format does not allow.

    Args:
        message: What was got and what was expected.
        path: Where, as a JSON path such as `$.ts_ms`.
    """

    status = 422
    code = "invalid"

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message)
        self.message = message
        self.path = path


class BadFile(FeatureError):
    """A file that cannot be what it is taken for.

    Args:
        message: What was got and what was expected.
        file: Its path or URL.
        row_group, column: Where in it, as far as that is known.
    """

    def __init__(self, message: str, file: str, *, row_group: int | None = None, column: str = "") -> None:
        where = [file]
        if row_group is not None:
            where.append(f"row group {row_group}")
        if column:
            where.append(f"column {column!r}")
        super().__init__(f"{', '.join(where)}: {message}")
        self.file = file
        self.row_group = row_group
        self.column = column


class SchemaError(FeatureError):
    """A declaration in the schema is out of range or contradicts another."""


class SchemaMismatch(FeatureError):
    """State was stored under another schema fingerprint; it is refused, never misread."""

    code = "schema_mismatch"


class CorruptState(FeatureError):
    """Stored bytes are too short, too long or of an unknown version."""

    code = "corrupt_state"


class ProjectionConflict(FeatureError):
    """The stored projection position is not the one expected: another projector has written."""


class RowsHeld(FeatureError):
    """All item rows are being replaced; nobody else writes any until they are released."""

    retryable = True


class LogMoved(FeatureError):
    """A log partition is not at the position that what was to be written follows from."""

    retryable = True


class ReaderMoved(FeatureError):
    """A reader is not where it was left: another one goes by its name, or it was forgotten."""


class LogGap(FeatureError):
    """Entries of the log are gone, and no archive has them.

    Args:
        partition: Of the log.
        after, until: Positions; they come after the one and reach to the other.
        why: What that means for who asks.
    """

    def __init__(self, partition: int, after: tuple[int, int], until: tuple[int, int], why: str) -> None:
        super().__init__(f"log partition {partition}: entries after {after} up to {until} {why}")
        self.partition = partition
        self.until = until


class LogFull(FeatureError):
    """The log takes more bytes than it may, and nothing is appended until room was made."""

    status = 429
    code = "log_full"
    retryable = True

    def __init__(self, n_bytes: int, max_bytes: int) -> None:
        super().__init__(
            f"the log takes {n_bytes:,} bytes, expected at most {max_bytes:,} (log_max_bytes): entries wait for a "
            "reader that is behind, or for an archive"
        )


class FilesUnavailable(FeatureError):
    """A folder or bucket does not do what it is asked; what was to be written may or may not be there."""

    status = 503
    code = "files_unavailable"
    retryable = True


class StoreRefused(FeatureError):
    """The server's version or settings cannot keep what is promised; the message says which and how to mend it."""


class StoreUnavailable(FeatureError):
    """The store is out of memory, so nothing was written; or its answer got lost, and then that is not known."""

    status = 503
    code = "store_unavailable"
    retryable = True
