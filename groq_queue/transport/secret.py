"""The API key, held so that it cannot be printed by accident.

``repr``, ``str`` and ``vars`` show a mask, pickling is refused, comparison takes
constant time. The only way to the value is ``reveal``, called where the
request is built and nowhere else.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any, NoReturn
from urllib.parse import quote

from groq_queue.errors import ConfigurationError

_SHOWS_TAIL = 16  # characters from which four at the end may be shown
_IS_SECRET = 8  # shorter "keys" are placeholders; replacing them would maul innocent text


class Secret:
    """A string that shows itself only when asked.

    Args:
        value: Printable ASCII without white space.
        field: What error messages call it.

    Raises:
        ConfigurationError: *value* cannot be a key. Never repeats the value.
    """

    __slots__ = ("_fingerprint", "_mask", "_needles", "_value")

    def __init__(self, value: str, field: str = "api_key") -> None:
        _check(value, field)
        self._value = value
        self._fingerprint = hashlib.sha256(value.encode("ascii")).hexdigest()[:12]
        head = "gsk_" if value.startswith("gsk_") else ""
        self._mask = f"{head}…{value[-4:]}" if len(value) >= _SHOWS_TAIL else "…"
        self._needles = _spellings(value) if len(value) >= _IS_SECRET else ()

    def reveal(self) -> str:
        """Return the value itself. Do not keep it in a local variable of a frame that may raise."""
        return self._value

    def fingerprint(self) -> str:
        """Return 12 hex digits that tell this secret from others and give nothing away."""
        return self._fingerprint

    def redact(self, text: str) -> str:
        """Return *text* with the key, also percent-encoded or in base64, replaced by its mask."""
        for needle, _ in self._needles:
            if needle in text:
                text = text.replace(needle, self._mask)
        return text

    def redact_bytes(self, content: bytes) -> bytes:
        """Return *content*, the same object if the key is not in it, else masked as UTF-8."""
        for _, needle in self._needles:
            if needle in content:
                content = content.replace(needle, self._mask.encode())
        return content

    def __repr__(self) -> str:
        return self._mask

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("an API key is not pickled: let the other process read it from its own environment")


def _check(value: object, field: str) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(f"{field} must be a str, got {type(value).__name__}")
    if not value:
        raise ConfigurationError(f"{field} is empty: pass the key or leave the argument out")
    if any(c.isspace() for c in value):
        raise ConfigurationError(f"{field} contains white space, often a line break copied along: strip it")
    if not value.isascii():
        raise ConfigurationError(f"{field} contains characters outside ASCII: copy it again from the console")
    if not value.isprintable():
        raise ConfigurationError(f"{field} contains control characters: copy it again from the console")


def _spellings(value: str) -> tuple[tuple[str, bytes], ...]:
    """Return every form under which *value* may come back, most literal first.

    Inside a longer base64 text the digits of the key depend on its offset modulo
    three, and the digits at both ends mix in the neighbours; those are left out.
    """
    forms = [value, quote(value, safe="")]
    raw = value.encode("ascii")
    for offset, mixed in ((0, 0), (1, 2), (2, 3)):
        digits = base64.b64encode(b"\0" * offset + raw).decode("ascii")
        pure = digits[mixed : (offset + len(raw)) * 8 // 6]
        forms += [pure, pure.translate(str.maketrans("+/", "-_"))]
    return tuple((form, form.encode("ascii")) for form in dict.fromkeys(forms))
