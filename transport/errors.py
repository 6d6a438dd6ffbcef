"""What can go wrong with a peer, a certificate or a wire. `str(error)` is one line for a human.

Everything here is somebody else's fault; our own mistakes are assertions.
"""


class TransportError(Exception):
    """The base of all errors of this package."""


class FrameError(TransportError):
    """The bytes of a path are not a sequence of whole frames. The path ends."""


class FrameTruncated(FrameError):
    """The path ended inside a frame."""


class FrameCorrupt(FrameError):
    """A checksum does not match: bits were flipped, or this is not our protocol."""


class FrameOversize(FrameError):
    """A frame is larger than is allowed at this point."""


class FrameUnknownType(FrameError):
    """A frame has a type that this version does not know."""


class FrameGap(FrameError):
    """A frame number was skipped."""


class FrameDuplicate(FrameError):
    """A frame number came again."""


class SessionViolation(TransportError):
    """The peer broke the rules of a session: message numbers, acknowledgements or window."""


class ResumeFailed(TransportError):
    """An interrupted session cannot go on: nobody brought it back in time, or bringing it back does not help."""


class HandshakeViolation(TransportError):
    """The peer's first frames are not a handshake that we understand."""


class HandshakeTimeout(TransportError):
    """The peer did not finish the handshake in time."""


class PeerRefused(TransportError):
    """The peer does not want us. `reason` is its own text."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the peer refused the connection: {reason}")
        self.reason = reason


class Refuse(TransportError):
    """Raised by the application's `accept` callback to refuse a HELLO; the text reaches the peer."""


class CertificateProblem(TransportError):
    """A certificate or key is absent, unreadable, or not acceptable."""


class CertificateExpired(CertificateProblem):
    """A certificate is past its end, or before its start."""


class IdentityMismatch(CertificateProblem):
    """A valid certificate that names another machine, or a role that is not welcome here."""


class ConnectFailed(TransportError):
    """No connection to the peer's port. `refused`: its host answers, and nobody listens there."""

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


class ListenFailed(TransportError):
    """The port cannot be listened on."""


class ChannelClosed(TransportError):
    """The channel has ended: `reason` says why.

    `clean` is True where a side said goodbye, and False where the connection was lost. Only a clean end
    tells that nothing which the peer sent is missing.
    """

    def __init__(self, reason: str, *, clean: bool) -> None:
        super().__init__(f"channel closed: {reason}")
        self.reason = reason
        self.clean = clean
