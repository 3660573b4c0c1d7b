"""Targets: files, from whoever has them: configuration, catalogues, recorded events, segments of the log."""

import gzip
import io
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from deployments.config import load_config
from deployments.errors import ConfigError
from features.backfill.checking import check
from features.catalogue import Catalogue
from features.catalogue_files import Format
from features.errors import FeatureError, InvalidInput
from features.event_files import list_files, read_footer, slices
from features.log_segments import Segment, SegmentReader, write_segment
from features.schema import Schema
from tests.fuzz.targets import Target
from tests.learners.examples import KEYS, SCHEMA, log, shown, stream

N_ROWS: Final = 40
_folder: Final = tempfile.TemporaryDirectory(prefix="headrace-fuzz-")


def _file(suffix: str, data: bytes) -> Path:
    path = Path(_folder.name) / f"input{suffix}"
    path.write_bytes(data)
    return path


def _config(data: bytes) -> None:
    load_config(_file(".toml", data), {})


def _config_seeds() -> Sequence[bytes]:
    named = [Path("benchmarks") / name for name in ("globo.toml", "movielens.toml", "simulated.toml")]
    return [path.read_bytes() for path in named] + [
        b'[store]\nurl = "redis://h:1/0"\n[rank]\ncache_s = 0.5\n[policy]\nname = "plackett_luce"\n',
        b'n_rankers = 2\n[schema]\nevent_types = ["a"]\ncounters = []\nattributes = []\n[learner.join]\nwait_s = 1\n',
    ]


def _catalogue(form: Format) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        for _ in Catalogue(_file(f".{form}", data), Schema()).rows(first=1):
            pass

    return run


def _items() -> dict[str, list[Any]]:
    tags = [["a", "b"] if n % 2 else None for n in range(N_ROWS)]
    return {"item": [f"i{n}" for n in range(N_ROWS)], "price": [0.5 * n for n in range(N_ROWS)], "tags": tags}


def _lines() -> bytes:
    columns = _items()
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return b"\n".join(map(msgspec.json.encode, rows[:5]))


def _csv() -> bytes:
    return b'item,price,tags,"na me"\ni1,1.5,a|b,"x ""y"", z"\ni2,,,\n"i\n3",2,c,d\n'


def _parquet(columns: dict[str, list[Any]], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def _events(data: bytes) -> None:
    (file,) = list_files([str(_file(".parquet", data))])
    for number in range(len(read_footer(file).rows)):
        for part in slices(file, number, 16):
            check(part.table, SCHEMA, KEYS)


def _event_seeds() -> Sequence[bytes]:
    events = stream(N_ROWS)
    names = ("ts_ms", "type", "user", "item", "value")
    columns = {name: [getattr(event, name) for event in events] for name in names}
    return [_parquet(columns), _parquet(columns, compression="none", use_dictionary=False, row_group_size=15)]


def _segment(data: bytes) -> None:
    reader = SegmentReader(pa.BufferReader(data), _segment_of())
    for entries in reader.entries():
        assert entries
    reader.close()


@cache
def _segment_of() -> Segment:
    entries = _entries()
    return Segment(entries[0].partition, (0, 0), entries[-1].id, "segment.parquet")  # type: ignore[arg-type]


def _entries() -> list[Any]:
    partition = KEYS.user_partition("u1")
    return [entry for entry in sorted([*log(stream(60)), *shown(20)]) if entry.partition == partition][:20]


def _segment_seeds() -> Sequence[bytes]:
    sink = io.BytesIO()
    write_segment(sink, _entries(), (0, 0), SCHEMA)  # type: ignore[arg-type]
    return [sink.getvalue()]


TARGETS: Final = (
    Target(name="configuration", run=_config, seeds=_config_seeds, errors=(ConfigError,)),
    Target(
        name="catalogue, JSON lines",
        run=_catalogue("ndjson"),
        seeds=lambda: [_lines(), gzip.compress(_lines(), mtime=0)],
        errors=(InvalidInput,),
    ),
    Target(
        name="catalogue, CSV",
        run=_catalogue("csv"),
        seeds=lambda: [_csv(), gzip.compress(_csv(), mtime=0)],
        errors=(InvalidInput,),
    ),
    Target(
        name="catalogue, Parquet",
        run=_catalogue("parquet"),
        seeds=lambda: [_parquet(_items()), _parquet(_items(), compression="zstd", row_group_size=9)],
        errors=(InvalidInput,),
    ),
    Target(name="recorded events", run=_events, seeds=_event_seeds, errors=(FeatureError,)),
    Target(name="segment of the log", run=_segment, seeds=_segment_seeds, errors=(FeatureError,)),
)
