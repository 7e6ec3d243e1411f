/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_fuse_options.c -- command lines of granary-mount of any words, a line each: what is refused says why, what is
 * taken has an address and is within its limits. */
#include "fuse/options.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WORDS_MAX = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char program[] = "granary-mount", *words[WORDS_MAX + 1] = { program };
	char *text = calloc(1, size + 1), *rest = text;
	struct options *o = malloc(sizeof(*o));
	char why[300] = "";
	int count = 1;

	assert(text && o);
	if (size > 0) memcpy(text, data, size);
	while (count < WORDS_MAX && rest) words[count++] = strsep(&rest, "\n");
	int err = options_read(count, words, o, why, sizeof(why));
	assert(err == 0 || why[0] != '\0');
	if (err == 0 && !o->help && !o->version) {
		assert(o->url && (o->unmount || o->target));
		assert(o->memory >= 64 << 20 && o->deadline_ms >= 100 && o->threads >= 1 && o->connections >= 1);
		assert(strlen(o->given) < sizeof(o->given));
	}
	free(o);
	free(text);
	return 0;
}
