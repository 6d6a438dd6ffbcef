/* Integers as Redis reads and writes them. */
#ifndef KV_NUMBER_H
#define KV_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INTEGER_TEXT_MAX 20 /* of -9223372036854775808 */

/* Strict decimal: no sign but '-', no leading zeros, no blanks, nothing out of range. */
bool parse_integer(const uint8_t *text, size_t size, int64_t *value);

/* Writes at most INTEGER_TEXT_MAX bytes, no terminator; returns how many. */
size_t format_integer(uint8_t *text, int64_t value);

#endif
