"""Reading pages as a browser would: what elements there are, and what they say."""

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

from memrecall_kv.types import Answer, Chunk, Note, Recall, Stage, Step, Trace, Usage, WorkingMemory

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></script></title><h1 id=main>mine</h1>",
    "--><!-- <iframe srcdoc='<script>alert(1)</script>'>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)#0",
    "&lt;b&gt;&amp;",
    "invoice\u202efdp.exe\u2066",
    "\0\x1b[31m\x7f\x85\ud800",
    "Z" + "\u0301" * 500,
    "\u200f\u05d0\u05d1",
]
"""Texts that would do something if they were more than texts."""
ELEMENTS = frozenset(
    """html head meta title style body a header p h1 h2 h3 span sup nav ul ol li main section article div mark bdi
    figure figcaption svg rect line details summary table caption thead tbody tr th td dl dt dd script label input form
    select textarea button noscript q""".split()
)
ATTRIBUTES = frozenset(
    """lang charset http-equiv content name class href id dir aria-label aria-labelledby aria-hidden role tabindex scope
    viewbox width height x y x1 x2 y1 y2 preserveaspectratio focusable for type autocomplete spellcheck required hidden
    rows""".split()
)


class Page(HTMLParser):
    """A page that was read: its elements, and all its text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self._inside = [], "", ""
        self.code = {"style": "", "script": ""}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside in self.code:
            self.code[self._inside] += data
        else:
            self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def checked(html):
    """Return a page of which only what is ours is more than text, and that fetches nothing."""
    html.encode("utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    assert {name for _, attributes in page.elements for name in attributes} <= ATTRIBUTES
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z-]+\d*", each) for each in ids)
    # each link leads to a place on the page
    assert {link["href"][1:] for link in page.of("a") if "href" in link} <= set(ids)
    (policy,) = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for kind, code in page.code.items():
        if code:
            assert f"'sha256-{b64encode(sha256(code.encode()).digest()).decode()}'" in policy, kind
            assert not re.search(r"https?:|url\(|@import|innerHTML|insertAdjacentHTML|document\.write|eval", code)
    assert len(page.of("script")) == bool(page.code["script"])
    assert page.elements[0] == ("html", {"lang": "en"})
    return page


def chunk(doc_id="travel.md", index=0, text="Dana approves trips.", start=0):
    return Chunk(doc_id, index, start, start + len(text), text, 8)


def answer(*, text="Dana", question="Who approves trips?", looks=None, chunks=None, notes=None, **given):
    """Return an answer: its chunks were opened one after the other, each with a note of its own."""
    chunks = [chunk()] if chunks is None else chunks
    notes = [f"Note {number}." for number in range(len(chunks))] if notes is None else notes
    steps, known = [], WorkingMemory()
    for number, (each, note) in enumerate(zip(chunks, notes, strict=True)):
        known = WorkingMemory((*known.notes, Note(note, each.id))) if note else known
        steps.append(Step(number, each.id, 0.9, True, note, known if note else WorkingMemory()))
    looks = [{each.id: 0.9 for each in chunks}] if looks is None else looks
    usage = Usage(9, 12, len(chunks), 16, 120, 8, 64.0, 2.0, (Stage("judge", 1.5, 4096), Stage("answer", 0.25, 0)))
    evidence = tuple(Recall(each, 0.9, number, given.get("metadata", {})) for number, each in enumerate(chunks))
    return Answer(
        text,
        evidence,
        given.get("found", True),
        given.get("grounded", True),
        known,
        Trace(tuple(given.get("steps", steps)), tuple(looks), question, 0.5),
        usage,
        given.get("quotes", ()),
    )
