"""The gateway can't be used to reach or explore a network that the client can't see."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from testkit import plain
from testkit.images import GREEN_STAR, png
from testkit.servers import free_port
from tests.gateway.stand_in import StandIn
from tests.security.conftest import ALLOWED, PARAM, Names, chat, gateway, problem
from tests.security.elsewhere import Elsewhere, answer, elsewhere, redirect

CHAT = "/v1/chat/completions"
IMAGE = png(GREEN_STAR)

# PORT is that of a server that counts its connections.
ATTACKS = [
    "http://127.0.0.1:PORT/x", "http://127.0.0.2:PORT/x", "http://127.255.255.254:PORT/x",
    "http://localhost:PORT/x", "http://LOCALHOST:PORT/x", "http://localhost.:PORT/x",
    "http://127.1:PORT/x", "http://127.0.1:PORT/x", "http://2130706433:PORT/x",
    "http://0x7f000001:PORT/x", "http://0x7f.0.0.1:PORT/x", "http://0177.0.0.1:PORT/x",
    "http://017700000001:PORT/x", "http://127.0.0.1.:PORT/x", "http://0:PORT/x",
    "http://0.0.0.0:PORT/x", "http://[::]:PORT/x", "http://[::1]:PORT/x", "http://[0:0:0:0:0:0:0:1]:PORT/x",
    "http://[::ffff:127.0.0.1]:PORT/x", "http://[::ffff:7f00:1]:PORT/x", "http://[::127.0.0.1]:PORT/x",
    "http://[64:ff9b::7f00:1]:PORT/x", "http://[2002:7f00:1::]:PORT/x", "http://[::1%25lo]:PORT/x",
    "http://１２７.０.０.１:PORT/x", "http://127。0。0。1:PORT/x", "http://①②⑦.0.0.1:PORT/x",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:PORT/x", "http://%31%32%37.0.0.1:PORT/x",
    "http://127.0.0.1%00.example.org:PORT/x",
    "http://user@127.0.0.1:PORT/x", "http://example.org@127.0.0.1:PORT/x",
    "http://user:word@example.org:PORT/x", "http://127.0.0.1:PORT@example.org/x",
    "http://example.org\\@127.0.0.1:PORT/x", "http://127.0.0.1:PORT\\@example.org/x",
    "http://example.org /@127.0.0.1:PORT/x", "http:///127.0.0.1:PORT/x", "http:127.0.0.1:PORT/x",
    "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/", "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/", "http://[fe80::1]/",
    "http://metadata.google.internal/computeMetadata/v1/", "http://inside.test:PORT/x",
    "http://inside6.test:PORT/x", "http://both.test:PORT/x", "http://nowhere.test/x",
    "file:///etc/passwd", "file://localhost/etc/passwd", "ftp://127.0.0.1:PORT/x",
    "gopher://127.0.0.1:PORT/_x", "dict://127.0.0.1:PORT/x", "jar:http://127.0.0.1:PORT/x!/",
    "javascript:alert(1)", "unix:/run/docker.sock", "//127.0.0.1:PORT/x", "/etc/passwd",
    "../../etc/passwd", "C:\\Windows\\win.ini", "data:text/plain,http://127.0.0.1:PORT/x",
    "http://", "https://", "http://127.0.0.1:0/", "http://127.0.0.1:99999/",
    "http://127.0.0.1:PORT/x\r\nX-Injected: 1", "http://127.0.0.1:PORT/x\x00",
    "http://" + "a" * 9000 + "/", "http://" + "a." * 200 + "test/", "ＨＴＴＰ://127.0.0.1:PORT/x",
]  # fmt: skip
INSIDE = {
    "localhost": [["127.0.0.1", "::1"]],
    "localhost.": [["127.0.0.1"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "inside.test": [["127.0.0.1"]],
    "inside6.test": [["::1"]],
    "both.test": [["93.184.215.14", "127.0.0.1"]],
}


def test_private_addresses_are_not_reached_in_any_spelling(
    public: httpx.Client, manager: StandIn, names: Names, there: Elsewhere, subtests: pytest.Subtests
) -> None:
    for attack in ATTACKS:
        with subtests.test(ascii(attack)[:50]):
            names.known.update(INSIDE)
            url = attack.replace("PORT", str(there.port))
            error = problem(public.post(CHAT, json=chat(url)))
            assert error["param"] == PARAM
            assert error["source"] == "gateway"
            assert there.connections == 0
            assert manager.received == []


def test_blocked_closed_and_unknown_hosts_return_the_same_error(
    public: httpx.Client, client: httpx.Client, names: Names, there: Elsewhere
) -> None:
    names.known.update({"private.test": [["192.168.1.1"]], "closed.test": [["127.0.0.1"]]})
    names.known["odd.test"] = [["127.0.0.1"]]
    there.pages["/ssh"] = b"SSH-2.0-OpenSSH_9.6\r\n"

    def error_of(http: httpx.Client, host: str, rest: str) -> str:
        error = problem(http.post(CHAT, json=chat(f"http://{host}{rest}")))
        return str(error["message"]).replace(host, "HOST") + str(error["code"])

    expected = error_of(public, "unknown.test", "/")
    assert "images.fetch_allow" in expected
    assert error_of(public, "private.test", "/") == expected
    assert error_of(public, "127.0.0.1", f":{there.port}/") == expected  # a server listens
    assert error_of(public, "127.0.0.1", f":{free_port()}/") == expected  # no server
    assert error_of(client, "closed.test", f":{free_port()}/") == expected  # allowed, no server
    assert error_of(client, "odd.test", f":{there.port}/ssh") == expected  # not a web server


# --- names --------------------------------------------------------------------------------------------


def test_a_name_is_resolved_once_and_the_checked_address_is_used(
    client: httpx.Client, names: Names, there: Elsewhere
) -> None:
    """DNS rebinding: the second answer would be the internal address."""
    there.pages["/x"] = answer(IMAGE)
    names.known["rebind.test"] = [["127.0.0.1"], ["127.0.0.2"]]
    assert client.post(CHAT, json=chat(there.url("/x", "rebind.test"))).status_code == 200
    assert names.asked == ["rebind.test"]
    assert there.connections == 1
    assert f"Host: rebind.test:{there.port}\r\n".lower().encode() in there.heads[0].lower()


@pytest.mark.parametrize("bad", ["127.0.0.2", "10.0.0.1", "::1", "fd00:ec2::254"])
def test_one_blocked_address_blocks_the_name(
    client: httpx.Client, names: Names, there: Elsewhere, bad: str
) -> None:
    for order in (["127.0.0.1", bad], [bad, "127.0.0.1"]):
        names.known["mixed.test"] = [order]
        assert problem(client.post(CHAT, json=chat(there.url("/x", "mixed.test"))))["param"] == PARAM
    assert there.connections == 0


def test_a_server_is_found_at_any_of_its_addresses(tmp_path: Path, manager_url: str) -> None:
    names = Names({"two.test": [["127.0.0.9", "127.0.0.1"]]})
    with elsewhere() as there, gateway(tmp_path, manager_url, "images: {fetch: any}\n", names) as http:
        there.pages["/x"] = answer(IMAGE)
        assert http.post(CHAT, json=chat(there.url("/x", "two.test"))).status_code == 200


# --- redirects ----------------------------------------------------------------------------------------

INWARDS = [
    "http://127.0.0.2:PORT/x", "http://[::1]:PORT/x", "http://inside.test:PORT/x",
    "http://169.254.169.254/latest/", "//127.0.0.2:PORT/x", "http://user@127.0.0.1:PORT/x",
    "file:///etc/passwd", "ftp://127.0.0.1:PORT/x", "http://2130706434:PORT/x",
    "data:image/png;base64,AAAA", "http://[::1", "http://", "",
]  # fmt: skip
_REDIRECTS = ("301 Moved", "302 Found", "303 See Other", "307 X", "308 Y")


def test_redirects_follow_the_rules_of_urls(
    client: httpx.Client, manager: StandIn, names: Names, there: Elsewhere, subtests: pytest.Subtests
) -> None:
    for status, where in itertools.product(_REDIRECTS, INWARDS):
        with subtests.test(where, status=status):
            names.known["inside.test"] = [["127.0.0.2"]]
            there.heads.clear()
            there.pages["/r"] = redirect(where.replace("PORT", str(there.port)), status)
            there.pages["/x"] = answer(IMAGE)
            assert problem(client.post(CHAT, json=chat(there.url("/r"))))["param"] == PARAM
            assert set(there.paths) == {"/r"}
            assert manager.received == []


def test_a_name_in_a_redirect_is_resolved_and_checked_again(
    client: httpx.Client, names: Names, there: Elsewhere
) -> None:
    names.known["turn.test"] = [["127.0.0.1"], ["127.0.0.2"]]
    there.pages["/r"] = redirect("/x")
    there.pages["/x"] = answer(IMAGE)
    problem(client.post(CHAT, json=chat(there.url("/r", "turn.test"))))
    assert names.asked == ["turn.test"] * 2
    assert there.paths == ["/r"]


def test_three_redirects_are_followed_and_a_fourth_is_not(
    client: httpx.Client, there: Elsewhere
) -> None:
    for step in range(4):
        there.pages[f"/{step}"] = redirect(f"/{step + 1}")
    there.pages["/4"] = answer(IMAGE)
    assert client.post(CHAT, json=chat(there.url("/1"))).status_code == 200
    there.heads.clear()
    error = problem(client.post(CHAT, json=chat(there.url("/0"))))
    assert "more than 3 times" in error["message"]
    assert there.paths == ["/0", "/1", "/2", "/3"]


def test_a_loop_ends(client: httpx.Client, there: Elsewhere) -> None:
    there.pages["/loop"] = redirect("/loop")
    assert "more than 3 times" in problem(client.post(CHAT, json=chat(there.url("/loop"))))["message"]
    assert there.paths == ["/loop"] * 4


# --- what is sent ------------------------------------------------------------------------------------


def test_client_headers_are_not_sent_and_cookies_are_dropped(
    client: httpx.Client, there: Elsewhere
) -> None:
    there.pages["/r"] = redirect("/x", "302 Found", "Set-Cookie: id=1; Path=/")
    there.pages["/x"] = answer(IMAGE, "Set-Cookie: id=2; Path=/")
    headers = {
        "authorization": "Bearer s3cret",
        "x-api-key": "s3cret",
        "cookie": "a=s3cret",
        "x-own": "1",
    }
    for _ in range(2):
        sent = client.post(CHAT, json=chat(there.url("/r#part")), headers=headers)
        assert sent.status_code == 200
    for head in there.heads:
        names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line}
        assert names == {b"host", b"accept", b"accept-encoding", b"connection", b"user-agent"}
        assert b"s3cret" not in head
        assert b"accept-encoding: identity" in head.lower()


def test_a_proxy_of_the_environment_is_not_used(
    tmp_path: Path, manager_url: str, there: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    with elsewhere() as proxy:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        there.pages["/x"] = answer(IMAGE)
        with gateway(tmp_path, manager_url, ALLOWED, Names()) as http:
            direct = plain.Client(base_url=http.base_url, trust_env=False, timeout=20)
            with direct:
                assert direct.post(CHAT, json=chat(there.url("/x"))).status_code == 200
    assert (there.connections, proxy.connections) == (1, 0)


# --- certificates -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for camera.test and 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "camera.test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("camera.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


def test_the_certificate_is_verified_for_the_name(
    tmp_path: Path, manager_url: str, certificate: Path
) -> None:
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate)
    asked: list[str | None] = []
    own.sni_callback = lambda _socket, name, _context: asked.append(name)
    trusted = ssl.create_default_context(cafile=certificate)
    names = Names({"camera.test": [["127.0.0.1"]], "other.test": [["127.0.0.1"]]})
    with (
        elsewhere(tls=own) as there,
        gateway(tmp_path, manager_url, ALLOWED, names, tls=trusted) as http,
    ):
        there.pages["/x"] = answer(IMAGE)
        for host, status in {"camera.test": 200, "127.0.0.1": 200, "other.test": 400}.items():
            sent = http.post(CHAT, json=chat(there.url("/x", host, "https")))
            assert sent.status_code == status, sent.text
    assert [name for name in asked if name] == ["camera.test", "other.test"]
    assert there.connections == 2
    with elsewhere(tls=own) as there, gateway(tmp_path, manager_url, ALLOWED, names) as http:
        error = problem(http.post(CHAT, json=chat(there.url("/x", "camera.test", "https"))))
        assert there.connections == 0, error  # the issuer is not trusted
