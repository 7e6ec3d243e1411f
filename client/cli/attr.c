/* SPDX-License-Identifier: Apache-2.0 */
/* attr.c -- setattr, xattr, tag, ln, mknod: attributes of what is there, and names without bytes of their own. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define CALL(r) GRANARY_CALL(.bucket = (r)->bucket)

/* ---- setattr ------------------------------------------------------------------------------- */

static int parse_mode(const char *text, uint32_t *out)
{
	char *end;
	unsigned long mode = strtoul(text, &end, 8);

	if (text[0] < '0' || text[0] > '7' || *end != '\0' || mode > 07777)
		return fail(CLI_USAGE, "--perm: '%s' is no mode; write it in octal, like 0640", shown(text));
	*out = (uint32_t)mode;
	return CLI_OK;
}

/* UID, UID:GID or :GID. */
static int parse_owner(const char *text, struct granary_setattr *a)
{
	char first[32];
	uint64_t id;
	size_t len = strcspn(text, ":");

	snprintf(first, sizeof(first), "%.*s", (int)len, text);
	if (len > 0) {
		if (parse_number(first, &id) != 0 || id > UINT32_MAX) goto bad;
		a->uid = (uint32_t)id;
		a->set |= GRANARY_SET_UID;
	}
	if (text[len] == '\0') return len > 0 ? CLI_OK : fail(CLI_USAGE, "--owner: nothing given");
	if (parse_number(text + len + 1, &id) != 0 || id > UINT32_MAX) goto bad;
	a->gid = (uint32_t)id;
	a->set |= GRANARY_SET_GID;
	return CLI_OK;
bad:
	return fail(CLI_USAGE, "--owner: '%s' is none; write numbers, like 1000, 1000:100 or :100", shown(text));
}

/* Seconds since 1970, with up to nine digits after a dot; "now". */
static int parse_time(const char *name, const char *text, uint64_t *ns, bool *now)
{
	char seconds[32];
	uint64_t value, part = 0;
	size_t len = strcspn(text, "."), digits = text[len] == '.' ? strlen(text + len + 1) : 0;

	*now = strcmp(text, "now") == 0;
	if (*now) return CLI_OK;
	snprintf(seconds, sizeof(seconds), "%.*s", (int)len, text);
	if (parse_number(seconds, &value) != 0 || value > UINT64_MAX / 1000000000u - 1 || digits > 9 ||
		(text[len] == '.' && parse_number(text + len + 1, &part) != 0))
		return fail(CLI_USAGE, "--%s: '%s' is no time; write seconds since 1970, or now", name, shown(text));
	for (size_t i = digits; i < 9; i++) part *= 10;
	*ns = value * 1000000000u + part;
	return CLI_OK;
}

static int setattr_options(struct granary_setattr *a)
{
	int code = CLI_OK;
	bool now;

	if (opts.perm != NULL) {
		code = parse_mode(opts.perm, &a->mode);
		a->set |= GRANARY_SET_MODE;
	}
	if (code == CLI_OK && opts.owner != NULL) code = parse_owner(opts.owner, a);
	if (code == CLI_OK && opts.mtime != NULL) {
		code = parse_time("mtime", opts.mtime, &a->mtime_ns, &now);
		a->set |= now ? GRANARY_SET_MTIME_NOW : GRANARY_SET_MTIME;
	}
	if (code == CLI_OK && opts.atime != NULL) {
		code = parse_time("atime", opts.atime, &a->atime_ns, &now);
		a->set |= now ? GRANARY_SET_ATIME_NOW : GRANARY_SET_ATIME;
	}
	if (code == CLI_OK && a->set == 0)
		code = fail(CLI_USAGE, "nothing to set; give --perm, --owner, --mtime or --atime");
	return code;
}

int run_setattr(int count, char **args)
{
	struct granary_setattr a = GRANARY_INIT(granary_setattr);
	int code = setattr_options(&a);

	for (int i = 0; i < count && code == CLI_OK; i++) {
		struct remote r;
		int err;
		code = remote_open(&r, args[i], NEED_PATH, 1);
		if (code != CLI_OK) break;
		err = granary_setattr(r.client, granary_ref_key(r.path), &a, CALL(&r));
		if (err < 0)
			code = fail_remote(r.client, err, "cannot set attributes of '%s/%s'", r.bucket, shown(r.path));
		remote_close(&r);
	}
	return code;
}

/* ---- xattr, tag ---------------------------------------------------------------------------- */

static void pair_print(const char *name, const char *value, size_t len)
{
	struct json j;

	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "name", name);
		json_text(&j, "value", value);
		json_close(&j);
		return;
	}
	printf("%s=", stdout_is_tty() ? shown(name) : name);
	if (stdout_is_tty())
		printf("%s", shown(value));
	else
		fwrite(value, 1, len, stdout);
	putchar('\n');
}

static int xattr_show(struct remote *r, const char *name)
{
	void *value;
	size_t len;
	int err = granary_xattr_get(r->client, granary_ref_key(r->path), name, &value, &len, CALL(r));

	if (err < 0)
		return fail_remote(r->client, err, "attribute '%s' of '%s/%s'", shown(name), r->bucket, shown(r->path));
	pair_print(name, value, len);
	granary_free(value);
	return CLI_OK;
}

static int xattr_show_all(struct remote *r)
{
	char *names;
	size_t len;
	int code = CLI_OK, err = granary_xattr_list(r->client, granary_ref_key(r->path), &names, &len, CALL(r));

	if (err < 0)
		return fail_remote(r->client, err, "cannot list attributes of '%s/%s'", r->bucket, shown(r->path));
	for (size_t at = 0; at < len && code == CLI_OK; at += strlen(names + at) + 1) code = xattr_show(r, names + at);
	granary_free(names);
	return code;
}

/* NAME shows it, NAME=VALUE sets it; with --remove NAME goes. */
static int xattr_one(struct remote *r, const char *word)
{
	char name[GRANARY_XATTR_NAME_MAX + 2];
	const char *value = strchr(word, '=');
	struct granary_ref ref = granary_ref_key(r->path);
	int err;

	if (value == NULL && !opts.remove) return xattr_show(r, word);
	snprintf(name, sizeof(name), "%.*s", value != NULL ? (int)(value - word) : (int)strlen(word), word);
	if (opts.remove)
		err = granary_xattr_remove(r->client, ref, name, CALL(r));
	else
		err = granary_xattr_set(r->client, ref, name, value + 1, strlen(value + 1), 0, CALL(r));
	if (err < 0)
		return fail_remote(r->client, err, "attribute '%s' of '%s/%s'", shown(name), r->bucket, shown(r->path));
	return CLI_OK;
}

int run_xattr(int count, char **args)
{
	struct remote r;
	int code = remote_open(&r, args[0], NEED_PATH, 1);

	if (code == CLI_OK && count == 1) code = xattr_show_all(&r);
	for (int i = 1; i < count && code == CLI_OK; i++) code = xattr_one(&r, args[i]);
	remote_close(&r);
	return code;
}

/* The tags that are there, with those of the words in their place, or without them. */
static int tags_change(struct remote *r, int count, char **words)
{
	struct granary_pair *have, want[2 * GRANARY_TAGS_MAX];
	uint64_t have_count;
	size_t n = 0;
	int err = granary_tags_get(r->client, granary_ref_key(r->path), &have, &have_count, CALL(r));

	for (uint64_t i = 0; err == 0 && i < have_count && n < GRANARY_TAGS_MAX; i++) {
		bool is_named = false;
		for (int k = 0; k < count; k++)
			is_named |= strlen(have[i].name) == strcspn(words[k], "=") &&
				    strncmp(have[i].name, words[k], strlen(have[i].name)) == 0;
		if (!is_named) want[n++] = have[i];
	}
	for (int k = 0; err == 0 && !opts.remove && k < count && n < 2 * GRANARY_TAGS_MAX; k++) {
		char *value = strchr(words[k], '=');
		if (value != NULL) *value++ = '\0';
		want[n++] = (struct granary_pair){ words[k], value != NULL ? value : "" };
	}
	if (err == 0) err = granary_tags_set(r->client, granary_ref_key(r->path), want, n, CALL(r));
	granary_free(have);
	return err < 0 ? fail_remote(r->client, err, "cannot tag '%s/%s'", r->bucket, shown(r->path)) : CLI_OK;
}

static int tags_show(struct remote *r)
{
	struct granary_pair *tags;
	uint64_t count;
	int err = granary_tags_get(r->client, granary_ref_key(r->path), &tags, &count, CALL(r));

	if (err < 0) return fail_remote(r->client, err, "cannot read tags of '%s/%s'", r->bucket, shown(r->path));
	for (uint64_t i = 0; i < count; i++) pair_print(tags[i].name, tags[i].value, strlen(tags[i].value));
	granary_free(tags);
	return CLI_OK;
}

int run_tag(int count, char **args)
{
	struct remote r;
	int code = remote_open(&r, args[0], NEED_PATH, 1);

	if (code == CLI_OK) code = count == 1 ? tags_show(&r) : tags_change(&r, count - 1, args + 1);
	remote_close(&r);
	return code;
}

/* ---- ln, mknod ----------------------------------------------------------------------------- */

static int made(const struct remote *r, uint64_t id)
{
	struct json j;

	if (opts.json) {
		json_open(&j, stdout);
		json_text(&j, "key", r->path);
		json_number(&j, "object_id", id);
		json_close(&j);
	}
	return CLI_OK;
}

static int ln_hard(struct remote *to, const char *text)
{
	struct remote from;
	uint64_t id;
	int err, code = remote_open(&from, text, NEED_PATH, 1);

	if (code == CLI_OK && (strcmp(from.server, to->server) != 0 || strcmp(from.bucket, to->bucket) != 0))
		code = fail(CLI_USAGE, "a hard link stays within one bucket; use granary cp, or ln -s");
	if (code == CLI_OK) {
		err = granary_link(to->client, granary_ref_key(from.path), granary_ref_key(to->path), &id, CALL(to));
		code = err < 0 ? fail_remote(to->client, err, "cannot link '%s' as '%s'", shown(from.path),
					 shown(to->path))
			       : made(to, id);
	}
	remote_close(&from);
	return code;
}

int run_ln(int count, char **args)
{
	struct remote to;
	uint64_t id;
	int err, code = remote_open(&to, args[1], NEED_PATH, 1);

	(void)count;
	if (code == CLI_OK && !opts.symbolic) code = ln_hard(&to, args[0]);
	if (code == CLI_OK && opts.symbolic) {
		err = granary_symlink(to.client, args[0], granary_ref_key(to.path), &id, CALL(&to));
		code = err < 0 ? fail_remote(to.client, err, "cannot make the link '%s'", shown(to.path))
			       : made(&to, id);
	}
	remote_close(&to);
	return code;
}

int run_mknod(int count, char **args)
{
	uint32_t mode = 0644, type = strlen(args[1]) != 1 ? 0
		: args[1][0] == 'p' ? S_IFIFO : args[1][0] == 's' ? S_IFSOCK : args[1][0] == 'c' ? S_IFCHR
		: args[1][0] == 'b' ? S_IFBLK : args[1][0] == 'f' ? S_IFREG : 0;
	bool is_device = type == S_IFCHR || type == S_IFBLK;
	uint64_t major = 0, minor = 0, id;
	struct remote r;
	int err, code = CLI_OK;

	if (type == 0 || count != (is_device ? 4 : 2) ||
		(is_device && (parse_number(args[2], &major) != 0 || parse_number(args[3], &minor) != 0)))
		return fail(CLI_USAGE, "give URL and p, s or f; or URL, c or b, MAJOR and MINOR");
	if (opts.perm != NULL) code = parse_mode(opts.perm, &mode);
	if (code == CLI_OK) code = remote_open(&r, args[0], NEED_PATH, 1);
	if (code != CLI_OK) return code;
	err = granary_mknod(r.client, granary_ref_key(r.path), type | mode,
		makedev((unsigned)major, (unsigned)minor), 0, 0, &id, CALL(&r));
	code = err < 0 ? fail_remote(r.client, err, "cannot make '%s'", shown(r.path)) : made(&r, id);
	remote_close(&r);
	return code;
}
