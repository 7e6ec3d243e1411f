/* SPDX-License-Identifier: Apache-2.0 */
/* super_text.h -- reads the `key=value` lines of superblocks (FORMAT 2.1, 2.3). Bounded by the text, any bytes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"

struct slice super_line(struct slice text, const char *key); /* the value of `key=`; empty when there is none */
bool super_number(struct slice s, uint64_t max, uint64_t *out); /* decimal */
bool super_hex(struct slice s, uint8_t *out, size_t len);       /* exactly 2 * len lower-case digits */
