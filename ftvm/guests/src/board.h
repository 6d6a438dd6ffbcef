/* The QEMU riscv64 `virt` board as bare-metal guests see it, and the few routines they all share. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

#define FINISHER 0x00100000UL /* SiFive test finisher */
#define CLINT 0x02000000UL
#define CLINT_MTIME (CLINT + 0xbff8)
#define PLIC 0x0c000000UL
#define UART 0x10000000UL /* ns16550a, interrupt 10 */
#define UART_IRQ 10

#define MTIME_HZ 10000000UL

/* ns16550a registers (National Semiconductor PC16550D, section 8) */
#define UART_RBR 0
#define UART_THR 0
#define UART_IER 1
#define UART_FCR 2
#define UART_LCR 3
#define UART_MCR 4
#define UART_LSR 5
#define IER_RECEIVED 0x01
#define FCR_ENABLE 0x01
#define LCR_8N1 0x03
#define LCR_BREAK 0x40
#define MCR_OUT2 0x08
#define MCR_LOOPBACK 0x10
#define LSR_DATA 0x01
#define LSR_BREAK 0x10
#define LSR_THR_EMPTY 0x20
#define LSR_IDLE 0x40
#define UART_FIFO_SIZE 16

static inline uint8_t read8(uintptr_t address) { return *(volatile uint8_t *)address; }
static inline void write8(uintptr_t address, uint8_t value) { *(volatile uint8_t *)address = value; }
static inline uint32_t read32(uintptr_t address) { return *(volatile uint32_t *)address; }
static inline void write32(uintptr_t address, uint32_t value) { *(volatile uint32_t *)address = value; }
static inline uint64_t read64(uintptr_t address) { return *(volatile uint64_t *)address; }

#define read_csr(name)                                        \
    ({                                                        \
        uint64_t value_;                                      \
        __asm__ volatile("csrr %0, " #name : "=r"(value_));   \
        value_;                                               \
    })
#define write_csr(name, value) __asm__ volatile("csrw " #name ", %0" ::"r"((uint64_t)(value)) : "memory")

static inline void wait_for_interrupt(void) { __asm__ volatile("wfi" ::: "memory"); }

_Noreturn void finish_pass(void);
_Noreturn void finish_fail(unsigned code); /* 1 <= code <= 0xffff */

void print(const char *text);
void print_decimal(uint64_t value);
void print_hex(uint64_t value);

int main(void);

#endif
