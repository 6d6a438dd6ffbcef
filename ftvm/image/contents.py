"""What a guest holds beside its packages: the first program, accounts, the network's set-up and its services.

The packages' own scripts would have made some of it; they are programs of the guest's architecture and do not run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from ftvm.image.tree import Tree, character_device, directory, link, regular

BASE = (
    "base-files",
    "base-passwd",
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "debianutils",
    "grep",
    "libc-bin",
    "sed",
)
"""Packages of every disk."""

UNWANTED = ("usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/lintian/")
"""Left out, but for each package's copyright."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the guest starts at boot, and again when it ends, once `package` is on the disk."""

    package: str
    user: str
    uid: int
    folders: tuple[str, ...]
    """Its user's own."""


SERVICES = (Service("redis-server", "redis", 101, ("var/lib/redis", "var/log/redis")),)
"""Each is started by the file of its package's name in files/."""


def wanted(path: str) -> bool:
    """Whether a package's file at `path` is for the guest."""
    return not path.startswith(UNWANTED) or path.endswith("/copyright")


def initramfs(tree: Tree, busybox: bytes, modules: Mapping[str, Mapping[str, bytes]]) -> None:
    """Fills `tree` with a small system of its own, which finds and mounts the disk.

    `modules`: name of a group, as files/init has it, to the modules of that group in the order of their loading.
    """
    for path in ("dev", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "etc"):
        tree.put(path, directory())
    for path in ("bin", "sbin"):
        tree.put(path, link(f"usr/{path}"))
    # The kernel opens the console before anything of ours runs.
    tree.put("dev/console", character_device(5, 1, 0o600))
    tree.put("usr/bin/busybox", regular(busybox, 0o755))
    for name, group in modules.items():
        for module, content in group.items():
            tree.put(f"lib/modules/{module}.ko", regular(content))
        tree.put(f"lib/modules/{name}", regular("".join(f"{module}\n" for module in group)))
    tree.put("init", regular(_file("init"), 0o755))
    tree.put("etc/passwd", regular("root::0:0:root:/root:/bin/sh\n"))
    _common(tree)


def disk(tree: Tree, packages: Sequence[str]) -> None:
    """Adds to `tree`, which holds the packages' files, what makes them a system that starts."""
    services = [service for service in SERVICES if service.package in packages]
    _accounts(tree, services)
    tree.put("etc/fstab", regular("/dev/vda / ext4 defaults 0 1\n"))
    _common(tree)
    inittab = _file("inittab")
    for service in services:
        tree.put(f"etc/ftvm/{service.package}", regular(_file(service.package), 0o755))
        inittab += f"::respawn:/etc/ftvm/{service.package}\n".encode()
        for folder in service.folders:
            tree.put(folder, directory(0o750, service.uid, service.uid))
    tree.put("etc/inittab", regular(inittab))


def _common(tree: Tree) -> None:
    tree.put("etc/hostname", regular("ftvm\n"))
    tree.put("etc/hosts", regular("127.0.0.1 localhost ftvm\n"))
    tree.put("etc/inittab", regular(_file("inittab")))
    for name in ("start", "stop", "network", "lease", "shell"):
        tree.put(f"etc/ftvm/{name}", regular(_file(name), 0o755))
    for folder, name in _applets():
        if f"usr/sbin/{name}" not in tree and f"usr/bin/{name}" not in tree:
            tree.put(f"{folder}/{name}", link("/usr/bin/busybox"))


def _accounts(tree: Tree, services: Sequence[Service]) -> None:
    """base-passwd's own tables, which its scripts would have put in place; root needs no password on the console."""

    def table(name: str) -> list[str]:
        return tree[f"usr/share/base-passwd/{name}.master"].read().decode().splitlines()

    def without_password(line: str) -> str:
        name, _, rest = line.split(":", 2)
        return f"{name}:{'' if name == 'root' else '*'}:{rest}"

    users = [without_password(line) for line in table("passwd")]
    users += [f"{one.user}:*:{one.uid}:{one.uid}::/{one.folders[0]}:/usr/sbin/nologin" for one in services]
    groups = table("group") + [f"{one.user}:*:{one.uid}:" for one in services]
    for name, lines in (("passwd", users), ("group", groups)):
        tree.put(f"etc/{name}", regular("".join(f"{line}\n" for line in lines)))


def _applets() -> Iterator[tuple[str, str]]:
    """Folder and name of each program that is a link to busybox where no package brings it."""
    folder = ""
    for line in _file("applets").decode().splitlines():
        if line.startswith(" "):
            yield from ((folder, name) for name in line.split())
        else:
            folder = line


def _file(name: str) -> bytes:
    return resources.files("ftvm.image").joinpath("files", name).read_bytes()
