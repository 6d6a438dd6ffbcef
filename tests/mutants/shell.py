"""Faults in what stands around the core: logs, arbiters, transport, who is welcome."""

from tests.mutants.mutant import Mutant

T_WELCOME = ("tests/host/test_welcome.py",)
T_LOG = ("tests/log/test_file.py",)
T_STEPS = ("tests/arbiter/test_steps.py",)

SHELL = (
    # ---- the log on disk
    Mutant(
        "log payload's checksum unchecked",
        "ftvm/log/file.py",
        "            if record is None or self._crc(payload) != record.payload_crc:\n",
        "            if record is None or len(payload) != record.size:\n",
        T_LOG,
        "a flipped bit is another history",
    ),
    Mutant(
        "torn tail accepted as damage-free",
        "ftvm/log/file.py",
        "        self.torn = TornTail(offset, self._size - offset)\n",
        "        self.torn = None\n",
        T_LOG,
        "what a crash left half-written must be cut off and said",
    ),
    Mutant(
        "gap in a log accepted",
        "ftvm/log/file.py",
        "            if record.kind == _SNAPSHOT or record.position != position:\n",
        "            if record.kind == _SNAPSHOT:\n",
        T_LOG,
        "a gap, a duplicate or another order is another history",
    ),
    Mutant(
        "uncommitted entries journalled",
        "ftvm/host/journal.py",
        "        self._write_up_to(self._committed)\n",
        "        self._write_up_to(self._pos)\n",
        ("tests/host/test_journal.py",),
        "what nobody acknowledged is a future that the primary's death undoes",
    ),
    # ---- the directory arbiter and the steps
    Mutant(
        "step created, then written, without link",
        "ftvm/arbiter/directory.py",
        "                os.link(temporary, self._step_path(number))\n",
        "                os.rename(temporary, self._step_path(number))\n"
        "                temporary.touch()\n",
        ("tests/arbiter/test_directory.py::test_of_racing_processes_exactly_one_wins_each_generation",),
        "link fails where the name exists, so that one creator wins",
    ),
    Mutant(
        "arbiter answers before its folder is synced",
        "ftvm/arbiter/directory.py",
        "        self._sync_folder()\n        self._durable = max(self._durable, number)\n",
        "        self._durable = max(self._durable, number)\n",
        ("tests/arbiter/test_directory.py::test_no_answer_before_the_folder_is_synced",),
        "a grant that a power cut takes back is granted twice",
    ),
    Mutant(
        "arbiter's data may go back in time",
        "ftvm/arbiter/steps.py",
        "        if contents[0] != self.last:\n",
        "        if False and contents[0] != self.last:\n",
        T_STEPS,
        "a store put back from a backup would grant the same generation again",
    ),
    # ---- transport
    Mutant(
        "replayed frame accepted",
        "transport/frame.py",
        "        if number < expected:\n",
        "        if number + 1 < expected:\n",
        ("tests/transport/test_frame.py",),
        "a frame is taken once",
    ),
    Mutant(
        "frame's header checksum unchecked",
        "transport/frame.py",
        "        if (crc32(fields),) != _CHECKSUM.unpack(raw[_HEADER.size :]):\n",
        "        if False and (crc32(fields),) != _CHECKSUM.unpack(raw[_HEADER.size :]):\n",
        ("tests/transport/test_frame.py",),
        "a damaged size makes the decoder wait for bytes that never come",
    ),
    Mutant(
        "segment taken twice",
        "transport/session.py",
        "        if number != self._next_number_in:\n",
        "        if number > self._next_number_in:\n",
        ("tests/transport/test_session.py",),
        "nothing is doubled when a session goes on over a new path",
    ),
    Mutant(
        "resumed session skips a segment",
        "transport/session.py",
        "        self._resumed_at = self._next_on_path = received\n",
        "        self._resumed_at = self._next_on_path = min(received + 1, self._next_number_out)\n",
        ("tests/transport/test_resume.py",),
        "nothing is lost when a session goes on over a new path",
    ),
    Mutant(
        "delayed attempt to resume taken",
        "transport/resume.py",
        "        if request.attempt <= self._attempt:\n",
        "        if request.attempt < 0:\n",
        ("tests/transport/test_resume.py",),
        "a replayed RESUME must not move the session to a dead path",
    ),
    Mutant(
        "resume without proof",
        "transport/resume.py",
        "        if request.session_id != self._session_id or not hmac.compare_digest(mac, request.mac):\n",
        "        if request.session_id != self._session_id:\n",
        ("tests/transport/test_resume.py",),
        "only who was welcomed may go on with a session",
    ),
    Mutant(
        "heartbeat replay window off by one",
        "transport/heartbeat.py",
        "or self._seen >> -ahead & 1:\n",
        "or self._seen >> -ahead + 1 & 1:\n",
        ("tests/transport/test_heartbeat.py",),
        "a replayed heartbeat would keep a dead peer alive",
    ),
    Mutant(
        "forged heartbeat moves the window",
        "transport/heartbeat.py",
        "        header = datagram[: _HEADER.size]\n        session_id, counter = _HEADER.unpack(header)\n",
        "        header = datagram[: _HEADER.size]\n        session_id, counter = _HEADER.unpack(header)\n"
        "        self._window.accept(counter)\n",
        ("tests/transport/test_heartbeat.py",),
        "an unauthenticated byte changes nothing",
    ),
    Mutant(
        "role in the certificate ignored",
        "transport/identity.py",
        "        if identity.role not in self.roles:\n",
        "        if not self.roles:\n",
        ("tests/transport/test_tls_channel.py::test_a_client_for_another_machine_or_role_is_told_why",),
        "an edge's certificate must not make a shadow",
    ),
    Mutant(
        "machine in the certificate ignored",
        "transport/identity.py",
        "        if identity.machine_id != self.machine_id:\n",
        "        if not self.machine_id:\n",
        ("tests/transport/test_tls_channel.py::test_a_client_for_another_machine_or_role_is_told_why",),
        "a certificate of the same CA for another machine is a stranger's",
    ),
    Mutant(
        "other image joins",
        "ftvm/host/welcome.py",
        "    if theirs != machine.image_hash:\n",
        "    if not theirs:\n",
        T_WELCOME,
        "another image is another machine",
    ),
    Mutant(
        "role of a caller ignored",
        "ftvm/host/welcome.py",
        "    if identity.role != wanted_role:\n",
        "    if not identity.role:\n",
        T_WELCOME,
        "a node that may only be an edge must not become a shadow",
    ),
)
