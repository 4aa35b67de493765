"""Personal words of a header, and texts without them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

from nnunet_ext.dicom.headers import Header
from nnunet_ext.dicom.model import Patient
from nnunet_ext.messages import english_texts

#: Shorter numbers in a message are a count, a size or a case's number, even if they are someone's ID.
LEAST_DIGITS_OF_AN_ID = 6
_DATE = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d[-/. ]?(?:0[1-9]|1[0-2])[-/. ]?(?:0[1-9]|[12]\d|3[01])|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)\d\d)"
    r"(?!\d)|(?:19|20)\d\d年(?:\d{1,2}月)?(?:\d{1,2}[日号])?"
)


def patient_of(header: Header) -> Patient:
    """The patient that a header names."""
    patient_id, name = header.text("PatientID"), header.text("PatientName")
    key = patient_id or name or header.text("StudyInstanceUID")
    return Patient(key, patient_id, name, header.text("PatientBirthDate"))


def personal_words(header: Header, patient: Patient) -> frozenset[str]:
    """The patient's names and numbers, whole and in parts, which no message may hold."""
    words = {patient.patient_id, header.text("OtherPatientIDs"), header.text("AccessionNumber"), patient.birth_date}
    words |= {header.text("StudyID"), patient.name}
    words |= set(re.split(r"[\^=\s,._-]+", patient.name)) | set(re.split(r"[\s^/\\]+", patient.patient_id))
    return frozenset(w for w in (word.strip() for word in words) if len(w) >= 2 or (w and not w.isascii()))


def without_personal(text: str, words: Iterable[str], *, short: bool = False) -> str:
    """Text with personal words replaced by `***`.

    Args:
        text: A text of a header, or a sentence of ours in which such texts are clean already.
        words: The patient's names and numbers.
        short: For a text of a header, in which every such word goes, also within others, and every date. Without, for a
            sentence of ours, only whole words that are none of our own go. A patient called Series, CT or 001 must not
            black out a remedy such as `[case_001] T1 = NUMBER`.
    """
    for word in sorted(words, key=len, reverse=True):
        if not short and _is_our_own(word):
            continue
        # Chinese has no blanks between words; two Latin letters in a row stand in many.
        within = not word.isascii() or (short and len(word) > 2)
        pattern = re.escape(word) if within else rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"
        text = re.sub(pattern, "***", text, flags=re.IGNORECASE)
    return _DATE.sub("***", text) if short else text


def _is_our_own(word: str) -> bool:
    """Whether a sentence of ours may hold a word, which stands in our code or is a number of a few digits."""
    parts = re.findall(r"[^\W\d_]+|\d+", word.casefold())
    return all(len(part) < LEAST_DIGITS_OF_AN_ID if part.isdecimal() else part in _own_words() for part in parts)


@functools.cache
def _own_words() -> frozenset[str]:
    """Every word of this package's code and messages. Its options, file names and channels are among them."""
    words: set[str] = set()
    for file in Path(__file__).parents[1].rglob("*.py"):
        words.update(re.findall(r"[^\W\d_]+", file.read_text(encoding="utf-8").casefold()))
    for text in english_texts():
        words.update(re.findall(r"[^\W\d_]+", text.casefold()))
    return frozenset(words)
