"""How most rounds end: the accepted path of a drafted tree, and one more token. Knows trees; refuses to know laws."""

from __future__ import annotations

from collections.abc import Callable

from mtad.decoder import Round, Source, Text
from mtad.tree import Tree


def close(text: Text, tree: Tree, node: int, draw: Callable[[float], int], source: Source = Source.TARGET) -> Round:
    """The round that accepts the path to `node` and ends with one more token, unless the path ended the text.

    Args:
        draw: the token at a uniform in [0, 1), which is that of its position alone.
        source: where that token comes from.
    """
    tokens, accepted = tree.path(node), tree.depths[node]
    if not tokens or tokens[-1] not in text.eos:
        tokens.append(draw(text.luck.last(text.start + accepted)))
    sources = (Source.DRAFT,) * accepted + (source,) * (len(tokens) - accepted)
    return Round(tuple(tokens), sources, max(tree.depths), accepted, tree.distinct())
