/* SPDX-License-Identifier: Apache-2.0 */
/* archives.h -- tar and zip archives, into the store and out of it, in one pass either way (libarchive). */
#pragma once

#include "cli.h"

/* Reads one archive ("-": standard input; its format and compression are found out) below `prefix`. An exit code,
 * after naming what failed and printing the report. */
int archive_import(struct remote *to, const char *file, const char *prefix);

/* Does a file of this name hold an archive, going by its ending (.tar, .tar.gz, .tgz, .tar.zst, .tar.xz, .zip, ...)? */
bool archive_named(const char *file);
/* Writes all of the catalog, whose keys begin with `prefix`, as an archive into a file; "-": a tar on standard
 * output. */
int archive_export(struct remote *from, const struct catalog *c, const char *prefix, const char *file);
