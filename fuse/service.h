/* SPDX-License-Identifier: Apache-2.0 */
/* service.h -- a mount that comes back with the machine: a unit of systemd, or a line of fstab. */
#pragma once

#include "fuse/options.h"

/* Prints the unit, and where it belongs. target: an absolute path. */
void service_unit(const struct options *o, const char *target);
/* Puts the line into fstab ($LIBMOUNT_FSTAB, else /etc/fstab), in place of the one of that directory if there is one:
 * all of the file or nothing. 0, or -1 and why not. */
int service_fstab(const struct options *o, const char *target, char *why, size_t why_size);
