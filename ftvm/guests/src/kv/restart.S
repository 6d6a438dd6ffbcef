# The client left: whatever the stack holds belongs to a request that nobody waits for.
    .section .text
    .globl session_restart
session_restart:
    la sp, stack_top
    j serve
