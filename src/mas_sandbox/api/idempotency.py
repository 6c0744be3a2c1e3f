"""What an idempotency key may be: one rule for who sends a key and for who takes it."""

from __future__ import annotations

MAX_KEY = 255
KEY = f"1 to {MAX_KEY} printable ASCII characters, such as a UUID"


def is_key(text: str) -> bool:
    """
    >>> is_key("8e03978e-40d5-43dd-bc93-6894a57f9324"), is_key("")
    (True, False)
    """
    return 1 <= len(text) <= MAX_KEY and text.isascii() and text.isprintable()
