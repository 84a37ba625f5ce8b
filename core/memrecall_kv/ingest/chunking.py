"""A document's text in chunks that end where a reader would pause.

Every chunk fits its token budget when it is tokenised alone. Chunks end at a paragraph, else a
sentence, else a line, else a word, if one ends in the second half of what fits; else between two
grapheme clusters (user-perceived characters). The text is tokenised in windows a little longer than
a chunk, so the work grows with the length of the text, not with the length of its lines.

A document's heading counts in each of its chunks, of which it takes half at most.

The budget wins over the rest: a grapheme cluster longer than a chunk is cut between code points, and
a run of whitespace longer than a chunk gets chunks of its own. Otherwise no chunk is blank.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from memrecall_kv.config import ChunkingConfig
from memrecall_kv.errors import InputError
from memrecall_kv.ingest.heading import TokenSpans, behind, shortened
from memrecall_kv.types import Chunk, Document

_CLOSING = "\"'”’»›)\\]}」』）】》〉〕］｝"
_PAUSES = (
    re.compile(r"\n[^\S\n]*+\n|\u2029"),  # paragraph
    # the look-behind keeps a long row of full stops from being tried again from each of them
    re.compile(rf"(?<![.!?…؟۔।॥])[.!?…؟۔।॥]++[{_CLOSING}]*+(?=\s+[^\sa-z])|[。！？｡]++[{_CLOSING}]*+"),  # sentence
    re.compile(r"\n|\u2028"),  # line
    re.compile(r"\S(?=\s)"),  # word
)
_HEADING_SHARE = 0.5
"""Share of a chunk's tokens that a heading may take."""
_LOOKAHEAD = 64
"""Characters after the budget's end that decide whether something ends before it."""
_SPACE = re.compile(r"\s*")
_WORD_START = re.compile(r"(?<=\s)\S")
_REGIONAL = range(0x1F1E6, 0x1F200)
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_HALFWIDTH_VOICING = range(0xFF9E, 0xFFA0)
_EXTENDING_LETTERS = "\u0e33\u0eb3"  # am, Thai and Lao
_PREPENDED = re.compile(
    r"[\u0d4e\U000111c2-\U000111c3\U000113d1\U0001193f\U00011941\U00011a84-\U00011a89\U00011d46\U00011f02]"
)
_HANGUL_LEADS = (range(0x1100, 0x1160), range(0xA960, 0xA980))
_HANGUL_FOLLOWERS = (range(0x1160, 0x1200), range(0xD7B0, 0xD800))


def chunk_document(document: Document, token_spans: TokenSpans, config: ChunkingConfig) -> list[Chunk]:
    """Return the chunks of a document, in order.

    Without overlap the chunks tile the text: joined, they are the text. With overlap every chunk starts
    inside the one before, unless that one's last character leaves no room for anything new.

    Args:
        document: What to cut.
        token_spans: The backbone's tokenizer.
        config: Budget and overlap, in tokens.

    Raises:
        InputError: If the text is blank, holds half a surrogate pair, or one character of it takes more
            tokens than a chunk may have.
    """
    text = document.text
    _refuse_unusable(document)
    heading = shortened(document.heading, token_spans, int(_HEADING_SHARE * config.chunk_tokens))
    headed = behind(heading, token_spans)
    # as much of the text as without a heading: an overlap longer than what is left would never move on
    overlap = config.overlap_tokens * (config.chunk_tokens - len(headed(""))) // config.chunk_tokens
    cutter = _Cutter(text, headed, config.chunk_tokens, len(text.rstrip()))
    chunks: list[Chunk] = []
    end = 0
    while end < len(text):
        starts = _starts(chunks, text, token_spans, overlap)
        for start, blank in [*((start, False) for start in starts), (end, True)]:
            cut = cutter.cut(start, end, blank=blank)
            if cut is not None:
                break
        else:
            raise InputError(
                f"Document {document.id!r}: expected at most {config.chunk_tokens} tokens in a chunk, got more in "
                f"the single character at {end}.",
                "Raise chunk_tokens.",
            )
        end, num_tokens = cut
        chunks.append(Chunk(document.id, len(chunks), start, end, text[start:end], num_tokens, heading))
    return chunks


@dataclass
class _Cutter:
    """Finds where chunks end.

    Attributes:
        text: The whole text.
        token_spans: The tokenizer.
        budget: Tokens of a chunk at most.
        content_end: Where the text's trailing whitespace begins.
        window: Characters to tokenise for the next chunk; follows the text's density.
    """

    text: str
    token_spans: TokenSpans
    budget: int
    content_end: int
    window: int = 0

    def cut(self, start: int, done: int, *, blank: bool = False) -> tuple[int, int] | None:
        """Return the end of the chunk at `start` and its tokens, or None if it would hold nothing new.

        Args:
            start: Where the chunk begins.
            done: Where the chunk before ended, at or after `start`.
            blank: Whether the chunk, or all that comes after it, may be whitespace.
        """
        limit, num_tokens = self._limit(start)
        if limit == len(self.text):
            return limit, num_tokens
        while limit > done:
            end = self._best_end(done, limit, blank=blank)
            if end is None:
                return None
            spans = self.token_spans(self.text[start:end])
            if len(spans) <= self.budget:
                return end, len(spans)
            # alone, a text may tokenise a little differently than in front of what follows it
            limit = min(start + spans[self.budget][0], end - 1)
        return None

    def _limit(self, start: int) -> tuple[int, int]:
        """Return the last place where a chunk at `start` may end, and its tokens if that is the text's end."""
        window = self.window or 5 * self.budget
        while True:
            spans = self.token_spans(self.text[start : start + window])
            if len(spans) > self.budget:
                # where the first token that is too many starts, so that no character is split between tokens
                fits = spans[self.budget][0]
                self.window = fits + fits // 4 + _LOOKAHEAD
                return start + fits, self.budget
            if start + window >= len(self.text):
                return len(self.text), len(spans)
            window *= 2

    def _best_end(self, done: int, limit: int, *, blank: bool) -> int | None:
        """Return the best place to end in `(done, limit]`, with something to read before and after it."""
        last = min(limit, self.content_end - 1)
        first = _skip_spaces(self.text, done, limit) + 1
        halfway = max(first, done + (limit - done + 1) // 2)
        for low in (halfway, first):
            end = _pause(self.text, low, last, done) or _cluster_end(self.text, low, last, done)
            if end:
                return end
        if first <= last:
            return last
        return limit if blank else None


def _refuse_unusable(document: Document) -> None:
    if not document.text or document.text.isspace():
        raise InputError(
            f"Document {document.id!r}: expected text, got {'whitespace' if document.text else 'nothing'}.",
            "Leave empty documents out.",
        )
    try:
        (document.text + document.heading.judged + document.heading.read).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"Document {document.id!r}: expected Unicode text, got half a surrogate pair at character {error.start}.",
            'Repair it with text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").',
        ) from error


def _starts(chunks: list[Chunk], text: str, token_spans: TokenSpans, overlap: int) -> Iterator[int]:
    """Yield where the next chunk may start, best first: with the overlap asked for, one character of it, none."""
    if chunks and overlap and chunks[-1].num_tokens > 1:
        before = chunks[-1]
        spans = token_spans(before.text)
        wanted = before.start + max(1, spans[max(len(spans) - overlap, 1) - 1][1])
        word = _WORD_START.search(text, wanted, (wanted + before.end) // 2)
        places = range(word.start() if word else wanted, before.end)
        yield from islice((place for place in places if _is_boundary(text, place, before.start)), 1)
        places = range(before.end - 1, before.start, -1)
        yield from islice((place for place in places if _is_boundary(text, place, before.start)), 1)
    yield chunks[-1].end if chunks else 0


def _pause(text: str, low: int, high: int, origin: int) -> int | None:
    """Return where the best pause in `[low, high]` ends, the whitespace after it included."""
    for pattern in _PAUSES:
        found = [match.end() for match in pattern.finditer(text, max(low - 1, 0), high + _LOOKAHEAD)]
        for end in reversed(found):
            if end <= high:
                spaced = _skip_spaces(text, end, high)
                if low <= spaced and _is_boundary(text, spaced, origin):
                    return spaced
    return None


def _skip_spaces(text: str, place: int, end: int) -> int:
    found = _SPACE.match(text, place, end)
    return found.end() if found else place


def _cluster_end(text: str, low: int, high: int, origin: int) -> int | None:
    """Return the last end of a grapheme cluster in `[low, high]`."""
    return next((place for place in range(high, low - 1, -1) if _is_boundary(text, place, origin)), None)


def _is_boundary(text: str, place: int, origin: int) -> bool:
    """Return whether no grapheme cluster goes on across a place inside the text.

    Args:
        text: The text.
        place: Between the characters at `place - 1` and `place`.
        origin: A boundary before it, from where flags are paired; without it a long row of them would be
            walked through again and again.

    Source:
        Unicode Standard Annex #29. Deviation: the rules are coarser, as the standard library's tables are, and err
        towards "no boundary".
    """
    if place <= origin:
        return True
    before, after = text[place - 1], text[place]
    if after.isascii() and before.isascii():
        return (before, after) != ("\r", "\n")
    if _extends(after) or _joins_next(before):
        return False
    if ord(before) in _REGIONAL and ord(after) in _REGIONAL:
        flags = place - 1
        while flags > origin and ord(text[flags - 1]) in _REGIONAL:
            flags -= 1
        return (place - flags) % 2 == 0
    marks = place - 1
    while marks >= origin and _extends(text[marks]):
        if unicodedata.combining(text[marks]) == 9:  # a virama joins the consonants around it
            return False
        marks -= 1
    return True


def _joins_next(character: str) -> bool:
    """Return whether a character's cluster takes in the character after it."""
    code = ord(character)
    return (
        unicodedata.category(character) == "Cf"
        or any(code in leads for leads in _HANGUL_LEADS)
        or _PREPENDED.match(character) is not None
    )


def _extends(character: str) -> bool:
    """Return whether a character belongs to the cluster of the one before it."""
    code = ord(character)
    return (
        unicodedata.category(character) in {"Mn", "Mc", "Me", "Cf"}
        or character in _EXTENDING_LETTERS
        or code in _SKIN_TONES
        or code in _HALFWIDTH_VOICING
        or any(code in followers for followers in _HANGUL_FOLLOWERS)
    )
