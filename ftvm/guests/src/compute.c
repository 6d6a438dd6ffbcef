/* The main program of every compute guest. */
#include "compute.h"

int main(void) {
    uint64_t wanted = rounds;
    uint64_t got = 0;
    for (uint64_t done = 0; wanted == 0 || done < wanted; done++) {
        got = compute_round();
        if (got != compute_expected) {
            print(compute_name);
            print(": wrong checksum ");
            print_hex(got);
            print("\n");
            finish_fail(1);
        }
    }
    print(compute_name);
    print(": rounds ");
    print_decimal(wanted);
    print(" checksum ");
    print_hex(got);
    print("\n");
    finish_pass();
}
