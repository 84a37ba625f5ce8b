"""Bytes of a text file -> its text, and a note where the encoding had to be guessed."""

from __future__ import annotations

import codecs
import re

from memrecall_kv.errors import InputError
from memrecall_kv.ingest.text import optional

_BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SIGNATURES = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf",
    b"Rar!", b"\x7fELF", b"MZ\x90", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"SQLite format 3\0", b"RIFF", b"OggS",
    b"ID3", b"\xd0\xcf\x11\xe0", b"\0asm", b"\x28\xb5\x2f\xfd", b"wOFF", b"wOF2", b"%!PS-AdobeFont",
)  # fmt: skip
"""How files of well-known kinds begin that are no text."""
_CONTROLS = bytes(code for code in range(32) if chr(code) not in "\b\t\n\v\f\r\x1b") + b"\x7f"
_BINARY_SHARE = 0.05
"""Share of control characters from which a file is no longer taken for text; of random bytes it is a tenth."""
_SAMPLE = 64 * 1024
_DECLARED = re.compile(rb"(?:charset|coding)\s*[=:]\s*[\"']?\s*([\w.:-]+)")
_COMMON = (
    "cp1252 cp1250 cp1253 cp1251 cp932 euc_jp gb18030 big5 cp949 koi8_r koi8_u cp1254 cp1255 cp1256 cp1257 cp1258 "
    "cp874 iso8859_2 iso8859_5 iso8859_7 iso8859_15 cp850 cp437 cp852 cp866 mac_roman"
).split()
"""What files are found in, the likelier first where a text could be in several; the rest would win by chance."""
_CENTRAL_EUROPE = b"\x8a\x8e\x9a\x9e"
"""The letters s and z with a caron, in both cp1250 and cp1252; hardly a Western language has them."""
_TIE = 0.05
"""Differences of charset-normalizer's measures that say nothing."""
_EVERYWHERE = frozenset(" \t\r\n0123456789.,、。，．")


def refuse_unknown_encoding(encoding: str | None) -> None:
    """Check the name of an encoding.

    Raises:
        InputError: If nobody knows it.
    """
    if encoding is not None and not _is_known(encoding):
        raise InputError(
            f"Expected the name of an encoding, got {encoding!r}.", "Use a name such as utf-8, cp1252 or shift_jis."
        )


def decode(data: bytes, path: str, encoding: str | None) -> tuple[str, str]:
    """Return a file's text without its byte-order mark, and a note if the encoding is a guess.

    Tried are, in this order: what the caller says, a byte-order mark, UTF-16 and UTF-32 without one, UTF-8, what
    the file itself declares, UTF-8 with a few damaged bytes, and a guess among the encodings of the world.

    Raises:
        InputError: If it is binary, or not in the encoding the caller says.
        MissingDependencyError: If it has to be guessed and what guesses is not installed.
    """
    if encoding:
        return _as_told(data, path, encoding), ""
    marked = next((name for mark, name in _BOMS if data.startswith(mark)), None)
    if marked:
        return _without_nul(data.decode(marked, errors="replace").removeprefix("\ufeff"), "")
    unmarked = _wide(data)
    if unmarked:
        return _without_nul(data.decode(unmarked), f"read as {unmarked}, by its pattern of bytes")
    if is_binary(data):
        raise InputError(f"{path}: expected text, got binary data{_first_nul(data)}.", "Convert it to text first.")
    return _without_nul(*_narrow(data, path))


def is_binary(data: bytes) -> bool:
    """Return whether a file is no text in any encoding, as far as its beginning tells."""
    if _wide(data[:_SAMPLE]):
        return False
    sample = data[:_SAMPLE]
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    return data.startswith(_SIGNATURES) or controls > max(2, _BINARY_SHARE * len(sample)) or 0 < len(sample) == controls


def _as_told(data: bytes, path: str, encoding: str) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected text in {encoding}, got another encoding "
            f"(byte {error.start} is 0x{data[error.start]:02x}).",
            "Leave --encoding (encoding= in Python) out to have it guessed, or name the right one.",
        ) from error


def _wide(data: bytes) -> str | None:
    """Return the encoding of text in units of two or four bytes without a byte-order mark.

    Its line ends, spaces and digits have bytes of zero, which stand all at odd or all at even places.
    """
    sample = data[: _SAMPLE // 4 * 4]
    if len(sample) < 2 or b"\0" not in sample:
        return None
    wide = ("utf-32-le", "utf-32-be") if len(data) % 4 == 0 else ()
    # text in single bytes has more spaces than zeros
    double = () if len(data) % 2 or sample.count(b" ") > 1 + 2 * sample.count(0) else ("utf-16-le", "utf-16-be")
    found = {name: _evidence(sample, name, final=len(sample) == len(data)) for name in (*wide, *double)}
    best = max(found, key=lambda name: found[name], default="")
    return best if best and found[best] > 0 else None


def _evidence(sample: bytes, name: str, *, final: bool) -> int:
    """Return how many characters speak for an encoding: those of all languages, or of ASCII if most are."""
    if not _decodes(sample, name, final=final):
        return 0
    text = sample.decode(name, errors="ignore")
    plain = sum("\0" < character < "\x80" for character in text)
    common = plain if 2 * plain > len(text) else sum(character in _EVERYWHERE for character in text)
    odd = sum(not (character.isprintable() or character in "\t\n\r\f\v\0\ufeff") for character in text)
    odd += text.count("\0") * (2 * text.count("\0") > len(text))
    return common if common * 100 >= len(text) and odd * 50 <= len(text) else 0


def _narrow(data: bytes, path: str) -> tuple[str, str]:
    if b"\x1b$" in data and _decodes(data, "iso2022_jp"):
        return data.decode("iso2022_jp"), "read as iso2022_jp, by its escape sequences"
    try:
        return data.decode(), ""
    except UnicodeDecodeError:
        pass
    declared = _DECLARED.search(data[:1024])
    name = _browsers_name(declared[1].decode("ascii", errors="replace")) if declared else ""
    lie = f"it says {declared[1].decode('ascii', errors='replace')}, " if declared else ""
    if name and _is_known(name) and _decodes(data, name):
        return data.decode(name), ""
    repaired = data.decode(errors="replace")
    damaged = repaired.count("\ufffd")
    if damaged * 10 <= sum(ord(character) > 127 for character in repaired) - damaged:
        return repaired, f"{lie}read as utf-8 with {damaged} damaged characters replaced"
    return _guess(data, path, lie)


def _guess(data: bytes, path: str, lie: str) -> tuple[str, str]:
    matches = optional("charset_normalizer", path).from_bytes(data, cp_isolation=_COMMON)
    likely = [
        name
        for match in matches
        if match.chaos <= matches[0].chaos + _TIE / 2 and match.coherence >= matches[0].coherence - _TIE
        for name in match.could_be_from_charset
    ]
    likely = [name for name in ("cp932", "euc_jp") if _has_kana(data, name)] or likely
    if likely:
        central = any(byte in data for byte in _CENTRAL_EUROPE)
        best = min(likely, key=lambda name: (central and name == "cp1252", _COMMON.index(name)))
        return data.decode(best, errors="replace"), f"{lie}encoding guessed: {best}"
    if sum(byte < 128 for byte in data[:_SAMPLE]) < 0.7 * len(data[:_SAMPLE]):
        raise InputError(
            f"{path}: expected text, got binary data or text in another encoding nobody can guess.",
            "Name the encoding with --encoding on the command line, or encoding= in Python.",
        )
    return data.decode("cp1252", errors="replace"), f"{lie}encoding guessed: cp1252, damaged characters replaced"


def _has_kana(data: bytes, name: str) -> bool:
    """Return whether a text is Japanese in an encoding: no other text has so many of its syllables by chance."""
    if not _decodes(data, name):
        return False
    foreign = [character for character in data[:_SAMPLE].decode(name, errors="ignore") if character > "\x7f"]
    return sum("\u3040" < character < "\u3100" for character in foreign) > 0.2 * len(foreign)


def _without_nul(text: str, note: str) -> tuple[str, str]:
    zeros = text.count("\0")
    if not zeros:
        return text, note
    return text.replace("\0", "\ufffd"), "; ".join(filter(None, [note, f"{zeros} NUL characters replaced"]))


def _first_nul(data: bytes) -> str:
    return f" (a NUL at byte {data.index(0)})" if b"\0" in data else ""


def _browsers_name(declared: str) -> str:
    """Return what browsers take for what a page says: nobody means the control characters of Latin-1."""
    known = {"iso-8859-1": "cp1252", "latin-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252"}
    return {**known, "shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030"}.get(declared.lower(), declared)


def _decodes(data: bytes, encoding: str, *, final: bool = True) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(data, final)
    except (UnicodeError, ValueError):
        return False
    return True


def _is_known(encoding: str) -> bool:
    try:
        return bool(encoding) and codecs.lookup(encoding)._is_text_encoding
    except (LookupError, ValueError):
        return False
