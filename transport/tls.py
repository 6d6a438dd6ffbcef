"""TLS 1.3, mutual, as a transformer of bytes without I/O.

Why not trio.SSLStream: there, cancelling `send_all` ruins the stream, a second sender is an error, and
every message costs several scheduler rounds. Here encryption never waits: ciphertext goes to a buffer,
and who writes that buffer to the socket may be cancelled at any point. It also lets a server send the
alert that tells a client why it is refused; with TLS 1.3 the client's own handshake has already
succeeded by then, so only the application's WELCOME says that a client is accepted.
"""

import contextlib
import ssl
from typing import Any, Protocol

from transport.errors import CertificateExpired, CertificateProblem, TransportError
from transport.identity import Identity, identity_from_names

_READ_SIZE = 64 * 1024
_VERIFY_CODE_NOT_YET_VALID = 9
_VERIFY_CODE_EXPIRED = 10


class TlsFailed(TransportError):
    """The bytes of the peer are not TLS 1.3, were tampered with, or end the TLS session with an alert."""


class Cipher(Protocol):
    """What a path needs of its encryption."""

    def handshake(self) -> bool: ...
    def peer_identity(self) -> Identity: ...
    def feed(self, data: bytes) -> None: ...
    def read(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    def take(self) -> bytes: ...
    def close(self) -> None: ...


class TlsCipher:
    """One side of one TLS connection. Raises TlsFailed or a CertificateProblem."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)

    def handshake(self) -> bool:
        """Go on with the handshake; True when this side has finished."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise _translate(error) from error
        return True

    def peer_identity(self) -> Identity:
        """Who the verified certificate of the peer is for. Raises IdentityMismatch."""
        certificate: dict[str, Any] = self._object.getpeercert() or {}
        names = certificate.get("subjectAltName", ())
        subject = certificate.get("subject", ())
        common_names = [str(value) for part in subject for key, value in part if key == "commonName"]
        return identity_from_names(
            (str(value) for kind, value in names if kind == "URI"), common_names[0] if common_names else ""
        )

    def feed(self, data: bytes) -> None:
        """Bytes from the wire."""
        self._incoming.write(data)

    def read(self) -> bytes:
        """All plaintext there is now; b"" when there is none, also after the peer's close_notify."""
        parts: list[bytes] = []
        try:
            while part := self._object.read(_READ_SIZE):
                parts.append(part)
                if not self._incoming.pending and not self._object.pending():
                    break
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        except ssl.SSLError as error:
            raise _translate(error) from error
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def write(self, data: bytes) -> None:
        """Encrypt; never waits. Nothing may be written after `close`."""
        try:
            self._object.write(data)
        except ssl.SSLError as error:
            raise _translate(error) from error

    def take(self) -> bytes:
        """Bytes for the wire."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close(self) -> None:
        """Add close_notify to the bytes for the wire."""
        # SSLWantRead: the peer's own close_notify is not here yet; ours is written. Any other error: the
        # session is broken already, and then there is nobody to notify.
        with contextlib.suppress(ssl.SSLError):
            self._object.unwrap()


_ALERTS = {
    "CERTIFICATE_EXPIRED": "our certificate has expired; make a new one",
    "UNKNOWN_CA": "our certificate is from another authority",
    "CERTIFICATE_REQUIRED": "it needs a certificate, and we have shown none",
    "BAD_CERTIFICATE": "our certificate is not acceptable",
    "UNSUPPORTED_CERTIFICATE": "our certificate is not meant for this use",
    "PROTOCOL_VERSION": "it does not speak our version of TLS",
}


def _translate(error: ssl.SSLError) -> TransportError:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (_VERIFY_CODE_EXPIRED, _VERIFY_CODE_NOT_YET_VALID):
            return CertificateExpired(f"the peer's certificate is not valid now: {error.verify_message}")
        return CertificateProblem(f"the peer's certificate is not acceptable: {error.verify_message}")
    reason = error.reason or type(error).__name__
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return CertificateProblem("the peer has shown no certificate")
    if "ALERT" in reason:
        for name, meaning in _ALERTS.items():
            if reason.endswith(name):
                kind = CertificateExpired if name == "CERTIFICATE_EXPIRED" else CertificateProblem
                return kind(f"the peer refused us: {meaning}")
    return TlsFailed(f"TLS failed: {reason.replace('_', ' ').lower()}")
