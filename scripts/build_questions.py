"""Build training questions for a small reader out of plain text: country pages, a dictionary, articles, stories.

Every question is made by a precise pattern over a text of the train split and comes with chunk-like paragraphs: those
that hold the answer, and hard distractors of the same family. The answer is word for word in a supporting paragraph
wherever the kind allows it; every row is checked by `problem` before it is kept.

python scripts/build_questions.py --data DATA --out built.jsonl --seed 0
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOT_FOUND = "not found"
MAX_CHARS = 1200
MIN_CHARS = 60
MAX_TOKENS = 250
MAX_ANSWER_TOKENS = 60
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
DATE = rf"(?:\d{{1,2}} (?:{MONTHS}),? \d{{4}}|(?:{MONTHS}) \d{{1,2}}, ?\d{{4}})"
# Kinds whose first answer need not stand in the text word for word.
DERIVED = {"yesno", "fb_count", "not_found", "compare"}


@dataclass(frozen=True)
class Paragraph:
    """One chunk of text and whether the answer rests on it."""

    text: str
    supporting: bool


@dataclass(frozen=True)
class Row:
    """One question with its answers (the first is the one to say) and its paragraphs."""

    group: str
    kind: str
    question: str
    answers: tuple[str, ...]
    paragraphs: tuple[Paragraph, ...]
    items: tuple[str, ...] = ()

    # --------------------------------------------------------------------------------------------- text helpers


def tokens(text: str) -> int:
    """A cautious guess of the number of tokens: digits count one each, long words more than one."""
    return len(re.findall(r"\d|[^\W\d]{1,6}|[^\w\s]|\n", text)) + 2 * len(re.findall(r"[^\x00-\x7f–’“”—]", text))


def squash(text: str) -> str:
    """Collapses white space."""
    return re.sub(r"\s+", " ", text).strip()


def unique(values: Iterable[str]) -> tuple[str, ...]:
    """The non-empty values without repetitions, in order."""
    return tuple(dict.fromkeys(value for value in values if value))


def join(items: Sequence[str]) -> str:
    """``A, B and C``."""
    if len(items) == 1:
        return items[0]
    return f"{', '.join(items[:-1])}{', and' if ' and ' in items[-1] else ' and'} {items[-1]}"


def holds(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text as whole words, whatever the case."""
    start = r"(?<![\w.,])" if phrase[:1].isdigit() else r"(?<!\w)" if phrase[:1].isalnum() else ""
    end = r"(?![\d])(?![.,]\d)" if phrase[-1:].isdigit() else r"(?!\w)" if phrase[-1:].isalnum() else ""
    return re.search(start + re.escape(phrase) + end, text, re.IGNORECASE) is not None


_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Gen|Lt|Col|Capt|Sgt|Rev|Hon|Inc|Ltd|Corp|Co|vs|No|Vol|Op|ca|cf|etc|e\.g|i\.e|"
    r"U\.S|U\.K|Ph\.D|Mt|Ft|al|approx|esp|ed|eds|Jan|Feb|Aug|Sept|Oct|Nov|Dec|b|d|c|r)|\b[A-Z])\.$"
)


def sentences(text: str) -> list[str]:
    """Splits running text into sentences, minding abbreviations and initials."""
    found: list[str] = []
    start = 0
    for match in re.finditer(r"[.!?][\"'”’)]*\s+(?=[\"'“‘(]?[A-Z0-9])", text):
        piece = text[start : match.end()].strip()
        if _ABBREVIATION.search(text[start : match.start() + 1]):
            continue
        found.append(piece)
        start = match.end()
    if text[start:].strip():
        found.append(text[start:].strip())
    return found


def clip(text: str, limit: int = 1000, budget: int = MAX_TOKENS - 30) -> str:
    """The sentences of the text that fit into the limits, at least the first."""
    kept = ""
    for sentence in sentences(text):
        longer = f"{kept} {sentence}".strip()
        if kept and (len(longer) > limit or tokens(longer) > budget):
            break
        kept = longer
    return kept


def ask(wordings: Sequence[str], rng: random.Random, **parts: str) -> str:
    """One of the wordings, filled in; now and then typed carelessly."""
    question = squash(rng.choice(list(wordings)).format(**parts))
    if question[-1] in "?.":
        question = question[0].upper() + question[1:]
    if rng.random() < 0.05:
        question = question.lower().rstrip("?.")
    return question


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a ``.jsonl.gz`` file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


# ----------------------------------------------------------------------------------------------- country pages

_NO_COUNTRY = {"factbook_" + code for code in "categories ee oo xo xq zh zn xx um".split()}
_HEADINGS = {
    "factbook_cc": "Curacao",
    "factbook_sk": "Sint Maarten",
    "factbook_dr": "Dominican Republic",
    "factbook_sv": "Svalbard",
}
_SAID = {
    "Falkland Islands (Islas Malvinas)": "the Falkland Islands",
    "Holy See (Vatican City)": "Vatican City",
    "Saint Helena, Ascension, and Tristan da Cunha": "Saint Helena, Ascension, and Tristan da Cunha",
    "DRC": "the DRC",
    "The Gambia": "The Gambia",
    "The Bahamas": "The Bahamas",
}
_ARTICLE = re.compile(
    r"^(?:.* (?:Islands|Republic|Emirates|States|Kingdom|Territory|Lands|Strip|Bank)(?: \(.*\))?|Netherlands|"
    r"Philippines|"
    r"Maldives|Comoros|Seychelles|Isle of Man|Federated States of Micronesia)$"
)
_ALIASES = {
    "US": "United States", "UK": "United Kingdom", "UAE": "United Arab Emirates", "Republic of the Congo":
        "Congo (Brazzaville)",
    "Democratic Republic of the Congo": "DRC", "Holy See": "Holy See (Vatican City)",
}  # fmt: skip


@dataclass(frozen=True)
class Country:
    """One country page: its name, the name as said in a sentence, and the lines of its sections."""

    group: str
    name: str
    said: str
    sections: dict[str, list[str]]
    places: dict[str, tuple[str, int]] = field(default_factory=dict)

    def value(self, key: str) -> str:
        """The text behind a key, or the empty string."""
        if key not in self.places:
            return ""
        section, index = self.places[key]
        return self.sections[section][index].split(": ", 1)[1].strip()

    @property
    def parts(self) -> dict[str, str]:
        """What the wordings can name."""
        said = self.said
        possessive = said + ("'" if said.endswith("s") else "'s")
        return {"c": said, "p": possessive, "name": self.name}


def read_countries(data: Path) -> list[Country]:
    """All real countries and territories of the factbook."""
    countries = []
    for row in read_rows(data / "text/world_factbook.jsonl.gz"):
        if row["id"] in _NO_COUNTRY:
            continue
        name = _HEADINGS.get(row["id"], row["title"])
        said = _SAID.get(name) or ("the " + name if _ARTICLE.match(name) else name)
        sections: dict[str, list[str]] = {}
        for block in re.split(r"^## ", row["text"], flags=re.MULTILINE)[1:]:
            title, *lines = block.strip().split("\n")
            sections[title] = [line.strip() for line in lines if re.match(r"[^:]+: \S", line)]
        country = Country(row["id"], name, said, sections)
        for title, lines in sections.items():
            for index, line in enumerate(lines):
                country.places.setdefault(line.split(": ", 1)[0], (title, index))
        if name == "France":  # its line names the borders of French Guiana only
            del country.places["Land boundaries / border countries"]
        countries.append(country)
    return countries


def heading(country: Country, section: str, rng: random.Random) -> str:
    """The lines in front of a piece of a section; three looks, mostly the plain one."""
    look = rng.random()
    if look < 0.8:
        return f"{country.name}\n## {section}\n"
    return f"# {country.name}\n## {section}\n" if look < 0.9 else f"{country.name}\n{section}\n"


def window(country: Country, section: str, index: int, rng: random.Random, size: int = 0) -> str:
    """Neighbouring lines of a section around one line, with the heading; empty when that line alone is too long."""
    lines = country.sections[section]
    head = heading(country, section, rng)
    low = high = index
    used = tokens(head + lines[index])
    if used > MAX_TOKENS:
        return ""
    wanted = size or rng.randint(3, 11)
    budget = rng.randint(140, MAX_TOKENS)
    sides = [True, True]
    while high - low + 1 < wanted and any(sides):
        up = sides[0] and (not sides[1] or rng.random() < 0.5)
        at = low - 1 if up else high + 1
        if not 0 <= at < len(lines) or used + tokens(lines[at]) + 1 > budget:
            sides[0 if up else 1] = False
            continue
        used += tokens(lines[at]) + 1
        low, high = (at, high) if up else (low, at)
    text = head + "\n".join(lines[low : high + 1])
    return text if MIN_CHARS <= len(text) <= MAX_CHARS else ""


def key_window(country: Country, key: str, rng: random.Random) -> str:
    """The window around the line with this key."""
    section, index = country.places[key]
    return window(country, section, index, rng)


def random_window(country: Country, rng: random.Random, *, section: str = "") -> str:
    """A window somewhere on the page, never around the long running texts."""
    choices = [section] if section else [title for title in country.sections if title != "Introduction"]
    title = rng.choice(choices)
    lines = country.sections.get(title, [])
    places = [i for i, line in enumerate(lines) if not line.startswith(("Background", "Economy - overview"))]
    return window(country, title, rng.choice(places), rng) if places else ""


@dataclass(frozen=True)
class Relation:
    """One thing a country page tells under one key, and the ways to ask for it.

    ``pick`` turns the text behind the key into answers (the first is the one to say); ``avoid`` names lines of the same
    page that tell the same thing under another key; ``count`` is how many questions to make.
    """

    kind: str
    key: str
    noun: str
    wordings: tuple[str, ...]
    pick: Callable[[str], tuple[str, ...]]
    count: int = 60
    avoid: str = ""
    listing: bool = False

    def ask(self, country: Country, rng: random.Random) -> str:
        """A question for this relation: its own wordings, or a general one around its noun phrase."""
        if self.noun and rng.random() < 0.35:
            return ask(_GENERAL_LIST if self.listing else _GENERAL, rng, n=self.noun, **country.parts)
        return ask(self.wordings, rng, **country.parts)


_GENERAL = (
    "What is the {n} of {c}?", "What's {p} {n}?", "What is {p} {n}?", "Tell me the {n} of {c}.", "{n} of {c}?",
    "I need the {n} of {c}.", "What's the {n} in {c}?", "Do you know the {n} of {c}?", "{c}: {n}?",
)  # fmt: skip
_GENERAL_LIST = (
    "What are the {n} of {c}?", "What are {p} {n}?", "List the {n} of {c}.", "Name the {n} of {c}.", "{n} of {c}?",
    "Which {n} does the text give for {c}?", "{c}: {n}?",
)  # fmt: skip
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:%| (?:million|billion|trillion))?(?: [a-zA-Z][a-zA-Z/.,0-9() ]*)?")


def pick_number(value: str) -> tuple[str, ...]:
    """The newest number of a line with its unit, then longer and shorter forms of it."""
    newest = value.split(" ++ ")[0].strip()
    main = re.split(r" \(|; ", newest)[0].strip()
    if not _NUMBER.fullmatch(main) or "NA" in main or "note" in newest or len(main.split()) > 6:
        return ()
    if re.match(r"[\d.]+% of total (?:population|installed)", main):
        return unique((main.split(" of ")[0], main, newest))
    short = main.split(" of GDP")[0]
    bare = re.sub(r" (?:years|km|sq km|m|years of age)$", "", main)
    return unique((main, newest, short, bare))


def amount(text: str) -> float | None:
    """The number a short answer names, or None."""
    match = re.match(r"(-?)\$?(-?[\d,]+(?:\.\d+)?)(%| million| billion| trillion)?", text)
    if not match:
        return None
    scale = {" million": 1e6, " billion": 1e9, " trillion": 1e12}.get(match[3] or "", 1.0)
    return float(match[2].replace(",", "")) * scale * (-1 if match[1] else 1)


def _number(key: str, noun: str, count: int, wordings: str, avoid: str = "") -> Relation:
    """A relation whose answer is a number; the wordings are separated by bars."""
    return Relation("fb_number", key, noun, tuple(wordings.split(" | ")), pick_number, count // 2, avoid)


NUMBERS = (
    _number("Population", "population", 330, "How many people live in {c}? | How many people are there in {c}? | "
        "How many inhabitants does {c} have? | population of {c}? | How big is the population of {c}? | "
        "What's the population of {c}? | How populous is {c}? | What is the number of inhabitants of {c}? | "
        "How large is {p} population? | number of people in {c} | How many residents does {c} have?",
        r"inhabitants|population of"),
    _number("Area / total", "total area", 200, "How big is {c}? | What area does {c} cover? | "
        "How large is {c} in square kilometres? | What's the total area of {c}? | "
        "How many square kilometers does {c} cover in all? | area of {c} | "
        "How much space does {c} take up in total? | What is the size of {c}?", r"Area"),
    _number("Area / land", "land area", 70, "How much land does {c} have, without water? | "
        "How large is {p} land area? | What is the area of land in {c}? | land area of {c} | "
        "How many sq km of {c} are land? | What area of {c} is dry land?", r"Area"),
    _number("Area / water", "water area", 60, "How much of {p} area is water? | How many square kilometres of water "
        "belong to {c}? | How large is the water area of {c}? | water area of {c} | "
        "What area of {c} is covered by water? | How many sq km of {c} are water?", r"Area"),
    _number("Coastline", "length of the coastline", 130, "How long is {p} coastline? | How many kilometres of coast "
        "does {c} have? | What's the length of the coast of {c}? | coastline of {c} | "
        "How long is the coast of {c}? | How much coastline does {c} have? | "
        "How many km of coastline are there in {c}?"),
    _number("Land boundaries / total", "total length of the land borders", 80, "How long are {p} land borders in "
        "total? | What is the total length of {p} borders? | How many kilometres of land border does {c} have? | "
        "total border length of {c} | How long is the land boundary of {c} altogether? | "
        "What's the combined length of the land borders of {c}?"),
    _number("Median age / total", "median age", 90, "What's the median age in {c}? | How old is the median person in "
        "{c}? | How old is the typical person in {c}, by the median? | median age in {c} | "
        "What is the median age of people in {c}? | At what age are half the people of {c} older and half younger?"),
    _number("Median age / male", "median age of men", 30, "What is the median age of men in {c}? | "
        "How old is the median man in {c}? | median age of males in {c} | "
        "What's the median age for males in {c}? | Median age of the male population of {c}?"),
    _number("Median age / female", "median age of women", 30, "What is the median age of women in {c}? | "
        "How old is the median woman in {c}? | median age of females in {c} | "
        "What's the median age for females in {c}? | Median age of the female population of {c}?"),
    _number("Population growth rate", "population growth rate", 90, "How fast is {p} population growing? | "
        "By how much does the population of {c} grow a year? | What's the population growth in {c}? | "
        "population growth in {c} | At what rate is the population of {c} changing? | "
        "How quickly does {p} population increase or shrink?"),
    _number("Birth rate", "birth rate", 50, "What's the birth rate in {c}? | How many births per 1,000 people does "
        "{c} have? | birth rate of {c} | How high is the birth rate in {c}? | "
        "How many babies are born per 1,000 people in {c}?"),
    _number("Death rate", "death rate", 50, "What's the death rate in {c}? | How many deaths per 1,000 people does "
        "{c} have? | death rate in {c} | How high is the death rate in {c}? | "
        "How many people in 1,000 die each year in {c}?"),
    _number("Life expectancy at birth / total population", "life expectancy", 110, "How long do people in {c} live "
        "on average? | What's the life expectancy in {c}? | life expectancy in {c} | "
        "How many years can people in {c} expect to live? | How old do people get in {c}? | "
        "What age do people in {c} reach on average?"),
    _number("Life expectancy at birth / male", "life expectancy of men", 40, "How long do men in {c} live on "
        "average? | What's the life expectancy of men in {c}? | male life expectancy in {c} | "
        "How old do men get in {c}? | How many years can a boy born in {c} expect to live?"),
    _number("Life expectancy at birth / female", "life expectancy of women", 40, "How long do women in {c} live on "
        "average? | What's the life expectancy of women in {c}? | female life expectancy in {c} | "
        "How old do women get in {c}? | How many years can a girl born in {c} expect to live?"),
    _number("Literacy / total population", "literacy rate", 90, "How many people in {c} can read and write? | "
        "What share of {p} population is literate? | literacy in {c} | "
        "What percentage of people in {c} can read? | How high is literacy in {c}? | "
        "What's the literacy rate in {c}?"),
    _number("Urbanization / urban population", "urban share of the population", 60, "What share of {p} people live "
        "in cities? | How much of the population of {c} is urban? | "
        "What percentage of people in {c} live in towns? | urban population of {c} | How urbanized is {c}? | "
        "What part of the population in {c} lives in urban areas?"),
    _number("Total fertility rate", "fertility rate", 50, "How many children does a woman in {c} have on average? | "
        "What's the fertility rate in {c}? | fertility rate in {c} | "
        "How many children are born per woman in {c}? | How many kids do women in {c} have?"),
    _number("Infant mortality rate / total", "infant mortality rate", 60, "How many babies die per 1,000 live births "
        "in {c}? | What's infant mortality in {c}? | infant mortality in {c} | "
        "How high is the infant mortality rate of {c} overall? | What is the total infant mortality rate in {c}?"),
    _number("Obesity - adult prevalence rate", "adult obesity rate", 40, "What percentage of adults in {c} are "
        "obese? | How common is obesity in {c}? | obesity rate in {c} | How many adults in {c} are obese? | "
        "What share of grown-ups in {c} suffers from obesity?"),
    _number("Health expenditures", "health expenditure", 40, "How much does {c} spend on health? | "
        "What part of GDP goes to health care in {c}? | health spending of {c} | "
        "How large is health expenditure in {c}? | What does {c} spend on health care?"),
    _number("Education expenditures", "education expenditure", 40, "How much does {c} spend on education? | "
        "What share of GDP goes to schools in {c}? | education spending of {c} | "
        "How large is education expenditure in {c}? | What does {c} spend on education?"),
    _number("Physicians density", "density of physicians", 30, "How many doctors are there per 1,000 people in {c}? |"
        " How many physicians does {c} have per 1,000 population? | doctors per 1,000 people in {c} | "
        "What's the physician density in {c}? | How well is {c} supplied with physicians?"),
    _number("GDP (purchasing power parity)", "GDP at purchasing power parity", 90, "What is {p} GDP (PPP)? | "
        "How big is {p} GDP at purchasing power parity? | GDP (PPP) of {c} | "
        "What's the GDP of {c} measured in purchasing power? | "
        "How large is the economy of {c} at purchasing power parity?", "GDP"),
    _number("GDP (official exchange rate)", "GDP at the official exchange rate", 60, "What is {p} GDP at official "
        "exchange rates? | How big is {p} GDP at the official exchange rate? | "
        "GDP of {c} at the official exchange rate | What's the GDP of {c} using the official exchange rate? | "
        "How large is the economy of {c} at official exchange rates?", "GDP"),
    _number("GDP - per capita (PPP)", "GDP per capita", 90, "How much is GDP per head in {c}? | "
        "What's the GDP per person in {c}? | GDP per capita of {c} | How high is the GDP per capita of {c}? | "
        "What is economic output per person in {c}?", "GDP"),
    _number("GDP - real growth rate", "real GDP growth rate", 60, "How fast did {p} economy grow? | "
        "What's the economic growth rate of {c}? | GDP growth in {c} | By how much does {p} GDP grow? | "
        "How strongly is the economy of {c} growing or shrinking?", "GDP"),
    _number("Unemployment rate", "unemployment rate", 90, "How high is unemployment in {c}? | "
        "How many people in {c} are out of work? | unemployment in {c} | "
        "What percentage of the labor force in {c} is unemployed? | What share of people are jobless in {c}? | "
        "What's the jobless rate in {c}?", "nemployment"),
    _number("Unemployment, youth ages 15-24 / total", "youth unemployment rate", 40, "How high is youth unemployment "
        "in {c}? | How many young people in {c} are out of work? | youth unemployment in {c} | "
        "What share of 15-24 year-olds is unemployed in {c}? | "
        "What's the total unemployment rate for ages 15-24 in {c}?", "nemployment"),
    _number("Inflation rate (consumer prices)", "inflation rate", 90, "How high is inflation in {c}? | "
        "How fast do prices rise in {c}? | inflation in {c} | What's the inflation rate for consumer prices in "
        "{c}? | By how much did consumer prices change in {c}?"),
    _number("Public debt", "public debt", 60, "How high is {p} public debt? | How indebted is the state of {c}? | "
        "public debt of {c} | How much public debt does {c} have? | "
        "What is the government debt of {c} relative to GDP?"),
    _number("Population below poverty line", "share of people below the poverty line", 50, "How many people in {c} "
        "live below the poverty line? | What share of {p} population is poor? | poverty in {c} | "
        "What percentage of the people of {c} live in poverty? | How widespread is poverty in {c}?"),
    _number("Labor force", "size of the labor force", 50, "How many workers does {c} have? | "
        "How big is the labor force of {c}? | labor force of {c} | How many people are in {p} workforce? | "
        "What's the size of {p} work force?"),
    _number("Exports", "value of the exports", 60, "How much does {c} export? | What are {p} exports worth? | "
        "value of exports of {c} | For how much money does {c} sell goods abroad? | "
        "How large are the exports of {c} in dollars?", "xports"),
    _number("Imports", "value of the imports", 60, "How much does {c} import? | What are {p} imports worth? | "
        "value of imports of {c} | For how much money does {c} buy goods abroad? | "
        "How large are the imports of {c} in dollars?", "mports"),
    _number("Internet users / total", "number of internet users", 80, "How many people use the internet in {c}? | "
        "How many internet users does {c} have? | internet users in {c} | How many people are online in {c}? | "
        "What's the total number of internet users in {c}?", "nternet users"),
    _number("Internet users / percent of population", "share of internet users", 60, "What percentage of people in "
        "{c} use the internet? | What share of {p} population is online? | percent of population online in {c} | "
        "How much of the population of {c} uses the internet, in percent? | "
        "What part of the people in {c} are internet users?", "nternet users"),
    _number("Telephones - mobile cellular / total", "number of mobile phone subscriptions", 50, "How many mobile "
        "phones are there in {c}? | How many cell phone subscriptions does {c} have? | mobile phones in {c} | "
        "What is the total number of mobile subscriptions in {c}? | How many cellular phones are registered in {c}?",
        "Telephones"),
    _number("Telephones - fixed lines / total subscriptions", "number of fixed telephone lines", 40, "How many "
        "landlines are there in {c}? | How many fixed phone lines does {c} have? | landlines in {c} | "
        "What is the total number of fixed-line subscriptions in {c}? | "
        "How many fixed telephone lines exist in {c}?", "Telephones"),
    _number("Airports", "number of airports", 80, "How many airports does {c} have? | "
        "How many airports are there in {c}? | airports in {c} | What's the total number of airports in {c}? | "
        "In how many airports can you land in {c}?", "irports"),
    _number("Airports - with paved runways / total", "number of airports with paved runways", 30, "How many airports "
        "in {c} have paved runways? | How many paved-runway airports does {c} have? | "
        "airports with paved runways in {c} | What is the total of airports with a paved runway in {c}? | "
        "How many airports with paved runways are there in {c}?", "irports"),
    _number("Roadways / total", "total length of the roads", 60, "How long is {p} road network? | "
        "How many kilometres of road does {c} have? | roads in {c} | What's the total length of roads in {c}? | "
        "How many km of roadways are there in {c} altogether?", "Roadways"),
    _number("Railways / total", "total length of the railways", 50, "How long is {p} railway network? | "
        "How many kilometres of railway does {c} have? | railways in {c} | "
        "What's the total length of rail lines in {c}? | How many km of railroad are there in {c}?", "Railways"),
    _number("Electricity - production", "electricity production", 40, "How much electricity does {c} produce? | "
        "How much power is generated in {c}? | electricity production in {c} | "
        "What is the annual electricity production of {c}? | How many kWh of electricity does {c} make?"),
    _number("Electricity - consumption", "electricity consumption", 40, "How much electricity does {c} use? | "
        "How much power is consumed in {c}? | electricity consumption in {c} | "
        "What is the annual electricity consumption of {c}? | How many kWh of electricity does {c} consume?"),
    _number("Carbon dioxide emissions from consumption of energy", "CO2 emissions", 30, "How much CO2 does {c} emit? "
        "| How much carbon dioxide comes from energy use in {c}? | carbon dioxide emissions of {c} | "
        "How large are {p} carbon emissions from energy? | What are {p} carbon dioxide emissions?"),
    _number("Military expenditures", "military expenditure", 50, "How much does {c} spend on its military? | "
        "What share of GDP goes to defence in {c}? | military spending of {c} | "
        "How large is {p} defense budget relative to GDP? | What does {c} spend on the armed forces?"),
    _number("Land use / forest", "share of forest", 40, "How much of {c} is covered by forest? | "
        "What percentage of {p} land is forest? | forest cover of {c} | What share of land in {c} is wooded? | "
        "How much forest is there in {c}, in percent?"),
    _number("Irrigated land", "irrigated area", 30, "How much land is irrigated in {c}? | "
        "How large is the irrigated area of {c}? | irrigated land in {c} | "
        "How many square kilometres are irrigated in {c}? | What area of farmland in {c} gets irrigation?"),
    _number("Maritime claims / territorial sea", "territorial sea", 30, "How wide is {p} territorial sea? | "
        "How far does the territorial sea of {c} reach? | territorial sea of {c} | "
        "What territorial sea does {c} claim? | How many nautical miles of territorial sea does {c} claim?"),
    _number("Age structure / 0-14 years", "share of children aged 0-14", 40, "What share of people in {c} are under "
        "15? | What percentage of {p} population is 0-14 years old? | share of 0-14 year-olds in {c} | "
        "How many percent of the people in {c} are children up to 14? | How large is the 0-14 age group in {c}?"),
    _number("Age structure / 65 years and over", "share of people aged 65 and over", 40, "What share of people in "
        "{c} are 65 or older? | What percentage of {p} population is over 65? | share of elderly people in {c} | "
        "How many percent of the people in {c} are at least 65? | How large is the 65-and-over age group in {c}?"),
    _number("Budget / revenues", "budget revenues", 30, "How much revenue does the budget of {c} have? | "
        "How much money does the government of {c} take in? | budget revenues of {c} | "
        "What are the state revenues of {c}? | How large are {p} budget revenues?", "Budget"),
    _number("Budget / expenditures", "budget expenditures", 30, "How much does the government of {c} spend? | "
        "What are the budget expenditures of {c}? | budget expenditures of {c} | "
        "How large is the spending side of {p} budget? | How large are state expenditures in {c}?", "Budget"),
    _number("Net migration rate", "net migration rate", 30, "What's the net migration rate of {c}? | "
        "How many migrants per 1,000 people does {c} gain or lose? | net migration in {c} | "
        "How high is net migration in {c}? | What is the balance of migration in {c}?"),
)  # fmt: skip


# ------------------------------------------------------------------------------ country pages: words and dates


def _plain(limit: int, cut: str = r"; ") -> Callable[[str], tuple[str, ...]]:
    """Picks the first part of a line when it is short enough and no remark."""

    def pick(value: str) -> tuple[str, ...]:
        main = re.split(cut, value)[0].strip()
        if not main or len(main.split()) > limit or re.search(r"\bNA\b|^none|^note|see entry|\+\+", main):
            return ()
        return unique((main, re.sub(r" \([^()]*\)$", "", main)))

    return pick


def _match(pattern: str, *forms: str) -> Callable[[str], tuple[str, ...]]:
    """Picks by a regular expression; the forms are made from its groups."""

    def pick(value: str) -> tuple[str, ...]:
        match = re.match(pattern, value)
        return unique(match.expand(form) for form in forms or (r"\1",)) if match else ()

    return pick


def pick_capital(value: str) -> tuple[str, ...]:
    """The one capital; nothing where there are several or none."""
    main = re.split(r"; | in Romanian|: note", value)[0]
    if re.search(r"capital|\bNone\b|Cantonment", main) or "capital)" in value:
        return ()
    name = main.split(" (")[0]
    return unique((name, main))


def pick_currency(value: str) -> tuple[str, ...]:
    """The currency named in the line of exchange rates."""
    match = re.match(r"([A-Za-z'/ ]+?) ?(?:\(([A-Z]{3}(?:/[A-Z]{3})?)\) )?per (?:US )?dollar", value)
    if match:
        return unique((match[1], f"{match[1]} ({match[2]})" if match[2] else "", match[2] or ""))
    return ("the US dollar", "US dollar") if value.startswith("the US dollar") else ()


def pick_independence(value: str) -> tuple[str, ...]:
    """The date of independence where the line tells exactly one."""
    match = re.match(rf"(\d{{1,2}} (?:{MONTHS}) (\d{{4}})) \((?:from|declared)", value)
    if not match or len(re.findall(r"\b\d{4}\b", value)) != 1:
        return ()
    return unique((match[1], match[2]))


def pick_constitution(verb: str) -> Callable[[str], tuple[str, ...]]:
    """The date behind ``latest ... verb`` of the line about the constitution."""

    def pick(value: str) -> tuple[str, ...]:
        found = re.findall(rf"(?:latest|^)[^;,]*?\b{verb} (\d{{1,2}} (?:{MONTHS}) \d{{4}})(?=[,;( ])", value)
        return (found[0],) if len(found) == 1 else ()

    return pick


_TITLES = (
    r"(?:Interim |Executive |Federal |Acting )?(?:President|King|Queen|Emperor|Prince|Grand Duke|Amir|Pope|Prime "
    r"Minister|"
    r"Premier|Chancellor|Sultan|Taoiseach|Governor|Chief Minister)"
)


def pick_person(titles: str) -> Callable[[str], tuple[str, ...]]:
    """The first person of a line when the title is one of these."""
    pattern = rf"({titles}) ([A-Z][^();,:]*?) \(since ?\d"

    def pick(value: str) -> tuple[str, ...]:
        match = re.match(pattern, value)
        if (
            not match
            or " and " in match[2]
            or len(match[2].split()) > 6
            or "vacant" in value[:60]
            or " of " in match[2]
        ):
            return ()
        names = match[2].split()
        plain = " ".join(name.title() if name.isupper() and len(name) > 3 else name for name in names)
        return unique((match[2], f"{match[1]} {match[2]}", plain))

    return pick


def cities(value: str) -> list[tuple[str, str]]:
    """The major cities with their numbers of people, as written."""
    found = []
    for piece in re.sub(r" \(\d{4}\)$", "", value).split("; "):
        match = re.fullmatch(r"([A-Z][^\d()]*?)(?: \(capital\))? (\d[\d,.]*(?: million)?)", piece.strip())
        if not match:
            return []
        found.append((match[1].title() if match[1].isupper() else match[1], match[2]))
    return found


def pick_largest_city(value: str) -> tuple[str, ...]:
    """The city with the most people, of two or more."""
    known = cities(value)
    if len(known) < 2:
        return ()
    sizes = sorted(((amount(size) or 0.0, name) for name, size in known), reverse=True)
    return (sizes[0][1],) if sizes[0][0] > sizes[1][0] else ()


def pick_noun(value: str) -> tuple[str, ...]:
    """What the people are called."""
    match = re.fullmatch(r"([A-Z][\w ]+)\(s\)", value)
    return (value, match[1] + "s", match[1]) if match else ()


def _text(
    kind: str, key: str, noun: str, count: int, pick: Callable[[str], tuple[str, ...]], asks: str, avoid: str = ""
) -> Relation:
    """A relation whose answer is a name, a phrase or a date."""
    return Relation(kind, key, noun, tuple(asks.split(" | ")), pick, count * 7 // 10, avoid)


TEXTS = (
    _text("fb_text", "Capital / name", "capital", 230, pick_capital, "What is the capital of {c}? | "
        "What's {p} capital city? | Which city is the capital of {c}? | capital of {c}? | "
        "Where does the government of {c} sit, in which capital? | Name the capital city of {c}. | "
        "Which town is {p} capital? | What is the capital city of {c} called?"),
    _text("fb_text", "Exchange rates", "currency", 150, pick_currency, "Which currency is used in {c}? | "
        "What money do people use in {c}? | What do you pay with in {c}? | currency of {c} | "
        "What's the currency of {c}? | In which currency do you pay in {c}? | What is the money of {c} called?",
        "currency|euro"),
    _text("fb_text", "Exchange rates", "currency code", 30, _match(r"[^()]+ \(([A-Z]{3})\) per"), "What's the code "
        "of the currency of {c}? | Which three-letter code does the currency of {c} have? | currency code of {c} | "
        "What is the abbreviation of {p} currency? | Which currency code is used for {c}?", "currency"),
    _text("fb_text", "Government type", "government type", 110, _plain(10), "What kind of government does {c} have? |"
        " How is {c} governed? | What is the form of government in {c}? | government type of {c} | "
        "What type of state is {c}? | What political system does {c} have? | Which form of government has {c}?",
        "republic|monarchy|democra"),
    _text("fb_text", "Country name / conventional long form", "official long name", 60, _plain(8), "What is the full "
        "official name of {c}? | What's {c} called officially? | official name of {c} | "
        "What is the conventional long form of the name {c}? | How is {c} named in full? | "
        "What's the long name of {c}?"),
    _text("fb_text", "Country name / local short form", "local short name", 40, _plain(4), "What do the locals call "
        "{c}? | What is the local short form of {p} name? | How is {c} called in its own language? | "
        "local name of {c} | What is the local name of {c}, in short?"),
    _text("fb_text", "Location", "location", 90, _plain(16), "Where is {c}? | Where is {c} located? | "
        "Where does {c} lie? | location of {c} | Where on the map do I find {c}? | "
        "In what part of the world is {c}? | Where can you find {c}?"),
    _text("fb_text", "Climate", "climate", 80, _plain(14), "What is the climate like in {c}? | "
        "What's the weather like in {c}? | What kind of climate does {c} have? | climate of {c} | "
        "How is the climate in {c}? | Describe the climate of {c}."),
    _text("fb_text", "Terrain", "terrain", 70, _plain(16), "What does the landscape of {c} look like? | "
        "What is the terrain of {c} like? | What kind of terrain does {c} have? | terrain of {c} | "
        "Describe the terrain of {c}. | What sort of land is {c} made of?"),
    _text("fb_text", "Area - comparative", "size compared with other places", 50, _plain(14, r"$"), "How big is {c} "
        "compared with other places? | To what is the area of {c} compared? | "
        "Which area is {c} about as large as? | How does {c} compare in size? | What's a comparison for {p} size?"),
    _text("fb_text", "Elevation extremes / highest point", "highest point", 120, _match(r"((?!unnamed)[A-Z][^\d(]+?) "
        r"(-?[\d,]+ m)\b", r"\1", r"\1 \2"), "What is the highest point in {c}? | "
        "What's {p} highest mountain or point? | Which is the highest place in {c}? | highest point of {c} | "
        "What is the name of the highest point of {c}? | Where is {c} highest? | "
        "What's the top elevation point in {c} called?", "highest"),
    _text("fb_number", "Elevation extremes / highest point", "height of the highest point", 90, _match(
        r"(?:(?!unnamed)[A-Z][^\d(]+?) (-?([\d,]+) m)\b", r"\1", r"\2"), "How high is the highest point of {c}? | "
        "How many metres is the highest point in {c}? | elevation of the highest point in {c} | "
        "How tall is {p} highest point? | What's the elevation of the highest place in {c}?", "highest"),
    _text("fb_text", "Elevation extremes / lowest point", "lowest point", 50, _match(r"((?!unnamed)[A-Z][^\d(-]+?) "
        r"(-?[\d,]+ m)\b", r"\1", r"\1 \2"), "What is the lowest point in {c}? | Which place in {c} is the lowest? | "
        "lowest point of {c} | What is the name of the lowest point of {c}? | Where is {c} lowest?", "lowest"),
    _text("fb_date", "Independence", "date of independence", 130, pick_independence, "When did {c} become "
        "independent? | When did {c} gain independence? | On what date did {c} become independent? | "
        "independence of {c} | Since when has {c} been independent? | What's {p} date of independence? | "
        "What year and day did {c} get its independence?", "ndependen"),
    _text("fb_text", "Independence", "", 70, _match(rf"\d{{1,2}} (?:{MONTHS}) \d{{4}} \(from ((?:the )?[A-Z][\w "
        rf"]+)\)$", r"\1"), "From which country did {c} become independent? | From whom did {c} gain independence? | "
        "Which power did {c} win its independence from? | Who did {c} become independent of? | "
        "Which state did {c} belong to before independence?", "ndependen"),
    _text("fb_date", "National holiday", "date of the national holiday", 80, _match(rf"[A-Z][^,;]+, ((\d{{1,2}} "
        rf"(?:{MONTHS})) \(\d{{4}}\))", r"\2", r"\1"), "When is {p} national holiday? | "
        "On which day does {c} celebrate its national holiday? | What day is the national holiday in {c}? | "
        "national day of {c} | Which date is the national holiday of {c}?", "oliday"),
    _text("fb_text", "National holiday", "national holiday", 60, _match(r"([A-Z][^,;(]+?)(?: \([^()]*\))?, \d",
        r"\1"), "What is the national holiday of {c} called? | Which national holiday does {c} celebrate? | "
        "name of the national holiday of {c} | What's {p} national holiday? | "
        "Which holiday is the national one in {c}?", "oliday"),
    *(
        _text("fb_date", "Constitution", "", 40, pick_constitution(verb), asks, "onstitution")
        for verb, asks in (
            ("adopted", "When was {p} constitution adopted? | On what date was the latest constitution of {c} "
                "adopted? | When did {c} adopt its latest constitution? | "
                "When was the current constitution of {c} adopted?"),
            ("ratified", "When was {p} constitution ratified? | On what date was the latest constitution of {c} "
                "ratified? | When did {c} ratify its latest constitution? | "
                "When was the current constitution of {c} ratified?"),
            ("approved by referendum", "When was {p} constitution approved by referendum? | "
                "When did a referendum approve the constitution of {c}? | "
                "On what date did the people of {c} approve the constitution?"),
            ("promulgated", "When was {p} constitution promulgated? | On what date was the latest constitution of "
                "{c} promulgated? | When was the constitution of {c} proclaimed officially?"),
            ("effective", "When did {p} constitution take effect? | Since when has the latest constitution of {c} "
                "been in force? | When did the constitution of {c} become effective? | "
                "On what date did {p} constitution enter into force?"),
        )
    ),
    _text("fb_person", "Executive branch / chief of state", "", 90, pick_person(_TITLES), "Who is {p} chief of "
        "state? | Who's the head of state of {c}? | chief of state of {c} | Who is the chief of state in {c}? | "
        "Name {p} head of state.", "President|King|Queen"),
    _text("fb_person", "Executive branch / chief of state", "", 90, pick_person("President"), "Who is the president "
        "of {c}? | Who's {p} president? | president of {c}? | What's the name of the president of {c}? | "
        "Name the president of {c}.", "President"),
    _text("fb_person", "Executive branch / head of government", "", 80, pick_person(_TITLES), "Who is {p} head of "
        "government? | Who heads the government of {c}? | head of government of {c} | "
        "Who leads the government in {c}? | Who's in charge of the government of {c}?", "Prime Minister|President"),
    _text("fb_person", "Executive branch / head of government", "", 60, pick_person("Prime Minister"), "Who is the "
        "prime minister of {c}? | Who's {p} prime minister? | prime minister of {c}? | "
        "What is the name of {p} prime minister? | Name the prime minister of {c}.", "Prime Minister"),
    _text("fb_date", "Executive branch / chief of state", "", 60, _match(rf"{_TITLES} [A-Z][^();,:]*? \(since "
        rf"(\d{{1,2}} (?:{MONTHS}) \d{{4}})", r"\1"), "Since when has the chief of state of {c} been in office? | "
        "When did {p} head of state take office? | How long has the chief of state of {c} been in office, since "
        "when? | On what date did the current chief of state of {c} take office?", "President|King|Queen"),
    _text("fb_text", "Internet country code", "internet country code", 60, _match(r"(\.[a-z]{2})\b"), "What is the "
        "internet country code of {c}? | Which web domain ending does {c} have? | top-level domain of {c} | "
        "What do web addresses from {c} end in? | Which internet ending belongs to {c}?"),
    _text("fb_text", "Telephone system / international", "telephone country code", 60, _match(
        r"country code - ([\d-]+)\b"), "What is the country calling code of {c}? | "
        "Which telephone code do I dial for {c}? | calling code of {c} | What's the phone prefix of {c}? | "
        "What country code do I need to call {c}?"),
    _text("fb_text", "Nationality / adjective", "adjective of nationality", 40, _match(r"([A-Z][\w-]+)$"), "What's "
        "the adjective for things from {c}? | Which adjective goes with {c}? | adjective for {c} | "
        "What adjective of nationality is used for {c}? | What do you call something that comes from {c}?"),
    _text("fb_text", "Nationality / noun", "", 40, pick_noun, "What are people from {c} called? | "
        "What do you call someone from {c}? | What are the inhabitants of {c} called? | noun for people from {c} | "
        "How are citizens of {c} called?"),
    _text("fb_text", "National anthem / name", "national anthem", 60, _match(r"\"([^\"]+)\""), "What is {p} national "
        "anthem called? | What's the name of the national anthem of {c}? | national anthem of {c} | "
        "Which song is the anthem of {c}? | What is the title of {p} anthem?", "anthem"),
    _text("fb_text", "National symbol(s)", "national symbol", 60, _match(r"([a-z][^;]{3,60}); national colors"),
        "What is the national symbol of {c}? | Which symbol stands for {c}? | national symbol of {c} | "
        "What serves as {p} national symbol? | Which national symbol does {c} have?"),
    _text("fb_text", "Suffrage", "voting age", 60, _match(r"((\d\d) years of age); universal", r"\1", r"\2"), "How "
        "old must you be to vote in {c}? | At what age can people vote in {c}? | voting age in {c} | "
        "From what age may citizens of {c} vote? | What's the minimum voting age in {c}?"),
    _text("fb_text", "Fiscal year", "fiscal year", 40, _match(r"(calendar year|\d{1,2} [A-Z][a-z]+ - \d{1,2} "
        r"[A-Z][a-z]+)$"), "What is the fiscal year in {c}? | From when to when does {p} fiscal year run? | "
        "fiscal year of {c} | Which period is the fiscal year of {c}? | When is the budget year in {c}?"),
    _text("fb_text", "Legal system", "legal system", 60, _plain(12), "What legal system does {c} have? | "
        "What kind of law does {c} use? | legal system of {c} | On what is the legal system of {c} based? | "
        "How does the law in {c} work, what type of system is it?"),
    _text("fb_text", "Administrative divisions", "administrative divisions", 70, _match(r"((\d+) [a-z][a-z ]+?)(?: "
        r"\([^()]*\))?;", r"\1", r"\2"), "How many administrative divisions does {c} have? | "
        "How is {c} divided administratively? | Into how many regions or provinces is {c} divided? | "
        "administrative divisions of {c} | What administrative units does {c} consist of?", "divisions"),
    _text("fb_text", "Exports - partners", "biggest export partner", 80, _match(r"([A-Z][A-Za-z' ]+?) ([\d.]+%), "
        r"[A-Z]", r"\1", r"\1 \2"), "Who buys the most from {c}? | Which country is {p} biggest export customer? | "
        "Where do most of {p} exports go? | main export partner of {c} | "
        "Which country takes the largest share of {p} exports?", "partners"),
    _text("fb_text", "Imports - partners", "biggest import partner", 70, _match(r"([A-Z][A-Za-z' ]+?) ([\d.]+%), "
        r"[A-Z]", r"\1", r"\1 \2"), "Who sells the most to {c}? | Which country is {p} biggest supplier? | "
        "Where do most of {p} imports come from? | main import partner of {c} | "
        "From which country does {c} import the most?", "partners"),
    _text("fb_text", "Major urban areas - population", "largest city", 80, pick_largest_city, "What is the largest "
        "city in {c}? | Which city in {c} has the most people? | biggest city of {c} | "
        "What's the biggest city in {c}? | Which is the most populous city of {c}?"),
)  # fmt: skip


# ---------------------------------------------------------------------------------------- country pages: lists

_BAD_ITEM = re.compile(
    r"\d|:|\bnote\b|predominant|mostly|mainly|\bsome\b|includ|\bwhich\b|more than|less than|unknown|potential|percent|"
    r"negligible|spoken|understood|used|remain|\bbut\b|\bare\b|\bis\b|\bNA\b|various|several|\bor\b|widely|minor|small|"
    r"dialect|approximately|about|homogen|mixture|majority|descen|especially|such as|primarily|--| - |\+\+|^official|"
    r"tribes|"
    r"deposits|groups|formerly|\*|[()]",
    re.IGNORECASE,
)


def list_items(value: str) -> tuple[str, ...]:
    """The two to six plain items of a list; nothing when the line is more than a list."""
    text = re.split(r"; note|, note| \+\+ ", value)[0]
    for _ in range(3):
        text = re.sub(r"\s*\([^()]*\)", "", text)
    text = re.sub(r"\s*\d[\d.,]*\s*%", "", text).strip(" ;,")
    if ";" in text and "," in text:
        return ()
    items = [re.sub(r"^and ", "", item.strip()) for item in re.split(r"[;,]", text)]
    if not items or re.match(r"none|other|unspecified", items[0]):
        return ()
    items = [
        item
        for item in items
        if not re.match(r"others?\b|none\b|unspecified|unknown|atheist|agnostic|no religion|unaffiliated", item)
    ]
    if not 2 <= len(items) <= 6 or len(set(items)) != len(items):
        return ()
    if any(not item or len(item.split()) > 5 or _BAD_ITEM.search(item) for item in items):
        return ()
    return tuple(items)


def borders(value: str) -> list[tuple[str, str]]:
    """The neighbours with the lengths of the borders; nothing where one is named in parts."""
    value = re.sub(r" \((?:of which|including|includes)[^()]*\)", "", value)
    found = re.findall(r"(?:^|, )([A-Z][A-Za-z' -]+?(?: \(Vatican City\))?) ([\d,.]+ km)(?=,|$)", value)
    return found if found and len(found) == value.count(" km") and "Naval" not in value else []


def border_items(value: str) -> tuple[str, ...]:
    """The two to six neighbours of a country."""
    names = tuple(name for name, _ in borders(value))
    return names if 2 <= len(names) <= 6 else ()


def color_items(value: str) -> tuple[str, ...]:
    """The national colours."""
    match = re.search(r"national colors: ([a-z, -]+)$", value)
    items = tuple(match[1].split(", ")) if match else ()
    return items if 2 <= len(items) <= 5 and all(items) else ()


@dataclass(frozen=True)
class Listing:
    """A list under a key: its items, how to ask for them, and how when their number is known."""

    key: str
    noun: str
    single: str
    items: Callable[[str], tuple[str, ...]]
    count: int
    wordings: tuple[str, ...]
    numbered: tuple[str, ...]
    avoid: str = ""

    def relation(self) -> Relation:
        """The same as a relation."""

        def pick(value: str) -> tuple[str, ...]:
            items = self.items(value)
            return unique((join(items), ", ".join(items))) if items else ()

        return Relation("fb_list", self.key, self.noun, self.wordings, pick, self.count, self.avoid, listing=True)


def _listing(
    key: str, noun: str, items: Callable[[str], tuple[str, ...]], count: int, asks: str, numbered: str, avoid: str = ""
) -> Listing:
    """A list with its wordings, separated by bars."""
    return Listing(
        key, noun, noun, items, count * 8 // 10, tuple(asks.split(" | ")), tuple(numbered.split(" | ")), avoid
    )


LISTS = (
    _listing("Land boundaries / border countries", "neighbouring countries", border_items, 190, "Which countries "
        "border {c}? | What are {p} neighbours? | Which countries does {c} share a border with? | "
        "neighbours of {c} | Name the countries around {c} that it borders. | What countries are next to {c}? | "
        "With which countries does {c} have a land border?", "Which {k} countries border {c}? | "
        "Name the {k} neighbours of {c}. | What are the {k} countries next to {c}? | "
        "{c} borders {k} countries. Which ones? | Which {k} neighbours does {c} have?"),
    _listing("Natural resources", "natural resources", list_items, 120, "What natural resources does {c} have? | "
        "Which natural resources are found in {c}? | natural resources of {c} | "
        "What resources can be found in {c}? | What raw materials is {c} known for? | "
        "Which resources does nature give {c}?", "Which {k} natural resources does {c} have? | "
        "Name the {k} natural resources of {c}. | What are the {k} natural resources listed for {c}?"),
    _listing("Languages", "languages", list_items, 150, "Which languages are spoken in {c}? | "
        "What languages do people speak in {c}? | languages of {c} | What do people speak in {c}? | "
        "Which languages does {c} have? | What tongues are spoken in {c}?", "Which {k} languages are spoken in {c}? |"
        " Name the {k} languages of {c}. | What are the {k} languages listed for {c}?"),
    _listing("Religions", "religions", list_items, 110, "Which religions are there in {c}? | "
        "What do people in {c} believe in? | religions of {c} | Which religions are practised in {c}? | "
        "What faiths do people have in {c}?", "Which {k} religions are named for {c}? | "
        "Name the {k} religions listed for {c}. | What are the {k} religions in {c}?"),
    _listing("Ethnic groups", "ethnic groups", list_items, 110, "Which ethnic groups live in {c}? | "
        "What peoples live in {c}? | ethnic groups of {c} | What ethnic groups is the population of {c} made of? | "
        "Who lives in {c}, by ethnic group?", "Which {k} ethnic groups live in {c}? | "
        "Name the {k} ethnic groups listed for {c}. | What are the {k} ethnic groups of {c}?"),
    _listing("Industries", "industries", list_items, 110, "What industries does {c} have? | "
        "Which industries are there in {c}? | industries of {c} | What does industry in {c} produce or do? | "
        "Which branches of industry exist in {c}?", "Which {k} industries does {c} have? | "
        "Name the {k} industries of {c}. | What are the {k} industries listed for {c}?"),
    _listing("Agriculture - products", "farm products", list_items, 100, "What do farmers in {c} produce? | "
        "Which farm products come from {c}? | agricultural products of {c} | What is grown and raised in {c}? | "
        "What does {p} agriculture produce?", "Which {k} farm products come from {c}? | "
        "Name the {k} agricultural products of {c}. | What {k} things does farming in {c} produce?"),
    _listing("Exports - commodities", "export goods", list_items, 110, "What does {c} export? | "
        "Which goods does {c} sell abroad? | export goods of {c} | What are {p} main export commodities? | "
        "What kinds of goods does {c} export?", "Which {k} goods does {c} export? | "
        "Name the {k} export commodities of {c}. | What {k} things does {c} sell abroad?"),
    _listing("Imports - commodities", "import goods", list_items, 90, "What does {c} import? | "
        "Which goods does {c} buy abroad? | import goods of {c} | What are {p} main import commodities? | "
        "What kinds of goods does {c} import?", "Which {k} goods does {c} import? | "
        "Name the {k} import commodities of {c}. | What {k} things does {c} buy abroad?"),
    _listing("Exports - partners", "export partners", list_items, 100, "Which countries does {c} export to? | "
        "Who are {p} export partners? | export partners of {c} | To which countries does {c} sell its goods? | "
        "Who buys goods from {c}?", "Which {k} countries does {c} export to? | "
        "Name the {k} export partners of {c}. | What are {p} {k} export partners?", "partners"),
    _listing("Imports - partners", "import partners", list_items, 80, "Which countries does {c} import from? | "
        "Who are {p} import partners? | import partners of {c} | From which countries does {c} buy its goods? | "
        "Who sells goods to {c}?", "Which {k} countries does {c} import from? | "
        "Name the {k} import partners of {c}. | What are {p} {k} import partners?", "partners"),
    _listing("Ports and terminals / major seaport(s)", "major seaports", list_items, 80, "What are the main seaports "
        "of {c}? | Which major seaports does {c} have? | seaports of {c} | "
        "Which harbours are the important ones in {c}? | Where are {p} big sea ports?", "Which {k} major seaports "
        "does {c} have? | Name the {k} big seaports of {c}. | What are {p} {k} major seaports?"),
    _listing("National symbol(s)", "national colors", color_items, 80, "What are {p} national colors? | "
        "Which colors stand for {c}? | national colors of {c} | What colours represent {c}? | "
        "Which are the national colours of {c}?", "Which {k} colors are the national colors of {c}? | "
        "Name the {k} national colours of {c}. | What are the {k} national colors of {c}?", "color"),
    _listing("Natural hazards", "natural hazards", list_items, 60, "Which natural hazards threaten {c}? | "
        "What natural disasters can hit {c}? | natural hazards of {c} | What dangers of nature does {c} face? | "
        "Which natural hazards exist in {c}?", "Which {k} natural hazards does {c} face? | "
        "Name the {k} natural hazards of {c}."),
    _listing("Environment - current issues", "environmental problems", list_items, 60, "What environmental problems "
        "does {c} have? | Which environmental issues does {c} face? | environmental issues of {c} | "
        "What is wrong with the environment in {c}? | Which current environmental issues are named for {c}?", "Which "
        "{k} environmental issues does {c} face? | Name the {k} environmental problems of {c}."),
)  # fmt: skip


# ------------------------------------------------------------------------------------ country pages: questions


class World:
    """The country pages and what the builders ask of them."""

    def __init__(self, countries: Sequence[Country]) -> None:
        self.countries = list(countries)
        self.by_name = {country.name: country for country in countries}

    def find(self, name: str) -> Country | None:
        """The country a border or trade list means by this name."""
        return self.by_name.get(_ALIASES.get(name, name)) or self.by_name.get("The " + name)

    def having(self, key: str, rng: random.Random) -> list[Country]:
        """The countries with a line for this key, shuffled."""
        found = [country for country in self.countries if country.value(key)]
        rng.shuffle(found)
        return found

    def silent(self, country: Country, key: str, secrets: Sequence[str], avoid: str, rng: random.Random) -> str:
        """A window of the same page that does not tell the answer; empty when none was found."""
        for _ in range(8):
            text = random_window(country, rng)
            body = text.split("\n", 1)[-1]
            if not text or f"\n{key}:" in text or (avoid and re.search(avoid, body)):
                continue
            if not any(holds(body, secret) for secret in secrets):
                return text
        return ""

    def distractors(
        self, country: Country, key: str, secrets: Sequence[str], avoid: str, rng: random.Random, count: int
    ) -> list[Paragraph]:
        """Windows that look like the right one: of another country, or of another place of the same page."""
        texts: list[str] = []
        others = self.having(key, rng)
        for _ in range(count * 2):
            if len(texts) == count:
                break
            if rng.random() < 0.5:
                text = self.silent(country, key, secrets, avoid, rng)
            else:
                other = others.pop()
                text = key_window(other, key, rng) if other.group != country.group else ""
            if text and text not in texts:
                texts.append(text)
        return [Paragraph(text, supporting=False) for text in texts]


def secrets_of(answers: Sequence[str], items: Sequence[str] = ()) -> tuple[str, ...]:
    """What a distractor of the same page must not hold: the answers, the items and any year among them."""
    found = [*answers, *items]
    for answer in answers:
        found += re.findall(r"\b\d{4}\b|\d[\d,.]{3,}\d", answer)
    return unique(found)


def how_many(rng: random.Random) -> int:
    """The number of distractors of a row."""
    return rng.choices((0, 1, 2, 3), (15, 30, 35, 20))[0]


def mixed(paragraphs: Sequence[Paragraph], rng: random.Random) -> tuple[Paragraph, ...]:
    """The paragraphs in any order."""
    order = list(paragraphs)
    rng.shuffle(order)
    return tuple(order)


def fact(world: World, country: Country, relation: Relation, rng: random.Random, **more: Any) -> Row | None:
    """A question for one line of a page; ``question``, ``answers``, ``items`` and ``kind`` may be given."""
    answers = more.get("answers") or relation.pick(country.value(relation.key))
    text = key_window(country, relation.key, rng) if answers else ""
    if not text:
        return None
    items = more.get("items", ())
    secrets = secrets_of(answers, items)
    wrong = world.distractors(country, relation.key, secrets, relation.avoid, rng, how_many(rng))
    question = more.get("question") or relation.ask(country, rng)
    paragraphs = mixed([Paragraph(text, supporting=True), *wrong], rng)
    return Row(country.group, more.get("kind", relation.kind), question, unique(answers), paragraphs, items)


def fact_rows(world: World, relations: Sequence[Relation], rng: random.Random) -> Iterator[Row]:
    """The plain questions of every relation, up to its number."""
    for relation in relations:
        made = 0
        for country in world.having(relation.key, rng) * 2:
            row = fact(world, country, relation, rng) if made < relation.count else None
            if row:
                made += 1
                yield row


def yearly(value: str) -> list[tuple[str, str]]:
    """The values of a line by year, newest first; nothing when a year repeats."""
    found = []
    for piece in value.split(" ++ "):
        match = re.fullmatch(r"(-?\$?\d.*?) \((?:31 December |FY)?(\d{4})(?: est\.)?\)", piece.strip())
        if match:
            found.append((match[2], match[1]))
    return found if len(found) >= 2 and len({year for year, _ in found}) == len(found) else []


def year_rows(world: World, rng: random.Random) -> Iterator[Row]:
    """Questions for the value of a given year."""
    wordings = (
        "What was the {n} of {c} in {y}?", "What was {p} {n} in {y}?", "How high was the {n} of {c} in {y}?",
        "{n} of {c} in {y}", "What is given as the {n} of {c} for {y}?", "In {y}, what was the {n} of {c}?",
    )  # fmt: skip
    relations = [relation for relation in NUMBERS if any(len(yearly(c.value(relation.key))) for c in world.countries)]
    for relation in relations:
        made = 0
        for country in world.having(relation.key, rng):
            values = yearly(country.value(relation.key))
            if not values or made == 32:
                continue
            year, answer = rng.choice(values)
            question = ask(wordings, rng, n=relation.noun, y=year, **country.parts)
            answers = unique((answer, answer.split(" of GDP")[0]))
            row = fact(world, country, relation, rng, question=question, answers=answers, kind="fb_number_year")
            if row:
                made += 1
                yield row


def shares(value: str) -> list[tuple[str, str]]:
    """The named items of a list with their percentages, when they stand in falling order."""
    flat = re.sub(r"\s*\([^()]*\)", "", re.sub(r"\s*\([^()]*\)", "", value))
    found = re.findall(r"(?:^|[,;] )(?:and )?([A-Z][A-Za-z' /-]+?) (\d[\d.]*%)(?=[,;]|$)", flat)
    found = [(name, share) for name, share in found if len(name.split()) <= 4 and f"{name} {share}" in value]
    numbers = [amount(share) or 0.0 for _, share in found]
    return found if len(found) >= 2 and numbers == sorted(numbers, reverse=True) and numbers[0] > numbers[1] else []


_SHARES = (
    ("Religions", "religion", "religious group", (
        "What percentage of people in {c} belong to the group {i}, by religion?",
        "By religion, what share of {p} population is {i}?",
        "Religions in {c}: what percentage is {i}?", "Religion in {c}: how many percent are {i}?")),
    ("Ethnic groups", "ethnic group", "ethnic group", (
        "What percentage of {p} population is {i}?", "Ethnic groups of {c}: how many percent are {i}?",
        "What share of people in {c} is {i} by ethnic group?", "How large is the ethnic group {i} in {c}?")),
    ("Languages", "most spoken language", "language", (
        "What percentage of people in {c} speak {i}?", "How many percent of the people of {c} speak {i}?",
        "What share of {p} population has {i} as its language?", "Languages of {c}: what percentage is {i}?")),
    ("Exports - partners", "", "", (
        "What share of {p} exports goes to {i}?", "How many percent of {p} exports go to {i}?",
        "What percentage of exports from {c} does {i} take?")),
    ("Imports - partners", "", "", (
        "What share of {p} imports comes from {i}?", "How many percent of {p} imports come from {i}?",
        "What percentage of imports into {c} does {i} supply?")),
)  # fmt: skip


def share_rows(world: World, rng: random.Random) -> Iterator[Row]:
    """How large one group of a list is, and which group is the largest."""
    for key, _, largest, wordings in _SHARES:
        made = 0
        for country in world.having(key, rng):
            found = shares(country.value(key))
            if not found or made >= 100:
                continue
            relation = Relation("fb_share", key, "", wordings, lambda value: (), 0, key.split(" ")[0])
            if largest and rng.random() < 0.5:
                name, share = found[0]
                asks: tuple[str, ...] = (f"What is the largest {largest} in {{c}}?",
                        f"Which {largest} is the biggest in {{c}}?",
                        f"largest {largest} of {{c}}", f"What's the most common {largest} in {{c}}?")  # fmt: skip
                question, answers = ask(asks, rng, **country.parts), (name, f"{name} {share}")
            else:
                name, share = rng.choice(found)
                answers = (share, f"{name} {share}")
                said = f"the {name}" if name in ("US", "UK", "UAE", "Netherlands", "Philippines", "Bahamas") else name
                if any(other != name and (name in other or other in name) for other, _ in found):
                    continue
                question = ask(wordings, rng, i=said, **country.parts)
            row = fact(world, country, relation, rng, question=question, answers=answers)
            if row:
                made += 1
                yield row


def city_rows(world: World, rng: random.Random) -> Iterator[Row]:
    """How many people live in a city, and how long one border is."""
    town = ("How many people live in {i}, {name}?", "What's the population of the city of {i} in {c}?",
            "How many inhabitants does {i} in {c} have?", "population of the city {i} ({name})",
            "How big is the city of {i}, {name}, in people?")  # fmt: skip
    border = ("How long is the border between {c} and {i}?", "How many kilometres of border does {c} share with {i}?",
              "What's the length of {p} border with {i}?", "border length of {c} with {i}",
              "How long is {p} land border with {i}?")  # fmt: skip
    plan = (
        ("Major urban areas - population", town, cities, 130),
        ("Land boundaries / border countries", border, borders, 130),
    )
    for key, wordings, read, count in plan:
        made = 0
        for country in world.having(key, rng):
            found = read(country.value(key))
            if not found or made == count:
                continue
            name, number = rng.choice(found)
            said = f"the {name}" if name in ("US", "UK", "UAE") else name
            question = ask(wordings, rng, i=said, **country.parts)
            relation = Relation("fb_number", key, "", (), lambda value: (), 0, "border")
            row = fact(world, country, relation, rng, question=question, answers=(number,))
            if row:
                made += 1
                yield row


def list_rows(world: World, rng: random.Random) -> Iterator[Row]:
    """Whole lists, lists whose number the question tells, and the number itself."""
    counting = ("How many countries border {c}?", "How many neighbours does {c} have?",
                "With how many countries does {c} share a land border?", "number of countries bordering {c}",
                "How many countries touch {c}?")  # fmt: skip
    for listing in LISTS:
        made = 0
        relation = listing.relation()
        for country in world.having(listing.key, rng) * 2:
            items = listing.items(country.value(listing.key))
            if not items or made >= listing.count:
                continue
            more: dict[str, Any] = {"items": items}
            clean = not any(" and " in item for item in items)
            if clean and rng.random() < 0.4:
                word = rng.choice((WORDS[len(items)], WORDS[len(items)], str(len(items))))
                more |= {"question": ask(listing.numbered, rng, k=word, **country.parts), "kind": "fb_list_n"}
            row = fact(world, country, relation, rng, **more)
            if row:
                made += 1
                yield row
    relation = LISTS[0].relation()
    for country in world.having(relation.key, rng):
        names = borders(country.value(relation.key))
        if 1 <= len(names) <= 7:
            answers = (WORDS[len(names)], str(len(names)))
            question = ask(counting, rng, **country.parts)
            row = fact(world, country, relation, rng, question=question, answers=answers, kind="fb_count")
            if row:
                yield row
        if len(names) == 1:
            asks: tuple[str, ...] = (
                "Which country borders {c}?",
                "Which is the only country that borders {c}?",
                "What's {p} only neighbour?",
            )
            question = ask(asks, rng, **country.parts)
            row = fact(world, country, relation, rng, question=question, answers=(names[0][0],), kind="fb_text")
            if row:
                yield row


# -------------------------------------------------------------------- country pages: two countries, yes and no

_COMPARED = (
    ("Population", pick_number, "more people", "fewer people", "Does {a} have more people than {b}?"),
    ("Area / total", pick_number, "a larger total area", "a smaller total area", "Is {a} larger than {b} by total "
        "area?"),
    ("Coastline", pick_number, "a longer coastline", "a shorter coastline", "Is {pa} coastline longer than {pb}?"),
    ("Median age / total", pick_number, "a higher median age", "a lower median age", "Are people in {a} older than "
        "in {b}, by median age?"),
    ("Life expectancy at birth / total population", pick_number, "a higher life expectancy",
        "a lower life expectancy", "Do people live longer in {a} than in {b}?"),
    ("Unemployment rate", pick_number, "higher unemployment", "lower unemployment", "Is unemployment higher in {a} "
        "than in {b}?"),
    ("GDP - per capita (PPP)", pick_number, "a higher GDP per capita", "a lower GDP per capita", "Is GDP per capita "
        "higher in {a} than in {b}?"),
    ("Elevation extremes / highest point", _match(r"[^\d(]+?(-?[\d,]+ m)\b"), "the higher highest point",
        "the lower highest point", "Is the highest point of {a} higher than that of {b}?"),
    ("Literacy / total population", pick_number, "a higher literacy rate", "a lower literacy rate", "Is literacy "
        "higher in {a} than in {b}?"),
    ("Airports", pick_number, "more airports", "fewer airports", "Does {a} have more airports than {b}?"),
    ("Internet users / total", pick_number, "more internet users", "fewer internet users", "Are there more internet "
        "users in {a} than in {b}?"),
    ("Roadways / total", pick_number, "the longer road network", "the shorter road network", "Does {a} have a longer "
        "road network than {b}?"),
)  # fmt: skip
_INDEPENDENT = "Independence"


def compared(
    world: World, key: str, pick: Callable[[str], tuple[str, ...]], rng: random.Random
) -> Iterator[tuple[Country, Country, bool]]:
    """Pairs of countries with clearly different values, and whether the first has the larger one."""
    known = []
    for country in world.having(key, rng):
        picked = pick(country.value(key))
        value = amount(picked[0].split()[-1] if key == _INDEPENDENT else picked[0]) if picked else None
        if picked and key != _INDEPENDENT:
            value = amount(picked[0])
        if value is not None and value >= 0:
            known.append((country, value))
    for first, second in zip(known[::2], known[1::2], strict=False):
        high, low = max(first[1], second[1]), min(first[1], second[1])
        if high > low * 1.05 or (key == _INDEPENDENT and high > low):
            yield first[0], second[0], first[1] > second[1]


def pair_row(
    world: World, pair: tuple[Country, Country], key: str, rng: random.Random, row: tuple[str, str, tuple[str, ...]]
) -> Row | None:
    """A row whose two supporting paragraphs are the same section of two countries; ``row``: kind, question, answers."""
    texts = [key_window(country, key, rng) for country in pair]
    if not all(texts):
        return None
    wrong = world.distractors(pair[0], key, (), key.split(" ")[0], rng, rng.choice((0, 0, 1)))
    wrong = [
        paragraph
        for paragraph in wrong
        if paragraph.text.split("\n")[0].strip("# ") not in (pair[0].name, pair[1].name)
    ]
    paragraphs = mixed([*(Paragraph(text, supporting=True) for text in texts), *wrong], rng)
    return Row(pair[0].group, row[0], row[1], row[2], paragraphs)


def compare_rows(world: World, rng: random.Random) -> Iterator[Row]:
    """Which of two countries has more of something, and the same as a yes/no question."""
    plain = ("Which country has {m}, {a} or {b}?", "Which has {m}: {a} or {b}?", "{a} or {b}: which of them has {m}?",
             "Who has {m}, {a} or {b}?", "Between {a} and {b}, which has {m}?")  # fmt: skip
    earlier = (
        "Which country became independent earlier, {a} or {b}?",
        "Which gained independence first, {a} or {b}?",
        "{a} or {b}: which has been independent for longer?",
        "Who became independent first, {a} or {b}?",
    )
    jobs = [*_COMPARED, (_INDEPENDENT, pick_independence, "", "", "Did {a} become independent before {b}?")]
    for key, pick, more, less, yesno in jobs:
        for number, (first, second, larger) in enumerate(compared(world, key, pick, rng)):
            if number == 60:
                break
            parts = {"a": first.said, "b": second.said, "pa": first.parts["p"], "pb": second.parts["p"]}
            if number % 3 == 2:
                truth = larger if key != _INDEPENDENT else not larger
                made: tuple[str, str, tuple[str, ...]] = (
                    "yesno",
                    ask((yesno,), rng, **parts),
                    ("yes" if truth else "no",),
                )
            else:
                wants_more = bool(more) and rng.random() < 0.65
                winner = first if wants_more == larger else second
                question = ask(plain if more else earlier, rng, m=more if wants_more else less, **parts)
                made = ("compare", question, unique((winner.said.removeprefix("the "), winner.said, winner.name)))
            row = pair_row(world, (first, second), key, rng, made)
            if row:
                yield row


def _claims(country: Country, world: World, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yes/no claims about a country as key, question and answer."""
    coast, neighbours = country.value("Coastline"), borders(country.value("Land boundaries / border countries"))
    parts = country.parts
    if re.match(r"[\d,.]+ km", coast):
        landlocked = coast.startswith("0 km")
        asks: tuple[str, ...] = ("Is {c} landlocked?", "Does {c} have no access to the sea?")
        yield "Coastline", ask(asks, rng, **parts), "yes" if landlocked else "no"
        asks = ("Does {c} have a coastline?", "Does {c} lie by the sea?", "Does {c} have a coast?")
        yield "Coastline", ask(asks, rng, **parts), "no" if landlocked else "yes"
    if neighbours:
        names = {name for name, _ in neighbours}
        second = [
            other
            for name, _ in neighbours
            if (near := world.find(name))
            for other, _ in borders(near.value("Land boundaries / border countries"))
        ]
        far = [
            name
            for name in second
            if name not in names and (place := world.find(name)) and place.group != country.group
        ]
        asks = (
            "Does {c} border {i}?",
            "Is {i} a neighbour of {c}?",
            "Does {c} share a land border with {i}?",
            "Do {c} and {i} have a common border?",
        )
        for name, truth in ((rng.choice(sorted(names)), "yes"), (rng.choice(far) if far else "", "no")):
            place = world.find(name) if name else None
            if place:
                yield "Land boundaries / border countries", ask(asks, rng, i=place.said, **parts), truth
    government = country.value("Government type")
    if re.search(r"republic|monarchy", government) and not ("republic" in government and "monarchy" in government):
        for form in ("republic", "monarchy"):
            asks = (
                f"Is {{c}} a {form}?",
                f"Is the government of {{c}} a {form}?",
                f"Does the text say that {{c}} is a {form}?",
            )
            yield "Government type", ask(asks, rng, **parts), "yes" if form in government else "no"
    currency = country.value("Exchange rates")
    if pick_currency(currency):
        asks = ("Does {c} use the euro?", "Is the euro the currency of {c}?", "Do people in {c} pay in euros?")
        yield "Exchange rates", ask(asks, rng, **parts), "yes" if currency.startswith("euro") else "no"
    dual = country.value("Citizenship / dual citizenship recognized")
    if dual in ("yes", "no"):
        asks = (
            "Does {c} recognize dual citizenship?",
            "Is dual citizenship recognized in {c}?",
            "Can you be a dual citizen in {c}?",
        )
        yield "Citizenship / dual citizenship recognized", ask(asks, rng, **parts), dual


def _more_claims(country: Country, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yes/no claims about numbers, languages, resources and the capital."""
    parts = country.parts
    people = pick_number(country.value("Population"))
    size = amount(people[0]) if people else None
    if size:
        for text, limit in (("100,000", 1e5), ("1 million", 1e6), ("10 million", 1e7), ("50 million", 5e7)):
            if 0.1 < size / limit < 0.8 or 1.25 < size / limit < 10:
                asks: tuple[str, ...] = (
                    "Do more than {i} people live in {c}?",
                    "Is the population of {c} above {i}?",
                    "Does {c} have more than {i} inhabitants?",
                )
                yield "Population", ask(asks, rng, i=text, **parts), "yes" if size > limit else "no"
    languages = country.value("Languages")
    official = re.findall(r"([A-Z][a-z]+)(?: \d[\d.]*%)? \(official\)", languages)
    if official:
        asks = (
            "Is {i} an official language of {c}?",
            "Is {i} official in {c}?",
            "Does {c} have {i} as an official language?",
        )
        yield "Languages", ask(asks, rng, i=rng.choice(official), **parts), "yes"
        absent = [name for name in ("English", "French", "Spanish", "Arabic", "Portuguese") if name not in languages]
        yield "Languages", ask(asks, rng, i=rng.choice(absent), **parts), "no"
    resources = country.value("Natural resources")
    items = list_items(resources)
    if items:
        asks = (
            "Does {c} have {i} among its natural resources?",
            "Is {i} one of the natural resources of {c}?",
            "Is {i} listed as a natural resource of {c}?",
        )
        absent = [
            name
            for name in ("gold", "timber", "copper", "petroleum", "coal", "fish", "tin", "salt")
            if name not in resources
        ]
        for name, truth in ((rng.choice(items), "yes"), (rng.choice(absent), "no")):
            yield "Natural resources", ask(asks, rng, i=name, **parts), truth
    known = cities(country.value("Major urban areas - population"))
    capital = pick_capital(country.value("Capital / name"))
    if capital:
        asks = ("Is {i} the capital of {c}?", "Is {p} capital {i}?", "Is {i} {p} capital city?")
        others = [name for name, _ in known if name.lower() not in capital[-1].lower()]
        if others and rng.random() < 0.8:
            yield "Capital / name", ask(asks, rng, i=rng.choice(others), **parts), "no"
        else:
            yield "Capital / name", ask(asks, rng, i=capital[0], **parts), "yes"
    nuclear = country.value("Electricity - from nuclear fuels")
    if re.match(r"\d", nuclear):
        asks = (
            "Does {c} use nuclear power?",
            "Does {c} get electricity from nuclear fuels?",
            "Is there nuclear power in {c}?",
        )
        yield "Electricity - from nuclear fuels", ask(asks, rng, **parts), "no" if nuclear.startswith("0%") else "yes"


def yesno_rows(world: World, rng: random.Random) -> Iterator[Row]:
    """Yes/no questions about one country, as many of one answer as of the other for every key."""
    pools: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for country in world.having("Coastline", rng):
        for key, question, answer in [*_claims(country, world, rng), *_more_claims(country, rng)]:
            relation = Relation("yesno", key, "", (), lambda value: (), 0, key.split(" ")[0])
            row = fact(world, country, relation, rng, question=question, answers=(answer,))
            if row:
                pools[key, answer].append(row)
    for key in sorted({key for key, _ in pools}):
        yes, no = pools[key, "yes"], pools[key, "no"]
        rng.shuffle(yes)
        rng.shuffle(no)
        count = min(len(yes), len(no), 34)
        yield from yes[:count]
        yield from no[:count]


# ------------------------------------------------------------------------------------- country pages: two hops

_TARGETS: tuple[tuple[str, Callable[[str], tuple[str, ...]], tuple[str, ...]], ...] = (
    ("Capital / name", pick_capital, ("What is the capital of {w}?", "What's the capital city of {w}?",
        "Name the capital of {w}.")),
    ("Exchange rates", pick_currency, ("Which currency is used in {w}?", "What currency does {w} use?", "What money "
        "do you pay with in {w}?")),
    ("Population", pick_number, ("How many people live in {w}?", "What's the population of {w}?", "How many "
        "inhabitants does {w} have?")),
    ("Coastline", pick_number, ("How long is the coastline of {w}?", "How many kilometres of coast does {w} have?")),
    ("Area / total", pick_number, ("What is the total area of {w}?", "How large is the total area of {w}?")),
    ("Government type", _plain(10), ("What type of government does {w} have?", "What form of government does {w} "
        "have?")),
    ("Independence", pick_independence,
        ("When did {w} become independent?", "On what date did {w} gain independence?")),
    ("Internet country code", _match(r"(\.[a-z]{2})\b"), ("What is the internet country code of {w}?", "Which web "
        "domain ending does {w} have?")),
    ("Executive branch / head of government", pick_person("Prime Minister"), ("Who is the prime minister of {w}?",
        "Name the prime minister of {w}.")),
    ("Life expectancy at birth / total population", pick_number, ("What is the life expectancy in {w}?", "How long "
        "do people in {w} live on average?")),
)  # fmt: skip
_CLUES: tuple[tuple[str, Callable[[str], tuple[str, ...]], str], ...] = (
    ("Capital / name", pick_capital, "the country whose capital is {v}"),
    ("Elevation extremes / highest point", _match(r"((?!unnamed)[A-Z][^\d(]+?) (?:-?[\d,]+ m)\b"), "the country "
        "whose highest point is {v}"),
    ("Internet country code", _match(r"(\.[a-z]{2})\b"), "the country with the internet code {v}"),
    ("National anthem / name", _match(r"\"([^\"]+)\""), "the country whose national anthem is \"{v}\""),
    ("Executive branch / chief of state", pick_person("President|King"), "the country whose chief of state is {v}"),
    ("Land boundaries / border countries", lambda value: (b[0][0],) if len(b := borders(value)) == 1 else (), "the "
        "country that borders only {v}"),
    ("Telephone system / international", _match(r"country code - ([\d-]+)\b"), "the country with the telephone code "
        "{v}"),
    ("Exchange rates", lambda value: pick_currency(value)[:1], "the country that uses the currency {v}"),
)  # fmt: skip


def hop_row(
    world: World,
    first: tuple[Country, str],
    second: tuple[Country, str],
    question: str,
    answers: tuple[str, ...],
    rng: random.Random,
) -> Row | None:
    """A row over two lines, each in a paragraph of its own."""
    one, two = key_window(*first, rng), key_window(*second, rng)
    if not one or not two or f"\n{second[1]}:" in one or f"\n{first[1]}:" in two:
        return None
    if first[0] is not second[0] and any(holds(one.split("\n", 1)[-1], answer) for answer in answers):
        return None
    wrong = world.distractors(
        second[0], second[1], secrets_of(answers), second[1].split(" ")[0], rng, rng.choice((0, 1, 1, 2))
    )
    wrong = [p for p in wrong if not p.text.strip("# ").startswith(second[0].name + "\n")]
    paragraphs = mixed([Paragraph(one, supporting=True), Paragraph(two, supporting=True), *wrong], rng)
    return Row(second[0].group, "chain", question, answers, paragraphs)


def chain_rows(world: World, rng: random.Random) -> Iterator[Row]:
    """Questions about a country that is named by another fact of its page."""
    for key, pick, clue in _CLUES:
        values = {country.group: pick(country.value(key))[:1] for country in world.countries if country.value(key)}
        seen = Counter(value[0].lower() for value in values.values() if value)
        made = 0
        for country in world.having(key, rng):
            value = values[country.group]
            if not value or seen[value[0].lower()] != 1 or made == 60:
                continue
            target, read, wordings = rng.choice(_TARGETS)
            answers = read(country.value(target)) if country.value(target) else ()
            if not answers or target == key or holds(country.said, answers[0]) or country.said in value[0]:
                continue
            named = f"the {value[0]}" if value[0] in ("US", "UK", "UAE") else value[0]
            question = ask(wordings, rng, w=clue.format(v=named))
            row = hop_row(world, (country, key), (country, target), question, answers, rng)
            if row:
                made += 1
                yield row


def neighbour_rows(world: World, rng: random.Random) -> Iterator[Row]:
    """Questions about another country that the page of a first one names."""
    for key, read, clues in (
        ("Land boundaries / border countries", borders, ("the neighbour with which {c} shares its longest border",
            "the country with the longest land border with {c}")),
        ("Exports - partners", shares, ("{p} biggest export partner", "the country that takes most of {p} exports")),
        ("Imports - partners", shares, ("{p} biggest import partner", "the country that supplies most of {p} imports")),
    ):  # fmt: skip
        made = 0
        for country in world.having(key, rng):
            found = read(country.value(key))
            numbers = [amount(number) or 0.0 for _, number in found]
            if made == 70 or not found or numbers.count(max(numbers)) > 1:
                continue
            name = found[numbers.index(max(numbers))][0]
            other = world.find(name)
            target, pick, wordings = rng.choice(_TARGETS)
            answers = pick(other.value(target)) if other and other.value(target) else ()
            if not other or not answers or other.name not in (name, "The " + name, _ALIASES.get(name)):
                continue
            named = clues if len(found) > 1 else ("the only country that borders {c}",)
            question = ask(wordings, rng, w=rng.choice(named).format(**country.parts))
            row = hop_row(world, (country, key), (other, target), question, answers, rng)
            if row:
                made += 1
                yield row

    # --------------------------------------------------------------- country pages: unanswerable, other tongues


def missing(world: World, country: Country, relation: Relation, question: str, rng: random.Random) -> Row | None:
    """A question whose paragraphs do not hold the fact: other countries, or other places of the same page."""
    answers = relation.pick(country.value(relation.key)) if country.value(relation.key) else ()
    items = [part for answer in answers for part in re.split(r", | and ", answer)] if relation.listing else []
    secrets = secrets_of(answers, items)
    others = [other for other in world.having(relation.key, rng) if other.group != country.group]
    texts: list[str] = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        if not texts or rng.random() < 0.5:
            avoid = "|".join(part for part in (relation.avoid, re.escape(relation.key.split(" ")[0])) if part)
            text = world.silent(country, relation.key, secrets, avoid, rng)
        else:
            text = key_window(others.pop(), relation.key, rng)
        if text and text not in texts:
            texts.append(text)
    if rng.random() < 0.35:
        texts = texts[1:] or [key_window(others.pop(), relation.key, rng)]
    texts = [text for text in texts if text]
    if not texts:
        return None
    paragraphs = mixed([Paragraph(text, supporting=False) for text in texts], rng)
    return Row(country.group, "not_found", question, (NOT_FOUND,), paragraphs)


def missing_rows(world: World, rng: random.Random, count: int) -> Iterator[Row]:
    """Unanswerable questions in the wordings of the answerable ones."""
    relations = [relation for relation in (*NUMBERS, *TEXTS) if relation.key != "Government type"]
    relations += [listing.relation() for listing in LISTS]
    for number in range(count):
        relation = relations[number % len(relations)]
        country = rng.choice([country for country in world.countries if len(country.places) > 120])
        row = missing(world, country, relation, relation.ask(country, rng), rng)
        if row:
            yield row


_TONGUES: dict[str, dict[str, tuple[str, ...]]] = {
    "de": {
        "Population": ("Wie viele Menschen leben in {name}?", "Wie viele Einwohner hat {name}?", "Wie groß ist die "
            "Bevölkerung von {name}?"),
        "Area / total": ("Wie groß ist die Gesamtfläche von {name}?", "Welche Gesamtfläche hat {name}?"),
        "Capital / name": ("Was ist die Hauptstadt von {name}?", "Wie heißt die Hauptstadt von {name}?", "Welche "
            "Stadt ist die Hauptstadt von {name}?"),
        "Coastline": ("Wie lang ist die Küste von {name}?", "Wie viele Kilometer Küste hat {name}?"),
        "Exchange rates": ("Welche Währung hat {name}?", "Womit bezahlt man in {name}?", "Wie heißt das Geld in "
            "{name}?"),
        "Median age / total": ("Wie hoch ist das Medianalter in {name}?", "Was ist das mittlere Alter (Median) in "
            "{name}?"),
        "Life expectancy at birth / total population": ("Wie hoch ist die Lebenserwartung in {name}?", "Wie alt "
            "werden die Menschen in {name} im Durchschnitt?"),
        "Languages": ("Welche Sprachen spricht man in {name}?", "Welche Sprachen werden in {name} gesprochen?"),
        "Land boundaries / border countries": ("Welche Länder grenzen an {name}?", "Was sind die Nachbarländer von "
            "{name}?"),
        "Elevation extremes / highest point": ("Was ist der höchste Punkt von {name}?", "Wie heißt der höchste Berg "
            "oder Punkt in {name}?"),
        "Independence": ("Wann wurde {name} unabhängig?", "Seit wann ist {name} unabhängig?"),
        "Executive branch / head of government": ("Wer ist Regierungschef von {name}?", "Wer leitet die Regierung "
            "von {name}?"),
        "Unemployment rate": ("Wie hoch ist die Arbeitslosigkeit in {name}?", "Wie hoch ist die Arbeitslosenquote in "
            "{name}?"),
        "Internet country code": ("Welche Internet-Endung hat {name}?", "Was ist die Internet-Länderkennung von "
            "{name}?"),
        "Airports": ("Wie viele Flughäfen hat {name}?", "Wie viele Flughäfen gibt es in {name}?"),
        "Natural resources": ("Welche Bodenschätze und Rohstoffe hat {name}?", "Welche natürlichen Ressourcen hat "
            "{name}?"),
    },
    "es": {
        "Population": ("¿Cuántas personas viven en {name}?", "¿Cuántos habitantes tiene {name}?", "¿Cuál es la "
            "población de {name}?"),
        "Area / total": ("¿Cuál es la superficie total de {name}?", "¿Qué superficie total tiene {name}?"),
        "Capital / name": ("¿Cuál es la capital de {name}?", "¿Cómo se llama la capital de {name}?", "¿Qué ciudad es "
            "la capital de {name}?"),
        "Coastline": ("¿Cuánto mide la costa de {name}?", "¿Cuántos kilómetros de costa tiene {name}?"),
        "Exchange rates": ("¿Qué moneda se usa en {name}?", "¿Con qué se paga en {name}?", "¿Cuál es la moneda de "
            "{name}?"),
        "Median age / total": ("¿Cuál es la edad mediana en {name}?", "¿Qué edad mediana tiene la población de "
            "{name}?"),
        "Life expectancy at birth / total population": ("¿Cuál es la esperanza de vida en {name}?", "¿Cuántos años "
            "vive la gente en {name} de media?"),
        "Languages": ("¿Qué idiomas se hablan en {name}?", "¿Qué lenguas habla la gente en {name}?"),
        "Land boundaries / border countries": ("¿Qué países limitan con {name}?", "¿Cuáles son los países vecinos de "
            "{name}?"),
        "Elevation extremes / highest point": ("¿Cuál es el punto más alto de {name}?", "¿Cómo se llama el punto más "
            "alto de {name}?"),
        "Independence": ("¿Cuándo se independizó {name}?", "¿Desde cuándo es independiente {name}?"),
        "Executive branch / head of government": ("¿Quién es el jefe de gobierno de {name}?", "¿Quién dirige el "
            "gobierno de {name}?"),
        "Unemployment rate": ("¿Cuál es la tasa de desempleo en {name}?", "¿Cuánto paro hay en {name}?"),
        "Internet country code": ("¿Cuál es el código de internet de {name}?", "¿Qué dominio de internet tiene "
            "{name}?"),
        "Airports": ("¿Cuántos aeropuertos tiene {name}?", "¿Cuántos aeropuertos hay en {name}?"),
        "Natural resources": ("¿Qué recursos naturales tiene {name}?", "¿Cuáles son los recursos naturales de {name}?"),
    },
    "fr": {
        "Population": ("Combien de personnes vivent dans le pays suivant : {name} ?", "Combien d'habitants compte "
            "{name} ?", "Quelle est la population de {name} ?"),
        "Area / total": ("Quelle est la superficie totale de {name} ?", "Quelle superficie totale couvre {name} ?"),
        "Capital / name": ("Quelle est la capitale de {name} ?", "Comment s'appelle la capitale de {name} ?",
            "Quelle ville est la capitale de {name} ?"),
        "Coastline": ("Quelle est la longueur des côtes de {name} ?", "Combien de kilomètres de côtes possède {name} "
            "?"),
        "Exchange rates": ("Quelle est la monnaie de {name} ?", "Quelle monnaie utilise-t-on pour payer, pays : "
            "{name} ?"),
        "Median age / total": ("Quel est l'âge médian de la population de {name} ?", "Quel est l'âge médian, pays : "
            "{name} ?"),
        "Life expectancy at birth / total population": ("Quelle est l'espérance de vie de la population de {name} ?",
            "Combien d'années vit-on en moyenne, pays : {name} ?"),
        "Languages": ("Quelles sont les langues de {name} ?", "Quelles langues parle-t-on, pays : {name} ?"),
        "Land boundaries / border countries": ("Quels pays sont voisins de {name} ?", "Quels pays ont une frontière "
            "avec {name} ?"),
        "Elevation extremes / highest point": ("Quel est le point le plus haut de {name} ?", "Comment s'appelle le "
            "point culminant de {name} ?"),
        "Independence": ("Quand {name} a obtenu son indépendance ?", "Quelle est la date de l'indépendance de {name} "
            "?"),
        "Executive branch / head of government": ("Qui est le chef du gouvernement de {name} ?", "Qui dirige le "
            "gouvernement de {name} ?"),
        "Unemployment rate": ("Quel est le taux de chômage de {name} ?", "Quel est le niveau du chômage, pays : "
            "{name} ?"),
        "Internet country code": ("Quel est le code internet de {name} ?", "Quel domaine internet a {name} ?"),
        "Airports": ("Combien d'aéroports possède {name} ?", "Quel est le nombre d'aéroports de {name} ?"),
        "Natural resources": ("Quelles sont les ressources naturelles de {name} ?", "Quelles ressources naturelles "
            "possède {name} ?"),
    },
    "it": {
        "Population": ("Quante persone vivono in {name}?", "Quanti abitanti ha {name}?", "Qual è la popolazione di "
            "{name}?"),
        "Area / total": ("Qual è la superficie totale di {name}?", "Che superficie totale ha {name}?"),
        "Capital / name": ("Qual è la capitale di {name}?", "Come si chiama la capitale di {name}?", "Quale città è "
            "la capitale di {name}?"),
        "Coastline": ("Quanto è lunga la costa di {name}?", "Quanti chilometri di costa ha {name}?"),
        "Exchange rates": ("Quale moneta si usa in {name}?", "Con che cosa si paga in {name}?",
            "Qual è la valuta di {name}?"),
        "Median age / total": ("Qual è l'età mediana in {name}?", "Che età mediana ha la popolazione di {name}?"),
        "Life expectancy at birth / total population": ("Qual è l'aspettativa di vita in {name}?", "Quanti anni si "
            "vive in media in {name}?"),
        "Languages": ("Quali lingue si parlano in {name}?", "Che lingue parla la gente in {name}?"),
        "Land boundaries / border countries": ("Quali paesi confinano con {name}?", "Quali sono i paesi vicini di "
            "{name}?"),
        "Elevation extremes / highest point": ("Qual è il punto più alto di {name}?", "Come si chiama il punto più "
            "alto di {name}?"),
        "Independence": ("Quando è diventato indipendente il paese {name}?", "Da quando {name} è indipendente?"),
        "Executive branch / head of government": ("Chi è il capo del governo di {name}?", "Chi guida il governo di "
            "{name}?"),
        "Unemployment rate": ("Qual è il tasso di disoccupazione in {name}?", "Quanto è alta la disoccupazione in "
            "{name}?"),
        "Internet country code": ("Qual è il codice internet di {name}?", "Quale dominio internet ha {name}?"),
        "Airports": ("Quanti aeroporti ha {name}?", "Quanti aeroporti ci sono in {name}?"),
        "Natural resources": ("Quali risorse naturali ha {name}?", "Quali sono le risorse naturali di {name}?"),
    },
    "pt": {
        "Population": ("Quantas pessoas vivem em {name}?", "Quantos habitantes tem {name}?", "Qual é a população de "
            "{name}?"),
        "Area / total": ("Qual é a área total de {name}?", "Que área total tem {name}?"),
        "Capital / name": ("Qual é a capital de {name}?", "Como se chama a capital de {name}?", "Que cidade é a "
            "capital de {name}?"),
        "Coastline": ("Qual é o comprimento da costa de {name}?", "Quantos quilómetros de costa tem {name}?"),
        "Exchange rates": ("Que moeda se usa em {name}?", "Com que se paga em {name}?", "Qual é a moeda de {name}?"),
        "Median age / total": ("Qual é a idade mediana em {name}?", "Que idade mediana tem a população de {name}?"),
        "Life expectancy at birth / total population": ("Qual é a esperança de vida em {name}?", "Quantos anos vivem "
            "em média as pessoas em {name}?"),
        "Languages": ("Que línguas se falam em {name}?", "Quais são as línguas de {name}?"),
        "Land boundaries / border countries": ("Que países fazem fronteira com {name}?", "Quais são os países "
            "vizinhos de {name}?"),
        "Elevation extremes / highest point": ("Qual é o ponto mais alto de {name}?", "Como se chama o ponto mais "
            "alto de {name}?"),
        "Independence": ("Quando {name} se tornou independente?", "Desde quando {name} é independente?"),
        "Executive branch / head of government": ("Quem é o chefe de governo de {name}?", "Quem dirige o governo de "
            "{name}?"),
        "Unemployment rate": ("Qual é a taxa de desemprego em {name}?", "Qual é o nível de desemprego em {name}?"),
        "Internet country code": ("Qual é o código de internet de {name}?", "Que domínio de internet tem {name}?"),
        "Airports": ("Quantos aeroportos tem {name}?", "Quantos aeroportos há em {name}?"),
        "Natural resources": ("Que recursos naturais tem {name}?", "Quais são os recursos naturais de {name}?"),
    },
}  # fmt: skip


def tongue_rows(world: World, rng: random.Random) -> Iterator[Row]:
    """Questions in five other languages over the English pages, a few of them unanswerable."""
    known: dict[str, Relation] = {}
    reads = {listing.key: listing.items for listing in LISTS}
    for relation in (*(listing.relation() for listing in LISTS), *TEXTS, *NUMBERS):
        if not (relation.kind == "fb_number" and relation.key.startswith("Elevation")):
            known.setdefault(relation.key, relation)
    for tongue, table in _TONGUES.items():
        for key, wordings in table.items():
            relation = known[key]
            made = 0
            for country in world.having(key, rng):
                question = ask(wordings, rng, **country.parts)
                if "(" in country.name or made == 21:
                    continue
                if made % 10 == 9:
                    row = missing(world, country, relation, question, rng)
                else:
                    items = reads[key](country.value(key)) if relation.listing else ()
                    row = fact(world, country, relation, rng, question=question, kind=tongue, items=items)
                if row:
                    made += 1
                    yield row


# ---------------------------------------------------------------------------------------------- the dictionary


@dataclass(frozen=True)
class Entry:
    """One entry of the dictionary of computing, cleaned."""

    group: str
    title: str
    names: tuple[str, ...]
    text: str

    @property
    def chunk(self) -> str:
        """The entry as a chunk: its headword, then as much as fits."""
        return "\n".join(self.names[:3]) + "\n" + clip(self.text, 900)


def clean_entry(body: str) -> str:
    """The running text of an entry without categories, braces, references and dates."""
    body = re.sub(r"^<[^>]*>\s*", "", body)
    body = re.sub(r"\{\(?(?:https?|ftp|news|mailto|telnet|gopher)[^}]*\}\.?", "", body)
    body = re.sub(r"\[[^\[\]]*\]", "", body)
    body = body.replace("{", "").replace("}", "")
    body = re.sub(r"\(\d{4}-\d\d-\d\d\)\s*$", "", body.strip())
    body = re.sub(r"\s+([.,;:)])", r"\1", squash(body))
    body = re.sub(r"\.(?:\s*\.)+$", ".", body.strip())
    return re.sub(r"(?:(?:See also|Compare|See|Contrast|Cf\.?) [^.]*\.\s*)+$", "", body).strip()


def read_entries(data: Path) -> list[Entry]:
    """The entries with one sense whose headword is unique."""
    entries = []
    rows = read_rows(data / "text/foldoc.jsonl.gz")
    seen = Counter(row["title"].lower() for row in rows)
    for row in rows:
        head, _, body = row["text"].partition("\n\n")
        names = tuple(name.strip() for name in head.split("\n") if name.strip())
        text = clean_entry(body.strip())
        if not names or seen[row["title"].lower()] > 1 or re.search(r"(?:^|\s)[12]\. ", text) or len(text) < 60:
            continue
        if not re.search(r"[.!?]", text) or "|" in text or re.search(r"[_=*]{3}", text) or len(names[0]) > 45:
            continue
        entries.append(Entry(row["id"], names[0], names, text))
    return entries


class Neighbours:
    """Texts that share rare words, for distractors."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.places: dict[str, list[int]] = defaultdict(list)
        for index, text in enumerate(texts):
            for word in set(re.findall(r"[a-z]{4,}", text.lower())):
                self.places[word].append(index)

    def of(self, text: str, banned: Sequence[str], count: int, rng: random.Random) -> list[str]:
        """Texts near this one that hold none of the banned phrases."""
        score: dict[int, float] = defaultdict(float)
        for word in sorted(set(re.findall(r"[a-z]{4,}", text.lower()))):
            found = self.places.get(word, [])
            if len(found) < len(self.texts) // 20:
                for index in found:
                    score[index] += 1.0 / len(found) ** 0.5
        best = [index for index, _ in sorted(score.items(), key=lambda item: (-item[1], item[0]))[:12]]
        rng.shuffle(best)
        chosen: list[str] = []
        for index in best:
            other = self.texts[index]
            if (
                len(chosen) < count
                and len(other) >= MIN_CHARS
                and not any(holds(other, phrase) for phrase in banned if phrase)
            ):
                chosen.append(other)
        return chosen


def definition(text: str) -> str:
    """The first sentence, or the first clause of a long one, when it says what something is."""
    text = re.sub(r"^\((?:[^()]*)\) ", "", text)
    first = sentences(text)[0]
    if not re.match(r"(?:A|An|The|Any|One of|Software|Hardware|Slang|Jargon)\b [\w\"'(-]", first) or not first.endswith(
        "."
    ):
        return ""
    main = first.rstrip(".")
    if tokens(main) > 40:
        cuts = [
            match.start()
            for match in re.finditer(
                r"; |, (?:which|where|who|but|usually|often|e\.g\.|such|especially|so)\b| \(|: ", main
            )
        ]
        cuts = [cut for cut in cuts if tokens(main[:cut]) <= 40 and len(main[:cut].split()) >= 5]
        main = main[: cuts[-1]] if cuts else ""
    if re.match(r"The|Any|One|Software|Hardware", main) and re.search(
        r"(?<!which)(?<!that)(?<!who) (?:is|was|has|have|are|were|yields|runs|provides|uses|supports|can|will|should) ",
        main,
    ):
        return ""
    return main if len(main.split()) >= 4 and main.count("(") == main.count(")") and main.count('"') % 2 == 0 else ""


_DEFINE = (
    "What is {t}?", "What does {t} mean?", "What does the term {t} mean?", "Define {t}.", "What's {t}?",
        "Explain {t} briefly.",
    "What is meant by {t}?", "Give a short definition of {t}.", "Can you tell me what {t} is?", "{t} - what is that?",
    "What do people mean by {t}?", "How would you define {t}?", "definition of {t}",
)  # fmt: skip
_STANDS = (
    "What does {t} stand for?", "What is {t} short for?", "What's the meaning of the abbreviation {t}?",
        "{t} stands for what?",
    "Which words does {t} abbreviate?", "What do the letters {t} stand for?", "Spell out the acronym {t}.",
)  # fmt: skip
_USED = (
    "What is {t} used for?",
    "What do you use {t} for?",
    "What's {t} good for?",
    "What is the use of {t}?",
    "For what is {t} used?",
)
_NAME = r"(?:[A-Z][\w'’-]*\.?|[A-Z]\.(?:[A-Z]\.)*)"
_PEOPLE = rf"{_NAME}(?: (?:{_NAME}|de|van|von|der|la|of|&))*"
_MAKERS = re.compile(
    rf"\b(designed|developed|invented|written|created|produced|coined|introduced|built|devised|defined|proposed|made|"
    rf"published)"
    rf"(?: (?:and|in) [a-z0-9]+)? by ({_PEOPLE}(?:(?:, | and |, and ){_PEOPLE}){{0,3}})(?=[.,;]| in \d| at | from | "
    rf"for | as | to | around | and )"
)
_BASES = {"designed": "design", "developed": "develop", "invented": "invent", "written": "write", "created": "create",
          "produced": "produce", "coined": "coin", "introduced": "introduce", "built": "build", "devised": "devise",
          "defined": "define", "proposed": "propose", "made": "make", "published": "publish", "released": "release",
          "founded": "found", "formed": "form", "established": "establish"}  # fmt: skip
_PAST = {"written": "wrote", "built": "built", "made": "made"}


def acronym(entry: Entry) -> tuple[str, str]:
    """The acronym of the entry and what it stands for, where both are headwords and the letters fit."""
    for short in entry.names[1:] + entry.names[:1]:
        for long in entry.names:
            words = re.findall(r"[A-Za-z]+", long)
            letters = "".join(word[0] for word in words).upper()
            small = "".join(
                word[0] for word in words if word.lower() not in ("of", "the", "for", "and", "in", "to")
            ).upper()
            if re.fullmatch(r"[A-Z]{3,8}", short) and short in (letters, small) and short in entry.names[:3]:
                return short, long
    return "", ""


def entry_questions(entry: Entry, rng: random.Random) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Kind, question and answers of everything one entry tells by a sure pattern."""
    title = entry.title
    chunk = entry.chunk
    first = sentences(entry.text)[0]
    meaning = definition(entry.text)
    if meaning and not holds(meaning, title):
        yield "definition", ask(_DEFINE, rng, t=title), (meaning,)
    short, long = acronym(entry)
    if short:
        yield "acronym", ask(_STANDS, rng, t=short), (long,)
    used = re.match(
        r"(?:A|An|The|Any) [^.;:]{3,90}? (?:which is |that is )?used ((?:to|for) [^.;:()]{8,110}?)(?=\.(?!\d)|;|, "
        r"(?:especially|usually|e\.g\.|such|and|in|which|where|but))",
        first,
    )
    if (
        used
        and meaning
        and not re.search(r"\b(?:term|label|word|name|phrase|expression|suffix)\b", used[0][: used.start(1)])
        and not re.search(r" (?:in|of|to|by|with|for)$", used[1])
        and not re.search(r"which|that|where", used[0][: used.start(1)])
    ):
        yield "used_for", ask(_USED, rng, t=title), unique((used[1], re.sub(r"^(?:to|for) ", "", used[1])))
    maker = _MAKERS.search(first) if re.match(r"(?:A|An|The) ", first) else None
    if (
        maker
        and maker[2] in chunk
        and not re.search(r"\b(?:which|that|where|whose|based on|of the|derived|from)\b", first[: maker.start()])
    ):
        past = _PAST.get(maker[1], maker[1])
        asks: tuple[str, ...] = (
            f"Who {past} {{t}}?",
            f"By whom was {{t}} {maker[1]}?",
            f"{{t}} was {maker[1]} by whom?",
            f"Who was it that {past} {{t}}?",
            f"Who has {maker[1]} {{t}}?",
        )
        yield "who_made", ask(asks, rng, t=title), (maker[2].strip(),)
    when = re.search(
        r"\b(designed|developed|invented|written|created|introduced|built|released|published|founded|formed|"
        r"established)\b[^.;:()]{0,60}? in (\d{4})\b(?![-–s])",
        first,
    )
    years = re.findall(r"\b(?:19|20)\d\d\b", first)
    if (
        when
        and len(years) == 1
        and re.match(r"(?:A|An|The) ", first)
        and not re.search(r"\b(?:which|that|where|whose|based on|derived)\b", first[: when.start()])
    ):
        base = _BASES[when[1]]
        asks = (
            f"When was {{t}} {when[1]}?",
            f"In which year was {{t}} {when[1]}?",
            f"What year did they {base} {{t}}?",
            f"{{t}} was {when[1]} when?",
        )
        yield "when_made", ask(asks, rng, t=title), (when[2],)


def entry_rows(data: Path, rng: random.Random, limits: dict[str, int]) -> Iterator[Row]:
    """Questions about dictionary entries, with entries on near things as distractors."""
    entries = read_entries(data)
    near = Neighbours([entry.chunk for entry in entries])
    rng.shuffle(entries)
    made: Counter[str] = Counter()
    for entry in entries:
        if tokens(entry.chunk) > MAX_TOKENS:
            continue
        for kind, question, answers in entry_questions(entry, rng):
            if made[kind] >= limits.get(kind, 0):
                continue
            missed = made["not_found"] < limits["not_found"] and rng.random() < 0.14
            wrong = near.of(
                entry.chunk, [*entry.names, *answers], rng.choice((1, 2, 3)) if missed else how_many(rng), rng
            )
            paragraphs = [Paragraph(text, supporting=False) for text in wrong]
            if missed:
                if wrong:
                    made["not_found"] += 1
                    yield Row(entry.group, "not_found", question, (NOT_FOUND,), mixed(paragraphs, rng))
                continue
            made[kind] += 1
            yield Row(
                entry.group, kind, question, answers, mixed([Paragraph(entry.chunk, supporting=True), *paragraphs], rng)
            )


# --------------------------------------------------------------------------------------- encyclopedia articles


@dataclass(frozen=True)
class Article:
    """The opening paragraph of an article, cleaned, with the subject its first sentence names."""

    group: str
    title: str
    subject: str
    text: str
    chunk: str


def clean_article(text: str) -> str:
    """Repairs the spacing around punctuation."""
    text = squash(text.replace("``", '"').replace("''", '"'))
    text = re.sub(r"\s+([,.;:)])", r"\1", text)
    text = re.sub(r"(?<=[\w,.])\(", " (", re.sub(r"\(\s+", "(", text))
    text = re.sub(r"\s+(['’]s)\b", r"\1", text)
    parts = text.split('"')
    if len(parts) % 2 == 0:
        return text
    for index in range(1, len(parts), 2):
        parts[index] = parts[index].strip()
        parts[index - 1] = parts[index - 1].rstrip() + (
            " " if parts[index - 1].strip() and parts[index - 1][-1:] != "(" else ""
        )
        if parts[index + 1][:1].isalnum():
            parts[index + 1] = " " + parts[index + 1]
    return '"'.join(parts).strip()


def read_articles(data: Path) -> list[Article]:
    """The articles whose paragraph opens with what its subject is."""
    found = []
    for row in read_rows(data / "text/wikipedia_train.jsonl.gz"):
        text = clean_article(row["text"])
        match = re.match(
            r"[\"']?((?:The )?[A-Z0-9][^()\[\].;:]{1,60}?|[A-Z][\w ]*(?:St|Mr|Mrs|Dr|[A-Z])\. "
            r"[^()\[\];:]{1,50}?)[\"']?,? (?:\(|is\b|was\b|are\b|were\b)",
            text,
        )
        title = re.sub(r" \([^()]*\)$", "", row["title"])
        if not match or not len(text) >= 80:
            continue
        subject = match[1].strip("\"' ,")
        head = f"{row['title']}\n" if row["title"] else ""
        if (
            "," in subject.removesuffix(", Jr")
            or re.search(r" (?:and|or) ", subject)
            or re.match(r"(?:He|She|It|They|This|These|There|In|His|Her|As|At|On|A|An|One)\b", subject)
        ):
            continue
        if title and not (set(re.findall(r"\w+", title.lower())) & set(re.findall(r"\w+", subject.lower()))):
            continue
        chunk = head + clip(text, 1000)
        if tokens(chunk) <= MAX_TOKENS:
            found.append(Article(row["id"], row["title"], subject, text, chunk))
    counts = Counter(article.subject.lower() for article in found)
    return [article for article in found if counts[article.subject.lower()] == 1]


_SUMMARY = (
    "Who or what is {t}?", "Summarise in one sentence what the text says about {t}.", "Tell me about {t} in one "
        "sentence.",
    "In one sentence, what is {t}?", "Give a one-sentence summary about {t}.", "Summarize the text about {t}.",
    "What does the text say about {t}, in short?", "Sum up {t} in a single sentence.",
)  # fmt: skip
_ABOUT = ("What is this text about?", "Summarise this text in one sentence.", "What's this about?",
    "Give a short summary.",
          "Sum up the text in one sentence.", "What is the main subject of the text?")  # fmt: skip
_PLACE = r"[A-Z][\w'’.-]+(?: (?:[A-Z][\w'’.-]+|of|the|de|la|del|and))*(?:, [A-Z][\w'’.-]+(?: [A-Z][\w'’.-]+)*){0,3}"
_PERSON = r"[A-Z][\w'’-]+(?: (?:[A-Z][\w'’-]*\.?|de|van|von|der|la|del|Mc[A-Z]\w+))+"
_PERSONS = rf"{_PERSON}(?:(?:, | and |, and ){_PERSON}){{0,6}}"
_STOPS = re.compile(
    r",? (?:who|which|that|from|known|best|speciali[sz]ing|noted|active|famous|currently|born|based|signed|regarded|"
    r"considered|credited|recognized|renowned|remembered|"
    r"of|in|for|at|whose|with|on|to|during|as|played|playing|competing|working|widely|most|primarily|mainly|also|"
    r"formerly|since)\b"
)
Fact = tuple[str, str, tuple[str, ...]]


def person_facts(article: Article, first: str, rng: random.Random) -> Iterator[Fact]:
    """Dates and places of a life out of the brackets behind a name."""
    name = article.subject
    match = re.match(
        rf"[^()]*?\((?:[^()]*?[;,] )?(born )?(?:c\. )?({DATE})(?:,? in ({_PLACE})|, ({_PLACE}))?(?: ?[–-] "
        rf"?({DATE})[^()]*)?\)",
        first,
    )
    if (
        match
        and (match[1] or match[5])
        and len(name.split()) <= 5
        and re.search(r"\) (?:is|was) (?:an?|the|one)\b", first)
    ):
        asks: tuple[str, ...] = (
            "When was {t} born?",
            "What is {p} date of birth?",
            "On what day was {t} born?",
            "birth date of {t}",
            "What's {p} birthday?",
        )
        yield "wiki_born", ask(asks, rng, t=name, p=_own(name)), (match[2],)
        place = match[3] or match[4]
        if place:
            asks = (
                "Where was {t} born?",
                "What is {p} place of birth?",
                "In which place was {t} born?",
                "birthplace of {t}",
            )
            yield "wiki_place", ask(asks, rng, t=name, p=_own(name)), (place,)
        if match[5]:
            asks = ("When did {t} die?", "What is {p} date of death?", "On what day did {t} die?", "death date of {t}")
            yield "wiki_died", ask(asks, rng, t=name, p=_own(name)), (match[5],)
    what = re.search(r"\) (?:is|was) an? ([A-Z][a-z]+(?:[ -][A-Z][a-z]+)? [a-z][^.;()]{3,110})", first)
    work = _STOPS.split(what[1])[0].strip(" ,") if what else ""
    if (
        match
        and 3 <= len(work.split()) <= 12
        and len(name.split()) <= 5
        and not re.search(
            r"\b(?:an?|the|his|her|member|co-founder|founder|mother|father|wife|son|daughter)\b|\d|(?:ed|ing|ly)$", work
        )
    ):
        asks = (
            "What did {t} do for a living?",
            "What is {p} occupation?",
            "Who is {t}, in a few words?",
            "What is {p} profession?",
        )
        yield "wiki_what", ask(asks, rng, t=name, p=_own(name)), (work,)


def _own(name: str) -> str:
    return name + ("'" if name.endswith("s") else "'s")


def work_facts(article: Article, first: str, rng: random.Random) -> Iterator[Fact]:
    """Who made a film, who plays in it, and when it came out."""
    name = article.subject
    film = re.match(
        r"[^.]*? (?:is|was) an? (\d{4}) [^.;]*?(film|documentary|comedy|drama|thriller|musical|western|movie)\b",
        first,
    )
    if film:
        asks: tuple[str, ...] = (
            "When did {t} come out?",
            "In which year did {t} come out?",
            "What year is {t} from?",
            "From what year is the film {t}?",
        )
        yield "wiki_year", ask(asks, rng, t=name), (film[1],)
    roles = (
        (
            r"directed",
            (
                "Who directed {t}?",
                "Who is the director of {t}?",
                "By whom was {t} directed?",
                "director of {t}",
                "Whose film is {t}, who directed it?",
            ),
        ),
        (r"(?<!co-)produced", ("Who produced {t}?", "Who is the producer of {t}?", "By whom was {t} produced?")),
    )
    for verb, asks in roles:
        match = re.search(
            rf" (?:and |, |, and )?(?:written and )?{verb} by ({_PERSONS})(?=\.|,| and (?:starring|written|released|"
            rf"produced|based|featuring|stars|distributed)| (?:starring|based|from|in|for|with|which|that|who|"
            rf"featuring|about|and)|;)",
            first,
        )
        if (
            match
            and re.search(r" (?:is|was) an? \d{4} ", first)
            and "novel" not in first[: match.start()]
            and "(" not in first[: match.start()][-40:]
        ):
            yield "wiki_maker", ask(asks, rng, t=name), (match[1],)
    cast = re.search(
        rf"(?:starring|and stars|It stars|The film stars) ({_PERSON}(?:, {_PERSON}){{0,5}},? and {_PERSON})(?= in |"
        rf"\.|,| as |;| with )",
        article.chunk,
    )
    if cast and film:
        asks = (
            "Who stars in {t}?",
            "Which actors star in {t}?",
            "cast of {t}",
            "Who plays in {t}?",
            "Name the stars of {t}.",
        )
        people = [part for part in re.split(r", and |, | and ", cast[1]) if part]
        yield "wiki_list", ask(asks, rng, t=name), unique((join(people), cast[1]))


def record_facts(article: Article, first: str, rng: random.Random) -> Iterator[Fact]:
    """Who made a record or a book, and when it was released."""
    name = article.subject
    record = re.match(
        rf"[^.]*? (?:is|was) (?:an?|the) (?:[\w-]+ ){{0,5}}(album|song|single|EP|novel|book|mixtape)(?: "
        rf"(?:\([^()]*\)))? (?:by|from) (?:the )?(?:(?:[A-Z][a-z]+(?:-[A-Z]?[a-z]+)?|[a-z]+(?:-[a-z]+)?) "
        rf"){{0,7}}?(?:band|singer|rapper|group|artist|musician|duo|songwriter|author|writer|novelist|"
        rf"singer-songwriter|recording artist|rock band) ({_NAME}(?: (?:{_NAME}|the|of|and the|de|&|for(?= "
        rf"[A-Z])))*)(?=[.,;]| (?:and|that|which|released|from|for|first|featuring|recorded|was|in|on)\b)",
        first,
    )
    if record:
        verb = "wrote" if record[1] in ("novel", "book") else "made"
        asks: tuple[str, ...] = (
            f"Who {verb} the {record[1]} {{t}}?",
            f"By whom is the {record[1]} {{t}}?",
            f"Whose {record[1]} is {{t}}?",
            f"Who is the {record[1]} {{t}} by?",
        )
        yield "wiki_maker", ask(asks, rng, t=name), (record[2],)
    released = re.search(
        rf"\b(?:[Ii]t|album|song|single|[Tt]he film|EP|which) was (?:first )?released (?:[a-z ]+)?on ({DATE})",
        article.chunk,
    )
    if released and len(re.findall(r"released", article.chunk)) == 1:
        asks = (
            "When was {t} released?",
            "On what date was {t} released?",
            "What is the release date of {t}?",
            "release date of {t}",
        )
        yield "wiki_year", ask(asks, rng, t=name), (released[1],)


def place_facts(article: Article, first: str, rng: random.Random) -> Iterator[Fact]:
    """Where things lie, and what they are the capital of."""
    name = article.subject
    located = re.match(
        rf"(?:[^().]|\([^()]*\))*? (?:is|was) (?:an?|the) (?:[\w'’ -]+, )?[\w'’ -]+? (?:located|situated|"
        rf"headquartered) (in|on|at|near) ((?:the )?[^.;()]{{3,60}}?{_PLACE})(?=\.|;|,? (?:which|and|that|with|"
        rf"where|about|founded|built|at|near|on)\b)",
        first,
    )
    if (
        located
        and not re.search(r"\b(?:which|that|who|of the)\b", first[: located.start(1)])
        and re.match(r"(?:the |downtown |northern |southern |eastern |western |central )?[A-Z]|the ", located[2])
    ):
        asks: tuple[str, ...] = (
            "Where is {t}?",
            "Where is {t} located?",
            "In what place is {t}?",
            "Where can I find {t}?",
            "location of {t}",
        )
        yield "wiki_where", ask(asks, rng, t=name), unique((located[2], f"{located[1]} {located[2]}"))
    capital = re.match(
        r"(?:[^().]|\([^()]*\))*? is the capital(?: city)?(?: and (?:the )?(?:largest|most populous|second "
        r"largest)(?: city)?)? (?:city )?of ((?:the )?[A-Z][\w' -]+?)(?=[.,;]| and | in |$)",
        first,
    )
    if capital:
        asks = (
            "Of what is {t} the capital?",
            "{t} is the capital of which place?",
            "What is {t} the capital of?",
            "Which place has {t} as its capital?",
        )
        yield "wiki_where", ask(asks, rng, t=name), (capital[1],)


def origin_facts(article: Article, first: str, rng: random.Random) -> Iterator[Fact]:
    """When and by whom a body was founded."""
    name = article.subject
    start = re.search(
        rf"(?:^{re.escape(name)}(?: \([^()]*\))?|\b[Ii]t|[Tt]he (?:company|band|group|university|school|club|team|"
        rf"college|organization|magazine|newspaper)|) (?:was|were|is|,) ?(?:originally |first )?(founded|"
        rf"established|formed) (?:[^.;,()]{{0,40}} )?in (?:{MONTHS})? ?(\d{{4}})\b(?: by ({_PERSONS}))?",
        article.chunk,
    )
    begun = re.findall(r"founded|established|formed\b|launched|created|opened", article.chunk)
    if (
        start
        and len(begun) == 1
        and re.match(r"(?:It|The|[A-Z])", start[0].strip())
        and re.search(
            r"company|band|group|university|school|club|team|college|organi[sz]ation|magazine|newspaper|brand|label|"
            r"party|church|village|town|society|institut|museum|airline|station|festival|publisher|studio|"
            r"league",
            first,
        )
    ):
        asks: tuple[str, ...] = (
            f"When was {{t}} {start[1]}?",
            f"In which year was {{t}} {start[1]}?",
            f"What year was {{t}} {start[1]} in?",
            f"year {{t}} was {start[1]}",
        )
        yield "wiki_year", ask(asks, rng, t=name), (start[2],)
        if start[3]:
            asks = (f"Who {start[1]} {{t}}?", "Who is the founder of {t}?", f"By whom was {{t}} {start[1]}?")
            yield "wiki_maker", ask(asks, rng, t=name), (start[3],)


_ITEM = r"(?:(?:the |a |an )?[A-Za-z][\w'’.-]*(?: [\w'’.-]+){0,4})"
_SERIES = rf"({_ITEM}(?:, {_ITEM}){{0,4}},? and {_ITEM})(?=\.|;)"


def series_facts(article: Article, first: str, rng: random.Random) -> Iterator[Fact]:
    """Lists of members and parts."""
    name = article.subject
    match = re.search(
        rf"(?:^{re.escape(name)}|\b[Ii]t|[Tt]he (?:band|group|team|trio|duo|county|district|program|complex|set|"
        rf"family|genus)) (?:consists|consisted|is composed|was composed|is made up|comprises|comprised|"
        rf"contains) (?:of )?{_SERIES}",
        article.chunk,
    )
    if match:
        items = [item for item in re.split(r", and |, | and ", match[1]) if item]
        if (
            2 <= len(items) <= 6
            and all(1 <= len(item.split()) <= 6 for item in items)
            and not re.search(r"which|who|that|with", match[1])
        ):
            asks: tuple[str, ...] = (
                "What does {t} consist of?",
                "What are the parts or members of {t}?",
                "What is {t} made up of?",
                "Name what {t} consists of.",
            )
            yield "wiki_list", ask(asks, rng, t=name), unique((join(items), match[1]))
    members = re.search(
        rf"(?:members (?:are|were|of the (?:band|group) (?:are|were))|line-up (?:is|was|consisted of)|(?:band|group|"
        rf"trio|duo) (?:consists|consisted) of(?: members)?) ({_PERSONS})(?=\.|;)",
        article.chunk,
    )
    if members and " and " in members[1]:
        people = [part for part in re.split(r", and |, | and ", members[1]) if part]
        asks = (
            "Who are the members of {t}?",
            "Name the members of {t}.",
            "Who is in {t}?",
            "members of {t}",
            "Which people make up {t}?",
        )
        yield "wiki_list", ask(asks, rng, t=name), unique((join(people), members[1]))


def summary_facts(article: Article, first: str, rng: random.Random) -> Iterator[Fact]:
    """The first sentence as a summary of the text."""
    name = article.subject
    plain = re.sub(r" \([^()]*\)", "", first)
    title = re.sub(r" \([^()]*\)$", "", article.title)
    if not re.match(
        rf"[\"']?{re.escape(name)}[\"']?,? (?:is|was|are|were) (?:an?|the|one)\b", plain
    ) or not first.endswith("."):
        return
    if title and title.lower() != name.lower():
        return
    if tokens(first) <= 50:
        yield "summary", ask(_SUMMARY, rng, t=name), unique((first, plain))
        if len(sentences(article.chunk)) >= 2:
            yield "about", ask(_ABOUT, rng), unique((first, plain))


def article_rows(data: Path, rng: random.Random, limits: dict[str, int]) -> Iterator[Row]:
    """Questions about articles, with articles that share rare words as distractors."""
    articles = read_articles(data)
    near = Neighbours([article.chunk for article in articles])
    rng.shuffle(articles)
    made: Counter[str] = Counter()
    for article in articles:
        first = sentences(article.text)[0]
        if not article.chunk.removeprefix(article.title).strip().startswith(first[:40]):
            continue
        for facts in (person_facts, work_facts, record_facts, place_facts, origin_facts, series_facts, summary_facts):
            for kind, question, answers in facts(article, first, rng):
                if made[kind] >= limits.get(kind, 10**6) or not holds(article.chunk, answers[0].split(", ")[0]):
                    continue
                missed = (
                    kind not in ("about", "summary") and made["not_found"] < limits["not_found"] and rng.random() < 0.12
                )
                count = rng.choice((1, 2, 3)) if missed else 0 if kind == "about" else how_many(rng)
                wrong = near.of(article.chunk, [article.subject, *answers], count, rng)
                paragraphs = [Paragraph(text, supporting=False) for text in wrong]
                if missed:
                    if wrong:
                        made["not_found"] += 1
                        yield Row(article.group, "not_found", question, (NOT_FOUND,), mixed(paragraphs, rng))
                    continue
                made[kind] += 1
                yield Row(
                    article.group,
                    kind,
                    question,
                    answers,
                    mixed([Paragraph(article.chunk, supporting=True), *paragraphs], rng),
                )


# ------------------------------------------------------------------------------------ stories, books, speeches


@dataclass(frozen=True)
class Passage:
    """A piece of a longer text in chunk size."""

    group: str
    title: str
    text: str


def pieces(group: str, title: str, text: str) -> Iterator[Passage]:
    """Cuts running text into chunks at sentence ends."""
    kept: list[str] = []
    for sentence in sentences(squash(text)):
        if kept and (len(" ".join(kept)) + len(sentence) > 850 or tokens(" ".join(kept)) + tokens(sentence) > 210):
            yield Passage(group, title, " ".join(kept))
            kept = []
        kept.append(sentence)
    if kept:
        yield Passage(group, title, " ".join(kept))


def read_passages(data: Path) -> dict[str, list[Passage]]:
    """The chunks of all long texts by group."""
    found: dict[str, list[Passage]] = {}
    for row in read_rows(data / "stories/fairytaleqa_train.jsonl.gz"):
        text = " ".join(section["text"] for section in row["sections"])
        found[row["id"]] = list(pieces(row["id"], row["title"].title(), text))
    for row in read_rows(data / "stories/squality_train.jsonl.gz"):
        found[row["id"]] = list(pieces(row["id"], "", row["document"]))
    for name in ("gutenberg_nltk", "us_speeches"):
        for row in read_rows(data / f"text/{name}.jsonl.gz"):
            if not re.search(r"shakespeare|milton|whitman|blake", row["id"]):
                found[row["id"]] = list(pieces(row["id"], "", row["text"]))
    return {group: [p for p in some if MIN_CHARS <= len(p.text) <= 1100] for group, some in found.items()}


_SPEAKER = (
    r"((?:the|The|his|her|Mr\.|Mrs\.|Miss|old|little|King|Queen|Prince|Princess|Uncle|Aunt|Captain|Colonel|Dr\.) "
    r"?[A-Za-z'’ -]{2,25}?|[A-Z][a-z]{2,}(?: [A-Z][a-z]+)?)"
)
_SAID_BY = "said|asked|cried|replied|answered|exclaimed|shouted|whispered|muttered|growled|called"
_QUOTE = re.compile(
    rf"[\"“]([A-Z][^\"“”]{{18,130}}?)[,.!?]+[\"”] (?:({_SAID_BY}) {_SPEAKER}|{_SPEAKER} ({_SAID_BY}))(?=[.,;]| (?:to|"
    rf"in|with|as|at|again|when|and|quietly|angrily|softly)\b)"
)
_PRONOUN = re.compile(
    r"^(?:he|she|they|it|we|you|i|one|another|his|her|the other|the others|then|and|but|so|there|somebody|nobody|no|"
    r"yes)\b",
    re.IGNORECASE,
)


def quote_rows(passages: dict[str, list[Passage]], rng: random.Random, count: int) -> Iterator[Row]:
    """Who said a thing that stands in quotation marks."""
    rows = []
    for group in sorted(passages):
        some = passages[group]
        here = 0
        for passage in some:
            found = list(_QUOTE.finditer(passage.text))
            if not found or here >= 7:
                continue
            match = rng.choice(found)
            speaker = (match[3] or match[4]).strip()
            words = speaker.split()
            odd = passage.text.count('"') % 2 or passage.text[: match.start()].count('"') % 2
            if (
                _PRONOUN.match(speaker)
                or len(words) > 4
                or odd
                or words[-1] in ("and", "of", "who", "in", "to", "had", "then", "that", "with", "as", "at")
                or words[-1].endswith("ly")
            ):
                continue
            verb = match[2] or match[5]
            past = verb if verb in ("said", "asked", "cried", "whispered", "shouted") else "said"
            line = match[1] + ("?" if passage.text[match.end(1)] == "?" else "")
            asks: tuple[str, ...] = (
                f'Who {past}: "{{q}}"',
                f'Who {past} "{{q}}"?',
                'Whose words are these: "{q}"?',
                'Who is speaking here: "{q}"',
                'Which character says "{q}"?',
            )
            question = squash(rng.choice(asks).replace("{q}", line))
            wrong = [p.text for p in rng.sample(some, min(len(some), 3)) if p is not passage and line not in p.text][
                : rng.choice((0, 1, 2))
            ]
            paragraphs = mixed(
                [Paragraph(passage.text, supporting=True), *(Paragraph(text, supporting=False) for text in wrong)], rng
            )
            bare = re.sub(r"^(?:the|his|her) ", "", speaker, flags=re.IGNORECASE)
            rows.append(Row(group, "quote", question, unique((speaker, bare)), paragraphs))
            here += 1
    rng.shuffle(rows)
    yield from rows[:count]


_NUMBERED = re.compile(
    r"\b(two|three|four|five|six) ((?:[a-z-]+ ){0,2}[a-z]{3,}s)(?:(?: of [a-z ]{3,25})?(?:: ?|, namely,? |, called ))"
    r"([^.;:?!\"()\[\]–—]{8,200}?)(?=[.;?!]| -- |—)"
)


def named_rows(texts: Sequence[Passage], rng: random.Random, count: int) -> Iterator[Row]:
    """Which N things a sentence lists after telling their number."""
    rows = []
    for passage in texts:
        for match in _NUMBERED.finditer(passage.text):
            number = WORDS.index(match[1])
            items = [
                re.sub(r"^(?:and|or) ", "", item.strip())
                for item in re.split(r",| and (?![^,]*,)", match[3])
                if item.strip(" ,")
            ]
            items = [item for item in items if item not in ("and", "")]
            noun = match[2].strip()
            if (
                len(items) != number
                or any(not 1 <= len(item.split()) <= 7 for item in items)
                or passage.text.count(f"{match[1]} {noun}") > 1
            ):
                continue
            if re.search(
                r"\b(?:which|who|that|is|are|was|were|had|have|I|he|she|they|you|we|it|do|did|but|one|hand|Dr)\b",
                match[3],
            ) or re.search(r"years|times|days|months|hours|others|ways|weeks|minutes", noun):
                continue
            asks: tuple[str, ...] = (
                f"Which {match[1]} {noun} are named?",
                f"Which {match[1]} {noun}?",
                f"What are the {match[1]} {noun}?",
                f"Name the {match[1]} {noun}.",
                f"List the {match[1]} {noun} mentioned in the text.",
            )
            paragraphs = (Paragraph(passage.text, supporting=True),)
            answers = unique((join(items), match[3].strip()))
            for wording in rng.sample(asks, 2):
                rows.append(Row(passage.group, "named_list", wording, answers, paragraphs, tuple(items)))
            wording = f"How many {noun} are named?"
            rows.append(Row(passage.group, "named_list", wording, unique((match[1], str(number))), paragraphs))
    rng.shuffle(rows)
    yield from rows[:count]


def speech_rows(data: Path, rng: random.Random) -> Iterator[Row]:
    """When and by whom the speeches were given."""
    rows = read_rows(data / "text/us_speeches.jsonl.gz")
    heads = []
    for row in rows:
        match = re.match(
            rf"PRESIDENT ([A-Z.'  ]+?)'S ([A-Z ]+?)\s*\n\s*((?:{MONTHS}) \d{{1,2}}, \d{{4}})\s*\n(.*)",
            row["text"],
            re.DOTALL,
        )
        if match:
            body = clip(squash(match[4]), 700)
            heads.append(
                (row["id"], match[1].title(), f"PRESIDENT {match[1]}'S {match[2]}\n{match[3]}\n{body}", match[3])
            )
    for group, name, text, date in heads:
        others = [other for other in heads if other[1] != name]
        year = date[-4:]
        plan = (
            (
                (
                    "Who gave the address of {d}?",
                    "Which president spoke to Congress on {d}?",
                    "Who delivered the message of {d} to Congress?",
                    "Whose message to Congress is dated {d}?",
                ),
                (name,),
            ),
            (
                (
                    "When did President {n} deliver this message to Congress?",
                    "What is the date of President {n}'s address in {y}?",
                    "On what day in {y} did President {n} address Congress?",
                ),
                (date,),
            ),
        )
        for asks, answers in plan:
            wrong = [Paragraph(other[2], supporting=False) for other in rng.sample(others, rng.choice((0, 1, 2)))]
            question = ask(asks, rng, d=date, n=name, y=year)
            yield Row(group, "speech", question, answers, mixed([Paragraph(text, supporting=True), *wrong], rng))


# ------------------------------------------------------------------------------------------------------ checks


def problem(row: Row) -> str:
    """Why a row is no good, or the empty string."""
    for paragraph in row.paragraphs:
        if not MIN_CHARS <= len(paragraph.text) <= MAX_CHARS or tokens(paragraph.text) > MAX_TOKENS + 10:
            return "paragraph size"
    gold = "\n".join(paragraph.text for paragraph in row.paragraphs if paragraph.supporting)
    missing_row = row.answers[0] == NOT_FOUND
    if missing_row == bool(gold):
        return "support"
    if len({paragraph.text for paragraph in row.paragraphs}) != len(row.paragraphs):
        return "paragraph twice"
    if (
        not row.question
        or "{" in row.question
        or tokens(row.answers[0]) > MAX_ANSWER_TOKENS
        or not row.answers[0].strip()
    ):
        return "question or answer"
    if missing_row or row.kind in DERIVED:
        return ""
    needed = row.items or (
        re.split(r", | and ", row.answers[0])
        if row.kind in ("wiki_list", "fb_list", "fb_list_n")
        else (row.answers[0],)
    )
    if row.kind == "fb_person" or row.question.startswith("What are people") or row.answers[0].endswith("s"):
        needed = [part for item in needed for part in item.split()]
    if any(item.lower() not in gold.lower() for item in needed):
        return "not in the text"
    return ""


def build(data: Path, seed: int) -> Iterator[Row]:
    """All rows of all kinds, in a fixed order for a seed."""

    def dice(name: str) -> random.Random:
        return random.Random(f"{seed}:{name}")

    world = World(read_countries(data))
    yield from fact_rows(world, (*NUMBERS, *TEXTS), dice("facts"))
    for make in (
        year_rows,
        share_rows,
        city_rows,
        list_rows,
        compare_rows,
        yesno_rows,
        chain_rows,
        neighbour_rows,
        tongue_rows,
    ):
        yield from make(world, dice(make.__name__))
    yield from missing_rows(world, dice("missing"), 1300)
    limits = {"definition": 950, "acronym": 250, "used_for": 200, "who_made": 250, "when_made": 150, "not_found": 170}
    yield from entry_rows(data, dice("entries"), limits)
    yield from article_rows(
        data,
        dice("articles"),
        {
            "summary": 400,
            "about": 220,
            "wiki_born": 280,
            "wiki_died": 180,
            "wiki_what": 280,
            "wiki_year": 450,
            "wiki_maker": 480,
            "wiki_place": 150,
            "not_found": 150,
        },
    )
    passages = read_passages(data)
    yield from quote_rows(passages, dice("quotes"), 450)
    articles = [Passage(article.group, "", article.chunk) for article in read_articles(data)]
    entries = [Passage(entry.group, "", entry.chunk) for entry in read_entries(data)]
    flat = [passage for group in sorted(passages) for passage in passages[group]]
    yield from named_rows([*flat, *articles, *entries], dice("named"), 400)
    yield from speech_rows(data, dice("speeches"))


def kept(rows: Iterable[Row], rejected: Counter[str]) -> Iterator[dict[str, Any]]:
    """The good rows as they are written, without repeated questions on the same texts."""
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        why = problem(row)
        mark = (row.group, row.question.lower().rstrip("?."), row.answers[0])
        if why or mark in seen:
            rejected[f"{row.kind}: {why or 'twice'}"] += 1
            continue
        seen.add(mark)
        yield {
            "id": f"built_{len(seen):05d}",
            "group": row.group,
            "dataset": "built",
            "kind": row.kind,
            "question": row.question,
            "answers": list(row.answers),
            "paragraphs": [{"text": p.text, "supporting": p.supporting} for p in row.paragraphs],
        }


def main() -> None:
    """Writes the questions as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with text/ and stories/")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rejected: Counter[str] = Counter()
    made: Counter[str] = Counter()
    with options.out.open("w", encoding="utf-8") as out:
        for row in kept(build(options.data, options.seed), rejected):
            made[row["kind"]] += 1
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(json.dumps({"rows": made.total(), "kinds": made, "rejected": rejected}))  # noqa: T201


if __name__ == "__main__":
    main()
