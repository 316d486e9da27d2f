"""Proxies named by the environment."""

from __future__ import annotations

import base64
import select
import socket
import ssl
from urllib.parse import urlsplit

import certifi
import pytest

from groq_queue.errors import APIConnectionError, ConfigurationError
from groq_queue.transport import PooledTransport, Secret
from groq_queue.transport.pooled import environment_proxy, tls_context

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


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://h.test/v1", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://h.test/v1", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://h.test/v1", None),
        ({"HTTPS_PROXY": "HTTPS://p:1"}, "https://h.test/v1", "HTTPS://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "https://h.test/v1", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "https://h.test/v1", "http://p:1"),
        ({"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://p:1"}, "https://h.test/v1", "http://p:1"),
        ({"HTTPS_PROXY": ""}, "https://h.test/v1", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "h.test"}, "https://h.test/v1", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "h.test:443"}, "https://h.test/v1", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "h.test:8443"}, "https://h.test/v1", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://h.test/v1", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://127.0.0.1/v1", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://[::1]/v1", None),
    ],
)
def test_the_environment_names_the_proxy(monkeypatch, environment: dict[str, str], url: str, proxy: str | None):
    """
    That of the scheme, or the one of all schemes; none for whom NO_PROXY names, and never for this machine.
    """
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert proxy == environment_proxy(urlsplit(url))


@pytest.mark.parametrize(
    ("user", "credentials"),
    [("", None), ("user@", "user:"), ("user:@", "user:"), ("us%40er:p%3Ass@", "us@er:p:ss"), (":word@", ":word")],
)
def test_a_proxy_gets_the_credentials_of_its_address(open_pooled: Opener, monkeypatch, user: str, credentials):
    """
    Unquoted, also a user without password; none if it names none.
    """
    with RawServer(Peer.serve) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{user}127.0.0.1:{proxy.port}")
        open_pooled(FAR).send(PATH, b"{}", timeout=CALM)
        (request,) = proxy.requests

    expected = None if credentials is None else "Basic " + base64.b64encode(credentials.encode()).decode()
    assert expected == request.headers.get("proxy-authorization")


def test_a_proxy_may_be_reached_over_tls(open_pooled: Opener, monkeypatch, server_tls, certificate):
    """
    Plain http travels encrypted as far as there, with the whole address; its certificate is checked.
    """
    with RawServer(lambda peer: peer.serve(b"proxied"), server_tls) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"https://127.0.0.1:{proxy.port}")
        with pytest.raises(APIConnectionError, match="does not verify") as caught:
            open_pooled(FAR).send(PATH, b"{}", timeout=CALM)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        reply = open_pooled(FAR).send(PATH, b"{}", timeout=CALM)
        (request,) = proxy.requests

    assert ("no", True) == (caught.value.sent, caught.value.is_final)
    assert f"proxy 127.0.0.1:{proxy.port}" in str(caught.value)
    assert b"proxied" == reply.body
    assert f"POST {FAR}/{PATH} HTTP/1.1" == request.line


def test_certificates_come_from_the_system_or_else_with_requests(monkeypatch):
    """
    Some Pythons find none of the system's.
    """
    loaded = []
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda self, *args, **kwargs: loaded.append(args))
    none, file, folder = (
        ssl.DefaultVerifyPaths(cafile, capath, "E", "e", "E", "e")
        for cafile, capath in ((None, None), ("/f", None), (None, "/d"))
    )
    counts = []
    for paths in (none, file, folder):
        loaded.clear()
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda paths=paths: paths)
        context = tls_context()
        counts.append(loaded.count((certifi.where(),)))
        assert (ssl.CERT_REQUIRED, True) == (context.verify_mode, context.check_hostname)

    assert [1, 0, 0] == counts


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
