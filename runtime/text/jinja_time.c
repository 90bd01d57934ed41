/* jinja_time.c - strftime_now(format): local time, C locale.
 *
 * Written out instead of handed to strftime(3): its field widths ("%99999999d") and its behaviour on unknown codes differ
 * between libraries, and the format comes from a file. The flags - _ 0 ^ # of glibc work; what is no code is copied. */
#include <stdio.h>
#include <time.h>

#include "text/jinja.h"

static const char *const days[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                     "July",    "August",   "September", "October", "November", "December"};

/* ISO 8601: weeks begin on Monday, week 1 has the year's first Thursday. */
static int iso_week(const struct tm *t, int *year)
{
    int weekday = (t->tm_wday + 6) % 7, week = (t->tm_yday - weekday + 10) / 7;
    *year = t->tm_year + 1900;
    if (week < 1) {
        --*year;
        bool leap = (*year % 4 == 0 && *year % 100 != 0) || *year % 400 == 0;
        week = (t->tm_yday + 365 + leap - weekday + 10) / 7;
    } else if (week == 53) {
        bool leap = (*year % 4 == 0 && *year % 100 != 0) || *year % 400 == 0;
        if (t->tm_yday - weekday + 3 >= 365 + leap) {
            week = 1;
            ++*year;
        }
    }
    return week;
}

static bool put_number(kv_jbuild *b, int value, int width, char pad, char flag)
{
    char buf[24];
    if (flag == '-') width = 0;
    if (flag == '_') pad = ' ';
    if (flag == '0') pad = '0';
    snprintf(buf, sizeof buf, pad == '0' ? "%0*d" : "%*d", width, value);
    return kv_jbuild_text(b, buf);
}

static bool put_name(kv_jbuild *b, const char *name, size_t len, char flag)
{
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        if (flag == '^' || flag == '#') c = (char)(c >= 'a' && c <= 'z' ? c - 32 : c);
        if (!kv_jbuild_put(b, &c, 1)) return false;
    }
    return true;
}

static bool put_format(kv_jbuild *b, const char *fmt, size_t len, const struct tm *t, int64_t now);

static bool put_code(kv_jbuild *b, char code, char flag, const struct tm *t, int64_t now)
{
    int hour12 = t->tm_hour % 12 ? t->tm_hour % 12 : 12, year;
    const char *sub = NULL;
    switch (code) {
    case 'a':
        return put_name(b, days[t->tm_wday], 3, flag);
    case 'A':
        return put_name(b, days[t->tm_wday], strlen(days[t->tm_wday]), flag);
    case 'b':
    case 'h':
        return put_name(b, months[t->tm_mon], 3, flag);
    case 'B':
        return put_name(b, months[t->tm_mon], strlen(months[t->tm_mon]), flag);
    case 'p':
        if (flag == '#') return kv_jbuild_text(b, t->tm_hour < 12 ? "am" : "pm");
        return kv_jbuild_text(b, t->tm_hour < 12 ? "AM" : "PM");
    case 'P':
        return kv_jbuild_text(b, t->tm_hour < 12 ? "am" : "pm");
    case 'c':
        sub = "%a %b %e %H:%M:%S %Y";
        break;
    case 'D':
    case 'x':
        sub = "%m/%d/%y";
        break;
    case 'F':
        sub = "%Y-%m-%d";
        break;
    case 'T':
    case 'X':
        sub = "%H:%M:%S";
        break;
    case 'R':
        sub = "%H:%M";
        break;
    case 'r':
        sub = "%I:%M:%S %p";
        break;
    case 'd':
        return put_number(b, t->tm_mday, 2, '0', flag);
    case 'e':
        return put_number(b, t->tm_mday, 2, ' ', flag);
    case 'H':
        return put_number(b, t->tm_hour, 2, '0', flag);
    case 'k':
        return put_number(b, t->tm_hour, 2, ' ', flag);
    case 'I':
        return put_number(b, hour12, 2, '0', flag);
    case 'l':
        return put_number(b, hour12, 2, ' ', flag);
    case 'j':
        return put_number(b, t->tm_yday + 1, 3, '0', flag);
    case 'm':
        return put_number(b, t->tm_mon + 1, 2, '0', flag);
    case 'M':
        return put_number(b, t->tm_min, 2, '0', flag);
    case 'S':
        return put_number(b, t->tm_sec, 2, '0', flag);
    case 'f':
        return kv_jbuild_text(b, "000000");
    case 'y':
        return put_number(b, (t->tm_year % 100 + 100) % 100, 2, '0', flag);
    case 'Y':
        return put_number(b, t->tm_year + 1900, 0, '0', flag);
    case 'C':
        return put_number(b, (t->tm_year + 1900) / 100, 2, '0', flag);
    case 'u':
        return put_number(b, t->tm_wday ? t->tm_wday : 7, 1, '0', flag);
    case 'w':
        return put_number(b, t->tm_wday, 1, '0', flag);
    case 'U':
        return put_number(b, (t->tm_yday + 7 - t->tm_wday) / 7, 2, '0', flag);
    case 'W':
        return put_number(b, (t->tm_yday + 7 - (t->tm_wday + 6) % 7) / 7, 2, '0', flag);
    case 'V':
        return put_number(b, iso_week(t, &year), 2, '0', flag);
    case 'G':
        iso_week(t, &year);
        return put_number(b, year, 4, '0', flag);
    case 'g':
        iso_week(t, &year);
        return put_number(b, year % 100, 2, '0', flag);
    case 's': {
        char buf[24];
        snprintf(buf, sizeof buf, "%lld", (long long)now);
        return kv_jbuild_text(b, buf);
    }
    case 'n':
        return kv_jbuild_put(b, "\n", 1);
    case 't':
        return kv_jbuild_put(b, "\t", 1);
    case 'z':
    case 'Z':
        return true; /* datetime.now() knows no zone */
    case '%':
        return kv_jbuild_put(b, "%", 1);
    default: {
        char raw[3] = {'%', flag ? flag : code, code};
        return kv_jbuild_put(b, raw, flag ? 3 : 2);
    }
    }
    return put_format(b, sub, strlen(sub), t, now);
}

static bool put_format(kv_jbuild *b, const char *fmt, size_t len, const struct tm *t, int64_t now)
{
    for (size_t i = 0; i < len; i++) {
        if (fmt[i] != '%' || i + 1 >= len) {
            if (!kv_jbuild_put(b, fmt + i, 1)) return false;
            continue;
        }
        char flag = '\0', code = fmt[++i];
        if (strchr("-_0^#", code) && code && i + 1 < len) {
            flag = code;
            code = fmt[++i];
        }
        if ((unsigned char)code >= 0x80 || code == '\0') { /* never cut a character in two */
            i--;
            if (!kv_jbuild_put(b, "%", 1)) return false;
            continue;
        }
        if (!put_code(b, code, flag, t, now)) return false;
    }
    return true;
}

bool kv_jstrftime(kv_jctx *ctx, const kv_jstr *fmt, kv_jval *out)
{
    kv_jbuild b = {.ctx = ctx};
    struct tm t;
    time_t when = (time_t)ctx->now;
    if (!localtime_r(&when, &t)) return kv_jfail(ctx, "the current time has no calendar date");
    return kv_jpay(ctx, 1 + fmt->len / 8) && put_format(&b, fmt->data, fmt->len, &t, ctx->now) &&
           kv_jbuild_done(&b, out);
}
