/* SPDX-License-Identifier: Apache-2.0 */
/* options.h -- the command line of granaryd: one table for getopt_long, the help text and the nearest
 * name. Every key of the config file is an option too (`_` written as `-`). */
#pragma once

#include "config.h"

enum options_mode {
	MODE_RUN,
	MODE_CHECK_CONFIG,
	MODE_PRINT_DEFAULT,
	MODE_PRINT_EFFECTIVE,
	MODE_VERSION,
	MODE_HELP,
	MODE_RESTORE,
	MODE_REBUILD,
};

enum { OPTIONS_FLAGS_MAX = 64 };

struct options {
	enum options_mode mode;
	const char *config_file; /* NULL: none */
	const char *quickstart;  /* NULL, or the directory */
	const char *restore;     /* NULL, or the backup directory */
	const char *checkpoint;  /* of the backup; NULL: the newest */
	bool json;
	struct {
		enum config_key key;
		const char *text;
	} flags[OPTIONS_FLAGS_MAX];
	uint32_t flag_count;
};

/* 0, or -GRANARY_EINVAL with why (CONFIG_WHY_MAX bytes). Borrows from argv. */
int options_read(int argc, char **argv, struct options *out, char *why);
/* Defaults, then the file, then the flags. quickstart_dir: absolute path of options->quickstart, or NULL. */
int options_config(
	const struct options *options, const char *quickstart_dir, struct config *out, char *why);
void options_help(FILE *out);
