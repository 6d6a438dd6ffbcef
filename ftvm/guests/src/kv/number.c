#include "kv/number.h"

bool parse_integer(const uint8_t *text, size_t size, int64_t *value) {
    const uint8_t *end = text + size;
    if (size == 0 || size > INTEGER_TEXT_MAX) return false;
    if (size == 1 && *text == '0') {
        *value = 0;
        return true;
    }
    bool negative = *text == '-';
    text += negative;
    if (text == end || *text < '1' || *text > '9') return false;
    uint64_t limit = (uint64_t)INT64_MAX + negative;
    uint64_t magnitude = 0;
    bool may_overflow = end - text >= 19; /* digits of INT64_MAX; a division for each is worth sparing */
    for (; text != end; text++) {
        uint64_t digit = (uint64_t)(*text - '0');
        if (*text < '0' || *text > '9' || (may_overflow && magnitude > (limit - digit) / 10)) return false;
        magnitude = magnitude * 10 + digit;
    }
    *value = (int64_t)(negative ? -magnitude : magnitude);
    return true;
}

size_t format_integer(uint8_t *text, int64_t value) {
    uint8_t digits[INTEGER_TEXT_MAX];
    size_t count = 0;
    size_t size = 0;
    uint64_t magnitude = value < 0 ? -(uint64_t)value : (uint64_t)value;
    do digits[count++] = (uint8_t)('0' + magnitude % 10);
    while (magnitude /= 10);
    if (value < 0) text[size++] = '-';
    while (count) text[size++] = digits[--count];
    return size;
}
