/* Between a program and its C library: notes every call that changes files below $CALLS_ROOT in $CALLS_LOG, or lets
 * the n-th one fail. Built and preloaded by shim.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)
#define FDS 4096

static char *names[FDS];
static int appends[FDS];
static int fail_at = -1, fail_errno, fail_always, calls, log_fd = -2;

void calls_fail(int at, int error, int always) { fail_at = at; fail_errno = error; fail_always = always; calls = 0; }
int calls_made(void) { return calls; }

static const char *below_root(const char *path) {
    const char *root = getenv("CALLS_ROOT");
    size_t n = root ? strlen(root) : 0;
    return n && !strncmp(path, root, n) && !strstr(path, "-shm") ? path : NULL;
}

static const char *name_of(int fd) { return fd >= 0 && fd < FDS ? names[fd] : NULL; }

static void put(const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    while (size > 0) {
        ssize_t done = real(log_fd, data, size);
        if (done <= 0) abort();
        data = (const char *)data + done;
        size -= done;
    }
}

static void note(char kind, const char *path, int64_t number, const void *data, uint32_t size) {
    if (log_fd == -2) {
        REAL(int, open, const char *, int, ...);
        const char *log = getenv("CALLS_LOG");
        log_fd = log ? real(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    }
    if (log_fd < 0) return;
    uint32_t length = strlen(path);
    put(&kind, 1); put(&length, 4); put(path, length); put(&number, 8); put(&size, 4);
    if (size) put(data, size);
}

static int fails(const char *path) {
    if (!path || fail_at < 0) return 0;
    calls++;
    if (calls != fail_at && !(fail_always && calls > fail_at)) return 0;
    errno = fail_errno;
    return 1;
}

static int opened(int fd, const char *path, int flags, int is_new) {
    if (fd >= 0 && fd < FDS) {
        free(names[fd]);
        names[fd] = below_root(path) ? strdup(path) : NULL;
        appends[fd] = !!(flags & O_APPEND);
        if (names[fd] && is_new) note('c', path, 0, NULL, 0);
        if (names[fd] && !is_new && (flags & O_TRUNC)) note('t', path, 0, NULL, 0);
    }
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, int); va_end(list); \
        int is_new = (flags & O_CREAT) && access(path, F_OK) != 0, error = errno; \
        int fd = real(path, flags, mode); \
        if (fd >= 0) errno = error; \
        return opened(fd, path, flags, is_new); \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    REAL(int, close, int);
    if (fd >= 0 && fd < FDS) { free(names[fd]); names[fd] = NULL; }
    return real(fd);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (fails(name_of(fd))) return -1;
    int64_t at = name_of(fd) ? (appends[fd] ? -1 : lseek(fd, 0, SEEK_CUR)) : 0;
    ssize_t done = real(fd, data, size);
    if (done > 0 && name_of(fd)) note('w', names[fd], at, data, done);
    return done;
}

#define PWRITE(name, offset) \
    ssize_t name(int fd, const void *data, size_t size, offset at) { \
        REAL(ssize_t, name, int, const void *, size_t, offset); \
        if (fails(name_of(fd))) return -1; \
        ssize_t done = real(fd, data, size, at); \
        if (done > 0 && name_of(fd)) note('w', names[fd], at, data, done); \
        return done; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define TRUNCATE(name, offset) \
    int name(int fd, offset size) { \
        REAL(int, name, int, offset); \
        if (fails(name_of(fd))) return -1; \
        int done = real(fd, size); \
        if (done == 0 && name_of(fd)) note('t', names[fd], size, NULL, 0); \
        return done; \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name) \
    int name(int fd) { \
        REAL(int, name, int); \
        if (fails(name_of(fd))) return -1; \
        int done = real(fd); \
        if (done == 0 && name_of(fd)) note('s', names[fd], 0, NULL, 0); \
        return done; \
    }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    if (fails(below_root(path))) return -1;
    int done = real(path);
    if (done == 0 && below_root(path)) note('u', path, 0, NULL, 0);
    return done;
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    int done = real(path, mode);
    if (done == 0 && below_root(path)) note('m', path, 0, NULL, 0);
    return done;
}

#define READ(name, offset) \
    ssize_t name(int fd, void *data, size_t size, offset at) { \
        REAL(ssize_t, name, int, void *, size_t, offset); \
        if (getenv("CALLS_READS") && fails(name_of(fd))) return -1; \
        return real(fd, data, size, at); \
    }
READ(pread, off_t)
READ(pread64, off64_t)

ssize_t read(int fd, void *data, size_t size) {
    REAL(ssize_t, read, int, void *, size_t);
    if (getenv("CALLS_READS") && fails(name_of(fd))) return -1;
    return real(fd, data, size);
}
