/* SPDX-License-Identifier: Apache-2.0 */
/* mem.h -- big memory: huge pages where they can be had (hugetlb if reserved, else transparent), plain pages with one
 * warning where not. Length is rounded up to 2 MiB. NULL when there is no memory. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

void *mem_map(size_t len);
void mem_unmap(void *base, size_t len);
/* Makes the pages of [base, base+len) be there; what they hold stays as it is, also what is written meanwhile.
 * False: the kernel is too old, or there is no memory; a first touch does it then. */
bool mem_populate(void *base, size_t len);
/* Takes back the pages of [base, base+len) (reads as zero later), keeps the addresses.
 * Never of memory given to io_register_memory(): the kernel keeps the old pages. */
void mem_discard(void *base, size_t len);
