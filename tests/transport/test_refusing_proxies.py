"""Proxies that refuse, and proxies that are no address: told once, with the cure."""

from __future__ import annotations

import pytest

from groq_queue.cli import main
from groq_queue.errors import APIConnectionError, ConfigurationError
from groq_queue.transport import PooledTransport

from .conftest import Opener
from .raw_server import Peer, RawServer

FAR = "https://api.example.test/openai/v1"
CALM = (5.0, 5.0)


def refused_with(open_transport: Opener, monkeypatch, status: str) -> APIConnectionError:
    def handler(peer: Peer):
        peer.read_request()
        peer.answer(b"", status)

    with RawServer(handler) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:hidden@127.0.0.1:{proxy.port}")
        with pytest.raises(APIConnectionError) as caught:
            open_transport(FAR).send("chat/completions", b"{}", timeout=CALM)
    return caught.value


@pytest.mark.parametrize(
    ("status", "cure"),
    [
        ("407 Proxy Authentication Required", "user name and password"),
        ("403 Forbidden", "NO_PROXY"),
        ("404 Not Found", "NO_PROXY"),
        ("405 Method Not Allowed", "NO_PROXY"),
    ],
)
def test_a_proxy_that_forbids_the_tunnel_is_asked_once(open_transport: Opener, monkeypatch, status: str, cure: str):
    error = refused_with(open_transport, monkeypatch, status)

    assert ("no", True) == (error.sent, error.is_final)
    assert status[:3] in str(error)
    assert cure in str(error)
    assert "hidden" not in str(error)


@pytest.mark.parametrize("status", ["408 Request Timeout", "429 Too Many Requests", "502 Bad Gateway", "503 Busy"])
def test_a_proxy_that_is_busy_may_be_asked_again(open_transport: Opener, monkeypatch, status: str):
    error = refused_with(open_transport, monkeypatch, status)

    assert ("no", False) == (error.sent, error.is_final)


MALFORMED = ["http://[::1", "http://", "http://host:99999", "http://host:port", "http://user:hidden@", "http://a b:1"]


@pytest.mark.parametrize("address", MALFORMED)
def test_a_proxy_that_is_no_address_is_an_error_of_configuration(key, monkeypatch, address: str):
    monkeypatch.setenv("HTTPS_PROXY", address)

    with pytest.raises(ConfigurationError, match="http://host:port") as caught:
        PooledTransport(FAR, key)

    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("address", MALFORMED)
def test_a_session_with_a_proxy_that_is_no_address_fails_once(open_session: Opener, monkeypatch, address: str):
    monkeypatch.setenv("HTTPS_PROXY", address)

    with pytest.raises(APIConnectionError) as caught:
        open_session(FAR).send("chat/completions", b"{}", timeout=(0.2, 0.2))

    assert ("no", True) == (caught.value.sent, caught.value.is_final)
    assert "hidden" not in str(caught.value)


def test_doctor_tells_of_a_proxy_that_is_no_address(monkeypatch, capsys):
    monkeypatch.setenv("HTTPS_PROXY", "http://[::1")
    monkeypatch.setenv("GROQ_API_KEY", "gsk_" + "x" * 52)

    code = main(["doctor", "--base-url", FAR])

    told = capsys.readouterr()
    assert 3 == code
    assert "is not an address" in told.out + told.err
    assert "Traceback" not in told.err
