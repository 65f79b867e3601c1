/* test_redis_url.c - addresses of Redis, error texts and script names: what needs no server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "shared/err.h"
#include "shared/redis_link.h"
#include "shared/redis_url.h"

#include <stdio.h>
#include <string.h>

static void well_formed_urls_are_taken_apart(void **state)
{
    static const struct {
        const char *text, *host;
        int port;
        const char *user, *password;
        int db;
    } rows[] = {
        {"redis://127.0.0.1:6380/2", "127.0.0.1", 6380, NULL, NULL, 2},
        {"redis://redis", "redis", 6379, NULL, NULL, 0},
        {"REDIS://redis/", "redis", 6379, NULL, NULL, 0},
        {"redis://redis.svc.cluster.local./15", "redis.svc.cluster.local.", 6379, NULL, NULL, 15},
        {"redis://under_score:1", "under_score", 1, NULL, NULL, 0},
        {"redis://[::1]", "::1", 6379, NULL, NULL, 0},
        {"redis://[fe80::1]:65535/0", "fe80::1", 65535, NULL, NULL, 0},
        {"redis://:secret@h", "h", 6379, NULL, "secret", 0},
        {"redis://user:secret@h:7/1", "h", 7, "user", "secret", 1},
        {"redis://us%65r:%40%2f%3A%25%3f@h/1", "h", 6379, "user", "@/:%?", 1},
        {"redis://user:a@b:c@[::1]:7", "::1", 7, "user", "a@b:c", 0},
        {"redis://:%C3%A4%20b@h", "h", 6379, NULL, "\xc3\xa4 b", 0},
        {"redis://user:@h", "h", 6379, "user", "", 0},
        {"redis://:@h", "h", 6379, NULL, NULL, 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct redis_url u = {0};
        const char *wrong = redis_url_parse(rows[i].text, &u);

        if (wrong)
            fail_msg("%s: %s", rows[i].text, wrong);
        assert_int_equal(u.place_count, 1);
        assert_string_equal(u.places[0].host, rows[i].host);
        assert_int_equal(u.places[0].port, rows[i].port);
        assert_null(u.primary);
        assert_int_equal(u.db, rows[i].db);
        assert_string_equal(u.user ? u.user : "(none)", rows[i].user ? rows[i].user : "(none)");
        assert_string_equal(u.password ? u.password : "(none)",
                            rows[i].password ? rows[i].password : "(none)");
        redis_url_done(&u);
        assert_null(redis_url_check(rows[i].text));
    }
}

static const char *or_none(const char *text)
{
    return text ? text : "(none)";
}

static void well_formed_sentinel_urls_are_taken_apart(void **state)
{
    static const struct {
        const char *text, *places, *primary, *user, *password;
        int db;
        const char *sentinel_user, *sentinel_password;
    } rows[] = {
        {"redis+sentinel://a/main", "a:26379 ", "main", NULL, NULL, 0, NULL, NULL},
        {"redis+sentinel://a/main/", "a:26379 ", "main", NULL, NULL, 0, NULL, NULL},
        {"Redis+Sentinel://a:1,b,[::1]:3/main/7", "a:1 b:26379 ::1:3 ", "main", NULL, NULL, 7, NULL, NULL},
        {"redis+sentinel://:p%40w@a:1/m%2Fain/0", "a:1 ", "m/ain", NULL, "p@w", 0, NULL, NULL},
        {"redis+sentinel://u:p@q@a,b/main/1?sentinel_password=s%26%3D/@?x", "a:26379 b:26379 ", "main", "u",
         "p@q", 1, NULL, "s&=/@?x"},
        {"redis+sentinel://a/main?sentinel_user=us&sentinel_password=pw", "a:26379 ", "main", NULL, NULL, 0,
         "us", "pw"},
        {"redis+sentinel://a/main/2?", "a:26379 ", "main", NULL, NULL, 2, NULL, NULL},
        {"redis+sentinel://a/main/2?sentinel_password=", "a:26379 ", "main", NULL, NULL, 2, NULL, NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct redis_url u = {0};
        char places[200] = "";
        const char *wrong = redis_url_parse(rows[i].text, &u);

        if (wrong)
            fail_msg("%s: %s", rows[i].text, wrong);
        for (size_t n = 0; n < u.place_count; n++)
            snprintf(places + strlen(places), sizeof(places) - strlen(places), "%s:%d ", u.places[n].host,
                     u.places[n].port);
        assert_string_equal(places, rows[i].places);
        assert_string_equal(u.primary, rows[i].primary);
        assert_int_equal(u.db, rows[i].db);
        assert_string_equal(or_none(u.user), or_none(rows[i].user));
        assert_string_equal(or_none(u.password), or_none(rows[i].password));
        assert_string_equal(or_none(u.sentinel_user), or_none(rows[i].sentinel_user));
        assert_string_equal(or_none(u.sentinel_password), or_none(rows[i].sentinel_password));
        redis_url_done(&u);
    }
}

static void malformed_urls_are_refused_with_a_sentence(void **state)
{
    static const struct {
        const char *text, *part_of_sentence;
    } rows[] = {
        {"", "begin with redis://"},
        {"localhost:6379", "begin with redis://"},
        {"http://localhost", "begin with redis://"},
        {"redis:/localhost", "begin with redis://"},
        {"rediss://localhost", "TLS"},
        {"redis-sentinel://a/main", "redis+sentinel://"},
        {"rediss+sentinel://a/main", "TLS"},
        {"REDIS+SENTINEL://a", "names the primary"},
        {"redis+sentinel://a,b/", "names the primary"},
        {"redis+sentinel://a//0", "names the primary"},
        {"redis+sentinel:///main", "no host"},
        {"redis+sentinel://a,/main", "no host"},
        {"redis+sentinel://,a/main", "no host"},
        {"redis+sentinel://a:0/main", "port"},
        {"redis+sentinel://a:1;b:2/main", "port"},
        {"redis+sentinel://a/main/x", "database"},
        {"redis+sentinel://a/main/0/1", "database"},
        {"redis+sentinel://a/ma%/0", "hexadecimal"},
        {"redis+sentinel://pw@a/main", "without a password"},
        {"redis+sentinel://a/main#1", "options"},
        {"redis+sentinel://a/main?db=1", "only sentinel_password"},
        {"redis+sentinel://a/main?sentinel_password", "only sentinel_password"},
        {"redis+sentinel://a/main?sentinel_password=%0", "hexadecimal"},
        {"redis+sentinel://a/main?sentinel_password=1&sentinel_password=2", "twice"},
        {"redis+sentinel://a/main?sentinel_user=1", "without sentinel_password"},
        {"redis+sentinel://1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17/main", "more than 16"},
        {"redis://h?sentinel_password=1", "options"},
        {"unix:/run/redis.sock", "Unix socket"},
        {"redis://", "no host"},
        {"redis:///0", "no host"},
        {"redis://:6379", "no host"},
        {"redis://:pw@", "no host"},
        {"redis://[]:1", "no host"},
        {"redis://h:", "port"},
        {"redis://h:0", "port"},
        {"redis://h:65536", "port"},
        {"redis://h:99999999999", "port"},
        {"redis://h:63x", "port"},
        {"redis://h:-1", "port"},
        {"redis://h:1:2", "port"},
        {"redis://[::1]6379", "port"},
        {"redis://::1", "no host"},
        {"redis://fe80::1", "port"},
        {"redis://[::1", "no ']'"},
        {"redis://[localhost]", "IPv6"},
        {"redis://h/x", "database"},
        {"redis://h/-1", "database"},
        {"redis://h/0/1", "database"},
        {"redis://h/0/", "database"},
        {"redis://h/1234567890", "database"},
        {"redis://secret@h", "without a password"},
        {"redis://:%4@h", "hexadecimal"},
        {"redis://:%@h", "hexadecimal"},
        {"redis://:%zz@h", "hexadecimal"},
        {"redis://:a%00b@h", "%00"},
        {"redis://h?db=1", "options"},
        {"redis://h#1", "options"},
        {"redis://h h", "space"},
        {" redis://h", "begin with redis://"},
        {"redis://h\n", "space or a control"},
        {"redis://h,i", "character"},
        {"redis://h\xc3\xa4", "character"},
    };
    char long_host[300] = "redis://";

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *wrong = redis_url_check(rows[i].text);

        if (!wrong)
            fail_msg("accepted: %s", rows[i].text);
        if (!strstr(wrong, rows[i].part_of_sentence))
            fail_msg("%s: %s", rows[i].text, wrong);
    }
    memset(long_host + 8, 'a', 254);
    assert_non_null(strstr(redis_url_check(long_host), "longer"));
    long_host[8 + 253] = '\0';
    assert_null(redis_url_check(long_host));
}

static void error_texts_have_their_codes(void **state)
{
    static const struct {
        const char *text;
        int code;
    } rows[] = {
        {"LOADING Redis is loading the dataset in memory", ERR_REDIS_RETRY},
        {"BUSY Redis is busy running a script.", ERR_REDIS_RETRY},
        {"OOM command not allowed when used memory > 'maxmemory'.", ERR_REDIS_RETRY},
        {"OOM command not allowed when used memory > 'maxmemory'. script: 5a, on @user_script:1.",
         ERR_REDIS_RETRY},
        {"MASTERDOWN Link with MASTER is down", ERR_REDIS_RETRY},
        {"TRYAGAIN Multiple keys request during rehashing of slot", ERR_REDIS_RETRY},
        {"CLUSTERDOWN The cluster is down", ERR_REDIS_RETRY},
        {"MISCONF Redis is configured to save RDB snapshots", ERR_REDIS_RETRY},
        {"NOREPLICAS Not enough good replicas to write.", ERR_REDIS_RETRY},
        {"ERR max number of clients reached", ERR_REDIS_RETRY},
        {"READONLY You can't write against a read only replica.", ERR_REDIS_READONLY},
        {"NOSCRIPT No matching script.", ERR_REDIS_NOSCRIPT},
        {"NOAUTH Authentication required.", ERR_REDIS_AUTH},
        {"WRONGPASS invalid username-password pair or user is disabled.", ERR_REDIS_AUTH},
        {"NOPERM this user has no permissions to run the 'ping' command", ERR_REDIS_AUTH},
        {"WRONGTYPE Operation against a key holding the wrong kind of value", ERR_REDIS_WRONGTYPE},
        {"NOGROUP No such key 'k' or consumer group 'g'", ERR_REDIS_NOGROUP},
        {"BUSYGROUP Consumer Group name already exists", ERR_REDIS_REPLY},
        {"FENCED 4", ERR_REDIS_FENCED},
        {"FENCED", ERR_REDIS_FENCED},
        {"FENCEDX", ERR_REDIS_REPLY},
        {"HOLE 7", ERR_REDIS_HOLE},
        {"ERR syntax error", ERR_REDIS_REPLY},
        {"ERR user_script:1: OOM script: 5a, on @user_script:1.", ERR_REDIS_REPLY},
        {"ERR Error running script (call to f_5a): @user_script:1: WRONGTYPE Operation", ERR_REDIS_WRONGTYPE},
        {"ERR Error running script (call to f_5a): @user_script: 3: @user_script: 3: OOM command",
         ERR_REDIS_RETRY},
        {"ERR Error running script (call to f_5a): @user_script:1: user_script:1: x", ERR_REDIS_REPLY},
        {"ERR Error running script", ERR_REDIS_REPLY},
        {"ERR Error running script @user_script:", ERR_REDIS_REPLY},
        {"", ERR_REDIS_REPLY},
        {" OOM", ERR_REDIS_REPLY},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int code = redis_error_code(rows[i].text, strlen(rows[i].text));

        if (code != rows[i].code)
            fail_msg("\"%s\" is %d (%s)", rows[i].text, code, err_text(code));
    }
    /* The length counts, not a NUL. */
    assert_int_equal(redis_error_code("OOMXX", 3), ERR_REDIS_RETRY);
}

static void no_reply_reads_as_nil(void **state)
{
    size_t len = 5;

    (void)state;
    assert_int_equal(redis_reply_kind(NULL), REPLY_NIL);
    assert_null(redis_reply_str(NULL, &len));
    assert_int_equal(len, 0);
    assert_int_equal(redis_reply_int(NULL), 0);
    assert_int_equal(redis_reply_count(NULL), 0);
    assert_null(redis_reply_at(NULL, 0));
}

static void script_is_named_by_its_sha1(void **state)
{
    struct redis_script s;

    (void)state;
    redis_script_init(&s, "return 1");
    assert_string_equal(s.sha1, "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"); /* as SCRIPT LOAD says */
    assert_string_equal(s.text, "return 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(well_formed_urls_are_taken_apart),
        cmocka_unit_test(well_formed_sentinel_urls_are_taken_apart),
        cmocka_unit_test(malformed_urls_are_refused_with_a_sentence),
        cmocka_unit_test(error_texts_have_their_codes),
        cmocka_unit_test(no_reply_reads_as_nil),
        cmocka_unit_test(script_is_named_by_its_sha1),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
