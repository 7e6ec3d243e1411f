/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_fuse_request.c -- messages of the kernel of any bytes, as the device gives them and as a ring does: what is
 * decoded lies within the message, and both ways decode the same. */
#include "fuse/request.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_within(const struct request *r, const uint8_t *bytes, size_t size)
{
	const uint8_t *end = bytes + size;

	assert(!r->arg ||
		((const uint8_t *)r->arg >= bytes && (const uint8_t *)r->arg + request_arg_size(r->opcode) <= end));
	assert(r->rest_len == 0 || (r->rest >= bytes && r->rest + r->rest_len <= end));
	if (!r->name) return;
	assert(r->name_len > 0 && (const uint8_t *)r->name >= bytes && (const uint8_t *)r->name + r->name_len < end);
	assert(!memchr(r->name, '\0', r->name_len) && !memchr(r->name, '/', r->name_len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuse_in_header header;
	struct request run, parts;
	const char *what;
	uint8_t *bytes = calloc(1, size + 1); /* of its own size, so that a sanitizer sees a byte too many */

	assert(bytes);
	if (size > 0) memcpy(bytes, data, size);
	int err = request_decode_run(bytes, size, &run, &what);
	if (err == 0) check_within(&run, bytes, size);
	if (size >= sizeof(header)) {
		memcpy(&header, bytes, sizeof(header));
		size_t body = size - sizeof(header), arg = request_arg_size(header.opcode);
		arg = arg < body ? arg : body;
		int other = request_decode(&header, bytes + sizeof(header), arg, bytes + sizeof(header) + arg,
			body - arg, &parts, &what);
		assert(header.len != size || other == err);
		assert(err < 0 ||
			(run.name_len == parts.name_len && run.node == parts.node && run.silent == parts.silent));
	}
	free(bytes);
	return 0;
}
