"""What a follow-up question leaves to the turns before it, and what could stand in its place.

Rules for English, without a model: they find the word that refers to something said before, and list what was said.
`follow_up.py` lets the backbone choose. A question without such a word stands alone and is left as it is, as are all
questions in languages that the rules do not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_WORD = re.compile(r"[^\W_]+(?:['’.&-][^\W_]+)*")
_PAUSE = re.compile(r"[.?!,;:()\n]")
_FUNCTION_WORDS = frozenset(
    """a about above after again all also am an and any are as at be because been before being below between both but
    by can could did do does done down during each else ever few for from further had has have he her hers here him
    his how i if in into is it its itself just may me might more most much many must my no nor not now of off on once
    only or other our out over own same shall she should since so some such than that the their theirs them then there
    these they this those through to too under until up us very was we were what when where whether which while who
    whom whose why will with would you your""".split()
)
_AUXILIARIES = frozenset(
    "am are can could did do does had has have is may might must shall should was were will would".split()
)
_PREPOSITIONS = frozenset(
    "about above after at before below between by during for from in into near of on over to under with".split()
)
_ARTICLES = frozenset("a an the".split())
_INSIDE = frozenset("and at for from in of on the".split())
"""Function words that may stand inside a phrase."""
_JOINTS = frozenset("after and because before but if or so that when where while who which".split())
"""Words after which a question may refer to its own beginning."""
_QUESTION_WORDS = frozenset("how what when where which who whom whose why".split())
_PERSONS = frozenset("he her hers him his she".split())
_THINGS = frozenset("it its their theirs them they".split())
_OWNERS = frozenset("his its their".split())
_POINTERS = frozenset("that these this those".split())
_FRAGMENT = re.compile(r"(?:(?:and|but|or|so)\s+)?(?:what|how)\s+about\s+(.+)|(?:and|but|or)\s+(.+)", re.IGNORECASE)

_LONGEST_PHRASE = 6
_MOST_CONTENT_WORDS = 3
_LONGEST_FRAGMENT = 6


def rewrites(question: str, said: Sequence[str], earlier: str = "") -> list[str]:
    """Return the question with its first reference replaced by each phrase that it could mean; none if it has none.

    Args:
        question: What is asked.
        said: Questions and answers before it, the latest last.
        earlier: The latest of these questions, which a fragment such as "And in Spain?" completes.
    """
    words = list(_WORD.finditer(question))
    fragment = _fragment_of(question)
    if fragment and earlier:
        return _completed(fragment, earlier)
    if earlier and words and not _content(question) and not _refers(words, question):
        return [f"{earlier.strip()} {question.strip()}"]
    for place, word in enumerate(words):
        if not _stands_alone(words, place, question):
            phrases, end = _meant(words, place, question, said)
            if phrases:
                return [_replaced(question, word.start(), end, phrase) for phrase in phrases]
    return []


def _meant(words: list[re.Match[str]], place: int, question: str, said: Sequence[str]) -> tuple[list[str], int]:
    """Return what a reference could mean, and where in the question it ends."""
    word, here = words[place].group().lower(), words[place]
    following = words[place + 1].group().lower() if place + 1 < len(words) else ""
    before = words[place - 1].group().lower() if place else ""
    if word in _POINTERS and following and following not in _FUNCTION_WORDS:
        named = [phrase for phrase in _phrases(said) if following in _content(phrase) and len(_content(phrase)) > 1]
        if named or before not in _AUXILIARIES:
            return named, words[place + 1].end()
    if word == "there" and before not in _PREPOSITIONS:
        named = [f"to {phrase}" for phrase in _names(said) or _phrases(said)]
        return [*_places(said), *named], here.end()
    owns = word in _OWNERS or (word == "her" and following not in _FUNCTION_WORDS and following != "")
    phrases = (_names(said) if word in _PERSONS else []) or _phrases(said)
    return [f"{phrase}'s" if owns else phrase for phrase in phrases], here.end()


def _refers(words: list[re.Match[str]], question: str) -> bool:
    return any(not _stands_alone(words, place, question) for place in range(len(words)))


def _stands_alone(words: list[re.Match[str]], place: int, question: str) -> bool:
    """Return whether a word refers to nothing, or to something in the same question."""
    here, lower = words[place], [word.group().lower() for word in words]
    word, before, after = lower[place], lower[:place], lower[place + 1 :]
    last, following = (before or [""])[-1], (after or [""])[0]
    if word in _PERSONS:
        return any(_is_name(other) for other in words[1:place])  # the first word has a capital in any case
    if word in _THINGS:
        if word == "it" and (_is_empty_it(before, after)):
            return True
        content = _content(" ".join(before))
        joint = any(other in _JOINTS for other in before[1:]) or "," in question[: here.start()]
        owner = word in _OWNERS and last not in _PREPOSITIONS and last not in _AUXILIARIES - {"had", "has", "have"}
        return bool(content) and (joint or owner)
    if word == "there":
        return last in _AUXILIARIES or following in _AUXILIARIES
    if word in _POINTERS:
        ends = not following or bool(_PAUSE.match(question[here.end() :].lstrip()[:1]))
        return not (ends or last in _AUXILIARIES or (following not in _FUNCTION_WORDS and last not in _JOINTS))
    return True


def _is_empty_it(before: list[str], after: list[str]) -> bool:
    """Return whether `it` stands for nothing: is it allowed to, does it rain, what time is it."""
    if not before or before[-1] not in _AUXILIARIES:
        return False
    opens = next((place for place, word in enumerate(after[:4]) if word in {"to", "that"}), None)
    weather = bool(after) and after[0].startswith(("rain", "snow"))
    return weather or (opens is not None and opens + 1 < len(after)) or before[-2:] == ["time", "is"]


def _fragment_of(question: str) -> str:
    """Return what a question such as "And in Spain?" names; nothing of one that asks for itself."""
    found = _FRAGMENT.fullmatch(question.strip().rstrip("?!. "))
    named = (found.group(1) or found.group(2)) if found else ""
    lower = [word.lower() for word in _WORD.findall(named)]
    asks = not lower or bool(_QUESTION_WORDS & set(lower)) or lower[0] in _AUXILIARIES
    return "" if asks or len(lower) > _LONGEST_FRAGMENT or (_PERSONS | _THINGS) & set(lower) else named


def _completed(fragment: str, earlier: str) -> list[str]:
    """Return an earlier question with each of its phrases replaced by a fragment, and with the fragment at its end."""
    body = earlier.strip().rstrip("?!. ")
    leads = fragment.split()[0].lower() in _PREPOSITIONS
    found = _places([body], _PREPOSITIONS) if leads else _alike(fragment, _phrases([body]))
    completed = [re.sub(re.escape(phrase), lambda _: fragment, body, count=1, flags=re.I) for phrase in found]
    if leads:
        completed.append(f"{body} {fragment}")
    return [f"{text}?" for text in dict.fromkeys(completed)]


def _alike(fragment: str, phrases: list[str]) -> list[str]:
    """Return the phrases that share a word with a fragment, best those of its length; all if none does."""
    words = _content(fragment)
    sharing = [phrase for phrase in phrases if set(words) & set(_content(phrase))]
    return [phrase for phrase in sharing if len(_content(phrase)) == len(words)] or sharing or phrases


def _replaced(question: str, start: int, end: int, phrase: str) -> str:
    if start == 0:
        phrase = phrase[0].upper() + phrase[1:]
    return question[:start] + phrase + question[end:]


def _names(said: Sequence[str]) -> list[str]:
    """Return runs of words that begin with a capital, the latest first."""
    found: list[str] = []
    for text in reversed(said):
        run: list[re.Match[str]] = []
        for word in [*_WORD.finditer(text), None]:
            if word is not None and _is_name(word):
                if run and text[run[-1].end() : word.start()] != " ":
                    found.append(text[run[0].start() : run[-1].end()])
                    run = []
                run.append(word)
            elif run:
                found.append(text[run[0].start() : run[-1].end()])
                run = []
    return _distinct(found)


def _phrases(said: Sequence[str]) -> list[str]:
    """Return spans of words that could name something, the latest first."""
    return _distinct(phrase for text in reversed(said) for phrase in _spans(text))


def _places(said: Sequence[str], leads: frozenset[str] = frozenset({"at", "in", "on", "near", "under"})) -> list[str]:
    """Return spans that begin with a preposition, the latest first."""
    pairs = ((text, phrase) for text in reversed(said) for phrase in _spans(text))
    before = re.compile(rf"\b({'|'.join(sorted(leads))}) $", re.IGNORECASE)
    found = []
    for text, phrase in pairs:
        place = before.search(text[: max(text.lower().find(phrase.lower()), 0)])
        if place:
            found.append(f"{place.group(1).lower()} {phrase}")
    return _distinct(found)


def _spans(text: str) -> Iterator[str]:
    words = list(_WORD.finditer(text))
    for first, start in enumerate(words):
        leads, follows = start.group().lower() in _ARTICLES, first and words[first - 1].group().lower() in _ARTICLES
        if follows or _run(words, first - 1, text) or (start.group().lower() in _FUNCTION_WORDS and not leads):
            continue
        content = 0
        for place in range(first, min(first + _LONGEST_PHRASE, len(words))):
            word = words[place].group().lower()
            if place > first and _PAUSE.search(text[words[place - 1].end() : words[place].start()]):
                break
            if word in _FUNCTION_WORDS:
                if place > first and word not in _INSIDE:
                    break
                continue
            content += 1
            if content > _MOST_CONTENT_WORDS:
                break
            if _run(words, place, text):
                continue
            name = text[start.end() : words[place].end()]
            yield (start.group().lower() if leads else start.group()) + name


def _run(words: list[re.Match[str]], place: int, text: str) -> bool:
    """Return whether a word and the next one are parts of one name."""
    if not 0 <= place < len(words) - 1:
        return False
    one, other = words[place], words[place + 1]
    return _is_name(one) and _is_name(other) and text[one.end() : other.start()] == " "


def _content(text: str) -> list[str]:
    return [word for word in map(str.lower, _WORD.findall(text)) if word not in _FUNCTION_WORDS]


def _is_name(word: re.Match[str]) -> bool:
    return word.group()[0].isupper() and word.group().lower() not in _FUNCTION_WORDS


def _distinct(phrases: Iterator[str] | list[str]) -> list[str]:
    found: dict[str, str] = {}
    for phrase in phrases:
        found.setdefault(phrase.lower(), phrase)
    return list(found.values())
