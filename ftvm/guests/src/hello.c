/* Prints a line and powers off: the smallest proof that a board works. */
#include "board.h"

int main(void) {
    print("hello from the guest\n");
    finish_pass();
}
