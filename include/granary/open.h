/* SPDX-License-Identifier: Apache-2.0 */
/* open.h -- files that are open: part of granary.h, which includes it.
 *
 * An open file keeps its bytes, its attributes and its id when its last name goes (deleted, replaced, renamed over), by
 * this client or by another one, until the last one who has it open closes it, as POSIX wants it. It is read and
 * changed by its id (granary_file_ref()) with the calls of granary.h.
 *
 * The server remembers what is open for as long as this client has a connection, and for its lease (60 s) after; after
 * a lost connection or a restart of the server the library tells it again by itself, before anything else is sent. A
 * file that could not be kept (this client was cut off for longer, and the file was deleted meanwhile) is lost:
 * granary_file_check() says so.
 *
 * Files are locked at the server, as flock(2) and fcntl(2) do it, against all clients and, by their owners' numbers,
 * inside of one. Locks are kept and told again as open files are, within 10 s of a restart; meanwhile nobody else gets
 * one. A lock that could not be kept makes its file a lost one: whoever relied on it must not go on. So does one of a
 * client that the server did not hear of for its lease (this process was stopped, the network was away): the lock may
 * be another's then. A change whose struct granary_call names the file is refused by the server from that moment on,
 * however late it comes: -GRANARY_ESTALE, and the file is lost. */
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
/** Opens a file to read it, and reads of it, in one request: what a small file takes.
 * @param entry  answered as that of a batch of one (granary_read_batch()), into its `buf` or with GRANARY_ENTRY_MALLOC;
 *         a range of no bytes only opens. Stays the caller's until the operation is done
 * @param file  answered: NULL unless the entry's status is 0. End it with granary_file_close()
 * @return 0 and *op, whose result is 1, 0 where the entry has a status, or an error: then it is not open. Statuses are
 *         those of granary_file_open() and granary_read_batch(). Does not block. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_file_open_read_start(struct granary_client *client,
	struct granary_entry *entry, struct granary_file **file, const struct granary_call *call,
	struct granary_op **op);
/** Closes a file and sets *file to NULL, which is allowed. The server is told by itself, many at a time; nothing can
 * fail. Does not block. Any thread; also after granary_close(), which closes all files at the server. Since 0.2. */
GRANARY_API void granary_file_close(struct granary_file **file);
/** Its reference, by id: valid until granary_file_close(). Any thread. Since 0.2. */
GRANARY_API struct granary_ref granary_file_ref(const struct granary_file *file);
/** @return 0, or why the file is lost: -GRANARY_ESTALE (it was deleted, or another client may have had a lock of it,
 *         while the server did not know that it is open here), or another error; it stays so. Does not block. Any
 *         thread. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_file_check(const struct granary_file *file);

/* ---- locks ---------------------------------------------------------------------------------- */

enum granary_lock_kind { /* they do not see each other */
	GRANARY_LOCK_WHOLE = 1, /* as flock(2): start 0, end UINT64_MAX */
	GRANARY_LOCK_RANGE = 2  /* as fcntl(2) */
};
enum granary_lock_type { GRANARY_LOCK_NONE = 0, GRANARY_LOCK_SHARED = 1, GRANARY_LOCK_EXCLUSIVE = 2 };
enum granary_lock_flag { GRANARY_LOCK_WAIT = 1 };
struct granary_lock {
	uint64_t owner;      /* of this client, as it numbers them: owners exclude each other */
	uint64_t start, end; /* bytes, both inclusive; UINT64_MAX: up to the end, wherever that is */
	uint32_t kind;       /* enum granary_lock_kind */
	uint32_t type;       /* enum granary_lock_type */
	uint32_t pid;        /* told to who tests */
	uint32_t is_ours;    /* answered by a test: it is this client's */
};

/** Gives an owner this lock in the range instead of what it has there; GRANARY_LOCK_NONE gives it up (all that an owner
 * has of a kind: range 0 to UINT64_MAX). What is left when a file was closed as often as it was opened goes then.
 * @param flags  enum granary_lock_flag: GRANARY_LOCK_WAIT: for as long as the call's timeout allows
 * @return 0; -GRANARY_ELOCKED: others have it; -GRANARY_EDEADLOCK: a range that those would wait for;
 *         -GRANARY_EACCESS: an exclusive range of a file that is not open for writing; -GRANARY_ESTALE: the file is
 *         lost; -GRANARY_ETIMEDOUT, -GRANARY_ECANCELED: it is not locked. Blocks. Any thread. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_file_lock(struct granary_file *file, const struct granary_lock *lock,
	uint32_t flags, const struct granary_call *call);
/** granary_file_lock() without waiting for it. At most 64 wait at the server at a time; more wait here.
 * @return 0 and *op, or an error. Does not block. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_file_lock_start(struct granary_file *file, const struct granary_lock *lock,
	uint32_t flags, const struct granary_call *call, struct granary_op **op);
/** Would it be granted? @param lock  in: as for granary_file_lock(); out: type GRANARY_LOCK_NONE when it would, else
 * the first lock that stands in the way. @return 0, or an error. Blocks. Any thread. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_file_lock_test(struct granary_file *file, struct granary_lock *lock,
	const struct granary_call *call);
/** granary_file_lock_test() without waiting; `lock` is read now and written when the operation is done. @return 0 and
 * *op, or an error. Does not block. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_file_lock_test_start(struct granary_file *file, struct granary_lock *lock,
	const struct granary_call *call, struct granary_op **op);

/* ---- what others change --------------------------------------------------------------------- */

enum granary_changed_kind {
	GRANARY_CHANGED_ENTRY = 1, /* `name` of directory `dir_id` is `object_id` now: made, replaced, or its bytes or
	                            * attributes are others */
	GRANARY_CHANGED_GONE = 2,  /* `name` of directory `dir_id` is gone: with a directory goes what was below */
	GRANARY_CHANGED_INODE = 3  /* bytes or attributes of `object_id`: a file that has or had several names, or a
	                            * directory */
};
struct granary_changed {
	uint32_t kind; /* enum granary_changed_kind */
	uint32_t reserved;
	uint64_t dir_id, object_id;
	const char *name;
};
struct granary_changes {
	uint64_t cursor; /* for the next call */
	uint32_t count;
	uint32_t all;    /* 1: anything may have changed: the server was started anew, or does not go so far back */
	struct granary_changed *changes;
};

/** Waits until other clients change something in the bucket, and tells what, as far as this key may read there. What is
 * told can be seen by who looks. Changes come in their order, some tens of milliseconds later, each at least once; a
 * page may have none. What this client did itself is not told, nor what is in directories that are gone by now.
 * @param cursor  0: answers at once, with a cursor of now; else that of the page before
 * @param page  one block, granary_free() it; NULL on error
 * @param call  its timeout is how long to wait: GRANARY_FOREVER, or -GRANARY_ETIMEDOUT: call again with the same cursor
 * @return 0; -GRANARY_EACCESS; -GRANARY_ENOBUCKET; -GRANARY_ETIMEDOUT. Blocks. Any thread. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_watch(struct granary_client *client, uint64_t cursor,
	struct granary_changes **page, const struct granary_call *call);
/** granary_watch() without waiting. @return 0 and *op, or an error. Does not block. Since 0.2. */
GRANARY_API GRANARY_MUST_CHECK int granary_watch_start(struct granary_client *client, uint64_t cursor,
	struct granary_changes **page, const struct granary_call *call, struct granary_op **op);

#ifdef __cplusplus
}
#endif
