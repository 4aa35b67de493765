"""Text of DICOM headers, decoded from its bytes, also if the stated character set is missing or wrong.

Planning systems and archives write Chinese names in UTF-8, GB 18030 and GB 2312 under any character set. Some write the
escape sequences of ISO 2022 (PS3.5 6.1.2.5), which pydicom leaves in the text for GB 2312.
"""

from __future__ import annotations

import re
import warnings as python_warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@contextmanager
def tolerant_dicom() -> Iterator[None]:
    """Read DICOM files whose values break the standard (UUIDs in dates), and keep their values out of warnings."""
    import pydicom.config

    before = pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            yield
    finally:
        pydicom.config.settings.reading_validation_mode = before


#: Characters that pad values. The standard has blanks, some systems have NUL.
_PADDING = " \t\r\n\x00"
#: An escape sequence of ISO 2022 has intermediate bytes and then a final byte.
_ESCAPE_SEQUENCE = re.compile("\x1b[\x20-\x2f]*[\x30-\x7e]?")
#: After these escape sequences no delimiter ends the set. The bytes mean nothing else, and systems forget to repeat it.
_KEPT_AFTER_DELIMITERS = {b"\x1b$)A": "gb18030", b"\x1b$)C": "euc_kr"}
#: Line ends and the delimiters of a person's name put the stated character set back.
_DELIMITERS = re.compile(rb"(?=[\r\n\t\f^=])")
_SINGLE_BYTE_LATIN = {"iso8859", "latin_1"}
_MULTI_BYTE = {"iso_ir_58": "gb18030", "GB2312": "gb18030", "GBK": "gb18030", "GB18030": "gb18030", "euc_kr": "euc_kr"}
#: GB 2312 text that was read as Latin-1. The pairs begin with the byte of a common character, and no Western word does.
_GB2312_AS_LATIN = re.compile("(?:[\x00-\x7f]|[\xb0-\xd7][\xa1-\xfe])+")


def decode_text(raw: bytes, charsets: Sequence[str]) -> str:
    """Text of a value.

    Args:
        raw: The bytes of the value.
        charsets: The values of SpecificCharacterSet. Empty if the file has none.
    """
    from pydicom.charset import convert_encodings

    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii").strip(_PADDING)
    with tolerant_dicom():
        stated = convert_encodings(list(charsets)) if any(charsets) else []
    if b"\x1b" in raw:
        first = stated[0] if stated else "latin_1"
        parts = re.findall(rb"^[^\x1b]+|\x1b[^\x1b]*", raw)
        return "".join(_decode_part(part, first) for part in parts).strip(_PADDING)
    for encoding in _likely(raw, stated):
        try:
            return raw.decode(encoding).strip(_PADDING)
        except (UnicodeDecodeError, LookupError):
            continue
    return raw.decode("latin-1").strip(_PADDING)


def _likely(raw: bytes, stated: Sequence[str]) -> list[str]:
    """Encodings to try, the likeliest first."""
    latin_or_utf_8 = not stated or stated[0] in _SINGLE_BYTE_LATIN or stated[0].upper() == "UTF8"
    multi_byte = [_MULTI_BYTE[encoding] for encoding in stated if encoding in _MULTI_BYTE]
    likely = ["utf-8"] if _is_utf_8(raw, any_character=latin_or_utf_8 and not multi_byte) else []
    likely += multi_byte
    if not stated:
        likely.append("gb18030")
    elif latin_or_utf_8 and _GB2312_AS_LATIN.fullmatch(raw.decode("latin-1")):
        likely.append("gb2312")
    return likely + list(stated[:1])


def _is_utf_8(raw: bytes, *, any_character: bool) -> bool:
    """Whether bytes are UTF-8.

    Short texts of other sets look like it by chance, but not in characters of three bytes.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return any_character or all(letter.isascii() or letter >= "\u0800" for letter in text)


def _decode_part(part: bytes, first: str) -> str:
    """A piece of text up to the next escape sequence. `first` is the encoding without one."""
    from pydicom.charset import CODES_TO_ENCODINGS, handled_encodings

    code = next((code for code in CODES_TO_ENCODINGS if part.startswith(code)), b"")
    if code in _KEPT_AFTER_DELIMITERS:
        text = part[len(code) :].decode(_KEPT_AFTER_DELIMITERS[code], errors="replace")
    elif CODES_TO_ENCODINGS.get(code) in handled_encodings:  # Python's codec takes the escape sequence itself
        text = part.decode(CODES_TO_ENCODINGS[code], errors="replace")
    else:
        until, *rest = _DELIMITERS.split(part[len(code) :], maxsplit=1)
        text = until.decode(CODES_TO_ENCODINGS.get(code, first), errors="replace")
        text += "".join(more.decode(first, errors="replace") for more in rest)
    return _ESCAPE_SEQUENCE.sub("", text)


def element_text(dataset: Dataset, key: str | int, charsets: Sequence[str] | None = None) -> str:
    """Text of one element, all its values with backslashes between. Empty if it is missing or no text.

    Args:
        dataset: pydicom's, or an item of a sequence.
        key: Keyword or tag of an element whose text depends on the character set.
        charsets: Of the file, for an item of a sequence that states none itself.
    """
    element = dataset.get_item(key) if key in dataset else None
    if element is None or element.value is None:
        return ""
    own = stated_charsets(dataset)
    charsets = own if own or charsets is None else charsets
    value = element.value
    value = getattr(value, "original_string", value)  # a person's name keeps its bytes
    if isinstance(value, bytes):
        return decode_text(value, charsets)
    if not isinstance(value, (str, int, float)) and hasattr(value, "__iter__"):
        return "\\".join(_decoded_again(str(one), charsets) for one in value)
    return _decoded_again(str(value), charsets)


def stated_charsets(dataset: Dataset | dict[str, Any]) -> list[str]:
    """The values of SpecificCharacterSet. Empty if there is none."""
    value = dataset.get("SpecificCharacterSet")
    return [value] if isinstance(value, str) and value else [str(one) for one in value or ()]


def readable_text(value: object, dataset: Dataset | dict[str, Any]) -> str:
    """As `decode_text`, for a value that pydicom has decoded, by the character set that `dataset` states."""
    return _decoded_again(str(value or ""), stated_charsets(dataset))


def _decoded_again(text: str, charsets: Sequence[str]) -> str:
    try:
        return decode_text(text.encode("latin-1"), charsets)
    except UnicodeEncodeError:
        return _ESCAPE_SEQUENCE.sub("", text).strip(_PADDING)
