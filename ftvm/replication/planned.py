"""What an operator may ask of a node: to hand over, to take over, to power the machine off."""

from ftvm.errors import ExitCode
from ftvm.log.entry import Action
from ftvm.replication.arbitration import ACCEPTING, LIVE, State
from ftvm.replication.effects import Effect, Exit, InjectControl, Quiesce
from ftvm.replication.messages import Record
from ftvm.replication.waiting import Waiting


class Planned(Waiting):
    def ask_hand_over(self, now_ns: int, *, to: str = "", leave: bool = False) -> list[Effect]:
        """Gives the machine to the shadow, if there is one in sync; takes it back if that does not claim in time.

        `to` names which one. With `leave` this node ends once the other is live, instead of joining it.
        """
        self._enter(now_ns)
        if not self.hand_over_obstacle(to):
            self._hand_over_to, self._leaves = to, leave
            self._primary.stand_still()
            self._primary.edges.takes_input = False
            self._since_ns = now_ns
            self._replica.emit(Quiesce())
        return self._leave()

    def hand_over_obstacle(self, to: str = "") -> str:
        """Why the machine cannot be handed over (to that node) now; "" if it can."""
        members = {member.peer: member for member in self._primary.members()}
        joiners = [one.peer for one in self._primary.followers.values() if one.peer not in members]
        lag = max((self._replica.tick - one.tick for name, one in members.items() if to in ("", name)), default=0)
        match self._state:
            case _ if self._halt is not None:
                return f"the guest has halted ({self._halt.how}, code {self._halt.code}): there is nothing to hand over"
            case State.CEDING:
                return "a hand-over is under way already"
            case State.PROTECTED if not self._primary.running:
                return "a hand-over is under way already"
            case State.SOLO if joiners:
                return f"{', '.join(joiners)} is joining and not in sync yet: wait until it is"
            case State.SOLO:
                return "no shadow is in sync: start one with `ftvm shadow`"
            case State.PROTECTED if to and to not in members:
                return f"{to} is not in sync" + (", it is joining: wait until it is" if to in joiners else ": start it")
            case State.PROTECTED if lag > self._config.lag_ticks_max:
                return f"the shadow is {lag} ticks behind (more than {self._config.lag_ticks_max}): ask again"
            case State.PROTECTED:
                return ""
        return f"{self._config.name} does not run the machine live now ({self._state.name})"

    @property
    def hands_over(self) -> bool:
        """A hand-over was begun, and nobody knows yet how it ends."""
        resting = self._state is State.PROTECTED and not self._primary.running
        settled = self._state in ACCEPTING or self._state is State.OVER
        return resting or not settled

    @property
    def newest_record(self) -> Record | None:
        """Of what the arbiter last told this node."""
        return self._ledger.records[-1] if self._ledger.records else None

    def _leave_for(self, peer: str) -> None:
        newest = self._ledger.records[-1]
        self._stamper.left(newest.gen, newest.life)
        self._end(Exit(ExitCode.OK, f"the machine runs on {peer} in generation {newest.gen}: this node has left it"))

    def ask_promote(self, now_ns: int) -> list[Effect]:
        """A shadow in sync claims now, as if its primary were dead.

        The session stays open until the arbiter has answered: a primary that lives would claim as soon as it is lost,
        and who is quicker would have the machine, not who was asked to.
        """
        self._enter(now_ns)
        if self._state in (State.IN_SYNC, State.SUSPECT):
            self._supersede("the operator asks for it")
        return self._leave()

    def _give_up_planned(self) -> None:
        """A change of roles that was begun, and has had its time."""
        match self._state:
            case State.PROTECTED if not self._primary.running:
                self._primary.running = True
                self._leaves = False
                self._primary.edges.take_input()
            case State.CEDING:
                for member in self._primary.members():
                    self._primary.close(member, "it did not take the machine over")
                self._lose_member()
            case State.CLAIMING:
                # Its primary waits for what a sealed shadow never says, and may be nearer to the arbiter.
                self._shadow.detach("it claims the next generation, and the arbiter does not answer it")

    def ask_power_off(self, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        if self._state in LIVE and self._executing:
            self._replica.emit(InjectControl(Action.POWER_OFF))
        return self._leave()

    def ask_reset(self, now_ns: int) -> list[Effect]:
        """The board's reset button: logged like any input, so every replica resets at the same tick."""
        self._enter(now_ns)
        if self._state in ACCEPTING and self._halt is None:
            self._replica.emit(InjectControl(Action.RESET))
        return self._leave()
