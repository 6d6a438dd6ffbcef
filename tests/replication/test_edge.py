import pytest

from ftvm.replication.edge import (
    CONFIRM_SIZE,
    Deliver,
    EdgeCore,
    EdgeEffect,
    Fault,
    InputAcked,
    MachineHalted,
    SendNode,
    StreamReset,
)
from ftvm.replication.edge_sessions import INPUT_WINDOW
from ftvm.replication.messages import Attach, Final, Halted, Input, InputAck, Live, Output, Resize

UART = "uart0@1"
OLD, NEW = 1, 2


def attached(gen: int = 1) -> EdgeCore:
    """Attached to session OLD in `gen`; input and output begin at 0."""
    edge = EdgeCore()
    assert edge.received(OLD, Live(gen, (UART,))) == [SendNode(OLD, Attach(gen, {}, {}))]
    assert edge.received(OLD, InputAck(gen, UART, 0)) == []
    return edge


def delivered(effects: list[EdgeEffect]) -> bytes:
    return b"".join(effect.data for effect in effects if isinstance(effect, Deliver))


def test_a_newer_generation_hears_what_is_missing_on_both_sides() -> None:
    edge = attached()
    edge.client_input("uart0", b"abc")
    edge.client_input("uart0", b"de")
    edge.received(OLD, InputAck(1, UART, 3))
    edge.received(OLD, Output(1, UART, 0, b"xyz"))
    assert edge.received(NEW, Live(2, (UART,))) == [
        SendNode(NEW, Attach(2, {UART: 3}, {UART: 3})),
        SendNode(NEW, Input(2, UART, 3, b"de", 3)),
    ]
    assert delivered(edge.received(NEW, Output(2, UART, 1, b"yz!"))) == b"!"
    assert edge.statistics().repeated == 2


def test_a_fenced_node_reaches_nobody() -> None:
    edge = attached(gen=5)
    edge.received(NEW, Live(6, (UART,)))
    for stale in (Live(5, (UART,)), Output(5, UART, 0, b"zombie"), InputAck(5, UART, 9), Halted(5, {}, {})):
        assert edge.received(OLD, stale) == []
    assert edge.statistics().refused == 4
    assert edge.statistics().attached == NEW
    assert edge.generation == 6


def test_only_the_attached_session_speaks_for_its_generation() -> None:
    edge = attached()
    assert edge.received(NEW, Output(1, UART, 0, b"other")) == []
    assert edge.received(NEW, Output(7, UART, 0, b"unannounced")) == []
    assert edge.statistics().refused == 2


def test_a_gap_in_the_output_is_a_fault() -> None:
    edge = attached()
    edge.received(OLD, Output(1, UART, 4, b"starts here"))
    effects = edge.received(OLD, Output(1, UART, 100, b"gap"))
    assert [type(effect) for effect in effects] == [Fault]
    assert edge.statistics().attached is None


@pytest.mark.parametrize("message", [Final(1), InputAck(1, UART, 1), Output(1, "uart9@1", 0, b"x")])
def test_what_a_node_may_not_say_is_a_fault(message: Final | InputAck | Output) -> None:
    effects = attached().received(OLD, message)
    assert [type(effect) for effect in effects] == [Fault]


def test_a_fresh_edge_sends_no_input_before_it_knows_where_the_stream_stands() -> None:
    edge = EdgeCore()
    assert edge.client_input("uart0", b"early") == []
    assert edge.received(OLD, Live(3, (UART,))) == [SendNode(OLD, Attach(3, {}, {}))]
    assert edge.client_input("uart0", b"\0", is_break=True) == []
    assert edge.received(OLD, InputAck(3, UART, 70)) == [
        SendNode(OLD, Input(3, UART, 70, b"early", 0)),
        SendNode(OLD, Input(3, UART, 75, b"\0", 0, True)),
    ]
    assert delivered(edge.received(OLD, Output(3, UART, 900, b"tail"))) == b"tail"


def test_a_cold_boot_resets_the_streams() -> None:
    edge = attached()
    edge.client_input("uart0", b"lost with the old machine")
    effects = edge.received(NEW, Live(2, ("uart0@2",)))
    former = SendNode(NEW, Attach(2, {}, {UART: 0}))
    assert effects == [StreamReset("uart0"), former], "where its streams begin, the node says"
    assert edge.client_input("uart0", b"x") == []
    assert edge.received(NEW, InputAck(2, "uart0@2", 0)) == [SendNode(NEW, Input(2, "uart0@2", 0, b"x", 0))]


def test_after_a_restart_streams_go_on_where_the_node_says_and_the_edge_says_what_it_had() -> None:
    edge = attached()
    edge.received(OLD, Output(1, UART, 0, b"seen"))
    edge.client_input("uart0", b"in")
    edge.received(OLD, InputAck(1, UART, 2))
    effects = edge.received(NEW, Live(2, ("uart0@2",)))
    assert effects == [StreamReset("uart0"), SendNode(NEW, Attach(2, {UART: 4}, {UART: 2}))]
    assert edge.received(NEW, Output(2, "uart0@2", 3, b"N")) == [Deliver("uart0", 3, b"N", False)]
    assert edge.client_input("uart0", b"x") == []
    assert edge.received(NEW, InputAck(2, "uart0@2", 1)) == [SendNode(NEW, Input(2, "uart0@2", 1, b"x", 4))]
    # The next node, live before anything was confirmed to it, hears of both.
    third = edge.received(OLD, Live(3, ("uart0@2",)))
    assert third[0] == SendNode(OLD, Attach(3, {UART: 4, "uart0@2": 4}, {UART: 2, "uart0@2": 1}))


def test_the_window_bounds_what_is_not_acknowledged() -> None:
    edge = attached()
    edge.client_input("uart0", bytes(INPUT_WINDOW - 10))
    assert edge.input_room("uart0") == 10
    with pytest.raises(AssertionError):
        edge.client_input("uart0", bytes(11))
    assert edge.received(OLD, InputAck(1, UART, 1000)) == [InputAcked("uart0", 1000)]
    assert edge.input_room("uart0") == 1010


def test_outputs_are_confirmed_with_input_by_flush_and_when_they_are_many() -> None:
    edge = attached()
    edge.received(OLD, Output(1, UART, 0, b"abc"))
    assert edge.flush() == [SendNode(OLD, Input(1, UART, 0, b"", 3))]
    assert edge.flush() == []
    edge.received(OLD, Output(1, UART, 3, b"d"))
    assert edge.client_input("uart0", b"x") == [SendNode(OLD, Input(1, UART, 0, b"x", 4))]
    assert edge.flush() == []
    effects = edge.received(OLD, Output(1, UART, 4, bytes(CONFIRM_SIZE)))
    assert SendNode(OLD, Input(1, UART, 1, b"", 4 + CONFIRM_SIZE)) in effects


def test_final_comes_after_every_output_and_acknowledgement_and_once() -> None:
    edge = attached()
    edge.client_input("uart0", b"ab")
    edge.received(OLD, Output(1, UART, 0, b"by"))
    assert edge.received(OLD, Halted(1, {UART: 3}, {UART: 2})) == []
    assert edge.received(OLD, InputAck(1, UART, 2)) == [InputAcked("uart0", 2)]
    effects = edge.received(OLD, Output(1, UART, 2, b"e"))
    assert effects[-2:] == [SendNode(OLD, Final(1)), MachineHalted()]
    assert SendNode(OLD, Final(1)) not in edge.received(OLD, InputAck(1, UART, 2))


def test_a_node_that_goes_away_is_waited_for() -> None:
    edge = attached()
    edge.node_lost(OLD)
    assert edge.client_input("uart0", b"kept") == []
    assert edge.flush() == []
    assert edge.received(NEW, Live(1, (UART,))) == [
        SendNode(NEW, Attach(1, {}, {UART: 0})),
        SendNode(NEW, Input(1, UART, 0, b"kept", 0)),
    ]


def test_the_terminals_size_is_told_to_whoever_is_live_and_to_the_next_one() -> None:
    edge = EdgeCore()
    assert edge.resize(80, 24) == []
    edge.received(OLD, Live(1, (UART,)))
    assert edge.resize(132, 43) == [SendNode(OLD, Resize(1, 132, 43))]
    assert edge.received(NEW, Live(2, (UART,))) == [SendNode(NEW, Attach(2, {}, {})), SendNode(NEW, Resize(2, 132, 43))]
