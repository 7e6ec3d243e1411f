/* SPDX-License-Identifier: Apache-2.0 */
/* config_value.h -- private to config*.c: one value from its text. */
#pragma once

#include "config.h"

/* Reads text as the key's type and judges it; 0, or -GRANARY_ECONFIG with why saying what is wrong (no place). */
int config_value_parse(
	enum config_key key, const char *text, struct config_value *out, char *why, size_t cap);
/* "tcp:..." or "unix:..." of what a person wrote. */
/* The path of a hot directory: absolute. */
int config_hot_path(const char *text, struct drive_place *out, char *why, size_t cap);
int config_hot_size(const char *text, struct drive_place *out, char *why, size_t cap);
int config_address_parse(const char *text, char out[CONFIG_ADDRESS_MAX], char *why, size_t cap);
