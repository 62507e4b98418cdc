/* Allocations that fail: FAIL_ALLOCATION="FIRST COUNT" makes COUNT of them return nothing, beginning with the FIRST-th of the process.
   cc -shared -fPIC -O2 -o fail_allocation.so fail_allocation.c -ldl; LD_PRELOAD=... */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

static unsigned long long first, count;
static _Atomic unsigned long long seen;

__attribute__((constructor)) static void read_settings(void) {
    const char *settings = getenv("FAIL_ALLOCATION");
    if (!settings || sscanf(settings, "%llu %llu", &first, &count) != 2)
        first = count = 0;
}

static int fails(void) {
    unsigned long long number = atomic_fetch_add(&seen, 1) + 1;
    if (!first || number < first || number - first >= count)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void *calloc(size_t number, size_t size) { return fails() ? NULL : __libc_calloc(number, size); }
void *realloc(void *old, size_t size) { return fails() ? NULL : __libc_realloc(old, size); }
