/* SPDX-License-Identifier: Apache-2.0 */
/* key.c -- access keys. A secret goes into the file that was asked for and nowhere else. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
	const char *name;
	uint32_t actions;
} actions[] = {
	{ "read", GRANARY_MAY_READ | GRANARY_MAY_LIST },
	{ "list", GRANARY_MAY_LIST },
	{ "write", GRANARY_MAY_WRITE },
	{ "delete", GRANARY_MAY_DELETE },
	{ "admin", GRANARY_MAY_ADMIN },
};
enum { ACTIONS_COUNT = sizeof(actions) / sizeof(actions[0]) };

/* ---- grants -------------------------------------------------------------------------------- */

struct grant_text {
	char bucket[GRANARY_BUCKET_LEN_MAX + 1];
	char prefix[GRANARY_KEY_LEN_MAX + 1];
};

static int parse_actions(const char *text, size_t len, uint32_t *out)
{
	*out = 0;
	while (len > 0) {
		size_t word = 0, i;
		while (word < len && text[word] != '+') word++;
		for (i = 0; i < ACTIONS_COUNT; i++)
			if (strlen(actions[i].name) == word &&
				strncmp(actions[i].name, text, word) == 0)
				break;
		if (i == ACTIONS_COUNT) return -1;
		*out |= actions[i].actions;
		if (word < len) word++;
		text += word;
		len -= word;
	}
	return *out == 0 ? -1 : 0;
}

/* ACTIONS[:BUCKET[/PREFIX]] */
static int parse_grant(const char *text, struct granary_grant *grant, struct grant_text *own)
{
	size_t len = strcspn(text, ":"), bucket_len;
	const char *rest = text[len] == ':' ? text + len + 1 : "";

	if (parse_actions(text, len, &grant->actions) < 0)
		return fail(CLI_USAGE,
			"--grant '%s': write ACTIONS:BUCKET/PREFIX; actions are read, list, write, "
			"delete, admin, "
			"joined by +",
			shown(text));
	bucket_len = strcspn(rest, "/");
	if (bucket_len > GRANARY_BUCKET_LEN_MAX || (bucket_len == 0 && rest[0] != '\0') ||
		(rest[bucket_len] != '\0' && strlen(rest + bucket_len + 1) > GRANARY_KEY_LEN_MAX))
		return fail(CLI_USAGE, "--grant '%s': no valid BUCKET/PREFIX", shown(text));
	snprintf(own->bucket, sizeof(own->bucket), "%.*s", (int)bucket_len, rest);
	snprintf(own->prefix, sizeof(own->prefix), "%s",
		rest[bucket_len] == '/' ? rest + bucket_len + 1 : "");
	grant->bucket = own->bucket;
	grant->prefix = own->prefix;
	return CLI_OK;
}

static void grant_print(char *out, size_t cap, const struct granary_grant *g)
{
	static const char *const names[] = { "read", "list", "write", "delete", "admin" };
	size_t at = 0;
	bool all = g->bucket == NULL || g->bucket[0] == '\0';

	out[0] = '\0';
	for (unsigned i = 0; i < ACTIONS_COUNT && at < cap; i++)
		if (g->actions >> i & 1)
			at += (size_t)snprintf(
				out + at, cap - at, "%s%s", at > 0 ? "+" : "", names[i]);
	if (!all && at < cap)
		snprintf(out + at, cap - at, ":%s/%s", g->bucket,
			g->prefix != NULL ? g->prefix : "");
}

/* ---- key create ---------------------------------------------------------------------------- */

/* The file that the credentials go to: a new one beside its place, so that nothing half written is ever found. */
struct key_file {
	char temporary[4096];
	FILE *file;
	bool standard;
};

static int key_file_open(struct key_file *k)
{
	struct stat st;
	int fd, code = CLI_OK;

	k->standard = strcmp(opts.output, "-") == 0;
	k->file = k->standard ? stdout : NULL;
	if (k->standard) return CLI_OK;
	if (lstat(opts.output, &st) == 0) code = ask("'%s' exists: replace it", shown(opts.output));
	if (code != CLI_OK) return code;
	if ((size_t)snprintf(k->temporary, sizeof(k->temporary), "%s.%d.new", opts.output,
		    getpid()) >= sizeof(k->temporary))
		return fail(CLI_USAGE, "'%s': the name is too long", shown(opts.output));
	fd = open(k->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 ||
		fchmod(fd, 0600) < 0) /* the umask cannot widen it, an odd one could narrow it */
		return fail_errno(errno, "cannot create '%s'", shown(k->temporary));
	k->file = fdopen(fd, "w");
	must_alloc(k->file);
	return CLI_OK;
}

static int key_file_write(
	struct key_file *k, const struct granary_key_secret *secret, const char *server)
{
	int bad;

	if (opts.note != NULL) fprintf(k->file, "# %s\n", shown(opts.note));
	fprintf(k->file, "url=%s\naccess_key=%s\nsecret=%s\n", server, secret->access_key,
		secret->secret);
	if (k->standard) return CLI_OK;
	bad = fflush(k->file) != 0 || fsync(fileno(k->file)) < 0;
	bad |= fclose(k->file) != 0;
	k->file = NULL;
	if (!bad && rename(k->temporary, opts.output) == 0) return CLI_OK;
	return fail_errno(errno, "cannot write '%s'", shown(opts.output));
}

static void key_file_drop(struct key_file *k)
{
	if (k->standard) return;
	if (k->file != NULL) fclose(k->file);
	if (k->temporary[0] != '\0') unlink(k->temporary);
}

static int key_create_on(struct remote *r, const struct granary_grant *grants, const char *server)
{
	struct granary_key_secret secret;
	struct key_file file = { .temporary = "" };
	struct json j;
	int err, code = key_file_open(&file);

	if (code != CLI_OK) return code;
	err = granary_key_create(
		r->client, grants, opts.grants_count, opts.expires_s, opts.note, &secret, NULL);
	if (err < 0) {
		key_file_drop(&file);
		return fail_remote(r->client, err, "cannot make a key");
	}
	code = key_file_write(&file, &secret, server);
	explicit_bzero(secret.secret, sizeof(secret.secret));
	if (code != CLI_OK) {
		key_file_drop(&file);
		/* A key whose secret nobody has is no use to anybody. */
		if (granary_key_remove(r->client, secret.access_key, NULL) < 0)
			fail_remote(r->client, -GRANARY_EIO,
				"key '%s' was made but not written; remove it", secret.access_key);
		return code;
	}
	if (file.standard) return CLI_OK;
	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "access_key", secret.access_key);
		json_text(&j, "file", opts.output);
		json_close(&j);
	} else {
		note("key %s written to %s", secret.access_key, shown(opts.output));
	}
	return CLI_OK;
}

int run_key_create(int count, char **args)
{
	struct granary_grant grants[CLI_GRANTS_MAX] = { { .actions = 0 } };
	struct grant_text *texts = must_alloc(calloc(CLI_GRANTS_MAX, sizeof(*texts)));
	char server[GRANARY_HOSTS_MAX * 64 + 64];
	struct remote r = { .client = NULL };
	int code = CLI_OK;

	if (opts.output == NULL)
		code = fail(CLI_USAGE, "where to write the key? give -o FILE");
	else if (opts.grants_count == 0)
		code = fail(CLI_USAGE,
			"what may the key do? give --grant, for example --grant read:BUCKET/");
	for (uint64_t i = 0; i < opts.grants_count && code == CLI_OK; i++)
		code = parse_grant(opts.grants[i], &grants[i], &texts[i]);
	if (code == CLI_OK) code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);
	if (code == CLI_OK) code = remote_server(&r, server, sizeof(server));
	if (code == CLI_OK) code = key_create_on(&r, grants, server);
	remote_close(&r);
	free(texts);
	return code;
}

/* ---- key ls, key rm ------------------------------------------------------------------------ */

static void key_row(struct table *t, struct remote *r, const struct granary_key_entry *k)
{
	char expires[TEXT_SHORT], grant[2048], all[4096] = "";
	uint64_t expires_ns = wall_of_store_time(r, k->expires_ns);
	struct json j;
	size_t at = 0;

	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "access_key", k->access_key);
		json_text(&j, "note", k->note);
		json_time(&j, "expires", expires_ns);
		json_array(&j, "grants");
	}
	for (uint64_t i = 0; i < k->grants_count; i++) {
		grant_print(grant, sizeof(grant), &k->grants[i]);
		if (opts.json)
			json_item(&j, grant);
		else if (at < sizeof(all))
			at += (size_t)snprintf(
				all + at, sizeof(all) - at, "%s%s", i > 0 ? " " : "", shown(grant));
	}
	if (opts.json) {
		json_array_end(&j);
		json_close(&j);
		return;
	}
	table_row(t, (const char *[]){ k->access_key,
			     k->expires_ns == 0 ? "never" : human_time(expires, expires_ns), all,
			     shown(k->note) });
}

int run_key_ls(int count, char **args)
{
	char after[128] = "";
	struct granary_key_page *page;
	struct table t;
	struct remote r;
	bool more = true;
	int err = 0, code = remote_open(&r, count > 0 ? args[0] : NULL, NEED_NOTHING, 1);

	if (code != CLI_OK) return code;
	table_init(&t, 4, 0);
	if (!opts.json && stdout_is_tty())
		table_row(&t, (const char *[]){ "KEY", "EXPIRES", "GRANTS", "NOTE" });
	while (more) {
		err = granary_key_list(r.client, after[0] != '\0' ? after : NULL, &page, NULL);
		if (err < 0) break;
		for (uint32_t i = 0; i < page->count; i++) key_row(&t, &r, &page->entries[i]);
		more = page->more != 0 && page->count > 0;
		if (more)
			snprintf(after, sizeof(after), "%s",
				page->entries[page->count - 1].access_key);
		granary_free(page);
	}
	table_end(&t);
	if (err < 0) code = fail_remote(r.client, err, "cannot list the keys");
	remote_close(&r);
	return code;
}

int run_key_rm(int count, char **args)
{
	struct remote r;
	struct json j;
	int err = 0, code;

	code = remote_open(&r, count > 1 ? args[1] : NULL, NEED_NOTHING, 1);
	if (code != CLI_OK) return code;
	if (!opts.dry_run)
		code = ask(
			"remove key '%s': whoever uses it is refused from then on", shown(args[0]));
	if (code != CLI_OK) {
		remote_close(&r);
		return code;
	}
	if (!opts.dry_run) err = granary_key_remove(r.client, args[0], NULL);
	if (err == -GRANARY_ENOTFOUND)
		code = fail(CLI_NOTFOUND,
			"cannot remove key '%s': no such key; `granary key ls` shows those there "
			"are",
			shown(args[0]));
	else if (err < 0)
		code = fail_remote(r.client, err, "cannot remove key '%s'", shown(args[0]));
	remote_close(&r);
	if (code != CLI_OK) return code;
	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "access_key", args[0]);
		json_text(&j, "done", opts.dry_run ? "would remove" : "removed");
		json_close(&j);
	} else if (opts.dry_run) {
		printf("would remove key '%s'\n", shown(args[0]));
	}
	return CLI_OK;
}
