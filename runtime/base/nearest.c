/* nearest.c - see nearest.h. */
#include "base/nearest.h"

enum { CAP = 32 }; /* longer words are no typing errors of ours */

static int distance(kv_str a, kv_str b)
{
    int d[CAP][CAP];
    if (a.len >= CAP || b.len >= CAP) return CAP;
    for (size_t i = 0; i <= a.len; i++) d[i][0] = (int)i;
    for (size_t j = 0; j <= b.len; j++) d[0][j] = (int)j;
    for (size_t i = 1; i <= a.len; i++)
        for (size_t j = 1; j <= b.len; j++) {
            const char *x = a.data + i - 1, *y = b.data + j - 1;
            int best = d[i - 1][j - 1] + (*x != *y);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && x[0] == y[-1] && x[-1] == y[0] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[a.len][b.len];
}

const char *kv_nearest_name(kv_str word, const char *const *names, int n)
{
    const char *best = NULL;
    int best_distance = (int)kv_min_size(word.len, CAP) / 3 + 2;
    for (int i = 0; i < n; i++) {
        const kv_str name = kv_str_from(names[i]);
        const bool begins = word.len >= 3 && word.len < name.len && memcmp(word.data, name.data, word.len) == 0;
        const int far = begins ? 0 : distance(word, name);
        if (far < best_distance) best = names[i], best_distance = far;
    }
    return best;
}
