"""Answering what rounds ask for: the reads of many texts by one forward of each model, and whole drafts where it can.

Knows sessions and requests; refuses to know who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from mtad.clock import Span
from mtad.feeds import Feed, Growing
from mtad.growth import Drafted, Growth
from mtad.law import Law, Warp
from mtad.session import Grow, Read, Reader, Session


def serve(reads: Sequence[Read]) -> list[Law]:
    """Answer reads of any number of texts, those of one model by one forward; laws in the order of the reads."""
    if len({id(read.reader.session) for read in reads}) < len(reads):
        raise ValueError("a session waits for one read at a time")
    drafted = _serve_drafts([read for read in reads if isinstance(read, Grow)])
    others = [read for read in reads if id(read) not in drafted]
    feeds: dict[int, list[tuple[Session, Feed]]] = {}
    for read in others:
        session = read.reader.session
        if feed := session.feed(read.tree):
            feeds.setdefault(id(session.model), []).append((session, feed))
    for group in feeds.values():
        _forward(group)
    if len(others) > 1:
        _warp_together([read.reader for read in others])
    return [drafted.get(id(read)) or read.reader.law(read.tree) for read in reads]


def _forward(group: Sequence[tuple[Session, Feed]]) -> None:
    """One forward of the sessions' model for all of their feeds."""
    model = group[0][0].model
    start = model.mark()
    logits = model.forward([feed for _, feed in group])
    span = Span(start, model.mark(), 1 / len(group))
    for (session, feed), rows in zip(group, logits, strict=True):
        session.receive(rows)
        session.counts.forward(len(feed.tokens), span)


def _warp_together(readers: Sequence[Reader]) -> None:
    """Warp what several texts have read at once, with one transfer to the host."""
    groups: dict[tuple[Warp, int], list[tuple[Reader, torch.Tensor]]] = {}
    for reader in readers:
        for logits in reader.fresh()[:1]:
            groups.setdefault((reader.warp, id(reader.session.model)), []).append((reader, logits))
    for (warp, _), group in groups.items():
        law, end = warp(torch.cat([logits for _, logits in group])), 0
        for reader, logits in group:
            start, end = end, end + len(logits)
            reader.add(law.part(start, end))


def _serve_drafts(reads: Sequence[Grow]) -> dict[int, Drafted]:
    """Answers by id of the read, as far as models can; what is left out is to be answered as a read."""
    groups: dict[tuple[int, Growth], list[Grow]] = {}
    for read in reads:
        if read.reader.grows:
            groups.setdefault((id(read.reader.session.model), read.growth), []).append(read)
    answers = {}
    for (_, growth), group in groups.items():
        model = group[0].reader.session.model
        assert isinstance(model, Growing)
        feeds = [read.reader.session.feed_root() for read in group]
        found = model.grow(feeds, growth, [read.uniforms for read in group])
        spans = [Span(start, end, 1 / len(group)) for start, end in pairwise(found.marks)]
        for read, feed, grown in zip(group, feeds, found.each, strict=True):
            session = read.reader.session
            session.receive_draft(grown)
            for level, span in zip(range(len(read.uniforms)), spans, strict=False):
                session.counts.forward(growth.width if level else len(feed.tokens), span)
            if grown.sure or growth.forced:
                answers[id(read)] = grown.draft(growth.eos)
    return answers
