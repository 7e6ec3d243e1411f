/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.h -- parts of what a mounted snapshot answers. All: 0 or -errno. */
#pragma once

#include "fuse/mount.h"

/* snapshot_xattr.c */
int snapshot_getxattr(struct mount *m, struct request *r);
int snapshot_listxattr(struct mount *m, struct request *r);
