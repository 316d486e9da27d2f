"""Which base URLs are accepted, and what they become."""

from __future__ import annotations

import pytest

from groq_queue.errors import ConfigurationError
from groq_queue.transport import resolve_base_url


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("https://api.groq.com", "https://api.groq.com/openai/v1"),
        ("https://api.groq.com/", "https://api.groq.com/openai/v1"),
        ("https://api.groq.com/openai/v1/", "https://api.groq.com/openai/v1"),
        ("HTTPS://API.Groq.com:8443/v1", "https://api.groq.com:8443/v1"),
        ("http://localhost:8000", "http://localhost:8000/openai/v1"),
        ("http://127.9.9.9:1/x", "http://127.9.9.9:1/x"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
    ],
)
def test_an_address_is_completed(given: str, resolved: str):
    """
    No path means the service's own; a path is kept; resolving twice changes nothing.
    """
    assert resolved == resolve_base_url(given)
    assert resolved == resolve_base_url(resolved)


@pytest.mark.parametrize(
    "given",
    [
        5,
        None,
        "",
        "x",
        "api.groq.com",
        "ftp://h",
        "https://",
        "https:///v1",
        "https://h:port",
        "https://h:99999",
        "https://[::1",
        "https://h/v1?x=1",
        "https://h/v1?",
        "https://h/v1#x",
        "https://h/v 1",
        "https://h/v1\n",
        "https://h\\@evil/",
        "https://höst/",
        "http://api.groq.com",
        "http://10.0.0.1",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://0.0.0.0",
    ],
)
def test_a_bad_address_is_refused_by_name(given):
    """
    The message starts with the field and says what to write.
    """
    with pytest.raises(ConfigurationError) as caught:
        resolve_base_url(given)

    assert str(caught.value).startswith("base_url")


def test_http_to_another_machine_must_be_asked_for():
    """
    allow_http=True accepts that key and prompts travel in clear.
    """
    assert "http://10.0.0.1/v1" == resolve_base_url("http://10.0.0.1/v1", allow_http=True)


@pytest.mark.parametrize("given", ["https://me:hidden@h/v1", "ftp://h/?key=hidden", "ftp://me:hidden@h", "me:hidden@h"])
def test_a_refused_address_does_not_give_credentials_away(given: str):
    """
    Neither user information nor a query is repeated.
    """
    with pytest.raises(ConfigurationError) as caught:
        resolve_base_url(given)

    assert "hidden" not in str(caught.value)
