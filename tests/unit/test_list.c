/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: the intrusive list keeps order, and empties, removals and splices leave no node half
 * linked. */
#include "common/list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct item {
	int number;
	struct list node;
};

static struct item items[5];

static struct item *item_of(struct list *n)
{
	return container_of(n, struct item, node);
}

static void items_push(struct list *head, int from, int to)
{
	for (int i = from; i < to; i++) {
		items[i].number = i;
		list_push(head, &items[i].node);
	}
}

static void check_numbers(const struct list *head, const char *want)
{
	const struct list *n = head->next;

	for (; *want; want++, n = n->next) {
		assert_ptr_not_equal(n, head);
		assert_int_equal(item_of(n->prev->next)->number, *want - '0');
		assert_ptr_equal(n->next->prev, n);
	}
	assert_ptr_equal(n, head);
}

static void test_an_empty_list_gives_nothing(void **state)
{
	struct list head, other;

	(void)state;
	list_init(&head);
	list_init(&other);
	assert_true(list_empty(&head));
	assert_null(list_pop(&head));
	list_for(pos, &head)
		fail();
	list_splice(&head, &other);
	assert_true(list_empty(&head) && list_empty(&other));
}

static void test_nodes_come_out_in_the_order_they_went_in(void **state)
{
	struct list head;

	(void)state;
	list_init(&head);
	items_push(&head, 0, 5);
	check_numbers(&head, "01234");
	for (int i = 0; i < 5; i++)
		assert_int_equal(item_of(list_pop(&head))->number, i);
	assert_null(list_pop(&head));
}

static void test_insert_puts_a_node_right_after_the_place(void **state)
{
	struct list head;

	(void)state;
	list_init(&head);
	items_push(&head, 0, 3);
	items[4].number = 4;
	list_insert(&items[1].node, &items[4].node);
	check_numbers(&head, "0142");
	items[3].number = 3;
	list_insert(&head, &items[3].node);
	check_numbers(&head, "30142");
}

static void test_a_removed_node_is_a_list_of_its_own(void **state)
{
	struct list head;

	(void)state;
	list_init(&head);
	items_push(&head, 0, 3);
	list_remove(&items[1].node);
	check_numbers(&head, "02");
	assert_true(list_empty(&items[1].node));
	list_remove(&items[1].node); /* twice is harmless */
	check_numbers(&head, "02");
	list_remove(&items[0].node);
	list_remove(&items[2].node);
	assert_true(list_empty(&head));
}

static void test_the_safe_loop_survives_removal_of_its_node(void **state)
{
	struct list head;

	(void)state;
	list_init(&head);
	items_push(&head, 0, 5);
	list_for_safe(pos, tmp, &head)
		if (item_of(pos)->number % 2 == 0)
			list_remove(pos);
	check_numbers(&head, "13");
}

static void test_splice_moves_all_to_the_tail_and_empties_the_source(void **state)
{
	struct list to, from;

	(void)state;
	list_init(&to);
	list_init(&from);
	items_push(&to, 0, 2);
	items_push(&from, 2, 5);
	list_splice(&to, &from);
	check_numbers(&to, "01234");
	assert_true(list_empty(&from));
	assert_null(list_pop(&from));
	list_splice(&from, &to); /* into an empty list */
	check_numbers(&from, "01234");
	assert_true(list_empty(&to));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_empty_list_gives_nothing),
		cmocka_unit_test(test_nodes_come_out_in_the_order_they_went_in),
		cmocka_unit_test(test_insert_puts_a_node_right_after_the_place),
		cmocka_unit_test(test_a_removed_node_is_a_list_of_its_own),
		cmocka_unit_test(test_the_safe_loop_survives_removal_of_its_node),
		cmocka_unit_test(test_splice_moves_all_to_the_tail_and_empties_the_source),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
