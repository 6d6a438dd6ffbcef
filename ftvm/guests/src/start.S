# Reset entry in M mode: hart 0 gets a stack and a zeroed .bss, any other hart sleeps for ever.
    .section .text.start, "ax"
    .globl _start
_start:
    csrw mie, zero
    csrr t0, mhartid
    bnez t0, park
    .option push
    .option norelax
    la gp, __global_pointer$
    .option pop
    la sp, stack_top
    la t0, trap_entry
    csrw mtvec, t0
    la t0, bss_start
    la t1, bss_end
1:  bgeu t0, t1, 2f
    sd zero, 0(t0)
    addi t0, t0, 8
    j 1b
2:  call main
    call finish_pass
park:
    wfi
    j park

# A fresh stack: the trap may be the old one's fault.
    .balign 4
trap_entry:
    la sp, stack_top
    call unexpected_trap
