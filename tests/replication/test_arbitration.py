import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ArbiterError
from ftvm.replication.arbitration import (
    LIVE,
    TRANSITIONS,
    Cause,
    Claimant,
    State,
    decide,
    decide_activation,
    successor,
)
from ftvm.replication.codec import decode_record, encode_record
from ftvm.replication.messages import Activate, Activated, Claim, Granted, Kind, Ledger, Record, Refused

LIVES = tuple(bytes([n]) * 16 for n in range(1, 5))
A, B, C, D = LIVES


def ledger(*records: Record, activated: int | None = None) -> Ledger:
    return Ledger(records, len(records) if activated is None else activated)


BOOTED = Record(1, A, 0, Kind.BOOT)
PROMOTED = Record(2, B, 1, Kind.PROMOTE)

claims = st.builds(
    Claim,
    want=st.integers(1, 6),
    base=st.integers(0, 5),
    base_holder_life=st.sampled_from((b"", *LIVES)),
    life=st.sampled_from(LIVES),
    kind=st.sampled_from(Kind),
    keep=st.just(()),
    holder=st.just(""),
    force=st.booleans(),
)
asked = st.one_of(claims, st.builds(Activate, gen=st.integers(1, 6), life=st.sampled_from(LIVES)))


@settings(max_examples=500, deadline=None)
@given(st.lists(asked, max_size=40))
def test_a_generation_belongs_to_one_life_for_ever(requests: list[Claim | Activate]) -> None:
    """Whatever is asked in whatever order: two lives are never granted the same generation, the same question gets
    the same grant again, generations grow by one, and only the newest one's holder activates."""
    state = Ledger()
    granted: dict[int, bytes] = {}
    for request in requests:
        if isinstance(request, Activate):
            answer, new = decide_activation(state, request)
            if isinstance(answer, Activated):
                assert granted[request.gen] == request.life
                assert request.gen == state.current
            assert new <= isinstance(answer, Activated)
            if new:
                state = Ledger(state.records, request.gen)
            continue
        decision, record = decide(state, request)
        if record is not None:
            assert record.gen == state.current + 1
            assert isinstance(decision, Granted)
            state = Ledger((*state.records, record), state.last_activated)
        if isinstance(decision, Granted):
            assert granted.setdefault(request.want, request.life) == request.life
        assert decide(state, request)[0] == decision or isinstance(decision, Refused)
        assert state.last_activated <= state.current


@given(st.permutations(range(2)), st.integers(0, 3), st.booleans())
def test_two_claimants_never_both_win(order: list[int], stale_rounds: int, void: bool) -> None:
    """Both decide from the same old ledger; whose record is created second must decide again and is refused."""
    start = ledger(BOOTED, PROMOTED, activated=1) if void else ledger(BOOTED)
    kind = Kind.VOID if void else Kind.PROMOTE
    asks = [Claim(start.current + 1, 1, A, life, kind) for life in (C, D)]
    first, second = (asks[index] for index in order)
    won, record = decide(start, first)
    assert isinstance(won, Granted)
    assert record is not None
    for _ in range(stale_rounds):
        assert isinstance(decide(start, second)[0], Granted)
    after = Ledger((*start.records, record), start.last_activated)
    assert isinstance(decide(after, second)[0], Refused)


@pytest.mark.parametrize(
    ("state", "claim", "granted"),
    [
        (ledger(), Claim(1, 0, b"", A, Kind.BOOT), True),
        (ledger(BOOTED), Claim(2, 0, b"", B, Kind.BOOT), False),
        (ledger(BOOTED), Claim(2, 0, b"", B, Kind.BOOT, force=True), True),
        (ledger(BOOTED), Claim(2, 1, A, B, Kind.PROMOTE), True),
        (ledger(BOOTED), Claim(2, 1, C, B, Kind.PROMOTE), False),
        (ledger(BOOTED), Claim(3, 1, A, B, Kind.PROMOTE), False),
        (ledger(BOOTED, PROMOTED), Claim(3, 1, A, C, Kind.PROMOTE), False),
        (ledger(BOOTED, PROMOTED), Claim(3, 1, A, C, Kind.VOID), False),
        (ledger(BOOTED, PROMOTED, activated=1), Claim(3, 1, A, C, Kind.VOID), True),
        (ledger(BOOTED, PROMOTED, activated=1), Claim(3, 1, B, C, Kind.VOID), False),
        (ledger(BOOTED, Record(2, A, 1, Kind.OFF), activated=1), Claim(3, 1, A, B, Kind.VOID), False),
        (ledger(BOOTED, Record(2, A, 1, Kind.OFF)), Claim(3, 2, A, B, Kind.PROMOTE), False),
        (ledger(BOOTED, Record(2, A, 1, Kind.OFF)), Claim(3, 0, b"", B, Kind.BOOT), True),
        (ledger(BOOTED), Claim(2, 1, A, A, Kind.OFF), True),
    ],
)
def test_grant_rule(state: Ledger, claim: Claim, granted: bool) -> None:
    answer, record = decide(state, claim)
    assert isinstance(answer, Granted) == granted
    assert (record is not None) == granted
    if isinstance(answer, Refused):
        assert answer == Refused(claim.want, claim.life, state.records, state.last_activated, state.off)


def test_activation_is_refused_once_a_newer_generation_is_granted() -> None:
    state = ledger(BOOTED, PROMOTED, Record(3, C, 1, Kind.VOID), activated=1)
    assert isinstance(decide_activation(state, Activate(2, B))[0], Refused)
    assert decide_activation(state, Activate(3, C)) == (Activated(3, C), True)
    assert decide_activation(ledger(BOOTED), Activate(1, A)) == (Activated(1, A), False)


def test_late_answers_settle_nothing() -> None:
    claimant = Claimant(100)
    assert claimant.take(Granted(2, A)) is None
    claim = Claim(2, 1, B, A, Kind.PROMOTE)
    claimant.ask(claim, 0)
    assert claimant.take(Granted(1, A)) is None
    assert claimant.take(Granted(2, B)) is None
    assert claimant.take(Activated(2, A)) is None
    assert claimant.take(Refused(3, A, (), 0, False)) is None
    assert claimant.due(99) is None
    assert claimant.due(100) is claim
    assert claimant.due(150) is None
    assert claimant.take(Granted(2, A)) is claim
    assert claimant.due(1000) is None
    claimant.ask(Activate(2, A), 0)
    assert claimant.take(Granted(2, A)) is None
    assert claimant.take(Activated(2, A)) == Activate(2, A)


def test_every_state_can_be_reached_and_only_what_the_table_names_leads_on() -> None:
    reached = {State.STARTING, State.OVER}
    while True:
        more = {after for state in reached for after in TRANSITIONS[state].values()}
        if more <= reached:
            break
        reached |= more
    assert reached == set(State)
    assert set(TRANSITIONS) == set(State)
    for state in State:
        assert successor(state, Cause.ENDED) is State.OVER
        for cause in set(Cause) - set(TRANSITIONS[state]) - {Cause.ENDED}:
            with pytest.raises(AssertionError):
                successor(state, cause)


def test_no_way_goes_live_but_through_activation() -> None:
    activated = {State.ACTIVATING, State.CONSUMING}
    for state, causes in TRANSITIONS.items():
        for after in causes.values():
            if after in LIVE and state not in LIVE:
                assert state in activated
    entering = [state for state, causes in TRANSITIONS.items() if State.ACTIVATING in causes.values()]
    for state in entering:
        assert TRANSITIONS[state][Cause.GRANTED] is State.ACTIVATING


@given(
    st.builds(
        Record,
        gen=st.integers(0, 1 << 60),
        life=st.sampled_from(LIVES),
        base=st.integers(0, 1 << 60),
        kind=st.sampled_from(Kind),
        keep=st.lists(st.sampled_from(LIVES), max_size=4).map(tuple),
        holder=st.text(max_size=20),
    )
)
def test_records_round_trip(record: Record) -> None:
    encoded = encode_record(record)
    assert encoded.endswith(b"\n")
    assert decode_record(encoded) == record
    for cut in range(len(encoded) - 1):
        with pytest.raises(ArbiterError):
            decode_record(encoded[:cut])


@given(st.binary(max_size=200))
def test_junk_is_no_record(junk: bytes) -> None:
    with pytest.raises(ArbiterError):
        decode_record(junk)
