"""Promise S11: which pages may connect and write, and which names may reach us."""

from __future__ import annotations

import pytest

from tachograph.agent.access import is_local_host, is_origin_allowed

ALLOWED = ("https://panel.example:8443", "http://wall.example")


@pytest.mark.parametrize(
    ("origins", "host"),
    [
        ([], "127.0.0.1:19797"),
        (["http://127.0.0.1:19797"], "127.0.0.1:19797"),
        (["http://localhost:19797"], "localhost:19797"),
        (["http://LOCALHOST:19797"], "localhost:19797"),
        (["http://[::1]:19797"], "[::1]:19797"),
        (["https://box.example"], "box.example"),  # TLS ends in a proxy
        (["https://box.example"], "box.example:443"),
        (["http://box.example"], "box.example:80"),
        (["https://panel.example:8443"], "127.0.0.1:19797"),
        (["http://wall.example"], "127.0.0.1:19797"),
        (["http://wall.example:80"], "127.0.0.1:19797"),
    ],
)
def test_our_own_pages_allowed_pages_and_programs_may_connect(origins, host):
    assert is_origin_allowed(origins, host, ALLOWED)


@pytest.mark.parametrize(
    ("origins", "host"),
    [
        (["http://evil.example"], "127.0.0.1:19797"),
        (["http://127.0.0.1:8080"], "127.0.0.1:19797"),  # another server on this machine
        (["http://localhost:19797"], "127.0.0.1:19797"),
        (["http://127.0.0.1.evil.example:19797"], "127.0.0.1:19797"),
        (["http://127.0.0.1:19797@evil.example"], "127.0.0.1:19797"),
        (["http://evil.example/127.0.0.1:19797"], "127.0.0.1:19797"),
        (["https://panel.example"], "127.0.0.1:19797"),  # another port than allowed
        (["http://panel.example:8443"], "127.0.0.1:19797"),  # another scheme
        (["https://sub.wall.example"], "127.0.0.1:19797"),
        (["null"], "127.0.0.1:19797"),
        ([""], "127.0.0.1:19797"),
        (["file://"], "127.0.0.1:19797"),
        (["chrome-extension://abcdef"], "127.0.0.1:19797"),
        (["http://[::1"], "[::1"),
        (["http://a:b"], "a:b"),
        (["http://127.0.0.1:19797", "http://evil.example"], "127.0.0.1:19797"),
        (["http://127.0.0.1:19797"], ""),
    ],
)
def test_other_pages_may_not_connect(origins, host):
    assert not is_origin_allowed(origins, host, ALLOWED)


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:19797", "LOCALHOST:1", "app.localhost:19797", "127.0.0.1",
        "127.0.0.1:19797", "127.8.9.1:80", "[::1]", "[::1]:19797", "box.lan:19797", "BOX.lan",
    ],
)  # fmt: skip
def test_names_of_this_machine_pass(host):
    assert is_local_host(host, ["box.lan"])


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "evil.example:19797", "localhost.evil.example",
        "127.0.0.1.evil.example", "192.168.1.5:19797", "0.0.0.0:19797", "[::]:19797", "2130706433",
        "box.lan.evil.example", "notlocalhost", "127.0.0.1:x", "a@localhost",
        "localhost/path", "[::ffff:10.0.0.1]",
    ],
)  # fmt: skip
def test_other_names_are_dns_rebinding(host):
    assert not is_local_host(host, ["box.lan"])
