"""Name lookups of the guest go to the name server of the host."""

import subprocess
import sys
from pathlib import Path

from tests.host.network.test_slirp import needs_library
from tests.limits import WAIT_S
from tests.namespaces import require_namespaces
from tests.needs import lack

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import socket, subprocess, sys, threading
subprocess.run(["mount", "--bind", sys.argv[1], "/etc/resolv.conf"], check=True)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
from tests.host.network.test_slirp import open_station

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.53", 53))

def serve():
    question, address = server.recvfrom(512)
    server.sendto(question[:2] + b"answer", address)

threading.Thread(target=serve, daemon=True).start()
with open_station() as station:
    station.send_udp("10.0.2.3", 53, 5353, b"IDname")
    station.wait(lambda: station.datagrams)
    print(*station.datagrams[0])
"""


def test_a_lookup_reaches_the_hosts_name_server_and_its_answer_the_guest(tmp_path: Path) -> None:
    """In namespaces for mounts and network of its own: the host's `/etc/resolv.conf` stays as it is."""
    require_namespaces()
    needs_library()
    if not Path("/etc/resolv.conf").exists():
        lack("this host has no /etc/resolv.conf that another one could be mounted on")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    done = subprocess.run(
        ["unshare", "--mount", "--net", sys.executable, "-c", SCRIPT, str(tmp_path / "resolv.conf")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.stdout == "10.0.2.3 53 5353 b'IDanswer'\n", done.stderr
