"""Proxies named by the environment."""

from __future__ import annotations

import base64
import select
import socket

import pytest

from groq_queue.errors import APIConnectionError, ConfigurationError
from groq_queue.transport import PooledTransport, Secret

from .conftest import KEY, Opener, timer_alarm
from .raw_server import Peer, RawServer

PATH = "chat/completions"
CALM = (5.0, 5.0)
FAR = "http://api.example.test/openai/v1"  # resolves nowhere: only a proxy can answer for it


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_an_address_is_reached_through_the_proxy_of_its_scheme(open_transport: Opener, monkeypatch, name: str):
    """
    The proxy gets the whole address and its own credentials.
    """
    with RawServer(lambda peer: peer.serve(b"proxied")) as proxy:
        monkeypatch.setenv(name, f"http://user:p%40ss@127.0.0.1:{proxy.port}")
        transport = open_transport(FAR, alarm=timer_alarm)
        bodies = [transport.send(PATH, b"{}", timeout=CALM).body for _ in range(2)]
        request = proxy.requests[0]

        assert [b"proxied"] * 2 == bodies
        assert "POST http://api.example.test/openai/v1/chat/completions HTTP/1.1" == request.line
        assert "Basic " + base64.b64encode(b"user:p@ss").decode() == request.headers["proxy-authorization"]
        assert "api.example.test" == request.headers["host"]
        assert 1 == proxy.connections


def test_no_proxy_is_honoured(open_transport: Opener, monkeypatch):
    """
    The address is then looked up directly, in vain.
    """

    def no_such_name(*args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with RawServer(Peer.serve) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "other.test,.example.test")
        monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
        with pytest.raises(APIConnectionError) as caught:
            open_transport(FAR).send(PATH, b"{}", timeout=CALM)

        assert "api.example.test" in str(caught.value)
        assert 0 == proxy.connections


def test_loopback_is_never_proxied(open_transport: Opener, monkeypatch):
    """
    To a proxy 127.0.0.1 is itself, and it would see the key.
    """
    with RawServer(Peer.serve) as server, RawServer(Peer.serve) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        open_transport(server.url).send(PATH, b"{}", timeout=CALM)

        assert 1 == len(server.requests)
        assert 0 == proxy.connections


def test_a_dead_proxy_is_named_and_nothing_was_sent(open_transport: Opener, monkeypatch):
    """
    The user must learn that it is the proxy, not the API, that does not answer.
    """
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://user:hidden@127.0.0.1:{port}")

    with pytest.raises(APIConnectionError) as caught:
        open_transport(FAR).send(PATH, b"{}", timeout=CALM)

    assert "no" == caught.value.sent
    assert f"proxy 127.0.0.1:{port}" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_proxy_that_refuses_the_tunnel_never_sees_the_key(open_transport: Opener, monkeypatch):
    """
    For https the proxy is asked to CONNECT; its refusal means that nothing was sent.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer(b"", "407 Proxy Authentication Required")

    with RawServer(handler) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:pass@127.0.0.1:{proxy.port}")
        with pytest.raises(APIConnectionError) as caught:
            open_transport(FAR.replace("http:", "https:")).send(PATH, b"{}", timeout=CALM)
        (request,) = proxy.requests

        assert "no" == caught.value.sent
        assert "407" in str(caught.value)
        assert request.line.startswith("CONNECT api.example.test:443 HTTP/1.")
        assert "Basic " + base64.b64encode(b"user:pass").decode() == request.headers["proxy-authorization"]
        assert "authorization" not in request.headers


def test_an_answer_comes_through_a_tunnel_verified_and_kept(
    open_transport: Opener, monkeypatch, server_tls, certificate
):
    """
    TLS ends at the API, not at the proxy; one tunnel carries many requests.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with RawServer(lambda peer: peer.serve(b"tunnelled"), server_tls) as server:

        def tunnel(peer: Peer):
            peer.read_request()
            with socket.create_connection(("127.0.0.1", server.port), 5) as upstream:
                peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                ends = {peer.sock: upstream, upstream: peer.sock}
                while not peer.server.is_closing.is_set():
                    for end in select.select(list(ends), [], [], 0.1)[0]:
                        if not (piece := end.recv(65_536)):
                            return
                        ends[end].sendall(piece)

        with RawServer(tunnel) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.port}")
            transport = open_transport(FAR.replace("http:", "https:"), alarm=timer_alarm)
            bodies = [transport.send(PATH, b"{}", timeout=CALM).body for _ in range(3)]

            assert [b"tunnelled"] * 3 == bodies
            assert 1 == proxy.connections
            assert KEY in server.requests[0].headers["authorization"]
            assert "api.example.test" == server.requests[0].headers["host"]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://", "http://h:port", "http://ü:ü€@h"])
def test_an_unusable_proxy_is_told_when_the_transport_is_built(monkeypatch, proxy: str):
    """
    Not at the first of ten thousand requests.
    """
    monkeypatch.setenv("HTTPS_PROXY", proxy)

    with pytest.raises(ConfigurationError, match="proxy"):
        PooledTransport("https://api.example.test/openai/v1", Secret(KEY))


def test_the_proxys_password_is_in_no_attribute(monkeypatch):
    """
    vars() of a transport, two levels deep, shows neither password nor key.
    """
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hidden-password@127.0.0.1:1")

    transport = PooledTransport("https://api.example.test/openai/v1", Secret(KEY))

    assert "hidden-password" not in repr(vars(transport))
    assert base64.b64encode(b"user:hidden-password").decode() not in repr(vars(transport))
    assert KEY not in repr(vars(transport)) + repr(transport)
