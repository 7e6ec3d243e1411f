/* SPDX-License-Identifier: Apache-2.0 */
/* cli.h -- what the verbs of the granary command share: options, errors and exit codes, output, progress, addresses.
 * The command stands on include/granary/granary.h alone, like any other program; common/ lends it hashes and clocks. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "granary/granary.h"

/* ---- exit codes ---------------------------------------------------------------------------- */

enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1,
	CLI_USAGE = 2,
	CLI_PARTIAL = 3, /* some things were done, some not; each of those was named or counted */
	CLI_NOTFOUND = 4,
	CLI_DENIED = 5
};

/* ---- options (options.c) ------------------------------------------------------------------- */

enum { CLI_GRANTS_MAX = 16 };

struct options {
	bool json, quiet, no_color, help, version;
	bool recursive, long_format, parents, dataset, dry_run, yes, keep, force, tar, ids;
	bool remove, symbolic, snapshot;
	bool world_given, depth_given, delete, slow, verify, cancel, copy, take_source, background, drop, level_given,
		yes_delete;
	const char *url, *credentials, *profile, *data, *log, *backup;
	const char *layout, *note, *output, *against, *by, *shuffle;
	const char *perm, *owner, *mtime, *atime;
	const char *prefix, *group, *split, *file, *mode, *last, *on_error, *job, *resume, *to;
	char *tags;
	char *include, *exclude; /* a glob a line */
	const char *grants[CLI_GRANTS_MAX];
	uint64_t grants_count;
	uint64_t timeout_s, expires_s;
	uint64_t jobs, batch, epochs, inflight, size, count, clients, capacity;
	uint64_t expire_s, keep_last, block, window, lanes, offset;
	uint64_t depth, checkpoint, level;
	uint64_t seed, epoch, rank, world, batches, read_ahead, memory, weight, max_errors, stall_s;
};
extern struct options opts; /* of this run; set before a verb starts, never after */

typedef int verb_fn(int count, char **args); /* returns an enum cli_exit */

struct verb {
	const char *name; /* "ls", or two words: "bucket create" */
	const char *args; /* as shown in the usage */
	int args_min, args_max;
	verb_fn *run;
	const char *summary; /* one line */
	const char *text;    /* what else --help says, or NULL */
	const char *examples[6];
};

/* Reads the command line into opts; *verb is NULL when help or the version was asked for and printed. Returns
 * CLI_OK, or CLI_USAGE after saying what is wrong and which name is near. */
int options_parse(int argc, char **argv, const struct verb **verb, int *count, char ***args);

/* The tables, for the manual page and the completion scripts. verb_at is NULL past the end; option_at false past it,
 * and out->name is NULL where the option is not one of the verb's own (verb NULL: not one of every verb). */
struct option_text {
	char letter; /* or 0 */
	const char *name, *arg, *help; /* arg NULL: a flag */
};
const struct verb *verb_at(size_t index);
bool option_at(size_t index, const struct verb *verb, struct option_text *out);

/* Texts with units. 0, or -1 when the text is none: "64KiB", "1.5G", "4096"; "30d", "12h", "90". */
int parse_size(const char *text, uint64_t *out);
int parse_duration_s(const char *text, uint64_t *out);
int parse_number(const char *text, uint64_t *out);

/* ---- errors (out.c) ------------------------------------------------------------------------ */

/* Say "granary: ..." on standard error (an object with --json) and return the exit code that goes with it. */
int fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
int fail_errno(int errnum, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* With the text of the client's last failure (NULL: of granary_open). */
int fail_remote(struct granary_client *client, int err, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* The same with a text already at hand ("": the code's own). */
int fail_text(int err, const char *text, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
int exit_of(int err); /* -GRANARY_E... -> enum cli_exit */
int exit_of_errno(int errnum);
/* A remark on standard error unless --quiet or --json. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A name fit for a terminal: control characters and bad UTF-8 escaped. One of eight buffers of the thread. */
const char *shown(const char *name);

/* ---- output (out.c) ------------------------------------------------------------------------ */

struct json {
	FILE *file;
	bool first;
};
void json_open(struct json *j, FILE *file);
void json_text(struct json *j, const char *name, const char *value);
void json_number(struct json *j, const char *name, uint64_t value);
void json_real(struct json *j, const char *name, double value);
void json_flag(struct json *j, const char *name, bool value);
void json_time(
	struct json *j, const char *name, uint64_t ns); /* ISO 8601 with nanoseconds; null for 0 */
void json_array(struct json *j, const char *name);
void json_item(struct json *j, const char *value);
void json_array_end(struct json *j);
void json_close(struct json *j); /* ends the line */

enum { TABLE_COLUMNS_MAX = 10, TEXT_SHORT = 48 };
struct table {
	uint32_t columns, rows, cap;
	uint32_t right;                    /* bit n: column n is set flush right */
	uint32_t width[TABLE_COLUMNS_MAX]; /* of what was printed so far */
	char **cells;
};
void table_init(struct table *t, uint32_t columns, uint32_t right);
void table_row(struct table *t,
	const char *const *cells); /* copies; prints all rows when many have come */
void table_end(struct table *t);   /* prints the rest and releases the memory */

const char *human_bytes(char buf[TEXT_SHORT], uint64_t bytes);   /* "1.5 MiB" */
const char *human_count(char buf[TEXT_SHORT], uint64_t count);   /* "78,579" */
const char *human_time(char buf[TEXT_SHORT], uint64_t ns);       /* "2024-05-01 12:00", "-" for 0 */
const char *human_seconds(char buf[TEXT_SHORT], double seconds); /* "3m20s" */
const char *mode_text(char buf[TEXT_SHORT], char kind, uint32_t mode); /* "-rw-r--r--" */
void print_wrapped(const char *text); /* a paragraph, in lines of 80 columns (options.c) */
const char *kind_text(uint32_t kind, char *letter); /* of enum granary_kind: "fifo", 'p' */
bool stdout_is_tty(void);
bool stderr_is_tty(void);
/* Ends standard output: CLI_OK, or CLI_FAILED after saying so when it could not be written. */
int output_close(void);

/* Asks on the terminal; CLI_OK also with --yes. Says why when the answer is no (CLI_FAILED) or when nobody can be
 * asked (CLI_USAGE). */
int ask(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- progress (progress.c) ----------------------------------------------------------------- */

/* Counters that any thread adds to, shown by a thread of its own: a bar ten times a second on a terminal, else a
 * line every few seconds. Silent with --quiet and --json. */
struct progress {
	const char *what;
	_Atomic uint64_t files, bytes, files_total, bytes_total; /* totals 0: not known yet */
	uint64_t began_ns;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool started, stop, bar, drawn;
};
void progress_start(struct progress *p, const char *what);
void progress_add(struct progress *p, uint64_t files, uint64_t bytes);
/* Prints a line above the bar: for failures while work goes on. */
void progress_stop(struct progress *p);
double progress_seconds(const struct progress *p);

/* ---- addresses and listings (remote.c) ----------------------------------------------------- */

struct remote {
	struct granary_client *client;
	char server[GRANARY_HOSTS_MAX * 64 +
		    64]; /* granary://HOST[:PORT], "" when it comes from elsewhere */
	char bucket[GRANARY_BUCKET_LEN_MAX + 1];
	char path[GRANARY_KEY_LEN_MAX + 1];
	bool ends_in_slash;
};

bool is_remote(const char *text);
/* What an address must name. */
enum { NEED_NOTHING = 0, NEED_BUCKET = 1, NEED_PATH = 2 };
/* Reads the address (NULL: that of --url, GRANARY_URL or the credentials file) and makes the client. CLI_OK, or says
 * what is wrong. */
int remote_open(struct remote *r, const char *text, int need, uint32_t connections);
void remote_close(struct remote *r);
/* The address of the server as another program could use it: from the address, the environment or the file. */
int remote_server(const struct remote *r, char *out, size_t cap);
/* The credentials file that is in use: of --credentials, --profile, GRANARY_CREDENTIALS, GRANARY_PROFILE or the profile
 * `default`. False: none. */
bool credentials_path(char *out, size_t cap);
/* Reads BUCKET@NAME, BUCKET/PREFIX or an address with a snapshot, and makes the client: the bucket and a path
 * are in r, the name (or "") goes to `name`. CLI_OK, or says what is wrong. */
enum { SNAPSHOT_NAME_CAP = 256 };
int remote_open_snapshot(struct remote *r, const char *text, char name[SNAPSHOT_NAME_CAP], uint32_t connections);
/* The same of a snapshot or recipe, which the address must name; and for each of several: CLI_PARTIAL when some
 * failed. */
int remote_open_named(struct remote *r, const char *text, char name[SNAPSHOT_NAME_CAP]);
/* "cannot DOING snapshot (or recipe) ..."; says so where the name is one of the other kind. */
int fail_snapshot(struct remote *r, int err, const char *name, const char *doing);
int fail_recipe(struct remote *r, int err, const char *name, const char *doing);
int remote_each_named(int count, char **args, int (*each)(struct remote *r, const char *name));
/* Attributes of an object or else of the directory of that name, also of one that is there only because something lies
 * below it (then without ids). 0 or -GRANARY_E... */
int remote_stat(struct remote *r, const char *path, struct granary_stat *st);
/* Store time is a clock of the server's own: what a time of it is on this machine's clock. 0 stays 0. */
uint64_t wall_of_store_time(struct remote *r, uint64_t store_ns);
/* Path and name joined into a key with one slash; CLI_OK or CLI_USAGE after saying that it is too long. */
int key_join(char out[GRANARY_KEY_LEN_MAX + 1], const char *path, const char *name);
/* Of a snapshot or recipe: 32 digits; "exact". */
void id_text(char out[33], const uint8_t id[16]);
const char *mode_name(uint32_t mode);
const char *leaf_of(const char *path); /* behind the last slash that is not at the end */
uint32_t bulk_timeout_ms(void);        /* of one request among many */

struct item {
	const char *key;
	uint64_t size, mtime_ns, object_id, dir_id;
	uint32_t mode;
	uint32_t reserved;
};
struct arena {
	struct arena_block *head;
	size_t used, cap;
};
const char *arena_text(struct arena *a, const char *text, size_t len); /* NUL-terminated copy */
void arena_free(struct arena *a);

struct catalog {
	struct item *items;
	size_t count, cap;
	uint64_t bytes;
	struct arena texts;
};
/* Everything whose key begins with `prefix`, in the order of the keys. CLI_OK, or says what failed. */
/* Leaves out what has no bytes, symbolic links and special files, and says how many there were. */
void catalog_keep_files(struct catalog *c);
int catalog_list(struct catalog *c, struct remote *r, const char *prefix);
void catalog_add(struct catalog *c, const struct item *item); /* copies the key */
void catalog_free(struct catalog *c);
/* Makes a symbolic link, in the place of an object that has its key. 0 or -GRANARY_E... */
int symlink_put(struct remote *r, const char *key, const char *target);
/* "a/b" -> "a/b/", "" and "a/" stay. */
int directory_prefix(char out[GRANARY_KEY_LEN_MAX + 1], const char *path);

int show_slow(struct remote *r); /* server_tasks.c: status --slow */
/* Removes what the catalog lists, directories last (remove.c): says how much, asks; --dry-run only says. */
int remove_catalog(struct remote *r, const struct catalog *c);

void *must_alloc(void *block); /* ends the program when NULL */

/* ---- verbs --------------------------------------------------------------------------------- */

verb_fn run_bucket_create, run_bucket_ls, run_bucket_rm;
verb_fn run_key_create, run_key_ls, run_key_rm;
verb_fn run_cp, run_cat, run_import, run_export, run_sync, run_du, run_dataset_create, run_dataset_ls, run_dataset_rm;
verb_fn run_drive_ls, run_drive_add, run_drive_drain;
verb_fn run_tier_plan, run_tier_apply, run_tier_rules, run_tier_explain, run_tier_cost;
verb_fn run_tier_pin, run_tier_unpin, run_tier_pins, run_tier_top, run_tier_map;
int order_move(const char *url, const char *verb); /* tier.c: what lies below url; waits unless --background */
verb_fn run_link, run_flow_refresh, run_flow_verify, run_flow_status, run_flow_cancel, run_flow_preload, run_flow_evict;
verb_fn run_tier_ls, run_tier_push, run_tier_pull, run_tier_status, run_tier_cancel, run_tier_pause, run_tier_resume;

/* Answers of tasks that are lines of name=value pairs, separated by tabs (drive.c). */
enum { LINE_VALUE_MAX = 2048 };
const char *line_pair(const char *line, const char *name, char out[LINE_VALUE_MAX]); /* "" without it */
uint64_t line_number(const char *line, const char *name);
void line_json(const char *line);
char *line_next(char **text); /* cuts it; NULL: no more */
/* The line of one task, out of all that the verb lists; false: it is not there (any more), or *err. */
bool task_line(struct remote *r, const char *verb, const char *task, char *out, size_t cap, int *err);
verb_fn run_clock_status, run_clock_accept, run_log_level;
verb_fn run_mount, run_umount, run_stats, run_profile, run_warm;
verb_fn run_login, run_doctor, run_bundle, run_explain, run_completion, run_manual;
verb_fn run_ls, run_stat, run_rm, run_mv, run_mkdir;
verb_fn run_write_at, run_truncate, run_punch, run_map;
verb_fn run_setattr, run_xattr, run_tag, run_ln, run_mknod, run_multipart_ls, run_multipart_rm;
verb_fn run_snapshot_create, run_snapshot_ls, run_snapshot_show, run_snapshot_rm, run_snapshot_note, run_snapshot_diff,
	run_snapshot_repack, run_snapshot_verify;
verb_fn run_recipe_create, run_recipe_ls, run_recipe_show, run_recipe_rm;
verb_fn run_stream, run_jobs, run_provenance, run_shuffle_quality;
verb_fn run_backup, run_restore, run_rebuild;
verb_fn run_status, run_check, run_bench_read, run_bench_put;
