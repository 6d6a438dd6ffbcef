import dataclasses
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.config import Address, Config, DiskFile, ReplicationConfig, environment_name, load
from ftvm.config.readers import parse_mebibytes
from ftvm.errors import ConfigError
from ftvm.networks import Publish, TapNetwork, UserNetwork

EXAMPLE = """
[machine]
name = "bank"
image = "kv.elf"
ram_mib = 32

[replication]
policy = "all"
detector_timeout_ms = 180

[arbiter]
kind = "directory"
path = "/srv/arbiter"

[nodes.alpha]
listen = "127.0.0.1:7001"
log = "alpha.log"

[nodes.beta]
listen = "[::1]:7002"
control = "beta.sock"

[edge]
listen = "0.0.0.0:6379"

[security]
certificates = "certs"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "machine.toml"
    path.write_text(text)
    return path


def test_the_example_reads_with_paths_relative_to_the_file_and_defaults(tmp_path: Path) -> None:
    config = load(write(tmp_path, EXAMPLE))
    assert (config.machine.name, config.machine.ram_mib) == ("bank", 32)
    assert config.machine.image == tmp_path / "kv.elf"
    assert config.arbiter.path == Path("/srv/arbiter")
    assert config.replication == ReplicationConfig(detector_timeout_ms=180)
    assert config.node("alpha").listen == Address("127.0.0.1", 7001)
    assert config.node("alpha").log == tmp_path / "alpha.log"
    assert config.node("alpha").control == tmp_path / "run/alpha.sock"
    assert config.node("beta").listen == Address("::1", 7002)
    assert config.node("beta").log is None
    assert config.node("beta").control == tmp_path / "beta.sock"
    assert config.peers_of("alpha") == ("beta",)
    assert config.edge.listen == Address("0.0.0.0", 6379)
    assert config.security.folder("alpha") == tmp_path / "certs/alpha"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("ram_mib = 32", "ram = 32", ["[machine]", "'ram'", "ram_mib"]),
        ("[edge]", "[edgy]", ["'edgy'", "edge"]),
        ("ram_mib = 32", 'ram_mib = "lots"', ["[machine] ram_mib", "an integer from 1", "'lots'"]),
        ("ram_mib = 32", "ram_mib = true", ["[machine] ram_mib", "an integer", "True"]),
        ("ram_mib = 32", "ram_mib = 0", ["[machine] ram_mib", "an integer", "0"]),
        ('image = "kv.elf"', "image = 7", ["[machine] image", "a path", "7"]),
        ('image = "kv.elf"', "", ["[machine] image", "missing"]),
        ('name = "bank"', 'name = "The Bank"', ["[machine] name", "lower-case", "'The Bank'"]),
        ('policy = "all"', 'policy = "any"', ["[replication] policy", '"all"', "'any'"]),
        ("detector_timeout_ms = 180", "detector_timeout_ms = 1.5", ["detector_timeout_ms", "1.5"]),
        ("detector_timeout_ms = 180", "detector_timeout_ms = 50", ["heartbeat_interval_ms", "third"]),
        ('"0.0.0.0:6379"', '"6379"', ["[edge] listen", "host:port", "'6379'"]),
        ('"0.0.0.0:6379"', '"::1:6379"', ["[edge] listen", "host:port"]),
        ('"0.0.0.0:6379"', '"h:65536"', ["[edge] listen", "host:port"]),
        ('"0.0.0.0:6379"', '"h:1"\nnet = "bridge"', ["[edge] net", "expected user, tap:NAME", "'bridge'"]),
        ('"0.0.0.0:6379"', '"h:1"\nnet = 7', ["[edge] net", "expected user, tap:NAME"]),
        ('"0.0.0.0:6379"', '"h:1"\npublish = "6379"', ["[edge] publish", "HOST_PORT:GUEST_PORT", "'6379'"]),
        ('"0.0.0.0:6379"', '"h:1"\npublish = [6379]', ["[edge] publish", "HOST_PORT:GUEST_PORT"]),
        ('"0.0.0.0:6379"', '"h:1"\nnet = "tap:a"\npublish = ["1:2"]', ["machine.toml: [edge]", "drop one"]),
        ('path = "/srv/arbiter"', "", ["[arbiter] path", "missing"]),
        ('kind = "directory"', 'kind = "vote"', ["[arbiter] kind", '"witness"', "'vote'"]),
        ('kind = "directory"', 'kind = "witness"', ["[arbiter] address", "missing"]),
        ('kind = "directory"', 'kind = "directory"\naddress = "h:1"', ["[arbiter] address", "does not use it"]),
        ("[nodes.beta]", "[nodes.edge]", ["[nodes.edge]", "rename"]),
        ("[nodes.beta]", "[nodes.Beta]", ["[nodes.Beta]", "rename"]),
        ('"[::1]:7002"', '"127.0.0.1:7001"', ["alpha and beta both", "listen"]),
        ("[security]", "[nodes.gamma]\nlisten = '[::1]:7002'\n[security]", ["beta and gamma both", "listen"]),
        (
            "[security]",
            "".join(f"[nodes.n{n}]\nlisten = 'h:{n}'\n" for n in range(1, 8)) + "[security]",
            ["2 to 8 tables", "got 9"],
        ),
        ("[nodes.beta]", "[nodes]\nbeta = 3\n[x]", ["unknown section", "'x'"]),
        ("[machine]", "nodes = 3\n[machine", ["not valid TOML"]),
        ('control = "beta.sock"', f'control = "{"s" * 120}"', ["[nodes.beta] control", "at most 100"]),
    ],
)
def test_a_mistake_is_one_line_that_names_file_key_and_expectation(
    tmp_path: Path, old: str, new: str, told: list[str]
) -> None:
    assert old in EXAMPLE
    path = write(tmp_path, EXAMPLE.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for part in told:
        assert part in message


LINUX = EXAMPLE.replace(
    'image = "kv.elf"',
    """kernel = "Image"
initrd = "initrd.gz"
append = "root=/dev/vda"
net = true
mtu = 9000
console = "virtio"
[[machine.disks]]
image = "root.img"
[[machine.disks]]
image = "/srv/data.img"
read_only = true""",
).replace("ram_mib = 32\n", "")


def test_a_machine_of_a_kernel_disks_and_a_network_card(tmp_path: Path) -> None:
    config = load(write(tmp_path, LINUX))
    machine = config.machine
    assert (machine.kernel, machine.initrd) == (tmp_path / "Image", tmp_path / "initrd.gz")
    assert machine.disks == (
        DiskFile(image=tmp_path / "root.img"),
        DiskFile(image=Path("/srv/data.img"), read_only=True),
    )
    assert machine.streams == ("uart0", "net0", "console0")
    assert (machine.console_device, machine.command_line, machine.mtu) == ("console0", "root=/dev/vda", 9000)
    assert machine.has_entropy
    assert not config.breaks
    assert config.node("alpha").disks == tmp_path / "run/alpha-disks"
    assert machine.mac_address == load(write(tmp_path, LINUX)).machine.mac_address
    other = load(write(tmp_path, LINUX.replace('"bank"', '"shop"'))).machine.mac_address
    assert other != machine.mac_address
    assert other.startswith("52:54:00:")


def test_a_bare_machine_has_breaks_and_no_devices_but_the_uart(tmp_path: Path) -> None:
    config = load(write(tmp_path, EXAMPLE))
    assert config.breaks
    assert config.machine.streams == ("uart0",)
    assert not config.machine.has_entropy


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('kernel = "Image"', 'image = "kv.elf"', ["[machine] initrd", "is for a kernel; give [machine] kernel"]),
        ('initrd = "initrd.gz"', 'image = "kv.elf"', ["[machine] image", "without [machine] kernel"]),
        ("net = true", "net = false", ["[machine] mtu", "no network card"]),
        ("mtu = 9000", "mtu = 9", ["[machine] mtu", "from 576"]),
        ("mtu = 9000", 'mac = "ff:ff:ff:ff:ff:ff"', ["[machine] mac", "single network card"]),
        ('console = "virtio"', 'console = "tv"', ["[machine] console", '"virtio"']),
        ('append = "root=/dev/vda"', r'append = "a\nb"', ["[machine] append", "one line"]),
        ('image = "root.img"', 'imago = "root.img"', ["[machine.disks]", "'imago'", "read_only"]),
        ('image = "root.img"', "read_only = false", ["[machine.disks] image", "missing"]),
        ("read_only = true", "read_only = 1", ["[machine.disks] read_only", "true or false"]),
        ('"/srv/data.img"', '"root.img"', ["[machine] disks", "given twice"]),
        ("[replication]", "[machine.disk]\n[replication]", ["[machine]", "unknown key 'disk'"]),
        ('listen = "0.0.0.0:6379"', 'listen = "h:1"\nsessions = "break"', ["[edge] sessions", "no breaks"]),
    ],
)
def test_a_mistake_about_the_guest_is_one_line(tmp_path: Path, old: str, new: str, told: list[str]) -> None:
    assert old in LINUX
    path = write(tmp_path, LINUX.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for part in told:
        assert part in message


def test_a_network_at_the_edge_needs_a_card_in_the_machine(tmp_path: Path) -> None:
    text = EXAMPLE.replace('"0.0.0.0:6379"', '"0.0.0.0:6379"\nnet = "user"')
    with pytest.raises(ConfigError, match=r"\[edge\] net: the machine has no network card"):
        load(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "mib"), [("64", 64), ("512M", 512), ("1G", 1024), ("2GiB", 2048), ("1g", 1024), ("3m", 3)]
)
def test_a_size_of_memory_may_have_a_unit(tmp_path: Path, text: str, mib: int) -> None:
    path = write(tmp_path, EXAMPLE.replace("ram_mib = 32", f'ram_mib = "{text}"'))
    assert load(path).machine.ram_mib == mib


@given(st.text(max_size=8))
def test_an_arbitrary_size_is_read_or_refused(text: str) -> None:
    """`parse_mebibytes` raises nothing but ValueError, and what it reads is no negative number."""
    with suppress(ValueError):
        assert parse_mebibytes(text) >= 0


DIRECTORY = 'kind = "directory"\npath = "/srv/arbiter"\n'


def test_each_kind_of_arbiter_has_its_own_keys(tmp_path: Path) -> None:
    keys = 'kind = "witness"\naddress = "third:7010"\npath = "w"\n'
    witness = load(write(tmp_path, EXAMPLE.replace(DIRECTORY, keys)))
    assert witness.arbiter.address == Address("third", 7010)
    assert witness.arbiter.path == tmp_path / "w"
    keys = 'kind = "etcd"\nendpoints = ["https://a:2379/", "https://[::1]:2379"]\n'
    keys += 'ca = "ca"\ncertificate = "c"\nkey = "k"\n'
    etcd = load(write(tmp_path, EXAMPLE.replace(DIRECTORY, keys)))
    assert etcd.arbiter.endpoints == ("https://a:2379", "https://[::1]:2379")
    assert etcd.arbiter.key == tmp_path / "k"
    environment = {"FTVM_ARBITER_ENDPOINTS": "https://a:1, https://b:2"}
    changed = load(write(tmp_path, EXAMPLE.replace(DIRECTORY, keys)), environment=environment)
    assert changed.arbiter.endpoints == ("https://a:1", "https://b:2")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('kind = "witness"\naddress = "h:0"', "port 0"),
        ('kind = "witness"\naddress = "h"', "host:port"),
        ('kind = "etcd"\nendpoints = []', "http://host:port"),
        ('kind = "etcd"\nendpoints = ["h:1"]', "http://host:port"),
        ('kind = "etcd"\nendpoints = ["http://u:p@h:1"]', "http://host:port"),
        ('kind = "etcd"\nendpoints = ["http://h:1/v3"]', "http://host:port"),
        ('kind = "etcd"\nendpoints = ["http://h:99999"]', "http://host:port"),
        ('kind = "etcd"\nendpoints = [3]', "http://host:port"),
        ('kind = "etcd"\nendpoints = ["https://h:1"]\nkey = "k"', "give both or none"),
        ('kind = "etcd"\nendpoints = ["http://h:1"]\nca = "k"', "uses no certificates"),
        ('kind = "etcd"\nendpoints = ["http://h:1"]\npath = "k"', "does not use it"),
    ],
)
def test_a_wrong_arbiter_is_one_line(tmp_path: Path, keys: str, told: str) -> None:
    path = write(tmp_path, EXAMPLE.replace(DIRECTORY, keys + "\n"))
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: [arbiter]")
    assert "\n" not in str(caught.value)


WITH_CARD = EXAMPLE.replace("ram_mib = 32", "ram_mib = 32\nnet = true")


def test_ports_of_the_edge_are_published_from_the_file_and_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path, WITH_CARD.replace("[security]", 'publish = ["6379:6379"]\n[security]'))
    assert load(path).edge.network() == UserNetwork((Publish("127.0.0.1", 6379, 6379),))
    environment = {"FTVM_EDGE_PUBLISH": "0.0.0.0:1:2,3:4/udp"}
    assert load(path, environment=environment).edge.publish == ("0.0.0.0:1:2", "3:4/udp")
    assert load(write(tmp_path, EXAMPLE)).edge.network() is None


TAPS = WITH_CARD.replace('7001"', '7001"\ntap = "tap0"').replace('7002"', '7002"\ntap = "tap1,bridge=br0"')


def test_each_node_has_an_interface_of_its_own(tmp_path: Path) -> None:
    config = load(write(tmp_path, TAPS))
    assert config.node("alpha").tap_network() == TapNetwork("tap0")
    assert config.node("beta").tap_network() == TapNetwork("tap1", "br0")
    assert load(write(tmp_path, EXAMPLE)).node("alpha").tap_network() is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('tap = "tap0"', "", ["[nodes.alpha] tap", "each needs its own"]),
        ('tap = "tap0"', 'tap = "a/b"', ["[nodes.alpha] tap", 'NAME[,bridge=BRIDGE]"', "'a/b'"]),
        ("net = true", "net = false", ["[nodes] tap", "no network card"]),
        ("net = true", "net = true\nmtu = 9000", ["[machine] mtu = 9000", "at most 4074"]),
        ("[security]", 'net = "user"\n[security]', ["[edge] net", "the nodes have tap interfaces"]),
    ],
)
def test_interfaces_that_do_not_fit_together_are_one_line(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, TAPS.replace(old, new)))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("section", ["machine", "arbiter", "edge", "security"])
def test_a_section_that_is_no_table_is_an_error(tmp_path: Path, section: str) -> None:
    without = re.sub(rf"\[{section}\]\n(?:\w.*\n)*", "", EXAMPLE)
    with pytest.raises(ConfigError, match=rf"{section}: expected a table"):
        load(write(tmp_path, f"{section} = 3\n" + without))


def test_an_absent_file_and_a_binary_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path)
    (tmp_path / "machine.toml").write_bytes(b"\x7fELF\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(tmp_path / "machine.toml")


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    path = write(tmp_path, EXAMPLE)
    environment = {"FTVM_MACHINE_RAM_MIB": "48", "FTVM_NODES_BETA_LISTEN": "10.0.0.2:1", "FTVM_OTHER": "x"}
    assert load(path).machine.ram_mib == 32
    config = load(path, environment=environment, flags={"machine.ram_mib": None})
    assert config.machine.ram_mib == 48
    assert config.node("beta").listen == Address("10.0.0.2", 1)
    assert load(path, environment=environment, flags={"machine.ram_mib": 16}).machine.ram_mib == 16


def test_a_wrong_value_from_the_environment_names_the_variable(tmp_path: Path) -> None:
    path = write(tmp_path, EXAMPLE)
    with pytest.raises(ConfigError, match=r"^FTVM_MACHINE_RAM_MIB: expected an integer"):
        load(path, environment={"FTVM_MACHINE_RAM_MIB": "many"})


def test_a_path_from_the_environment_is_relative_to_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path, EXAMPLE)
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load(path, environment={"FTVM_MACHINE_IMAGE": "other.elf"})
    assert config.machine.image == tmp_path / "elsewhere/other.elf"


def test_a_config_built_in_python_is_checked_too(tmp_path: Path) -> None:
    config = load(write(tmp_path, EXAMPLE))
    with pytest.raises(ConfigError, match="2 to 8 tables"):
        dataclasses.replace(config, nodes={"alpha": config.node("alpha")})
    with pytest.raises(ConfigError, match="alpha and beta"):
        config.node("gamma")
    assert isinstance(dataclasses.replace(config), Config)


@given(st.text(max_size=200))
def test_arbitrary_text_is_a_config_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """No text makes `load` raise anything but ConfigError."""
    path = tmp_path_factory.getbasetemp() / "arbitrary.toml"
    path.write_text(text, errors="replace")
    with pytest.raises(ConfigError):
        load(path)


@given(st.text(max_size=12), st.integers(0, 0xFFFF))
def test_an_address_that_parses_prints_as_it_was(host: str, port: int) -> None:
    """str(Address.parse(text)) == text for every text that parses with a plain port."""
    text = f"{host}:{port}"
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address


def test_environment_names_are_made_of_section_and_key() -> None:
    assert environment_name("nodes.alpha-1", "listen") == "FTVM_NODES_ALPHA_1_LISTEN"


def test_a_machine_may_have_up_to_eight_nodes_and_each_knows_all_others(tmp_path: Path) -> None:
    more = "".join(f"[nodes.n{n}]\nlisten = 'h:{n}'\n" for n in range(1, 7))
    config = load(write(tmp_path, EXAMPLE.replace("[security]", more + "[security]")))
    assert config.peers_of("n3") == ("alpha", "beta", "n1", "n2", "n4", "n5", "n6")
