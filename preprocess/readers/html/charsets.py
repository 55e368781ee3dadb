"""Decodes a web page: by its byte order mark, what its server says, what it says itself (<meta>), or what fits.

The names mean what they mean to a browser (WHATWG's encoding standard): Shift_JIS is Windows-31J, and EUC-JP and ISO-2022-JP hold the
characters of NEC's row 13 (①, ㈱), which Python's codecs of these names lack.
"""

import codecs
import re
from collections.abc import Iterator

MOST_UNKNOWN = 0.01
"""Share of the characters of a page that may be unreadable in the encoding that it names; from there on it is not in that encoding."""
_HEAD_BYTES = 4096
_META = re.compile(rb"<meta\b[^>]{0,1000}?\bcharset\s*=\s*[\"']?\s*([A-Za-z0-9_:.\-]{2,40})", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml\b[^>]{0,200}?\bencoding\s*=\s*[\"']([A-Za-z0-9_:.\-]{2,40})[\"']")
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_CODECS = {
    **dict.fromkeys(
        ("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j", "ms_kanji", "csshiftjis", "ms932", "cp932"), "cp932"
    ),
    **dict.fromkeys(("euc-jp", "eucjp", "x-euc-jp", "x-euc", "cseucpkdfmtjapanese", "eucjp-win", "eucjp-ms"), "euc-jp"),
    **dict.fromkeys(("iso-2022-jp", "csiso2022jp", "jis", "x-jis", "iso-2022-jp-ms"), "iso-2022-jp"),
    **dict.fromkeys(("iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii", "windows-1252", "iso8859-1", "l1"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "x-gbk", "gb18030"), "gb18030"),
    **dict.fromkeys(("utf8", "utf-8", "unicode-1-1-utf-8", "x-utf-8"), "utf-8"),
    **dict.fromkeys(("utf-16", "utf-16le", "unicode"), "utf-16-le"),
    "utf-16be": "utf-16-be",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
}
_PYTHONS_OWN = frozenset(("unicode_escape", "raw_unicode_escape", "utf_7", "punycode", "idna", "undefined", "charmap"))
"""Codecs that no browser knows: any page can be read as one of them, and hardly any is right."""
_ESCAPE = re.compile(rb"\x1b(\([BJI]|\$[@B]|\$\(D)")
_UNKNOWN = "\ufffd"


def decode_page(content: bytes, named: str = "") -> str | None:
    """Returns the text of a page; None if no encoding fits. A byte that cannot be read in an encoding that fits becomes U+FFFD.

    Args:
        content: the page.
        named: charset that the server names; empty: none.
    """
    for mark, codec in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(codec, "replace")
    tried: set[str] = set()
    best: tuple[float, str] | None = None
    for codec in _candidates(content, named):
        if codec in tried:
            continue
        tried.add(codec)
        text = _decoded(content, codec)
        if text is None:
            continue
        unknown = text.count(_UNKNOWN)
        if not unknown:
            return text
        share = unknown / len(text)
        if share <= MOST_UNKNOWN and (best is None or share < best[0]):
            best = share, text
    return None if best is None else best[1]


def _candidates(content: bytes, named: str) -> Iterator[str]:
    """Yields names of encodings, the likeliest first."""
    head = content[:_HEAD_BYTES]
    # Seven bits throughout, so it would pass for UTF-8.
    if _ESCAPE.search(content):
        yield "iso-2022-jp"
        if content.isascii():
            # A page that is damaged would be taken for ASCII, and its escape sequences for text.
            return
    found = _META.search(head) or _XML.search(head)
    meta = _codec(found[1].decode("ascii")) if found else ""
    # A page that can be read says in ASCII what it is: it is not UTF-16.
    said = [name for name in (_codec(named), "utf-8" if meta.startswith("utf-16") else meta) if name]
    # What every server says that nobody has set up; it fits any bytes.
    yield from (name for name in said if name != "cp1252")
    yield "utf-8"
    yield from _detected(content)
    yield from said


def _codec(name: str) -> str:
    """Returns Python's name of an encoding; empty: there is none."""
    name = name.strip().strip("\"'").lower()
    if name in _CODECS:
        return _CODECS[name]
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError):
        return ""
    # Some of Python's codecs are no encodings of text.
    return codec.name if codec._is_text_encoding and codec.name.replace("-", "_") not in _PYTHONS_OWN else ""


def _detected(content: bytes) -> Iterator[str]:
    from resiliparse.parse.encoding import detect_encoding

    if name := _codec(detect_encoding(content[: 2**18]) or ""):
        yield name
    yield from ("cp932", "euc-jp")


def _decoded(content: bytes, codec: str) -> str | None:
    try:
        if codec == "euc-jp":
            return content.decode("euc_jp", _NEC_IN_EUC)
        if codec == "iso-2022-jp":
            return _of_iso_2022_jp(content)
        return content.decode(codec, "replace")
    except (LookupError, UnicodeError, ValueError):
        return None


_NEC_IN_EUC = "nec-in-euc-jp"


def _of_nec(error: UnicodeError) -> tuple[str, int]:
    """Decodes two bytes of EUC-JP by the table of Windows-31J, where Python's codec has none."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    pair = error.object[error.start : error.start + 2]
    if len(pair) == 2 and all(0xA1 <= byte <= 0xFE for byte in pair):
        row, cell = pair[0] - 0xA1, pair[1] - 0xA1
        first = (row >> 1) + (0x81 if row < 62 else 0xC1)
        second = cell + 0x9F if row & 1 else cell + 0x40 + (cell >= 63)
        text = bytes((first, second)).decode("cp932", "replace")
        return (text if len(text) == 1 else _UNKNOWN), error.start + 2
    return _UNKNOWN, error.start + 1


codecs.register_error(_NEC_IN_EUC, _of_nec)


def _of_iso_2022_jp(content: bytes) -> str:
    """Decodes by escape sequences; a line's end is one back to ASCII, as mails have it."""
    texts: list[str] = []
    for line in content.split(b"\n"):
        mode, position = b"(B", 0
        for match in _ESCAPE.finditer(line):
            texts.append(_of_charset(line[position : match.start()], mode))
            mode, position = match[1], match.end()
        texts += [_of_charset(line[position:], mode), "\n"]
    return "".join(texts[:-1])


def _of_charset(part: bytes, mode: bytes) -> str:
    if mode in (b"$B", b"$@"):
        return bytes(byte | 0x80 for byte in part).decode("euc_jp", _NEC_IN_EUC)
    if mode == b"(I":
        return bytes(byte | 0x80 for byte in part).decode("cp932", "replace")
    if mode == b"$(D":
        return b"".join(b"\x8f" + bytes(byte | 0x80 for byte in part[at : at + 2]) for at in range(0, len(part), 2)).decode(
            "euc_jp", "replace"
        )
    # An escape that is none of these leads into a set that is not known here.
    return part.decode("ascii", "replace").replace("\x1b", _UNKNOWN)
