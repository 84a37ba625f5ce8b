"""Questions that are made up, so that no model can know the answer and no data are needed.

Source: RULER, arXiv:2404.06654: needles with one key, many keys or many values, variable tracking, common words.
Deviations: the filler is generated sentence by sentence and never repeats; words are made of syllables; the length is
the number of documents; needles of several questions can share a context.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.question import Context, Question, Stream, document_id
from memrecall_kv.evaluate.settings import TaskConfig
from memrecall_kv.evaluate.tasks.haystack import arrange

_QUESTIONS = 32
_SENTENCES = 5
"""Of a document."""
_DISTRACTORS = 3
_VALUES = 4
_CHAIN = 4
_COMMON = 10
_LISTED = 40
_ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr pl st tr".split()
_VOWELS = "a e i o u".split()
_SUBJECTS = "baker farmer sailor teacher painter miller weaver gardener tailor potter".split()
_VERBS = "watched followed greeted painted described remembered praised avoided visited thanked".split()
_OBJECTS = "bridge garden river market tower orchard harbour meadow library chapel".split()
_MANNERS = "quietly slowly gladly often rarely twice again together early late".split()


@dataclass(frozen=True, slots=True)
class _Puzzle:
    """A question with the sentences it rests on, in hop order, and some that only look like them."""

    question: str
    answers: tuple[str, ...]
    needles: tuple[str, ...]
    decoys: tuple[str, ...] = ()


def synthetic(name: str, folder: object, config: TaskConfig) -> Iterator[Context]:
    """Yield the contexts of a synthetic task.

    Args:
        name: A key of `PUZZLES`, or `common-words`.
        folder: Not read: everything is made here.
        config: Length, number, seed, order of the evidence, questions per context.

    Raises:
        InputError: If a context is too short for its needles, or questions cannot share one.
    """
    ids = [f"{name}-{number:04d}" for number in range(config.questions or _QUESTIONS)]
    if name == "common-words":
        if config.share > 1:
            raise InputError("common-words: expected one question per context.", "Leave --share out.")
        yield from (_common_words(one, config) for one in ids)
        return
    for start in range(0, len(ids), config.share):
        yield _needles(name, ids[start : start + config.share], config)


def _needles(name: str, ids: list[str], config: TaskConfig) -> Context:
    puzzles = [PUZZLES[name](_generator(config.seed, one)) for one in ids]
    inserted = [needle for puzzle in puzzles for needle in puzzle.needles]
    decoys = [decoy for puzzle in puzzles for decoy in puzzle.decoys]
    if len(inserted) + len(decoys) > config.documents:
        raise InputError(
            f"{name}: expected at least {len(inserted) + len(decoys)} documents, got {config.documents}.",
            "Ask for more documents.",
        )
    key = f"{config.seed}:{':'.join(ids)}"
    order = arrange(
        config.documents,
        range(len(inserted)),
        config.order or "random",
        random.Random(key),  # noqa: S311
    )
    sentences = [*inserted, *decoys]
    place_of = {item: place for place, item in enumerate(order) if item < len(sentences)}
    extra = {place: sentences[item] for item, place in place_of.items()}
    questions = []
    first = 0
    for one, puzzle in zip(ids, puzzles, strict=True):
        gold = tuple(document_id(place_of[first + n]) for n in range(len(puzzle.needles)))
        first += len(puzzle.needles)
        questions.append(Question(one, puzzle.question, puzzle.answers, gold, "all", name))
    return Context(ids[0], Stream(partial(_fillers, config, key, extra)), tuple(questions))


def _fillers(config: TaskConfig, key: str, extra: dict[int, str]) -> Iterator[str]:
    """Yield documents of filler, each with the sentence that was hidden in it."""
    for place in range(config.documents):
        generator = _generator(config.seed, key, place)
        sentences = [_filler(generator) for _ in range(_SENTENCES)]
        if place in extra:
            sentences.insert(generator.randrange(_SENTENCES + 1), extra[place])
        yield " ".join(sentences)


def _filler(generator: random.Random) -> str:
    who, what, where, how = (generator.choice(kind) for kind in (_SUBJECTS, _VERBS, _OBJECTS, _MANNERS))
    return f"The {who} of {_word(generator).title()} {what} the {where} near {_word(generator).title()} {how}."


def _single(generator: random.Random) -> _Puzzle:
    key, value = _word(generator, 3), _number(generator)
    return _Puzzle(f"What is the special magic number for {key}?", (value,), (_magic(key, value),))


def _multikey(generator: random.Random) -> _Puzzle:
    puzzle = _single(generator)
    decoys = tuple(_magic(_word(generator, 3), _number(generator)) for _ in range(_DISTRACTORS))
    return _Puzzle(puzzle.question, puzzle.answers, puzzle.needles, decoys)


def _multivalue(generator: random.Random) -> _Puzzle:
    key = _word(generator, 3)
    values = tuple(_number(generator) for _ in range(_VALUES))
    return _Puzzle(
        f"What are all the special magic numbers for {key}?", values, tuple(_magic(key, value) for value in values)
    )


def _variables(generator: random.Random) -> _Puzzle:
    def chain(value: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        names = tuple(_word(generator, 2).upper() + _number(generator)[:2] for _ in range(_CHAIN + 1))
        first = f"Variable {names[0]} is set to {value}."
        copies = (f"Variable {one} is set to the value of {other}." for other, one in pairwise(names))
        return names, (first, *copies)

    value = _number(generator)
    names, needles = chain(value)
    _, decoys = chain(_number(generator))
    return _Puzzle(f"Which variables have the value {value}?", names, needles, decoys)


PUZZLES: dict[str, Callable[[random.Random], _Puzzle]] = {
    "niah-single": _single,
    "niah-multikey": _multikey,
    "niah-multivalue": _multivalue,
    "variable-tracking": _variables,
}
"""What is hidden, by the name of the task."""


def _common_words(one: str, config: TaskConfig) -> Context:
    """Return lists of words, ten of which stand in every list."""
    generator = _generator(config.seed, one)
    common = tuple(dict.fromkeys(_word(generator, 2) for _ in range(3 * _COMMON)))[:_COMMON]

    def lists() -> Iterator[str]:
        for place in range(config.documents):
            drawn = _generator(config.seed, one, place)
            # three syllables: a rare word is never one of the common ones
            listed = [*common, *(_word(drawn, 3) for _ in range(_LISTED - _COMMON))]
            drawn.shuffle(listed)
            yield f"Word list {place + 1}: {', '.join(listed)}."

    question = Question(
        one, f"What are the {_COMMON} most common words in the word lists?", common, wanted="all", kind="common-words"
    )
    return Context(one, Stream(lists), (question,))


def _magic(key: str, value: str) -> str:
    return f"One of the special magic numbers for {key} is {value}."


def _word(generator: random.Random, syllables: int = 2) -> str:
    return "".join(generator.choice(_ONSETS) + generator.choice(_VOWELS) for _ in range(syllables))


def _number(generator: random.Random) -> str:
    return str(generator.randrange(1_000_000, 10_000_000))


def _generator(*key: object) -> random.Random:
    return random.Random(":".join(map(str, key)))  # noqa: S311  # puzzles, not secrets
