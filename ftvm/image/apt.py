"""apt with a root of its own: the host's mirror and keys, another suite and architecture, none of its packages.

apt-get finds out what a package needs, checks signatures, and goes on with what was half fetched. Nothing is
installed: what it fetches is unpacked by us.
"""

import hashlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ftvm.errors import FtvmError, GuestBuildError, MirrorRefused, MirrorUnavailable
from ftvm.image.mirror import Source, configured, debian_mirror
from ftvm.image.tools import environment

ARCHITECTURE = "riscv64"
KEYRINGS = tuple(Path(f"/usr/share/keyrings/debian-archive-keyring.{form}") for form in ("gpg", "pgp"))
LISTS_AGE_MAX_S = 24 * 3600
"""Older package lists are asked for anew."""
HOST_SETTINGS = ("Acquire::http::", "Acquire::https::", "Acquire::ForceIPv")
"""What of the host's own configuration holds here too: how to get out (proxies, certificates)."""

CONFIGURATION = """\
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Cache::archives "{folder}/archives";
Dir::Log "{folder}";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
APT::Get::AllowUnauthenticated "false";
APT::Install-Recommends "false";
APT::Cmd::Pattern-Only "true";
APT::Update::Error-Mode "any";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::ForceHash "SHA256";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"""

FAULTS: tuple[tuple[str, type[FtvmError], str], ...] = (
    (r"Could not get lock|Unable to lock", GuestBuildError, "an apt-get of a killed call goes on; try again soon"),
    (r"gpgv.*not.*installed|apt-key.*gpgv", GuestBuildError, "install gpgv, which checks the mirror's signatures"),
    (
        r"NO_PUBKEY|GPG error|KEYSIG|not signed|[Ss]ignatures? |Clearsigned|Hash Sum mismatch|not valid yet|expired",
        MirrorRefused,
        "check the mirror, the clock, and that debian-archive-keyring is up to date",
    ),
    (r"Unable to locate package|no installation candidate|Version .* not found", GuestBuildError, "check the name"),
    (r"enough free space|No space left", GuestBuildError, "make room, or set FTVM_CACHE_DIR to a folder with more"),
    (r"unmet dependencies|held broken", GuestBuildError, "these packages do not go together"),
    (r"does not have a Release file", MirrorUnavailable, "check --suite and --mirror: the mirror has no such suite"),
    (r"Failed to fetch|Could not|Temporary failure|Unable to", MirrorUnavailable, "check the network and the mirror"),
)
"""What apt-get says, whose fault it is, and what to do. The first that fits."""

Progress = Callable[[float], None]
"""Told how much is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Package:
    """One .deb: where it is once it is fetched, and what it must be."""

    path: Path
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name.partition("_")[0]

    def check(self) -> None:
        """Raises MirrorRefused when the file is not what the signed list says: it may have changed since."""
        with self.path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == self.sha256:
                return
        self.path.unlink()
        raise MirrorRefused(f"{self.path.name} was not what the mirror's signed list says; try again to fetch it anew")


@dataclass(frozen=True, slots=True)
class Selection:
    """Packages with all that they need, but for what `provided` names."""

    names: tuple[str, ...]
    provided: tuple[str, ...] = ()


class Apt:
    """A root for apt below `folder`: `suite` from the mirror at `uri`, or from the one that this host uses."""

    def __init__(self, folder: Path, suite: str, uri: str | None) -> None:
        source = _source(uri)
        # The lists and archives of one mirror say nothing of another's.
        self._folder = folder / hashlib.sha256(f"{source.uri} {suite}".encode()).hexdigest()[:16]
        self._updated = self._folder / "updated"
        if set(str(self._folder)) & set('"\n'):
            raise GuestBuildError(f"the folder {self._folder!r} has a quote or line break in its name; take another")
        for name in ("lists", "archives", "none"):
            (self._folder / name / "partial").mkdir(parents=True, exist_ok=True)
        options = f"arch={ARCHITECTURE} signed-by={','.join(map(str, _keyrings(source)))}"
        (self._folder / "sources.list").write_text(f"deb [{options}] {source.uri} {suite} main\n")
        (self._folder / "status").write_text("")
        configuration = CONFIGURATION.format(folder=self._folder, architecture=ARCHITECTURE) + _host_settings()
        (self._folder / "apt.conf").write_text(configuration)
        self.mirror, self.suite = source.uri, suite

    @property
    def lists_age_s(self) -> float | None:
        """None when there are no lists yet. Lists from the future are as good as none."""
        try:
            age_s = time.time() - self._updated.stat().st_mtime
        except OSError:
            return None
        return age_s if age_s >= 0 else None

    def update(self, progress: Progress) -> None:
        """Fetches the mirror's lists. Raises MirrorUnavailable, MirrorRefused, GuestBuildError."""
        self._get(["update"], progress)
        self._updated.touch()

    def resolve(self, selection: Selection) -> list[Package]:
        """What the selection consists of. Raises GuestBuildError when a package is unknown, or cannot be had."""
        # With no archives at hand, all that is needed has to be fetched: this lists it.
        options = ["-qq", "--print-uris", "-o", f"Dir::Cache::archives={self._folder / 'none'}"]
        listed = self._install(selection, options, lambda fraction: None)
        found = re.findall(r"^'[^']*' ([^\s/]+) (\d+) SHA256:([0-9a-f]{64})$", listed, re.MULTILINE)
        return [Package(self._folder / "archives" / file, int(size), digest) for file, size, digest in found]

    def fetch(self, selection: Selection, progress: Progress) -> None:
        """Fetches what is not there yet. Raises MirrorUnavailable, MirrorRefused, GuestBuildError."""
        self._install(selection, ["--download-only"], progress)

    def _install(self, selection: Selection, options: Sequence[str], progress: Progress) -> str:
        status = _provider(selection.provided) if selection.provided else ""
        (self._folder / "status").write_text(status)
        return self._get(["install", *options, "--", *selection.names], progress)

    def _get(self, arguments: Sequence[str], progress: Progress) -> str:
        """Runs apt-get and returns what it printed. Its progress comes as dlstatus:FILE:PERCENT:TEXT lines."""
        receiving, sending = os.pipe()
        with (
            os.fdopen(receiving) as states,
            tempfile.TemporaryFile("w+") as printed,
            tempfile.TemporaryFile("w+") as told,
        ):
            try:
                process = subprocess.Popen(
                    ["apt-get", "-o", f"APT::Status-Fd={sending}", *arguments],
                    env=environment(APT_CONFIG=str(self._folder / "apt.conf")),
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=told,
                    pass_fds=[sending],
                )
            finally:
                os.close(sending)
            with process:
                try:
                    for line in states:
                        if found := re.match(r"dlstatus:\d+:([0-9.]+):", line):
                            progress(min(float(found[1]) / 100, 1.0))
                except BaseException:
                    process.terminate()
                    raise
            printed.seek(0)
            told.seek(0)
            if process.returncode:
                self._fail(told.read())
            return printed.read()

    def _fail(self, told: str) -> NoReturn:
        lines = [line for line in told.splitlines() if line.startswith(("E: ", "W: "))]
        for pattern, error, what_next in FAULTS:
            for line in lines:
                if re.search(pattern, line):
                    raise error(f"{self.mirror}: {line[3:]}; {what_next}")
        raise GuestBuildError(f"apt-get: {lines[0][3:] if lines else 'failed, and said nothing'}")


def _source(uri: str | None) -> Source:
    if uri is not None:
        return Source(uri, "", ("main",), None)
    found = debian_mirror(configured(Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d")))
    if found is None:
        raise GuestBuildError(
            "no Debian mirror is configured in /etc/apt; give one, such as --mirror http://MIRROR/debian"
        )
    return found


def _keyrings(source: Source) -> list[Path]:
    found = [keyring for keyring in (source.signed_by, *KEYRINGS) if keyring and keyring.is_file()]
    if not found:
        raise GuestBuildError("Debian's keys are not here; install debian-archive-keyring")
    return list(dict.fromkeys(found))


def _host_settings() -> str:
    dump = subprocess.run(
        ["apt-config", "dump"], env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return "".join(f"{line}\n" for line in dump.stdout.splitlines() if line.startswith(HOST_SETTINGS))


def _provider(names: Sequence[str]) -> str:
    """A dpkg status file in which one installed package provides `names`."""
    return (
        f"Package: ftvm-provider\nStatus: install ok installed\nArchitecture: {ARCHITECTURE}\nVersion: 1\n"
        "Maintainer: nobody\nDescription: what the guest does without\n"
        f"Provides: {', '.join(f'{name} (= 999)' for name in names)}\n"
    )
