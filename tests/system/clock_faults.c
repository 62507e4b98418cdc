/* Clocks that go wrong on demand: preloaded into a server.
 *
 * CLOCK_FAULTS names a file of two doubles, which is mapped: seconds that the wall clock is ahead, and how fast CLOCK_BOOTTIME goes
 * (1.05: five per cent fast, from the first call on). Timeouts of the kernel stay true: only what the program reads is wrong.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NANO 1000000000.0

struct settings {
    double ahead_s, rate;
};

static int (*real_clock)(clockid_t, struct timespec *);
static const volatile struct settings *settings;
static double first_s; /* of CLOCK_BOOTTIME */

static double seconds(const struct timespec *at) { return (double)at->tv_sec + (double)at->tv_nsec / NANO; }

static void set(struct timespec *at, double to_s) {
    at->tv_sec = (time_t)to_s;
    at->tv_nsec = (long)((to_s - (double)at->tv_sec) * NANO);
}

__attribute__((constructor)) static void begin(void) {
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    const char *name = getenv("CLOCK_FAULTS");
    int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof *settings, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    struct timespec now;
    real_clock(CLOCK_BOOTTIME, &now);
    first_s = seconds(&now);
    if (map != MAP_FAILED) settings = map;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    if (!real_clock) real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock(clock, at);
    if (result || !settings) return result;
    if (clock == CLOCK_REALTIME) set(at, seconds(at) + settings->ahead_s);
    if (clock == CLOCK_BOOTTIME) set(at, first_s + (seconds(at) - first_s) * settings->rate);
    return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
