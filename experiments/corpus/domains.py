"""The vocabulary of the SQL corpus: value pools and the tables of each domain."""

from __future__ import annotations

from dataclasses import dataclass

POOLS: dict[str, tuple[str, ...]] = {
    name: tuple(values.split())
    for name, values in {
        "person": "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina "
        "Victor",
        "city": "Paris London Berlin Madrid Rome Oslo Vienna Lisbon Dublin Prague",
        "country": "France Germany Spain Italy Norway Japan Brazil Canada India Kenya",
        "colour": "red blue green black white yellow",
        "genre": "rock jazz pop folk blues opera",
        "title": "Sunrise Harbor Echo Winter Silver Garden Thunder Mirror River Horizon Shadow Lantern Orchid Compass",
        "subject": "history physics biology music art chemistry",
        "level": "low medium high",
        "status": "open closed pending active",
        "food": "bread rice soup salad pasta cheese cake fish",
        "breed": "poodle beagle husky terrier collie boxer",
        "company": "Acme Globex Initech Umbrella Stark Wayne Hooli Vandelay",
        "position": "goalkeeper defender midfielder striker",
        "material": "wood steel glass stone plastic",
        "weekday": "Monday Tuesday Wednesday Thursday Friday",
        "language": "English French German Spanish Arabic",
    }.items()
}

# One domain per blank-line-separated block; per line: table, its plural, the columns (a value pool or an integer
# range, the first one is the label the table's rows are called by) and, after ">", the table its rows belong to.
_DOMAINS = """
singer singers name=person age=18-70 country=country genre=genre income=20-90
concert concerts title=title year=1990-2024 city=city attendance=100-900 weekday=weekday >singer
album albums title=title year=1970-2024 sales=10-99 language=language price=5-40 >singer

student students name=person age=16-30 city=city grade=50-99 language=language
course courses title=title subject=subject credits=1-12 hours=10-80 level=level >teacher
teacher teachers name=person age=25-65 subject=subject salary=30-95 city=city

employee employees name=person age=20-64 salary=20-99 city=city position=level >department
department departments name=title budget=100-900 city=city floor=1-30 head_count=5-80
project projects title=title cost=10-99 status=status hours=20-300 year=2000-2024 >department

book books title=title year=1950-2024 pages=80-900 price=5-60 language=language genre=genre >author
author authors name=person age=25-90 country=country awards=0-20
library libraries name=title city=city books=100-900 visitors=50-800 floors=1-15

player players name=person age=17-40 position=position goals=0-60 height=160-205 salary=20-99 >team
team teams name=company city=city founded=1880-2010 wins=0-40 losses=0-40 budget=100-900
game games title=title year=1990-2024 weekday=weekday attendance=100-900 city=city >team

dog dogs name=person breed=breed age=1-16 weight=3-60 colour=colour >owner
owner owners name=person age=18-80 city=city income=20-99 country=country
visit visits title=title cost=20-300 weekday=weekday year=2010-2024 minutes=10-90 >dog

product products name=title price=2-99 stock=0-300 colour=colour material=material weight=1-60 >supplier
supplier suppliers name=company country=country rating=1-20 city=city founded=1900-2015
sale sales title=title amount=1-50 total=10-900 status=status weekday=weekday >product

flight flights title=title distance=100-900 price=40-400 weekday=weekday seats=50-300 status=status >airline
airline airlines name=company country=country planes=5-90 founded=1930-2015 rating=1-20
airport airports name=title city=city country=country gates=4-90 runways=1-12

restaurant restaurants name=title city=city rating=1-20 seats=10-150 opened=1980-2024
dish dishes name=food price=3-40 calories=100-900 weekday=weekday level=level >restaurant
chef chefs name=person age=20-70 country=country salary=20-99 awards=0-20 >restaurant

patient patients name=person age=1-95 city=city weight=40-120 height=140-205 status=status >doctor
doctor doctors name=person age=28-70 salary=40-99 subject=subject language=language
room rooms title=title floor=1-30 beds=1-12 cost=50-400 colour=colour

car cars name=title price=10-99 year=1995-2024 colour=colour power=50-400 seats=2-20 >maker
maker makers name=company country=country founded=1900-2010 sales=10-900 factories=1-30
garage garages name=title city=city places=10-300 floors=1-15 opened=1970-2024

film films title=title year=1960-2024 length=70-200 genre=genre rating=1-20 budget=10-900 >director
director directors name=person age=25-85 country=country awards=0-20 income=20-99
cinema cinemas name=title city=city seats=50-900 screens=1-20 opened=1930-2024

museum museums name=title city=city visitors=100-900 founded=1800-2010 rooms=3-90
painting paintings title=title year=1500-1990 price=10-900 colour=colour height=20-300 >museum
guide guides name=person age=20-65 language=language salary=20-80 hours=10-45 >museum

house houses title=title price=50-900 rooms=1-15 year=1900-2024 city=city material=material >agent
agent agents name=person age=22-65 salary=20-99 company=company language=language
tenant tenants name=person age=18-85 income=20-99 status=status country=country >house
"""


@dataclass(frozen=True)
class Column:
    """A column: text from a value pool, or an integer between ``low`` and ``high`` (inclusive)."""

    name: str
    values: tuple[str, ...] = ()
    low: int = 0
    high: int = 0

    @property
    def is_text(self) -> bool:
        """Whether the column holds text rather than integers."""
        return bool(self.values)

    @property
    def words(self) -> str:
        """The column's name as it is said in a question."""
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Table:
    """A table; every one has an integer key ``id``, and ``<parent>_id`` where it belongs to a parent."""

    name: str
    plural: str
    columns: tuple[Column, ...]
    parent: str = ""

    @property
    def notation(self) -> str:
        """The table in the compact notation of the prompts."""
        names = ["id", *(column.name for column in self.columns), *([f"{self.parent}_id"] if self.parent else [])]
        return f"{self.name}({', '.join(names)})"


def _column(text: str) -> Column:
    name, kind = text.split("=")
    if kind in POOLS:
        return Column(name, values=POOLS[kind])
    low, high = kind.split("-")
    return Column(name, low=int(low), high=int(high))


def _table(line: str) -> Table:
    name, plural, *rest = line.split()
    parent = rest.pop()[1:] if rest[-1].startswith(">") else ""
    return Table(name, plural, tuple(map(_column, rest)), parent)


DOMAINS: tuple[tuple[Table, ...], ...] = tuple(
    tuple(map(_table, block.splitlines())) for block in _DOMAINS.strip().split("\n\n")
)
