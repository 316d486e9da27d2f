"""Which base URLs are accepted, and what they become."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from groq_queue.errors import ConfigurationError
from groq_queue.transport import resolve_base_url
from groq_queue.transport.address import is_loopback, port_of


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
        ("https://api.groq.com.", "https://api.groq.com./openai/v1"),
        ("https://api.groq.com:/v1//", "https://api.groq.com/v1"),
        ("https://my_proxy-1:65535/v1", "https://my_proxy-1:65535/v1"),
        (f"https://{'a' * 63}.b/v1", f"https://{'a' * 63}.b/v1"),
        ("http://LOCALHOST/v1", "http://localhost/v1"),
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
        "http://[::2]/v1",
        "https://h:0/v1",
        "https://h:65536/v1",
        "https://h:-1/v1",
        "https://a..b/v1",
        "https://.b/v1",
        "https://b../v1",
        f"https://{'a' * 64}/v1",
        "https://a,b/v1",
        "https://h/v\u00001",
        "https://@h/v1",
    ],
)
def test_a_bad_address_is_refused_by_name(given):
    """
    The message starts with the field and says what to write.
    """
    with pytest.raises(ConfigurationError) as caught:
        resolve_base_url(given)

    assert str(caught.value).startswith("base_url")
    assert caught.value.__context__ is None  # urlsplit's own error may hold what must not be shown


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (5, "base_url must be a str, got int"),
        ("https://h/v 1", "base_url 'https://h/v 1' contains white space"),
        ("ftp://h/x", "base_url 'ftp://h/x' must start with https://"),
        ("api.groq.com", "base_url 'api.groq.com' must start with https://"),
        ("https:///v1", "base_url 'https:///v1' names no host"),
        ("https://h:port/v1", "base_url 'https://h:port/v1' has a malformed host or port"),
        ("https://h:0/v1", "base_url 'https://h:0/v1' has a malformed host or port"),
        ("https://a..b/v1", "base_url 'https://a..b/v1' has a malformed host or port"),
        ("https://me:hidden@h/v1", "base_url 'https://h/v1' carries a user name or password: pass the key as api_key"),
        ("https://h/v1?key=hidden", "base_url 'https://h/v1' has a query or fragment"),
        ("https://h/v1#hidden", "base_url 'https://h/v1' has a query or fragment"),
        ("http://10.0.0.1/v1", "base_url 'http://10.0.0.1/v1' would send the key in clear"),
    ],
)
def test_the_message_shows_the_address_and_what_is_wrong_with_it(given: object, told: str):
    """
    Without what may be secret.
    """
    with pytest.raises(ConfigurationError) as caught:
        resolve_base_url(given)

    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("128.0.0.1", False),
        ("::2", False),
        ("localhost.", False),
        ("api.groq.com", False),
        ("", False),
    ],
)
def test_this_machine_is_known_by_its_addresses(host: str, is_here: bool):
    """
    What only resolves to it may resolve to another tomorrow.
    """
    assert is_here is is_loopback(host)


@pytest.mark.parametrize(("url", "port"), [("http://h", 80), ("https://h", 443), ("http://h:443", 443)])
def test_a_port_that_is_not_named_is_the_schemes(url: str, port: int):
    """
    Else it is the one named.
    """
    assert port == port_of(urlsplit(url))


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
