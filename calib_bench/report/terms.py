"""The glossary on a page: a term is explained where it is used first, in headings, and in a list of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from calib_bench.analysis.format import title
from calib_bench.report.glossary import GLOSSARY

if TYPE_CHECKING:
    from markupsafe import Markup

_LONGEST_FIRST = sorted(GLOSSARY, key=len, reverse=True)
_TERM = re.compile(rf"(?<![\w/]|=)({'|'.join(title(term) for term in _LONGEST_FIRST)})(?![\w=])", re.IGNORECASE)
_KEYS = {title(term).lower(): term for term in GLOSSARY}


class Terms:
    """The terms of one page.

    Attributes:
        used: those that the page has used so far, with their sentences, in order of use.
    """

    def __init__(self) -> None:
        self.used: dict[str, str] = {}

    def linked(self, text: str) -> Markup:
        """A text as markup in which every term that is new to the page links to its sentence, which hovering shows."""
        from markupsafe import Markup, escape

        parts = _TERM.split(text)  # terms stand at odd places
        return Markup("").join(self._link(part) if i % 2 else escape(part) for i, part in enumerate(parts))

    def hint(self, column: str) -> str:
        """What a column's heading means, as far as it is made of terms."""
        keys = dict.fromkeys(_KEYS[match.lower()] for match in _TERM.findall(title(column)))
        self.used |= {key: GLOSSARY[key] for key in keys}
        return " ".join(f"{title(key)}: {GLOSSARY[key]}" for key in keys)

    def _link(self, word: str) -> Markup:
        from markupsafe import Markup, escape

        key = _KEYS[word.lower()]
        if key in self.used:
            return escape(word)
        self.used[key] = GLOSSARY[key]
        link = Markup('<a class="term" href="#word-{}" title="{}">{}</a>')
        return link.format(key, GLOSSARY[key], word)
