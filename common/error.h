/* SPDX-License-Identifier: Apache-2.0 */
/* error.h -- names, texts and classes of the public error table (include/granary/error.h). */
#pragma once

#include "granary/error.h"

enum error_class { ERROR_FINAL, ERROR_RETRY, ERROR_UNSURE };

/* All take a code as functions return it: 0 or -GRANARY_E...; never NULL. */
const char *error_text(int err);   /* "no such object" */
const char *error_name(int err);   /* "NOTFOUND" */
enum error_class error_class(int err);
int error_errno(int err);          /* ENOENT */
/* The kernel's errno (positive) as ours: used in io/ and in the client's socket code only. */
int error_from_errno(int posix);
