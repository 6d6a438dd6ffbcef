from ftvm.host.reports import OUTPUT_SIZE_MAX, in_pieces
from ftvm.machine.output import Output


def test_a_large_output_is_reported_in_pieces_that_make_the_same_stream() -> None:
    data = bytes(range(256)) * (OUTPUT_SIZE_MAX // 100)
    outputs = [Output(5, "uart0", 7, b"x"), Output(5, "net0", 1000, data), Output(5, "uart0", 8, b"\0", is_break=True)]
    pieces = in_pieces(outputs)
    assert (pieces[0], pieces[-1]) == (outputs[0], outputs[-1])
    net = pieces[1:-1]
    assert b"".join(piece.data for piece in net) == data
    assert [piece.offset for piece in net] == [1000 + at for at in range(0, len(data), OUTPUT_SIZE_MAX)]
    assert all((piece.tick, piece.device, piece.is_break) == (5, "net0", False) for piece in net)
