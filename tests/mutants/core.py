"""Faults in the replication core."""

from tests.mutants.mutant import Mutant

ARBITRATION = "ftvm/replication/arbitration.py"
PRIMARY = "ftvm/replication/primary.py"
SHADOW = "ftvm/replication/shadow.py"
SUCCESSION = "ftvm/replication/succession.py"
GATE = "ftvm/replication/output_gate.py"
EDGE = "ftvm/replication/edge.py"
SESSIONS = "ftvm/replication/edge_sessions.py"
RESTART = "ftvm/replication/restart.py"
LOCAL = "ftvm/replication/local_streams.py"
T_LOCAL = ("tests/replication/test_local_streams.py",)
T_ARBITRATION = ("tests/replication/test_arbitration.py",)
T_PRIMARY = ("tests/replication/test_primary.py", "tests/replication/test_members.py")
T_SHADOW = ("tests/replication/test_shadow.py",)
T_EDGE = ("tests/replication/test_edge.py",)
T_GATE = ("tests/replication/test_output_gate.py", "tests/replication/test_members.py")
T_MEMBERS = ("tests/replication/test_members.py",)
T_RESTART = ("tests/replication/test_restart.py",)

CORE = (
    # ---- the gate
    Mutant(
        "output released before acknowledgement",
        PRIMARY,
        "if gate.commit(min((member.acked for member in self.members()), default=gate.end)):",
        "if gate.commit(gate.end):",
        T_PRIMARY,
        "the Output Rule: a survivor must hold the log that explains what the world has seen",
        sample=True,
    ),
    Mutant(
        "one acknowledgement of several is enough",
        PRIMARY,
        "if gate.commit(min((member.acked for member in self.members()), default=gate.end)):",
        "if gate.commit(max((member.acked for member in self.members()), default=gate.end)):",
        T_PRIMARY,
        "the policy is that all members hold it",
    ),
    Mutant(
        "input acknowledged before it is committed",
        GATE,
        "        return self._streams[device].acked\n",
        "        return self._streams[device].logged\n",
        T_PRIMARY + T_GATE,
        "an acknowledgement is an output: after it the client does not repeat its input",
    ),
    Mutant(
        "retained output trimmed when released",
        GATE,
        "            if stream.confirmed > piece.offset:\n",
        "            if stream.confirmed >= piece.offset:\n                stream.confirmed = stream.end\n",
        T_GATE + T_PRIMARY,
        "what the edge did not confirm must be there to be repeated",
    ),
    Mutant(
        "output of a snapshot not contiguous",
        GATE,
        "if piece.offset != self._streams[piece.device].end or not piece.data:",
        "if not piece.data:",
        T_GATE + T_SHADOW,
        "a joiner that was sent output with a gap would go live with it",
    ),
    # ---- the primary
    Mutant(
        "no generation check",
        PRIMARY,
        "        if message.gen != self._replica.generation:\n            return False\n",
        "",
        T_PRIMARY,
        "an acknowledgement of another generation says nothing about this one",
    ),
    Mutant(
        "mark before the gate is closed",
        PRIMARY,
        "        follower.stage = Stage.MEMBER\n        follower.token",
        "        follower.token",
        T_PRIMARY,
        "who has the Mark believes itself eligible, so nothing may be committed without it",
    ),
    Mutant(
        "stale member admitted to a new generation",
        PRIMARY,
        "if follower.stage is not Stage.MEMBER or follower.life not in kept:",
        "if follower.stage is not Stage.MEMBER:",
        T_PRIMARY,
        "only those whom the record names stay",
    ),
    Mutant(
        "acknowledgement of what was never sent",
        PRIMARY,
        "if message.pos > gate.end or message.life != follower.life:",
        "if message.life != follower.life:",
        T_PRIMARY,
        "a wrong peer must not bring the primary down",
    ),
    Mutant(
        "joiner's acknowledgements count",
        PRIMARY,
        "            case Ack() if follower.stage is Stage.MEMBER:\n",
        "            case Ack():\n                follower.stage = Stage.MEMBER\n",
        T_PRIMARY,
        "who was not marked is no member",
    ),
    Mutant(
        "last entry of a cut batch dropped",
        PRIMARY,
        "            yield start, tuple(entries[start:index])\n",
        "            yield start, tuple(entries[start : index - 1])\n",
        T_PRIMARY,
        "a clock entry that is dropped makes the shadow another machine",
    ),
    # ---- the shadow
    Mutant(
        "shadow takes every generation's messages",
        SHADOW,
        "            case _ if message.gen != self._replica.generation and not isinstance(message, NewGeneration):\n"
        "                pass\n",
        "",
        T_SHADOW,
        "a stream of another generation is another history",
    ),
    Mutant(
        "shadow acknowledges before its Mark",
        SHADOW,
        "        if not self.in_sync or self.session is None:\n",
        "        if self.session is None:\n",
        T_SHADOW,
        "a joiner is not eligible, so its acknowledgement is no promise",
    ),
    Mutant(
        "gap in the log accepted",
        SHADOW,
        "        if not self.restored or pos != self._replica.gate.end:\n",
        "        if not self.restored:\n",
        T_SHADOW,
        "a log with a hole explains nothing after it",
    ),
    Mutant(
        "horizon not run out before going live",
        SHADOW,
        "        return self.restored and self.applied == self._replica.gate.end\n",
        "        return self.restored\n",
        T_SHADOW,
        "all log that was acknowledged is part of the history",
    ),
    Mutant(
        "input logged twice accepted",
        SHADOW,
        "                if logged.get(entry.device) != entry.offset:\n",
        "                if logged.get(entry.device, 0) < entry.offset:\n",
        ("tests/replication/test_shadow.py",),
        "an input is applied once",
    ),
    # ---- the arbiter's rule
    Mutant(
        "grant without base check",
        ARBITRATION,
        "    return claim.base == ledger.current\n",
        "    return True\n",
        T_ARBITRATION,
        "who was not in sync with the newest generation must not have the next",
        sample=True,
    ),
    Mutant(
        "void without activation check",
        ARBITRATION,
        "        return ledger.last_activated == claim.base or (claim",
        "        return claim.base > 0 or (claim",
        T_ARBITRATION,
        "an activated generation has released output",
    ),
    Mutant(
        "base of another life",
        ARBITRATION,
        "    if base is None or base.life != claim.base_holder_life:\n",
        "    if base is None:\n",
        T_ARBITRATION,
        "a generation is known by its holder's life, not by its number alone",
    ),
    Mutant(
        "off is no end",
        ARBITRATION,
        "    if ledger.off:\n        return False\n",
        "",
        T_ARBITRATION,
        "a machine that was powered off must not come back by a failover",
    ),
    Mutant(
        "generation granted twice",
        ARBITRATION,
        "    if held is not None and held.life == claim.life:\n",
        "    if held is not None:\n",
        T_ARBITRATION,
        "one holder a generation",
    ),
    Mutant(
        "superseded grant activated",
        ARBITRATION,
        "(current.gen, current.life) == (activate.gen, activate.life) and",
        "ledger.record(activate.gen) is not None and",
        T_ARBITRATION,
        "who was voided must not go live",
    ),
    Mutant(
        "answers to older requests are taken",
        ARBITRATION,
        "        if request is None or _subject(answer, request) != (_gen(request), request.life):\n",
        "        if request is None:\n",
        T_ARBITRATION + T_SHADOW,
        "a late grant is no proof of being current",
    ),
    # ---- succession
    Mutant(
        "arbiter skipped when a member is lost",
        SUCCESSION,
        "        self._claim(Kind.RECONFIGURE if keep else Kind.SOLO, keep=keep)\n",
        "        self._step(Cause.GRANTED)\n        self._keep = keep\n"
        "        self._activated(self._replica.generation + 1)\n",
        T_PRIMARY,
        "the lost member may be claiming: two would be live",
    ),
    Mutant(
        "commits while it claims",
        SUCCESSION,
        "        self._primary.committing = False\n        self._primary.running = True\n",
        "        self._primary.running = True\n",
        T_PRIMARY,
        "the lost member may win, and lacks what is committed without it",
    ),
    Mutant(
        "kept by anybody's record",
        SUCCESSION,
        "if record is not None and record.life == self._shadow.primary_life and self._replica.life in record.keep:",
        "if record is not None and record.life == self._shadow.primary_life:",
        T_SHADOW,
        "a member that was dropped is stale",
    ),
    Mutant(
        "refused node is not silent",
        SUCCESSION,
        "        self._primary.edges.fall_silent()\n        self._primary.running = False\n",
        "        self._primary.running = False\n",
        T_MEMBERS,
        "who lost its claim is a zombie from there on",
    ),
    Mutant(
        "void without looking at the activation",
        "ftvm/replication/node.py",
        "        mine = self._ledger.last_activated == self._replica.generation\n",
        "        mine = True\n",
        T_SHADOW + T_PRIMARY,
        "who was not in sync with what counts asks in vain, for ever",
    ),
    Mutant(
        "kept for a generation that never counted",
        SUCCESSION,
        "        self._replica.generation = min(self._replica.generation, self._ledger.last_activated)\n",
        "",
        T_MEMBERS,
        "the last copy could not void what came after",
    ),
    # ---- the edge
    Mutant(
        "edge fence off",
        EDGE,
        "        if message.gen < self._generation:\n",
        "        if message.gen < 0:\n",
        T_EDGE,
        "a zombie's bytes must not reach a client",
        sample=True,
    ),
    Mutant(
        "edge hears who is not attached",
        EDGE,
        "            case _ if session != self._session or message.gen != self._generation:\n"
        "                self._refused += 1\n",
        "",
        T_EDGE,
        "one node speaks for a generation",
    ),
    Mutant(
        "repeated output off by one",
        EDGE,
        "        lacking = message.data[stream.have - message.offset :]\n",
        "        lacking = message.data[max(stream.have - message.offset - 1, 0) :]\n",
        T_EDGE,
        "each byte passes once",
    ),
    Mutant(
        "repeated input off by one",
        SESSIONS,
        "        data = message.data[expected - message.offset :]\n",
        "        data = message.data[max(expected - message.offset - 1, 0) :]\n",
        T_PRIMARY,
        "an input is applied once",
    ),
    Mutant(
        "edge forgets inputs that nobody acknowledged",
        EDGE,
        "            stream.sent = stream.acked or 0\n",
        "            stream.sent = stream.accepted\n",
        T_EDGE,
        "the new primary must hear what the old one took and nobody else holds",
    ),
    Mutant(
        "edge resumes below what was confirmed",
        SESSIONS,
        "            if have < confirmed[device]:\n",
        "            if have < 0:\n",
        T_MEMBERS,
        "what was trimmed cannot be repeated: a hole must be an error",
    ),
    Mutant(
        "input of another generation taken",
        SESSIONS,
        "            case _ if not self.live or message.gen != self._replica.generation:\n",
        "            case _ if not self.live:\n",
        T_MEMBERS,
        "the edge numbers what it sends by what this generation told it",
    ),
    # ---- restart
    Mutant(
        "restart though a member cannot be asked",
        RESTART,
        '            return "it cannot be reached, and may be alive and hold more"\n',
        '            return ""\n',
        T_RESTART,
        "a member that is cut off may be live",
    ),
    Mutant(
        "shorter log goes first",
        RESTART,
        "        if outdated or (-theirs.pos, peer) < (-held.pos, name):\n",
        "        if outdated or (theirs.pos, peer) < (held.pos, name):\n",
        T_RESTART,
        "the longest log holds what any of them holds",
    ),
    Mutant(
        "log of a kept member worth nothing",
        RESTART,
        "        if stamp.holder_life == reconfigured.life == record.life:\n",
        "        if False and stamp.holder_life == reconfigured.life == record.life:\n",
        T_MEMBERS,
        "a shorter log would go first",
    ),
    # ---- devices without an edge
    Mutant(
        "lease from when an acknowledgement is read",
        LOCAL,
        "self._proven_ns = max(self._proven_ns, self._sent.popleft()[1])",
        "self._proven_ns = self._replica.now_ns * len(self._sent.popleft())",
        T_LOCAL,
        "after a stop of the process an old acknowledgement is read, and a shadow has gone live since",
    ),
    Mutant(
        "lease that begins before the log is committed",
        LOCAL,
        "while self._sent and self._sent[0][0] <= gate.committed:",
        "while self._sent:",
        T_LOCAL,
        "what was sent proves nothing: only that it was acknowledged does",
    ),
    Mutant(
        "lease of a node that lost the next generation",
        LOCAL,
        "        if not self.live:\n            return 0\n        return self._proven_ns",
        "        return self._proven_ns",
        T_LOCAL,
        "who is frozen may have been superseded",
    ),
    Mutant(
        "emitted frames not confirmed",
        LOCAL,
        "                gate.confirm(device, pieces[-1].offset + len(pieces[-1].data))\n",
        "                return\n",
        T_LOCAL,
        "nobody else would ever confirm them: they would be kept until nothing more is taken",
    ),
)
