"""Whether a text repeats a name or an identifier: the last net, for texts that no table lists."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Traces", "traces_of"]

WHOLE_WORD = 4
"""A shorter part in ASCII counts only as a word of its own: anywhere else it is there by chance."""
SHORTEST_WORD = 2
SEPARATORS = re.compile(r"[\^\s,;\\/'\[\]()]+")
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
"""How people write them where a keyboard has none; `_folded` writes them without their dots."""
WORDS = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Traces:
    """Parts of a patient's names and identifiers, folded as `_folded` does.

    Attributes:
        parts: Found anywhere in a text.
        words: Found as a word.
    """

    parts: frozenset[str]
    words: frozenset[str]

    def in_text(self, text: str, *, term: bool = False) -> bool:
        """Tell whether a text repeats one of them.

        Args:
            text: Any.
            term: Whether it is one of the standard's short terms (VR CS), which short names equal by chance: ``SE``, ``MR``.
        """
        folded = _folded(text)
        if any(part in folded for part in self.parts):
            return True
        return not term and not self.words.isdisjoint(WORDS.findall(folded))


def traces_of(values: Iterable[str]) -> Traces:
    """Take names (``Family^Given=漢字^…``, PS3.5 6.2.1.2) and identifiers apart.

    Parts without ASCII letters count from one letter on, for their scripts write names without spaces; the parts of a name also
    count run together.
    """
    parts: set[str] = set()
    words: set[str] = set()
    for value in values:
        lower = value.casefold()
        for group in {*lower.split("="), *lower.translate(UMLAUTS).split("=")}:
            found = [part for part in SEPARATORS.split(_folded(group)) if part]
            pieces = [piece for part in found for piece in WORDS.findall(part)]
            whole = {"".join(some) for many in (found, pieces) for some in (many, many[::-1]) if len(many) > 1}
            for part in (*found, *pieces, *whole):
                if not part.isascii() or len(part) >= WHOLE_WORD:
                    parts.add(part)
                elif len(part) >= SHORTEST_WORD:
                    words.add(part)
    return Traces(frozenset(parts), frozenset(words))


def _folded(text: str) -> str:
    """Return a text without case, accents and differences of width: ``MÜLLER`` is ``muller``."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", "".join(letter for letter in apart if not unicodedata.combining(letter)))
