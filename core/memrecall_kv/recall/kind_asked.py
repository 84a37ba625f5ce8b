"""Which kind of thing a question asks for, which kind a reply is, and what of a text is of the kind; in doubt any is.

English, German, Spanish, French, Italian, Dutch and Portuguese, but questions to be answered by yes or no in English
alone. Of questions in other languages nothing is said.
"""

from __future__ import annotations

import re
import unicodedata

from memrecall_kv.recall.grounding import PERCENT, content_words, stems

_WORDS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion dozen"
    " zwei drei vier f\u00fcnf sechs sieben acht neun zehn elf zw\u00f6lf zwanzig hundert tausend"
    " dos tres cuatro cinco seis siete ocho nueve diez doce veinte cien deux trois quatre cinq sept huit neuf dix douze"
    " vingt cent due quattro cinque sei sette otto nove dieci dodici venti cento dois duas tr\u00eas quatro sete oito"
    " dez doze vinte twee drie vijf zes zeven negen tien twaalf twintig honderd"
)
_MANY = r"(?:thousand|[mb]illions?|tausend|millionen|millones|milioni|milh\u00f5es|miljoen)"
_WORD = "|".join(sorted(set(_WORDS.split()), key=lambda word: (-len(word), word)))
# bounded, so that a text of nothing but numbers is read in one pass
_NUMBER = (
    rf"(?<!\w)[-+]?(?:\d{{1,30}}(?:[.,'\u2019\u00a0\u202f ]\d{{1,30}}){{0,6}}(?: {_MANY})?"
    rf"|(?:{_WORD})(?:(?:-| | e | y | and )(?:{_WORD})){{0,6}})(?!\w)"
)
_RANGE = rf"{_NUMBER}(?:\s*(?:-|\u2013|to|bis|a|\u00e0)\s*{_NUMBER})?"
_CURRENCY = (
    r"(?:[$\u00a3\u00a5\u20a0-\u20bf]|\b(?:euros?|dollars?|pounds?|cents?|pence|crowns?|francs?|franken|yen|yuan|rupees?"
    r"|pesos?|kronor|kroner|kronen|lire|libras?|reais|usd|eur|gbp|chf)\b)"
)
_TIME = (
    r"\b(?:seconds?|minutes?|hours?|days?|nights?|weeks?|months?|years?|decades?|centur(?:y|ies)|sekunden?|minuten?"
    r"|stunden?|tage?n?|wochen?|monate?n?|jahre?n?|segundos?|minutos?|horas?|d[i\u00ed]as?|semanas?|mes(?:es)?|a\u00f1os?"
    r"|anos?|secondes?|heures?|jours?|semaines?|mois|ans?|ann\u00e9es?|second[oi]|minut[oi]|or[ae]|giorn[oi]"
    r"|settiman[ae]|mes[ei]|ann[oi]|seconden|uren|uur|dagen|weken|maanden|jaren|jaar)\b"
)
_MEASURE = (
    r"(?:\b(?:square |cubic |quadrat|kubik)?"
    r"(?:(?:kilo|centi|milli)?(?:met(?:er|re)s?|metros?|m\u00e8tres?|metri|gram(?:me)?s?|gramm|gramos?)"
    r"|(?:milli)?lit(?:er|re)s?|litros?|litri|miles?|feet|inches|yards|acres|hectares|tons?|tonnes?|(?:kilo|mega)?watts?"
    r"|volts?|degrees?|grad|grados|(?:km|cm|mm|m)[\u00b2\u00b3]|km|cm|mm|kg|kw|mw)\b|\u00b0)"
)
_MONTH = (
    r"(?:jan(?:uary|uar|uari|vier|eiro)?|enero|gennaio|feb(?:ruary|ruar|ruari|rero|braio)?|f\u00e9vrier|fevereiro"
    r"|(?-i:Ma)(?:rch|y)|m(?:\u00e4rz|arzo|ars|ar\u00e7o|aart)|apr(?:il|ile)?|abril|avril|maio?|mayo|maggio|mei|june?|juni[o]?|juin|giugno"
    r"|junho|july?|juli[o]?|juillet|luglio|julho|aug(?:ust|ustus)?|agosto|ao\u00fbt|sept?(?:ember|embre|iembre)?|settembre|setembro"
    r"|o[ck]t(?:ober|obre|ubre)?|ottobre|outubro|nov(?:ember|embre|iembre|embro)?|de[cz](?:ember|embre)?|diciembre|d\u00e9cembre"
    r"|dicembre|dezembro)\b\.?"
)
_OF = r"(?:,? |,? of |,? del? |,? den |\. )"
_DAY = rf"(?:\d{{1,2}}(?:st|nd|rd|th|er|\u00ba)?{_OF}|(?:first|second|third|primero|premier|primo) (?:of|de|di) )"
_WEEKDAY = (
    r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)days?|(?:mon|diens|donners|frei|sams|sonn)tage?s?|mittwochs?|sonnabende?s?"
    r"|lunes|martes|mi\u00e9rcoles|jueves|viernes|s\u00e1bados?|domingos?|(?:lun|mar|mercre|jeu|vendre|same)dis?|dimanches?"
    r"|(?:luned|marted|mercoled|gioved|venerd)\u00ec|sabato|domenic[ah]e?|(?:segunda|ter\u00e7a|quarta|quinta|sexta)s?-feiras?"
    r"|(?:maan|dins|woens|donder|vrij|zater|zon)dag(?:en)?)"
)
_AND = r"(?:,? (?:and|or|to|und|oder|bis|y|o|a|et|ou|\u00e0|au|e|en|of|tot)|,)"
_KINDS = {
    "days": rf"\b{_WEEKDAY}(?:{_AND} (?:(?:on|am|le|el|los|il|la|de|op) )?{_WEEKDAY}){{0,6}}\b",
    "date": rf"(?<![\d.,\w])(?:{_DAY}{_MONTH}(?:{_OF}\d{{4}}\b)?|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?\b(?:,? \d{{4}}\b)?"
    rf"|{_MONTH}{_OF}\d{{4}}\b|\d{{4}}-\d\d-\d\d\b|\d{{1,2}}[./]\d{{1,2}}[./]\d{{2,4}}\b"
    r"|(?:1\d|20)\d\ds?(?![\d,.]\d|\w)|\d{1,2}(?:st|nd|rd|th) century\b)",
    "share": rf"{_RANGE}\s*{PERCENT}",
    "money": rf"{_CURRENCY}\s*{_RANGE}(?:\s+(?:million|billion))?|{_RANGE}\s*{_CURRENCY}",
    "duration": rf"{_RANGE}[\s-]*{_TIME}",
    "measure": rf"{_RANGE}\s*{_MEASURE}",
    "yes or no": r"\b(?:yes|no|ja|nein|nee|s[i\u00ed]|oui|non|sim|n\u00e3o)\b",
}
"""What is plainly of a kind."""
_SAID = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _KINDS.items()}
_COUNT = re.compile(
    rf"(?!(?:19|20)\d\d(?![\d.,]))(?<![$\u00a3\u00a5\u20a0-\u20bf])(?<!\d[.,]){_NUMBER}(?!\s*(?:{PERCENT}|{_CURRENCY}|{_MEASURE}|[.,]?\d))",
    re.IGNORECASE,
)
_AMOUNT = "|".join(_KINDS[kind] for kind in ("money", "measure", "share", "duration"))
_FORMS = {
    **{kind: _SAID[kind] for kind in ("days", "date", "share", "money", "duration")},
    "count": _COUNT,
    "amount": re.compile(_AMOUNT, re.IGNORECASE),
    "size": re.compile(_KINDS["measure"], re.IGNORECASE),
}
"""By what is asked for: how it is written."""
_BEGINS = r"^\W*(?:and |but |so |und |y |et |e )?"
_IS = r"(?:is|are|was|were|do|does|did|can|could|may|must|shall|should|will|would|has|have|had)"
_GERMAN = r"was (?:ist|sind|war|hat|kann|darf|muss|bedeutet|macht|kostet)"
_ASKED = {
    "yes or no": rf"{_BEGINS}(?!{_GERMAN}\b){_IS}\b(?!.*\bor\b)",
    "money": r"\bhow (?:much|expensive)\b.*\b(?:costs?|paid|pays?|price|fee|charged?|earns?|spen[dt]|worth|fine)\b"
    r"|\bhow (?:high|large|much) (?:is|was|are|were) (?:the|my|our|your|his|her|their) (?:\w+ )?"
    r"(?:rent|deposit|fee|fine|price|cost|salary|wages?|tax|allowance|charge)\b"
    r"|\b(?:was|wie ?viel|cu\u00e1nto|combien|quanto|wat|hoeveel) "
    r"(?:kostet|kosten|cuestan?|co\u00fbten?t?|costa(?:no)?|custam?|kost)\b",
    "duration": rf"{_BEGINS}(?:(?:for )?how long {_IS}\b.*"
    r"\b(?:last|takes?|stay|valid|open|for|repaired|wait|kept|live|work)\b"
    r"|wie lange|cu\u00e1nto dura|combien de temps|quanto dura|hoe lang duurt)\b",
    "days": r"\b(?:(?:which|what) days|welche[nr]? tagen?|qu\u00e9 d\u00edas|quels jours|(?:che|quali) giorni"
    r"|(?:que|quais) dias|welke dagen)\b",
    "share": rf"{_BEGINS}(?:(?:of|in|by|to) )?(?:(?:what|which) (?:share|percentage|proportion)|how many percent"
    r"|wie ?viel prozent|welcher anteil|qu\u00e9 porcentaje|quel pourcentage|(?:che|quale) percentuale|que percentagem"
    r"|welk percentage)\b",
    "count": r"\b(?:how many|wie ?viele|cu\u00e1nt[oa]s|combien de|quant[ie]|quant[oa]s|hoeveel)\b",
    "date": rf"{_BEGINS}(?:(?:from |since |until |by |in |on )?(?:when {_IS}|(?:which|what) (?:year|date|day)\b)"
    r"|(?:seit |ab |bis )?wann|(?:desde )?cu\u00e1ndo|(?:depuis )?quand|(?:da )?quando|(?:sinds )?wanneer)\b",
    "amount": rf"{_BEGINS}how (?:much|high)\b(?!.*\b(?:longer|later|earlier|older|younger)\b)",
    "person, place or time": rf"{_BEGINS}(?:who|whom|whose|where|how (?:old|often)"
    r"|wer|wem|wen|wo|wie (?:alt|oft)|qui\u00e9n|d\u00f3nde|qui|o\u00f9|chi|dove|quem"
    r"|onde|waar)\b",
    "size": rf"{_BEGINS}how (?:tall|far|deep|wide|heavy)\b",
    "thing": rf"{_BEGINS}(?:what|which|why|how|{_GERMAN}|welche\w*|warum|qu\u00e9|cu\u00e1l|que|quel\w*|che|quale|qual"
    r"|wat|welke|waarom|o que)\b",
}
"""How questions for a kind begin; the first that fits counts."""
_ASKS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _ASKED.items()}
_ASKS_FOR_SHARE = re.compile(
    rf"{PERCENT}|percentage|proportion|fraction|share|ratio|rate|chance|prob|anteil|quote|porcentaje|pourcentage|part\b",
    re.IGNORECASE,
)
_CANNOT_BE = {
    "days": {"share", "money", "duration", "measure", "yes or no"},
    "share": {"money", "duration", "measure", "yes or no"},
    "money": {"share", "duration", "measure", "yes or no"},
    "duration": {"share", "money", "measure", "yes or no"},
    "count": {"share", "money", "yes or no"},
    "date": {"share", "money", "measure", "yes or no"},
    "amount": {"yes or no"},
    "person, place or time": {"share", "money", "measure", "yes or no"},
    "size": {"share", "money", "yes or no"},
    "thing": {"yes or no"},
}
"""By what is asked for: kinds that are another."""
_BARE = re.compile(rf"\W*{_NUMBER}\W*", re.IGNORECASE)
_MOST_PERCENT = 100.0
_THOUSANDS = re.compile(r"\d{1,3}(?:[.,]\d{3})+(?![.,]?\d)(?!\s*b\.?c)", re.IGNORECASE)
_NAMED = 2
"""Words behind "how many", and behind a number, that may say what is counted."""
_NEAR = 60
"""Characters in which they stand."""
_SHORT = 6
"""Words; what has more may say yes or no, or how much, in words of its own."""


def is_of_kind_asked(question: str, reply: str) -> bool:
    """Return whether a reply can answer a question of its kind: a bare percentage is no count, a length no price.

    Args:
        question: What was asked.
        reply: What was answered; of one with words of its own it is not known which kind it is.
    """
    asked, said = _plain(question), _plain(reply)
    wanted = _kind_asked(asked)
    if not content_words(said):
        return True
    if wanted == "yes or no":
        return len(said.split()) > _SHORT or bool(_SAID["yes or no"].search(said))
    if wanted == "date" and _THOUSANDS.search(said) and not any(_SAID[k].search(said) for k in ("date", "duration")):
        return False
    if _BARE.fullmatch(said) and (wanted == "days" or (wanted == "share" and _is_large(said))):
        return False
    return not any(_is_wholly(kind, said, asked) for kind in _CANNOT_BE.get(wanted, ()))


def spans_of_kind_asked(question: str, text: str, *, loosely: bool = False) -> list[tuple[int, int]]:
    """Return where a text says something of the kind that a question asks for, `[start, end)`.

    Args:
        question: What was asked.
        text: Where the spans are; none if the kind has no form, or is not known.
        loosely: Any number may be a count; else only one of what is asked for, rooms where it is asked how many rooms.
    """
    asked = _plain(question)
    kind = _kind_asked(asked)
    pattern = _FORMS.get(kind)
    spans = [match.span() for match in pattern.finditer(text)] if pattern else []
    if kind != "count" or loosely:
        return spans
    counted = _first_stems(_ASKS["count"].split(asked, maxsplit=1)[-1])
    return [(start, end) for start, end in spans if counted & _first_stems(text[end : end + _NEAR])]


def amounts(text: str) -> list[str]:
    """Return what a text says with a unit, a currency or a percent sign, in order."""
    return [match[0] for match in _FORMS["amount"].finditer(text)]


def is_yes_or_no_asked(question: str) -> bool:
    """Return whether a question is to be answered by yes or no."""
    return _kind_asked(_plain(question)) == "yes or no"


def _kind_asked(question: str) -> str:
    """Return which kind a question asks for; empty if that is not known."""
    if _ASKS["share"].search(question):
        return "share"
    if _ASKS_FOR_SHARE.search(question) and not _ASKS["yes or no"].search(question):
        return ""
    return next((kind for kind, pattern in _ASKS.items() if pattern.search(question)), "")


def _is_wholly(kind: str, reply: str, question: str) -> bool:
    """Return whether a reply is of a kind and says nothing else that the question does not say."""
    rest, count = _SAID[kind].subn(" ", reply)
    return bool(count) and not content_words(rest) - content_words(question)


def _is_large(number: str) -> bool:
    """Return whether a number, in digits, is more than all percent of something."""
    digits = re.sub(r"\D*(\d+)\D.*|\D", r"\1", number)
    return bool(_THOUSANDS.search(number)) or (digits.isdecimal() and float(digits) > _MOST_PERCENT)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _first_stems(text: str) -> set[str]:
    return stems(" ".join(text.split(maxsplit=_NAMED)[:_NAMED]))
