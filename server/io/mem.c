/* SPDX-License-Identifier: Apache-2.0 */
#include "io/mem.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/log.h"

#define HUGE_SIZE ((size_t)2 << 20)

static size_t round_up(size_t len) { return (len + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1); }

static void warn_plain(const char *why)
{
	static atomic_flag told = ATOMIC_FLAG_INIT;
	if (!atomic_flag_test_and_set(&told))
		log_warn("no huge pages (%s): using plain pages, which costs CPU; "
			"echo madvise > /sys/kernel/mm/transparent_hugepage/enabled", why);
}

static void *map_hugetlb(size_t len)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static int thp_is_off(void)
{
	char text[128] = "";
	int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 1;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n <= 0 || strstr(text, "[never]") != NULL;
}

/* len bytes at a 2 MiB boundary, from a larger mapping whose ends are given back. */
static void *map_aligned(size_t len)
{
	if (len > SIZE_MAX - HUGE_SIZE)
		return NULL;
	uint8_t *p = mmap(NULL, len + HUGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	size_t before = (HUGE_SIZE - ((uintptr_t)p & (HUGE_SIZE - 1))) & (HUGE_SIZE - 1);
	if (before > 0)
		munmap(p, before);
	if (before < HUGE_SIZE)
		munmap(p + before + len, HUGE_SIZE - before);
	return p + before;
}

void *mem_map(size_t len)
{
	if (len == 0 || len > SIZE_MAX - HUGE_SIZE)
		return NULL;
	len = round_up(len);
	void *p = map_hugetlb(len);
	if (p)
		return p;
	p = map_aligned(len);
	if (!p)
		return NULL;
	if (thp_is_off())
		warn_plain("switched off in this system");
	else if (madvise(p, len, MADV_HUGEPAGE) != 0)
		warn_plain("madvise failed");
	return p;
}

void mem_unmap(void *base, size_t len)
{
	if (base)
		munmap(base, round_up(len));
}

bool mem_populate(void *base, size_t len) { return madvise(base, len, MADV_POPULATE_WRITE) == 0; }

void mem_discard(void *base, size_t len) { madvise(base, len, MADV_DONTNEED); }
