/* SPDX-License-Identifier: Apache-2.0 */
/* error.c -- look-ups in the one table of include/granary/error.h. */
#include "common/error.h"

#include <stddef.h>

struct error_row {
	const char *name;
	const char *text;
	int posix;
	enum error_class class;
};

static const struct error_row error_rows[] = {
	[0] = { "OK", "success", 0, ERROR_FINAL },
#define X(number, name, posix, klass, text) [number] = { #name, text, posix, ERROR_##klass },
	GRANARY_ERROR_TABLE(X)
#undef X
};

static const struct error_row error_unknown = { "UNKNOWN", "unknown error", EIO, ERROR_FINAL };

static const struct error_row *error_row(int err)
{
	enum { ROWS_COUNT = sizeof(error_rows) / sizeof(error_rows[0]) };

	if (err > 0 || err <= -(int)ROWS_COUNT || !error_rows[-err].name)
		return &error_unknown;
	return &error_rows[-err];
}

const char *error_text(int err)
{
	return error_row(err)->text;
}

const char *error_name(int err)
{
	return error_row(err)->name;
}

enum error_class error_class(int err)
{
	return error_row(err)->class;
}

int error_errno(int err)
{
	return error_row(err)->posix;
}

/* Several of the kernel's numbers may mean one thing to us; what is not listed is IO. */
static const struct { int posix, ours; } error_posix[] = {
	{ ENOENT, GRANARY_ENOTFOUND },         { EEXIST, GRANARY_EEXIST },
	{ EAGAIN, GRANARY_EAGAIN },            { EBUSY, GRANARY_ELOCKED },
	{ EINTR, GRANARY_EINTR },              { ECANCELED, GRANARY_ECANCELED },
	{ EINVAL, GRANARY_EINVAL },            { EBADF, GRANARY_EINVAL },
	{ EACCES, GRANARY_EACCESS },           { EPERM, GRANARY_EACCESS },
	{ ENOMEM, GRANARY_ENOMEM },            { ENOBUFS, GRANARY_ENOMEM },
	{ EMFILE, GRANARY_ENOMEM },            { ENFILE, GRANARY_ENOMEM },
	{ ENOSPC, GRANARY_ENOSPACE },          { EDQUOT, GRANARY_ENOSPACE },
	{ EROFS, GRANARY_EREADONLY },          { EIO, GRANARY_EIO },
	{ ENODEV, GRANARY_EOFFLINE },          { ENXIO, GRANARY_EOFFLINE },
	{ EISDIR, GRANARY_EISDIR },            { ENOTDIR, GRANARY_ENOTDIR },
	{ ENOTEMPTY, GRANARY_ENOTEMPTY },      { ESTALE, GRANARY_ESTALE },
	{ ENAMETOOLONG, GRANARY_ENAME },       { EILSEQ, GRANARY_ENAME },
	{ EFBIG, GRANARY_ETOOBIG },            { E2BIG, GRANARY_ETOOBIG },
	{ EMSGSIZE, GRANARY_ETOOBIG },         { ERANGE, GRANARY_ERANGE },
	{ EOPNOTSUPP, GRANARY_EUNSUPPORTED },  { ENOSYS, GRANARY_EUNSUPPORTED },
	{ EPROTO, GRANARY_EPROTO },            { EPROTONOSUPPORT, GRANARY_EVERSION },
	{ ETIMEDOUT, GRANARY_ETIMEDOUT },      { ESHUTDOWN, GRANARY_ECLOSED },
	{ ECONNRESET, GRANARY_ECLOSED },       { ECONNABORTED, GRANARY_ECLOSED },
	{ EPIPE, GRANARY_ECLOSED },            { ENOTCONN, GRANARY_ECLOSED },
	{ ECONNREFUSED, GRANARY_EUNREACHABLE }, { EHOSTUNREACH, GRANARY_EUNREACHABLE },
	{ ENETUNREACH, GRANARY_EUNREACHABLE }, { EHOSTDOWN, GRANARY_EUNREACHABLE },
	{ ENETDOWN, GRANARY_EUNREACHABLE },    { EADDRNOTAVAIL, GRANARY_EUNREACHABLE },
};

int error_from_errno(int posix)
{
	if (posix == 0)
		return 0;
	for (size_t i = 0; i < sizeof(error_posix) / sizeof(error_posix[0]); i++)
		if (error_posix[i].posix == posix)
			return -error_posix[i].ours;
	return -GRANARY_EIO;
}
