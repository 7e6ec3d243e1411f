/* SPDX-License-Identifier: Apache-2.0 */
/* error.h -- the one table of errors. Numbers are wire and ABI: append only, never reuse.
 * Functions return 0 (or a count) or a negative -GRANARY_E... code from here.
 *
 * Columns: number, name, errno a filesystem answers, class, text for people.
 * Class drives retry:
 *   FINAL   repeating the same call gives the same answer
 *   RETRY   nothing was changed; repeat after a pause (libgranary does it with full jitter)
 *   UNSURE  a mutation may or may not have happened; repeat with the same session and sequence */
#pragma once

#include <errno.h>

#define GRANARY_ERROR_TABLE(X) \
	X(1, NOTFOUND, ENOENT, FINAL, "no such object") \
	X(2, EXIST, EEXIST, FINAL, "already exists") \
	X(3, BUSY, EAGAIN, RETRY, "the server is shedding load or rows kept changing; try again") \
	X(4, CORRUPT, EIO, FINAL, "checksum mismatch on every copy") \
	X(5, INVAL, EINVAL, FINAL, "invalid argument") \
	X(6, ACCESS, EACCES, FINAL, "the key does not allow this") \
	X(7, AUTH, EACCES, FINAL, "unknown access key or wrong secret") \
	X(8, NOMEM, ENOMEM, RETRY, "out of memory") \
	X(9, IO, EIO, FINAL, "input/output error") \
	X(10, NOSPACE, ENOSPC, FINAL, "no space left in the store") \
	X(11, TIMEDOUT, ETIMEDOUT, UNSURE, "the deadline passed") \
	X(12, CLOSED, ENOTCONN, UNSURE, "the connection was lost") \
	X(13, PROTO, EPROTO, FINAL, "malformed or unexpected message") \
	X(14, VERSION, EPROTONOSUPPORT, FINAL, "no common protocol or format version") \
	X(15, TOOBIG, EMSGSIZE, FINAL, "larger than the limit") \
	X(16, NAME, EINVAL, FINAL, "invalid name or key") \
	X(17, ISDIR, EISDIR, FINAL, "is a directory") \
	X(18, NOTDIR, ENOTDIR, FINAL, "is not a directory") \
	X(19, NOTEMPTY, ENOTEMPTY, FINAL, "the directory is not empty") \
	X(20, LOOP, EINVAL, FINAL, "a directory cannot be moved into itself") \
	X(21, CHANGED, ESTALE, FINAL, "the object was replaced by another version") \
	X(22, STALE, ESTALE, FINAL, "the id names nothing that exists") \
	X(23, PRECONDITION, EEXIST, FINAL, "a stated condition does not hold") \
	X(24, RANGE, ERANGE, FINAL, "the range lies outside the object") \
	X(25, QUOTA, EDQUOT, FINAL, "the bucket's quota is used up") \
	X(26, UNSUPPORTED, EOPNOTSUPP, FINAL, "not supported") \
	X(27, SHUTDOWN, ESHUTDOWN, RETRY, "the server is stopping") \
	X(28, CANCELED, ECANCELED, FINAL, "canceled") \
	X(29, UNREACHABLE, EHOSTUNREACH, RETRY, "cannot reach the server") \
	X(30, CONFIG, EINVAL, FINAL, "invalid configuration") \
	X(31, LOCKED, EBUSY, FINAL, "in use by another process") \
	X(32, BADFORMAT, EIO, FINAL, "not a valid file of this format") \
	X(33, OFFLINE, EIO, FINAL, "the place that holds the bytes is offline") \
	X(34, READONLY, EROFS, FINAL, "read-only") \
	X(35, NOBUCKET, ENOENT, FINAL, "no such bucket") \
	X(36, INTR, EINTR, FINAL, "interrupted") \
	X(37, AGAIN, EAGAIN, RETRY, "not ready") \
	X(38, FORKED, EBADF, FINAL, "the handle belongs to the parent process") \
	X(39, NOATTR, ENODATA, FINAL, "no such attribute") \
	X(40, NOTFILE, EINVAL, FINAL, "a symbolic link or special file has no bytes") \
	X(41, MLINK, EMLINK, FINAL, "the object has as many links as it may have") \
	X(42, DEADLOCK, EDEADLK, FINAL, "waiting for this lock would never end") \
	X(43, SOURCE, EIO, FINAL, "the object that this is linked to is another one now, or gone")

enum granary_error {
#define X(number, name, posix, klass, text) GRANARY_E##name = number,
	GRANARY_ERROR_TABLE(X)
#undef X
};
