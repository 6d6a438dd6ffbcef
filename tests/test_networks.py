"""What `--net` and `--publish` may say."""

import pytest

from ftvm.errors import ConfigError
from ftvm.networks import PUBLISH_MAX, Publish, StreamNetwork, TapNetwork, UserNetwork, parse_network


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6379:6380", Publish("127.0.0.1", 6379, 6380, "tcp")),
        ("0.0.0.0:53:5353/udp", Publish("0.0.0.0", 53, 5353, "udp")),
        ("10.1.2.3:1:65535/tcp", Publish("10.1.2.3", 1, 65535, "tcp")),
    ],
)
def test_a_port_is_published_as_docker_says_it_but_on_loopback(text: str, expected: Publish) -> None:
    assert Publish.parse(text) == expected
    assert Publish.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *["", "80", ":80", "80:", "0:80", "80:0", "80:65536", "80:80/", "80:80/sctp", "localhost:80:80", "::1:80:80"],
        *["1.2.3:80:80", "8O:80", "80:80:80:80", "80-90:80-90", "²:80", " 80:80", "+80:80"],
    ],
)
def test_a_port_that_is_not_one_is_told_what_is_expected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--publish .*expected \[HOST_IP:\]HOST_PORT:GUEST_PORT"):
        Publish.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", None),
        ("user", UserNetwork()),
        ("tap:tap0", TapNetwork("tap0")),
        ("tap:tap0,bridge=br-lan", TapNetwork("tap0", "br-lan")),
        ("stream:unix:/run/a.sock", StreamNetwork(path="/run/a.sock")),
        ("stream:unix:/run/a.sock,server", StreamNetwork(path="/run/a.sock", is_server=True)),
        ("stream:host:1234", StreamNetwork("host", 1234)),
        ("stream:[::1]:1234,server", StreamNetwork("::1", 1234, is_server=True)),
    ],
)
def test_every_form_of_a_network_is_read(text: str, expected: object) -> None:
    assert parse_network(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *["", "users", "user:", "tap", "tap:", "tap:a/b", "tap:sixteen-letters-", "tap:..", "tap:a,b", "tap:a,bridge="],
        *["tap:a,bridge=b,bridge=c", "stream:", "stream:host", "stream:host:0", "stream:host:99999", "stream::80"],
        *["stream:unix:", "stream:unix:" + "x" * 108, "stream:unix:a\0b", "stream:h:1,client", "stream:a:b:1"],
        "none:x",
    ],
)
def test_another_form_is_told_what_is_expected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--net .*expected user, tap:NAME"):
        parse_network(text)


def test_published_ports_alone_ask_for_a_user_network() -> None:
    assert parse_network(None) is None
    assert parse_network(None, ["1:2"]) == UserNetwork((Publish("127.0.0.1", 1, 2),))


@pytest.mark.parametrize("net", ["none", "tap:a", "stream:h:1"])
def test_only_a_user_network_publishes_ports(net: str) -> None:
    with pytest.raises(ConfigError, match=f"not --net {net}; drop"):
        parse_network(net, ["1:2"])


def test_one_port_of_the_host_cannot_be_published_twice_but_for_tcp_and_for_udp() -> None:
    assert parse_network(None, ["1:2", "1:2/udp", "127.0.0.2:1:3"])
    with pytest.raises(ConfigError, match=r"port 1 of 127.0.0.1 is published twice"):
        parse_network(None, ["1:2", "127.0.0.1:1:3/tcp"])
    with pytest.raises(ConfigError, match=f"at most {PUBLISH_MAX}"):
        parse_network(None, [f"{port}:1" for port in range(1, PUBLISH_MAX + 2)])


@pytest.mark.parametrize("text", ["tap:a,bridge=b", "stream:unix:/a,server", "stream:h:1", "user"])
def test_a_network_is_shown_as_it_was_written(text: str) -> None:
    assert str(parse_network(text)) == text
