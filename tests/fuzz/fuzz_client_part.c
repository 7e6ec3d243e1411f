/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_client_part.c -- SNAPSHOT/PREFIX and a key, of any bytes, the two divided by a NUL: the recipe of a prefix that
 * keys can have is read, takes the keys below it and no others, and the name comes back from its form in logs. One that
 * no key can have may be refused, with a text. */
#include "client/recipe_priv.h"
#include "common/glob.h"
#include "common/name.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_log_form(const char *name)
{
	char form[PART_TEXT_MAX + 1];

	part_name_escape(form, name);
	for (const char *p = form; *p; p++)
		assert(*p > ' ' && *p < 127);
	part_name_unescape(form);
	assert(strcmp(form, name) == 0);
}

static void try_key(const struct recipe *r, const char *prefix, const char *key)
{
	size_t len = strlen(prefix);

	while (len > 0 && prefix[len - 1] == '/')
		len--;
	assert(r->sources_count == 1 && r->sources[0].include.count == 1);
	bool is_below = strncmp(key, prefix, len) == 0 && key[len] == '/';
	assert(glob_match(r->sources[0].include.first, key) == is_below);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char name[PART_NAME_MAX + 1] = "v1/", key[2 * GRANARY_KEY_LEN_MAX + 2], why[200] = "";
	const uint8_t *end = size > 0 ? memchr(data, 0, size) : NULL;
	size_t prefix_len = end ? (size_t)(end - data) : size, key_len = end ? size - prefix_len - 1 : 0;
	struct recipe r;

	if (prefix_len == 0 || prefix_len > GRANARY_KEY_LEN_MAX || key_len > GRANARY_KEY_LEN_MAX)
		return 0;
	memcpy(name + 3, data, prefix_len);
	name[3 + prefix_len] = '\0';
	try_log_form(name);
	char *text = part_recipe_text("data", name);
	assert(text);
	int err = recipe_parse(&r, text, strlen(text), why, sizeof(why));
	if (err < 0)
		assert(why[0] != '\0' && key_check(slice_of(data, prefix_len)) < 0);
	if (err == 0 && !(end && memchr(end + 1, 0, key_len))) {
		memcpy(key, end ? end + 1 : data, key_len);
		key[key_len] = '\0';
		try_key(&r, name + 3, key);
		memcpy(key, data, prefix_len); /* one below it */
		memcpy(key + prefix_len, "/x", 3);
		try_key(&r, name + 3, key);
	}
	recipe_release(&r);
	free(text);
	return 0;
}
