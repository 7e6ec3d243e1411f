/* SPDX-License-Identifier: Apache-2.0 */
/* credentials.c -- the file is written before the key is committed: a crash between the two leaves a file that names no
 * key, and the next start, still without keys, replaces it; never a key that nobody knows. */
#include "credentials.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/rand.h"
#include "io/fs.h"
#include "meta/ns.h"
#include "req/store.h"

enum { FILE_MAX = 4096, ID_RANDOM = 8 };

bool credentials_any_key(struct store *store)
{
	struct ns_access_key *key = malloc(sizeof(*key));
	bool any = key && ns_key_list(store->ns, slice_of("", 0), key, 1) > 0;

	free(key);
	return any;
}

static void url_of_path(const char *path, char *out, size_t cap)
{
	size_t n = (size_t)snprintf(out, cap, "granary://");

	for (; *path && n + 4 < cap; path++) {
		unsigned char c = (unsigned char)*path;
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			     (c >= '0' && c <= '9') || strchr("-._~", c);
		n += (size_t)snprintf(out + n, cap - n, plain ? "%c" : "%%%02X", c);
	}
}

void credentials_url(const char *address, char out[CREDENTIALS_URL_MAX])
{
	if (strncmp(address, "unix:", 5) == 0) {
		url_of_path(address + 5, out, CREDENTIALS_URL_MAX);
		return;
	}
	const char *rest = strncmp(address, "tcp:", 4) == 0 ? address + 4 : address;
	const char *port = strrchr(rest, ':');
	const char *host = strncmp(rest, "0.0.0.0:", 8) == 0 ? "127.0.0.1"
			   : strncmp(rest, "[::]:", 5) == 0  ? "[::1]"
							     : NULL;
	snprintf(out, CREDENTIALS_URL_MAX, "granary://%s%.256s", host ? host : "",
		host && port ? port : rest);
}

static int file_write(struct store *store, const char *id, const char *secret, const char *url,
	char *why, size_t cap)
{
	char text[FILE_MAX];
	int n = snprintf(text, sizeof(text),
		"# full access to everything in this store; keep it secret\n"
		"access_key=%s\nsecret=%s\nurl=%s\n",
		id, secret, url);
	int err = n > 0 && n < FILE_MAX ? fs_put_file(store->fs, CREDENTIALS_FILE, text, (size_t)n)
					: -GRANARY_ETOOBIG;

	explicit_bzero(text, sizeof(text));
	if (err < 0)
		snprintf(why, cap, "cannot write '%s/%s': %s", fs_root(store->fs), CREDENTIALS_FILE,
			error_text(err));
	return err;
}

static void hex(const uint8_t *p, size_t len, char *out)
{
	for (size_t i = 0; i < len; i++) snprintf(out + 2 * i, 3, "%02x", p[i]);
}

static int key_make(struct store *store, const char *url, char *why, size_t cap)
{
	struct ns_access_key *key = calloc(1, sizeof(*key));
	char secret[2 * sizeof(key->secret) + 1];
	uint8_t id[ID_RANDOM];

	if (!key) {
		snprintf(why, cap, "out of memory");
		return -GRANARY_ENOMEM;
	}
	rand_bytes(id, sizeof(id));
	rand_bytes(key->secret, sizeof(key->secret));
	memcpy(key->id, "root-", 5);
	hex(id, sizeof(id), key->id + 5);
	key->grant_count = 1;
	key->grants[0].actions =
		NS_ACT_READ | NS_ACT_LIST | NS_ACT_WRITE | NS_ACT_DELETE | NS_ACT_ADMIN;
	snprintf(key->note, sizeof(key->note), "made at the first start");
	hex(key->secret, sizeof(key->secret), secret);
	int err = file_write(store, key->id, secret, url, why, cap);
	if (err == 0) {
		err = ns_key_create(store->ns, key);
		if (err < 0)
			snprintf(
				why, cap, "cannot store the first access key: %s", error_text(err));
	}
	explicit_bzero(key, sizeof(*key));
	explicit_bzero(secret, sizeof(secret));
	free(key);
	return err;
}

/* The value of a `name=` line, or NULL. Cuts the text at its end. */
static char *line_value(char *text, const char *name)
{
	size_t len = strlen(name);

	for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		if (strncmp(line, name, len) == 0) return line + len;
	return NULL;
}

static int url_refresh(struct store *store, const char *url, char *why, size_t cap)
{
	char text[FILE_MAX], old[CREDENTIALS_URL_MAX];
	size_t len = 0;
	int err = fs_exists(store->fs, CREDENTIALS_FILE);

	if (err == 1)
		err = fs_get_file(store->fs, CREDENTIALS_FILE, text, sizeof(text) - 1, &len);
	else
		return 0;      /* it was put away, as it should be */
	if (err < 0) return 0; /* not ours to judge */
	text[len] = '\0';
	char *id = line_value(text, "access_key="), *secret = line_value(text, "secret="),
	     *at = line_value(text, "url=");
	if (id && secret && at) {
		snprintf(old, sizeof(old), "%.*s", (int)strcspn(at, "\n"), at);
		id[strcspn(id, "\n")] = '\0';
		secret[strcspn(secret, "\n")] = '\0';
		if (strcmp(old, url) != 0) err = file_write(store, id, secret, url, why, cap);
	}
	explicit_bzero(text, sizeof(text));
	return err < 0 ? err : 0;
}

int credentials_ensure(struct store *store, const char *url, bool *made, char *why, size_t why_cap)
{
	*made = !credentials_any_key(store);
	return *made ? key_make(store, url, why, why_cap) : url_refresh(store, url, why, why_cap);
}
