"""How a node starts: cold, as a shadow, or with a log of an earlier life, from which the machine may go on.

With such a log it first waits (`WAITING`): it reads the arbiter's ledger, asks its peers, and tells them what it has.
Then it joins whoever is live, or, when `restart.judge` says that nobody may hold more, replays its log and claims a
generation for it. It does the same whether it was started as primary or as shadow, so one command may always be used;
a primary may beside that start a cold machine after a power-off, and gives up with a line where a shadow goes on
waiting for a node that is live.
"""

from ftvm.errors import ExitCode
from ftvm.log.stamp import Held
from ftvm.replication.arbitration import Cause, State
from ftvm.replication.edge_sessions import Restarted
from ftvm.replication.effects import AskArbiter, Effect, Exit, Join, Note, ReplayLog
from ftvm.replication.events import Absence, Presence, ProbeAnswer
from ftvm.replication.messages import Claim, Kind, Offsets, Read
from ftvm.replication.restart import Judgement, Verdict, judge, reopened
from ftvm.replication.succession import Succession


class Waiting(Succession):
    # ---- start

    def start_primary(
        self, now_ns: int, *, force: bool = False, held: Held | None = None, force_restart: bool = False
    ) -> list[Effect]:
        """Starts a machine, or goes on with it: `held` is what this node's log has of it (None: nothing).

        `force` starts cold, whatever there is; `force_restart` goes on from `held` though others may hold more.
        """
        self._enter(now_ns)
        self._may_boot, self._force, self._force_restart = True, force, force_restart
        if force or (held is None and not force_restart):
            self._boot(1)
        elif held is None:
            self._end(Exit(ExitCode.USAGE, f"{self._config.name} has no log of this machine to go on from"))
        else:
            self._wait(held)
        return self._leave()

    def start_shadow(self, now_ns: int, *, held: Held | None = None) -> list[Effect]:
        """Joins whoever is live; goes on from `held`, what this node's log has, if nobody may hold more."""
        self._enter(now_ns)
        if held is None:
            self._step(Cause.JOIN)
            self._probe(*self._config.peers)
        else:
            self._wait(held)
        return self._leave()

    def _boot(self, want: int) -> None:
        self._executing = True
        self._step(Cause.BOOT)
        self._claim(Kind.BOOT, want=want)

    # ---- looking around

    def _wait(self, held: Held) -> None:
        self._held = held
        self._step(Cause.HOLDS)
        self._waits_since_ns = self._told_at_ns = self._now_ns
        self._look()

    def _look(self) -> None:
        self._read_at_ns = self._now_ns + self._config.claim_retry_ns
        self._replica.emit(AskArbiter(Read()))
        self._probe(*self._config.peers)

    def _bide_waiting(self) -> None:
        if self._now_ns >= self._read_at_ns:
            self._look()
        elif self._now_ns >= self._probe_at_ns:
            self._probe(*self._config.peers)
        self._judge()
        if self._state is State.WAITING and self._now_ns - self._told_at_ns >= self._config.wait_note_ns:
            self._told_at_ns = self._now_ns
            waited_s = (self._now_ns - self._waits_since_ns) // 1_000_000_000
            self._replica.emit(Note(f"{self._waits_for} ({waited_s} s so far)"))

    def _is_live(self, peer: str) -> bool:
        answer = self._answers.get(peer)
        return isinstance(answer, Presence) and answer.live

    def _heard_of(self, peer: str, answer: ProbeAnswer) -> None:
        self._answers[peer] = answer
        self._judge()

    def _judge(self) -> None:
        ledger, held = self._read, self._held
        if self._state is not State.WAITING or held is None:
            return
        live = next((peer for peer in self._config.peers if self._is_live(peer)), "")
        if live:
            self._carry_out(Judgement(Verdict.JOIN, f"{live} is live", live))
        elif ledger is None:
            self._waits_for = "the arbiter was not heard yet"
        elif ledger.off or not (ledger.records or held.stamp):
            if self._may_boot:
                self._boot(ledger.current + 1)
            else:
                self._waits_for = "the machine is off: waits for a node that starts it"
        else:
            # A node that is no part of the configuration any more is one that cannot be asked.
            gone = set() if held.stamp is None else held.stamp.names - {self._config.name, *self._config.peers}
            answers = {**self._answers, **dict.fromkeys(gone, Absence.NO_ANSWER)}
            self._carry_out(judge(self._config.name, ledger, held, answers, forced=self._force_restart))

    def _carry_out(self, judgement: Judgement) -> None:
        waited_ns = self._now_ns - self._waits_since_ns
        if judgement.verdict is not Verdict.REFUSE:
            self._refuses_since_ns = None
        elif self._refuses_since_ns is None:
            # Who made this log outdated may be on its way to go live, and was last heard before.
            self._refuses_since_ns = self._now_ns
        news = judgement.line != self._said and waited_ns >= self._config.probe_retry_ns
        self._waits_for = judgement.line
        match judgement.verdict:
            case Verdict.JOIN if self._force_restart:
                line = f"{judgement.line}: nothing is lost, start this node without force"
                self._end(Exit(ExitCode.CLAIM_LOST, line))
            case Verdict.JOIN:
                if judgement.line != self._said:
                    self._said = judgement.line
                    self._replica.emit(Note(f"{judgement.line}: this node joins it as a shadow"))
                self._replica.emit(Join(judgement.peer))
            case Verdict.RESTART:
                assert self._held is not None
                assert self._held.stamp is not None
                self._replica.emit(Note(judgement.line))
                self._judgement = judgement
                self._step(Cause.ENTITLED)
                self._replica.emit(ReplayLog(reopened(self._held.stamp, self._replica.life, judgement)))
            case Verdict.REFUSE if self._may_boot and self._has_refused_for(self._config.refuse_after_ns):
                self._end(Exit(ExitCode.CLAIM_LOST, judgement.line))
            case Verdict.WAIT if news:
                self._said, self._told_at_ns = judgement.line, self._now_ns
                self._replica.emit(Note(judgement.line))

    def _has_refused_for(self, duration_ns: int) -> bool:
        return self._refuses_since_ns is not None and self._now_ns - self._refuses_since_ns >= duration_ns

    # ---- going on

    def replayed(self, pos: int, tick: int, outputs: Offsets, inputs: Offsets, now_ns: int) -> list[Effect]:
        """The engine's machine stands at the end of the log: after `pos` entries, at `tick`, its streams at these
        offsets."""
        self._enter(now_ns)
        if self._state is State.REPLAYING:
            replica, judgement = self._replica, self._judgement
            assert judgement is not None
            assert self._read is not None
            replica.gate.restore(pos, (), outputs, inputs)
            replica.tick = tick
            self._primary.edges.restarted = Restarted(judgement.base, pos, tick, judgement.line, outputs, inputs)
            self._step(Cause.REPLAYED)
            claim = Claim(
                self._read.current + 1,
                judgement.base,
                judgement.holder_life,
                replica.life,
                Kind.RESTART,
                (),
                self._config.name,
                self._force_restart,
            )
            self._ask(claim)
        return self._leave()

    def replay_failed(self, why: str, code: ExitCode, now_ns: int) -> list[Effect]:
        """The log cannot be gone on from after all."""
        self._enter(now_ns)
        if self._state is State.REPLAYING:
            self._end(Exit(code, f"this node cannot go on from its log: {why}"))
        return self._leave()
