from pathlib import Path

import pytest

from ftvm.image.mirror import Source, configured, debian_mirror, parse_deb822, parse_list

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb cdrom:[Debian 12]/ bookworm main
deb [ arch=amd64 signed-by=/usr/share/keyrings/other.gpg ] https://packages.example/apt tools-bookworm main
deb http://security.example/debian-security bookworm-security main   # only updates
deb http://mirror.example/debian/   bookworm   main contrib
"""

DEB822 = """\
Types: deb deb-src
URIs: https://one.example/debian
  https://two.example/debian
Suites: trixie trixie-updates
# a remark inside
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: https://off.example/debian
Suites: trixie
Components: main
 \t
types: deb
uris: https://key.example/debian
suites: sid
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----
"""


def test_lines_give_uri_suite_components_and_keyring() -> None:
    assert list(parse_list(ONE_LINE))[1:] == [
        Source("https://packages.example/apt", "tools-bookworm", ("main",), Path("/usr/share/keyrings/other.gpg")),
        Source("http://security.example/debian-security", "bookworm-security", ("main",), None),
        Source("http://mirror.example/debian/", "bookworm", ("main", "contrib"), None),
    ]


def test_the_mirror_is_the_first_that_serves_debian_itself() -> None:
    found = debian_mirror(list(parse_list(ONE_LINE)))
    assert found is not None
    assert found.uri == "http://mirror.example/debian/"
    assert debian_mirror([source for source in parse_list(ONE_LINE) if source != found]) is None


def test_stanzas_give_every_uri_with_every_suite_and_none_that_is_disabled() -> None:
    found = list(parse_deb822(DEB822))
    assert [(source.uri, source.suite) for source in found] == [
        ("https://one.example/debian", "trixie"),
        ("https://one.example/debian", "trixie-updates"),
        ("https://two.example/debian", "trixie"),
        ("https://two.example/debian", "trixie-updates"),
        ("https://key.example/debian", "sid"),
    ]
    assert [source.signed_by for source in found] == [KEYRING] * 4 + [None]


@pytest.mark.parametrize(
    "text", ["", "deb", "deb [", "deb [x] ", "Types: deb\n", "Types: deb\nURIs: x\n", " : \n:\n", "\0"]
)
def test_what_is_no_source_gives_none(text: str) -> None:
    assert debian_mirror([*parse_list(text), *parse_deb822(text)]) is None


def test_files_are_read_in_apts_order_and_others_left_alone(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "b.sources").write_text("Types: deb\nURIs: http://b\nSuites: sid\nComponents: main\n")
    (parts / "a.list").write_text("deb http://a sid main\n")
    (parts / "c.save").write_text("deb http://c sid main\n")
    (parts / "d.list").mkdir()
    main = tmp_path / "sources.list"
    assert [source.uri for source in configured(main, parts)] == ["http://a", "http://b"]
    main.write_bytes(b"deb http://main sid main \xff\n")
    assert [source.uri for source in configured(main, parts)] == ["http://main", "http://a", "http://b"]
    assert configured(tmp_path / "absent", tmp_path / "absent") == []
