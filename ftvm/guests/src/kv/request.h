/* Requests as they come over the wire: RESP arrays of bulk strings, or inline commands. */
#ifndef KV_REQUEST_H
#define KV_REQUEST_H

#include "kv/store.h"

#define BULK_SIZE_MAX (512 * 1024)     /* a key's or a value's size */
#define REQUEST_SIZE_MAX (1024 * 1024) /* all arguments and their table */
#define INLINE_SIZE_MAX (64 * 1024)

extern size_t argument_count;

/* Arguments lie in the request buffer until the next request_receive(). */
struct bytes argument(size_t index);

/* True when argument `index` is `lower`, in whichever case. */
bool argument_is(size_t index, const char *lower);

/* Receives one request. False when there is nothing to do: it was empty, or too large for the buffer and has been
 * answered. After a protocol error it does not return before the client is gone. */
bool request_receive(void);

#endif
