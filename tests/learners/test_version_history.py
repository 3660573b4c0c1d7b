"""What became of versions is told in few lines, and comes back as it was."""

from learners.version_history import MAX_LINES, VersionHistory


def test_versions_that_follow_one_another_are_one_line() -> None:
    history = VersionHistory()
    for version in range(1, 100):
        history.note("published", version, 1000 * version, "learner")
    history.note("rolled back", 60, 100_000, "ann", "clicks fell")
    history.note("resumed", 130, 130_000, "ann")
    for version in (130, 133):
        history.note("published", version, 1000 * version, "learner")
    told = [(line.what, line.first, line.last, line.since_ms, line.until_ms) for line in history.lines]
    assert told == [
        ("published", 1, 99, 1000, 99_000),
        ("rolled back", 60, 60, 100_000, 100_000),
        ("resumed", 130, 130, 130_000, 130_000),
        ("published", 130, 133, 130_000, 133_000),
    ]
    again = VersionHistory()
    again.load(history.packed)
    assert again.lines == history.lines
    again.load(b"of another release")
    assert again.lines == history.lines
    assert (history.lines[1].who, history.lines[1].why) == ("ann", "clicks fell")


def test_the_oldest_lines_go() -> None:
    history = VersionHistory()
    for version in range(MAX_LINES + 7):
        history.note("adopted", version, version, "backfill")
    assert [line.first for line in history.lines] == list(range(7, MAX_LINES + 7))
