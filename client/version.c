/* SPDX-License-Identifier: Apache-2.0 */
/* version.c -- the library's version and the texts of the error table. */
#include "client_priv.h"

#include <stdlib.h>

#define TEXT_OF(x) #x
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

uint32_t granary_version(void)
{
	return GRANARY_VERSION;
}

const char *granary_version_string(void)
{
	return VERSION_TEXT(GRANARY_VERSION_MAJOR, GRANARY_VERSION_MINOR, GRANARY_VERSION_PATCH);
}

const char *granary_strerror(int err)
{
	return error_text(err);
}

const char *granary_error_name(int err)
{
	return error_name(err);
}

int granary_error_errno(int err)
{
	return error_errno(err);
}

void granary_free(void *block)
{
	free(block);
}
