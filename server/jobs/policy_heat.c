/* SPDX-License-Identifier: Apache-2.0 */
/* policy_heat.c -- how hot what is: by prefix (granary tier top), and pack by pack (granary tier map). Reads are known
 * by pack; a prefix has its share of a pack's reads by bytes. Reads names and the table of packs, changes nothing. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "jobs/policy_priv.h"
#include "meta/ids.h"
#include "meta/kv.h"
#include "meta/ns.h"
#include "tier/stores.h"

enum { LIST_MAX = 256, PREFIXES_MAX = 1 << 20, SHOWN = 10, PREFIX_MAX = BUCKET_LEN_MAX + 1 + KEY_LEN_MAX + 2 };

/* ---- by prefix ---- */

struct prefix {
	char *name; /* bucket/prefix, with a slash at the end where it is a directory */
	uint64_t objects, bytes, cold_bytes, last_read_ns;
	double reads, rate; /* in the records; an hour, decayed */
};

struct top {
	struct policy *p;
	struct kv_snapshot *view;
	struct ns_bucket bucket;
	size_t base; /* bytes of the key that all have */
	struct prefix *at;
	uint32_t count, cap;
	/* the pack looked at last */
	uint64_t pack, live;
	struct pack_heat heat;
	bool is_cold;
};

static int pack_look(struct top *t, uint64_t id)
{
	struct pack_info info;
	struct pack_row row;

	if (t->pack == id) return 0;
	t->pack = id;
	t->live = 0;
	t->heat = (struct pack_heat){ 0 };
	if (packs_list(t->p->o.packs, id - 1, &info, 1) != 1 || info.id != id) return 0;
	if (packs_row(t->p->o.packs, id, &row) == 0) t->live = row.live_bytes;
	t->is_cold = !info.drive;
	heat_of(t->p->o.heat, id, &t->heat);
	return 0;
}

static int each_extent(void *arg, const struct extent *e)
{
	struct top *t = arg;
	struct prefix *x = &t->at[t->count - 1];

	if (!e->pack) return 0; /* a hole */
	int err = pack_look(t, e->pack);
	double share = t->live > e->length ? (double)e->length / (double)t->live : 1;
	x->reads += share * (double)t->heat.reads;
	x->rate += share * t->heat.rate;
	if (t->is_cold) x->cold_bytes += e->length;
	if (t->heat.last_read_ns > x->last_read_ns) x->last_read_ns = t->heat.last_read_ns;
	return err;
}

/* Names come in order: what belongs to one prefix follows each other. */
static int prefix_enter(struct top *t, struct slice key)
{
	const uint8_t *slash = key.len > t->base ? memchr(key.p + t->base, '/', key.len - t->base) : NULL;
	size_t len = slash ? (size_t)(slash - key.p) + 1 : t->base;
	char name[PREFIX_MAX];

	snprintf(name, sizeof(name), "%s/%.*s", t->bucket.name, (int)len, (const char *)key.p);
	if (t->count > 0 && strcmp(t->at[t->count - 1].name, name) == 0) return 0;
	if (t->count == PREFIXES_MAX) return -GRANARY_ETOOBIG;
	if (t->count == t->cap) {
		uint32_t cap = t->cap ? 2 * t->cap : 256;
		struct prefix *at = realloc(t->at, cap * sizeof(*at));
		if (!at) return -GRANARY_ENOMEM;
		t->at = at;
		t->cap = cap;
	}
	t->at[t->count] = (struct prefix){ .name = strdup(name) };
	return t->at[t->count].name && ++t->count ? 0 : -GRANARY_ENOMEM;
}

static int each_object(void *arg, struct slice key, const struct object *o)
{
	struct top *t = arg;
	int err;

	if (atomic_load(&t->p->stopping)) return -GRANARY_ESHUTDOWN;
	if (!object_has_bytes(o) || key.len > KEY_LEN_MAX) return 0;
	err = prefix_enter(t, key);
	if (err < 0) return err;
	t->at[t->count - 1].objects++;
	t->at[t->count - 1].bytes += o->size;
	if (o->extents_outside) return ns_extents_in(t->p->o.ns, t->view, o, each_extent, t);
	for (uint32_t i = 0; err == 0 && i < o->extent_count; i++) err = each_extent(t, &o->extents[i]);
	return err;
}

/* One bucket below a path, or (path "") all of them. */
static int top_scan(struct top *t, const char *path, char *why, size_t why_cap)
{
	size_t len = strcspn(path, "/");
	const char *prefix = path[len] ? path + len + 1 : "";
	char after[BUCKET_LEN_MAX + 1] = "", under[KEY_LEN_MAX + 2];
	int err = *path ? ns_bucket_find(t->p->o.ns, slice_of(path, len), &t->bucket) : 0;

	if (err < 0 || strlen(prefix) > KEY_LEN_MAX) {
		snprintf(why, why_cap, "there is no '%.200s'", path);
		return err < 0 ? err : -GRANARY_ENAME;
	}
	snprintf(under, sizeof(under), "%s%s", prefix, *prefix && prefix[strlen(prefix) - 1] != '/' ? "/" : "");
	t->base = strlen(under);
	if (*path) return ns_scan(t->p->o.ns, t->view, t->bucket.id, slice_str(under), each_object, t);
	while (err == 0 && ns_bucket_list(t->p->o.ns, slice_str(after), &t->bucket, 1) == 1) {
		err = ns_scan(t->p->o.ns, t->view, t->bucket.id, slice_of("", 0), each_object, t);
		memcpy(after, t->bucket.name, sizeof(after));
	}
	return err;
}

static int hotter_first(const void *a, const void *b)
{
	const struct prefix *x = a, *y = b;

	if (x->rate != y->rate) return x->rate > y->rate ? -1 : 1;
	if (x->reads != y->reads) return x->reads > y->reads ? -1 : 1;
	if (x->last_read_ns != y->last_read_ns) return x->last_read_ns > y->last_read_ns ? -1 : 1;
	return strcmp(x->name, y->name);
}

static void top_json(FILE *f, const struct top *t, uint64_t now_ns)
{
	for (uint32_t i = 0; i < t->count; i++) {
		const struct prefix *x = &t->at[i];
		fprintf(f, "{\"prefix\":");
		policy_json_text(f, x->name);
		fprintf(f,
			",\"objects\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"cold_bytes\":%" PRIu64
			",\"reads\":%.3f,\"reads_an_hour\":%.3f,\"read_s_ago\":",
			x->objects, x->bytes, x->cold_bytes, x->reads, x->rate);
		if (x->last_read_ns)
			fprintf(f, "%" PRIu64 "}\n", policy_since(now_ns, x->last_read_ns) / 1000000000);
		else
			fprintf(f, "null}\n");
	}
}

static void top_row(FILE *f, const struct prefix *x, uint64_t now_ns)
{
	char ago[32] = "never", size[32];

	if (x->last_read_ns) policy_span_text(policy_since(now_ns, x->last_read_ns), ago);
	fprintf(f, "  %10.1f %12.0f %10s %5.0f%%  %-12s %s\n", x->rate, x->reads, policy_bytes_text(x->bytes, size),
		x->bytes ? 100 * (double)x->cold_bytes / (double)x->bytes : 0, ago, x->name);
}

static void top_people(FILE *f, const struct top *t, uint64_t now_ns)
{
	uint32_t cold_from = t->count > 2 * SHOWN ? t->count - SHOWN : t->count / 2 + t->count % 2;

	fprintf(f, "  %10s %12s %10s %6s  %-12s %s\n", "reads/hour", "reads", "bytes", "cold", "last read", "hottest");
	for (uint32_t i = 0; i < t->count && i < SHOWN && i < cold_from; i++) top_row(f, &t->at[i], now_ns);
	fprintf(f, "  %63s\n", "coldest");
	for (uint32_t i = t->count; i-- > cold_from;) top_row(f, &t->at[i], now_ns);
}

/* ---- by job ---- */

static double job_hits(const struct heat_job *j)
{
	uint64_t all = j->hot_bytes + j->cold_bytes;

	return all ? (double)j->hot_bytes / (double)all : 1;
}

static void jobs_write(FILE *f, struct policy *p, bool json)
{
	struct heat_job *jobs = calloc(HEAT_JOBS, sizeof(*jobs));
	uint32_t n = jobs ? heat_jobs(p->o.heat, jobs, HEAT_JOBS) : 0;
	char hot[32], cold[32], number[24];

	if (n > 0 && !json) fprintf(f, "  %10s %10s %6s  %s\n", "flash", "cold", "hits", "job, since the start");
	for (uint32_t i = 0; i < n; i++) {
		const struct heat_job *j = &jobs[i];
		snprintf(number, sizeof(number), "%016" PRIx64, j->job);
		const char *name = j->name[0] ? j->name : number;
		if (!json) {
			fprintf(f, "  %10s %10s %5.0f%%  %s\n", policy_bytes_text(j->hot_bytes, hot),
				policy_bytes_text(j->cold_bytes, cold), 100 * job_hits(j), name);
			continue;
		}
		fprintf(f, "{\"job\":");
		policy_json_text(f, name);
		fprintf(f,
			",\"hot_reads\":%" PRIu64 ",\"hot_bytes\":%" PRIu64 ",\"cold_reads\":%" PRIu64
			",\"cold_bytes\":%" PRIu64 ",\"hit_rate\":%.4f}\n",
			j->hot_reads, j->hot_bytes, j->cold_reads, j->cold_bytes, job_hits(j));
	}
	free(jobs);
}

int policy_top(struct policy *p, const char *path, bool json, char **out, char *why, size_t why_cap)
{
	struct top t = { .p = p, .view = kv_snapshot_new(p->o.kv) };
	uint64_t now_ns = store_clock_now(p->o.clock);
	size_t size = 0;
	int err = t.view ? top_scan(&t, path, why, why_cap) : -GRANARY_ENOMEM;

	*out = NULL;
	if (t.view) kv_snapshot_free(p->o.kv, &t.view);
	if (t.count > 1) qsort(t.at, t.count, sizeof(t.at[0]), hotter_first);
	if (err == 0) {
		FILE *f = open_memstream(out, &size);
		if (f) (json ? top_json : top_people)(f, &t, now_ns);
		if (f && !*path) jobs_write(f, p, json); /* of a part of the names nobody knows */
		if (!f || fclose(f) != 0) err = -GRANARY_ENOMEM;
	}
	for (uint32_t i = 0; i < t.count; i++) free(t.at[i].name);
	free(t.at);
	return err;
}

/* ---- pack by pack ---- */

static void map_line(FILE *f, struct policy *p, const struct pack_info *info, uint64_t now_ns)
{
	struct place *place = info->store && p->o.stores ? stores_find(p->o.stores, info->store) : NULL;
	struct pack_heat heat;

	heat_of(p->o.heat, info->id, &heat);
	fprintf(f, "{\"pack\":\"%016" PRIx64 "\",\"hot\":%s,\"store\":", info->id, info->drive ? "true" : "false");
	policy_json_text(f, place ? place_name(place) : "");
	fprintf(f, ",\"bytes\":%" PRIu64 ",\"reads\":%" PRIu64 ",\"reads_an_hour\":%.3f,\"read_s_ago\":",
		info->file_size, heat.reads, heat.rate);
	if (heat.last_read_ns)
		fprintf(f, "%" PRIu64 "}\n", policy_since(now_ns, heat.last_read_ns) / 1000000000);
	else
		fprintf(f, "null}\n");
}

int policy_map(struct policy *p, char **out)
{
	struct pack_info *infos = malloc(LIST_MAX * sizeof(*infos));
	uint64_t after = 0, now_ns = store_clock_now(p->o.clock);
	size_t size = 0;
	uint32_t n;
	FILE *f = infos ? open_memstream(out, &size) : NULL;
	int err = f ? 0 : -GRANARY_ENOMEM;

	while (f && (n = packs_list(p->o.packs, after, infos, LIST_MAX)) > 0) {
		for (uint32_t i = 0; i < n; i++)
			if (infos[i].state != PACK_DYING) map_line(f, p, &infos[i], now_ns);
		after = infos[n - 1].id;
	}
	if (f && fclose(f) != 0) err = -GRANARY_ENOMEM;
	free(infos);
	return err;
}
