/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/s3_key_file.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/error.h"
#include "io/fs.h"

enum { FILE_MAX = 64 * 1024, LINE_MAX_BYTES = 4096 };

static char *trim(char *s)
{
	size_t len;

	while (*s == ' ' || *s == '\t') s++;
	for (len = strlen(s); len && strchr(" \t\r", s[len - 1]);) s[--len] = '\0';
	return s;
}

/* A value of a field into its place. */
static bool take(const char *value, char *out, size_t cap)
{
	size_t len = strlen(value);

	if (len == 0 || len >= cap) return false;
	for (const char *p = value; *p; p++)
		if (*p <= ' ' || *p > '~') return false;
	memcpy(out, value, len + 1);
	return true;
}

static bool line_take(const char *name, const char *value, struct s3_key *key)
{
	if (strcmp(name, "aws_access_key_id") == 0) return take(value, key->id, sizeof(key->id));
	if (strcmp(name, "aws_secret_access_key") == 0) return take(value, key->secret, sizeof(key->secret));
	if (strcmp(name, "aws_session_token") == 0) return take(value, key->token, sizeof(key->token));
	return true; /* region, output and whatever else other tools keep there */
}

int s3_key_parse(const char *text, size_t len, const char *profile, struct s3_key *key, char *why, size_t why_cap)
{
	char line[LINE_MAX_BYTES];
	bool inside = false, found = false;
	unsigned number = 0;

	key->id[0] = key->secret[0] = key->token[0] = '\0';
	for (size_t at = 0; at < len;) {
		const char *end = memchr(text + at, '\n', len - at);
		size_t n = end ? (size_t)(end - (text + at)) : len - at;
		number++;
		if (n >= sizeof(line) || memchr(text + at, '\0', n)) {
			snprintf(why, why_cap, "line %u is no text, or too long", number);
			return -GRANARY_ECONFIG;
		}
		memcpy(line, text + at, n);
		line[n] = '\0';
		at += n + 1;
		char *s = trim(line), *equals = strchr(s, '=');
		if (!*s || *s == '#' || *s == ';') continue;
		if (*s == '[') {
			char *close = strchr(s, ']');
			if (close) *close = '\0';
			inside = close && strcmp(trim(s + 1), profile) == 0;
			found = found || inside;
			continue;
		}
		if (!inside || !equals) continue;
		*equals = '\0';
		if (!line_take(trim(s), trim(equals + 1), key)) {
			snprintf(
				why, why_cap, "line %u: the value of %s is empty, too long, or not ASCII", number, s);
			return -GRANARY_ECONFIG;
		}
	}
	if (!found)
		snprintf(why, why_cap, "it has no section [%s]", profile);
	else if (!key->id[0] || !key->secret[0])
		snprintf(why, why_cap, "section [%s] lacks %s", profile,
			key->id[0] ? "aws_secret_access_key" : "aws_access_key_id");
	else
		return 0;
	return -GRANARY_ECONFIG;
}

static int key_from_environment(struct s3_key *key, char *why, size_t why_cap)
{
	const char *id = getenv("AWS_ACCESS_KEY_ID"), *secret = getenv("AWS_SECRET_ACCESS_KEY");
	const char *token = getenv("AWS_SESSION_TOKEN");

	key->token[0] = '\0';
	if (!id || !secret) {
		snprintf(why, why_cap,
			"no key: the store has no `credentials`, and AWS_ACCESS_KEY_ID and "
			"AWS_SECRET_ACCESS_KEY are not set");
		return -GRANARY_ECONFIG;
	}
	if (take(id, key->id, sizeof(key->id)) && take(secret, key->secret, sizeof(key->secret)) &&
		(!token || !*token || take(token, key->token, sizeof(key->token))))
		return 0;
	snprintf(why, why_cap,
		"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_SESSION_TOKEN is empty, too long, or not "
		"ASCII");
	return -GRANARY_ECONFIG;
}

static int file_read(struct fs_file *file, const char *path, char *buf, size_t cap, char *why, size_t why_cap)
{
	struct stat st;

	if (fstat(fs_file_fd(file), &st) == 0 && (st.st_mode & 077)) {
		snprintf(why, why_cap, "'%s' can be read by others: chmod 600", path);
		return -GRANARY_ECONFIG;
	}
	int64_t n = fs_read(file, buf, cap, 0);
	if (n < 0) snprintf(why, why_cap, "cannot read '%s': %s", path, error_text((int)n));
	return (int)n;
}

int s3_key_load(const char *path, const char *profile, struct s3_key *key, char *why, size_t why_cap)
{
	char folder[4096], cause[256], *buf;
	const char *name = strrchr(path, '/');
	struct fs *fs = NULL;
	struct fs_file *file = NULL;

	if (!*path) return key_from_environment(key, why, why_cap);
	snprintf(folder, sizeof(folder), "%.*s", name ? (int)(name - path + 1) : 1, name ? path : ".");
	buf = malloc(FILE_MAX);
	int err = buf ? fs_new_kernel(folder, &fs) : -GRANARY_ENOMEM;
	if (err == 0) err = fs_open(fs, name ? name + 1 : path, FS_READ, &file);
	if (err < 0)
		snprintf(why, why_cap, "cannot open '%s': %s", path, error_text(err));
	else
		err = file_read(file, path, buf, FILE_MAX, why, why_cap);
	if (err >= 0) {
		err = s3_key_parse(buf, (size_t)err, profile, key, cause, sizeof(cause));
		if (err < 0) snprintf(why, why_cap, "'%s': %s", path, cause);
	}
	if (buf) explicit_bzero(buf, FILE_MAX);
	free(buf);
	fs_close(&file);
	fs_free(&fs);
	return err < 0 ? err : 0;
}
