from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.log.entry import Horizon, Input
from ftvm.replication.messages import Piece
from ftvm.replication.output_gate import PIECE_BYTES, PIECE_SIZE_MAX, RELEASED_MAX, OutputGate

DEVICE = "uart0"

steps = st.lists(
    st.one_of(
        st.tuples(st.just("log"), st.integers(1, 3)),
        st.tuples(st.just("hear"), st.integers(1, 5)),
        st.tuples(st.just("say"), st.integers(1, 6)),
        st.tuples(st.just("commit"), st.integers(0, 4)),
        st.tuples(st.just("confirm"), st.integers(0, 6)),
        st.tuples(st.just("release"), st.just(0)),
        st.tuples(st.just("rewind"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_nothing_beyond_the_committed_position_is_released(plan: list[tuple[str, int]]) -> None:
    """Against a plain list of (position that explains it, byte): what comes out is committed, complete, in order and
    once per attachment; what is unconfirmed is retained; an input counts as acknowledged when its entry is committed.
    """
    gate = OutputGate([DEVICE])
    said: list[tuple[int, int]] = []
    heard: list[int] = []
    confirmed = out = 0
    for step, amount in plan:
        match step:
            case "log":
                gate.log([Horizon(0)] * amount)
            case "hear":
                gate.log([Input(0, DEVICE, len(heard), bytes(amount))])
                heard += [gate.end] * amount
            case "say":
                data = bytes((len(said) + k) & 0xFF for k in range(amount))
                gate.produce([Piece(DEVICE, len(said), data)])
                said += [(gate.end, byte) for byte in data]
            case "commit":
                gate.commit(min(gate.committed + amount, gate.end))
            case "confirm":
                confirmed = min(confirmed + amount, out)
                gate.confirm(DEVICE, confirmed)
            case "rewind":
                gate.rewind(DEVICE)
                out = confirmed
            case "release":
                for piece in gate.release():
                    assert piece.offset == out
                    for byte in piece.data:
                        pos, expected = said[out]
                        assert byte == expected
                        assert pos <= gate.committed
                        out += 1
                assert out == len(said) or said[out][0] > gate.committed
        assert gate.committed <= gate.end
        retained = gate.retained()
        assert b"".join(piece.data for piece in retained) == bytes(byte for _, byte in said[confirmed:])
        assert gate.retained_bytes == sum(PIECE_BYTES + len(piece.data) for piece in retained)
        assert gate.acked(DEVICE) == sum(pos <= gate.committed for pos in heard)


def test_a_shadow_may_know_of_confirmations_beyond_what_it_has_executed() -> None:
    gate = OutputGate([DEVICE])
    gate.log([Horizon(5)])
    gate.confirm(DEVICE, 4)
    gate.produce([Piece(DEVICE, 0, b"abcdef")])
    assert gate.retained() == (Piece(DEVICE, 4, b"ef"),)


def test_restored_gate_releases_the_retained_tail_once_it_is_committed() -> None:
    first = OutputGate([DEVICE])
    first.log([Horizon(1), Input(1, DEVICE, 0, b"xy")])
    first.produce([Piece(DEVICE, 0, b"hello")])
    first.confirm(DEVICE, 2)
    second = OutputGate([DEVICE])
    second.restore(first.end, first.retained(), first.confirmed(), first.logged())
    assert list(second.release()) == []
    assert second.acked(DEVICE) == 0
    second.commit(second.end)
    assert list(second.release()) == [Piece(DEVICE, 2, b"llo")]
    assert second.acked(DEVICE) == 2


def test_much_output_at_once_goes_out_in_parts_and_no_more_than_is_confirmed_in_time() -> None:
    gate = OutputGate([DEVICE])
    gate.log([Horizon(1)])
    said = bytes(range(256)) * (3 * RELEASED_MAX // 256)
    gate.produce([Piece(DEVICE, 0, said)])
    gate.commit(1)
    got = b""
    while len(got) < len(said):
        pieces = list(gate.release())
        assert 0 < sum(len(piece.data) for piece in pieces) <= RELEASED_MAX
        assert max(len(piece.data) for piece in pieces) <= PIECE_SIZE_MAX
        assert list(gate.release()) == []
        got += b"".join(piece.data for piece in pieces)
        gate.confirm(DEVICE, len(got))
    assert got == said
    assert gate.retained_bytes == 0
