/* SPDX-License-Identifier: Apache-2.0 */
/* archive_names.h -- what members of archives may be called and where their links may lead: archives come from
 * anybody. */
#pragma once

#include <stdbool.h>

#include "granary/granary.h"

/* What an archive's member is called below the target: "./a//b" is "a/b". NULL when it would lead out of the target or
 * is no key; *why then says so. A directory has no slash at its end. `out` has GRANARY_KEY_LEN_MAX + 1 bytes. */
const char *member_name(char *out, const char *path, const char **why);

/* Does a symbolic link of this name, as member_name gives it, stay below the target, whatever other members are? `..`
 * may lead up to the target, not above it, and not stand behind a name: that may be a link itself. */
bool member_link_stays(const char *name, const char *target);
