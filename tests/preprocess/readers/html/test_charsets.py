"""Pages in the encodings of the Japanese web are read as a browser reads them, whatever their server says."""

import pytest

from preprocess.readers.html.charsets import decode_page

TEXT = "日本語の文章です。とても長い文を書きました。カタカナもあります。"


@pytest.mark.parametrize("codec", ["utf-8", "cp932", "euc_jp", "iso2022_jp", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("named", ["", "ISO-8859-1", "right"])
def test_a_page_that_does_not_say_its_encoding_is_read(codec: str, named: str) -> None:
    names = {"cp932": "Shift_JIS", "euc_jp": "x-euc-jp", "iso2022_jp": "ISO-2022-JP", "utf-8-sig": "utf-8", "utf-16": "utf-16"}
    assert decode_page(TEXT.encode(codec), names.get(codec, codec) if named == "right" else named) == TEXT


@pytest.mark.parametrize("codec, name", [("cp932", "shift_jis"), ("euc_jp", "EUC-JP"), ("utf-8", "UTF8")])
def test_a_page_may_name_its_encoding_itself(codec: str, name: str) -> None:
    for head in (f'<meta charset="{name}">', f'<meta http-equiv="Content-Type" content="text/html; charset={name}">'):
        assert decode_page((head + TEXT).encode(codec), "") == head + TEXT


def test_a_name_that_does_not_fit_is_not_believed() -> None:
    assert decode_page(TEXT.encode("cp932"), "utf-8") == TEXT
    assert decode_page(b"<meta charset=utf-16>" + TEXT.encode(), "no-such-charset") == "<meta charset=utf-16>" + TEXT


def in_euc(pair: bytes) -> bytes:
    """Two bytes of Shift_JIS as EUC-JP, by the arithmetic of JIS X 0208."""
    high, low = pair
    row = 2 * (high - (0x81 if high < 0xA0 else 0xC1)) + (low >= 0x9F)
    return bytes((row + 0xA1, (low - 0x9F if low >= 0x9F else low - 0x40 - (low > 0x7F)) + 0xA1))


def test_the_characters_of_nec_are_read_that_python_lacks() -> None:
    found = "①②㈱㌔㍻№髙"[:6]
    euc = b"".join(in_euc(character.encode("cp932")) for character in found)
    assert decode_page(TEXT.encode("euc_jp") + euc, "euc-jp") == TEXT + found
    jis = b"\x1b$B" + bytes(byte & 0x7F for byte in euc) + b"\x1b(B end\n"
    assert decode_page(jis, "iso-2022-jp") == found + " end\n"
    assert decode_page("髙﨑".encode("cp932"), "shift_jis") == "髙﨑"


def test_a_bad_byte_is_one_unknown_character_and_a_page_of_them_has_no_text() -> None:
    page = TEXT.encode() * 10
    found = decode_page(page[:99] + b"\xff" + page[99:], "utf-8")
    assert found is not None and found.count("\ufffd") == 1 and found.replace("\ufffd", "") == TEXT * 10
    assert decode_page(bytes(range(128, 256)) * 20, "utf-8") is None


def test_a_damaged_page_of_seven_bits_is_not_taken_for_ascii() -> None:
    page = TEXT.encode("iso2022_jp")
    assert decode_page(page.replace(b"\x1b$B", b"\x1b$(Q"), "iso-2022-jp") is None
    assert decode_page(b"\x1b(B" + TEXT.encode(), "") == "\x1b(B" + TEXT


@pytest.mark.parametrize("named", ["unicode_escape", "utf-7", "punycode", "idna", "hex", "undefined"])
def test_a_codec_of_python_that_no_browser_knows_is_not_used(named: str) -> None:
    assert decode_page((TEXT + r"+A \u3042").encode(), named) == TEXT + r"+A \u3042"
