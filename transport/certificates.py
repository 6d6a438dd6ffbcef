"""One certificate authority per protected machine, short-lived node certificates, and TLS contexts.

`create_authority(AUTHORITY, machine_id)` writes `ca.crt` and `ca.key` to a folder that stays with the
operator. `issue(AUTHORITY, OUT, role, name)` writes what one node needs to a folder of its own: `ca.crt`,
`node.crt`, `node.key`. The authority's key is never copied. Keys are written 0600.
"""

import os
import ssl
import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from transport.errors import CertificateExpired, CertificateProblem
from transport.identity import Identity, identity_from_names, is_label

LIFETIME_DAYS = 90
AUTHORITY_LIFETIME_DAYS = 3650
CLOCK_SKEW = timedelta(minutes=5)
"""Certificates start this much in the past: the clocks of two hosts are never equal."""

CA_CERTIFICATE = "ca.crt"
CA_KEY = "ca.key"
NODE_CERTIFICATE = "node.crt"
NODE_KEY = "node.key"


def create_authority(directory: Path, machine_id: str) -> None:
    """Make the authority of a machine. Raises CertificateProblem, also if one is there already."""
    _check_label("machine id", machine_id)
    if (directory / CA_KEY).exists():
        raise CertificateProblem(f"{directory / CA_KEY} is there already; choose another folder or remove it")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, machine_id)])
    builder = (
        _builder(name, name, key.public_key(), AUTHORITY_LIFETIME_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    _make_folder(directory)
    _write(directory / CA_KEY, _key_pem(key), is_secret=True)
    _write(directory / CA_CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM), is_secret=False)


def issue(
    authority_dir: Path, out_dir: Path, role: str, name: str, lifetime_days: float = LIFETIME_DAYS
) -> Identity:
    """Make the certificate of one node (replacing an older one in `out_dir`). Raises CertificateProblem."""
    _check_label("role", role)
    _check_label("name", name)
    if not 0 < lifetime_days <= AUTHORITY_LIFETIME_DAYS:
        raise CertificateProblem(f"a lifetime of {lifetime_days:g} days is not within 0 to {AUTHORITY_LIFETIME_DAYS}")
    ca_pem = _read(authority_dir / CA_CERTIFICATE)
    ca_certificate, ca_key = _load_authority(authority_dir, ca_pem)
    machine_id = _common_name(ca_certificate)
    identity = Identity(machine_id, role, name)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _builder(subject, ca_certificate.subject, key.public_key(), lifetime_days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    certificate = builder.sign(ca_key, hashes.SHA256())
    _make_folder(out_dir)
    _write(out_dir / NODE_KEY, _key_pem(key), is_secret=True)
    _write(out_dir / NODE_CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM), is_secret=False)
    _write(out_dir / CA_CERTIFICATE, ca_pem, is_secret=False)
    return identity


def node_identity(node_dir: Path) -> Identity:
    """Who the node in this folder is. Raises CertificateProblem, CertificateExpired, IdentityMismatch."""
    certificate = _load_certificate(node_dir / NODE_CERTIFICATE)
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        raise CertificateExpired(
            f"{node_dir / NODE_CERTIFICATE} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; "
            "make a new one with `ftvm certs`"
        )
    if now < certificate.not_valid_before_utc:
        raise CertificateExpired(
            f"{node_dir / NODE_CERTIFICATE} starts at {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
            "look at this host's clock"
        )
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    return identity_from_names(uris, _common_name(certificate))


def server_context(node_dir: Path) -> ssl.SSLContext:
    """For listeners. Raises CertificateProblem or CertificateExpired."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, node_dir)
    # No tickets: sessions are never resumed, and a ticket would be one more write before the WELCOME.
    context.num_tickets = 0
    return context


def client_context(node_dir: Path) -> ssl.SSLContext:
    """For connections to a listener. Raises CertificateProblem or CertificateExpired."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, node_dir)


def _context(protocol: int, node_dir: Path) -> ssl.SSLContext:
    node_identity(node_dir)
    key_file = node_dir / NODE_KEY
    _read(key_file)
    if key_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise CertificateProblem(f"{key_file} can be read by others; run: chmod 600 {key_file}")
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The name that counts is the URI, which Expectation.check compares; there is no host name.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    try:
        context.load_cert_chain(node_dir / NODE_CERTIFICATE, key_file, password=_no_password)
        context.load_verify_locations(cadata=_read(node_dir / CA_CERTIFICATE).decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
        raise CertificateProblem(f"the certificates in {node_dir} cannot be used: {error}") from error
    return context


def _no_password() -> str:
    """Without it OpenSSL would ask on the terminal for the password of an encrypted key."""
    raise ValueError("the key is encrypted with a password")


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, lifetime_days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=lifetime_days))
    )


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_authority(directory: Path, ca_pem: bytes) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _load_certificate(directory / CA_CERTIFICATE, ca_pem)
    try:
        key = serialization.load_pem_private_key(_read(directory / CA_KEY), password=None)
    except (ValueError, TypeError) as error:
        raise CertificateProblem(f"{directory / CA_KEY} is not a key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CertificateProblem(f"{directory / CA_KEY} is not the key of {directory / CA_CERTIFICATE}")
    return certificate, key


def _load_certificate(path: Path, pem: bytes | None = None) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path) if pem is None else pem)
    except ValueError as error:
        raise CertificateProblem(f"{path} is not a certificate: {error}") from error


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _check_label(what: str, text: str) -> None:
    if not is_label(text):
        raise CertificateProblem(f"the {what} {text!r} is not made of a-z, 0-9 and inner '-', at most 63")


def _make_folder(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CertificateProblem(f"cannot make the folder {directory}: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateProblem(f"cannot read {path}: {error.strerror}; see `ftvm certs`") from error


def _write(path: Path, data: bytes, *, is_secret: bool) -> None:
    """Replace the file at once, so that nobody ever reads half of it, with its mode from the start."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if is_secret else 0o644)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        raise CertificateProblem(f"cannot write {path}: {error.strerror}") from error
