/* SPDX-License-Identifier: Apache-2.0 */
/* loc.c -- the tables of loc.h: set-associative, in one lazily touched mapping of the whole budget.
 *
 * Shape: names  sets of 2 cache lines, 5 entries (128-bit keyed hash of directory id and name -> object id);
 *        ids    sets of 15 lines, 7 entries (ids in the first line, one obj_loc in two lines each);
 *        paths  sets of 4 lines, 5 entries (128-bit keyed hash of bucket and path -> directory);
 *        dirs   a ring of bytes a shard, newest record wins (directory id -> bucket and path);
 *        marks  one (changes, busy) pair a name hash modulo their number.
 * The low 8 bits of a hash choose the shard: a set, a mark and a ring belong to exactly one shard, whose lock guards
 * them. Names, ids and paths are looked up without it: a lock is a number that is odd while held, and what was read
 * counts if the number was even before and is the same after. So every word of a set is stored with release and,
 * without the lock, loaded with acquire.
 *
 * Invariants: (1) locks nest name shard -> id shard only (a fill); (2) an entry is inserted under its name's shard lock
 * while its mark has the stamp and busy == 0: a busy mark therefore comes either before (the fill is refused) or after
 * (it drops what was filled), so the id table needs no marks of its own; (3) that holds because loc.h (1) makes each
 * change of an object's row touch the very place a fill names; (4) a name entry is believed only together with an id
 * entry of its id, looked up after it: a change in between has dropped that one; (5) path_state grows when a rename or
 * removal of a directory begins and when it ends, path_busy counts those in between; a path or directory entry is
 * believed only while its stamp equals path_state; (6) eviction in a set is second chance: a hit sets the entry's bit,
 * the hand clears bits until it meets a clear one. */
#include "meta/loc.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/name.h"
#include "common/rand.h"

enum {
	SHARDS = 256,
	DIR_SHARDS = 16, /* fewer: a ring must hold long paths even in a small budget */
	NAME_WAYS = 5,
	ID_WAYS = 7,
	PATH_WAYS = 5,
	DIR_INDEX_WAYS = 4,
	MARKS_MAX = 65536,
	BUDGET_MIN = 1024 * 1024,
};

struct name_set {
	uint64_t lo[NAME_WAYS];
	uint8_t used, hand;      /* bit a way: hit since the hand passed */
	uint8_t ways[NAME_WAYS]; /* where in its set the id entry was put: only a hint for prefetching */
	uint8_t pad;
	uint64_t hi[NAME_WAYS];
	uint64_t id[NAME_WAYS]; /* 0: free */
};
static_assert(sizeof(struct name_set) == 128, "two cache lines");

struct id_entry {
	struct obj_loc o;
	uint8_t pad[128 - sizeof(struct obj_loc)];
};
struct id_set {
	uint64_t id[ID_WAYS]; /* 0: free */
	uint8_t used, hand, pad[6];
	struct id_entry e[ID_WAYS];
};
static_assert(sizeof(struct id_set) == 960, "fifteen cache lines");
static_assert(sizeof(struct obj_loc) % 8 == 0, "copied by words");

struct path_entry {
	struct hash128 hash;
	uint64_t stamp, dir, parent, group;
};
struct path_set {
	struct path_entry e[PATH_WAYS]; /* dir 0: free */
	uint8_t used, hand, pad[14];
};
static_assert(sizeof(struct path_set) == 256, "four cache lines");

/* One record of a shard's ring: this head, then path_len bytes, padded to 8. Positions grow for ever; a record is
 * there while position + ring_size > head of the ring. */
struct dir_record {
	uint64_t dir, bucket, parent, group, stamp;
	uint32_t path_len, zero;
};
struct dir_index {
	uint64_t dir[DIR_INDEX_WAYS];
	uint64_t at[DIR_INDEX_WAYS];
};
static_assert(sizeof(struct dir_index) == 64, "one cache line");

struct mark {
	uint32_t changes, busy;
};

struct shard {
	_Alignas(64) _Atomic uint32_t lock; /* odd: held */
	_Atomic uint64_t hits, misses;      /* nobody's alone: two threads that count at once may count one */
	uint64_t entries, bytes;
};

struct loc {
	uint8_t *map;
	size_t map_size;
	uint64_t seed;
	struct name_set *names;
	struct id_set *ids;
	struct path_set *paths;
	struct dir_index *dir_index;
	uint8_t *rings;
	struct mark *marks;
	uint32_t name_sets, id_sets, path_sets, dir_sets; /* a shard */
	uint32_t mark_mask;
	uint64_t ring_size; /* a shard, a multiple of 8 */
	_Atomic uint64_t path_state;
	_Atomic uint32_t path_busy;
	struct shard name_shards[SHARDS], id_shards[SHARDS], path_shards[SHARDS], dir_shards[DIR_SHARDS];
	_Alignas(64) uint64_t ring_head[DIR_SHARDS];
};

/* ---- locks ---- */

static inline bool shard_try(struct shard *s)
{
	uint32_t seq = atomic_load_explicit(&s->lock, memory_order_relaxed);
	return (seq & 1) == 0 &&
	       atomic_compare_exchange_weak_explicit(&s->lock, &seq, seq + 1, memory_order_acquire,
		       memory_order_relaxed);
}

static void shard_lock_slow(struct shard *s)
{
	for (uint32_t spins = 0;; spins++) {
		if (shard_try(s))
			return;
		if (spins % 64 == 63)
			sched_yield(); /* the holder may have lost its processor */
		else
			__builtin_ia32_pause();
	}
}

static inline void shard_lock(struct shard *s)
{
	if (!shard_try(s))
		shard_lock_slow(s);
}

static inline void shard_unlock(struct shard *s)
{
	uint32_t seq = atomic_load_explicit(&s->lock, memory_order_relaxed);
	atomic_store_explicit(&s->lock, seq + 1, memory_order_release);
}

/* ---- looking without the lock ---- */

enum { LOOKS_MAX = 8 }; /* then with it */

struct look { struct shard *shard; uint32_t seq, tries; };

/* look_begin(), read, look_end(): until that says that nobody wrote meanwhile. */
static inline void look_begin(struct look *l)
{
	if (l->tries++ == LOOKS_MAX)
		shard_lock(l->shard);
	l->seq = atomic_load_explicit(&l->shard->lock, memory_order_acquire);
}

static inline bool look_end(const struct look *l)
{
	if (l->tries > LOOKS_MAX) {
		shard_unlock(l->shard);
		return true;
	}
	return (l->seq & 1) == 0 && atomic_load_explicit(&l->shard->lock, memory_order_relaxed) == l->seq;
}

static inline uint64_t word_get(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

static inline void word_set(uint64_t *word, uint64_t v) { __atomic_store_n(word, v, __ATOMIC_RELEASE); }

/* Whole words. */
static inline void words_get(void *to, const void *from, size_t size)
{
	for (size_t i = 0; i < size / 8; i++) {
		uint64_t v = word_get((const uint64_t *)from + i);
		memcpy((char *)to + 8 * i, &v, 8);
	}
}

static inline void words_set(void *to, const void *from, size_t size)
{
	for (size_t i = 0; i < size / 8; i++) {
		uint64_t v;
		memcpy(&v, (const char *)from + 8 * i, 8);
		word_set((uint64_t *)to + i, v);
	}
}

static inline void count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* Second chance, invariant (6): a bit that another thread's write takes away is no loss. */
static inline void used_set(uint8_t *used, int way)
{
	uint8_t now = __atomic_load_n(used, __ATOMIC_RELAXED), bit = (uint8_t)(1u << way);
	if ((now & bit) == 0)
		__atomic_store_n(used, (uint8_t)(now | bit), __ATOMIC_RELAXED);
}

static inline void used_clear(uint8_t *used, int way)
{
	uint8_t now = __atomic_load_n(used, __ATOMIC_RELAXED);
	__atomic_store_n(used, (uint8_t)(now & ~(1u << way)), __ATOMIC_RELAXED);
}

/* ---- start and end ---- */

static uint32_t sets_for(uint64_t bytes, size_t set_size)
{
	uint64_t n = bytes / set_size / SHARDS;
	if (n == 0)
		n = 1;
	return n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

/* Four fifths for locations, three twentieths for names, the rest for directories and marks. */
static void loc_divide(struct loc *loc, uint64_t budget)
{
	uint32_t marks = MARKS_MAX;
	while (marks > SHARDS && marks * sizeof(struct mark) > budget / 64)
		marks /= 2;
	loc->mark_mask = marks - 1;
	uint64_t left = budget - marks * sizeof(struct mark);
	loc->id_sets = sets_for(left / 20 * 16, sizeof(struct id_set));
	loc->name_sets = sets_for(left / 20 * 3, sizeof(struct name_set));
	loc->path_sets = sets_for(left / 50, sizeof(struct path_set));
	loc->dir_sets = sets_for(left / 200 * (SHARDS / DIR_SHARDS), sizeof(struct dir_index));
	loc->ring_size = left / 40 / DIR_SHARDS / 8 * 8;
}

struct loc *loc_new(uint64_t budget_bytes)
{
	uint64_t budget = budget_bytes < BUDGET_MIN ? BUDGET_MIN : budget_bytes;
	struct loc *loc = aligned_alloc(64, sizeof(*loc));
	if (loc == NULL)
		return NULL;
	memset(loc, 0, sizeof(*loc));
	loc_divide(loc, budget);

	size_t id_size = (size_t)loc->id_sets * SHARDS * sizeof(struct id_set);
	size_t name_size = (size_t)loc->name_sets * SHARDS * sizeof(struct name_set);
	size_t path_size = (size_t)loc->path_sets * SHARDS * sizeof(struct path_set);
	size_t index_size = (size_t)loc->dir_sets * DIR_SHARDS * sizeof(struct dir_index);
	size_t ring_size = (size_t)loc->ring_size * DIR_SHARDS;
	size_t mark_size = ((size_t)loc->mark_mask + 1) * sizeof(struct mark);
	loc->map_size = round_up(id_size + name_size + path_size + index_size + ring_size + mark_size, 4096);
	void *map = mmap(NULL, loc->map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			 0);
	if (map == MAP_FAILED) {
		free(loc);
		return NULL;
	}
	(void)madvise(map, loc->map_size, MADV_HUGEPAGE); /* advice: without it all still works */
	uint8_t *p = map;
	loc->map = p;
	loc->ids = (void *)p;
	loc->names = (void *)(p += id_size);
	loc->paths = (void *)(p += name_size);
	loc->dir_index = (void *)(p += path_size);
	loc->marks = (void *)(p += index_size);
	loc->rings = p + mark_size;
	rand_bytes(&loc->seed, sizeof(loc->seed));
	return loc;
}

void loc_free(struct loc **locp)
{
	struct loc *loc = *locp;
	*locp = NULL;
	if (loc == NULL)
		return;
	munmap(loc->map, loc->map_size);
	free(loc);
}

/* ---- names and ids ---- */

struct name_at {
	struct hash128 hash;
	uint32_t shard;
	struct name_set *set;
	struct mark *mark;
};

static inline uint32_t scale(uint64_t hash, uint32_t n)
{
	return (uint32_t)(((hash >> 32) * n) >> 32);
}

static inline struct name_at name_at(const struct loc *loc, uint64_t dir_id, struct slice name)
{
	struct name_at at;
	at.hash = hash_keyed(loc->seed, dir_id, name.p, name.len);
	at.shard = (uint32_t)at.hash.lo & (SHARDS - 1);
	at.set = &loc->names[(size_t)at.shard * loc->name_sets + scale(at.hash.hi, loc->name_sets)];
	at.mark = &loc->marks[at.hash.lo & loc->mark_mask];
	return at;
}

static inline struct id_set *id_set_of(const struct loc *loc, uint64_t id, uint32_t *shard)
{
	uint64_t h = hash_u64(id ^ loc->seed);
	*shard = (uint32_t)h & (SHARDS - 1);
	return &loc->ids[(size_t)*shard * loc->id_sets + scale(h, loc->id_sets)];
}

static inline int name_way(const struct name_at *at)
{
	const struct name_set *s = at->set;
	for (int i = 0; i < NAME_WAYS; i++)
		if (word_get(&s->lo[i]) == at->hash.lo && word_get(&s->hi[i]) == at->hash.hi &&
			word_get(&s->id[i]) != 0)
			return i;
	return -1;
}

static inline int id_way(const struct id_set *s, uint64_t id)
{
	for (int i = 0; i < ID_WAYS; i++)
		if (word_get(&s->id[i]) == id)
			return i;
	return -1;
}

/* Second chance, invariant (6): the way to overwrite in a set whose ways are all taken. */
static int victim(uint8_t *used, uint8_t *hand, int ways)
{
	for (;;) {
		int i = *hand;
		*hand = (uint8_t)((i + 1) % ways);
		if ((__atomic_load_n(used, __ATOMIC_RELAXED) & (1u << i)) == 0)
			return i;
		used_clear(used, i);
	}
}

static bool id_find(struct loc *loc, uint64_t id, struct obj_loc *out)
{
	uint32_t shard;
	struct id_set *set = id_set_of(loc, id, &shard);
	struct look look = { .shard = &loc->id_shards[shard] };
	int way;
	do {
		look_begin(&look);
		way = id == 0 ? -1 : id_way(set, id);
		if (way >= 0)
			words_get(out, &set->e[way].o, sizeof(*out));
	} while (!look_end(&look));
	if (way >= 0)
		used_set(&set->used, way);
	count(way >= 0 ? &look.shard->hits : &look.shard->misses);
	return way >= 0;
}

static uint8_t id_insert(struct loc *loc, const struct obj_loc *o)
{
	uint32_t shard;
	struct id_set *set = id_set_of(loc, o->id, &shard);
	struct shard *s = &loc->id_shards[shard];
	shard_lock(s);
	int way = id_way(set, o->id);
	if (way < 0) {
		way = id_way(set, 0);
		if (way < 0)
			way = victim(&set->used, &set->hand, ID_WAYS);
		else
			s->entries++;
	}
	word_set(&set->id[way], o->id);
	words_set(&set->e[way].o, o, sizeof(*o));
	used_clear(&set->used, way); /* read once is not yet a reason to stay */
	shard_unlock(s);
	return (uint8_t)way;
}

static void id_drop(struct loc *loc, uint64_t id)
{
	uint32_t shard;
	struct id_set *set = id_set_of(loc, id, &shard);
	struct shard *s = &loc->id_shards[shard];
	shard_lock(s);
	int way = id_way(set, id);
	if (way >= 0) {
		word_set(&set->id[way], 0);
		s->entries--;
	}
	shard_unlock(s);
}

bool loc_find_id(struct loc *loc, uint64_t object_id, struct obj_loc *out)
{
	return id_find(loc, object_id, out);
}

/* The id that the name stands for, 0: none; *id_way_hint: where in its set the id probably is. */
static uint64_t name_find(struct loc *loc, const struct name_at *at, uint8_t *id_way_hint)
{
	struct look look = { .shard = &loc->name_shards[at->shard] };
	uint64_t id;
	int way;
	do {
		look_begin(&look);
		way = name_way(at);
		id = way >= 0 ? word_get(&at->set->id[way]) : 0;
		*id_way_hint = way >= 0 ? __atomic_load_n(&at->set->ways[way], __ATOMIC_ACQUIRE) : 0;
	} while (!look_end(&look));
	if (way >= 0)
		used_set(&at->set->used, way);
	count(way >= 0 ? &look.shard->hits : &look.shard->misses);
	return id;
}

bool loc_find_name(struct loc *loc, uint64_t dir_id, struct slice name, struct obj_loc *out)
{
	struct name_at at = name_at(loc, dir_id, name);
	uint8_t hint;
	return id_find(loc, name_find(loc, &at, &hint), out);
}

void loc_probe_name(struct loc *loc, uint64_t dir_id, struct slice name, struct loc_probe *probe)
{
	struct name_at at = name_at(loc, dir_id, name);
	*probe = (struct loc_probe){ .hash = at.hash, .set = at.set, .lines = { at.set, (char *)at.set + 64, at.set } };
}

void loc_probe_id(struct loc *loc, uint64_t object_id, struct loc_probe *probe)
{
	uint32_t shard;
	const struct id_set *ids = id_set_of(loc, object_id, &shard);
	*probe = (struct loc_probe){ .id = object_id, .lines = { ids, ids, ids } };
}

void loc_probe_next(struct loc *loc, struct loc_probe *probe)
{
	const struct id_set *ids = probe->lines[0];
	uint8_t way = 0;
	uint32_t shard;
	if (probe->set != NULL) {
		struct name_at at = { .hash = probe->hash, .set = probe->set };
		at.shard = (uint32_t)probe->hash.lo & (SHARDS - 1);
		probe->id = name_find(loc, &at, &way);
		ids = id_set_of(loc, probe->id, &shard);
	} else if (ids != NULL) {
		int at = id_way(ids, probe->id); /* what a writer changes meanwhile is prefetched in vain */
		way = (uint8_t)(at < 0 ? 0 : at);
	} else {
		return;
	}
	probe->lines[0] = ids;
	probe->lines[1] = &ids->e[way];
	probe->lines[2] = (const char *)&ids->e[way] + 64;
}

bool loc_probe_end(struct loc *loc, const struct loc_probe *probe, struct obj_loc *out)
{
	return id_find(loc, probe->id, out);
}

uint64_t loc_stamp(struct loc *loc, uint64_t dir_id, struct slice name)
{
	struct name_at at = name_at(loc, dir_id, name);
	struct shard *s = &loc->name_shards[at.shard];
	shard_lock(s);
	uint64_t stamp = at.mark->changes;
	shard_unlock(s);
	return stamp;
}

void loc_fill(struct loc *loc, uint64_t stamp, uint64_t dir_id, struct slice name, const struct obj_loc *o)
{
	assert(o->id != 0);
	struct name_at at = name_at(loc, dir_id, name);
	struct shard *s = &loc->name_shards[at.shard];
	shard_lock(s);
	if (at.mark->changes == stamp && at.mark->busy == 0) { /* invariant (2) */
		struct name_set *set = at.set;
		int way = name_way(&at);
		if (way < 0) {
			for (way = NAME_WAYS - 1; way >= 0 && set->id[way] != 0; way--)
				;
			if (way < 0)
				way = victim(&set->used, &set->hand, NAME_WAYS);
			else
				s->entries++;
		}
		word_set(&set->lo[way], at.hash.lo);
		word_set(&set->hi[way], at.hash.hi);
		word_set(&set->id[way], o->id);
		used_clear(&set->used, way);
		__atomic_store_n(&set->ways[way], id_insert(loc, o), __ATOMIC_RELEASE);
	}
	shard_unlock(s);
}

void loc_busy(struct loc *loc, uint64_t dir_id, struct slice name, uint64_t object_id)
{
	struct name_at at = name_at(loc, dir_id, name);
	struct shard *s = &loc->name_shards[at.shard];
	shard_lock(s);
	at.mark->changes++;
	at.mark->busy++;
	int way = name_way(&at);
	if (way >= 0) {
		word_set(&at.set->id[way], 0);
		s->entries--;
	}
	if (object_id != 0)
		id_drop(loc, object_id);
	shard_unlock(s);
}

void loc_ready(struct loc *loc, uint64_t dir_id, struct slice name, uint64_t object_id)
{
	(void)object_id; /* dropped by loc_busy, and not filled since: its place was busy */
	struct name_at at = name_at(loc, dir_id, name);
	struct shard *s = &loc->name_shards[at.shard];
	shard_lock(s);
	assert(at.mark->busy > 0);
	at.mark->changes++;
	at.mark->busy--;
	shard_unlock(s);
}

/* ---- directories ---- */

uint64_t loc_path_stamp(struct loc *loc)
{
	return atomic_load_explicit(&loc->path_state, memory_order_acquire);
}

void loc_path_busy(struct loc *loc)
{
	atomic_fetch_add(&loc->path_busy, 1); /* before the state: a fill that passed its check had the older stamp */
	atomic_fetch_add(&loc->path_state, 1);
}

void loc_path_ready(struct loc *loc)
{
	atomic_fetch_add(&loc->path_state, 1); /* before busy: what was read while it was busy is never kept */
	atomic_fetch_sub(&loc->path_busy, 1);
}

static struct path_set *path_set_of(const struct loc *loc, uint64_t bucket, struct slice path, struct hash128 *hash,
				    uint32_t *shard)
{
	*hash = hash_keyed(loc->seed ^ 0x70617468u, bucket, path.p, path.len);
	*shard = (uint32_t)hash->lo & (SHARDS - 1);
	return &loc->paths[(size_t)*shard * loc->path_sets + scale(hash->hi, loc->path_sets)];
}

static inline int path_way(const struct path_set *set, const struct hash128 *hash, uint64_t stamp)
{
	for (int i = 0; i < PATH_WAYS; i++) {
		const struct path_entry *e = &set->e[i];
		if (word_get(&e->hash.lo) == hash->lo && word_get(&e->hash.hi) == hash->hi && word_get(&e->dir) != 0 &&
		    word_get(&e->stamp) == stamp)
			return i;
	}
	return -1;
}

bool loc_path_find_dir(struct loc *loc, uint64_t bucket_id, struct slice dir_part, struct loc_dir *out)
{
	struct hash128 hash;
	uint32_t shard;
	uint64_t state = loc_path_stamp(loc);
	struct path_set *set = path_set_of(loc, bucket_id, dir_part, &hash, &shard);
	struct look look = { .shard = &loc->path_shards[shard] };
	struct path_entry e = { .dir = 0 };
	int way;
	do {
		look_begin(&look);
		way = path_way(set, &hash, state);
		if (way >= 0)
			words_get(&e, &set->e[way], sizeof(e));
	} while (!look_end(&look));
	count(way >= 0 ? &look.shard->hits : &look.shard->misses);
	if (way < 0)
		return false;
	used_set(&set->used, way);
	*out = (struct loc_dir){ .id = e.dir, .bucket = bucket_id, .parent = e.parent, .group = e.group };
	return true;
}

bool loc_path_find(struct loc *loc, uint64_t bucket_id, struct slice dir_part, uint64_t *dir_id)
{
	struct loc_dir dir;
	if (!loc_path_find_dir(loc, bucket_id, dir_part, &dir))
		return false;
	*dir_id = dir.id;
	return true;
}

static void path_insert(struct loc *loc, uint64_t stamp, struct slice path, const struct loc_dir *dir)
{
	struct hash128 hash;
	uint32_t shard;
	struct path_set *set = path_set_of(loc, dir->bucket, path, &hash, &shard);
	struct shard *s = &loc->path_shards[shard];
	shard_lock(s);
	int way = -1, free_way = -1;
	for (int i = 0; i < PATH_WAYS; i++) {
		const struct path_entry *e = &set->e[i];
		if (e->dir != 0 && e->hash.lo == hash.lo && e->hash.hi == hash.hi)
			way = i;
		if (e->dir == 0 || e->stamp != stamp)
			free_way = i;
	}
	if (way < 0)
		way = free_way >= 0 ? free_way : victim(&set->used, &set->hand, PATH_WAYS);
	struct path_entry *e = &set->e[way];
	if (e->dir == 0)
		s->entries++;
	const struct path_entry now = { .hash = hash, .stamp = stamp, .dir = dir->id, .parent = dir->parent,
		.group = dir->group };
	words_set(e, &now, sizeof(now));
	shard_unlock(s);
}

/* Copies into or out of a ring whose end joins its beginning. */
static void ring_write(const struct loc *loc, uint8_t *ring, uint64_t at, const void *src, size_t n)
{
	uint64_t from = at % loc->ring_size;
	size_t first = loc->ring_size - from < n ? (size_t)(loc->ring_size - from) : n;
	memcpy(ring + from, src, first);
	memcpy(ring, (const uint8_t *)src + first, n - first);
}

static void ring_read(const struct loc *loc, const uint8_t *ring, uint64_t at, void *dst, size_t n)
{
	uint64_t from = at % loc->ring_size;
	size_t first = loc->ring_size - from < n ? (size_t)(loc->ring_size - from) : n;
	memcpy(dst, ring + from, first);
	memcpy((uint8_t *)dst + first, ring, n - first);
}

static struct dir_index *dir_index_of(const struct loc *loc, uint64_t dir_id, uint32_t *shard)
{
	uint64_t h = hash_u64(dir_id ^ loc->seed);
	*shard = (uint32_t)h & (DIR_SHARDS - 1);
	return &loc->dir_index[(size_t)*shard * loc->dir_sets + scale(h, loc->dir_sets)];
}

/* Whether the ring has this directory's record under this stamp already. */
static bool dir_is_kept(const struct loc *loc, const struct dir_index *index, const uint8_t *ring, uint64_t head,
			uint64_t dir_id, uint64_t stamp)
{
	for (int i = 0; i < DIR_INDEX_WAYS; i++) {
		struct dir_record r;
		if (index->dir[i] != dir_id || index->at[i] + loc->ring_size < head)
			continue;
		ring_read(loc, ring, index->at[i], &r, sizeof(r));
		return r.dir == dir_id && r.stamp == stamp;
	}
	return false;
}

static void dir_insert(struct loc *loc, uint64_t stamp, struct slice path, const struct loc_dir *dir)
{
	size_t size = round_up(sizeof(struct dir_record) + path.len, 8);
	if (size > loc->ring_size)
		return;
	struct dir_record r = { .dir = dir->id, .bucket = dir->bucket, .parent = dir->parent, .group = dir->group,
				.stamp = stamp, .path_len = (uint32_t)path.len };
	uint32_t shard;
	struct dir_index *index = dir_index_of(loc, dir->id, &shard);
	struct shard *s = &loc->dir_shards[shard];
	shard_lock(s);
	uint8_t *ring = loc->rings + (size_t)shard * loc->ring_size;
	uint64_t at = loc->ring_head[shard];
	if (dir_is_kept(loc, index, ring, at, dir->id, stamp)) {
		shard_unlock(s);
		return;
	}
	ring_write(loc, ring, at, &r, sizeof(r));
	ring_write(loc, ring, at + sizeof(r), path.p, path.len);
	loc->ring_head[shard] = at + size;
	int way = 0;
	for (int i = 0; i < DIR_INDEX_WAYS; i++) { /* its own, else a free one, else the oldest */
		if (index->dir[i] == dir->id) {
			way = i;
			break;
		}
		if (index->dir[i] == 0 || (index->dir[way] != 0 && index->at[i] < index->at[way]))
			way = i;
	}
	index->dir[way] = dir->id;
	index->at[way] = at;
	shard_unlock(s);
}

bool loc_dir_find_dir(struct loc *loc, uint64_t dir_id, struct loc_dir *out, char *path, size_t cap, size_t *len)
{
	uint64_t state = loc_path_stamp(loc);
	uint32_t shard;
	const struct dir_index *index = dir_index_of(loc, dir_id, &shard);
	struct shard *s = &loc->dir_shards[shard];
	bool found = false;
	if (dir_id == 0)
		return false;
	shard_lock(s);
	for (int i = 0; i < DIR_INDEX_WAYS && !found; i++) {
		if (index->dir[i] != dir_id || index->at[i] + loc->ring_size < loc->ring_head[shard])
			continue;
		const uint8_t *ring = loc->rings + (size_t)shard * loc->ring_size;
		struct dir_record r;
		ring_read(loc, ring, index->at[i], &r, sizeof(r));
		if (r.dir != dir_id || r.stamp != state || (path != NULL && r.path_len + 1 > cap))
			continue;
		*out = (struct loc_dir){ .id = dir_id, .bucket = r.bucket, .parent = r.parent, .group = r.group };
		if (path != NULL) {
			ring_read(loc, ring, index->at[i] + sizeof(r), path, r.path_len);
			path[r.path_len] = '\0';
			*len = r.path_len;
		}
		found = true;
	}
	count(found ? &s->hits : &s->misses);
	shard_unlock(s);
	return found;
}

bool loc_dir_find(struct loc *loc, uint64_t dir_id, uint64_t *bucket_id, char *path, size_t cap, size_t *len)
{
	struct loc_dir dir;
	if (!loc_dir_find_dir(loc, dir_id, &dir, path, cap, len))
		return false;
	*bucket_id = dir.bucket;
	return true;
}

void loc_path_fill(struct loc *loc, uint64_t stamp, struct slice dir_part, const struct loc_dir *dir)
{
	assert(dir->id != 0);
	/* Whatever changes after this check makes another state, and the entries carry `stamp`: invariant (5). */
	if (atomic_load(&loc->path_busy) != 0 || atomic_load(&loc->path_state) != stamp)
		return;
	path_insert(loc, stamp, dir_part, dir);
	dir_insert(loc, stamp, dir_part, dir);
}

/* ---- figures ---- */

static void shards_sum(struct shard *shards, int count, uint64_t *hits, uint64_t *misses, uint64_t *entries)
{
	for (int i = 0; i < count; i++) {
		shard_lock(&shards[i]);
		*hits += atomic_load_explicit(&shards[i].hits, memory_order_relaxed);
		*misses += atomic_load_explicit(&shards[i].misses, memory_order_relaxed);
		*entries += shards[i].entries;
		shard_unlock(&shards[i]);
	}
}

void loc_get_stats(struct loc *loc, struct loc_stats *out)
{
	uint64_t names = 0, ids = 0, paths = 0, dirs = 0;
	memset(out, 0, sizeof(*out));
	shards_sum(loc->name_shards, SHARDS, &out->name_hits, &out->name_misses, &names);
	shards_sum(loc->id_shards, SHARDS, &out->id_hits, &out->id_misses, &ids);
	shards_sum(loc->path_shards, SHARDS, &out->path_hits, &out->path_misses, &paths);
	shards_sum(loc->dir_shards, DIR_SHARDS, &out->path_hits, &out->path_misses, &dirs);
	out->entries = ids;
	out->bytes = names * (sizeof(struct name_set) / NAME_WAYS) + ids * (sizeof(struct id_set) / ID_WAYS) +
		     paths * (sizeof(struct path_set) / PATH_WAYS) + loc->ring_size * DIR_SHARDS;
}
