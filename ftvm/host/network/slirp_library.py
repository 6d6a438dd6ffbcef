"""libslirp 4.x by ctypes: its structures, its functions, and nothing of ours. (libslirp.h; configuration version 1.)

Addresses are in network order. `in_addr` travels by value. The structure of callbacks is kept by pointer: it and its
callbacks have to outlive the stack.
"""

import ctypes
import os
import socket
import sys
from functools import cache
from typing import Any

from ftvm.errors import FtvmError

NAME = "libslirp.so.0"
PACKAGE = "libslirp0"
CONFIG_VERSION = 1
POLL_IN, POLL_OUT, POLL_PRI, POLL_ERR, POLL_HUP = 1, 2, 4, 8, 16
TIMEOUT_NONE = 0xFFFF_FFFF

_POINTER = ctypes.c_void_p
SendPacket = ctypes.CFUNCTYPE(ctypes.c_ssize_t, _POINTER, ctypes.c_size_t, _POINTER)
GuestError = ctypes.CFUNCTYPE(None, ctypes.c_char_p, _POINTER)
ClockGetNs = ctypes.CFUNCTYPE(ctypes.c_int64, _POINTER)
TimerNew = ctypes.CFUNCTYPE(_POINTER, _POINTER, _POINTER, _POINTER)
TimerFree = ctypes.CFUNCTYPE(None, _POINTER, _POINTER)
TimerMod = ctypes.CFUNCTYPE(None, _POINTER, ctypes.c_int64, _POINTER)
PollFd = ctypes.CFUNCTYPE(None, ctypes.c_int, _POINTER)
Notify = ctypes.CFUNCTYPE(None, _POINTER)
AddPoll = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, _POINTER)
GetRevents = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, _POINTER)


class InAddr(ctypes.Structure):
    _fields_ = (("s_addr", ctypes.c_uint32),)

    @classmethod
    def of(cls, address: str) -> "InAddr":
        return cls(int.from_bytes(socket.inet_aton(address), sys.byteorder))


class In6Addr(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint32 * 4),)


class SlirpConfig(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32),
        ("restricted", ctypes.c_int),
        ("in_enabled", ctypes.c_bool),
        ("vnetwork", InAddr),
        ("vnetmask", InAddr),
        ("vhost", InAddr),
        ("in6_enabled", ctypes.c_bool),
        ("vprefix_addr6", In6Addr),
        ("vprefix_len", ctypes.c_uint8),
        ("vhost6", In6Addr),
        ("vhostname", ctypes.c_char_p),
        ("tftp_server_name", ctypes.c_char_p),
        ("tftp_path", ctypes.c_char_p),
        ("bootfile", ctypes.c_char_p),
        ("vdhcp_start", InAddr),
        ("vnameserver", InAddr),
        ("vnameserver6", In6Addr),
        ("vdnssearch", _POINTER),
        ("vdomainname", ctypes.c_char_p),
        ("if_mtu", ctypes.c_size_t),
        ("if_mru", ctypes.c_size_t),
        ("disable_host_loopback", ctypes.c_bool),
        ("enable_emu", ctypes.c_bool),
    )


class SlirpCb(ctypes.Structure):
    _fields_ = (
        ("send_packet", SendPacket),
        ("guest_error", GuestError),
        ("clock_get_ns", ClockGetNs),
        ("timer_new", TimerNew),
        ("timer_free", TimerFree),
        ("timer_mod", TimerMod),
        ("register_poll_fd", PollFd),
        ("unregister_poll_fd", PollFd),
        ("notify", Notify),
        # For configurations of version 4 on; libslirp copies nothing, so they must be there.
        ("init_completed", _POINTER),
        ("timer_new_opaque", _POINTER),
    )


@cache
def load() -> Any:
    """The library, its functions declared. Raises `FtvmError` where it is not installed."""
    try:
        library = ctypes.CDLL(NAME, use_errno=True)
    except OSError:
        raise FtvmError(f"--net user needs {NAME}, which is not here; install it: apt-get install {PACKAGE}") from None
    library.slirp_new.restype = _POINTER
    library.slirp_new.argtypes = [ctypes.POINTER(SlirpConfig), ctypes.POINTER(SlirpCb), _POINTER]
    library.slirp_cleanup.restype = None
    library.slirp_cleanup.argtypes = [_POINTER]
    library.slirp_input.restype = None
    library.slirp_input.argtypes = [_POINTER, ctypes.c_char_p, ctypes.c_int]
    library.slirp_pollfds_fill.restype = None
    library.slirp_pollfds_fill.argtypes = [_POINTER, ctypes.POINTER(ctypes.c_uint32), AddPoll, _POINTER]
    library.slirp_pollfds_poll.restype = None
    library.slirp_pollfds_poll.argtypes = [_POINTER, ctypes.c_int, GetRevents, _POINTER]
    library.slirp_add_hostfwd.restype = ctypes.c_int
    library.slirp_add_hostfwd.argtypes = [_POINTER, ctypes.c_int, InAddr, ctypes.c_int, InAddr, ctypes.c_int]
    library.slirp_remove_hostfwd.restype = ctypes.c_int
    library.slirp_remove_hostfwd.argtypes = [_POINTER, ctypes.c_int, InAddr, ctypes.c_int]
    return library


def error_of_last_call() -> str:
    """What `errno` says after a function that failed."""
    return os.strerror(ctypes.get_errno())
