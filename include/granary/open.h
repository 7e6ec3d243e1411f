/* SPDX-License-Identifier: Apache-2.0 */
/* open.h -- files that are open: part of granary.h, which includes it.
 *
 * An open file keeps its bytes, its attributes and its id when its last name goes (deleted, replaced, renamed over), by
 * this client or by another one, until the last one who has it open closes it, as POSIX wants it. It is read and
 * changed by its id (granary_file_ref()) with the calls of granary.h.
 *
 * The server remembers what is open for as long as this client has a connection, and for 60 s after; after a lost
 * connection or a restart of the server the library tells it again by itself, before anything else is sent. A file that
 * could not be kept (this client was cut off for longer, and the file was deleted meanwhile) is lost:
 * granary_file_check() says so. */
#pragma once

#include "granary/granary.h"

#ifdef __cplusplus
extern "C" {
#endif

struct granary_file;

enum granary_open_access { GRANARY_OPEN_READ = 1, GRANARY_OPEN_WRITE = 2 };

/* What granary_file_open() answers. */
struct granary_opened {
	struct granary_file *file;  /* end it with granary_file_close(); NULL unless the call succeeded */
	struct granary_stat stat;   /* as it is now, without user metadata */
	struct granary_inode inode;
};

/** Opens a file: one request, which looks at it and keeps it.
 * @param access  enum granary_open_access, or'ed: what will be done with it. It needs the grants for that, and when the
 *         file has no name any more it may be used for nothing else.
 * @param out  answered
 * @return 0; -GRANARY_ENOTFOUND; -GRANARY_ESTALE (by id: gone, or without a name and not open here); -GRANARY_EISDIR;
 *         -GRANARY_ENOTFILE; -GRANARY_EACCESS; -GRANARY_EINVAL. Blocks. Any thread. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_file_open(struct granary_client *client, struct granary_ref ref,
	uint32_t access, struct granary_opened *out, const struct granary_call *call);
/** granary_file_open() without waiting. `out` is written when the operation is done. @return 0 and *op, or an error.
 * Does not block. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_file_open_start(struct granary_client *client, struct granary_ref ref,
	uint32_t access, struct granary_opened *out, const struct granary_call *call, struct granary_op **op);
/** Closes a file and sets *file to NULL, which is allowed. The server is told by itself, many at a time; nothing can
 * fail. Does not block. Any thread; also after granary_close(), which closes all files at the server. Since 0.2. */
GRANARY_API void granary_file_close(struct granary_file **file);
/** Its reference, by id: valid until granary_file_close(). Any thread. Since 0.2. */
GRANARY_API struct granary_ref granary_file_ref(const struct granary_file *file);
/** @return 0, or why the file is lost: -GRANARY_ESTALE (it was deleted while the server did not know that it is open
 * here), or another error; it stays so. Does not block. Any thread. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_file_check(const struct granary_file *file);

#ifdef __cplusplus
}
#endif
