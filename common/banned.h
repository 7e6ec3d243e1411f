/* SPDX-License-Identifier: Apache-2.0 */
/* banned.h -- calls that invite overflows or hide state do not compile; the name in the error says
 * what to use. The build includes this before every source file of ours. The headers come first:
 * their declarations must not meet the macros. */
#pragma once

#include <alloca.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef strcpy
#define strcpy(dst, src) granary_banned_strcpy_use_snprintf_or_memcpy
#undef strncpy
#define strncpy(dst, src, n) granary_banned_strncpy_use_snprintf_or_memcpy
#undef strcat
#define strcat(dst, src) granary_banned_strcat_use_snprintf
#undef strncat
#define strncat(dst, src, n) granary_banned_strncat_use_snprintf
#undef sprintf
#define sprintf(...) granary_banned_sprintf_use_snprintf
#undef vsprintf
#define vsprintf(...) granary_banned_vsprintf_use_vsnprintf
#undef gets
#define gets(buf) granary_banned_gets_use_fgets
#undef strtok
#define strtok(s, delim) granary_banned_strtok_use_strtok_r_or_path_next
#undef alloca
#define alloca(n) granary_banned_alloca_use_a_fixed_array_or_malloc
