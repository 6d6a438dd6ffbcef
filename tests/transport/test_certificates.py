"""Certificates: what is in them, where the keys are, and what a mistake says."""

import shutil
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.transport.conftest import EXPIRES_AT_ONCE, MACHINE, Pki
from transport.certificates import client_context, create_authority, issue, node_identity, server_context
from transport.errors import CertificateExpired, CertificateProblem, IdentityMismatch
from transport.identity import Expectation, Identity, identity_from_names


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_node_gets_no_authority_key_and_keys_are_private(pki: Pki) -> None:
    assert sorted(path.name for path in pki.a.iterdir()) == ["ca.crt", "node.crt", "node.key"]
    for key in (pki.authority / "ca.key", pki.a / "node.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert (pki.a / "ca.crt").read_bytes() == (pki.authority / "ca.crt").read_bytes()


def test_the_authority_cannot_make_authorities(pki: Pki) -> None:
    certificate = load(pki.authority / "ca.crt")
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_a_node_certificate_is_short_lived_p256_and_for_both_sides(pki: Pki) -> None:
    certificate = load(pki.a / "node.crt")
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert timedelta(days=90) <= lifetime < timedelta(days=91)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert node_identity(pki.a) == Identity(MACHINE, "node", "a")


def test_a_second_authority_in_the_same_folder_is_an_error(tmp_path: Path) -> None:
    create_authority(tmp_path, "m1")
    before = (tmp_path / "ca.key").read_bytes()
    with pytest.raises(CertificateProblem, match="there already"):
        create_authority(tmp_path, "m2")
    assert (tmp_path / "ca.key").read_bytes() == before


def test_a_new_certificate_replaces_the_old_one(pki: Pki, tmp_path: Path) -> None:
    issue(pki.authority, tmp_path / "n", "node", "n", lifetime_days=EXPIRES_AT_ONCE)
    with pytest.raises(CertificateExpired, match="make a new one"):
        client_context(tmp_path / "n")
    assert issue(pki.authority, tmp_path / "n", "node", "n") == Identity(MACHINE, "node", "n")
    client_context(tmp_path / "n")
    server_context(tmp_path / "n")


@pytest.mark.parametrize("label", ["", "a/b", "UPPER", "a b", "-a", "ä", "x" * 64, "a\n"])
def test_names_that_would_not_be_a_uri_are_errors(pki: Pki, tmp_path: Path, label: str) -> None:
    with pytest.raises(CertificateProblem, match="machine id"):
        create_authority(tmp_path / "ca", label)
    with pytest.raises(CertificateProblem, match="role"):
        issue(pki.authority, tmp_path / "n", label, "n")
    with pytest.raises(CertificateProblem, match="name"):
        issue(pki.authority, tmp_path / "n", "node", label)


@pytest.mark.parametrize("days", [0, -1, 4000, float("inf"), float("nan")])
def test_a_lifetime_that_makes_no_sense_is_an_error(pki: Pki, tmp_path: Path, days: float) -> None:
    with pytest.raises(CertificateProblem, match="lifetime"):
        issue(pki.authority, tmp_path / "n", "node", "n", lifetime_days=days)


def test_what_is_absent_or_not_a_certificate_is_said_by_name(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(CertificateProblem, match=r"cannot read .*node\.crt"):
        client_context(tmp_path)
    with pytest.raises(CertificateProblem, match=r"cannot read .*ca\.crt"):
        issue(tmp_path, tmp_path / "n", "node", "n")
    for name in ("ca.crt", "node.crt", "node.key"):
        for junk in (b"junk", b"\xff\x00", (pki.b / "node.key").read_bytes()):
            node = tmp_path / "node"
            shutil.copytree(pki.a, node)
            (node / name).write_bytes(junk)
            with pytest.raises(CertificateProblem, match=str(node)):
                server_context(node)
            shutil.rmtree(node)


def test_a_key_that_others_can_read_is_refused(pki: Pki, tmp_path: Path) -> None:
    node = tmp_path / "node"
    shutil.copytree(pki.a, node)
    (node / "node.key").chmod(0o640)
    with pytest.raises(CertificateProblem, match="chmod 600"):
        client_context(node)


def test_an_authority_with_another_key_is_refused(pki: Pki, tmp_path: Path) -> None:
    create_authority(tmp_path / "ca", "m1")
    shutil.copy(pki.authority / "ca.crt", tmp_path / "ca" / "ca.crt")
    with pytest.raises(CertificateProblem, match="is not the key of"):
        issue(tmp_path / "ca", tmp_path / "n", "node", "n")


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CertificateProblem, match="cannot make the folder"):
        create_authority(tmp_path / "file" / "ca", "m1")


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["ftvm://m1/node", "ftvm://m2/node"],
        ["https://m1/node"],
        ["ftvm://m1/node/x"],
        ["ftvm://M1/node"],
        ["ftvm://m1/node\n"],
        ["ftvm:///node"],
    ],
)
def test_a_certificate_speaks_for_exactly_one_node(uris: list[str]) -> None:
    with pytest.raises(IdentityMismatch):
        identity_from_names(uris, "a")
    assert identity_from_names(["ftvm://m1/node"], "no\nlabel") == Identity("m1", "node", "unnamed")


def test_an_expectation_names_both_sides_of_a_mismatch() -> None:
    expect = Expectation("m1", frozenset({"node", "edge"}))
    expect.check(Identity("m1", "edge", "e"))
    with pytest.raises(IdentityMismatch, match=r"'m2'.*'m1'"):
        expect.check(Identity("m2", "node", "n"))
    with pytest.raises(IdentityMismatch, match="'witness', and edge or node is needed"):
        expect.check(Identity("m1", "witness", "w"))
