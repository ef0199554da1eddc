"""Standing news: what people are told of records that were merged here."""

from __future__ import annotations

from collections.abc import Callable

from protocol.effects import Tell
from protocol.ids import PeerId, revision_of
from protocol.records import Control, Desired, Spec
from protocol.standing import News
from protocol.wire import encode_record

_VERBS = {Desired.RUNNING: "started", Desired.STOPPED: "stopped", Desired.DELETED: "deleted"}


def tells_of(news: News, me: PeerId, name: Callable[[PeerId], str]) -> list[Tell]:
    """Of one record: what changed, or that an edit made here lost against another one."""
    record = news.sealed.record
    assert isinstance(record, Spec | Control)
    fields: dict[str, object] = {"name": record.key, "author": news.sealed.author}
    lost = _lost(news, me, name)
    if lost:
        return [Tell("job.edit-superseded", lost, record.job, fields=fields)]
    if news.lost:
        return []
    by = name(news.sealed.author)
    if isinstance(record, Control):
        verb = _VERBS[Desired(record.desired)]
        return [Tell(f"job.{verb}", f"{by} {verb} {record.key}", record.job, fields=fields)]
    if news.before is None:  # met for the first time: who starts it tells of that
        return []
    fields["generation"] = record.generation
    text = f"{by} changed {record.key} (generation {record.generation})"
    return [Tell("job.updated", text, record.job, fields=fields)]


def _lost(news: News, me: PeerId, name: Callable[[PeerId], str]) -> str:
    """Two people changed the job without hearing of each other, and this one was not the winner."""
    came = news.sealed.record
    assert isinstance(came, Spec | Control)
    if news.before is None or news.before_author is None:
        return ""
    # Ours may also come back by way of somebody else, and not count any more.
    mine, theirs = (came, news.before) if news.lost else (news.before, came)
    authors = (news.before_author, news.sealed.author)
    author, winner = authors[::-1] if news.lost else authors
    if author != me or winner == me:
        return ""
    if isinstance(mine, Spec) and isinstance(theirs, Spec):
        same = revision_of(encode_record(mine)) == revision_of(encode_record(theirs))
        if mine.generation != theirs.generation or same:
            return ""
        return (
            f"the edit of {mine.key} made here (generation {mine.generation}) does not count: "
            f"{name(winner)} made another at the same time"
        )
    assert isinstance(mine, Control) and isinstance(theirs, Control)
    if mine.number != theirs.number or mine.desired == theirs.desired:
        return ""
    ours, other = _VERBS[Desired(mine.desired)], _VERBS[Desired(theirs.desired)]
    return (
        f"{mine.key} was {ours} here, which does not count: {name(winner)} {other} it at the "
        "same time"
    )
