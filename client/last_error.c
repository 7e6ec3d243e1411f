/* SPDX-License-Identifier: Apache-2.0 */
/* last_error.c -- the text of the last failure: of a thread's own last failed call, else of the client's last failed
 * operation. */
#include "client_priv.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local struct {
	const struct granary_client *client; /* whose failure it was; NULL: granary_open()'s */
	uint64_t request;                    /* of the last operation that failed in the call under way */
	char text[ERROR_TEXT_SIZE];
	char shown[ERROR_TEXT_SIZE];         /* what granary_last_error() handed out */
} mine;

struct slice error_meta(struct slice meta)
{
	struct cur c = cur_of(meta.len > 0 ? meta.p : (const uint8_t *)"", meta.len);

	return cur_bytes16(&c);
}

void text_copy(char *dst, size_t cap, struct slice text)
{
	size_t n = text.len < cap - 1 ? text.len : cap - 1;

	for (size_t i = 0; i < n; i++)
		dst[i] = text.p[i] < 0x20 || text.p[i] == 0x7f ? '?' : (char)text.p[i];
	dst[n] = '\0';
}

void error_enter(void) { mine.request = 0; }

void error_of_request(uint64_t request) { mine.request = request; }

uint64_t granary_last_request(struct granary_client *client)
{
	return client && mine.client == client ? mine.request : 0;
}

void error_set(const struct granary_client *c, const char *text)
{
	mine.client = c;
	snprintf(mine.text, sizeof(mine.text), "%s", text);
}

int error_fail(struct granary_client *c, int err, const char *fmt, ...)
{
	va_list ap;

	mine.client = c;
	va_start(ap, fmt);
	vsnprintf(mine.text, sizeof(mine.text), fmt, ap);
	va_end(ap);
	return err;
}

const char *granary_last_error(struct granary_client *client)
{
	if (mine.client == client && mine.text[0]) {
		memcpy(mine.shown, mine.text, sizeof(mine.shown));
		return mine.shown;
	}
	mine.shown[0] = '\0';
	if (client && client->magic == CLIENT_MAGIC) {
		pthread_mutex_lock(&client->lock);
		memcpy(mine.shown, client->last_error, sizeof(mine.shown));
		pthread_mutex_unlock(&client->lock);
	}
	return mine.shown;
}
