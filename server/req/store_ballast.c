/* SPDX-License-Identifier: Apache-2.0 */
/* store_ballast.c -- space held back so that metadata can still be written on a full disk (contract
 * H): given up when the engine meets ENOSPC, taken again when there is room for it above the
 * reserve. */
#include "req/store_priv.h"

#include <stdatomic.h>

#include "common/error.h"
#include "common/log.h"
#include "io/fs.h"
#include "tier/packs.h"

int ballast_make(struct store *store)
{
	struct fs_file *file = NULL;
	int err = fs_open(store->fs, STORE_BALLAST, FS_WRITE, &file);

	if (err == -GRANARY_ENOTFOUND)
		err = fs_open(store->fs, STORE_BALLAST, FS_CREATE_NEW, &file);
	if (err < 0) return err;
	if (store->options.ballast > 0 && fs_size(file) < (int64_t)store->options.ballast)
		err = fs_allocate(file, 0, store->options.ballast);
	if (err == 0) err = fs_sync(file);
	if (err == 0) err = fs_sync_dir(store->fs, "");
	fs_close(&file);
	return err;
}

void ballast_release(void *arg)
{
	struct store *store = arg;
	struct fs_file *file = NULL;

	if (atomic_exchange(&store->ballast_gone, true)) return;
	if (fs_open(store->fs, STORE_BALLAST, FS_WRITE, &file) < 0) return;
	if (fs_truncate(file, 0) == 0)
		log_warn("the disk is full: the ballast is released for deletes and compaction; "
			 "path='%s/" STORE_BALLAST "'",
			fs_root(store->fs));
	fs_close(&file);
}

void ballast_refill(struct store *store)
{
	if (!atomic_load(&store->ballast_gone) ||
		packs_room_data(store->packs, 2 * store->options.ballast) < 0)
		return;
	if (ballast_make(store) == 0) atomic_store(&store->ballast_gone, false);
}
