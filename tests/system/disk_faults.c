/* A disk that fails on demand: preloaded into a server, it stands between the program and the kernel for files below one directory.
 *
 * DISK_FAULTS names the control file, DISK_FAULTS_BELOW the directory. Each line of the control file is one rule:
 *
 *     CALL MODE FIRST LAST ARGUMENT        e.g.   sync eio 3 3 0      write stall 1 0 500
 *
 * CALL    sync (fsync, fdatasync), write (write, writev, and every pwrite), size (ftruncate, truncate)
 * MODE    eio, enospc   fail
 *         stall         wait ARGUMENT ms, then do it
 *         lie           say that it is done (sync, size)
 *         short         write half of it and say so
 *         torn          write half of it and fail with EIO
 * FIRST, LAST           which calls of this kind, counted from 1 since the control file was read; LAST 0: all from FIRST on
 *
 * The file is read again when it changes, and then the counting starts anew. Each fault is noted in the file DISK_FAULTS with
 * ".hits" behind its name: "CALL MODE NUMBER PATH".
 *
 * DISK_RECORD names a file that gets a record of every call below the directory that succeeded, in the order of their ends:
 *
 *     record  u64 call | u64 inode | u64 offset | u64 size | u64 records before the call began | the bytes (write)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum call { SYNC, WRITE, SIZE, CALLS };
enum mode { NONE, EIO_, ENOSPC_, STALL, LIE, SHORT, TORN };

struct rule {
    enum call call;
    enum mode mode;
    long first, last, argument;
};

#define RULES_MAX 16
#define SECTOR 512

static const char *const CALL_NAMES[] = {"sync", "write", "size"};
static const char *const MODE_NAMES[] = {"", "eio", "enospc", "stall", "lie", "short", "torn"};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rule rules[RULES_MAX];
static int rule_count;
static long counted[CALLS];
static long recorded;
static int record_fd = -1;
static struct timespec seen;
static ino_t seen_file;

static int index_of(const char *name, const char *const *names, int count) {
    for (int at = 0; at < count; at++)
        if (!strcmp(name, names[at])) return at;
    return -1;
}

/* Reads the control file if it is another one than before; the lock is held. stdio is safe: its own calls are not wrapped. */
static void read_rules(const char *path) {
    struct stat now;
    if (stat(path, &now)) {
        rule_count = 0;
        return;
    }
    if (now.st_ino == seen_file && now.st_mtim.tv_sec == seen.tv_sec && now.st_mtim.tv_nsec == seen.tv_nsec) return;
    seen = now.st_mtim;
    seen_file = now.st_ino;
    rule_count = 0;
    memset(counted, 0, sizeof counted);
    FILE *file = fopen(path, "re");
    if (!file) return;
    char call[16], mode[16];
    struct rule rule;
    while (rule_count < RULES_MAX
           && fscanf(file, "%15s %15s %ld %ld %ld", call, mode, &rule.first, &rule.last, &rule.argument) == 5) {
        rule.call = index_of(call, CALL_NAMES, CALLS);
        rule.mode = index_of(mode, MODE_NAMES, 7);
        rules[rule_count++] = rule;
    }
    fclose(file);
}

static int below(const char *path) {
    const char *root = getenv("DISK_FAULTS_BELOW");
    size_t length = root ? strlen(root) : 0;
    return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static void note(const char *control, const struct rule *rule, const char *path) {
    char name[PATH_MAX], line[PATH_MAX + 64];
    snprintf(name, sizeof name, "%s.hits", control);
    int length = snprintf(line, sizeof line, "%s %s %ld %s\n", CALL_NAMES[rule->call], MODE_NAMES[rule->mode],
                          counted[rule->call], path);
    int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    syscall(SYS_write, fd, line, (size_t)length);
    close(fd);
}

/* What is to happen with this call; counts it. A stall has happened when this returns. */
static enum mode decide(enum call call, const char *path) {
    const char *control = getenv("DISK_FAULTS");
    if (!control || !below(path)) return NONE;
    struct rule found = {call, NONE, 0, 0, 0};
    pthread_mutex_lock(&lock);
    read_rules(control);
    if (rule_count) {
        long number = ++counted[call];
        for (int at = 0; at < rule_count && found.mode == NONE; at++)
            if (rules[at].call == call && number >= rules[at].first && (!rules[at].last || number <= rules[at].last))
                found = rules[at];
        if (found.mode != NONE) note(control, &found, path);
    }
    pthread_mutex_unlock(&lock);
    if (found.mode == STALL) {
        struct timespec pause = {found.argument / 1000, found.argument % 1000 * 1000000};
        while (nanosleep(&pause, &pause) && errno == EINTR) {}
        return NONE;
    }
    return found.mode;
}

/* Below the directory? Then its path. */
static int path_of(int fd, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static long records_so_far(void) {
    pthread_mutex_lock(&lock);
    long count = recorded;
    pthread_mutex_unlock(&lock);
    return count;
}

static void record(enum call call, int fd, off_t offset, size_t size, long before, const struct iovec *parts, int count) {
    const char *name = getenv("DISK_RECORD");
    char path[PATH_MAX];
    struct stat file;
    if (!name || !path_of(fd, path) || fstat(fd, &file)) return;
    unsigned long long head[] = {call, file.st_ino, (unsigned long long)offset, size, (unsigned long long)before};
    pthread_mutex_lock(&lock);
    if (record_fd < 0) record_fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    syscall(SYS_write, record_fd, head, sizeof head);
    for (int at = 0; call == WRITE && at < count && size; at++) {
        size_t some = parts[at].iov_len < size ? parts[at].iov_len : size;
        syscall(SYS_write, record_fd, parts[at].iov_base, some);
        size -= some;
    }
    recorded++;
    pthread_mutex_unlock(&lock);
}

static enum mode decide_fd(enum call call, int fd) {
    char path[PATH_MAX];
    return getenv("DISK_FAULTS") && path_of(fd, path) ? decide(call, path) : NONE;
}

/* 1: the call is over and *result says how it ended. */
static int refused(enum mode mode, int *result) {
    *result = -1;
    if (mode == EIO_) errno = EIO;
    else if (mode == ENOSPC_) errno = ENOSPC;
    else if (mode == LIE) *result = 0;
    else return 0;
    return 1;
}

static int sync_as(const char *name, int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, name), result;
    if (refused(decide_fd(SYNC, fd), &result)) return result;
    long before = records_so_far();
    result = real(fd);
    if (!result) record(SYNC, fd, 0, 0, before, NULL, 0);
    return result;
}

int fsync(int fd) { return sync_as("fsync", fd); }
int fdatasync(int fd) { return sync_as("fdatasync", fd); }

static size_t half(size_t size) { return size / 2 / SECTOR * SECTOR; }

static size_t size_of(const struct iovec *parts, int count) {
    size_t size = 0;
    for (int at = 0; at < count; at++) size += parts[at].iov_len;
    return size;
}

/* At ``offset``, or where the file stands (-1). */
static ssize_t write_parts(int fd, const struct iovec *parts, int count, off_t offset) {
    ssize_t (*positioned)(int, const struct iovec *, int, off_t) = dlsym(RTLD_NEXT, "pwritev");
    ssize_t (*plain)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "writev");
    off_t at = offset < 0 ? lseek(fd, 0, SEEK_CUR) : offset;
    ssize_t written = offset < 0 ? plain(fd, parts, count) : positioned(fd, parts, count, offset);
    if (written > 0) record(WRITE, fd, at, (size_t)written, 0, parts, count);
    return written;
}

static ssize_t write_as(int fd, const struct iovec *parts, int count, off_t offset) {
    int result;
    enum mode mode = decide_fd(WRITE, fd);
    if (refused(mode, &result)) return result;
    if (mode != SHORT && mode != TORN) return write_parts(fd, parts, count, offset);
    size_t left = half(size_of(parts, count));
    if (mode == SHORT && !left) return write_parts(fd, parts, count, offset); /* too little to be cut */
    struct iovec some[IOV_MAX];
    int used = 0;
    for (; used < count && left; used++) {
        some[used] = parts[used];
        if (some[used].iov_len > left) some[used].iov_len = left;
        left -= some[used].iov_len;
    }
    ssize_t written = used ? write_parts(fd, some, used, offset) : 0;
    if (mode == SHORT) return written;
    errno = EIO;
    return -1;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return write_as(fd, parts, count, offset); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) { return write_as(fd, parts, count, offset); }
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    (void)flags;
    return write_as(fd, parts, count, offset);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    return pwritev2(fd, parts, count, offset, flags);
}
ssize_t writev(int fd, const struct iovec *parts, int count) { return write_as(fd, parts, count, -1); }

static ssize_t write_one(int fd, const void *bytes, size_t size, off_t offset) {
    struct iovec part = {(void *)bytes, size};
    return write_as(fd, &part, 1, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return write_one(fd, bytes, size, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) { return write_one(fd, bytes, size, offset); }
ssize_t write(int fd, const void *bytes, size_t size) { return write_one(fd, bytes, size, -1); }

int ftruncate(int fd, off_t size) {
    int (*real)(int, off_t) = dlsym(RTLD_NEXT, "ftruncate"), result;
    return refused(decide_fd(SIZE, fd), &result) ? result : real(fd, size);
}
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int truncate(const char *path, off_t size) {
    int (*real)(const char *, off_t) = dlsym(RTLD_NEXT, "truncate"), result;
    char whole[PATH_MAX];
    if (!realpath(path, whole)) return real(path, size);
    return refused(decide(SIZE, whole), &result) ? result : real(path, size);
}
int truncate64(const char *path, off64_t size) { return truncate(path, size); }
