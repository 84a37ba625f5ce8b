"""Build training questions over made-up everyday texts: rules, manuals, minutes, notices, pages, short speeches.

What real data sets hardly hold is asked here: which of two numbers of one sentence, what of a list, an answer by yes or
no from a rule, who decides above a limit, one of two options. Every text is put together from facts of `everyday.yaml`,
every name and number is drawn. The facts were written for this, in English and some in five more languages.

python scripts/build_everyday.py --out everyday.jsonl --documents 3000 --seed 0
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

SOURCE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("everyday.yaml").read_text(encoding="utf-8"))
WORDS: dict[str, list[str]] = {name: text.split() for name, text in SOURCE.items() if isinstance(text, str)}
AND = {"en": "and", "de": "und", "es": "y", "fr": "et", "it": "e", "nl": "en"}
CURRENCIES = (" euros", " pounds", " dollars", " crowns", "$", "\u20ac", "\u00a3")
MINUTES = {"days": 1440.0, "weeks": 10080.0, "months": 43200.0, "minutes": 1.0, "hours": 60.0, "years": 525600.0}
FIRMS = ("& Sons", "Ltd", "Group", "Works", "Brothers", "Trust")

Draw = random.Random


def _place(draw: Draw) -> str:
    return "".join(draw.choice(WORDS[part]) for part in ("beginnings", "middles", "ends"))


def _number(draw: Draw) -> str:
    return draw.choice((draw.choice(WORDS["numbers"]), str(draw.randrange(3, 60)), str(draw.randrange(60, 990))))


def _price(draw: Draw) -> str:
    amount = draw.choice((draw.randrange(2, 100), draw.randrange(2, 900), draw.randrange(2, 900) // 10 * 10 + 10))
    return f"{amount:,}" + (f".{draw.choice((50, 20, 90))}" if amount < 30 and draw.random() < 0.3 else "")


def _date(draw: Draw) -> str:
    day, month, year = draw.randrange(1, 29), draw.choice(WORDS["months"]), draw.randrange(1950, 2027)
    ordinal = draw.choice(WORDS["ordinals"])
    return draw.choice(
        (f"{day} {month}", f"{day} {month} {year}", f"{month} {day}, {year}", f"the {ordinal} of {month}")
    )


def _time(draw: Draw) -> str:
    hour = draw.randrange(6, 23)
    minutes = draw.choice(("00", "15", "30"))
    return draw.choice((f"{hour}:{minutes}", f"{hour % 12 or 12} {'a' if hour < 12 else 'p'}.m."))


def _duration(draw: Draw) -> str:
    return f"{draw.choice((*WORDS['numbers'], '15', '20', '30', '45', '18'))} {draw.choice(tuple(MINUTES))}"


def _length(draw: Draw) -> str:
    whole, parts = str(draw.randrange(2, 90)), f"{draw.randrange(1, 9)}.{draw.randrange(1, 9)}"
    return f"{draw.choice((whole, parts, draw.choice(WORDS['numbers'])))} metres"


KINDS: dict[str, Callable[[Draw], str]] = {
    "p": lambda draw: f"{draw.choice(WORDS['first'])} {draw.choice(WORDS['last'])}",
    "r": lambda draw: draw.choice(SOURCE["roles"]),
    "c": _place,
    "o": lambda draw: f"{draw.choice(WORDS['last'])} {draw.choice(FIRMS)}",
    "y": lambda draw: str(draw.randrange(1820, 2026)),
    "n": _number,
    "big": lambda draw: f"{draw.randrange(1, 90)},{draw.randrange(100, 999)}",
    "m": _price,
    "sum": lambda draw: f"{draw.randrange(1, 900)},{draw.randrange(0, 10)}00",
    "d": _date,
    "t": _time,
    "u": _duration,
    "l": _length,
    "k": lambda draw: f"{draw.randrange(2, 90)} kilograms",
    "g": lambda draw: f"{draw.randrange(5, 90) * 10} grams of",
    "v": lambda draw: f"{draw.choice(('half a litre', '300 millilitres', 'two cups', '250 millilitres'))} of",
    "s": lambda draw: f"{draw.randrange(2, 60)}{draw.choice((' percent', '%', ' per cent'))}",
    "w": lambda draw: draw.choice(WORDS["days"]),
    "fr": lambda draw: draw.choice("lundi mardi mercredi jeudi vendredi samedi dimanche".split()),
    "one": lambda draw: draw.choice("fiets koffie taart kamer boot doos pizza tent".split()),
    "h": lambda draw: draw.choice(WORDS["colours"]),
    "x": lambda draw: draw.choice(SOURCE["spots"]),
    "st": lambda draw: draw.choice(SOURCE["states"]),
    "ver": lambda draw: f"{draw.randrange(1, 12)}.{draw.randrange(0, 12)}",
    "it": lambda draw: draw.choice(SOURCE["subjects"]),
}
"""By kind of place: what draws a value for it."""
IN_NUMBERS: dict[str, Callable[[Draw], str]] = {
    "d": lambda draw: f"{draw.randrange(1, 29)}.{draw.randrange(1, 13)}.{draw.randrange(1950, 2027)}",
    "t": lambda draw: str(draw.randrange(6, 23)),
}
"""The same, for languages other than English."""


def number_in(said: str) -> float:
    """Return the first number of a text, in digits or as a word; 0.0 if there is none."""
    if digits := re.search(r"\d[\d,]*(?:\.\d+)?", said):
        return float(digits[0].replace(",", ""))
    return next((number + 2.0 for number, word in enumerate(WORDS["numbers"]) if word in said), 0.0)


def size(said: str) -> float:
    """Return how much is said; of a date, how late it is, with a year or without in both of two."""
    months = [number for number, name in enumerate(WORDS["months"]) if name in said]
    if not months:
        return number_in(said) * next((minutes for unit, minutes in MINUTES.items() if unit in said), 1.0)
    year, day = re.search(r"\d{4}", said), re.search(r"\b\d{1,2}\b", said)
    ordinals = [number for number, name in enumerate(WORDS["ordinals"]) if f"the {name} of" in said]
    return (int(year[0]) if year else 0) * 400.0 + months[0] * 31 + (int(day[0]) if day else ordinals[0])


class Drawn:
    """What stands for the places of a text: drawn when it is first asked for, no value twice."""

    def __init__(self, draw: Draw, language: str) -> None:
        self._draw, self._language = draw, language
        self._values: dict[str, str] = {}
        self._chosen: dict[str, int] = {}
        self._used: set[str] = set()
        self._currency = draw.choice(CURRENCIES)
        self.fact = ""

    def filled(self, text: str) -> str:
        """Return a text with its options chosen and its places filled, as before in the same fact."""
        text = re.sub(r"\[([^\[\]]*)\]", self._option, text)
        return re.sub(r"\{([^{}]+)\}", lambda match: self._at(match[1]), text)

    def _option(self, match: re.Match[str]) -> str:
        options, key = match[1].split("|"), f"{self.fact}{match[0].lower()}"
        return options[self._chosen.setdefault(key, self._draw.randrange(len(options)))]

    def _at(self, name: str) -> str:
        if function := re.fullmatch(r"(\w+)\((.*)\)", name):
            return self._computed(function[1], function[2].split(","))
        begins = name[0].isupper()
        name = name[0].lower() + name[1:]
        key = name if name in ("it", "c0") else f"{self.fact}{name}"
        if key not in self._values:
            self._values[key] = self._fresh(name)
        value = self._values[key]
        return value[0].upper() + value[1:] if begins else value

    def _fresh(self, name: str) -> str:
        if name == "y2" and f"{self.fact}y1" in self._values:
            return str(self._draw.randrange(int(self._values[f"{self.fact}y1"]) + 1, 2028))
        for _ in range(60):
            value = self._drawn(name)
            if value not in self._used:
                break
        self._used.add(value)
        return value

    def _drawn(self, name: str) -> str:
        place, _, things = name.partition(":")
        kind = place.rstrip("0123456789")
        if not things:
            kinds = KINDS if self._language == "en" else KINDS | IN_NUMBERS
            value = self.filled(kinds[kind](self._draw))
            return self._money(value) if kind in ("m", "sum") else value
        left = [thing for thing in SOURCE["things"][things] if thing not in self._used]
        if kind == "a":
            return self._draw.choice(left)
        chosen = self._draw.sample(left, min(len(left), self._draw.choice((2, 2, 3, 3, 4))))
        self._used.update(chosen)
        return f"{', '.join(chosen[:-1])} {AND[self._language]} {chosen[-1]}"

    def _money(self, amount: str) -> str:
        return f"{self._currency}{amount}" if len(self._currency) == 1 else f"{amount}{self._currency}"

    def _computed(self, function: str, names: list[str]) -> str:
        """Return what follows from what was drawn."""
        first = self._at(names[0])
        if function in ("above", "more", "below", "less"):
            above = function in ("above", "more")
            other = (
                max(1, int(int(number_in(first)) * self._draw.uniform(*((1.15, 3) if above else (0.2, 0.85))))) + above
            )
            return str(other) if function in ("more", "less") else self._money(str(other))
        is_less = size(first) < size(self._at(names[1]))
        if function == "cheaper":
            return self._values.setdefault(f"{self.fact}cheaper", self._draw.choice(("cheaper", "dearer")))
        if function == "pick":
            is_less = is_less == (self._values[f"{self.fact}cheaper"] == "cheaper")
        chosen = names[2 if is_less else 3]
        return chosen if function == "low" else self._at(chosen)


def document(number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of one text: its questions, each with its paragraph."""
    draw = random.Random(f"{seed}:everyday:{number}")
    language = draw.choice(tuple(AND)[1:]) if draw.random() < 0.12 else "en"
    drawn, pool = Drawn(draw, language), SOURCE["facts"][language].splitlines()
    title = drawn.filled(SOURCE["title"]) if language == "en" else drawn.filled("{it}").removeprefix("the ")
    made = []
    for place, fact in enumerate(draw.sample(pool, min(len(pool), draw.randrange(7, 20)))):
        drawn.fact = f"{place}/"
        # in the order of the line, in which its places are drawn
        made.append([drawn.filled(part).replace("..", ".") for part in re.split(r" \|\| | => ", fact)])
    at, paragraph = 0, 0
    while at < len(made):
        count = draw.randrange(2, 6)
        part, at = made[at : at + count], at + count
        lines = [_begun(sentence) for sentence, *_ in part]
        if draw.random() < 0.4:
            lines.insert(draw.randrange(len(lines) + 1), draw.choice(SOURCE["fillers"]))
        text = " ".join(lines) if paragraph else f"{_begun(title)}. {' '.join(lines)}"
        for question, answer in (pair for _, *asked in part for pair in zip(asked[::2], asked[1::2], strict=True)):
            yield {
                "id": f"everyday_{number}_{paragraph}_{question}",
                "group": f"everyday_{number}",
                "dataset": "everyday",
                "question": _begun(" ".join(question.split())),
                "answers": [answer.removesuffix(" of")],
                "paragraphs": [{"text": text, "supporting": True}],
            }
        paragraph += 1


def _begun(text: str) -> str:
    return text[0].upper() + text[1:]


def main() -> None:
    """Write the questions as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to write")
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with options.out.open("w", encoding="utf-8") as out:
        for number in range(options.documents):
            for row in document(number, options.seed):
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
