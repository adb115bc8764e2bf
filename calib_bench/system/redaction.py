"""Keeping secrets out of what is written: credentials in addresses, and the values of secret variables."""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "***"
SHORTEST = 8
"""Characters of a variable's value from which it counts as a secret: a shorter one would blot out common words."""
_NAME = r"(?:token|key|secret|passw(?:or)?d|credentials?|signature|sig|auth)"
_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^\s/@'\"<>]+@")
_QUERY = re.compile(rf"(?P<name>[?&;](?:[\w.-]*[_.-])?{_NAME}=)[^&\s'\"<>#]+", re.IGNORECASE)
_VARIABLE = re.compile(rf"(?:^|_){_NAME}s?(?:_ID)?$", re.IGNORECASE)


def redact(text: str) -> str:
    """The text without user names and passwords in addresses, secret query values, and secrets of the environment.

    >>> redact("s3://AKIA:hush@bucket/runs?versionId=3&X-Amz-Signature=abc")
    's3://***@bucket/runs?versionId=3&X-Amz-Signature=***'
    """
    text = _USER.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _QUERY.sub(rf"\g<name>{HIDDEN}", text)
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return text


def redacted(value: Any) -> Any:
    """A JSON value with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: redacted(item) for name, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value


def _secrets() -> list[str]:
    """Values of the environment's secret variables, longest first."""
    secrets = {value for name, value in os.environ.items() if _VARIABLE.search(name) and len(value) >= SHORTEST}
    return sorted(secrets, key=len, reverse=True)
