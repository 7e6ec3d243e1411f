/* SPDX-License-Identifier: Apache-2.0 */
/* s3_http.c -- one try is try_once(); what became of it is a verdict; s3_call() repeats by verdict. */
#include "tier/s3_http.h"

#include <assert.h>
#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/rand.h"
#include "tier/s3_breaker.h"
#include "tier/s3_key_file.h"

enum {
	POOL_MAX = 64,
	CONNECT_TIMEOUT_MS = 5000,
	TRY_MIN_MS = 200,
	STALL_MIN_S = 2,
	STALL_MAX_S = 15,
	BUFFER_SIZE = 512 * 1024,
	PAUSE_FIRST_MS = 50,
	PAUSE_MAX_MS = 5000,
	URL_MAX = 5120,
	HEADER_MAX = 2304
};

struct s3 {
	struct s3_settings settings;
	struct breaker breaker;
	atomic_llong clock_offset_s; /* the service's clock minus ours, once it refused ours */
	pthread_mutex_t lock;        /* of what follows */
	CURL *pool[POOL_MAX];
	unsigned pooled;
	struct s3_key key;
	bool has_key;
	struct rng rng;
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void curl_begin(void)
{
	CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);

	assert(code == CURLE_OK);
}

int s3_new(const struct s3_settings *settings, struct s3 **out)
{
	struct s3 *s = calloc(1, sizeof(*s));
	uint64_t seed;

	pthread_once(&curl_once, curl_begin);
	if (!s) return -GRANARY_ENOMEM;
	s->settings = *settings;
	breaker_init(&s->breaker);
	pthread_mutex_init(&s->lock, NULL);
	rand_bytes(&seed, sizeof(seed));
	rng_seed(&s->rng, seed);
	*out = s;
	return 0;
}

void s3_free(struct s3 **sp)
{
	struct s3 *s = *sp;

	*sp = NULL;
	if (!s) return;
	while (s->pooled) curl_easy_cleanup(s->pool[--s->pooled]);
	breaker_destroy(&s->breaker);
	pthread_mutex_destroy(&s->lock);
	explicit_bzero(&s->key, sizeof(s->key));
	free(s);
}

/* ---- connections and keys ---- */

static CURL *easy_take(struct s3 *s)
{
	CURL *easy = NULL;

	pthread_mutex_lock(&s->lock);
	if (s->pooled) easy = s->pool[--s->pooled];
	pthread_mutex_unlock(&s->lock);
	return easy ? easy : curl_easy_init();
}

/* Keeps its connection for the next call. */
static void easy_give(struct s3 *s, CURL *easy)
{
	curl_easy_reset(easy);
	pthread_mutex_lock(&s->lock);
	if (s->pooled < POOL_MAX) {
		s->pool[s->pooled++] = easy;
		easy = NULL;
	}
	pthread_mutex_unlock(&s->lock);
	if (easy) curl_easy_cleanup(easy);
}

/* The key, read at first need. */
static int key_get(struct s3 *s, struct s3_key *out)
{
	char why[1024];
	int err = 0;

	pthread_mutex_lock(&s->lock);
	if (!s->has_key) {
		err = s3_key_load(s->settings.credentials, s->settings.profile, &s->key, why, sizeof(why));
		s->has_key = err == 0;
		snprintf(s->key.region, sizeof(s->key.region), "%s", s->settings.region);
	}
	*out = s->key;
	pthread_mutex_unlock(&s->lock);
	if (err < 0) log_warn("store '%s' has no key: %s", s->settings.name, why);
	return err < 0 ? -GRANARY_EACCESS : 0;
}

/* A key that was refused: the file is read again. true: it holds another one now. */
static bool key_renew(struct s3 *s, const struct s3_key *refused)
{
	struct s3_key now;

	pthread_mutex_lock(&s->lock);
	if (s->has_key && memcmp(&s->key, refused, sizeof(*refused)) == 0) s->has_key = false;
	pthread_mutex_unlock(&s->lock);
	bool other = key_get(s, &now) == 0 &&
		     (strcmp(now.id, refused->id) != 0 || strcmp(now.secret, refused->secret) != 0 ||
			     strcmp(now.token, refused->token) != 0);
	explicit_bzero(&now, sizeof(now));
	return other;
}

/* ---- one try ---- */

struct
try {
	struct s3_call *call;
	CURL *easy;
	struct curl_slist *headers;
	size_t sent;
	char *text; /* of an answer that is text, or an error's */
	size_t text_len, text_cap;
	bool overrun, no_memory;
	long long date_s; /* the service's clock, 0: it said none */
};

static bool wants_text(const struct try *t)
{
	long status = 0;

	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
	return t->call->text || status < 200 || status > 299;
}

static size_t text_take(struct try *t, const char *p, size_t n)
{
	if (t->text_len + n > S3_ANSWER_MAX) {
		t->overrun = true;
		return 0;
	}
	if (t->text_len + n + 1 > t->text_cap) {
		size_t cap = 2 * (t->text_len + n) + 4096;
		char *grown = realloc(t->text, cap);
		t->no_memory = !grown;
		if (!grown) return 0;
		t->text = grown;
		t->text_cap = cap;
	}
	memcpy(t->text + t->text_len, p, n);
	t->text_len += n;
	t->text[t->text_len] = '\0';
	return n;
}

static size_t on_body(char *p, size_t size, size_t count, void *arg)
{
	struct try *t = arg;
	struct s3_call *c = t->call;
	size_t n = size * count;

	if (wants_text(t)) return text_take(t, p, n);
	if (n > c->cap - c->len) {
		t->overrun = true;
		return 0;
	}
	memcpy((char *)c->buf + c->len, p, n);
	c->len += n;
	return n;
}

static size_t on_send(char *p, size_t size, size_t count, void *arg)
{
	struct try *t = arg;
	size_t n = size * count, left = t->call->body_len - t->sent;

	if (n > left) n = left;
	if (n > 0) memcpy(p, (const char *)t->call->body + t->sent, n);
	t->sent += n;
	return n;
}

static int on_rewind(void *arg, curl_off_t offset, int origin)
{
	struct try *t = arg;

	if (origin != SEEK_SET || offset < 0 || (size_t)offset > t->call->body_len) return CURL_SEEKFUNC_CANTSEEK;
	t->sent = (size_t)offset;
	return CURL_SEEKFUNC_OK;
}

static void header_value(const char *line, size_t n, const char *name, char *out, size_t cap)
{
	size_t len = strlen(name);

	if (n <= len || strncasecmp(line, name, len) != 0 || line[len] != ':') return;
	for (line += len + 1, n -= len + 1; n && (*line == ' ' || *line == '\t'); line++) n--;
	while (n && (line[n - 1] == '\r' || line[n - 1] == '\n' || line[n - 1] == ' ')) n--;
	if (n >= cap) return;
	memcpy(out, line, n);
	out[n] = '\0';
}

static size_t on_header(char *p, size_t size, size_t count, void *arg)
{
	struct try *t = arg;
	char date[64] = "";
	size_t n = size * count;

	header_value(p, n, "etag", t->call->etag, sizeof(t->call->etag));
	header_value(p, n, "content-range", t->call->content_range, sizeof(t->call->content_range));
	header_value(p, n, "date", date, sizeof(date));
	if (date[0]) t->date_s = (long long)curl_getdate(date, NULL);
	return n;
}

static void header_add(struct try *t, const char *name, const char *value)
{
	char line[HEADER_MAX];

	snprintf(line, sizeof(line), "%s: %s", name, value);
	struct curl_slist *more = curl_slist_append(t->headers, line);
	t->no_memory = t->no_memory || !more;
	if (more) t->headers = more;
}

static int try_sign(
	struct s3 *s, struct try *t, const struct s3_key *key, const char *hash, char *url, size_t url_cap)
{
	const struct s3_settings *set = &s->settings;
	struct s3_call *c = t->call;
	char path[S3_PREFIX_MAX + S3_BUCKET_MAX + S3_KEY_MAX + 8], host[S3_HOST_MAX + S3_BUCKET_MAX];
	struct s3_signed sig;

	snprintf(path, sizeof(path), "%s%s/%s%s", set->virtual_host ? "" : "/", set->virtual_host ? "" : set->bucket,
		c->key ? set->prefix : "", c->key ? c->key : "");
	if (!c->key && !set->virtual_host) path[strlen(path) - 1] = '\0'; /* /bucket */
	snprintf(host, sizeof(host), "%s%s%s", set->virtual_host ? set->bucket : "", set->virtual_host ? "." : "",
		set->host);
	struct s3_request r = {
		.method = c->method, .host = host, .path = path, .queries = c->queries, .payload_hash = hash
	};
	memcpy(r.query, c->query, sizeof(r.query));
	if (c->if_match) r.headers[r.header_count++] = (struct s3_pair){ "if-match", c->if_match };
	if (c->range) r.headers[r.header_count++] = (struct s3_pair){ "range", c->range };
	int err = s3_sign(&r, key, (int64_t)(clock_wall_ns() / 1000000000) + atomic_load(&s->clock_offset_s), &sig);
	if (err < 0) return err;
	header_add(t, "Host", host);
	header_add(t, "x-amz-content-sha256", hash);
	header_add(t, "x-amz-date", sig.date);
	header_add(t, "Authorization", sig.authorization);
	if (key->token[0]) header_add(t, "x-amz-security-token", key->token);
	if (c->if_match) header_add(t, "if-match", c->if_match);
	if (c->range) header_add(t, "range", c->range);
	header_add(t, "Expect", "");       /* no round trip before a body */
	header_add(t, "Content-Type", ""); /* none: it would be signed by some and not by others */
	int n = snprintf(url, url_cap, "%s://%s%s", set->tls ? "https" : "http", host, sig.uri);
	if (t->no_memory) return -GRANARY_ENOMEM;
	return n > 0 && (size_t)n < url_cap ? 0 : -GRANARY_ETOOBIG;
}

static void try_options(struct s3 *s, struct try *t, const char *url, uint64_t left_ms)
{
	CURL *e = t->easy;
	struct s3_call *c = t->call;
	long stall_s = (long)(left_ms / 3000);

	curl_easy_setopt(e, CURLOPT_URL, url);
	curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_BUFFERSIZE, (long)BUFFER_SIZE);
	curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, (long)BUFFER_SIZE);
	curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)left_ms);
	curl_easy_setopt(
		e, CURLOPT_CONNECTTIMEOUT_MS, (long)(left_ms < CONNECT_TIMEOUT_MS ? left_ms : CONNECT_TIMEOUT_MS));
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME,
		stall_s < STALL_MIN_S   ? (long)STALL_MIN_S
		: stall_s > STALL_MAX_S ? (long)STALL_MAX_S
					: stall_s);
	if (s->settings.ca[0]) curl_easy_setopt(e, CURLOPT_CAINFO, s->settings.ca);
	curl_easy_setopt(e, CURLOPT_HTTPHEADER, t->headers);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, t);
	if (strcmp(c->method, "PUT") == 0 || strcmp(c->method, "POST") == 0) {
		curl_easy_setopt(e, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(e, CURLOPT_READFUNCTION, on_send);
		curl_easy_setopt(e, CURLOPT_READDATA, t);
		curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, on_rewind);
		curl_easy_setopt(e, CURLOPT_SEEKDATA, t);
		curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t)c->body_len);
	}
	if (strcmp(c->method, "GET") != 0) curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, c->method);
}

/* What became of a try. RETRY_FREE: nothing is wrong with the service. */
enum verdict { DONE, FINAL, RETRY, RETRY_FREE, FAILED };

static enum verdict curl_verdict(struct s3 *s, const struct try *t, CURLcode code, int *err)
{
	if (t->no_memory || code == CURLE_OUT_OF_MEMORY) {
		*err = -GRANARY_ENOMEM;
		return FINAL;
	}
	if (t->overrun) {
		*err = -GRANARY_ECORRUPT;
		return RETRY;
	}
	switch (code) {
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CERTPROBLEM:
		log_warn("store '%s': the certificate of %s is not trusted: %s; name its authority as `ca`",
			s->settings.name, s->settings.host, curl_easy_strerror(code));
		*err = -GRANARY_EACCESS;
		return FINAL;
	case CURLE_OPERATION_TIMEDOUT: *err = -GRANARY_ETIMEDOUT; return FAILED;
	case CURLE_PARTIAL_FILE: /* a body shorter than its length says */ *err = -GRANARY_ECORRUPT; return FAILED;
	default:
		log_debug("store '%s': %s", s->settings.name, curl_easy_strerror(code));
		*err = -GRANARY_EOFFLINE;
		return FAILED;
	}
}

static enum verdict refused_verdict(struct s3 *s, struct try *t, const struct s3_key *key, int *err)
{
	const char *code = t->call->error.code;

	if (strcmp(code, "RequestTimeTooSkewed") == 0 && t->date_s > 0) {
		long long offset = t->date_s - (long long)(clock_wall_ns() / 1000000000);
		if (offset != atomic_exchange(&s->clock_offset_s, offset)) {
			log_warn("store '%s' has another time than this machine, by %lld s; its time is used to sign",
				s->settings.name, offset);
			*err = -GRANARY_EACCESS;
			return RETRY_FREE;
		}
	}
	if (strcmp(code, "QuotaExceeded") == 0) {
		*err = -GRANARY_ENOSPACE;
		return FINAL;
	}
	*err = -GRANARY_EACCESS;
	if (key_renew(s, key)) return RETRY_FREE;
	log_warn("store '%s' refuses the key: %s %s", s->settings.name, code, t->call->error.message);
	return FINAL;
}

static enum verdict status_verdict(struct s3 *s, struct try *t, const struct s3_key *key, int *err)
{
	struct s3_call *c = t->call;

	if (c->status >= 200 && c->status <= 299) {
		*err = 0;
		return DONE;
	}
	if (t->text) s3_read_error(t->text, t->text_len, &c->error);
	switch (c->status) {
	case 404:
		*err = strcmp(c->error.code, "NoSuchUpload") == 0 ? -GRANARY_ESTALE : -GRANARY_ENOTFOUND;
		if (strcmp(c->error.code, "NoSuchBucket") != 0) return FINAL;
		log_warn("store '%s': there is no bucket '%s' at %s", s->settings.name, s->settings.bucket,
			s->settings.host);
		*err = -GRANARY_EOFFLINE;
		return FINAL;
	case 401:
	case 403: return refused_verdict(s, t, key, err);
	case 412: *err = -GRANARY_ESOURCE; return FINAL;
	case 416: *err = -GRANARY_ERANGE; return FINAL;
	case 429:
	case 503: *err = -GRANARY_EBUSY; return RETRY;
	case 507: *err = -GRANARY_ENOSPACE; return FINAL;
	case 408: *err = -GRANARY_ETIMEDOUT; return RETRY;
	case 400: /* what came there is not what was signed, or it gave up waiting for it: not our doing */
		*err = -GRANARY_EINVAL;
		if (strcmp(c->error.code, "RequestTimeout") == 0 || strcmp(c->error.code, "BadDigest") == 0 ||
			strcmp(c->error.code, "XAmzContentSHA256Mismatch") == 0)
			return RETRY;
		break;
	default: break;
	}
	if (c->status >= 500) {
		*err = -GRANARY_EOFFLINE;
		return FAILED;
	}
	if (c->status >= 300 && c->status <= 399)
		log_warn("store '%s': bucket '%s' lies elsewhere (%u %s): correct `endpoint` or `region`",
			s->settings.name, s->settings.bucket, c->status, c->error.code);
	else
		log_warn("store '%s': %s refused: %u %s %s", s->settings.name, c->method, c->status, c->error.code,
			c->error.message);
	*err = -GRANARY_EINVAL;
	return FINAL;
}

static enum verdict try_once(struct s3 *s, struct s3_call *c, const char *hash, uint64_t left_ms, int *err)
{
	struct try t = { .call = c, .easy = easy_take(s) };
	struct s3_key key;
	char url[URL_MAX];
	long status = 0;
	enum verdict verdict = FINAL;

	c->len = 0;
	c->status = 0;
	c->etag[0] = c->content_range[0] = '\0';
	c->error = (struct s3_error){ 0 };
	*err = t.easy ? key_get(s, &key) : -GRANARY_ENOMEM;
	if (*err == 0) *err = try_sign(s, &t, &key, hash, url, sizeof(url));
	if (*err == 0) {
		try_options(s, &t, url, left_ms);
		CURLcode code = curl_easy_perform(t.easy);
		curl_easy_getinfo(t.easy, CURLINFO_RESPONSE_CODE, &status);
		c->status = (unsigned)status;
		verdict = code == CURLE_OK ? status_verdict(s, &t, &key, err) : curl_verdict(s, &t, code, err);
	}
	if (verdict == DONE && c->text) {
		c->text_out = t.text;
		c->len = t.text_len;
		t.text = NULL;
	}
	explicit_bzero(&key, sizeof(key));
	free(t.text);
	curl_slist_free_all(t.headers);
	if (t.easy) easy_give(s, t.easy);
	return verdict;
}

/* ---- again and again ---- */

static uint64_t ms_left(uint64_t deadline_ns)
{
	uint64_t now = clock_mono_ns();

	return now < deadline_ns ? (deadline_ns - now) / 1000000 : 0;
}

int s3_pause(struct s3 *s, unsigned tries, uint64_t deadline_ns)
{
	uint64_t most = (uint64_t)PAUSE_FIRST_MS << (tries < 8 ? tries : 8), ms;

	if (most > PAUSE_MAX_MS) most = PAUSE_MAX_MS;
	pthread_mutex_lock(&s->lock);
	ms = 1 + rng_below(&s->rng, most);
	pthread_mutex_unlock(&s->lock);
	if (ms + TRY_MIN_MS > ms_left(deadline_ns)) return -GRANARY_ETIMEDOUT;
	struct timespec pause = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 };
	while (nanosleep(&pause, &pause) != 0) {}
	return 0;
}

static void breaker_tell(struct s3 *s, bool failed, int err)
{
	if (failed && breaker_failed(&s->breaker, clock_mono_ns()))
		log_warn("store '%s' at %s does not answer: %s; it is asked again from time to time",
			s->settings.name, s->settings.host, error_text(err));
	if (!failed && breaker_answered(&s->breaker))
		log_info("store '%s' at %s answers again", s->settings.name, s->settings.host);
}

int s3_call(struct s3 *s, struct s3_call *c, uint64_t deadline_ns)
{
	char hash[S3_SHA256_HEX];
	int err = -GRANARY_ETIMEDOUT;

	s3_sha256_hex(c->body_len ? c->body : "", c->body_len, hash);
	for (unsigned tries = 0;; tries++) {
		uint64_t left_ms = ms_left(deadline_ns);
		if (left_ms == 0) return err;
		if (!breaker_enter(&s->breaker, clock_mono_ns())) return -GRANARY_EOFFLINE;
		enum verdict verdict = try_once(s, c, hash, left_ms, &err);
		breaker_tell(s, verdict == FAILED, err);
		if (verdict == DONE || verdict == FINAL) return err;
		if (s3_pause(s, tries, deadline_ns) < 0) return err;
	}
}

void s3_call_end(struct s3_call *c)
{
	free(c->text_out);
	c->text_out = NULL;
}
