/* SPDX-License-Identifier: Apache-2.0 */
/* options.h -- what granary-mount may be told, from one table. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OPTIONS_GIVEN_MAX = 2048 };
#define OWNER_NONE UINT32_MAX
enum preset { PRESET_CONSISTENT, PRESET_SHARED, PRESET_FROZEN };
enum io_mode { IO_AUTO, IO_CACHED, IO_DIRECT };
enum transport { TRANSPORT_AUTO, TRANSPORT_URING, TRANSPORT_CLASSIC };

struct options {
	const char *url, *target;
	const char *credentials, *profile;
	bool foreground, allow_other, hard, unmount, help, version;
	bool dry_run, print_unit, update_fstab;
	uint32_t close_durable;
	uint32_t uid, gid, umask; /* uid, gid: or OWNER_NONE */
	uint32_t deadline_ms;
	uint32_t threads;     /* of the classic transport */
	uint32_t connections; /* to the server */
	uint64_t memory;      /* bytes: all of the program's */
	enum transport transport;
	enum io_mode io;
	enum preset preset;
	const char *cache;    /* directory on the flash */
	uint64_t cache_size;
	bool live;            /* not an option: the address names a bucket */
	char given[OPTIONS_GIVEN_MAX]; /* those that say how it is mounted, as they were given, joined by commas */
};

/* Reads `granary-mount [OPTION...] URL DIR [-o OPTION[,OPTION...]]`; with `unmount` the directory is in `url`. Texts
 * borrow from argv. 0, or -1 and a text that names the option, what is wrong, and what would be right. */
int options_read(int argc, char **argv, struct options *o, char *why, size_t why_size);
/* Who owns what has no owner of its own. */
uint32_t options_uid(const struct options *o);
uint32_t options_gid(const struct options *o);
/* Seconds that the kernel may keep names and attributes of a bucket. */
uint64_t options_valid_s(const struct options *o);
/* How many ways of mounting it can be told, without what mount(8) adds. */
unsigned options_count(void);
/* The help text, from the table, to standard output. */
void options_help(void);
