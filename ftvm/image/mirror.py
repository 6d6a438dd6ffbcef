"""Which Debian mirror this host uses: sources.list(5), in its one-line and in its deb822 form."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SUITES = frozenset(
    {
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "duke",
        "oldoldstable",
        "oldstable",
        "stable",
        "testing",
        "unstable",
        "sid",
    }
)
"""A mirror that serves one of these serves Debian, and so its riscv64 suites."""


@dataclass(frozen=True, slots=True)
class Source:
    """One repository: a URI, a suite and its components."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: Path | None
    """The keyring that the user named for it."""


def parse_list(text: str) -> Iterator[Source]:
    """The `deb` lines of a .list file."""
    for line in text.splitlines():
        found = re.fullmatch(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<rest>\S.*)", line.partition("#")[0].strip())
        if not found:
            continue
        uri, _, rest = found["rest"].partition(" ")
        suite, *components = rest.split() or [""]
        options = dict(option.partition("=")[::2] for option in (found["options"] or "").split())
        yield Source(uri, suite, tuple(components), _keyring(options.get("signed-by", "")))


def parse_deb822(text: str) -> Iterator[Source]:
    """The enabled `deb` stanzas of a .sources file, one source for each of their URIs and suites."""
    for stanza in re.split(r"\n[ \t]*\n", re.sub(r"(?m)^#.*\n?", "", text + "\n")):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        components = tuple(fields.get("components", "").split())
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, components, _keyring(fields.get("signed-by", "")))


def configured(sourcelist: Path, parts: Path) -> list[Source]:
    """All sources of this host in apt's order. Files that cannot be read are as if they were not there."""
    files = [sourcelist, *(sorted(parts.iterdir()) if parts.is_dir() else [])]
    found: list[Source] = []
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        found += parse_deb822(text) if file.suffix == ".sources" else parse_list(text) if file.suffix == ".list" else []
    return found


def debian_mirror(sources: Sequence[Source]) -> Source | None:
    """The first that is Debian's archive itself; not its updates, and nobody else's packages."""
    for source in sources:
        if source.suite in SUITES and "main" in source.components and not source.uri.startswith("cdrom:"):
            return source
    return None


def _fields(stanza: str) -> dict[str, str]:
    """Lower-case names to values; a line that begins with a blank continues the one above."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1].isspace():
            if name:
                fields[name] += "\n" + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = value.strip()
    return fields


def _keyring(signed_by: str) -> Path | None:
    """Signed-By is a path, or else a fingerprint or a key itself, which say nothing about another suite."""
    return Path(signed_by) if signed_by.startswith("/") and "\n" not in signed_by else None
