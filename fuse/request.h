/* SPDX-License-Identifier: Apache-2.0 */
/* request.h -- one request of the kernel, as both transports hand it to the handlers.
 *
 * (1) what a decoded request points at lies in the transport's buffer and stays until it is answered.
 * (2) a name has at least one byte, no slash and no NUL; a fixed argument has the size that the opcode asks for.
 * (3) the answer is an error alone, or bytes in `out`, or bytes lent by a block of the cache or a buffer, never two of
 *     these. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fuse/kernel.h"

enum { REQUEST_NAME_KEPT = 47 };
struct request_log { /* watch.h: what is known of it when it was answered */
	uint64_t begun_ns, offset;
	uint32_t size;
	bool waits, absent; /* absent: the name is not there, which is no error */
	uint8_t name_len;
	char name[REQUEST_NAME_KEPT];
};

struct request {
	uint32_t opcode;
	uint32_t uid, gid, pid;
	uint64_t unique, node;
	const void *arg;  /* the fixed argument of the opcode; NULL: it has none */
	const char *name; /* of LOOKUP and its like, not NUL-terminated */
	size_t name_len;
	const uint8_t *rest; /* what follows the fixed argument, the name included */
	size_t rest_len;
	/* the answer */
	uint8_t *out;
	size_t out_cap, out_len;
	const uint8_t *lent; /* instead of out */
	size_t lent_len;
	void *lender;               /* put when the answer is on its way; NULL: it need not be */
	int error;                  /* 0 or -errno */
	bool silent;                /* the kernel wants no answer */
	struct request_log log;
};

/* Bytes of an opcode's fixed argument, 0 when it has none or is not known. */
size_t request_arg_size(uint32_t opcode);
/* From a header and what follows it: `arg` of arg_len bytes holds the fixed argument, `rest` what comes after. Answers'
 * fields are cleared. 0; -EINVAL when it is no request that the opcode could be: `what` says why. */
int request_decode(const struct fuse_in_header *header, const void *arg, size_t arg_len, const void *rest,
	size_t rest_len, struct request *out, const char **what);
/* The same from one run of bytes, as the device gives it: header, argument, rest. */
int request_decode_run(const void *bytes, size_t len, struct request *out, const char **what);
/* The opcode's name for people: "LOOKUP"; "?" when it is not known. */
const char *request_name(uint32_t opcode);
