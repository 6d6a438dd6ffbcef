"""The encodings table against itself and against an assembler that is not ours."""

import io
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from ftvm.machine.hart.encodings import (
    BY_NAME,
    ENCODINGS,
    decode,
    disassemble,
    encode,
    expand,
    immediate_b,
    immediate_i,
    immediate_j,
    immediate_s,
    immediate_u,
)
from ftvm.machine.hart.formats import Encoding
from tests.machine.assembler import size_of, to_bytes

SAMPLES_PER_ENCODING = 30


def random_word(encoding: Encoding, random: Random) -> int | None:
    """An instance of the encoding, unless the draw happened to be reserved or another instruction's."""
    word = encoding.match
    for field in encoding.fields.values():
        if field.name != "fm":
            word |= field.insert(field.extract(random.getrandbits(32)))
    return word if decode(word) is encoding else None


def random_words(seed: int) -> list[int]:
    random = Random(seed)
    drawn = [random_word(encoding, random) for encoding in ENCODINGS for _ in range(SAMPLES_PER_ENCODING)]
    return [word for word in drawn if word is not None]


def test_another_assembler_makes_the_same_words_of_our_disassembly(tmp_path: Path) -> None:
    """Clang's assembler, over every row of the table with random operands."""
    words = random_words(1)
    source = tmp_path / "all.s"
    lines = [f".option {'norvc' if size_of(word) == 4 else 'rvc'}\n{disassemble(word)}\n" for word in words]
    source.write_text(".option norelax\n" + "".join(lines))
    machine = ["-target", "riscv64-freestanding-none", "-mcpu=generic_rv64+m+a+f+d+c+zba+zbb+zbs+zicond"]
    command = [sys.executable, "-m", "ziglang", "cc", *machine, "-c"]
    subprocess.run([*command, str(source), "-o", str(tmp_path / "all.o")], check=True, timeout=120)
    text = ELFFile(io.BytesIO((tmp_path / "all.o").read_bytes())).get_section_by_name(".text").data()
    assert {decode(word) for word in words} == set(ENCODINGS)
    position = 0
    for word in words:
        theirs = int.from_bytes(text[position : position + size_of(word)], "little")
        assert theirs == word, f"{disassemble(word)}: {theirs:#x} is theirs, {word:#x} ours"
        position += size_of(word)
    assert position == len(text) == len(to_bytes(words))


def test_encode_gives_back_the_word_that_operands_were_read_from() -> None:
    for word in random_words(2):
        encoding = decode(word)
        assert encoding is not None
        assert encode(encoding.name, **encoding.operands(word)) & encoding.mask == encoding.match
        again = encode(encoding.name, **encoding.operands(word))
        assert encoding.operands(again) == encoding.operands(word)


def test_encodings_that_overlap_differ_in_how_many_bits_they_fix() -> None:
    for one in ENCODINGS:
        for other in ENCODINGS:
            if one is other or one.size != other.size:
                continue
            common = one.mask & other.mask
            if one.match & common == other.match & common:
                assert one.mask.bit_count() != other.mask.bit_count(), (one.name, other.name)


def test_every_compressed_instruction_expands_to_a_legal_one_that_writes_the_same_register() -> None:
    legal = 0
    for halfword in range(1 << 16):
        if halfword & 3 == 3:
            continue
        encoding, expanded = decode(halfword), expand(halfword)
        assert (encoding is None) == (expanded is None)
        if encoding is None or expanded is None:
            continue
        legal += 1
        base = decode(expanded)
        assert base is not None
        assert base.size == 4
        if "rd" in encoding.fields:
            assert base.operands(expanded)["rd"] == encoding.operands(halfword)["rd"]
    # 49,152 halfwords, less what is reserved.
    assert legal == 49152 - reserved_halfwords()


def reserved_halfwords() -> int:
    """Counted from the manual's tables of the C extension, quadrants 0, 1 and 2."""
    quadrant = 1 << 11
    reserved_opcode = quadrant  # quadrant 0, funct3 100
    addi4spn = 8  # immediate 0, any rd'
    addiw = 64  # rd = 0
    lui = 32  # immediate 0: any rd, C.ADDI16SP's among them
    misc_alu = 2 * 64  # funct6 100111, funct2 10 and 11
    loads_from_sp = 2 * 64  # rd = 0
    jr = 1  # rs1 = 0
    return reserved_opcode + addi4spn + addiw + lui + misc_alu + loads_from_sp + jr


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (0x00A00093, "addi x1, x0, 10"),
        (0x30200073, "mret"),
        (0xFE209EE3, "bne x1, x2, .-4"),
        (0x34011173, "csrrw x2, mscratch, x2"),
        (0x1000A2AF, "lr.w x5, (x1)"),
        (0x0000, ".insn 0x0"),
        (0xFFFFFFFF, ".insn 0xffffffff"),
        (0x1141, "c.addi x2, -16"),
        (0x8082, "c.jr x1"),
        (0x9002, "c.ebreak"),
        (0x02A5F553, "fadd.d f10, f11, f10, dyn"),
        (0xC2051553, "fcvt.w.d x10, f10, rtz"),
        (0xC2055553, ".insn 0xc2055553"),
        (0x2108, "c.fld f10, 0(x10)"),
        (0x00853507, "fld f10, 8(x10)"),
        (0x60051513, "clz x10, x10"),
        (0x0EB55533, "czero.eqz x10, x10, x11"),
    ],
)
def test_known_words(word: int, text: str) -> None:
    assert disassemble(word) == text


def test_branch_targets_are_absolute_where_the_address_is_known() -> None:
    assert disassemble(0xFE209EE3, 0x8000_0000) == "bne x1, x2, 0x7ffffffc"


@pytest.mark.parametrize(
    ("name", "operands"),
    [
        ("addi", {"imm": 2048}),
        ("beq", {"imm": 3}),
        ("jal", {"imm": 1 << 20}),
        ("c.addi4spn", {"rd": 8, "imm": 0}),
        ("c.lw", {"rd": 7, "rs1": 8}),
        ("c.lwsp", {"rd": 0, "imm": 4}),
        ("c.jr", {"rs1": 0}),
        ("c.lui", {"rd": 2, "imm": 0x1000}),
        ("lui", {"rd": 1, "imm": 1}),
        ("add", {"imm": 1}),
    ],
)
def test_operands_that_do_not_fit_are_refused(name: str, operands: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        encode(name, **operands)


def test_hints_are_legal_and_change_nothing_but_the_pc() -> None:
    """A HINT expands to an instruction whose destination is x0 or whose operation is the identity."""
    for name, operands in [("c.addi", {"rd": 0, "imm": 5}), ("c.slli", {"rd": 0, "imm": 5}), ("c.mv", {"rs2": 3})]:
        expanded = expand(encode(name, **operands))
        assert expanded is not None
        base = decode(expanded)
        assert base is not None
        assert base.operands(expanded)["rd"] == 0
    for encoding in ENCODINGS:
        assert set(encoding.hint) <= set(encoding.fields)
        assert set(encoding.nonzero) <= set(encoding.fields)


@given(st.integers(0, (1 << 32) - 1))
def test_immediates_are_what_the_bits_say(word: int) -> None:
    """Against the manual's pictures, written bit by bit."""

    def bit(position: int) -> int:
        return word >> position & 1

    def bits(high: int, low: int) -> int:
        return word >> low & (1 << high - low + 1) - 1

    sign = -bit(31)
    assert immediate_i(word) == (sign << 11 | bits(30, 20))
    assert immediate_s(word) == (sign << 11 | bits(30, 25) << 5 | bits(11, 7))
    assert immediate_b(word) == (sign << 12 | bit(7) << 11 | bits(30, 25) << 5 | bits(11, 8) << 1)
    assert immediate_u(word) == (sign << 31 | bits(30, 12) << 12)
    assert immediate_j(word) == (sign << 20 | bits(19, 12) << 12 | bit(20) << 11 | bits(30, 21) << 1)


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(ENCODINGS)
