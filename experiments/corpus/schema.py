"""Random database schemas, split into those that are trained on and those that are only asked about."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from experiments.corpus.domains import DOMAINS, Table

HELD_OUT_SHARE = 20  # one schema in so many is never trained on


@dataclass(frozen=True)
class Schema:
    """The tables of one database."""

    tables: tuple[Table, ...]

    @property
    def notation(self) -> str:
        """The schema in the compact notation of the prompts."""
        return "".join(f"{table.notation}\n" for table in self.tables)

    @property
    def held_out(self) -> bool:
        """Whether the schema is on the held-out side of the split."""
        return zlib.crc32(self.notation.encode()) % HELD_OUT_SHARE == 0

    def families(self) -> list[tuple[Table, Table]]:
        """Pairs of a child table and its parent."""
        by_name = {table.name: table for table in self.tables}
        return [(table, by_name[table.parent]) for table in self.tables if table.parent]


def schemas(seed: int, held_out: bool) -> Iterator[Schema]:
    """An endless seeded stream of schemas: two or three tables of a domain with some of their columns."""
    rng = random.Random(f"schema {seed}")
    while True:
        domain = rng.choice(DOMAINS)
        tables = rng.sample(domain, min(rng.choice((2, 2, 3)), len(domain)))
        names = {table.name for table in tables}
        schema = Schema(tuple(_narrowed(rng, table, names) for table in tables))
        if schema.held_out == held_out:
            yield schema


def _narrowed(rng: random.Random, table: Table, names: set[str]) -> Table:
    label, *others = table.columns
    chosen = rng.sample(others, min(rng.randint(2, 4), len(others)))
    return replace(table, columns=(label, *chosen), parent=table.parent if table.parent in names else "")
