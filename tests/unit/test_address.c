#include "gateway/address.h"

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct address address_of(const char *text)
{
    struct address a;

    if (!address_parse(text, strlen(text), &a))
        fail_msg("not an address: %s", text);
    return a;
}

static void assert_address(const struct address *a, const char *expected)
{
    char text[ADDRESS_TEXT_MAX];

    address_print(a, text);
    assert_string_equal(text, expected);
}

/* A configuration that trusts these proxies: a JSON array. */
static struct config *config_of(const char *proxies)
{
    struct config *c = NULL;
    char *errors = NULL;
    char text[512];
    int n = snprintf(text, sizeof(text),
                     "{\"jwt\":{\"keys\":[]},\"exchanges\":{\"wf\":{\"access\":\"public\"}},"
                     "\"gateway\":{\"trusted_proxies\":%s}}",
                     proxies);

    if (config_parse(text, (size_t)n, &c, &errors) != 0)
        fail_msg("%s", errors);
    return c;
}

/* --- texts
 * --------------------------------------------------------------------------------------------------- */

static void addresses_are_read_in_the_forms_that_proxies_write(void **state)
{
    static const char *const cases[][2] = {
        {"1.2.3.4", "1.2.3.4"},
        {"1.2.3.4:567", "1.2.3.4"},
        {"::1", "::1"},
        {"2001:DB8::1", "2001:db8::1"},
        {"[2001:db8::1]", "2001:db8::1"},
        {"[2001:db8::1]:567", "2001:db8::1"},
        {"::ffff:1.2.3.4", "1.2.3.4"},
        {"[::ffff:1.2.3.4]:5", "1.2.3.4"},
        {"255.255.255.255", "255.255.255.255"},
        {"ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct address a = address_of(cases[i][0]);

        assert_address(&a, cases[i][1]);
    }
}

static void what_is_no_address_is_refused(void **state)
{
    static const char *const cases[] = {
        "",
        "unknown",
        "_hidden",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.4 ",
        "fe80::1%eth0",
        "[::1",
        "[]",
        "[]:1",
        ":",
        ":80",
        "::g",
        "\"1.2.3.4\"",
        "localhost",
        "1:2:3:4:5:6:7:8:9",
        "0000000000000000000000000000000000000000000000000000000000000001.2.3.4",
    };
    struct address a;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        /* In memory of its own size, without a NUL behind it. */
        size_t len = strlen(cases[i]);
        char *text = malloc(len ? len : 1);

        assert_non_null(text);
        memcpy(text, cases[i], len);
        if (address_parse(text, len, &a))
            fail_msg("taken for an address: %s", cases[i]);
        free(text);
    }
}

static void a_sockets_address_is_taken_whatever_its_family(void **state)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr = {htonl(0x01020304)}};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr other = {.sa_family = AF_UNIX};
    struct address a;

    (void)state;
    assert_true(address_from_sockaddr((struct sockaddr *)&v4, &a));
    assert_address(&a, "1.2.3.4");
    assert_true(address_from_sockaddr((struct sockaddr *)&v6, &a));
    assert_address(&a, "::1");
    assert_false(address_from_sockaddr(&other, &a));
}

/* --- networks
 * ------------------------------------------------------------------------------------------------ */

static void an_address_is_in_its_networks_and_no_others(void **state)
{
    static const struct {
        const char *networks, *address;
        bool in;
    } cases[] = {
        {"[]", "10.0.0.1", false},
        {"[\"10.0.0.1\"]", "10.0.0.1", true},
        {"[\"10.0.0.1\"]", "10.0.0.2", false},
        {"[\"10.0.0.0/8\"]", "10.255.255.255", true},
        {"[\"10.0.0.0/8\"]", "11.0.0.0", false},
        {"[\"172.16.0.0/12\"]", "172.31.255.255", true},
        {"[\"172.16.0.0/12\"]", "172.32.0.0", false},
        {"[\"172.16.0.0/12\"]", "172.15.255.255", false},
        {"[\"0.0.0.0/0\"]", "9.9.9.9", true},
        {"[\"0.0.0.0/0\"]", "2001:db8::1", false},
        {"[\"::/0\"]", "2001:db8::1", true},
        {"[\"fd00::/8\"]", "fdff::1", true},
        {"[\"fd00::/8\"]", "fe00::1", false},
        {"[\"2001:db8::/33\"]", "2001:db8:7fff::1", true},
        {"[\"2001:db8::/33\"]", "2001:db8:8000::1", false},
        {"[\"::1\"]", "::1", true},
        {"[\"::1\"]", "::2", false},
        {"[\"fd00::/8\",\"10.0.0.0/8\",\"::1\"]", "10.1.1.1", true},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct config *c = config_of(cases[i].networks);
        struct address a = address_of(cases[i].address);

        if (address_in(&a, c->gateway.trusted_proxies, c->gateway.trusted_proxy_count) != cases[i].in)
            fail_msg("%s in %s: not %d", cases[i].address, cases[i].networks, cases[i].in);
        config_unref(c);
    }
}

/* --- X-Forwarded-For
 * ----------------------------------------------------------------------------------------- */

static void check_forwarded(const struct config *c, const char *peer, const char *lines, const char *expected)
{
    struct address from = address_of(peer), found;
    struct http_head head;
    char text[4096];
    int n = snprintf(text, sizeof(text), "GET / HTTP/1.1\r\n%s\r\n", lines);

    assert_int_equal(http_head_parse(text, (size_t)n, &head), 0);
    found = address_forwarded(&from, &head, c->gateway.trusted_proxies, c->gateway.trusted_proxy_count);
    assert_address(&found, expected);
}

static void forwarded_addresses_are_believed_from_trusted_proxies_only(void **state)
{
    struct config *c = config_of("[\"10.0.0.0/8\",\"fd00::/8\"]");

    (void)state;
    check_forwarded(c, "5.5.5.5", "X-Forwarded-For: 1.1.1.1\r\n", "5.5.5.5");
    check_forwarded(c, "10.0.0.1", "", "10.0.0.1");
    check_forwarded(c, "10.0.0.1", "X-Forwarded-For: 1.1.1.1\r\n", "1.1.1.1");
    check_forwarded(c, "fd00::1", "x-forwarded-FOR: 2001:db8::7\r\n", "2001:db8::7");
    check_forwarded(c, "10.0.0.1", "Forwarded: for=1.1.1.1\r\n", "10.0.0.1");
    config_unref(c);
}

static void what_stands_before_the_last_stranger_is_the_clients_own_claim(void **state)
{
    struct config *c = config_of("[\"10.0.0.0/8\"]");

    (void)state;
    check_forwarded(c, "10.0.0.1", "X-Forwarded-For: 9.9.9.9, 1.1.1.1\r\n", "1.1.1.1");
    check_forwarded(c, "10.0.0.1", "X-Forwarded-For: 9.9.9.9, 1.1.1.1, 10.0.0.2, 10.0.0.3\r\n", "1.1.1.1");
    check_forwarded(c, "10.0.0.1", "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 1.1.1.1,10.0.0.2\r\n",
                    "1.1.1.1");
    /* All of them are ours: a service of the house, then. */
    check_forwarded(c, "10.0.0.1", "X-Forwarded-For: 10.0.0.4, 10.0.0.2\r\n", "10.0.0.4");
    config_unref(c);
}

static void nothing_before_a_hop_that_cannot_be_read_is_believed(void **state)
{
    struct config *c = config_of("[\"10.0.0.0/8\"]");

    (void)state;
    check_forwarded(c, "10.0.0.1", "X-Forwarded-For: 1.1.1.1, unknown\r\n", "10.0.0.1");
    check_forwarded(c, "10.0.0.1", "X-Forwarded-For: 1.1.1.1, unknown, 10.0.0.9\r\n", "10.0.0.9");
    check_forwarded(c, "10.0.0.1", "X-Forwarded-For: unknown, 1.1.1.1\r\n", "1.1.1.1");
    config_unref(c);
}

static void a_long_list_is_read_from_its_end(void **state)
{
    struct config *c = config_of("[\"10.0.0.0/8\"]");
    char lines[4096] = "X-Forwarded-For: 9.9.9.9";
    size_t len = strlen(lines);

    (void)state;
    for (int i = 0; i < 200; i++)
        len += (size_t)snprintf(lines + len, sizeof(lines) - len, ", 2.2.2.%d", i);
    snprintf(lines + len, sizeof(lines) - len, ", 10.0.0.2\r\n");
    check_forwarded(c, "10.0.0.1", lines, "2.2.2.199");
    config_unref(c);
}

/* --- PROXY protocol
 * ------------------------------------------------------------------------------------------ */

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define TCP4      "\x21\x11\0\x0c\x01\x02\x03\x04\x0a\0\0\1\xc0\0\0\x50"
#define TCP6 \
    "\x21\x21\0\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\xc0\0\0\x50"

static void check_proxy(const char *bytes, size_t len, size_t whole, const char *expected)
{
    for (size_t n = 1; n <= len; n++) {
        struct address a = address_of("7.7.7.7");
        char *copy = malloc(n);
        bool broken = true;

        assert_non_null(copy);
        memcpy(copy, bytes, n);
        assert_int_equal(address_proxy_header(copy, n, &a, &broken), n < whole ? 0 : (long)whole);
        assert_false(broken);
        assert_address(&a, n < whole ? "7.7.7.7" : expected);
        free(copy);
    }
}

static void a_proxy_header_is_read_once_it_is_whole(void **state)
{
    static const char v4[] = SIGNATURE TCP4 "GET /", v6[] = SIGNATURE TCP6 "GET /";
    static const char tlv[] = SIGNATURE "\x21\x11\0\x10\x01\x02\x03\x04\x0a\0\0\1\xc0\0\0\x50\4\0\1xGET /";

    (void)state;
    check_proxy(v4, sizeof(v4) - 1, 28, "1.2.3.4");
    check_proxy(v6, sizeof(v6) - 1, 52, "2001:db8::7");
    check_proxy(tlv, sizeof(tlv) - 1, 32, "1.2.3.4");
}

static void a_proxy_header_without_an_address_leaves_the_peers(void **state)
{
    static const char local[] = SIGNATURE "\x20\0\0\0GET /";
    static const char local4[] = SIGNATURE "\x20\x11\0\x0c\x01\x02\x03\x04\x0a\0\0\1\xc0\0\0\x50GET /";
    static const char unspecified[] = SIGNATURE "\x21\0\0\0GET /";
    static const char shorter[] = SIGNATURE "\x21\x11\0\x04\x01\x02\x03\x04GET /";

    (void)state;
    check_proxy(local, sizeof(local) - 1, 16, "7.7.7.7");
    check_proxy(local4, sizeof(local4) - 1, 28, "7.7.7.7");
    check_proxy(unspecified, sizeof(unspecified) - 1, 16, "7.7.7.7");
    check_proxy(shorter, sizeof(shorter) - 1, 20, "7.7.7.7");
}

static void a_unix_socket_has_no_address_of_a_client(void **state)
{
    char text[16 + 216] = SIGNATURE "\x21\x31\0\xd8";

    (void)state;
    memset(text + 16, '/', 216);
    check_proxy(text, sizeof(text), sizeof(text), "7.7.7.7");
}

static void a_broken_proxy_header_is_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
        {SIGNATURE "\x11\x11\0\x0c", 16},   /* version 1 */
        {SIGNATURE "\x31\x11\0\x0c", 16},   /* version 3 */
        {SIGNATURE "\x22\x11\0\x0c", 16},   /* no such command */
        {SIGNATURE "\x21\x11\xff\xff", 16}, /* longer than we read */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct address a = address_of("7.7.7.7");
        bool broken = false;

        assert_int_equal(address_proxy_header(cases[i].bytes, cases[i].len, &a, &broken), -1);
        assert_true(broken);
        assert_address(&a, "7.7.7.7");
    }
}

static void a_request_is_no_proxy_header(void **state)
{
    static const char *const cases[] = {"GET / HTTP/1.1\r\n\r\n", "G", "\r\n\r\nGET /", "PROXY TCP4 1.2.3.4"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct address a = address_of("7.7.7.7");
        bool broken = true;

        assert_int_equal(address_proxy_header(cases[i], strlen(cases[i]), &a, &broken), -1);
        assert_false(broken);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_read_in_the_forms_that_proxies_write),
        cmocka_unit_test(what_is_no_address_is_refused),
        cmocka_unit_test(a_sockets_address_is_taken_whatever_its_family),
        cmocka_unit_test(an_address_is_in_its_networks_and_no_others),
        cmocka_unit_test(forwarded_addresses_are_believed_from_trusted_proxies_only),
        cmocka_unit_test(what_stands_before_the_last_stranger_is_the_clients_own_claim),
        cmocka_unit_test(nothing_before_a_hop_that_cannot_be_read_is_believed),
        cmocka_unit_test(a_long_list_is_read_from_its_end),
        cmocka_unit_test(a_proxy_header_is_read_once_it_is_whole),
        cmocka_unit_test(a_proxy_header_without_an_address_leaves_the_peers),
        cmocka_unit_test(a_unix_socket_has_no_address_of_a_client),
        cmocka_unit_test(a_broken_proxy_header_is_refused),
        cmocka_unit_test(a_request_is_no_proxy_header),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
