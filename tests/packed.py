"""Pages of reports, unpacked: what they hold compressed, a browser shows as if it stood in them."""

from __future__ import annotations

import base64
import gzip
import re


def unpacked(text: str) -> str:
    """The page with what it holds compressed in its place, as its script shows it."""
    pattern = r'<script type="application/gzip" class="packed">([^<]*)</script>'
    return re.sub(pattern, lambda match: gzip.decompress(base64.b64decode(match[1])).decode(), text)
