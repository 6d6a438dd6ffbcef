/* Writes numbered lines as fast as the UART takes them, and never stops. */
#include "board.h"

int main(void) {
    for (uint64_t line = 0;; line++) {
        print("flood ");
        print_decimal(line);
        print("\n");
    }
}
