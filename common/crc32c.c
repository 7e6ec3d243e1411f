/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c.c -- picks the fastest engine at the first call and keeps it. */
#include "common/crc32c.h"

#include <pthread.h>
#include <stdatomic.h>

#include "common/crc32c_engines.h"

static bool always(void)
{
	return true;
}

const struct crc_impl crc_impls[] = {
	{ "avx512", false, crc_avx512_usable, crc_avx512_run },
	{ "avx512-lanes", true, crc_avx512_lanes_usable, crc_avx512_lanes_run },
	{ "sse42", false, crc_sse42_usable, crc_sse42_run },
	{ "table", false, always, crc_table_run },
};
const size_t crc_impls_count = sizeof(crc_impls) / sizeof(crc_impls[0]);

static _Atomic(const struct crc_impl *) crc_chosen;
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void crc_choose(void)
{
	const struct crc_impl *impl = crc_impls;

	crc_table_init();
	crc_x86_init();
	while (impl->for_tests || !impl->usable())
		impl++;
	/* Pairs with the acquire in crc_impl(): whoever sees the engine sees its tables. */
	atomic_store_explicit(&crc_chosen, impl, memory_order_release);
}

void crc_init(void)
{
	pthread_once(&crc_once, crc_choose);
}

static const struct crc_impl *crc_impl(void)
{
	const struct crc_impl *impl = atomic_load_explicit(&crc_chosen, memory_order_acquire);

	if (__builtin_expect(impl == NULL, 0)) {
		crc_init();
		impl = atomic_load_explicit(&crc_chosen, memory_order_acquire);
	}
	return impl;
}

uint32_t crc32c(uint32_t crc, const void *buf, size_t len)
{
	return ~crc_impl()->run(~crc, buf, len);
}

const char *crc32c_engine(void)
{
	return crc_impl()->name;
}

void crc32c_blocks(uint32_t *crcs, const void *buf, size_t len)
{
	const struct crc_impl *impl = crc_impl();
	const uint8_t *p = buf;

	while (len > 0) {
		size_t n = len < CRC_BLOCK_SIZE ? len : CRC_BLOCK_SIZE;
		*crcs++ = ~impl->run(UINT32_MAX, p, n);
		p += n;
		len -= n;
	}
}
