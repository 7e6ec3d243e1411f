/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/s3_breaker.h"

#define PAUSE_MIN_NS (UINT64_C(500) * 1000 * 1000)
#define PAUSE_MAX_NS (UINT64_C(30) * 1000 * 1000 * 1000)

void breaker_init(struct breaker *b)
{
	*b = (struct breaker){ .pause_ns = PAUSE_MIN_NS };
	pthread_mutex_init(&b->lock, NULL);
}

void breaker_destroy(struct breaker *b)
{
	pthread_mutex_destroy(&b->lock);
}

bool breaker_enter(struct breaker *b, uint64_t now_ns)
{
	bool may = true;

	pthread_mutex_lock(&b->lock);
	if (b->open) {
		may = !b->trying && now_ns >= b->until_ns;
		if (may) b->trying = true;
	}
	pthread_mutex_unlock(&b->lock);
	return may;
}

bool breaker_answered(struct breaker *b)
{
	pthread_mutex_lock(&b->lock);
	bool closes = b->open;
	b->open = b->trying = false;
	b->failures = 0;
	b->pause_ns = PAUSE_MIN_NS;
	pthread_mutex_unlock(&b->lock);
	return closes;
}

bool breaker_failed(struct breaker *b, uint64_t now_ns)
{
	pthread_mutex_lock(&b->lock);
	bool was_open = b->open;
	b->failures++;
	if (b->open ? b->trying : b->failures >= BREAKER_FAILURES) {
		if (was_open) b->pause_ns = b->pause_ns * 2 < PAUSE_MAX_NS ? b->pause_ns * 2 : PAUSE_MAX_NS;
		b->open = true;
		b->trying = false;
		b->until_ns = now_ns + b->pause_ns;
	}
	bool opens = b->open && !was_open;
	pthread_mutex_unlock(&b->lock);
	return opens;
}
