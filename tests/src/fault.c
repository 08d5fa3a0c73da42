/* Makes system calls fail; tests/src/fault.rs preloads it into the program. Only files whose path begins with
   FAULT_PATH are affected. FAULT_READ_AT: reading this byte fails. FAULT_SLOW_READ: each read takes this many
   milliseconds. FAULT_WRITE_AFTER: the device is full after this
   many more bytes. FAULT_SYNC_AT: this sync, counted from 1, and all later ones fail. FAULT_SLOW_SYNC: each sync
   takes this many milliseconds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_llong written, syncs;

static int number(const char *name, long long *value) {
    const char *text = getenv(name);
    if (text) *value = atoll(text);
    return text != NULL;
}

static int concerned(int fd) {
    const char *prefix = getenv("FAULT_PATH");
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (!prefix || len < 0) return 0;
    path[len] = 0;
    return strncmp(path, prefix, strlen(prefix)) == 0;
}

ssize_t pread64(int fd, void *buf, size_t len, off64_t offset) {
    static ssize_t (*real)(int, void *, size_t, off64_t);
    if (!real) real = (ssize_t (*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
    long long at;
    if (number("FAULT_READ_AT", &at) && offset <= at && at < offset + (long long)len && concerned(fd)) {
        errno = EIO;
        return -1;
    }
    if (number("FAULT_SLOW_READ", &at) && concerned(fd)) usleep(at * 1000);
    return real(fd, buf, len, offset);
}

ssize_t write(int fd, const void *buf, size_t len) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    long long room;
    if (number("FAULT_WRITE_AFTER", &room) && concerned(fd)
        && atomic_fetch_add(&written, (long long)len) + (long long)len > room) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, buf, len);
}

static int sync_fails(int fd) {
    long long at;
    if (number("FAULT_SLOW_SYNC", &at) && concerned(fd)) usleep(at * 1000);
    return number("FAULT_SYNC_AT", &at) && concerned(fd) && atomic_fetch_add(&syncs, 1) + 1 >= at;
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (sync_fails(fd)) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}
