/* SPDX-License-Identifier: Apache-2.0 */
/* kernel.h -- the kernel's FUSE protocol: linux/fuse.h, and what is newer than Debian 12's copy of it. Source of the
 * numbers: the kernel's include/uapi/linux/fuse.h and Documentation/filesystems/fuse/ of 6.14. */
#pragma once

#include <linux/fuse.h>
#include <stdint.h>

#define KERNEL_STATX         52                  /* opcode */
#define KERNEL_DIRECT_MMAP   (UINT64_C(1) << 36) /* INIT flag: files of FOPEN_DIRECT_IO can be mapped shared (6.6) */
#define KERNEL_OVER_IO_URING (UINT64_C(1) << 41) /* INIT flag: requests come over rings, one queue a CPU */

enum {
	KERNEL_URING_REGISTER = 1,         /* cmd_op of IORING_OP_URING_CMD: offers a buffer, waits for a request */
	KERNEL_URING_COMMIT_AND_FETCH = 2, /* answers one and waits for the next */
	KERNEL_URING_HEADER_IO = 128,      /* bytes of a header area and of an op area */
	KERNEL_PAGE = 4096,
};

/* Fills the 80 bytes of command in a 128-byte submission. */
struct kernel_uring_cmd {
	uint64_t flags;
	uint64_t commit_id;
	uint16_t qid;
	uint8_t padding[6];
};

/* What each registered entry shares with the kernel, beside its payload. */
struct kernel_uring_header {
	uint8_t in_out[KERNEL_URING_HEADER_IO]; /* struct fuse_in_header, then struct fuse_out_header */
	uint8_t op_in[KERNEL_URING_HEADER_IO];  /* the fixed argument */
	uint64_t flags;
	uint64_t commit_id;
	uint32_t payload_size; /* of the rest, either way */
	uint32_t padding;
	uint64_t reserved;
};
_Static_assert(sizeof(struct kernel_uring_cmd) == 24, "as the kernel has it");
_Static_assert(sizeof(struct kernel_uring_header) == 288, "as the kernel has it");
